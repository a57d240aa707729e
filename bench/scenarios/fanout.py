"""fanout: one body to many clients, each time as one batch; the next when the last client has it."""

import time
from typing import Any, ClassVar

from bench.figures import Histogram, Meter
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, verdict


class FanoutParameters(Parameters, frozen=True, kw_only=True):
    """
    rounds   bodies, one after the other
    size     bytes of padding in a body
    """

    clients: int = 1000
    rounds: int = 20
    window: int = 1000
    size: int = 1024
    mqtt: str = "3.1.1"


class FanoutScenario(Scenario):
    name = "fanout"
    about = "one body to many clients: time from the publish to the last client"
    Parameters = FanoutParameters
    legs = ("websocket", "mqtt", "ndjson", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {},
        "quick": {"rounds": (8,)},
        "smoke": {"clients": (50,), "rounds": (3,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "last_p50_ms": "to the last, p50 ms",
        "last_p99_ms": "p99 ms",
        "cpu_us": "CPU µs/delivery",
        "rate": "deliveries/s",
        "server_busy": "busy",
        "load_busy": "load busy",
    }

    async def run(self, parameters: FanoutParameters, run: Run) -> dict[str, Any]:
        p = parameters
        async with run.serve(p.window, None) as server:
            load = run.leg.pipeline(p.mqtt)(server, 1, p.clients, p.clients * p.rounds, p.size, run.progress)
            await load.connect()
            load.push(p.clients)
            await load.settle()
            meter, rounds = Meter(server), Histogram()
            await meter.begin()
            for _ in range(p.rounds - 1):
                start = time.perf_counter()
                load.push(p.clients)
                await load.settle()
                rounds.add([time.perf_counter() - start])
            figures = await meter.end(p.clients * (p.rounds - 1))
            load.close()
        times = {f"last_{key}": value for key, value in rounds.figures().items()}
        return figures | times | verdict(load.ledger)
