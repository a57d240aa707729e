"""From a socket to a connection: one HTTP request (RFC 6455 4.2), answered by 101 or by a problem document (RFC 9457).

Everything that can refuse stands here, in this order: the time and the size of the request, the rate of its address,
its path, what RFC 6455 wants, Origin, subprotocol, the token where it is sent here, the number of connections. A
refused token is a 401 (or 503, where it cannot be checked): at this point HTTP still has words for it. `/healthz` is
answered on the way. `/mqtt` leads to the MQTT endpoint, which does everything from CONNECT on.

When the request is answered this object is done: the transport goes to a Connection with a protocol core of its own,
since the one that has parsed the request keeps the request for as long as it lives (3.6 KiB of 5).
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import msgspec
from websockets.exceptions import HeaderLineTooLong, NegotiationError, RequestLineTooLong, TooManyHeaders
from websockets.http11 import Request
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from gateway.auth import Principal, peer_key
from gateway.errors import Forbidden, GatewayError, Invalid, Limited, NotFound, Unauthorized, Unavailable
from gateway.transports.mqtt.overws import SUBPROTOCOL as MQTT
from gateway.transports.mqtt.overws import WebSocketPipe
from gateway.transports.peers import client_address, peer_address
from gateway.transports.slices import DOORS
from gateway.transports.sockets import end_stream
from gateway.transports.websocket.connection import Connection
from gateway.transports.websocket.frames import JSON_CODEC, MSGPACK_CODEC
from gateway.wire import JSON, MSGPACK

if TYPE_CHECKING:
    from gateway.transports.websocket.server import WebSocketServer

# bytes of a whole request; the core also limits its lines to 8 KiB, and so a token sent here
MAX_HEAD: Final = 16 * 1024
# ms in which what a refused client still sends is thrown away, so that it can read the answer
LINGER: Final = 1000
# seconds after which a refused client may come back, where the refusal says nothing better
PATIENCE: Final = 1

_END = b"\r\n\r\n"
_encode = msgspec.json.Encoder().encode

# the core's logger prints whole frames at DEBUG
core_log = logging.getLogger("gateway.websocket.core")
core_log.setLevel(logging.WARNING)

# states
_READING, _WAITING, _CHECKING, _LINGERING, _DONE = range(5)


class _Core(ServerProtocol):
    """The core that reads the request."""

    known: tuple[str, ...] = (JSON, MSGPACK)
    default = True  # a client may offer none

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """The first that is known, in the client's order; none offered means JSON, but for MQTT."""
        for name in subprotocols:
            if name in self.known:
                return name
        if subprotocols or not self.default:
            raise NegotiationError(f"offer {' or '.join(self.known)}")
        return None


class Handshake(asyncio.Protocol):
    """One socket until its request is answered."""

    __slots__ = ("buffer", "core", "deadline", "forwarded", "peer", "server", "slot", "state", "transport")

    def __init__(self, server: "WebSocketServer") -> None:
        self.server = server
        self.buffer = bytearray()
        self.slot = 0
        self.state = _READING
        self.deadline = 0
        self.peer = ""
        self.transport: asyncio.Transport
        self.core: _Core

    # -- the socket ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self.server
        if not server.admit(self):
            self.state = _DONE
            server.count_handshake("refused")
            self.transport.abort()
            return
        self.peer = peer_address(transport.get_extra_info("peername"))
        self._until(server.hello_ms)

    def data_received(self, data: bytes) -> None:
        self.server.bytes_in += len(data)
        if self.state >= _LINGERING:
            return
        scanned = len(self.buffer)
        self.buffer += data
        if self.state != _READING:
            # a client may be ahead of the answer, but not by much
            self.transport.pause_reading()
            return
        end = self.buffer.find(_END, max(0, scanned - 3))
        if end < 0 and len(self.buffer) > MAX_HEAD:
            self._refuse(_too_large(f"the request is over {MAX_HEAD} bytes"))
        elif end >= 0:
            head = bytes(self.buffer[: end + 4])
            del self.buffer[: end + 4]
            self.state = _WAITING
            self.server.slices.run(DOORS, lambda: self._take_turn(head))

    def _take_turn(self, head: bytes) -> None:
        """Its request is read now, unless it has gone."""
        if self.state != _WAITING or self.transport.is_closing():
            return
        self.state = _READING
        if self.buffer:
            self.transport.resume_reading()
        self._read(head)

    def eof_received(self) -> None:
        """Nobody waits for an answer any more; the transport closes itself."""
        if self.state == _WAITING or (self.state == _READING and self.buffer):
            self.server.count_handshake("lost")
        self.state = _DONE

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = _DONE
        self.server.forget(self)

    def look(self, now: int) -> int:
        if now < self.deadline:
            return self.deadline
        if self.state == _WAITING:
            # the time is ours, not the client's
            self.deadline = now + self.server.hello_ms
            return self.deadline
        if self.state == _READING:
            self._refuse(GatewayError("no request in time", code="handshake_timeout", http=408))
        elif self.state == _CHECKING:
            self._refuse(Unavailable("the token could not be checked in time", code="keys_unavailable"))
        else:
            self.abort()
        return 0

    def close(self, code: int, reason: str) -> None:
        """The server stops."""
        self.abort()

    def abort(self) -> None:
        self.transport.abort()

    def _until(self, ms: int) -> None:
        self.deadline = self.server.now() + ms
        self.server.wheel.put(self, self.deadline)

    # -- the request -----------------------------------------------------------------------------------------------

    def _read(self, head: bytes) -> None:
        server = self.server
        self.core = core = _Core(origins=server.origins, extensions=server.extensions, logger=core_log)
        core.receive_data(head)
        events = core.events_received()
        # it has done its work; its parser and itself would keep each other
        core.parser.close()
        if not events:
            self._refuse(_unreadable(core.handshake_exc))
            return
        try:
            self._admit(cast(Request, events[0]))
        except GatewayError as error:
            self._refuse(error)

    def _admit(self, request: Request) -> None:
        """Raises GatewayError."""
        server = self.server
        path = request.path.partition("?")[0]
        if path == "/healthz":
            self._health(request.method)
            return
        peer = client_address(self.peer, request.headers.get_all("X-Forwarded-For"), server.proxies)
        self.peer = peer
        wait = server.rate.take(peer_key(peer), 1, server.now())
        if wait:
            raise Limited("too many handshakes from this address", retry_after=wait / 1000)
        mqtt = path == "/mqtt" and server.mqtt is not None
        if mqtt:
            # [MQTT-6.0.0-3]
            self.core.known, self.core.default = (MQTT,), False
            if _own_origin(request):
                self.core.origins = None
        elif path != "/ws":
            raise NotFound("nothing is here; connect to /ws")
        response = self.core.accept(request)
        if response.status_code != 101:
            raise _not_accepted(response.status_code, self.core.handshake_exc)
        answer = response.serialize()
        if mqtt:
            self._hand_over(answer)
            return
        token = _bearer(request.headers.get_all("Authorization"))
        if token is None:
            self._open(None, answer)
            return
        principal = server.authenticator.try_token(token)
        if principal is not None:
            self._open(principal, answer)
            return
        self.state = _CHECKING
        self.transport.pause_reading()
        server.spawn(self._check(token, answer))

    async def _check(self, token: str, answer: bytes) -> None:
        """The token's key has to be fetched first."""
        try:
            principal = await self.server.authenticator.authenticate_token(token)
            if self.state == _CHECKING:
                self.transport.resume_reading()
                self._open(principal, answer)
        except GatewayError as error:
            if self.state == _CHECKING:
                self._refuse(error)

    def _open(self, principal: Principal | None, answer: bytes) -> None:
        """The last checks, then 101 and the change to a Connection. Raises GatewayError."""
        server, transport, accepted = self.server, self.transport, self.core
        if principal is not None and server.hub.banned(principal.name, server.now()):
            raise Forbidden("this client is banned for a while", code="banned")
        core = _open_core(accepted, server.max_frame)
        codec = MSGPACK_CODEC if accepted.subprotocol == MSGPACK else JSON_CODEC
        conn = Connection(server, transport, codec, core, principal, self.peer)
        try:
            server.hub.accept(conn, server.max_connections)
        except Limited as error:
            # no rate, but a number: this is not about who asks
            raise Unavailable(error.detail, code=error.code, retry_after=error.retry_after) from None
        self.state = _DONE
        server.count_handshake("101")
        server.bytes_out += len(answer)
        server.replace(self, conn)
        transport.set_write_buffer_limits(high=1, low=0)
        transport.set_protocol(conn)
        transport.write(answer)
        if self.buffer:
            # a client may be ahead of the answer
            server.bytes_in -= len(self.buffer)
            conn.data_received(bytes(self.buffer))

    def _hand_over(self, answer: bytes) -> None:
        """101, and the socket belongs to the MQTT endpoint."""
        server, transport = self.server, self.transport
        assert server.mqtt is not None
        self.state = _DONE
        server.count_handshake("101")
        server.bytes_out += len(answer)
        server.forget(self)
        pipe = WebSocketPipe(transport, _open_core(self.core, server.mqtt.max_frame))
        transport.set_protocol(pipe)
        transport.write(answer)
        server.mqtt.meet(pipe, self.peer)
        if self.buffer and not transport.is_closing():
            server.bytes_in -= len(self.buffer)
            pipe.data_received(bytes(self.buffer))

    # -- the answer ------------------------------------------------------------------------------------------------

    def _health(self, method: str) -> None:
        if method not in {"GET", "HEAD"}:
            self._refuse(GatewayError("only GET", code="method_not_allowed", http=405), Allow="GET, HEAD")
        else:
            self._answer(200, b"ok", "text/plain; charset=utf-8", {}, body=method == "GET")

    def _refuse(self, error: GatewayError, **headers: str) -> None:
        status = error.http
        self.server.count_handshake("timeout" if status == 408 else str(status))
        if status in {429, 503}:
            wait = PATIENCE if error.retry_after is None else max(1, math.ceil(error.retry_after))
            headers["Retry-After"] = str(wait)
        elif status == 401:
            headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        elif status == 405:
            headers.setdefault("Allow", "GET")
        elif status == 426:
            headers["Upgrade"] = "websocket"
        problem = {
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": error.code,
            "detail": error.detail,
        }
        if error.retry_after is not None:
            problem["retry_after"] = round(error.retry_after, 3)
        self._answer(status, _encode(problem), "application/problem+json", headers)

    def _answer(
        self, status: int, content: bytes, media: str, extra: dict[str, str], *, body: bool = True
    ) -> None:
        """Answer and close, in the order that lets the client read the answer (RFC 9112 9.6)."""
        headers = {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Type": media,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
        } | extra
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        data = "\r\n".join(lines).encode() + _END + (content if body else b"")
        whole = self.state == _READING and not self.buffer
        if self.state == _CHECKING:
            self.transport.resume_reading()
        self.state = _LINGERING
        self.buffer.clear()
        self.server.bytes_out += len(data)
        self.transport.write(data)
        self._until(LINGER)
        if whole:
            self.transport.close()
        elif self.transport.can_write_eof():
            end_stream(self.transport)


def _open_core(accepted: _Core, max_size: int) -> Protocol:
    """The core of a connection whose handshake is done. `max_size`: bytes of a message."""
    core = Protocol(SERVER, state=OPEN, max_size=max_size, logger=core_log)
    core.extensions = accepted.extensions
    return core


def _own_origin(request: Request) -> bool:
    """Whether its Origin is the host that it asks. paho says so of every device; and a page from there would still
    need the credentials of a CONNECT.
    """
    origins, hosts = request.headers.get_all("Origin"), request.headers.get_all("Host")
    if len(origins) != 1 or len(hosts) != 1:
        return False
    return origins[0].lower().partition("://")[2] == hosts[0].lower()


def _bearer(values: Sequence[str]) -> str | None:
    """The token of an Authorization header, None without one. Raises Unauthorized."""
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Authorization must be Bearer with a token")
    return token.strip()


def _unreadable(error: Exception | None) -> GatewayError:
    if isinstance(error, RequestLineTooLong):
        return GatewayError("the request line is too long", code="uri_too_long", http=414)
    if isinstance(error, HeaderLineTooLong | TooManyHeaders):
        return _too_large("a header line is too long, or there are too many")
    return Invalid("not an HTTP/1.1 request without a body", code="malformed", http=400)


def _too_large(detail: str) -> GatewayError:
    return GatewayError(detail, code="headers_too_large", http=431)


_CODES = {403: "origin_forbidden", 405: "method_not_allowed", 426: "upgrade_required", 505: "http_version"}


def _not_accepted(status: int, error: Exception | None) -> GatewayError:
    """What the core has against a handshake."""
    code = "subprotocol_unknown" if isinstance(error, NegotiationError) else _CODES.get(status, "malformed")
    return GatewayError(str(error)[:200], code=code, http=status)
