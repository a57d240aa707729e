"""How long a connection lives: whether its peer reads, whether it is still there, how the end goes.

    JOINING ── CONNACK ──> LIVE
       └─────────────────────┴── close, loss, error ──> CLOSING ── socket gone ──> GONE

There is no task and no timer here: the server's wheel calls `look` when something of this connection may be due.

Whoever ends a connection, the hub is told once: at once where the end begins here, with the socket's end where the hub
itself closed it.
"""

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from gateway.auth import Principal
from gateway.errors import Close
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Malformed, P, Props, Reason
from gateway.transports.mqtt.codes import BLAMELESS, BY_ADMINISTRATOR, CLOSES, fitted, in_connack, label
from gateway.transports.mqtt.wills import Will
from gateway.transports.mqtt.writer import CLOSING, GONE, JOINING, LIVE, Writer
from gateway.transports.slices import ENDS
from gateway.transports.sockets import end_stream

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# ms in which the peer can read the last packet and hang up, then the socket is cut
CLOSE_WAIT: Final = 2000
# ms until the hub has joined a device to its session: what a store may take on its worst day
WELCOME_WAIT: Final = 60_000
# a keep alive is lost after this many times its seconds [MQTT-3.1.2-22]
SILENCE: Final = 1.5
_NEVER: Final = 1 << 62


# ends after which nobody is expected to answer
_AT_ONCE: Final = frozenset((Close.SLOW, Close.HEARTBEAT))
# ends by which the gateway sends a device elsewhere
_MOVED: Final = frozenset((Reason.SERVER_SHUTTING_DOWN, Reason.USE_ANOTHER_SERVER))


class Life(Writer):
    """A connection in time. `last_proof` is the Unix ms of the last inbound byte, `peer` the address as text."""

    __slots__ = (
        "clean", "deadline", "joined", "keep", "last_proof", "peer", "principal", "problems", "quiet_from",
        "silence", "slot", "stall_at", "stopped", "will",
    )  # fmt: skip

    def __init__(
        self,
        server: "MqttServer",
        transport: asyncio.Transport,
        version: int,
        principal: Principal,
        peer: str,
    ) -> None:
        super().__init__(server, transport, version)
        self.principal = principal
        self.peer = peer
        self.slot = 0
        now = server.now()
        self.deadline = 0  # when a wait for the hub, or the end, has taken too long; 0: nothing is waited for
        self.last_proof = now
        self.quiet_from = now  # silence counts from here at the earliest
        self.silence = 0  # ms after which it is lost; 0: never
        self.stall_at = 0  # when the peer was last seen to take something, in ms
        self.stopped = False  # the socket is not read
        self.joined = False  # the hub must be told of the end
        self.clean = False
        self.keep = 0  # ms that the session outlives the connection
        self.problems = True  # the device wants reason strings
        self.will: Will | None = None

    @property
    def client(self) -> str:
        """Who it is."""
        return self.principal.name

    # -- whether the peer reads ------------------------------------------------------------------------------------

    def broken(self) -> None:
        """Something could not be laid out."""
        self.end(Reason.IMPLEMENTATION_SPECIFIC, "internal error")

    def on_piled(self) -> None:
        """Answers wait for a peer that does not read: only so many."""
        if self.piled > self.server.pile_limit:
            self.too_slow()

    def pause_writing(self) -> None:
        """The socket did not take all."""
        self.paused = True
        self.writable = False
        self.stall_at = now = self.server.now()
        self.stall_left = self.transport.get_write_buffer_size()
        self.server.wheel.put(self, now + self.server.stall_step)

    def resume_writing(self) -> None:
        """All that was written is with the socket."""
        self.paused = False
        self.piled = 0
        if self.phase >= CLOSING:
            return
        self.flush()
        if not self.paused:
            self.writable = True
            if self.phase == LIVE:
                self.server.hub.resumed_writing(self)

    def too_slow(self) -> None:
        """The peer does not read: what waits for it is let go."""
        self.end(CLOSES[Close.SLOW], "slow consumer", at_once=True)

    def _stalled(self, now: int) -> bool:
        """Whether the peer has taken nothing for the whole stall timeout."""
        left = self.transport.get_write_buffer_size()
        if left < self.stall_left:
            self.stall_left = left
            self.stall_at = now
        return now - self.stall_at >= self.server.stall_ms

    # -- whether it is still there ---------------------------------------------------------------------------------

    def live(self) -> None:
        """Accepted: the keep alive runs."""
        self.phase = LIVE
        self.deadline = 0
        if not self.silence:
            watch_socket(self.transport, self.server.max_keep_alive)
        self.quiet_from = now = self.server.now()
        again = self._look_live(now)
        if again:
            self.server.wheel.put(self, again)

    def wait_for_hub(self) -> None:
        """The hub is to answer within a bounded time."""
        self.deadline = self.server.now() + WELCOME_WAIT
        self.server.wheel.put(self, self.deadline)

    def look(self, now: int) -> int:
        """Do what is due; when to look again (see wheel.py)."""
        if self.phase == LIVE:
            return self._look_live(now)
        if self.phase == GONE:
            return 0
        if now < self.deadline:
            return self.deadline
        if self.phase == JOINING:
            self.end(Reason.SERVER_BUSY, "the session was not there in time", clean=True)
        else:
            self.abort()
        return 0

    def _look_live(self, now: int) -> int:
        server = self.server
        expires = self._expires(now)
        heard = now if self.stopped else max(self.last_proof, self.quiet_from, server.awake_since)
        silent = heard + self.silence if self.silence else _NEVER
        waits = self.deadline or _NEVER
        if expires <= now:
            self.end(CLOSES[Close.TOKEN_EXPIRED], "the token has expired", clean=True)
        elif silent <= now:
            self.end(CLOSES[Close.HEARTBEAT], "keep alive timeout", at_once=True)
        elif self.paused and self._stalled(now):
            self.too_slow()
        elif waits <= now:
            self.end(Reason.SERVER_BUSY, "the session was not there in time", clean=True)
        if self.phase >= CLOSING:
            return 0
        again = min(expires, silent, waits)
        if self.paused:
            again = min(again, now + server.stall_step)
        return again if again < _NEVER else 0

    def _expires(self, now: int) -> int:
        """When the token expires, on the hub's clock (`exp` is real time)."""
        exp = self.principal.exp
        if exp is None:
            return _NEVER
        return now + max(0, int((exp - self.server.hub.scheduler.wall()) * 1000))

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, code: Reason, why: str, *, clean: bool = False, at_once: bool = False) -> None:
        """End it from here: the hub does not know yet. `clean`: not to be blamed on what was delivered; `at_once`:
        nobody is expected to read the last packet.
        """
        if self.phase >= CLOSING:
            return
        self.tell_acks()
        self.clean = self.clean or clean
        if self._finish(code, why, at_once):
            self.tell_hub()
            self.give_will(moved=code in _MOVED)

    def stop(self) -> None:
        """The gateway stops."""
        self.end(self.server.away(), "the gateway stops", clean=True)

    def malformed(self, error: Malformed) -> None:
        """The stream cannot be read further."""
        self.end(error.code, error.detail)

    def close(self, code: int, reason: str) -> None:
        """The hub ends it: write what is buffered, then say so. `code` as in errors.Close."""
        if self.phase >= CLOSING:
            return
        self.clean = self.clean or code in BLAMELESS
        drained = code == Close.DRAIN and reason != BY_ADMINISTRATOR
        said = self.server.away() if drained else CLOSES.get(code, Reason.ADMINISTRATIVE_ACTION)
        if self._finish(said, reason, code in _AT_ONCE):
            self.give_will(moved=drained)
        if code == Close.TAKEN_OVER:
            # its client is here again, by whatever way
            self.server.wills.came_back(self.principal.name, clean=False)

    def lost(self) -> None:
        """The connection has ended without a word."""
        self.tell_acks()
        self.server.count_end("client", "lost")
        self.closing()
        self.tell_hub()
        self.give_will()

    def _finish(self, code: Reason, why: str, at_once: bool) -> bool:
        """Write what is buffered, then the packet that says why this is the end; wait a little for the peer to hang up.

        Whether it has not ended meanwhile.
        """
        self.write_out()
        if self.phase >= CLOSING:
            return False
        server = self.server
        joining = self.phase == JOINING
        self.farewell(code, why)
        if joining:
            code = in_connack(code)
            server.count_connack(code)
        else:
            server.count_end("server", label(code))
        if joining or self.version == 5:
            packet = last_word(self, code, why, connack=joining)
            if packet:
                server.packets_out += 1
                self.write([packet], 0)
        self.closing()
        if at_once:
            self.abort()
            return True
        transport = self.transport
        if self.stopped:
            # the end of the peer's stream is to be seen
            self.stopped = False
            transport.resume_reading()
        end_stream(transport)
        return True

    def farewell(self, code: Reason, why: str) -> None:
        """Before the last packet: what else there is to say."""

    def closing(self) -> None:
        """Keep nothing; what is left of the socket's life is bounded."""
        self.phase = CLOSING
        self.let_go()
        self.deadline = self.server.now() + CLOSE_WAIT
        self.server.wheel.put(self, self.deadline)

    def eof_received(self) -> bool:
        """The peer's half is closed; without a DISCONNECT that is a loss. False: the transport closes itself."""
        if self.phase >= CLOSING:
            return False
        # nothing more is bound for it
        self.writable = False
        self.server.slices.run(ENDS, self._half_closed)
        return self.phase < CLOSING and self.transport.can_write_eof()

    def _half_closed(self) -> None:
        if self.phase < CLOSING:
            self.lost()
        if not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.writable = False
        self.server.slices.run(ENDS, self._gone)

    def _gone(self) -> None:
        if self.phase < CLOSING:
            self.lost()
        self.phase = GONE
        self.tell_hub()
        self.server.forget(self)
        self.server.hub.left(self)

    def let_go(self) -> None:
        """Drop all that belongs to the conversation."""
        self.drop_buffers()

    def tell_acks(self) -> None:
        """The hub hears of the PUBACKs that were read."""
        acks, self.acks = self.acks, None
        if acks:
            self.server.hub.ack(self, None, acks)

    def tell_hub(self, keep: int | None = None) -> None:
        if self.joined:
            self.joined = False
            self.server.hub.disconnected(self, self.clean, keep=keep)

    def give_will(self, *, moved: bool = False) -> None:
        """Its will is to be published now, or later."""
        will, self.will = self.will, None
        if will is None:
            return
        if moved:
            self.server.wills.drop()
        else:
            self.server.wills.left(will, self.keep)

    def abort(self) -> None:
        """Cut the socket now."""
        self.transport.abort()


def watch_socket(transport: asyncio.Transport, seconds: int) -> None:
    """Of a device without a keep alive only the kernel can notice that it is gone: probe it when it has been silent for
    so long, and give it up after half of that again.
    """
    sock = transport.get_extra_info("socket")
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 8)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * SILENCE * 1000)),
    )
    with suppress(OSError):
        for option in options:
            sock.setsockopt(*option)


def last_word(conn: Life, code: Reason, why: str, *, connack: bool) -> bytes:
    """A CONNACK that refuses, or a DISCONNECT; b"" where 3.1.1, or the device's Maximum Packet Size, has no room."""
    props: Props = {}
    if code is Reason.USE_ANOTHER_SERVER:
        props[P.SERVER_REFERENCE] = conn.server.reference

    def build(told: Props) -> bytes:
        return codec.connack(conn.version, False, code, told) if connack else codec.disconnect(5, code, told)

    return fitted(build, props, why if conn.problems else "", conn.max_packet)
