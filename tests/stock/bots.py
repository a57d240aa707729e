"""Who gets what devices publish: bots on a WebSocket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.stock.door import Door, fresh
from tests.stock.programs import Program
from tests.support.process import GatewayProcess
from tests.support.raw import RawClient


@asynccontextmanager
async def a_bot(door: Door) -> AsyncIterator[RawClient]:
    bot = RawClient(fresh("bot"))
    await bot.connect(door.gateway.ws, door.gateway.token(bot.client), window=1024)
    try:
        yield bot
    finally:
        await bot.drop()


async def take(bot: RawClient, count: int) -> list[dict[str, Any]]:
    """The next so many messages, acked."""
    got: list[dict[str, Any]] = []
    while len(got) < count:
        got += await bot.step()
        await bot.ack()
    assert len(got) == count
    return got


class Ledger:
    """What a bot got of numbered messages."""

    def __init__(self) -> None:
        self.bot = RawClient(fresh("bot"))
        self.first: list[int] = []  # in the order of their first arrival
        self.again: list[dict[str, Any]] = []  # all others

    async def open(self, gateway: GatewayProcess) -> None:
        """Connect, as often as wanted."""
        await self.bot.connect(gateway.ws, gateway.token(self.bot.client), window=1024)

    async def until(self, last: int) -> None:
        """Read on until `last` has come."""
        while last not in self.first:
            for message in await self.bot.step():
                if message["body"]["n"] in self.first:
                    self.again.append(message)
                else:
                    self.first.append(message["body"]["n"])
            await self.bot.ack()

    def check(self, program: Program, count: int) -> None:
        assert self.first == list(range(count))
        for message in self.again:
            # MQTT.js publishes again without DUP: a message that must not come twice needs a `key` there
            assert program == "mqttjs" or message.get("possible_dup"), message
