"""The offline deadline of devices: gone, their messages go by webhook; back in time, they do not.

Behind a broker its log tells who is there. What is at the webhook then is in the broker's queue as well.
"""

import asyncio

import pytest

from tests.stock.door import Behind, Door, Endpoint, body
from tests.stock.programs import Program, all_of, subscriber
from tests.stock.steps import KINDS, Steps
from tests.support.hook import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="session")

RECORD = {"offline_deadline": 3, "fallback": ["hook"]}


async def test_gone_and_back_in_time(endpoint: Endpoint, behind: Behind, receiver: Receiver) -> None:
    """Two devices of every kind are cut off, first the one that comes back. When the messages of the other one have
    been handed over, that one's deadline would be over too; and not all of its messages are acked then.
    """

    async def back(door: Door, program: Program, version: int) -> list[str]:
        client = await door.device("back", **RECORD)
        async with (
            door.proxy() as proxy,
            subscriber(program, door.subscribed(version, client, port=proxy.port)) as device,
        ):
            await device.event("subscribed")
            await door.presence(client, "online")
            await backs.reached()
            proxy.cut()
            acked = await door.numbered(client, range(3))
            got = await all_of(device, "message", 3)
            assert [body(m) for m in got] == [0, 1, 2]
            await door.delivered(acked)
            proxy.mute()
            held = await door.numbered(client, range(3, 5))
            await all_of(device, "message", 2)
            await backs.reached()
            await backs.reached()
            for id in held:
                assert (await door.get(f"/v1/messages/{id}"))["status"] == "sent"
        return acked + held

    async def gone(door: Door, program: Program, version: int) -> list[str]:
        client = await door.device("gone", **RECORD)
        async with subscriber(program, door.subscribed(version, client)) as device:
            await device.event("subscribed")
            await door.presence(client, "online")
            await gones.reached()
            await gones.reached()
        await door.presence(client, "offline")
        ids = await door.numbered(client, range(3))
        for id in ids:
            message = await door.message(id, "provider_delivered")
            assert message["via"] == "hook"
        return ids

    kinds = [(door, *kind) for door in (endpoint, behind) for kind in KINDS]
    backs, gones = Steps(len(kinds)), Steps(len(kinds))
    async with asyncio.TaskGroup() as tasks:
        leaving = [tasks.create_task(gone(*each)) for each in kinds]
        await gones.reached()
        returning = [tasks.create_task(back(*each)) for each in kinds]
        await backs.reached()
        # they are back
        await backs.reached()
        await gones.reached()
        handed = [id for task in leaving for id in await task]
        await backs.reached()
    kept = [id for task in returning for id in task.result()]
    assert set(receiver.arrived) >= set(handed)
    assert not set(receiver.attempts) & set(kept)
    assert receiver.bad_signatures == 0
