"""The attempts at the fallback channels: each ends as exactly one Outcome.

A provider makes the request and reads the answer; a carrier (http.py) does the I/O between. An attempt that failed
without an answer is `retry` where nothing can have gone out, else `ambiguous` (failures.py).

Each channel is a bulkhead: own session, own connections, own lookups, a number of attempts at once. Only its own
messages wait for a channel that is slow or dead.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from gateway.config.channels import Channel
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import registry
from gateway.providers.failures import INTERNAL, failed
from gateway.providers.http import HttpCarrier, NoAnswer
from gateway.providers.provider import Granting, Provider, Send, Unsendable, line
from gateway.providers.resolver import Lookup, system_lookup
from gateway.providers.tokens import Tokens
from gateway.wire import trace_of

KINDS = ("accepted", "delivered", "retry", "refused", "ambiguous")


class _Channel:
    """A bulkhead. `http` is None until `start`."""

    __slots__ = ("busy_ms", "ended", "http", "name", "provider", "settings", "tasks", "tokens")

    def __init__(self, name: str, settings: Channel) -> None:
        self.name = name
        self.settings = settings
        self.provider: Provider = registry.make(name, settings, "")
        self.http: HttpCarrier | None = None
        self.tokens: Tokens | None = None  # of a provider that is Granting
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended = dict.fromkeys(KINDS, 0)
        self.busy_ms = 0

    def open(self, wall: Callable[[], float], lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        self.http = HttpCarrier(self.settings, lookup, tls)
        if isinstance(self.provider, Granting):
            self.tokens = Tokens(self.provider, self.http, wall)

    async def close(self) -> None:
        if self.tokens is not None:
            await self.tokens.close()
        if self.http is not None:
            await self.http.close()
            self.http = None

    @property
    def room(self) -> int:
        return max(0, self.settings.concurrency - len(self.tasks)) if self.http else 0


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
            channel.open(self._wall, self._lookup, self._tls)

    async def close(self) -> None:
        """Break off what is open, without an outcome: the store still has those attempts open. Takes no more."""
        self._closed = True
        tasks = [task for channel in self._channels.values() for task in channel.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

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
        sent = theirs = False
        try:
            send = self._as_sent(item, attempt, address)
            if channel.tokens is None:
                return await self._carry(channel, send)
            held = await channel.tokens.get()
            if isinstance(held, Outcome):
                return _known(held)
            outcome = await self._carry(channel, replace(send, token=held.token, wall=self._wall()))
            return channel.tokens.judge(held, outcome)
        except Unsendable as error:
            return Outcome("refused", line(error.reason), blame=error.blame)
        except NoAnswer as error:
            failure, sent, theirs = error.__cause__ or error, error.sent, error.theirs
        except Exception as error:  # noqa: BLE001 - every failure becomes an outcome; bugs are reported below
            failure = error
        outcome = failed(failure, sent=sent, theirs=theirs)
        if outcome.reason.startswith(INTERNAL):
            self._report(failure, channel, item, attempt)
        return outcome

    async def _carry(self, channel: _Channel, send: Send) -> Outcome:
        """Hand the request to its carrier. One that brings answers gives them to the provider."""
        assert channel.http is not None
        answer = await channel.http.exchange(channel.provider.request(send))
        try:
            return _known(channel.provider.outcome(answer, self._wall()))
        except Exception as error:  # a bug in a provider
            raise NoAnswer(sent=True) from error

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
