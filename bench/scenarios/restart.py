"""restart: a gateway starts on a store in which a great deal is pending."""

import asyncio
import time
from typing import Any, ClassVar

from bench.clients.ws import WebSocketPipeline
from bench.fill import fill
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target, verdict
from bench.server import Gateway, peak_of


class RestartParameters(Parameters, frozen=True, kw_only=True):
    """
    pending   messages, the same number for each of `clients`
    looked    clients that then come and take theirs, so that the ledger has a verdict; the metrics count the rest
    """

    pending: int = 1_000_000
    clients: int = 1000
    looked: int = 20
    window: int = 500
    size: int = 64


class RestartScenario(Scenario):
    name = "restart"
    about = "a start with so many messages pending: time until it is ready, memory"
    Parameters = RestartParameters
    legs = ("websocket",)
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"pending": (10_000, 1_000_000)},
        "quick": {"pending": (100_000,)},
        "smoke": {"pending": (2000,), "clients": (20,), "looked": (5,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "ready_s": "ready after s",
        "peak_mib": "peak RSS MiB",
        "rss_mib": "RSS MiB",
        "write_s": "made in s",
        "load_busy": "load busy",
    }
    targets = (
        Target(leg="websocket", figure="ready_s", bound=10.0, where={"pending": 1_000_000}),
        Target(leg="websocket", figure="peak_mib", bound=1024.0, where={"pending": 1_000_000}),
    )

    async def run(self, parameters: RestartParameters, run: Run) -> dict[str, Any]:
        p = parameters
        each = p.pending // p.clients
        server = run.serve(p.window, None)
        assert isinstance(server, Gateway)
        load = WebSocketPipeline(server, 1, p.looked, each * p.looked, p.size, run.progress)
        start = time.perf_counter()
        rows = [f"client-{i}" for i in range(p.clients)]
        await asyncio.to_thread(fill, server.data, rows, each * p.clients, load.pad, run.progress)
        written, start = time.perf_counter() - start, time.perf_counter()
        async with server:
            ready = time.perf_counter() - start
            rss, peak = server.rss(), peak_of(server.pid)
            queued = (await server.told())["botgw_messages_queued"]
            ledger = load.ledger
            for client in range(p.looked):
                for _ in range(each):
                    ledger.number(0, client)
            ledger.acked = ledger.published
            if queued != each * p.clients:
                load.fault(f"{queued:.0f} of {each * p.clients} are pending")
            own, start = time.process_time(), time.perf_counter()
            await load.connect()
            await load.settle()
            busy = (time.process_time() - own) / (time.perf_counter() - start)
            load.close()
        return {
            "write_s": round(written, 3),
            "ready_s": round(ready, 3),
            "rss_mib": round(rss / (1 << 20), 1),
            "peak_mib": round(peak / (1 << 20), 1),
            "load_busy": round(busy, 2),
        } | verdict(ledger)
