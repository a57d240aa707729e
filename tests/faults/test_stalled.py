"""100 readers that stand still beside 100 that read: memory stays bounded, the live ones get everything.

Bounded means: growth at most 100 × the buffer limit + 10 %, measured as the anonymous memory of the process. With the
limits planted away the stalled ones are never let go, and the test says so.
"""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.process import GatewayProcess
from tests.support.raw import RawClient

READERS = 100
BUFFER = 64 * 1024
CONFIG = f"""
[websocket]
buffer_limit = {BUFFER}
stall_timeout = 1.0
[session]
window = 64
[limits]
publish_rate = 1e6
publish_burst = 1000000
"""
BODY = {"pad": "x" * 16_000}
EACH = 40


def rss(pid: int) -> int:
    """Resident bytes that the process allocated itself: not its files, nor the pages of the database."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


async def publish(http: aiohttp.ClientSession, names: list[str]) -> None:
    """EACH messages of 16 KB to each name, in arrays."""
    for n in range(EACH):
        for at in range(0, len(names), 25):
            batch = [{"to": name, "body": BODY | {"n": n}} for name in names[at : at + 25]]
            async with http.post("/v1/messages", json=batch) as answer:
                assert all("id" in r for r in await answer.json())


async def read_all(client: RawClient) -> None:
    while len(client.processed) < EACH:
        await client.step()
        await client.ack()


async def connect_all(gateway: GatewayProcess, kind: str) -> list[RawClient]:
    clients = [RawClient(f"{kind}-{i}") for i in range(READERS)]
    for client in clients:
        await client.connect(gateway.ws, gateway.token(client.client))
    return clients


async def closed(gateway: GatewayProcess, code: str) -> float:
    """How many connections the gateway says it has closed with this code."""
    async with gateway.http() as http, http.get("/metrics") as answer:
        text = await answer.text()
    for line in text.splitlines():
        if line.startswith("botgw_websocket_closes{") and f'"{code}"' in line:
            return float(line.rsplit(" ", 1)[1])
    return 0.0


async def story(folder: Path, bug: str = "") -> dict[str, Any]:
    async with GatewayProcess(folder, CONFIG, bug=bug) as gateway, gateway.http() as http:
        live = await connect_all(gateway, "live")
        stalled = await connect_all(gateway, "stalled")
        # a first round warms up allocators and caches, so that what is measured is the stalled ones
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(http, [c.client for c in live]))
            for client in live:
                tasks.create_task(read_all(client))
        for client in live:
            client.processed.clear()
        for client in stalled:
            assert client.conn is not None
            client.conn.transport.pause_reading()
        before = rss(gateway.pid)
        names = [c.client for pair in zip(live, stalled, strict=True) for c in pair]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish(http, names))
            for client in live:
                tasks.create_task(read_all(client))
        growth = rss(gateway.pid) - before
        cut = 0.0
        try:
            async with asyncio.timeout(5):
                while cut < READERS:
                    cut = await closed(gateway, "4001")
                    await asyncio.sleep(0.1)  # counters are polled: that is their interface
        except TimeoutError:
            pass
        found = {"growth": growth, "cut": cut, "live": sum(len(c.processed) for c in live)}
        if cut == READERS:
            one = stalled[0]
            await one.drop()
            again = await one.connect(gateway.ws, gateway.token(one.client))
            found["resumed"] = again["resumed"]
            await read_all(one)
        for client in [*live, *stalled]:
            await client.drop()
        return found


async def test_stalled_readers_are_let_go_and_live_ones_served(tmp_path: Path) -> None:
    found = await story(tmp_path)
    assert found["live"] == READERS * EACH
    assert found["cut"] == READERS
    assert found["resumed"] is True
    assert found["growth"] <= 1.1 * READERS * BUFFER, found


async def test_without_the_limits_they_would_stay(tmp_path: Path) -> None:
    """Seen to fail: with the limits planted away nobody is closed."""
    found = await story(tmp_path, "unbounded")
    assert found["cut"] < READERS
