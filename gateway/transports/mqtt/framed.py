"""Framed MQTT (PROTOCOL 4): the frames of PROTOCOL 3, each the payload of one PUBLISH.

A FramedDesk is given the frames of one client, in the order in which the client sent them. Each hello with a new nonce
`c` begins a FramedPeer, which the hub sees as a connection of its own; it takes over from the one before. What section
3 says by close code is the last frame of a peer: an `err` with `close` and its nonce, for the topic has other readers
before and after it. What carries the frames, a device's socket or the link to a broker, is a Link.
"""

from typing import Any, Final

import msgspec

from gateway import wire
from gateway.auth import Principal
from gateway.errors import Close, GatewayError, Invalid
from gateway.transports.conversation import LIVE
from gateway.transports.frames import close_code, read_frame
from gateway.transports.mqtt.framing import MAX_SLICE, Authenticate, Framing, Link, closing_error, err_frame
from gateway.transports.mqtt.peer import JSON, FramedPeer

# a welcome fits into this, whatever is in it: a device that takes less cannot be served with frames
MIN_FRAME: Final = 1024
# nonces of peers that were taken over: what comes late of them takes nothing back
PAST: Final = 8

_HELLO_FIRST: Final = Invalid("the first frame must be hello", code="hello_first", http=400)


class _Loose(msgspec.Struct):
    t: Any = None
    c: Any = None


_loose: Final = msgspec.json.Decoder(_Loose).decode


class FramedDesk:
    """The frames of one client over one link.

    `principal` is who the client is; `address` is that of its device as text. `max_frame` is how long a payload may be.
    `authenticate` None: tokens are not for this transport to check, nor needed.
    """

    __slots__ = (
        "_past", "address", "authenticate", "framing", "link", "max_frame", "peer", "principal", "writable"
    )  # fmt: skip

    def __init__(
        self,
        framing: Framing,
        link: Link,
        principal: Principal,
        *,
        address: str = "",
        max_frame: int = MAX_SLICE,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.framing = framing
        self.link = link
        self.principal = principal
        self.address = address
        self.max_frame = max_frame
        self.authenticate = authenticate
        self.peer: FramedPeer | None = None
        self.writable = True
        self._past: tuple[str, ...] = ()

    @property
    def client(self) -> str:
        return self.principal.name

    # -- what the link tells ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """The payload of a PUBLISH of the client."""
        self.framing.frames_in += 1
        try:
            if not data.isascii():
                data.decode()
            frame = read_frame(JSON, data)
        except UnicodeDecodeError:
            self._unreadable(data, Invalid("text that is not UTF-8", code="malformed", field="$", http=400))
            return
        except Invalid as error:
            self._unreadable(data, error)
            return
        if type(frame) is wire.Hello:
            self._hello(frame)
            return
        peer = self.peer
        bye = type(frame) is wire.Bye
        if peer is not None and frame.c == peer.c and (bye or peer.phase == LIVE):
            peer.take(frame)
        elif not bye:
            self._say(_HELLO_FIRST, frame.c)

    def heard(self, now: int) -> None:
        """Something else of the client came in: it is there."""
        if self.peer is not None:
            self.peer.last_proof = now

    def pause(self) -> None:
        """The client does not take what is sent: answers may still be sent, messages wait. Who bounds those answers
        ends the desk with SLOW.
        """
        self.writable = False
        if self.peer is not None:
            self.peer.writable = False

    def resume(self) -> None:
        """It has taken all."""
        self.writable = True
        if self.peer is not None:
            self.peer.resume()

    def end(self, code: int, reason: str) -> None:
        """End the client's peer; `code` as in errors.Close."""
        if self.peer is not None:
            self.peer.end(code, reason)

    def lost(self, *, clean: bool) -> None:
        """What carried the frames is gone. `clean`: after a DISCONNECT, or closed by the gateway."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.lost(clean)

    # -- frames ----------------------------------------------------------------------------------------------------

    def _hello(self, hello: wire.Hello) -> None:
        c, older = hello.c, self.peer
        if not c:
            error: GatewayError = Invalid("a hello needs a nonce `c`", code="nonce_missing", field="$.c")
            self._say(error, None, Close.PROTOCOL)
        elif older is not None and older.c == c:
            older.greet()
        elif c in self._past:
            self._say(closing_error(Close.TAKEN_OVER, "taken over"), c, Close.TAKEN_OVER)
        elif self.max_frame < MIN_FRAME:
            error = Invalid(f"frames need room for {MIN_FRAME} bytes", code="packet_limit", http=400)
            self._say(error, c, Close.PROTOCOL)
        else:
            fresh = self.peer = FramedPeer(self, c)
            try:
                fresh.join(hello)
            except GatewayError as error:
                if older is not None:
                    self.peer = older
                fresh.fail(error)

    def _unreadable(self, data: bytes, error: Invalid) -> None:
        """Whose frame it was decides what comes of it: as much of it is read as can be."""
        peer = self.peer
        try:
            found = _loose(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            if peer is not None:
                peer.fail(error)
            else:
                self._say(error, None, close_code(error))
            return
        c = found.c if isinstance(found.c, str) and len(found.c) <= 64 else None
        if peer is not None and c == peer.c:
            peer.fail(error)
        elif found.t == "hello":
            self._say(error, c, close_code(error))
        else:
            self._say(_HELLO_FIRST, c)

    def _say(self, error: GatewayError, c: str | None, close: int = 0) -> None:
        """Answer a frame that is no peer's."""
        self.send(err_frame(error, c, close))

    def send(self, frame: bytes) -> None:
        """One frame to the client. What is too long for it is dropped (MQTT 5, 3.1.2.11.4)."""
        if len(frame) > self.max_frame:
            self.framing.dropped += 1
            return
        self.framing.frames_out += 1
        self.link.send(self, frame)

    def ended(self, peer: FramedPeer, code: int) -> None:
        """A peer has ended."""
        if code == Close.TAKEN_OVER:
            self._past = (*self._past[1 - PAST :], peer.c)
        if self.peer is peer:
            self.peer = None
            self.link.ended(self, code)
