"""A server that listens, over a hub double. `hub` is the one fixture to replace where the real hub is to stand in."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from gateway.api import ApiServer
from gateway.auth import Authenticator
from gateway.clock import SystemClock
from gateway.config import ApiKey, Auth, Config, Http, Limits
from tests.api.double import HubDouble
from tests.api.support import ADMIN, READER, SENDER, Caller, Raw, serving


@pytest.fixture
def config() -> Config:
    return Config(
        http=Http(listen="127.0.0.1:0", max_body_bytes=65536, max_header_bytes=4096),
        auth=Auth(
            jwt_secret="0123456789abcdef0123456789abcdef",
            api_keys=(
                ApiKey(id="backend", secret=ADMIN.partition(".")[2], scopes=("admin",)),
                ApiKey(id="reader", secret=READER.partition(".")[2], scopes=("read",)),
                ApiKey(id="sender", secret=SENDER.partition(".")[2], scopes=("publish",)),
            ),
        ),
        limits=Limits(
            max_payload=1024, batch=600, ndjson_line_bytes=2048, ndjson_unread=500, sse_clients=2, sse_ring=8
        ),
    )


@pytest.fixture
async def hub(config: Config) -> HubDouble:
    return HubDouble(config)


@pytest.fixture
def authenticator(config: Config) -> Authenticator:
    return Authenticator(config.auth, SystemClock(), lambda _client: 0)


@pytest.fixture
async def server(hub: HubDouble, authenticator: Authenticator, config: Config) -> AsyncIterator[ApiServer]:
    async with serving(hub, authenticator, config) as server:
        yield server


@pytest.fixture
async def as_key(server: ApiServer) -> AsyncIterator[Callable[[str | None], Caller]]:
    """Callers by credential."""
    async with aiohttp.ClientSession() as session:
        yield lambda credential: Caller(session, f"http://127.0.0.1:{server.port}", credential)


@pytest.fixture
def api(as_key: Callable[[str | None], Caller]) -> Caller:
    """A caller with every scope."""
    return as_key(ADMIN)


@pytest.fixture
def token(authenticator: Authenticator) -> Callable[..., str]:
    """Tokens of clients."""
    return lambda client, ttl=60.0, **claims: authenticator.mint(client, ttl, claims)


@pytest.fixture
def as_client(as_key: Callable[[str | None], Caller], token: Callable[..., str]) -> Callable[..., Caller]:
    """Callers by client id, with a token."""
    return lambda client, **claims: as_key(token(client, **claims))


@pytest.fixture
async def raw(server: ApiServer) -> AsyncIterator[Callable[..., Any]]:
    """Opens raw connections, closed behind the test. `narrow`: the kernel takes little of what is not read."""
    opened: list[asyncio.StreamWriter] = []

    async def connect(*, narrow: bool = False) -> Raw:
        sock = socket.socket()
        sock.setblocking(False)
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 22)
        opened.append(writer)
        return Raw(reader, writer)

    yield connect
    for writer in opened:
        writer.close()
