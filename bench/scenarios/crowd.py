"""crowd: the same few clients at the same rate, while more and more others are connected and do nothing."""

from typing import Any, ClassVar

from bench.scenarios.idle import Holders, lost_by
from bench.scenarios.scenario import FLAT, Parameters, Run, Scenario, Sweep, Target, verdict


class CrowdParameters(Parameters, frozen=True, kw_only=True):
    """
    sessions   that are connected beside, and do nothing but answer heartbeats
    processes  that hold them
    clients    that get messages
    rate       messages a second on a schedule
    seconds    that are measured
    """

    sessions: int = 10
    processes: int = 2
    clients: int = 10
    publishers: int = 2
    rate: float = 5000.0
    seconds: float = 6.0
    window: int = 500
    size: int = 64
    mqtt: str = "3.1.1"


class CrowdScenario(Scenario):
    name = "crowd"
    about = "a few clients at a fixed rate beside so many idle sessions: what a message costs must stay flat"
    Parameters = CrowdParameters
    legs = ("websocket", "mqtt", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"sessions": (10, 100, 1000, 10_000)},
        "quick": {"sessions": (10, 1000), "seconds": (3.0,)},
        "smoke": {"sessions": (50,), "processes": (1,), "rate": (500.0,), "seconds": (0.3,)},
    }
    runs = 3
    columns: ClassVar[dict[str, str]] = {
        "cpu_us": "CPU µs/message",
        "rate": "messages/s",
        "server_busy": "busy",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "rss_mib": "RSS MiB",
        "load_busy": "load busy",
    }
    notes = (
        "The sessions beside do nothing but answer heartbeats, every 25 s over WebSocket; these are part "
        "of the cost. Flat is: the largest cost is at most a quarter above the smallest. A message costs "
        "more here than in `pipeline`: at a fixed rate few share a commit."
    )
    targets = tuple(
        Target(leg=leg, figure="cpu_us", bound=FLAT, along="sessions") for leg in ("websocket", "mqtt")
    )

    async def run(self, parameters: CrowdParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = int(p.rate * p.seconds / 0.9)  # a tenth is warming up
        async with run.serve(p.window, None) as server:
            names = [f"{server.prefix}idle-{i}" for i in range(p.sessions)]
            async with Holders(server, run.leg, p.mqtt, names, p.processes, run.progress) as holders:
                kind = run.leg.pipeline(p.mqtt)
                load = kind(server, p.publishers, p.clients, messages, p.size, run.progress)
                figures = await load.run(rate=p.rate)
                lost_by(await holders.end(), p.sessions, load.ledger)
        return figures | verdict(load.ledger)
