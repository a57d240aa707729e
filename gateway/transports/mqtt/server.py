"""The MQTT endpoint: sockets, TLS, one clock for all connections, who is connected, figures."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Final, Protocol, Self

from gateway.auth import Authenticator, RateLimiter
from gateway.config import Config, Mqtt, parse_listen
from gateway.errors import ConfigError, GatewayError
from gateway.model import Sub
from gateway.observe.log import get_logger
from gateway.transports.hub import HubSessions
from gateway.transports.mqtt.admission import Admission
from gateway.transports.mqtt.codec import P, Props, Reason
from gateway.transports.mqtt.codes import label
from gateway.transports.mqtt.connection import Connection
from gateway.transports.mqtt.framing import Framing
from gateway.transports.mqtt.life import CLOSE_WAIT, Life
from gateway.transports.mqtt.topics import Topics
from gateway.transports.mqtt.uplink import Uplink
from gateway.transports.mqtt.wills import Wills
from gateway.transports.slices import Slices
from gateway.transports.tls import tls_context
from gateway.transports.wheel import Wheel

# bytes of messages that are laid out at once
MAX_SLICE: Final = 256 * 1024
# sockets above max_connections: those whose CONNECT is under way, and refusals
SPARE_SOCKETS: Final = 256
# ms between two looks of the clock at the most; short timeouts make it finer
MAX_TICK: Final = 1000
MIN_TICK: Final = 10
# a turn that comes this many ticks late was held up: silence meanwhile proves nothing
LATE_TICKS: Final = 4
BACKLOG: Final = 1024

_log = get_logger("mqtt")


class MqttHub(HubSessions, Protocol):
    """What the endpoint asks of the hub."""

    @property
    def ready(self) -> str:
        """ "" when it takes clients, else why not: `draining`, or what is wrong with the store."""


class MqttServer:
    """All MQTT connections of the gateway. Made by `start`; `port` is the one that it listens on.

    What is public and not documented here belongs to the connections.
    """

    def __init__(self, hub: MqttHub, authenticator: Authenticator, config: Config) -> None:
        mqtt = config.mqtt
        self.hub = hub
        self.authenticator = authenticator
        self.now = hub.scheduler.now
        self.loop = asyncio.get_running_loop()
        self.slices = Slices(self.loop)
        self.port = 0
        self.topics = Topics(mqtt.prefix)
        self.reference = mqtt.server_reference
        # limits and times, in bytes and ms
        self.max_connections = mqtt.max_connections
        self.max_sockets = mqtt.max_connections + SPARE_SOCKETS
        self.max_packet = mqtt.max_packet_bytes
        self.max_payload = config.limits.max_payload
        self.receive_maximum = mqtt.receive_maximum
        self.alias_maximum = mqtt.topic_alias_maximum
        self.max_subscriptions = mqtt.max_subscriptions
        self.max_keep_alive = mqtt.max_keep_alive
        self.slice_bytes = min(MAX_SLICE, mqtt.buffer_limit // 4)
        self.pile_limit = mqtt.buffer_limit - self.slice_bytes
        self.pile_high = self.pile_limit // 2
        self.connect_ms = _ms(mqtt.connect_timeout)
        self.stall_ms = _ms(mqtt.stall_timeout)
        self.stall_step = max(1, self.stall_ms // 4)
        self.expiry_ms = _ms(config.session.expiry)
        self.rate = RateLimiter(mqtt.connects_per_second, mqtt.connect_burst)
        self.capabilities = self._capabilities()
        # time
        shortest = min(1000 * mqtt.max_keep_alive, self.connect_ms, self.stall_ms)
        self.tick_ms = max(MIN_TICK, min(MAX_TICK, shortest // 8))
        self.wheel = Wheel(self.tick_ms)
        self.awake_since = self._turned = self.now()
        self._timer: asyncio.TimerHandle | None = None
        # who is here
        self.framing = Framing(hub, config, self.wheel, door="frames", sub=int(Sub.FRAMED))
        self.wills = Wills(self)
        self._clients: dict[str, Connection] = {}
        self._unanswered: dict[str, Uplink] = {}  # ended connections whose publishes are being committed
        self._seeking: dict[str, Uplink] = {}  # who waits for them
        self._asking: list[Uplink] = []
        self._sockets: set[Admission | Life] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._stopping = False
        self._empty = asyncio.Event()
        self._empty.set()
        # figures
        self.packets_in = self.packets_out = self.bytes_in = self.bytes_out = 0
        self.dropped = 0  # publishes at QoS 0 that were refused
        self._connacks: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def _capabilities(self) -> Props:
        """What every CONNACK of MQTT 5 says."""
        props: Props = {
            P.RECEIVE_MAXIMUM: self.receive_maximum,
            P.MAXIMUM_QOS: 1,
            P.RETAIN_AVAILABLE: 0,
            P.MAXIMUM_PACKET_SIZE: self.max_packet,
            P.WILDCARDS_AVAILABLE: 0,
            P.SUBSCRIPTION_IDS_AVAILABLE: 0,
            P.SHARED_AVAILABLE: 0,
        }
        if self.alias_maximum:
            props[P.TOPIC_ALIAS_MAXIMUM] = self.alias_maximum
        return props

    @classmethod
    async def start(cls, hub: MqttHub, authenticator: Authenticator, config: Config) -> Self:
        """Listen on `config.mqtt.listen`, which is not empty. Raises ConfigError where that cannot be, or for a
        certificate.
        """
        server = cls(hub, authenticator, config)
        await server.listen(config.mqtt)
        return server

    async def listen(self, mqtt: Mqtt) -> None:
        """Begin to accept. Raises ConfigError."""
        host, port = parse_listen(mqtt.listen)
        tls = tls_context(mqtt.tls_cert, mqtt.tls_key, "mqtt", "mqtt") if mqtt.tls_cert else None
        connect_s, shutdown_s = self.connect_ms / 1000, CLOSE_WAIT / 1000
        try:
            self._listener = await self.loop.create_server(
                lambda: Admission(self),
                host,
                port,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=connect_s if tls else None,
                ssl_shutdown_timeout=shutdown_s if tls else None,
            )
        except OSError as error:
            raise ConfigError(f"mqtt.listen: {error.strerror or error}", field="mqtt.listen") from None
        for sock in self._listener.sockets:
            # what is accepted inherits it: else the kernel holds megabytes for each reader that stands still
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, mqtt.buffer_limit)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.run()
        _log.debug("listening", host=host, port=self.port, tls=tls is not None)

    async def stop(self) -> None:
        """Accept nothing more and send away what is left; connections have 2 s to hang up."""
        self._stopping = True
        self.wills.stop()
        if self._listener is not None:
            self._listener.close()
        for held in list(self._sockets):
            held.stop()
        try:
            async with asyncio.timeout((CLOSE_WAIT + 2 * self.tick_ms) / 1000):
                await self._empty.wait()
        except TimeoutError:
            for held in list(self._sockets):
                held.abort()
            await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.wait_closed()

    def meet(self, transport: asyncio.Transport, peer: str) -> None:
        """A socket that came by another door, such as `/mqtt`: from now on its bytes are MQTT. `peer`: its address."""
        admission = Admission(self, peer)
        transport.set_protocol(admission)
        admission.connection_made(transport)

    def figures(self) -> dict[str, float | dict[str, int]]:
        """Counters since the start and levels of now. `connacks` by reason code or fate, `disconnects` by who said it
        and the reason code, `refused` (publishes at QoS 1) by reason code, `wills` and `frames` by what became of them.
        """
        connections = [s for s in self._sockets if isinstance(s, Life)]
        framing = self.framing
        return {
            "sockets": len(self._sockets),
            "connections": len(connections),
            "waiting": self.slices.waiting,
            "unwritable": sum(1 for c in connections if c.paused),
            "unread": sum(1 for c in connections if c.stopped),
            "packets_in": self.packets_in,
            "packets_out": self.packets_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": self.dropped,
            "connacks": dict(self._connacks),
            "disconnects": dict(self._ends),
            "refused": dict(self._refused),
            "wills": self.wills.figures(),
            "frames": {"in": framing.frames_in, "out": framing.frames_out, "dropped": framing.dropped},
            "frame_closes": {str(code): n for code, n in framing.closes.items()},
        }

    # -- for the connections ---------------------------------------------------------------------------------------

    @property
    def max_frame(self) -> int:
        """Bytes of a WebSocket message that packets come in."""
        return self.max_packet

    def keep(self, expiry: int) -> int:
        """How long a session is kept for a device that asks for `expiry` s, in ms."""
        return min(1000 * expiry, self.expiry_ms)

    def away(self) -> Reason:
        """What a device is told when the gateway cannot serve it: to come back, or to go elsewhere."""
        if not self._stopping and self.hub.ready != "draining":
            return Reason.SERVER_BUSY
        return Reason.USE_ANOTHER_SERVER if self.reference else Reason.SERVER_SHUTTING_DOWN

    def admit(self, admission: Admission) -> bool:
        """Whether there may be one more socket; it is counted from now on."""
        admitted = not self._stopping and len(self._sockets) < self.max_sockets
        self._sockets.add(admission)
        self._empty.clear()
        return admitted

    def replace(self, admission: Admission, conn: Life) -> None:
        """A CONNECT has been accepted."""
        self.wheel.drop(admission)
        self._sockets.discard(admission)
        self._sockets.add(conn)

    def forget(self, socket: Admission | Life) -> None:
        """It is gone."""
        self.wheel.drop(socket)
        self._sockets.discard(socket)
        if not self._sockets:
            self._empty.set()

    def take_over(self, conn: Connection, *, clean: bool) -> None:
        """A client has connected: its older connection ends. `clean`: with a clean start [MQTT-3.1.4-3]."""
        client = conn.principal.name
        older = self._clients.get(client)
        self._clients[client] = conn
        if older is not None:
            older.end(Reason.SESSION_TAKEN_OVER, "taken over")
        self.wills.came_back(client, clean)

    def ended(self, conn: Uplink) -> None:
        """A connection has ended; its last publishes may still be on their way to the disk."""
        client = conn.principal.name
        if self._clients.get(client) is conn:
            del self._clients[client]
        if conn.taken != conn.given:
            self._unanswered[client] = conn

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for somebody else's keys, or for the store: one task at a time for a socket."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_connack(self, code: Reason | str) -> None:
        self._count(self._connacks, code)

    def count_end(self, side: str, code: str) -> None:
        self._count(self._ends, f"{side} {code}")

    def count_refused(self, code: Reason) -> None:
        self._count(self._refused, code)

    @staticmethod
    def _count(figures: dict[str, int], code: Reason | str) -> None:
        key = code if isinstance(code, str) else label(code)
        figures[key] = figures.get(key, 0) + 1

    # -- what packet ids stood for ---------------------------------------------------------------------------------

    def owes(self, conn: Uplink) -> bool:
        """Whether publishes of an earlier connection of its client are unanswered; if so, `conn.seek` is called when
        they are not.
        """
        client = conn.principal.name
        if client not in self._unanswered:
            return False
        self._seeking[client] = conn
        return True

    def answered(self, conn: Uplink) -> None:
        """An ended connection has all its answers."""
        client = conn.principal.name
        if self._unanswered.get(client) is conn:
            del self._unanswered[client]
            seeking = self._seeking.pop(client, None)
            if seeking is not None:
                seeking.seek()

    def look_up(self, conn: Uplink) -> None:
        """Ask the store, once for all connections that want to know in this turn of the loop."""
        if not self._asking:
            self.loop.call_soon(lambda: self.spawn(self._look_up()))
        self._asking.append(conn)

    async def _look_up(self) -> None:
        asking, self._asking = self._asking, []
        try:
            found = await self.hub.uplinks([c.principal.name for c in asking], self.receive_maximum)
        except GatewayError as error:
            for conn in asking:
                conn.end(self.away(), error.detail, clean=True)
            return
        for conn in asking:
            conn.found(found.get(conn.principal.name, {}))

    # -- time ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Look at the clock from now on."""
        self._timer = self.loop.call_later(self.tick_ms / 1000, self._tick)

    def _tick(self) -> None:
        self.run()
        self.turn()

    def turn(self) -> None:
        """Look at every connection for which something may be due."""
        now = self.now()
        if now - self._turned > LATE_TICKS * self.tick_ms + MAX_TICK:
            # the loop was held up, or the clock was put forward: nobody could be heard
            self.awake_since = self.framing.awake_since = now
        self._turned = now
        if self.wheel.turn(now):
            self.loop.call_soon(self.turn)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
