"""The I/O of the fallback channels: one attempt is one HTTP request, and ends as exactly one Outcome.

Whether an attempt that failed may be made again without a risk hangs on one question: may a byte of the request
have left? `_Connector` answers it. Before a connection is there, none can have: the failure is definite, `retry`.
From then on, until a status line has been read, nobody knows: `ambiguous`. Once there is a status, it decides,
however the body of the answer ends.

Each channel is a bulkhead: own session, own connections, own lookups, a number of attempts at once. Only its own
messages wait for a channel that is slow or dead.
"""

import asyncio
import io
import ssl
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar

import aiohttp
from aiohttp.tracing import Trace
from yarl import URL

from gateway.config.channels import Channel
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import registry
from gateway.providers.addresses import is_literal, is_public
from gateway.providers.failures import INTERNAL, failed
from gateway.providers.provider import Answer, Provider, Request, Send, Unsendable, line
from gateway.providers.resolver import AddressRefused, CheckedResolver, Lookup, system_lookup
from gateway.wire import trace_of

MAX_ANSWER = 64 * 1024  # bytes read of an answer's body; a connection with more to say is dropped
ONE_WRITE = 64 * 1024  # bytes of a request's body that go out with its headers; a longer one in pieces
KEEPALIVE = 4.0  # s; many servers hang up after 5, and a request that meets the hang-up is ambiguous
CONNECT_SHARE = 1 / 3  # of an attempt's timeout, at most, goes to name, connection and TLS
KINDS = ("accepted", "delivered", "retry", "refused", "ambiguous")


class _Progress:
    """How far an attempt has come."""

    __slots__ = ("answer", "transport", "whole")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None  # from here on bytes may have left
        self.answer: Answer | None = None
        self.whole = False  # request and answer went through; the connection can be used again


_progress: ContextVar[_Progress] = ContextVar("progress")


class _Connector(aiohttp.TCPConnector):
    """Tells the attempt which connection it was given, before it writes to it."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        _progress.get().transport = connection.transport
        return connection


class _Channel:
    """A bulkhead. `session` is None until `start`."""

    __slots__ = ("busy_ms", "ended", "name", "provider", "session", "settings", "tasks")

    def __init__(self, name: str, settings: Channel) -> None:
        self.name = name
        self.settings = settings
        self.provider: Provider = registry.make(name, settings, "")
        self.session: aiohttp.ClientSession | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended = dict.fromkeys(KINDS, 0)
        self.busy_ms = 0

    def open(self, lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        settings = self.settings
        self.session = aiohttp.ClientSession(
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

    @property
    def room(self) -> int:
        return max(0, self.settings.concurrency - len(self.tasks)) if self.session else 0


class Dispatcher:
    """The outbound side (ports.Outbound). Belongs to one loop."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        *,
        wall: Callable[[], float] = time.time,
        lookup: Lookup = system_lookup,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`wall`: real Unix seconds. `tls`: in place of the machine's trusted authorities. Raises ConfigError."""
        self._channels = {name: _Channel(name, settings) for name, settings in channels.items()}
        self._wall = wall
        self._lookup = lookup
        self._tls = tls
        self._trace_root = ""
        self._closed = False

    async def start(self, trace_root: str) -> None:
        """Take attempts from now on. `trace_root`: 16 hexadecimal digits (Recovered.trace_root)."""
        self._trace_root = trace_root
        for channel in self._channels.values():
            channel.open(self._lookup, self._tls)

    async def close(self) -> None:
        """Break off what is open, without an outcome: the store still has those attempts open. Takes no more."""
        self._closed = True
        tasks = [task for channel in self._channels.values() for task in channel.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            if channel.session is not None:
                await channel.session.close()
                channel.session = None

    def room(self, channel: str) -> int:
        """How many more attempts the channel takes now. One, where no channel has this name: it is refused at once."""
        found = self._channels.get(channel)
        if found is None:
            return 0 if self._closed else 1
        return found.room

    def send(
        self, channel: str, item: Item, attempt: int, address: str, done: Callable[[Outcome], None]
    ) -> None:
        """Make one attempt. `done` is called on a later turn of the loop, once, unless `close` comes before it."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        found = self._channels.get(channel)
        if found is None:
            loop.call_soon(done, Outcome("refused", "no such channel", blame="account"))
            return
        if not found.room:
            loop.call_soon(done, Outcome("retry", "channel full"))
            return
        if not address and found.settings.CONTACT:
            loop.call_soon(done, Outcome("refused", "no address for this channel", blame="recipient"))
            return
        task = loop.create_task(self._run(found, item, attempt, address, done))
        found.tasks.add(task)
        task.add_done_callback(found.tasks.discard)

    def figures(self) -> dict[str, dict[str, int]]:
        """Per channel: attempts that ended, by kind of outcome; the ms they took (`busy_ms`); and `in_flight`."""
        return {
            name: {**channel.ended, "in_flight": len(channel.tasks), "busy_ms": channel.busy_ms}
            for name, channel in self._channels.items()
        }

    async def _run(
        self, channel: _Channel, item: Item, attempt: int, address: str, done: Callable[[Outcome], None]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = time.monotonic_ns()
        outcome = await self._attempt(channel, item, attempt, address)
        channel.busy_ms += (time.monotonic_ns() - started) // 1_000_000
        channel.ended[outcome.kind] += 1
        channel.tasks.discard(task)  # `done` may ask for room
        try:
            done(outcome)
        except Exception as error:  # noqa: BLE001 - reported; the other attempts go on
            self._report(error, channel, item, attempt)

    async def _attempt(self, channel: _Channel, item: Item, attempt: int, address: str) -> Outcome:
        """One outcome, whatever happens, except where the attempt is cancelled."""
        progress = _Progress()
        _progress.set(progress)
        try:
            request = channel.provider.request(self._as_sent(item, attempt, address))
            await self._exchange(channel, request, progress)
        except Unsendable as error:
            return Outcome("refused", line(error.reason), blame=error.blame)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure: BaseException | None = error  # from within: nobody cancelled this attempt
        except Exception as error:  # noqa: BLE001 - every failure becomes an outcome; bugs are reported below
            failure = error
        else:
            failure = None
        finally:
            # closing would first wait, without end, for a peer that does not read
            if progress.transport is not None and not progress.whole:
                progress.transport.abort()
        try:
            if progress.answer is not None:
                return _known(channel.provider.outcome(progress.answer, self._wall()))
        except Exception as error:  # noqa: BLE001 - a bug in a provider
            failure = error
        assert failure is not None
        outcome = failed(failure, sent=progress.transport is not None)
        if outcome.reason.startswith(INTERNAL):
            self._report(failure, channel, item, attempt)
        return outcome

    def _as_sent(self, item: Item, attempt: int, address: str) -> Send:
        wall = self._wall()
        return Send(
            item=item,
            id=encode_id(item.id),
            attempt=attempt,
            trace=trace_of(item, self._trace_root),
            address=address,
            wall=wall,
            ttl=max(item.expire / 1000 - wall, 1.0),
        )

    async def _exchange(self, channel: _Channel, request: Request, progress: _Progress) -> None:
        """Send the request and read the answer into `progress`."""
        session = channel.session
        assert session is not None
        url = URL(request.url)
        host = url.raw_host or ""
        if not channel.settings.allow_private and is_literal(host) and not is_public(host):
            raise AddressRefused
        data = request.body if len(request.body) <= ONE_WRITE else io.BytesIO(request.body)
        async with (
            asyncio.timeout(channel.settings.timeout),
            session.request(
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

    def _report(self, error: BaseException, channel: _Channel, item: Item, attempt: int) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": f"attempt {attempt} of {encode_id(item.id)} on channel {channel.name}",
                "exception": error,
            }
        )


def _known(outcome: Outcome) -> Outcome:
    if outcome.kind not in KINDS:
        raise ValueError(f"a provider spoke of an outcome `{outcome.kind}`")
    return outcome
