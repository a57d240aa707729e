"""How long a connection lives: whether its peer reads, whether it is still there, how the end goes.

There is no task and no timer here: the server's wheel calls `look` when something of this connection may be due.

Whoever ends a connection, the hub is told once: at once where the end begins here, with the socket's end where the hub
itself closed it.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from websockets.protocol import OPEN, Protocol

from gateway import wire
from gateway.auth import Principal
from gateway.errors import Close, GatewayError, Unauthorized, Unavailable
from gateway.observe.log import get_logger
from gateway.transports.conversation import BLAMELESS, CLOSING, GONE, INTERNAL, JOINING, LIVE, NEW
from gateway.transports.frames import close_code
from gateway.transports.slices import ENDS
from gateway.transports.sockets import end_stream
from gateway.transports.websocket.frames import Codec
from gateway.transports.websocket.writer import Writer

if TYPE_CHECKING:
    from gateway.transports.websocket.server import WebSocketServer

# ms for the peer's answer to a close frame, then the socket is cut
CLOSE_WAIT: Final = 2000
LOST: Final = 1006  # in figures only: no close frame was seen (RFC 6455 7.1.5)
PING: Final = b"\x89\x00"

_log = get_logger("websocket")

# ends after which nobody is expected to answer
_AT_ONCE: Final = frozenset((Close.SLOW, Close.HEARTBEAT))


class Life(Writer):
    """A connection in time. `last_proof` is the Unix ms of the last inbound byte."""

    __slots__ = ("deadline", "last_proof", "next_ping", "quiet_from", "slot", "stall_at", "stopped")

    def __init__(
        self,
        server: "WebSocketServer",
        transport: asyncio.Transport,
        codec: Codec,
        core: Protocol,
        principal: Principal | None,
    ) -> None:
        super().__init__(server, transport, codec, core, principal)
        now = server.now()
        self.slot = 0
        self.deadline = now + server.hello_ms  # of every phase but LIVE
        self.last_proof = now
        self.quiet_from = now  # silence counts from here at the earliest
        self.next_ping = 0
        self.stall_at = 0  # when the peer was last seen to take something, in ms
        self.stopped = False  # the socket is not read

    # -- whether the peer reads ------------------------------------------------------------------------------------

    def write_out(self) -> None:
        """Lay out what is buffered and write it."""
        try:
            super().write_out()
        except (ValueError, TypeError, OverflowError) as error:
            # One message that cannot be laid out must not end the turn of all others. The end counts as unclean: a
            # message that does this again and again is dead at last (poison).
            _log.error(
                "a frame could not be written",
                client=self.principal.name if self.principal is not None else "",
                error=type(error).__name__,
            )
            self.drop_buffers()
            self.end(INTERNAL, "internal error")

    def flush(self) -> None:
        super().flush()
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
        """The peer does not read: 4001, and what waits for it is let go."""
        if self.phase < CLOSING:
            self.end(Close.SLOW, "slow consumer")

    def _stalled(self, now: int) -> bool:
        """Whether the peer has taken nothing for the whole stall timeout."""
        left = self.transport.get_write_buffer_size()
        if left < self.stall_left:
            self.stall_left = left
            self.stall_at = now
        return now - self.stall_at >= self.server.stall_ms

    # -- whether it is still there ---------------------------------------------------------------------------------

    def live(self) -> None:
        """Welcomed: from now on there are heartbeats."""
        server = self.server
        self.phase = LIVE
        self.quiet_from = now = server.now()
        self.next_ping = now + int(server.rng() * server.heartbeat_ms)
        server.wheel.put(self, self.next_ping)

    def look(self, now: int) -> int:
        """Do what is due; when to look again (see wheel.py)."""
        if self.phase == LIVE:
            return self._look_live(now)
        if self.phase == GONE:
            return 0
        if now < self.deadline:
            return self.deadline
        if self.phase == NEW:
            self.end(Close.NO_HELLO, "no hello in time")
        elif self.phase == JOINING:
            self.fail(Unavailable("no welcome in time", code="not_ready"))
        else:
            self.abort()
        return 0

    def _look_live(self, now: int) -> int:
        server = self.server
        expires = self._expires(now)
        heard = now if self.stopped else max(self.last_proof, self.quiet_from, server.awake_since)
        silent = heard + server.silence_ms
        if expires <= now:
            self.fail(Unauthorized("the token has expired", code="token_expired"))
        elif silent <= now:
            self.end(Close.HEARTBEAT, "heartbeat lost")
        elif self.paused and self._stalled(now):
            self.too_slow()
        if self.phase >= CLOSING:
            return 0
        if self.next_ping <= now:
            self.next_ping = max(self.next_ping + server.heartbeat_ms, now + 1)
            if not self.paused:
                self.write([PING], 0)
        again = min(expires, silent, self.next_ping)
        return min(again, now + server.stall_step) if self.paused else again

    def _expires(self, now: int) -> int:
        """When the token expires, on the hub's clock (`exp` is real time)."""
        assert self.principal is not None
        exp = self.principal.exp
        if exp is None:
            return now + self.server.heartbeat_ms
        return now + max(0, int((exp - self.server.hub.scheduler.wall()) * 1000))

    # -- the end ---------------------------------------------------------------------------------------------------

    def fail(self, error: GatewayError, code: int | None = None) -> None:
        """Say what is wrong and end the connection."""
        if code is None:
            code = close_code(error)
        self.head(wire.err_frame(error, close=int(code)))
        self.end(code, error.code)

    def close(self, code: int, reason: str) -> None:
        """Write what is buffered, then the close frame, and wait a little for the peer's. `code` as in errors.Close."""
        if self.phase >= CLOSING:
            return
        self.write_out()
        if self.phase >= CLOSING:
            return
        if self.core.state is OPEN:
            # a control frame has room for 125 bytes (RFC 6455 5.5)
            self.core.send_close(int(code), reason.encode()[:123].decode(errors="ignore"))
        self.clean = self.clean or code in BLAMELESS
        self.closing(code)

    def closing(self, code: int) -> None:
        """The core has a close frame ready: write it, keep nothing, wait for a bounded time."""
        core, server = self.core, self.server
        self.phase = CLOSING
        server.count_close(int(code))
        self.write(core.data_to_send(), 0)
        self.let_go()
        if code in _AT_ONCE:
            self.abort()
            return
        self.deadline = server.now() + CLOSE_WAIT
        server.wheel.put(self, self.deadline)
        if core.close_rcvd is not None:
            self.hang_up()
            return
        if self.stopped:
            # the peer's close frame is to be seen
            self.stopped = False
            self.transport.resume_reading()
        if core.eof_sent and self.transport.can_write_eof():
            # What the peer still sends is read and thrown away: closing over it would reset the connection, and the
            # close frame could be lost on its way (RFC 6455 7.1.1)
            end_stream(self.transport)

    def lost(self) -> None:
        """The connection has ended without a word."""
        self.phase = CLOSING
        self.server.count_close(LOST)
        self.let_go()
        self.deadline = self.server.now() + CLOSE_WAIT
        self.server.wheel.put(self, self.deadline)
        self.tell_hub()

    def eof_received(self) -> bool:
        """The peer's half is closed; without a close frame that is a loss. False: the transport closes itself."""
        if self.phase >= CLOSING:
            return False
        # nothing more is bound for it
        self.writable = False
        self.server.slices.run(ENDS, self._half_closed)
        return self.phase < CLOSING and self.transport.can_write_eof()

    def _half_closed(self) -> None:
        if self.phase < CLOSING:
            self.lost()
        self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.writable = False
        self.server.slices.run(ENDS, self._gone)

    def _gone(self) -> None:
        if self.phase < CLOSING:
            self.lost()
        self.phase = GONE
        # the core and its parser would keep each other until a collection
        self.core.parser.close()
        self.tell_hub()
        self.server.forget(self)
        self.server.hub.left(self)

    def let_go(self) -> None:
        """Drop all that belongs to the conversation."""
        self.drop_buffers()

    def hang_up(self) -> None:
        """Both close frames are through."""
        if not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        """Cut the socket now."""
        self.transport.abort()
