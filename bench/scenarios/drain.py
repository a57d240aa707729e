"""drain: clients are away, a backlog grows, all come back at once and take it."""

import asyncio
from typing import Any, ClassVar

from bench.figures import Meter
from bench.pipeline import spread
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, come_back, verdict


class DrainParameters(Parameters, frozen=True, kw_only=True):
    """
    backlog   messages that wait for each client
    """

    clients: int = 1000
    backlog: int = 100
    window: int = 500
    size: int = 200


class DrainScenario(Scenario):
    name = "drain"
    about = "clients away, a backlog, all come back: memory of what waits, time until all of it is delivered"
    Parameters = DrainParameters
    legs = ("websocket", "mqtt", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"backlog": (10, 100)},
        "quick": {"backlog": (20,)},
        "smoke": {"clients": (20,), "backlog": (20,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "drained_s": "drained after s",
        "rate": "messages/s",
        "cpu_us": "CPU µs/message",
        "rss_per_session": "RSS of the backlog, bytes/session",
        "server_busy": "busy",
        "load_busy": "load busy",
    }

    async def run(self, parameters: DrainParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = p.clients * p.backlog
        async with run.serve(p.window, None) as server:
            load = run.leg.load(server, 2, p.clients, messages, p.size, run.progress, disturbed=True)
            await load.connect()
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
        return (
            figures
            | {
                "back_s": round(back, 3),
                "drained_s": figures["seconds"],
                "rss_per_session": round(grown / p.clients),
            }
            | verdict(load.ledger)
        )
