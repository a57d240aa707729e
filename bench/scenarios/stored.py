"""stored: a few clients, as fast as it goes, while the store holds more and more: a message must not cost more."""

import asyncio
from typing import Any, ClassVar

from bench.fill import fill
from bench.scenarios.scenario import FLAT, Parameters, Run, Scenario, Sweep, Target
from bench.server import Gateway


class StoredParameters(Parameters, frozen=True, kw_only=True):
    """
    stored   messages that the store holds when the gateway starts
    pending  the share of them that wait for clients who are away; the others were delivered and are kept for their
             retention, which is what most of a store is
    away     clients to whom they are addressed
    clients  that are there, and get messages
    """

    stored: int = 1000
    pending: float = 0.5
    away: int = 100
    clients: int = 10
    publishers: int = 2
    messages: int = 100_000
    seconds: float = 4.0
    window: int = 500
    size: int = 64


class StoredScenario(Scenario):
    name = "stored"
    about = "a few clients beside a store that holds so many messages: what a message costs must stay flat"
    Parameters = StoredParameters
    legs = ("websocket", "mqtt")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"stored": (1000, 10_000, 100_000, 1_000_000)},
        "quick": {"stored": (1000, 100_000)},
        "smoke": {"stored": (2000,), "messages": (1000,)},
    }
    runs = 3
    columns: ClassVar[dict[str, str]] = {
        "cpu_us": "CPU µs/message",
        "rate": "messages/s",
        "server_busy": "busy",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "commit_p99_ms": "commit p99 ms ≤",
        "rss_mib": "RSS MiB",
        "load_busy": "load busy",
    }
    notes = (
        "Of what is stored `pending` is the share that waits for clients who are away; the others were "
        "delivered and are kept for their retention. Flat is: the largest cost is at most a quarter above "
        "the smallest. RSS grows up to the 64 MiB of SQLite's page cache."
    )
    targets = tuple(
        Target(leg=leg, figure="cpu_us", bound=FLAT, along="stored") for leg in ("websocket", "mqtt")
    )

    async def run(self, parameters: StoredParameters, run: Run) -> dict[str, Any]:
        p = parameters
        pending = round(p.stored * p.pending)
        server = run.serve(p.window, None)
        assert isinstance(server, Gateway)
        load = run.leg.load(server, p.publishers, p.clients, p.messages, p.size, run.progress)
        away = [f"away-{i}" for i in range(p.away)]
        await asyncio.to_thread(
            fill, server.data, away, pending, load.pad, run.progress, delivered=p.stored - pending
        )
        async with server:
            queued = (await server.told())["botgw_messages_queued"]
            if queued != pending:
                load.fault(f"{queued:.0f} of {pending} are pending")
            return await load.run(seconds=p.seconds)
