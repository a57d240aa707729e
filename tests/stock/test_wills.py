"""Wills of stock clients: a message to the address in their topic, when the device is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.stock.door import Door, fresh, uplink
from tests.stock.programs import Message, Program, Script, Will, publish, subscriber
from tests.stock.steps import PROGRAMS, Steps
from tests.support.raw import RawClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

DELAY = 3


class Watcher(RawClient):
    """Who the wills are for."""

    def __init__(self) -> None:
        super().__init__(fresh("watcher"))
        self._told: list[str] = []

    async def told(self) -> str:
        """The body of the next message."""
        while not self._told:
            self._told += [str(m["body"]) for m in await self.step()]
        return self._told.pop(0)


@pytest_asyncio.fixture(loop_scope="session")
async def watcher(door: Door) -> AsyncIterator[Watcher]:
    bot = Watcher()
    await bot.connect(door.gateway.ws, door.gateway.token(bot.client))
    try:
        yield bot
    finally:
        await bot.drop()


async def test_a_device_that_is_killed(door: Door, program: Program, version: int, watcher: Watcher) -> None:
    client = await door.device("device")
    will = Will(topic=uplink(client, watcher.client), payload='"gone"')
    options = door.subscribed(version, client, will=will)
    async with subscriber(program, options) as device:
        await device.event("subscribed")
    assert await watcher.told() == "gone"
    (message,) = watcher.processed.values()
    assert message["from"] == client


async def test_a_device_that_takes_its_leave(
    door: Door, program: Program, version: int, watcher: Watcher
) -> None:
    client = await door.device("device")
    will = Will(topic=uplink(client, watcher.client), payload='"gone"')
    options = door.subscribed(version, client, will=will)
    # mosquitto_sub goes after one message
    async with subscriber(program, options, "-C", "1") as device:
        await device.event("subscribed")
        await door.presence(client, "online")
        await door.delivered(await door.numbered(client, range(1)))
        if isinstance(device, Script):
            device.disconnect()
        await door.presence(client, "offline")
        # what the client says next comes behind its will
        after = Message(topic=will.topic, payload=b'"afterwards"')
        await publish("mosquitto", door.options(version, client), after)
        assert await watcher.told() == "afterwards"


async def test_a_leave_that_wants_its_will(door: Door, program: Program, watcher: Watcher) -> None:
    """DISCONNECT 0x04 of MQTT 5."""
    client = await door.device("device")
    will = Will(topic=uplink(client, watcher.client), payload='"gone"')
    async with subscriber(program, door.subscribed(5, client, will=will)) as device:
        await device.event("subscribed")
        if isinstance(device, Script):
            device.disconnect(0x04)
        else:
            # how mosquitto_sub answers a SIGTERM
            device.signal(signal.SIGTERM)
        assert await watcher.told() == "gone"


@pytest.mark.parametrize("door", ["endpoint"], indirect=True)
async def test_a_delayed_will_is_void_when_the_device_is_back_in_time(door: Door, watcher: Watcher) -> None:
    """MQTT 5. The wills of devices that go after the others are back tell when the delay of these is over."""

    async def comes_back(program: Program) -> None:
        client = await door.device(program)
        will = Will(topic=uplink(client, watcher.client), payload=f'"{program} back"', delay=DELAY)
        async with door.proxy() as proxy:
            options = door.subscribed(5, client, will=will, port=proxy.port)
            async with subscriber(program, options) as device:
                await device.event("subscribed")
                await steps.reached()
                proxy.cut()
                await device.event("connected")
                await device.event("connected")
                assert proxy.present == [False, True]
                await steps.reached()
                await steps.reached()

    async def goes(program: Program) -> None:
        client = await door.device(program)
        will = Will(topic=uplink(client, watcher.client), payload=f'"{program} gone"', delay=DELAY)
        async with subscriber(program, door.subscribed(5, client, will=will)) as device:
            await device.event("subscribed")
            await steps.reached()
            await steps.reached()
        await steps.reached()

    steps = Steps(2 * len(PROGRAMS))
    async with asyncio.TaskGroup() as tasks:
        for program in PROGRAMS:
            tasks.create_task(comes_back(program))
            tasks.create_task(goes(program))
        await steps.reached()
        await steps.reached()
        assert {await watcher.told() for _ in PROGRAMS} == {f"{p} gone" for p in PROGRAMS}
        await steps.reached()
