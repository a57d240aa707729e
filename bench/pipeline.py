"""pipeline: publishers → server → clients, acked, as fast as it goes; the same for each protocol and server.

Each publisher keeps `window` messages unanswered and sends to the clients in turn; each client acks what it gets in the
turn in which it gets it. Latency is from the publisher's send to the arrival at the client.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bench.ledger import Ledger
from bench.server import Server

# a server that is silent for so long has lost something
STALLED = 10.0


class Mark(msgspec.Struct, gc=False):
    """What a receiver looks at: publisher, its number for this client, when it was published."""

    p: int
    n: int
    at: float


class Body(Mark, gc=False):
    """A message's body."""

    pad: str


class Pipeline:
    """One run. `progress(done, total)` is called now and then.

    Subclasses speak a protocol: they connect, send what `take` gives, and report to `answered`, `sight` and `fault`.
    """

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self.server = server
        self.count = messages
        self.pad = "x" * size
        self.progress = progress
        self.names = [f"client-{i}" for i in range(clients)]
        self.publishers = [f"publisher-{i}" for i in range(publishers)]
        self.ledger = Ledger(publishers, clients)
        self.unanswered = [0] * publishers
        self.until = 0
        self.latency: list[float] = []
        self.done = asyncio.Event()

    async def connect(self) -> None:
        """Connect all clients, ready to receive, then all publishers."""
        raise NotImplementedError

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        """Publish, each to the client of that index."""
        raise NotImplementedError

    def close(self) -> None:
        """End all connections."""
        raise NotImplementedError

    async def run(self) -> dict[str, Any]:
        """Connect everybody, warm up for a tenth, measure the rest."""
        server = self.server
        await self.connect()
        warm = self.count // 10
        await self._push(warm)
        self.latency.clear()
        cpu, own, start = server.cpu(), time.process_time(), time.perf_counter()
        await self._push(self.count)
        seconds = time.perf_counter() - start
        cpu = server.cpu() - cpu
        own = time.process_time() - own
        self.close()
        return self._figures(self.count - warm, seconds, cpu, own)

    async def _push(self, until: int) -> None:
        """Publish until `until` messages have arrived and been answered, or something went wrong."""
        self.until = until
        self.done.clear()
        for publisher in range(len(self.publishers)):
            self._fill(publisher)
        before, since = -1, time.perf_counter()
        while not (self.done.is_set() or self.ledger.faults):
            try:
                async with asyncio.timeout(1.0):
                    await self.done.wait()
            except TimeoutError:
                now, moved = time.perf_counter(), self.ledger.seen + self.ledger.acked
                if moved != before:
                    before, since = moved, now
                elif now - since > STALLED:
                    self.fault("stalled")
                self.progress(self.ledger.seen, self.count)

    def _fill(self, publisher: int) -> None:
        """Publish what the window has room for."""
        ledger = self.ledger
        room = min(self.server.window - self.unanswered[publisher], self.until - ledger.published)
        if room <= 0:
            return
        self.unanswered[publisher] += room
        now = time.perf_counter()
        batch = []
        for _ in range(room):
            client = ledger.published % len(self.names)
            batch.append((client, Body(publisher, ledger.number(publisher, client), now, self.pad)))
        self.send(publisher, batch)

    def answered(self, publisher: int, count: int) -> None:
        """The publisher's oldest `count` unanswered messages were acknowledged."""
        self.ledger.acked += count
        self.unanswered[publisher] -= count
        self._fill(publisher)
        self._look()

    def received(self, client: int, marks: list[Mark], redelivered: int) -> None:
        """Messages reached a client, in this order; `redelivered` of them said that they are redeliveries."""
        now = time.perf_counter()
        ledger, latency = self.ledger, self.latency
        for mark in marks:
            ledger.sight(mark.p, client, mark.n)
            latency.append(now - mark.at)
        ledger.marked += redelivered
        self._look()

    def fault(self, what: str) -> None:
        """What must not happen: the run ends, and has failed."""
        self.ledger.faults[what] += 1
        self.done.set()

    def _look(self) -> None:
        if self.ledger.seen >= self.until and self.ledger.acked >= self.until:
            self.done.set()

    def _figures(self, count: int, seconds: float, cpu: float, own: float) -> dict[str, Any]:
        latency = sorted(self.latency) or [0.0]

        def at(share: float) -> float:
            return round(latency[min(int(len(latency) * share), len(latency) - 1)] * 1000, 3)

        return {
            "messages": count,
            "seconds": round(seconds, 3),
            "rate": round(count / seconds),
            "cpu_us": round(cpu / count * 1e6, 2),
            "load_us": round(own / count * 1e6, 2),
            "server_busy": round(cpu / seconds, 2),
            "load_busy": round(own / seconds, 2),
            "p50_ms": at(0.5),
            "p90_ms": at(0.9),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "ledger": self.ledger.figures(),
        }


async def idle(
    server: Server,
    connect: Callable[[str], Awaitable[asyncio.BaseTransport]],
    sessions: int,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Resident memory of the server for each connected session that does nothing."""
    transports = [await connect("first")]
    before = server.rss()
    for i in range(sessions):
        transports.append(await connect(f"idle-{i}"))
        if i % 100 == 99:
            progress(i + 1, sessions)
    grown = server.rss() - before
    for transport in transports:
        transport.close()
    return {"sessions": sessions, "rss_per_session": round(grown / sessions)}
