"""slow: some clients stop reading while others go on; the others must not notice, and the stalled miss nothing."""

from typing import Any, ClassVar

from bench.clients.mqtt import MqttPipeline
from bench.clients.ws import WebSocketPipeline
from bench.figures import Meter
from bench.pipeline import spread
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, come_back, verdict


class SlowParameters(Parameters, frozen=True, kw_only=True):
    """
    clients   of which the first `stalled` do not read
    rate      messages a second, to all in turn
    size      bytes of padding: large, so that the server's buffers fill
    stall     the gateway's `stall_timeout`, in seconds
    """

    clients: int = 20
    stalled: int = 5
    rate: float = 500.0
    seconds: float = 18.0
    window: int = 500
    size: int = 32_000
    stall: float = 10.0


class SlowScenario(Scenario):
    name = "slow"
    about = (
        "stalled readers beside live ones: latency of the live, memory, and what the stalled get afterwards"
    )
    Parameters = SlowParameters
    legs = ("websocket", "mqtt")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {},
        "quick": {"seconds": (8.0,), "stall": (1.0,)},
        "smoke": {"clients": (6,), "stalled": (3,), "rate": (200.0,), "seconds": (1.0,), "stall": (0.5,)},
    }
    columns: ClassVar[dict[str, str]] = {
        "p50_ms": "live p50 ms",
        "p99_ms": "live p99 ms",
        "rss_grown_mib": "RSS grown MiB",
        "closed": "closed by the server",
        "cpu_us": "CPU µs/message",
        "redelivered": "redelivered",
        "load_busy": "load busy",
    }

    async def run(self, parameters: SlowParameters, run: Run) -> dict[str, Any]:
        p = parameters
        messages = int(p.rate * p.seconds)
        env = {
            "BOTGW_WEBSOCKET__STALL_TIMEOUT": str(p.stall),
            "BOTGW_MQTT__STALL_TIMEOUT": str(p.stall),
        }
        async with run.serve(p.window, env) as server:
            load = run.leg.load(server, 2, p.clients, messages, p.size, run.progress, disturbed=True)
            assert isinstance(load, WebSocketPipeline | MqttPipeline)
            await load.connect()
            for client in range(p.stalled):
                load.stall(client)
            before, told = server.rss(), await server.told()
            meter = Meter(server)
            await meter.begin()
            await load.pace(p.rate, messages)
            await load.settle(arriving=False)
            figures = await meter.end(messages) | load.latencies()
            grown, after = server.rss() - before, await server.told()
            for client in range(p.stalled):
                load.cut(client)
            await spread(p.stalled, lambda client: come_back(load, client))
            await load.settle()
            load.close()
        return (
            figures
            | {
                "rss_grown_mib": round(grown / (1 << 20), 1),
                "closed": closes(after) - closes(told),
                "redelivered": load.ledger.marked,
            }
            | verdict(load.ledger)
        )


def closes(told: dict[str, float]) -> int:
    """Connections that the gateway ended because their peer did not read."""
    names = ('botgw_websocket_closes{of="4001"}', 'botgw_mqtt_disconnects{of="server 0x97"}')
    return int(sum(told.get(name, 0.0) for name in names))
