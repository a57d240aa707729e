"""The load side of all scenarios that publish: publishers → server → clients, acked; the same for each protocol.

As fast as it goes (`push`), each publisher keeps `window` messages unanswered and sends to the clients in turn. At a
fixed rate (`pace`), message k is due at k / rate, whatever the server does; what its publisher's window has no room for
is sent later and still counts from when it was due. Each client acks what it gets in the turn in which it gets it.
Latency is from the publisher's send, or that due time, to the arrival at the client.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bench.figures import Histogram, Meter
from bench.ledger import Ledger
from bench.server import Server

# a server that is silent for so long has lost something
STALLED = 10.0
LOOK = 0.5
# how often the schedule of a fixed rate is looked at, in seconds
TICK = 0.001
# connections that are made at the same time
AT_ONCE = 100

Progress = Callable[[int, int], None]


class Mark(msgspec.Struct, gc=False):
    """What a receiver looks at: publisher, its number for this client, when it was published."""

    p: int
    n: int
    at: float


class Body(Mark, gc=False):
    """A message's body."""

    pad: str


async def spread(count: int, call: Callable[[int], Awaitable[object]], at_once: int = AT_ONCE) -> None:
    """`call(i)` for each i below `count`, so many at the same time. The first that fails ends all."""
    left = iter(range(count))

    async def work() -> None:
        for i in left:
            await call(i)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, count)):
            tasks.create_task(work())


class Pipeline:
    """One run's load. `progress(done, total)` is called now and then.

    Subclasses speak a protocol: they connect, publish what `send` gets, and report to `answered`, `received` and
    `fault`. Those that can cut a client and let it come back have `cut` and `join`, too.
    """

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Progress, *, disturbed: bool = False,
    ) -> None:  # fmt: skip
        self.server = server
        self.window = server.window
        self.count = messages
        self.pad = "x" * size
        self.progress = progress
        self.names = [f"{server.prefix}client-{i}" for i in range(clients)]
        self.publishers = [f"{server.prefix}publisher-{i}" for i in range(publishers)]
        self.ledger = Ledger(publishers, disturbed=disturbed)
        self.unanswered = [0] * publishers
        # of a fixed rate: what is due and not sent, (client, due), by publisher
        self.owed: list[deque[tuple[int, float]]] = [deque() for _ in range(publishers)]
        self.owing = 0
        # as fast as it goes: how many messages are to be published, all together, and until when
        self.until = 0
        self.end = math.inf
        self.latency: list[float] = []
        # whether `settle` waits for the arrivals, too
        self.arriving = True
        self.done = asyncio.Event()

    # -- what a protocol does --------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect all clients, ready to receive, then all publishers."""
        raise NotImplementedError

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        """Publish, each to the client of that index."""
        raise NotImplementedError

    def close(self) -> None:
        """End all connections."""
        raise NotImplementedError

    def cut(self, client: int) -> None:
        """Break the client's connection without a word."""
        raise NotImplementedError

    async def join(self, client: int) -> None:
        """Connect the client again, to the session that it has. Raises OSError, TimeoutError."""
        raise NotImplementedError

    # -- a whole run -----------------------------------------------------------------------------------------------

    async def run(self, *, rate: float = 0.0, seconds: float = 0.0, half: float = 0.0) -> dict[str, Any]:
        """Connect everybody, warm up for a tenth, measure the rest; figures and the ledger.

        rate     messages a second on a schedule; 0: as fast as it goes
        seconds  publish for so long at the most, though fewer messages than wanted were published; 0: no such bound
        half     where there was no rate, then publish for so many seconds at half of what was reached: `half_rate`,
                 `half_p99_ms`, …
        """
        await self.connect()
        figures = await self._stretch(rate, self.count // 10, seconds / 4)
        figures = await self._stretch(rate, self.count - self.count // 10, seconds)
        if half and not rate and not self.ledger.faults:
            slow = figures["rate"] / 2
            found = await self._stretch(slow, int(slow * half), half)
            figures |= {f"half_{key}": value for key, value in found.items() if key in HALF}
        self.close()
        return figures | {"ledger": self.ledger.figures()}

    async def _stretch(self, rate: float, count: int, seconds: float) -> dict[str, Any]:
        """Publish `count` messages, wait for all, and say what it cost."""
        before = self.ledger.published
        self.latency.clear()
        meter = Meter(self.server)
        await meter.begin()
        if rate:
            await self.pace(rate, min(count, int(rate * seconds)) if seconds else count)
        else:
            self.push(count, seconds)
        await self.settle()
        return await meter.end(self.ledger.published - before) | self.latencies()

    def latencies(self) -> dict[str, Any]:
        """Percentiles of what came since `latency` was cleared."""
        histogram = Histogram()
        histogram.add(self.latency)
        return histogram.figures()

    # -- publishing ------------------------------------------------------------------------------------------------

    def push(self, count: int, seconds: float = 0.0) -> None:
        """Publish `count` messages as fast as the windows allow; fewer where `seconds` pass before. Then `settle`."""
        self.until = self.ledger.published + count
        self.end = time.perf_counter() + seconds if seconds else math.inf
        for publisher in range(len(self.publishers)):
            self._fill(publisher)

    async def pace(self, rate: float, count: int) -> None:
        """Publish on a schedule; returns when the last message is due."""
        start, sent = time.perf_counter(), 0
        publishers, clients = len(self.publishers), len(self.names)
        while sent < count and not self.ledger.faults:
            now = time.perf_counter()
            due = min(int((now - start) * rate) + 1, count)
            touched = range(sent, due)
            self.owing += len(touched)
            for k in touched:
                self.owed[k % publishers].append((k % clients, start + k / rate))
            for k in touched[:publishers]:
                self._fill(k % publishers)
            sent = due
            self.progress(self.ledger.seen, self.count)
            await asyncio.sleep(max(start + sent / rate - time.perf_counter(), TICK))

    async def settle(self, *, arriving: bool = True) -> None:
        """Until all that was published is answered and (`arriving`) has come, or something went wrong."""
        self.arriving = arriving
        self.done.clear()
        self._look()
        still = Stillness(self)
        while not (self.done.is_set() or self.ledger.faults):
            try:
                async with asyncio.timeout(max(min(LOOK, self.end - time.perf_counter()), 0.0)):
                    await self.done.wait()
            except TimeoutError:
                if time.perf_counter() >= self.end:
                    self.until, self.end = self.ledger.published, math.inf
                still.look()

    def _fill(self, publisher: int) -> None:
        """Publish what the window has room for."""
        ledger = self.ledger
        owed = self.owed[publisher]
        room = min(self.window - self.unanswered[publisher], len(owed) or self.until - ledger.published)
        if room <= 0:
            return
        self.unanswered[publisher] += room
        self.owing -= min(room, len(owed))
        now, clients = time.perf_counter(), len(self.names)
        batch = []
        for _ in range(room):
            client, at = owed.popleft() if owed else (ledger.published % clients, now)
            batch.append((client, Body(publisher, ledger.number(publisher, client), at, self.pad)))
        self.send(publisher, batch)

    # -- what came back --------------------------------------------------------------------------------------------

    def answered(self, publisher: int, count: int) -> None:
        """The publisher's oldest `count` unanswered messages were acknowledged."""
        self.ledger.acked += count
        self.unanswered[publisher] -= count
        self._fill(publisher)
        self._look()

    def received(self, client: int, marks: list[Mark], redelivered: int) -> None:
        """Messages reached a client, in this order; `redelivered` of them said that they are redeliveries: all or none,
        where connections are cut.
        """
        now = time.perf_counter()
        ledger, latency = self.ledger, self.latency
        marked = redelivered > 0
        for mark in marks:
            ledger.sight(mark.p, client, mark.n, marked=marked)
            latency.append(now - mark.at)
        ledger.marked += redelivered
        self._look()

    def fault(self, what: str) -> None:
        """What must not happen: the run ends, and has failed."""
        self.ledger.faults[what] += 1
        self.done.set()

    def _look(self) -> None:
        ledger = self.ledger
        published = ledger.published
        if ledger.acked < published or (ledger.seen < published and self.arriving):
            return
        if published >= self.until and not self.owing:
            self.done.set()


# of the stretch at half load
HALF = frozenset({"rate", "cpu_us", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "ack_p99_ms", "load_busy"})


class Stillness:
    """Ends a run in which nothing moves any more."""

    def __init__(self, load: Pipeline) -> None:
        self.load = load
        self.moved, self.since = -1, time.perf_counter()

    def look(self) -> None:
        ledger, now = self.load.ledger, time.perf_counter()
        moved = ledger.seen + ledger.acked + ledger.repeated
        if moved != self.moved:
            self.moved, self.since = moved, now
        elif now - self.since > STALLED:
            self.load.fault("stalled")
        self.load.progress(ledger.seen, self.load.count)
