"""A device with 3.1.1 over its publish rate: nothing can tell it to wait, so its connection ends, and it comes back and
repeats what has no PUBACK. What was accepted before the limit has its PUBACK by then: each time it has less to repeat,
and nothing is accepted twice.

Seen to fail where the connection ended first: nothing was ever PUBACKed, and each repetition was another message.
"""

import asyncio
import json
from pathlib import Path

from gateway.transports.mqtt.codec import Publish
from tests.support.device import RawDevice, user
from tests.support.process import GatewayProcess

COUNT = 150
CONFIG = """
[limits]
publish_rate = 100
publish_burst = 50
batch = 50
"""


async def publish_all(gateway: GatewayProcess) -> int:
    """All at once, and what was not answered again whenever the connection has ended. Connections that it took."""
    waiting = dict.fromkeys(range(1, COUNT + 1), False)  # packet id -> whether it was sent before
    connections = 0
    async with asyncio.timeout(20):
        while waiting:
            connections += 1
            device = RawDevice("alice", 4)
            await device.join(gateway.mqtt, gateway.token("alice"))
            for n, dup in waiting.items():
                device.publish("bob", json.dumps(n).encode(), n, dup=dup)
            waiting = dict.fromkeys(waiting, True)
            while waiting and (packet := await device.packet()) is not None:
                del waiting[packet]
            await device.drop()
    return connections


async def test_what_was_accepted_is_answered_before_the_connection_ends(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, CONFIG) as gateway:
        assert await publish_all(gateway) > 1
        bob = RawDevice("bob", 5)
        await bob.join(gateway.mqtt, gateway.token("bob"))
        got: list[int] = []
        while len(got) < COUNT:
            packet = await bob.packet()
            assert type(packet) is Publish, packet
            assert "possible_dup" not in user(packet), f"{packet.payload!r} was accepted twice"
            got.append(json.loads(packet.payload))
            bob.ack(packet.pid)
        assert got == list(range(1, COUNT + 1))
        assert await bob.ping() == []
        await bob.drop()
