"""The offline deadline of devices: gone, their messages go by webhook; back in time, they do not."""

import asyncio
from pathlib import Path

import pytest

from tests.stock.door import Endpoint, body, fresh
from tests.stock.programs import Program, all_of, subscriber
from tests.stock.steps import KINDS, Steps
from tests.support.hook import SECRET, Receiver
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIG = """
[session]
offline_deadline = 3
ack_wait = 60
[routes]
default = ["hook"]
[channels.hook]
kind = "webhook"
url = "{url}"
secret = "{secret}"
allow_private = true
"""


async def test_gone_and_back_in_time(tmp_path: Path) -> None:
    """Two devices of every kind are cut off, first the one that comes back. When the messages of the other one have
    been handed over, that one's deadline would be over too; and not all of its messages are acked then.
    """
    backs, gones = Steps(len(KINDS)), Steps(len(KINDS))

    async def back(program: Program, version: int) -> list[str]:
        client = fresh("back")
        async with (
            endpoint.proxy() as proxy,
            subscriber(program, endpoint.subscribed(version, client, port=proxy.port)) as device,
        ):
            await device.event("subscribed")
            await backs.reached()
            proxy.cut()
            acked = await endpoint.numbered(client, range(3))
            got = await all_of(device, "message", 3)
            assert [body(m) for m in got] == [0, 1, 2]
            await endpoint.delivered(acked)
            proxy.mute()
            held = await endpoint.numbered(client, range(3, 5))
            await all_of(device, "message", 2)
            await backs.reached()
            await backs.reached()
            for id in held:
                assert (await endpoint.get(f"/v1/messages/{id}"))["status"] == "sent"
        return acked + held

    async def gone(program: Program, version: int) -> list[str]:
        client = fresh("gone")
        async with subscriber(program, endpoint.subscribed(version, client)) as device:
            await device.event("subscribed")
            await gones.reached()
        await endpoint.presence(client, "offline")
        ids = await endpoint.numbered(client, range(3))
        for id in ids:
            message = await endpoint.message(id, "provider_delivered")
            assert message["via"] == "hook"
        return ids

    async with (
        Receiver(lambda _data, _n: 204) as receiver,
        GatewayProcess(tmp_path, CONFIG.format(url=receiver.url, secret=SECRET)) as gateway,
        gateway.http() as http,
    ):
        endpoint = Endpoint(gateway, http)
        async with asyncio.TaskGroup() as tasks:
            returning = [tasks.create_task(back(*each)) for each in KINDS]
            leaving = [tasks.create_task(gone(*each)) for each in KINDS]
            await backs.reached()
            # they are back
            await backs.reached()
            await gones.reached()
            handed = [id for task in leaving for id in await task]
            await backs.reached()
        kept = [id for task in returning for id in task.result()]
        assert sorted(receiver.arrived) == sorted(handed)
        assert not set(receiver.attempts) & set(kept)
        assert receiver.bad_signatures == 0
