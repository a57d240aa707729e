"""trickle: many clients, each publishing a message now and then: every message is its own read, commit and write."""

from typing import Any, ClassVar

from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep


class TrickleParameters(Parameters, frozen=True, kw_only=True):
    """
    clients   that publish, and as many that receive
    rate      messages a second of all together, on a schedule
    seconds   that are measured
    """

    clients: int = 1000
    rate: float = 2000.0
    seconds: float = 5.0
    window: int = 64
    size: int = 64
    mqtt: str = "3.1.1"


class TrickleScenario(Scenario):
    name = "trickle"
    about = "many clients, each a message now and then, at a fixed rate: nothing comes in batches"
    Parameters = TrickleParameters
    legs = ("websocket", "mqtt", "mqtt-broker", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"clients": (100, 1000)},
        "quick": {"seconds": (2.0,)},
        "smoke": {"clients": (20,), "rate": (500.0,), "seconds": (0.5,)},
    }
    remote = True
    columns: ClassVar[dict[str, str]] = {
        "cpu_us": "CPU µs/message",
        "rate": "messages/s",
        "server_busy": "busy",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "p999_ms": "p99.9 ms",
        "commit_p50_operations": "operations/commit",
        "load_busy": "load busy",
    }

    async def run(self, parameters: TrickleParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = int(p.rate * p.seconds / 0.9)  # a tenth is warming up
        async with run.serve(p.window, None) as server:
            kind = run.leg.pipeline(p.mqtt)
            load = kind(server, p.clients, p.clients, messages, p.size, run.progress)
            return await load.run(rate=p.rate)
