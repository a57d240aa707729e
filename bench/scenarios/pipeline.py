"""pipeline: a few publishers to N clients, durable and acked, as fast as it goes; then at half that rate."""

from typing import Any, ClassVar

from bench.legs import LEGS
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target


class PipelineParameters(Parameters, frozen=True, kw_only=True):
    """
    publishers   that keep `window` messages unanswered each; over HTTP `connections`, with one
    messages     of a run, or as many as are published in `seconds`
    window       also: unacked messages of a client
    size         bytes of padding in a body
    rate         messages a second on a schedule, in place of as fast as it goes
    half         seconds at half the rate that was reached
    mqtt         the devices' version, where the server speaks both
    """

    clients: int = 100
    publishers: int = 2
    connections: int = 64
    messages: int = 40_000
    seconds: float = 3.0
    window: int = 500
    size: int = 64
    rate: float = 0.0
    half: float = 1.5
    mqtt: str = "3.1.1"


class PipelineScenario(Scenario):
    name = "pipeline"
    about = "published → durable → delivered → acked, as fast as it goes, then at half load"
    Parameters = PipelineParameters
    legs = tuple(LEGS)
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"clients": (10, 100, 1000)},
        "quick": {"clients": (10, 100, 1000), "messages": (20_000,), "seconds": (2.0,), "half": (1.0,)},
        "smoke": {"clients": (10,), "messages": (1000,), "connections": (16,), "half": (0.2,)},
    }
    runs = 3
    remote = True
    columns: ClassVar[dict[str, str]] = {
        "cpu_us": "CPU µs/message",
        "rate": "messages/s",
        "server_busy": "busy",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "half_p50_ms": "p50 at half",
        "half_p99_ms": "p99 at half",
        "load_us": "load µs",
        "load_busy": "load busy",
    }
    notes = (
        "Each publisher keeps `window` messages unanswered (over HTTP: one, on each of `connections`) and "
        "sends to the clients in turn, each of which may have `window` unacked. Under full load latency is "
        "mostly time in queues; `at half` is on a schedule, at half the rate that was reached. MQTT is at "
        "QoS 1, with persistent sessions. NATS has a stream with a durable consumer for each client: one "
        "stream for all costs it more at each of these numbers of clients. The first messages of a stream "
        "cost it more than later ones, which shows at 1000 clients."
    )
    targets = (
        *(
            Target(leg=leg, figure="cpu_us", bound=bound, where={"clients": clients}, of="mosquitto")
            for leg, clients, bound in (
                ("mqtt", 10, 0.5),
                ("mqtt", 100, 1.0),
                ("mqtt", 1000, 1.0),
                ("websocket", 10, 1.0),
                ("websocket", 100, 1.0),
                ("websocket", 1000, 1.1),
            )
        ),
        Target(leg="websocket", figure="half_p99_ms", bound=10.0, disk=3.0),
        Target(leg="mqtt", figure="half_p99_ms", bound=10.0, disk=3.0),
        Target(leg="websocket", figure="rate", bound=40_000, where={"clients": 100}, least=True),
        Target(leg="http", figure="rate", bound=10_000, where={"clients": 100}, least=True),
        Target(leg="ndjson", figure="rate", bound=60_000, where={"clients": 100}, least=True),
    )

    async def run(self, parameters: PipelineParameters, run: Run) -> dict[str, Any]:
        p = parameters
        publishers = p.connections if run.leg.name == "http" else p.publishers
        async with run.serve(p.window, None) as server:
            kind = run.leg.pipeline(p.mqtt)
            load = kind(server, publishers, p.clients, p.messages, p.size, run.progress)
            return await load.run(rate=p.rate, seconds=p.seconds, half=p.half)
