from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.transports.mqtt.broker.rig import PAUSE, Broker, Gateway, gateway_behind, mosquitto_in


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with mosquitto_in(tmp_path) as one:
        yield one


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[Gateway]:
    async with gateway_behind(broker) as one:
        yield one


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Links try again soon, but not so soon that a test cannot see that they were away. What they would have waited is
    drawn from these: base, cap, attempt.
    """
    asked: list[tuple[int, int, int]] = []

    def pause(rng: Any, base_ms: int, cap_ms: int, attempt: int) -> int:
        asked.append((base_ms, cap_ms, attempt))
        return PAUSE

    monkeypatch.setattr("gateway.transports.mqtt.broker.link.full_jitter", pause)
    return asked
