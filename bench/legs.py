"""What can be driven: a server and the protocol that its clients speak."""

from collections.abc import Callable
from importlib.metadata import version

import msgspec

from bench.clients.http import HttpPipeline, NdjsonPipeline
from bench.clients.mqtt import FramedPipeline, Mqtt5Pipeline, MqttPipeline
from bench.clients.nats import NatsPipeline
from bench.clients.socketio import SocketIoPipeline
from bench.clients.ws import WebSocketPipeline
from bench.peers import PEERS
from bench.peers.mosquitto import Mosquitto
from bench.peers.rabbitmq import RabbitMqPipeline
from bench.pipeline import Pipeline
from bench.server import Behind, Gateway, Server


class Leg(msgspec.Struct, frozen=True):
    """A server, and the load that speaks to it.

    idle       what an idle session speaks: `ws`, `mqtt` or "" where none is measured
    needs      what a deployment must be given for it: the kinds of URL, of `ws`, `mqtt`, `api`
    missing    "" or why it cannot be driven here
    version    of the server
    """

    name: str
    title: str
    serve: Callable[[int, dict[str, str] | None], Server]
    load: type[Pipeline]
    idle: str = ""
    needs: tuple[str, ...] = ()
    peer: bool = False
    mqtt5: bool = False
    missing: Callable[[], str] = lambda: ""
    version: Callable[[], str] = lambda: version("bot-gateway")

    def pipeline(self, mqtt: str) -> type[Pipeline]:
        """The load, of MQTT in this version where the leg speaks both."""
        return Mqtt5Pipeline if mqtt == "5" and self.mqtt5 else self.load


def _gateway(window: int, env: dict[str, str] | None) -> Server:
    return Gateway(window, env=env)


def _behind(window: int, _: dict[str, str] | None) -> Server:
    return Behind(window, Mosquitto(window))


def _peer(name: str) -> Leg:
    kind = PEERS[name]
    load = _LOADS.get(name, MqttPipeline)
    mqtt = issubclass(load, MqttPipeline)
    return Leg(
        name,
        name,
        lambda window, _: kind(window),
        load,
        "mqtt" if mqtt else "",
        peer=True,
        mqtt5=kind.mqtt5,
        missing=kind.available,
        version=kind.version,
    )


_LOADS: dict[str, type[Pipeline]] = {
    "nats": NatsPipeline,
    "nats-sync": NatsPipeline,
    "rabbitmq": RabbitMqPipeline,
    "socketio": SocketIoPipeline,
}
_OWN = (
    Leg("websocket", "gateway, WebSocket", _gateway, WebSocketPipeline, "ws", ("ws",)),
    Leg("mqtt", "gateway, MQTT", _gateway, MqttPipeline, "mqtt", ("mqtt",), mqtt5=True),
    Leg("mqtt-broker", "gateway behind Mosquitto", _behind, FramedPipeline, missing=Mosquitto.available),
    Leg("http", "gateway, HTTP", _gateway, HttpPipeline, "", ("api", "ws")),
    Leg("ndjson", "gateway, NDJSON", _gateway, NdjsonPipeline, "", ("api", "ws")),
)
GATEWAY = tuple(leg.name for leg in _OWN)
# the order in which each round drives them
LEGS: dict[str, Leg] = {leg.name: leg for leg in (*_OWN, *(_peer(name) for name in PEERS))}
