"""Plain MQTT devices that stand still beside devices that read: memory stays bounded, the live ones get everything.

As test_stalled.py, whose limits and figures these are; a stalled device is closed by its stall timeout and goes on
where it stood when it comes back. With the limits planted away the stalled ones are never let go, and the test says so.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from gateway.transports.mqtt.codec import Publish
from tests.faults.test_stalled import BUFFER, CONFIG, EACH, READERS, publish, rss
from tests.support.device import RawDevice, packet_id
from tests.support.process import GatewayProcess

FEW = 20
STALLED = CONFIG.replace("[websocket]", "[mqtt]")


class Reader:
    """One device; `got`: (packet id, n, dup) of what it took on its present connection."""

    def __init__(self, kind: str, i: int) -> None:
        self.client = f"{kind}-{i}"
        self.version = 4 if i % 2 else 5
        self.wire = RawDevice(self.client, self.version)
        self.got: list[tuple[int, int, bool]] = []

    async def join(self, gateway: GatewayProcess) -> bool:
        self.got.clear()
        self.wire = RawDevice(self.client, self.version)
        return await self.wire.join(gateway.mqtt, gateway.token(self.client))

    async def take(self, count: int) -> None:
        while len(self.got) < count:
            packet = await self.wire.packet()
            assert type(packet) is Publish, packet
            self.got.append((packet.pid, json.loads(packet.payload)["n"], packet.dup))
            self.wire.ack(packet.pid)


async def story(folder: Path, readers: int, bug: str = "") -> dict[str, Any]:
    """`readers` of each kind."""
    async with GatewayProcess(folder, STALLED, bug=bug) as gateway, gateway.http() as http:
        live = [Reader("live", i) for i in range(readers)]
        stalled = [Reader("stalled", i) for i in range(readers)]
        for reader in (*live, *stalled):
            await reader.join(gateway)
        # a first round warms up allocators and caches, so that what is measured is the stalled ones
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(http, [r.client for r in live]))
            for reader in live:
                tasks.create_task(reader.take(EACH))
        for reader in stalled:
            reader.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = rss(gateway.pid)
        names = [r.client for pair in zip(live, stalled, strict=True) for r in pair]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(http, names))
            for reader in live:
                tasks.create_task(reader.take(2 * EACH))
        growth = rss(gateway.pid) - before
        found: dict[str, Any] = {
            "growth": growth,
            "cut": await cut(http, readers),
            "live": [r.got for r in live],
        }
        if found["cut"] == readers:
            for reader in stalled[:2]:
                await reader.wire.drop()
                found.setdefault("present", []).append(await reader.join(gateway))
                await reader.take(EACH)
                found.setdefault("resumed", []).append(list(reader.got))
        for reader in (*live, *stalled):
            await reader.wire.drop()
        return found


async def cut(http: Any, wanted: int) -> int:
    """How many connections the gateway has ended as too slow, when it is so many or some seconds later."""
    count = 0
    try:
        async with asyncio.timeout(5):
            while count < wanted:
                async with http.get("/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                count = sum(int(float(line.split()[-1])) for line in lines if '"server 0x97"' in line)
                await asyncio.sleep(0.1)  # counters are polled: that is their interface
    except TimeoutError:
        pass
    return count


async def test_stalled_devices_are_let_go_and_live_ones_served(tmp_path: Path) -> None:
    found = await story(tmp_path, READERS)
    every = [(packet_id(seq), (seq - 1) % EACH, False) for seq in range(1, 2 * EACH + 1)]
    assert all(got == every for got in found["live"])
    assert found["cut"] == READERS
    assert found["growth"] <= 1.1 * READERS * BUFFER, found["growth"]
    # nothing was acked: all comes again from the first on, under its packet id; what was bound is marked
    assert found["present"] == [True, True]
    for got in found["resumed"]:
        assert [(pid, n) for pid, n, _ in got] == [(packet_id(n + 1), n) for n in range(EACH)]
        assert got[0][2] is True
        dups = [dup for _, _, dup in got]
        assert dups == sorted(dups, reverse=True)


async def test_without_the_limits_they_would_stay(tmp_path: Path) -> None:
    """Seen to fail: with the limits planted away nobody is closed."""
    found = await story(tmp_path, FEW, "unbounded")
    assert found["cut"] < FEW
