"""crash: SIGKILL again and again under load; whoever was connected comes back and goes on where it was."""

import asyncio
import random
from typing import Any, ClassVar

from bench.clients.ws import WebSocketPipeline
from bench.figures import Histogram
from bench.pipeline import spread
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, come_back, verdict
from bench.server import Server

SEED = 7


class CrashParameters(Parameters, frozen=True, kw_only=True):
    """
    kills   of the server
    every   seconds of load between two of them, from half to one and a half times that
    rate    messages a second on a schedule that knows nothing of kills
    """

    clients: int = 100
    publishers: int = 4
    kills: int = 8
    every: float = 1.5
    rate: float = 2000.0
    window: int = 200
    size: int = 64


class CrashScenario(Scenario):
    name = "crash"
    about = "SIGKILL every few seconds under load: what was acknowledged arrives, once or marked, in order"
    Parameters = CrashParameters
    legs = ("websocket",)
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {},
        "quick": {"kills": (3,)},
        "smoke": {"clients": (10,), "kills": (2,), "every": (0.3,), "rate": (500.0,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "kills": "kills",
        "back_p50_ms": "killed → all back, p50 ms",
        "messages": "messages",
        "resumed": "resumed",
        "redelivered": "redelivered",
        "repeated": "seen twice, marked",
        "p99_ms": "p99 ms, outages included",
    }

    async def run(self, parameters: CrashParameters, run: Run) -> dict[str, Any]:
        p = parameters
        loop, chance, outages = asyncio.get_running_loop(), random.Random(SEED), Histogram()
        async with run.serve(p.window, None) as server:
            # more than can be published: the last kill ends it
            load = WebSocketPipeline(server, p.publishers, p.clients, 1, p.size, run.progress, disturbed=True)
            await load.connect()
            async with asyncio.TaskGroup() as tasks:
                pacing = tasks.create_task(load.pace(p.rate, 1 << 40))
                for kill in range(p.kills):
                    await asyncio.sleep(p.every * chance.uniform(0.5, 1.5))
                    start = loop.time()
                    await restart(server, load)
                    outages.add([loop.time() - start])
                    run.progress(kill + 1, p.kills)
                await asyncio.sleep(p.every / 2)
                pacing.cancel()
            await load.settle()
            load.close()
        return (
            {f"back_{key}": value for key, value in outages.figures().items()}
            | load.latencies()
            | {
                "kills": p.kills,
                "messages": load.ledger.published,
                "resumed": sum(place.resumed for place in load.places),
                "redelivered": load.ledger.marked,
                "repeated": load.ledger.repeated,
            }
            | verdict(load.ledger)
        )


async def restart(server: Server, load: WebSocketPipeline) -> None:
    """Kill the server, start it again, and let all come back."""
    await server.kill()
    for client in range(len(load.names)):
        load.cut(client)
    for publisher in range(len(load.publishers)):
        load.cut_publisher(publisher)
    await server.start()
    await spread(len(load.names), lambda client: come_back(load, client))
    await spread(len(load.publishers), load.come_back)
