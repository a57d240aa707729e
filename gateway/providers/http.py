"""HTTP for one channel: an exchange is one request, and gives its answer or says why there is none.

Whether an attempt that failed may be made again without a risk hangs on one question: may a byte of the request
have left? `_Connector` answers it. Before a connection is there, none can have. From then on, until a status line has
been read, nobody knows. Once there is a status, it decides, however the body of the answer ends.

Through a proxy all this happens in a tunnel (CONNECT). Until that stands, a failure is the proxy's, and the next proxy
is tried within the same exchange; from then on it is the provider's.
"""

import asyncio
import io
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.tracing import Trace
from yarl import URL

from gateway.config.channels import Channel
from gateway.providers.addresses import is_literal, is_public
from gateway.providers.failures import NotThroughProxy, reason_before
from gateway.providers.provider import Answer, Request
from gateway.providers.proxies import Proxies, Proxy, ProxyFailed
from gateway.providers.resolver import AddressRefused, CheckedResolver, Lookup

MAX_ANSWER = 64 * 1024  # bytes read of an answer's body; a connection with more to say is dropped
ONE_WRITE = 64 * 1024  # bytes of a request's body that go out with its headers; a longer one in pieces
KEEPALIVE = 4.0  # s; many servers hang up after 5, and a request that meets the hang-up is ambiguous
CONNECT_SHARE = 1 / 3  # of an attempt's timeout, at most, goes to name, connection and TLS
PROXY_SHARE = 1 / 6  # the same through one proxy
PROXY_TRIES = 3  # proxies that one exchange tries


class NoAnswer(Exception):
    """There is no answer; the cause says why. `sent`: bytes of the request may have left. `tunnel`: a proxy had opened
    one. `theirs`: as in Request.
    """

    def __init__(self, *, sent: bool, tunnel: bool = False, theirs: bool = False) -> None:
        super().__init__()
        self.sent = sent
        self.tunnel = tunnel
        self.theirs = theirs


class _Progress:
    """How far an exchange has come."""

    __slots__ = ("answer", "transport", "tunnel", "whole")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None  # from here on bytes may have left
        self.tunnel = False  # a proxy has opened one
        self.answer: Answer | None = None
        self.whole = False  # request and answer went through; the connection can be used again


_progress: ContextVar[_Progress] = ContextVar("progress")


class _Connector(aiohttp.TCPConnector):
    """Tells the exchange which connection it was given, before it writes to it."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        _progress.get().transport = connection.transport
        return connection

    async def _start_tls_connection(self, *args: Any, **named: Any) -> Any:
        """Called when a proxy has answered a CONNECT with 200: the tunnel stands."""
        _progress.get().tunnel = True
        return await super()._start_tls_connection(*args, **named)


class HttpCarrier:
    """A pool of connections of its own, with lookups of its own. Made on the loop; closed by `close`."""

    def __init__(
        self,
        name: str,
        settings: Channel,
        lookup: Lookup,
        tls: ssl.SSLContext | None,
        now: Callable[[], int],
    ) -> None:
        """`tls`: in place of the machine's trusted authorities. `now`: ms that never step back. Raises ConfigError."""
        self._settings = settings
        self.proxies = Proxies(settings.proxies, name, lookup, now) if settings.proxies else None
        share = PROXY_SHARE if self.proxies is not None else CONNECT_SHARE
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=settings.concurrency,
                keepalive_timeout=KEEPALIVE,
                # where there are proxies, only their names are looked up, and they may be inside
                resolver=CheckedResolver(lookup, settings.allow_private or self.proxies is not None),
                ssl=tls or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.timeout * share),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        if self.proxies is not None:
            await self.proxies.close()
        await self._session.close()

    async def exchange(self, request: Request, address: str = "") -> Answer:
        """Send the request and read the answer, within the channel's timeout. `address`: the recipient's, for the
        choice of a proxy. Raises NoAnswer, nothing else, unless the task is cancelled.
        """
        end = asyncio.get_running_loop().time() + self._settings.timeout
        if self.proxies is None:
            return await self._one(request, None, end)
        failure: Exception = ProxyFailed("all proxies rest")
        for proxy in self.proxies.order(address)[:PROXY_TRIES]:
            try:
                answer = await self._one(request, proxy, end)
            except NoAnswer as error:
                if error.tunnel:
                    self.proxies.opened(proxy)
                if error.sent or error.tunnel or not _of_proxy(error.__cause__):
                    raise
                self.proxies.failed(proxy, URL(request.url))
                failure = ProxyFailed(f"proxy: {reason_before(error.__cause__)}")
                if asyncio.get_running_loop().time() >= end:
                    break
            else:
                self.proxies.opened(proxy)
                return answer
        raise NoAnswer(sent=False) from failure

    async def _one(self, request: Request, proxy: Proxy | None, end: float) -> Answer:
        """The same through one proxy, or none, until `end` (the loop's time)."""
        progress = _Progress()
        _progress.set(progress)
        try:
            await self._exchange(request, proxy, end, progress)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure: BaseException | None = error  # from within: nobody cancelled this attempt
        except Exception as error:  # noqa: BLE001 - every failure is told; which are bugs is told from the cause
            failure = error
        else:
            failure = None
        finally:
            # closing would first wait, without end, for a peer that does not read
            if progress.transport is not None and not progress.whole:
                progress.transport.abort()
        if progress.answer is None:
            sent = progress.transport is not None
            raise NoAnswer(sent=sent, tunnel=progress.tunnel, theirs=request.theirs) from failure
        return progress.answer

    async def _exchange(self, request: Request, proxy: Proxy | None, end: float, progress: _Progress) -> None:
        try:
            url = URL(request.url)
        except ValueError:
            raise aiohttp.InvalidURL(request.url) from None
        host = url.raw_host or ""
        if not self._settings.allow_private and is_literal(host) and not is_public(host):
            raise AddressRefused
        if proxy is not None and url.scheme != "https":
            raise NotThroughProxy
        data = request.body if len(request.body) <= ONE_WRITE else io.BytesIO(request.body)
        async with (
            asyncio.timeout_at(end),
            self._session.request(
                request.method,
                url,
                data=data,
                headers=request.headers,
                allow_redirects=False,
                proxy=proxy.url if proxy is not None else None,
                proxy_headers=proxy.headers if proxy is not None else None,
            ) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers.items()}
            progress.answer = Answer(response.status, headers, b"")
            start = bytearray()
            while len(start) < MAX_ANSWER and (part := await response.content.read(MAX_ANSWER - len(start))):
                start += part
            progress.answer = Answer(response.status, headers, bytes(start))
            whole = response.content.at_eof()
        progress.whole = whole


def _of_proxy(error: BaseException | None) -> bool:
    """Whether what kept a tunnel from standing was the proxy, and not the request."""
    if isinstance(error, aiohttp.InvalidURL):
        return False
    return isinstance(error, aiohttp.ClientError | OSError)
