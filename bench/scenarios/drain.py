"""drain: clients are away, a backlog grows, all come back at once and take it."""

import asyncio
from typing import Any, ClassVar

from bench.figures import Meter
from bench.pipeline import spread
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target, come_back, verdict

# figures of a message, of which there may be none
OF_MESSAGES = frozenset({"rate", "cpu_us", "load_us"})


class DrainParameters(Parameters, frozen=True, kw_only=True):
    """
    backlog   messages that wait for each client
    warm      messages that are delivered before: what grows up to a limit of its own (SQLite's page cache, 64 MiB; the
              allocator) has grown by then, and is not taken for the backlog's
    """

    clients: int = 500
    backlog: int = 100
    warm: int = 200_000
    window: int = 500
    size: int = 200


class DrainScenario(Scenario):
    name = "drain"
    about = "clients away, a backlog, all come back: memory of what waits, time until all of it is delivered"
    Parameters = DrainParameters
    legs = ("websocket", "mqtt", "mosquitto")
    timeout = 600.0
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"backlog": (0, 10, 100, 1000)},
        "quick": {"backlog": (10, 100), "warm": (50_000,)},
        "smoke": {"clients": (20,), "backlog": (20,), "warm": (100,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "drained_s": "drained after s",
        "rate": "messages/s",
        "cpu_us": "CPU µs/message",
        "rss_per_session": "RSS that the backlog adds, bytes/session",
        "server_busy": "busy",
        "load_busy": "load busy",
    }
    notes = (
        "`warm` messages are delivered before, so that what grows up to a limit of its own (SQLite's page "
        "cache, 64 MiB) is not taken for the backlog's. The target is what an idle session may have."
    )
    # what waits is in the store: a session may grow by no more than an idle one may have, however much waits for it
    targets = tuple(
        Target(leg=leg, figure="rss_per_session", bound=8192, where={"backlog": 1000})
        for leg in ("websocket", "mqtt")
    )

    async def run(self, parameters: DrainParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = p.clients * p.backlog
        async with run.serve(p.window, None) as server:
            load = run.leg.load(server, 2, p.clients, p.warm + messages, p.size, run.progress, disturbed=True)
            await load.connect()
            load.push(p.warm)
            await load.settle()
            for client in range(p.clients):
                load.cut(client)
            before = server.rss()
            load.push(messages)
            await load.settle(arriving=False)
            grown = server.rss() - before
            meter = Meter(server)
            await meter.begin()
            start = asyncio.get_running_loop().time()
            await spread(p.clients, lambda client: come_back(load, client), p.clients)
            back = asyncio.get_running_loop().time() - start
            await load.settle()
            figures = await meter.end(messages)
            load.close()
        if not messages:
            figures = {key: value for key, value in figures.items() if key not in OF_MESSAGES}
        return (
            figures
            | {
                "back_s": round(back, 3),
                "drained_s": figures["seconds"],
                "rss_per_session": round(grown / p.clients),
            }
            | verdict(load.ledger)
        )
