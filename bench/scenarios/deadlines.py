"""deadlines: messages to absent clients, all due within a minute, handed over to a webhook that the harness runs."""

import asyncio
import base64
import time
from typing import Any, ClassVar

import msgspec

from bench.clients.http import ACCEPTED, Hook, post_all
from bench.figures import Histogram, Meter
from bench.ledger import Ledger
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target, verdict

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
# of one POST: below `limits.batch`
BATCH = 2000
# s: without an arrival, after the last one was due
PATIENCE = 10.0

_encode = msgspec.json.Encoder().encode


class _Told(msgspec.Struct):
    """Of our bodies: the message's number, when it is due (Unix s)."""

    n: int
    due: float


class _Data(msgspec.Struct):
    body: _Told


class _Call(msgspec.Struct):
    """What the webhook is told."""

    data: _Data


_decode = msgspec.json.Decoder(_Call).decode


class DeadlinesParameters(Parameters, frozen=True, kw_only=True):
    """
    messages   that are due, evenly spread over `seconds`
    lead       seconds from the first publish until the first is due
    clients    to which they are addressed, none of which is there
    """

    messages: int = 100_000
    seconds: float = 60.0
    lead: float = 15.0
    clients: int = 1000


class DeadlinesScenario(Scenario):
    name = "deadlines"
    about = "hand-overs due within a minute: how late each one arrives at its webhook"
    Parameters = DeadlinesParameters
    legs = ("http",)
    timeout = 600.0
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {},
        "quick": {"messages": (10_000,), "seconds": (6.0,), "lead": (3.0,)},
        "smoke": {"messages": (200,), "seconds": (0.5,), "lead": (1.0,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "late_p50_ms": "late, p50 ms",
        "late_p99_ms": "p99 ms",
        "late_max_ms": "max ms",
        "rate": "hand-overs/s",
        "cpu_us": "CPU µs/hand-over",
        "server_busy": "busy",
        "lag_p99_ms": "loop lag p99 ms ≤",
        "load_busy": "load busy",
    }
    targets = (
        Target(leg="http", figure="late_max_ms", bound=1000.0, where={"messages": 100_000, "seconds": 60.0}),
    )

    async def run(self, parameters: DeadlinesParameters, run: Run) -> dict[str, Any]:
        p = parameters
        arrivals = Arrivals(p.messages, run.progress)
        hook, url = await Hook.listen(arrivals.body)
        channel = {"KIND": "webhook", "URL": url, "SECRET": SECRET, "ALLOW_PRIVATE": "true"}
        env = {f"BOTGW_CHANNELS__HOOK__{key}": value for key, value in channel.items()}
        async with hook, run.serve(64, env) as server:
            first = time.time() + p.lead
            dues = [first + n * p.seconds / p.messages for n in range(p.messages)]
            for start in range(0, p.messages, BATCH):
                now = time.time()
                batch = [
                    {
                        "to": f"away-{n % p.clients}",
                        "body": _Told(n, dues[n]),
                        "deadline": round(dues[n] - now, 3),
                        "fallback": ["hook"],
                    }
                    for n in range(start, min(start + BATCH, p.messages))
                ]
                [(status, answer)] = await post_all(server, "/v1/messages", [_encode(batch)])
                arrivals.published(batch, status, answer)
            if time.time() > first:
                arrivals.ledger.faults["published after the first was due: a longer --deadlines.lead"] += 1
            meter = Meter(server)
            await asyncio.sleep(first - time.time())
            await meter.begin()
            await arrivals.all(dues[-1])
            figures = await meter.end(arrivals.ledger.seen)
        return figures | arrivals.figures() | verdict(arrivals.ledger)


class Arrivals:
    """What the webhook was told, and how late. Early is late by less than nothing, and a fault."""

    def __init__(self, messages: int, progress: Any) -> None:
        self.messages = messages
        self.progress = progress
        self.ledger = Ledger(1)
        self.late: list[float] = []
        self.done = asyncio.Event()

    def published(self, batch: list[dict[str, Any]], status: int, answer: bytes) -> None:
        """A batch and what it was answered."""
        ledger = self.ledger
        for message in batch:
            # each is a client of its own to the ledger: hand-overs have no order among them
            ledger.number(0, message["body"].n)
        taken = sum(1 for one in msgspec.json.decode(answer) if "id" in one) if status == ACCEPTED else 0
        ledger.acked += taken
        if taken < len(batch):
            ledger.faults[f"HTTP {status}"] += 1

    def body(self, body: bytes) -> None:
        """What a POST brought."""
        told = _decode(body).data.body
        late = time.time() - told.due
        self.ledger.sight(0, told.n, 0)
        self.late.append(late)
        if late < 0:
            self.ledger.faults["handed over before its deadline"] += 1
        if self.ledger.seen >= self.messages:
            self.done.set()

    async def all(self, last: float) -> None:
        """Until all have come, or, after the `last` one was due, no more come."""
        seen, end = -1, 0.0
        while not self.done.is_set():
            if self.ledger.seen != seen:
                seen, end = self.ledger.seen, max(last, time.time()) + PATIENCE
            if time.time() > end:
                break
            self.progress(seen, self.messages)
            try:
                async with asyncio.timeout(0.5):
                    await self.done.wait()
            except TimeoutError:
                continue

    def figures(self) -> dict[str, Any]:
        histogram = Histogram()
        histogram.add(self.late)
        return {f"late_{key}": value for key, value in histogram.figures().items()} | {
            "late_max_ms": round(max(self.late, default=0.0) * 1000, 3)
        }
