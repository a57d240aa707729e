"""Connections of the inner listener: aiohttp's, with our limits and our words, and the short way before it (short.py).

A request goes the short way only where aiohttp owes this connection nothing and where what it was given ended with a
request. That is counted: the bytes that are still to come of the request that it has, and the requests that it has not
answered. Where it cannot be counted any more, the connection is aiohttp's alone for good.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aiohttp import web

from gateway.api.base import Api, Route
from gateway.api.bounded import IDLE_TIMEOUT, MAX_HEADERS, BoundedConnection, BoundedServer
from gateway.api.dispatch import Dispatcher
from gateway.api.head import Heads
from gateway.api.short import METHOD, PATH, Short

# connections at once
MAX_CONNECTIONS = 10_000
# aiohttp does not know of requests that go the short way: it is we who end what is idle
_NEVER = 1e9


class Connections(BoundedServer):
    """The server of the inner listener."""

    def __init__(self, api: Api, dispatcher: Dispatcher, routes: Iterable[Route]) -> None:
        http = api.config.http
        super().__init__(dispatcher, http, MAX_CONNECTIONS, _NEVER)
        self.heads = Heads(http.max_header_bytes, MAX_HEADERS)
        (publish,) = (route for route in routes if (route.method, route.path) == (METHOD, PATH))
        self.short = Short(api, dispatcher, publish)

    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._options)


class Connection(BoundedConnection):
    """A connection; it lets a peer go that is idle, too."""

    __slots__ = (
        "_asking", "_ended", "_fed", "_held", "_idle", "_left", "_over", "_server", "_stops", "_used", "request_id",
    )  # fmt: skip

    def __init__(self, server: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._idle: asyncio.TimerHandle | None = None
        self._used = 0.0  # when the last answer was written
        self._stops = False
        # of aiohttp's requests
        self._left = 0  # bytes still to come of the one it was given last; below 0: not known any more
        self._fed = 0  # given to it, while that is known
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
        super().data_received(data)

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
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Nothing was asked for a while: let the peer go. Looked at when it may be so, and not with every answer."""
        busy = self._asking or self.begun != self._ended
        rest = IDLE_TIMEOUT if busy else self._used + IDLE_TIMEOUT - self._loop.time()
        if rest > 0:
            self._idle = self._loop.call_later(rest, self._look)
        else:
            self.force_close()
