"""Connections of the inner listener: aiohttp's, with our limits and our words, and the short way before it (short.py).

A request goes the short way only where aiohttp owes this connection nothing and where what it was given ended with a
request. That is counted: the bytes that are still to come of the request that it has, and the requests that it has not
answered. Where it cannot be counted any more, the connection is aiohttp's alone for good.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from gateway.api import problems
from gateway.api.base import SERVER, Api, Route
from gateway.api.dispatch import Dispatcher
from gateway.api.head import Heads
from gateway.api.short import METHOD, PATH, Short
from gateway.errors import GatewayError, Unavailable

# connections at once; the one above it gets 503
MAX_CONNECTIONS = 10_000
# a peer that does not take what is written, and one that asks nothing more, are let go after so many seconds
STALL_TIMEOUT = 60.0
IDLE_TIMEOUT = 75.0
# aiohttp does not know of requests that go the short way: it is we who end what is idle
_NEVER = 1e9
MAX_HEADERS = 64


class Connections(web.Server):
    """aiohttp's server, with our limits and our protocol."""

    def __init__(self, api: Api, dispatcher: Dispatcher, routes: Iterable[Route]) -> None:
        http = api.config.http
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": _NEVER,
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

        super().__init__(dispatcher, request_factory=request)
        self.heads = Heads(http.max_header_bytes, MAX_HEADERS)
        (publish,) = (route for route in routes if (route.method, route.path) == (METHOD, PATH))
        self.short = Short(api, dispatcher, publish)

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._options)

    def full(self) -> bool:
        return len(self._connections) > MAX_CONNECTIONS


class Connection(web.RequestHandler):
    """A connection. Beside aiohttp's work: lets a peer go that is idle or does not read, and says in our words what is
    no HTTP.
    """

    __slots__ = (
        "_asking", "_body", "_ended", "_fed", "_held", "_idle", "_left", "_over", "_server", "_stalled", "_stops",
        "_used", "begun", "request_id",
    )  # fmt: skip

    def __init__(self, server: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._stalled: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._used = 0.0  # when the last answer was written
        self._stops = False
        # of aiohttp's requests
        self._body: StreamReader | None = None  # of the one that came last
        self._left = 0  # bytes still to come of the one it was given last; below 0: not known any more
        self._fed = 0  # given to it, while that is known
        self.begun = 0  # taken up by it
        self._ended = 0  # answered by it
        # of ours
        self._asking = False  # one is under way
        self.request_id = ""  # of that
        self._held = b""  # what came meanwhile
        self._over: asyncio.Future[None] | None = None  # who waits for its end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._used = self._loop.time()
        self._idle = self._loop.call_later(IDLE_TIMEOUT, self._look)
        if self._server.full() and self.transport is not None:
            error = Unavailable(
                "as many connections as are allowed", code="too_many_connections", retry_after=5
            )
            self.transport.write(_bare(error))
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Take a request the short way, or give it to aiohttp. That calls this, too: with nothing, to go on parsing."""
        if not data or self._left < 0 or self._stops:
            self._give(data)
        elif self._asking or self._held:
            self._hold(data)
        elif self._left:
            # a body goes on
            self._left -= len(data)
            self._give(data)
        elif self._fed != self._ended:
            # the next request, while the last one is not answered
            self._left = -1
            self._give(data)
        else:
            self._begin(data)

    def _begin(self, data: bytes) -> None:
        """A request begins here, and nothing else is under way."""
        request = self._server.heads.read(data)
        if request is None:
            self._left = -1
        else:
            # it may be answered before `take` returns
            self._asking = not self.writing_paused
            if self._asking and self._server.short.take(self, request, data):
                return
            self._asking = False
            self._left = request.end + request.size - len(data)
            self._fed += 1
        self._give(data)

    def _hold(self, data: bytes) -> None:
        transport = self.transport
        if not self._held and transport is not None and not transport.is_closing():
            transport.pause_reading()
        self._held += data

    def answer(self, data: bytes) -> None:
        """The answer to the request that went the short way."""
        self._asking = False
        self._used = self._loop.time()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)
            if self._held:
                # not within the call: the hub tells many what became of a commit
                self._loop.call_soon(self._go_on)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _go_on(self) -> None:
        """What came while a request was under way."""
        held, self._held = self._held, b""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self.data_received(held)

    def _give(self, data: bytes) -> None:
        """To aiohttp; but a body whose framing breaks ends with an error, where aiohttp lets its reader wait."""
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

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """aiohttp calls this for each request, once its answer is written."""
        if not response.keep_alive:
            self._left = -1
        self._ended += 1
        self._used = self._loop.time()

    def close(self) -> None:
        """Take no more requests; what is under way goes on."""
        self._stops = True
        super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """As aiohttp does, behind what is under way."""
        if self._asking:
            self._over = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._over
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_stall()
        if self._idle is not None:
            self._idle.cancel()
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

    def _look(self) -> None:
        """Nothing was asked for a while: let the peer go. Looked at when it may be so, and not with every answer."""
        busy = self._asking or self.begun != self._ended
        rest = IDLE_TIMEOUT if busy else self._used + IDLE_TIMEOUT - self._loop.time()
        if rest > 0:
            self._idle = self._loop.call_later(rest, self._look)
        else:
            self.force_close()

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
