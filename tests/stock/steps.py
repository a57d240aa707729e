"""Devices of every kind, side by side: what takes its time is waited for once."""

import asyncio
from typing import Final

from tests.stock.programs import Program

PROGRAMS: Final[tuple[Program, ...]] = ("mosquitto", "paho", "mqttjs")
VERSIONS: Final = (4, 5)
KINDS: Final = [(program, version) for program in PROGRAMS for version in VERSIONS]


class Steps:
    """Places where `count` devices wait for each other and for the test."""

    def __init__(self, count: int) -> None:
        self._barrier = asyncio.Barrier(count + 1)

    async def reached(self) -> None:
        """Everybody is here."""
        async with asyncio.timeout(60):
            await self._barrier.wait()
