"""HTTP for one channel: an exchange is one request, and gives its answer or says why there is none.

Whether an attempt that failed may be made again without a risk hangs on one question: may a byte of the request
have left? `_Connector` answers it. Before a connection is there, none can have. From then on, until a status line has
been read, nobody knows. Once there is a status, it decides, however the body of the answer ends.
"""

import asyncio
import io
import ssl
from contextvars import ContextVar

import aiohttp
from aiohttp.tracing import Trace
from yarl import URL

from gateway.config.channels import Channel
from gateway.providers.addresses import is_literal, is_public
from gateway.providers.provider import Answer, Request
from gateway.providers.resolver import AddressRefused, CheckedResolver, Lookup

MAX_ANSWER = 64 * 1024  # bytes read of an answer's body; a connection with more to say is dropped
ONE_WRITE = 64 * 1024  # bytes of a request's body that go out with its headers; a longer one in pieces
KEEPALIVE = 4.0  # s; many servers hang up after 5, and a request that meets the hang-up is ambiguous
CONNECT_SHARE = 1 / 3  # of an attempt's timeout, at most, goes to name, connection and TLS


class NoAnswer(Exception):
    """There is no answer; the cause says why. `sent`: bytes of the request may have left. `theirs`: as in Request."""

    def __init__(self, *, sent: bool, theirs: bool = False) -> None:
        super().__init__()
        self.sent = sent
        self.theirs = theirs


class _Progress:
    """How far an exchange has come."""

    __slots__ = ("answer", "transport", "whole")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None  # from here on bytes may have left
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


class HttpCarrier:
    """A pool of connections of its own, with lookups of its own. Made on the loop; closed by `close`."""

    def __init__(self, settings: Channel, lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        """`tls`: in place of the machine's trusted authorities."""
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=settings.concurrency,
                keepalive_timeout=KEEPALIVE,
                resolver=CheckedResolver(lookup, settings.allow_private),
                ssl=tls or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.timeout * CONNECT_SHARE),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def exchange(self, request: Request) -> Answer:
        """Send the request and read the answer, within the channel's timeout. Raises NoAnswer, nothing else, unless
        the task is cancelled.
        """
        progress = _Progress()
        _progress.set(progress)
        try:
            await self._exchange(request, progress)
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
            raise NoAnswer(sent=progress.transport is not None, theirs=request.theirs) from failure
        return progress.answer

    async def _exchange(self, request: Request, progress: _Progress) -> None:
        url = URL(request.url)
        host = url.raw_host or ""
        if not self._settings.allow_private and is_literal(host) and not is_public(host):
            raise AddressRefused
        data = request.body if len(request.body) <= ONE_WRITE else io.BytesIO(request.body)
        async with (
            asyncio.timeout(self._settings.timeout),
            self._session.request(
                request.method, url, data=data, headers=request.headers, allow_redirects=False
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
