"""One WebSocket connection after its handshake: bytes and frames in, calls to the hub out.

The protocol core of `websockets` answers pings and closes (reader.py). While a hello is under way, or a token has to be
checked with somebody else's keys, the socket is not read, and what had come already waits in `held`; so nothing is
taken from a client whose right to say it is not known yet.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol

from gateway import wire
from gateway.auth import Principal
from gateway.commit import BareMessage
from gateway.errors import Close, Conflict, Forbidden, GatewayError, Invalid, Unauthorized
from gateway.model import Item
from gateway.transports.conversation import (
    CLOSING,
    HANDLERS,
    JOINING,
    NEW,
    OWED_HIGH,
    OWED_LOW,
    WELCOME_WAIT,
    Handler,
)
from gateway.transports.frames import read_frame
from gateway.transports.slices import DOORS
from gateway.transports.websocket.frames import Codec
from gateway.transports.websocket.life import Life
from gateway.transports.websocket.reader import FrameReader

if TYPE_CHECKING:
    from gateway.transports.websocket.server import WebSocketServer

INVALID_TEXT: Final = 1007  # RFC 6455 8.1


class Connection(Life):
    """A ports.Connection. `peer` is the client's address as text."""

    __slots__ = ("held", "partial", "peer", "reader")

    def __init__(
        self,
        server: "WebSocketServer",
        transport: asyncio.Transport,
        codec: Codec,
        core: Protocol,
        principal: Principal | None,
        peer: str,
    ) -> None:
        super().__init__(server, transport, codec, core, principal)
        self.peer = peer
        self.reader = FrameReader(core, codec.first_byte)
        self.held: list[Any] | None = None
        self.partial: bytearray | None = None  # of a message in fragments

    # -- bytes -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        server = self.server
        server.bytes_in += len(data)
        self.last_proof = server.now()
        core = self.core
        frames = self.reader.feed(data)
        if self.phase >= CLOSING:
            self._still_closing()
            return
        if self.held is not None:
            self.held += frames
            self.throttle()
        elif frames:
            self._take(frames)
        if core.state is not OPEN:
            self._core_ended()
        elif core.writes:
            self.touch()

    def _still_closing(self) -> None:
        """Nothing counts any more but the peer's close frame."""
        self.core.data_to_send()
        if self.core.close_rcvd is not None:
            self.hang_up()

    def _core_ended(self) -> None:
        """The peer has sent a close frame, or broken the protocol: the core has its answer ready."""
        if self.phase >= CLOSING:
            return
        assert self.core.close_sent is not None
        self.closing(self.core.close_sent.code)
        self.tell_hub()

    def _take(self, frames: list[Any]) -> None:
        """Frames in order; the rest waits as soon as something has to be known first."""
        for i, frame in enumerate(frames):
            if type(frame) is bytes:
                self._message(frame)
            else:
                self._frame(frame)
            if self.phase >= CLOSING:
                return
            if self.held is not None:
                if rest := frames[i + 1 :]:
                    self.held += rest
                    self.throttle()
                return

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if (opcode is Opcode.BINARY) is not self.codec.binary:
                wanted = "binary" if self.codec.binary else "text"
                self.fail(Invalid(f"the subprotocol has {wanted} frames", code="frame_kind", http=400))
            elif frame.fin:
                self._message(bytes(frame.data))
            else:
                self.partial = bytearray(frame.data)
        elif opcode is Opcode.CONT:
            # the core lets no continuation come without a start, and counts the size of the whole
            assert self.partial is not None
            self.partial += frame.data
            if frame.fin:
                data, self.partial = bytes(self.partial), None
                self._message(data)

    # -- frames ----------------------------------------------------------------------------------------------------

    def _message(self, data: bytes) -> None:
        self.server.frames_in += 1
        if not self.codec.binary and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self.end(INVALID_TEXT, "text that is not UTF-8")
                return
        try:
            frame = read_frame(self.codec, data)
            if self.phase == NEW and type(frame) is not wire.Hello:
                raise Invalid("the first frame must be hello", code="hello_first", http=400)
            _HANDLERS[type(frame)](self, frame)
        except GatewayError as error:
            self.fail(error)

    def _on_hello(self, hello: wire.Hello) -> None:
        if self.phase != NEW:
            raise Conflict("this connection has had its hello", code="hello_again")
        self.phase = JOINING
        self.deadline = self.server.now() + WELCOME_WAIT
        self._hold()
        self.server.slices.run(DOORS, lambda: self._take_turn(hello))

    def _take_turn(self, hello: wire.Hello) -> None:
        """Its hello is looked at now, unless it has gone."""
        if self.phase != JOINING:
            return
        try:
            if hello.token is not None:
                self._check(hello.token, hello)
            elif self.principal is not None:
                self._join(self.principal, hello)
            else:
                raise Unauthorized("send a token, at the handshake or in hello", field="$.token")
        except GatewayError as error:
            self.fail(error)

    def _on_token(self, frame: wire.NewToken) -> None:
        self._check(frame.token, None)

    # -- who it is -------------------------------------------------------------------------------------------------

    def _check(self, token: str, hello: wire.Hello | None) -> None:
        """Prove a token, in this turn where the key is at hand. Raises GatewayError."""
        principal = self.server.authenticator.try_token(token)
        if principal is not None:
            self._proven(principal, hello)
        else:
            self._hold()
            self.server.spawn(self._check_slowly(token, hello))

    async def _check_slowly(self, token: str, hello: wire.Hello | None) -> None:
        try:
            principal = await self.server.authenticator.authenticate_token(token)
            if self.phase < CLOSING:
                self._proven(principal, hello)
        except GatewayError as error:
            self.fail(error)
            return
        if hello is None:
            self._release()

    def _proven(self, principal: Principal, hello: wire.Hello | None) -> None:
        """Raises GatewayError."""
        server = self.server
        if self.principal is not None and principal.name != self.principal.name:
            raise Unauthorized("the token is another client's", code="token_subject", field="$.token")
        self.principal = principal
        if hello is not None:
            self._join(principal, hello)
        elif server.hub.banned(principal.name, server.now()):
            self._banned()
        else:
            # it may expire before the next look
            server.wheel.put(self, server.now())

    def _join(self, principal: Principal, hello: wire.Hello) -> None:
        """Raises GatewayError."""
        hub = self.server.hub
        if hub.banned(principal.name, self.server.now()):
            self._banned()
            return
        self._hold()
        self.joined = True
        try:
            hub.hello(self, principal, hello)
        except GatewayError:
            self.joined = False
            raise

    def _banned(self) -> None:
        self.fail(Forbidden("this client is banned for a while", code="banned"), Close.BANNED)

    def welcomed(self) -> None:
        """The welcome is buffered: go live."""
        self.live()
        # what the client sent behind its hello is taken when the hub has done with its call
        self.server.loop.call_soon(self._release)

    # -- holding back ----------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Take nothing more until `_release`; of a client that goes on sending the socket is not read, either."""
        if self.held is None:
            self.held = []

    def _release(self) -> None:
        if self.phase >= CLOSING:
            return
        held, self.held = self.held, None
        if held:
            self._take(held)
        self.throttle()

    def throttle(self) -> None:
        """Read the socket, or leave it alone for as long as too much is open."""
        owed_limit = OWED_LOW if self.stopped else OWED_HIGH
        stop = self.held is not None or self.owed > owed_limit or self.piled > self.server.pile_high
        if stop is self.stopped or self.phase >= CLOSING:
            return
        self.stopped = stop
        if stop:
            self.transport.pause_reading()
        else:
            # bytes that wait in the kernel are heard only when they are read
            self.quiet_from = self.server.now()
            self.transport.resume_reading()

    def on_bare_pub(self, frame: wire.BarePub) -> None:
        """The short way in (hub/bare.py), and the long way for what that leaves."""
        assert self.principal is not None
        self.check_batch(len(frame.m))
        hub, principal = self.server.hub, self.principal
        messages: list[BareMessage] = [(entry.to, bytes(entry.body), 0, entry.ref) for entry in frame.m]
        at = 0
        while at < len(messages):
            count = hub.publish_bare(principal, messages[at:], self)
            self.owed += count
            at += count
            if at < len(messages):
                entry = frame.m[at]
                self.publish(wire.PubEntry(to=entry.to, body=entry.body, ref=entry.ref), f"$.m[{at}]")
                at += 1
        self.throttle()

    def stored_run(self, refs: list[Any], items: list[Item]) -> None:
        """Publishes of this connection are durable."""
        if self.phase >= CLOSING:
            return
        entries = [wire.ok_entry(ref, item.id, False) for ref, item in zip(refs, items, strict=True)]
        if self.oks is None:
            self.oks = entries
        else:
            self.oks += entries
        self.touch()
        self.owed -= len(refs) - 1
        self.answered()

    def answered(self) -> None:
        """A publish has its answer."""
        self.owed -= 1
        if self.stopped:
            self.throttle()

    def flush(self) -> None:
        super().flush()
        if self.piled:
            self.throttle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.throttle()

    def let_go(self) -> None:
        super().let_go()
        self.held = self.partial = None


_HANDLERS: Final[dict[type, Handler]] = {
    **HANDLERS,
    wire.Hello: Connection._on_hello,
    wire.NewToken: Connection._on_token,
    wire.BarePub: Connection.on_bare_pub,
}
