"""The attempts at the fallback channels: each ends as exactly one Outcome.

A provider makes the request and reads the answer; a carrier (carrier.py) does the I/O between. An attempt that failed
without an answer is `retry` where nothing can have gone out, else `ambiguous` (failures.py).

Each channel is a bulkhead (bulkhead.py): own connections, own lookups, own limits. Only its own messages wait for a
channel that is slow, dead, or asked us to wait.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from gateway.config.channels import Channel
from gateway.ids import encode_id
from gateway.model import Item
from gateway.observe.metrics import ChannelFigures
from gateway.ports import Outcome
from gateway.providers.bulkhead import Bulkhead
from gateway.providers.callbacks import url_of
from gateway.providers.failures import INTERNAL, failed, way_is_good
from gateway.providers.history import KINDS
from gateway.providers.http import NoAnswer
from gateway.providers.provider import Answer, Provider, Request, Send, Unsendable, line
from gateway.providers.resolver import Lookup, system_lookup
from gateway.wire import trace_of


class Dispatcher:
    """The outbound side (ports.Outbound). Belongs to one loop."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        callbacks: str = "",
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        lookup: Lookup = system_lookup,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`callbacks`: the public URL of their listener, "": none. `wall`: real Unix seconds. `tls`: in place of the
        machine's trusted authorities. Raises ConfigError.
        """

        def now() -> int:
            return int(monotonic() * 1000)

        self._channels = {
            name: Bulkhead(name, settings, url_of(callbacks, name), now)
            for name, settings in channels.items()
        }
        # called with a channel's name when time has made room there: the hub's
        self.ready: Callable[[str], None] = lambda channel: None
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
            self.ready(channel.name)

    async def close(self) -> None:
        """Break off what is open, without an outcome: the store still has those attempts open. Takes no more."""
        self._closed = True
        tasks = [task for channel in self._channels.values() for task in channel.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    def provider(self, channel: str) -> Provider | None:
        """That of a channel, None where no channel has this name."""
        found = self._channels.get(channel)
        return found.provider if found is not None else None

    async def fetch(self, channel: str, url: str) -> Answer:
        """What is at an https URL, for a callback of this channel: by its own connections, to public addresses only,
        and no redirect is followed. Raises NoAnswer.
        """
        found = self._channels.get(channel)
        if (
            found is None
            or found.http is None
            or not (url.startswith("https://") or found.settings.allow_private)
        ):
            raise NoAnswer(sent=False)
        return await found.http.exchange(Request(url, {}, b"", "GET"))

    def room(self, channel: str) -> int:
        """How many more attempts the channel takes now. One, where no channel has this name: it is refused at once."""
        found = self._channels.get(channel)
        if found is None:
            return 0 if self._closed else 1
        room = found.room
        if not room:
            found.call_when_room(self.ready)
        return room

    def shut(self, channel: str) -> int:
        """For how many ms its circuit breaker lets nothing through."""
        found = self._channels.get(channel)
        return found.shut if found is not None else 0

    def admit(self, channel: str, address: str) -> int:
        """0: an attempt to this address may be started, and counts. Else after how many ms to ask again."""
        found = self._channels.get(channel)
        return found.admit(address) if found is not None else 0

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
        if not address and found.settings.CONTACT:
            loop.call_soon(done, Outcome("refused", "no address for this channel", blame="recipient"))
            return
        if not found.room:
            loop.call_soon(done, Outcome("held", "no room at the channel", retry_after=found.wait / 1000))
            return
        task = loop.create_task(self._run(found, found.begin(), item, attempt, address, done))
        found.tasks.add(task)
        task.add_done_callback(found.tasks.discard)

    def figures(self) -> dict[str, ChannelFigures]:
        """Per channel, for metrics."""
        wall = self._wall()
        return {name: channel.figures(wall) for name, channel in self._channels.items()}

    def describe(self) -> list[dict[str, Any]]:
        """How each channel is, for `GET /v1/channels`."""
        wall = self._wall()
        return [channel.describe(wall) for channel in self._channels.values()]

    async def _run(
        self,
        channel: Bulkhead,
        begun: int,
        item: Item,
        attempt: int,
        address: str,
        done: Callable[[Outcome], None],
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = time.monotonic_ns()
        outcome, good = await self._attempt(channel, item, attempt, address)
        channel.history.add(outcome, (time.monotonic_ns() - started) // 1_000_000, self._wall())
        channel.end(begun, outcome, good, address)
        channel.tasks.discard(task)  # `done` may ask for room
        try:
            done(outcome)
        except Exception as error:  # noqa: BLE001 - reported; the other attempts go on
            self._report(error, channel, item, attempt)

    async def _attempt(
        self, channel: Bulkhead, item: Item, attempt: int, address: str
    ) -> tuple[Outcome, bool | None]:
        """One outcome, whatever happens, except where the attempt is cancelled; and what it says about the way."""
        sent = theirs = False
        try:
            outcome = await self._with_token(channel, self._as_sent(item, attempt, address))
        except Unsendable as error:
            return Outcome("refused", line(error.reason), blame=error.blame), None
        except NoAnswer as error:
            failure, sent, theirs = error.__cause__ or error, error.sent, error.theirs
        except Exception as error:  # noqa: BLE001 - every failure becomes an outcome; bugs are reported below
            failure = error
        else:
            return outcome, way_is_good(outcome)
        outcome = failed(failure, sent=sent, theirs=theirs)
        if outcome.reason.startswith(INTERNAL):
            self._report(failure, channel, item, attempt)
        return outcome, way_is_good(outcome)

    async def _with_token(self, channel: Bulkhead, send: Send) -> Outcome:
        """Make the attempt, with the access token that its provider may need."""
        if channel.tokens is None:
            return await self._carry(channel, send)
        held = await channel.tokens.get()
        if isinstance(held, Outcome):
            return _known(held)
        outcome = await self._carry(channel, replace(send, token=held.token, wall=self._wall()))
        return channel.tokens.judge(held, outcome)

    async def _carry(self, channel: Bulkhead, send: Send) -> Outcome:
        """Hand the request to its carrier. One that brings answers gives them to the provider."""
        assert channel.carrier is not None
        answer = await channel.carrier.exchange(channel.provider.request(send), send.address)
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

    def _report(self, error: BaseException, channel: Bulkhead, item: Item, attempt: int) -> None:
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
