"""The WebSocket listener: sockets, TLS, one clock for all connections, figures."""

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Self

from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.typing import Origin

from gateway.auth import Authenticator, RateLimiter
from gateway.config import Config, Websocket, parse_listen
from gateway.errors import Close, ConfigError
from gateway.observe.log import get_logger
from gateway.transports.hub import HubSessions
from gateway.transports.peers import networks
from gateway.transports.slices import Slices
from gateway.transports.tls import tls_context
from gateway.transports.websocket.handshake import Handshake
from gateway.transports.websocket.life import CLOSE_WAIT, Life
from gateway.transports.wheel import Wheel

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# bytes of messages that are laid out at once, so also the size of a frame that holds several
MAX_SLICE: Final = 256 * 1024
# sockets above max_connections: handshakes under way, refusals, health checks
SPARE_SOCKETS: Final = 256
# ms between two looks of the clock at the most; short timeouts make it finer
MAX_TICK: Final = 1000
MIN_TICK: Final = 10
# a turn that comes this many ticks late was held up: silence meanwhile proves nothing
LATE_TICKS: Final = 4
# heartbeats of silence until a connection is lost (PROTOCOL 3)
SILENCE: Final = 1.75
BACKLOG: Final = 1024

_log = get_logger("websocket")
_chance: Final = random.SystemRandom().random


class WebSocketServer:
    """All WebSocket connections of the gateway. Made by `start`; `port` is the one that it listens on.

    What is public and not documented here belongs to the connections.
    """

    def __init__(
        self,
        hub: HubSessions,
        authenticator: Authenticator,
        config: Config,
        rng: Callable[[], float] = _chance,
    ) -> None:
        ws, session = config.websocket, config.session
        self.hub = hub
        self.authenticator = authenticator
        self.rng = rng
        self.now = hub.scheduler.now
        self.loop = asyncio.get_running_loop()
        self.slices = Slices(self.loop)
        self.port = 0
        self.mqtt: MqttServer | None = None  # who serves /mqtt
        # limits and times, in bytes and ms
        self.batch = config.limits.batch
        self.max_frame = config.limits.max_frame_bytes
        self.max_connections = ws.max_connections
        self.max_sockets = ws.max_connections + SPARE_SOCKETS
        self.slice_bytes = min(MAX_SLICE, ws.buffer_limit // 4)
        self.pile_limit = ws.buffer_limit - self.slice_bytes
        self.pile_high = self.pile_limit // 2
        self.hello_ms = _ms(ws.hello_timeout)
        self.stall_ms = _ms(ws.stall_timeout)
        self.stall_step = max(1, self.stall_ms // 4)
        self.heartbeat_ms = _ms(session.heartbeat)
        self.silence_ms = _ms(session.heartbeat * SILENCE)
        # who is let in
        self.origins: list[Origin | None] | None = (
            None if "*" in ws.origins else [None, *(Origin(o) for o in ws.origins)]
        )
        self.extensions: list[ServerExtensionFactory] = (
            list(enable_server_permessage_deflate([])) if ws.compression else []
        )
        self.proxies = networks(ws.trusted_proxies)
        self.rate = RateLimiter(ws.handshakes_per_second, ws.handshake_burst)
        # time
        shortest = min(self.heartbeat_ms, self.hello_ms, self.stall_ms)
        self.tick_ms = max(MIN_TICK, min(MAX_TICK, shortest // 8))
        self.wheel = Wheel(self.tick_ms)
        self.awake_since = self._turned = self.now()
        self._timer: asyncio.TimerHandle | None = None
        # figures
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self._handshakes: dict[str, int] = {}
        self._closes: dict[int, int] = {}
        self._sockets: set[Handshake | Life] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._stopping = False
        self._empty = asyncio.Event()
        self._empty.set()

    @classmethod
    async def start(
        cls,
        hub: HubSessions,
        authenticator: Authenticator,
        config: Config,
        mqtt: "MqttServer | None" = None,
    ) -> Self:
        """Listen on `config.websocket.listen`. `mqtt` serves `/mqtt`; None: nothing is there. Raises ConfigError where
        that cannot be, or for a certificate.
        """
        server = cls(hub, authenticator, config)
        server.mqtt = mqtt
        await server.listen(config.websocket)
        return server

    async def listen(self, ws: Websocket) -> None:
        """Begin to accept. Raises ConfigError."""
        host, port = parse_listen(ws.listen)
        tls = tls_context(ws.tls_cert, ws.tls_key, "websocket", "http/1.1") if ws.tls_cert else None
        handshake_s, shutdown_s = self.hello_ms / 1000, CLOSE_WAIT / 1000
        try:
            self._listener = await self.loop.create_server(
                self.protocol,
                host,
                port,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=handshake_s if tls else None,
                ssl_shutdown_timeout=shutdown_s if tls else None,
            )
        except OSError as error:
            raise ConfigError(
                f"websocket.listen: {error.strerror or error}", field="websocket.listen"
            ) from None
        for sock in self._listener.sockets:
            # what is accepted inherits it: else the kernel holds megabytes for each reader that stands still
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ws.buffer_limit)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._arm()
        _log.debug("listening", host=host, port=self.port, tls=tls is not None)

    async def stop(self) -> None:
        """Accept nothing more and end what is left with 4000; connections have 2 s to answer."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        for held in list(self._sockets):
            held.close(Close.DRAIN, "the gateway stops")
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

    def figures(self) -> dict[str, float | dict[str, int]]:
        """Counters since the start and levels of now; `handshakes` by HTTP status or fate, `closes` by close code."""
        connections = [s for s in self._sockets if isinstance(s, Life)]
        return {
            "sockets": len(self._sockets),
            "connections": len(connections),
            "waiting": self.slices.waiting,
            "unwritable": sum(1 for c in connections if c.paused),
            "unread": sum(1 for c in connections if c.stopped),
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "handshakes": dict(self._handshakes),
            "closes": {str(code): n for code, n in self._closes.items()},
        }

    # -- for the connections ---------------------------------------------------------------------------------------

    def protocol(self) -> Handshake:
        """What meets a new socket."""
        return Handshake(self)

    def admit(self, handshake: Handshake) -> bool:
        """Whether there may be one more socket; it is counted from now on."""
        admitted = not self._stopping and len(self._sockets) < self.max_sockets
        self._sockets.add(handshake)
        self._empty.clear()
        return admitted

    def replace(self, handshake: Handshake, conn: Life) -> None:
        """A handshake has become a connection."""
        self.wheel.drop(handshake)
        self._sockets.discard(handshake)
        self._sockets.add(conn)
        self.wheel.put(conn, conn.deadline)

    def forget(self, socket: Handshake | Life) -> None:
        """It is gone."""
        self.wheel.drop(socket)
        self._sockets.discard(socket)
        if not self._sockets:
            self._empty.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Check a token with keys that have to be fetched: one task at a time for a socket, ended by that check."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_handshake(self, result: str) -> None:
        self._handshakes[result] = self._handshakes.get(result, 0) + 1

    def count_close(self, code: int) -> None:
        self._closes[code] = self._closes.get(code, 0) + 1

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.tick_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._arm()
        self.turn()

    def turn(self) -> None:
        """Look at every connection for which something may be due."""
        now = self.now()
        if now - self._turned > LATE_TICKS * self.tick_ms + MAX_TICK:
            # the loop was held up, or the clock was put forward: nobody could be heard
            self.awake_since = now
        self._turned = now
        if self.wheel.turn(now):
            self.loop.call_soon(self.turn)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
