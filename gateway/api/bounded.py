"""aiohttp's server with our limits and our words, for both listeners that speak HTTP to others than clients."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from gateway.api import problems
from gateway.api.base import SERVER
from gateway.config import Callbacks, Http
from gateway.errors import GatewayError, Unavailable

# a peer that does not take what is written, and one that asks nothing more, are let go after so many seconds
STALL_TIMEOUT = 60.0
IDLE_TIMEOUT = 75.0
MAX_HEADERS = 64


class BoundedServer(web.Server):
    """`max_connections`: the one above it gets 503. `keepalive`: s that aiohttp keeps an idle connection."""

    def __init__(
        self,
        dispatch: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        http: Http | Callbacks,
        max_connections: int,
        keepalive: float = IDLE_TIMEOUT,
    ) -> None:
        self._max_connections = max_connections
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": keepalive,
            "max_line_size": http.max_header_bytes,
            "max_field_size": http.max_header_bytes,
            "max_headers": MAX_HEADERS,
        }
        max_body = http.max_body_bytes

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            protocol.begun += 1
            return web.BaseRequest(
                message, payload, protocol, writer, task, self._loop, client_max_size=max_body
            )

        super().__init__(dispatch, request_factory=request)

    def __call__(self) -> web.RequestHandler:
        return BoundedConnection(self, loop=self._loop, **self._options)

    def full(self) -> bool:
        return len(self._connections) > self._max_connections


class BoundedConnection(web.RequestHandler):
    """Beside aiohttp's work: lets a peer go that does not read, and says in our words what is no HTTP."""

    __slots__ = ("_body", "_bounds", "_stalled", "begun")

    def __init__(self, server: BoundedServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._bounds = server
        self._stalled: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the request that came last
        self.begun = 0  # requests taken up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._bounds.full() and self.transport is not None:
            error = Unavailable(
                "as many connections as are allowed", code="too_many_connections", retry_after=5
            )
            self.transport.write(_bare(error))
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """As aiohttp does; but a body whose framing breaks ends with an error, where aiohttp lets its reader wait."""
        super().data_received(data)
        if not self._messages:
            return
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._body = body
        elif self._body is not None and not self._body.is_eof():
            self._messages.pop()
            self._body.set_exception(web.RequestPayloadError("the framing is broken"))
            self._body.feed_eof()
            self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._loop.call_later(STALL_TIMEOUT, self._let_go)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_stall()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be parsed, or a peer that is gone: the dispatcher lets nothing else through.

        Nothing of it is logged or repeated: it may hold a credential.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        error = problems.malformed("this is not HTTP, or a line of the header is too long")
        response = problems.response(error, "-")
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def _let_go(self) -> None:
        self._stalled = None
        if self.transport is not None:
            self.transport.abort()

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _bare(error: GatewayError) -> bytes:
    """A whole response for a connection that will not be served."""
    body = problems.document(error, "-")
    head = (
        f"HTTP/1.1 {error.http} Service Unavailable\r\nServer: {SERVER}\r\nContent-Type: {problems.MEDIA}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
