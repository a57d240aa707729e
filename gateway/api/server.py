"""The inner listener: aiohttp's server under our dispatcher, bounded in every direction."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from gateway.api import problems
from gateway.api.base import SERVER, Api, HubApi
from gateway.api.dispatch import Dispatcher
from gateway.api.openapi import describe
from gateway.api.routes import ROUTES
from gateway.auth import Authenticator
from gateway.config import Config, Http, parse_listen
from gateway.errors import ConfigError, GatewayError, Unavailable

# connections at once; the one above it gets 503
MAX_CONNECTIONS = 10_000
# a peer that does not take what is written, and one that asks nothing more, are let go after so many seconds
STALL_TIMEOUT = 60.0
IDLE_TIMEOUT = 75.0
# what a response without an end has at `stop`, in seconds
GRACE = 5.0
MAX_HEADERS = 64


class ApiServer:
    """Serves the API on `config.http.listen` between `start` and `stop`. `metrics` gives the text of `/metrics`."""

    def __init__(
        self,
        hub: HubApi,
        authenticator: Authenticator,
        config: Config,
        metrics: Callable[[], bytes],
        outside: Callable[[], str] = lambda: "",
    ) -> None:
        self._api = Api(hub, authenticator, config, metrics, outside)
        self._api.description = describe(ROUTES, config)
        self._http = config.http
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError for an address or a certificate that cannot be used."""
        host, port = parse_listen(self._http.listen)
        context = tls(self._http)
        self._runner = web.ServerRunner(
            _Server(Dispatcher(self._api, ROUTES), self._http), shutdown_timeout=GRACE
        )
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=context, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"http.listen: {error.strerror}", field="http.listen") from error

    async def stop(self) -> None:
        """Take no more connections, end the streams, let the requests under way finish; at most 3 × GRACE seconds."""
        if self._runner is None or self._site is None:
            return
        await self._site.stop()
        await self._api.end_streams(GRACE)
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        assert self._site is not None
        return self._site.port


def tls(http: Http) -> ssl.SSLContext | None:
    """The TLS context, None without a certificate. Raises ConfigError."""
    if not http.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(http.tls_cert, http.tls_key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "not a certificate and its key in PEM"
        raise ConfigError(f"http.tls_cert: {why}", field="http.tls_cert") from None
    return context


class _Server(web.Server):
    """aiohttp's server, with our limits and our protocol."""

    def __init__(self, dispatch: Dispatcher, http: Http) -> None:
        self.dispatch = dispatch
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": IDLE_TIMEOUT,
            "max_line_size": http.max_header_bytes,
            "max_field_size": http.max_header_bytes,
            "max_headers": MAX_HEADERS,
        }
        max_body = http.max_body_bytes

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(
                message, payload, protocol, writer, task, self._loop, client_max_size=max_body
            )

        super().__init__(dispatch, request_factory=request)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._options)

    def full(self) -> bool:
        return len(self._connections) > MAX_CONNECTIONS


class _Protocol(web.RequestHandler):
    """A connection. Beside aiohttp's work: lets a peer go that does not read, and says in our words what is no HTTP."""

    __slots__ = ("_body", "_server", "_stalled")

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._stalled: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the request that came last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._server.full() and self.transport is not None:
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
