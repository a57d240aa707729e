"""`hub` is the one fixture to replace where the real hub is to stand in."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.config import Config, Limits, Session, Websocket
from tests.transports.double import HubDouble, ManualScheduler, Tokens
from tests.transports.rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def config() -> Config:
    return Config(
        websocket=Websocket(
            listen="127.0.0.1:0",
            origins=("https://app.example",),
            hello_timeout=5.0,
            stall_timeout=10.0,
            buffer_limit=65536,
            max_connections=50,
        ),
        session=Session(heartbeat=20.0),
        limits=Limits(max_payload=4096, max_frame_bytes=16384, batch=50, publish_burst=50),
    )


@pytest.fixture
async def hub() -> HubDouble:
    return HubDouble(ManualScheduler())


@pytest.fixture
async def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
async def make_rig(hub: HubDouble, tokens: Tokens, config: Config) -> MakeRig:
    """A rig whose websocket table is changed."""

    def make(**websocket: Any) -> Rig:
        return Rig(hub, tokens, config, **websocket)

    return make


@pytest.fixture
async def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
