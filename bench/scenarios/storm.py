"""storm: all clients are cut at once, under load, and all come back at once to the sessions that they had."""

import asyncio
from typing import Any, ClassVar

from bench.clients.mqtt import MqttPipeline
from bench.clients.ws import WebSocketPipeline
from bench.figures import Histogram, Meter
from bench.pipeline import Pipeline, spread
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target, come_back, verdict


class StormParameters(Parameters, frozen=True, kw_only=True):
    """
    rate      messages a second that are published all the while
    seconds   for which they are published, beginning a second before the cut
    """

    clients: int = 10_000
    rate: float = 500.0
    seconds: float = 10.0
    window: int = 64
    size: int = 64


class StormScenario(Scenario):
    name = "storm"
    about = "all clients cut at once, all resume: time to the last, loss, how late the loop was"
    Parameters = StormParameters
    legs = ("websocket", "mqtt", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {},
        "quick": {"clients": (2000,), "seconds": (4.0,)},
        "smoke": {"clients": (50,), "seconds": (1.3,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "back_s": "all back after s",
        "back_p50_ms": "p50 ms",
        "back_p99_ms": "p99 ms",
        "resumed": "resumed",
        "lag_p99_ms": "loop lag p99 ms ≤",
        "lag_max_ms": "max ms ≤",
        "redelivered": "redelivered",
        "load_busy": "load busy",
    }
    targets = tuple(
        Target(leg=leg, figure=figure, bound=bound, where={"clients": 10_000})
        for leg in ("websocket", "mqtt")
        for figure, bound in (("back_s", 10.0), ("lag_p99_ms", 100.0))
    )

    async def run(self, parameters: StormParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = int(p.rate * p.seconds)
        async with run.serve(p.window, None) as server:
            load = run.leg.load(server, 2, p.clients, messages, p.size, run.progress, disturbed=True)
            await load.connect()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.pace(p.rate, messages))
                await asyncio.sleep(min(1.0, p.seconds / 4))
                meter, back = Meter(server), Histogram()
                await meter.begin()
                start = asyncio.get_running_loop().time()
                for client in range(p.clients):
                    load.cut(client)

                async def one(client: int) -> None:
                    back.add([await come_back(load, client) - start])

                await spread(p.clients, one, p.clients)
                seconds = asyncio.get_running_loop().time() - start
                figures = await meter.end(p.clients)
            await load.settle()
            resumed = resumed_by(load)
            if resumed != p.clients:
                load.fault("came back to no session")
            load.close()
        times = {f"back_{key}": value for key, value in back.figures().items()}
        return (
            figures
            | times
            | {"back_s": round(seconds, 3), "resumed": resumed, "redelivered": load.ledger.marked}
            | verdict(load.ledger)
        )


def resumed_by(load: Pipeline) -> int:
    """Clients that came back to the session that they had."""
    if isinstance(load, WebSocketPipeline):
        return sum(1 for place in load.places if place.resumed)
    assert isinstance(load, MqttPipeline)
    return sum(1 for device in load.clients if device is not None and device.present)
