"""One channel at run time: what it takes now, what it has under way, what it has learnt.

Its provider, its connections and its limits are its own, so that a slow or dead one is nobody else's matter.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from gateway.config.channels import Channel
from gateway.engine.breaker import Breaker, State
from gateway.engine.bucket import Addresses, Bucket, Rest
from gateway.observe.metrics import ChannelFigures
from gateway.ports import Outcome
from gateway.providers import registry
from gateway.providers.carrier import Carrier, carrier_of
from gateway.providers.history import History
from gateway.providers.http import HttpCarrier
from gateway.providers.provider import Granting, Provider
from gateway.providers.proxies import proxy_urls
from gateway.providers.resolver import Lookup
from gateway.providers.tokens import Tokens

UNSTARTED = 1000  # ms after which to ask a channel again that was not started yet


class Bulkhead:
    """`http` is None before `open` and after `close`. Times are ms of `now`, which never steps back."""

    def __init__(self, name: str, settings: Channel, callback: str, now: Callable[[], int]) -> None:
        """`callback`: the public URL where its callbacks arrive. Raises ConfigError."""
        self.name = name
        self.settings = settings
        self.provider: Provider = registry.make(name, settings, callback)
        proxy_urls(settings.proxies, name)
        self.http: HttpCarrier | None = None
        self.carrier: Carrier | None = (
            None  # of its requests: `http` itself, but for kinds that speak something else
        )
        self.tokens: Tokens | None = None  # of a provider that is Granting
        self.tasks: set[asyncio.Task[None]] = set()
        self.history = History()
        self._now = now
        self._bucket = Bucket(settings.rate, settings.burst, now())
        self._addresses = Addresses(settings.recipient_rate)
        self._rest = Rest()
        self._breaker = Breaker(
            settings.breaker_failures, round(settings.breaker_pause * 1000), settings.concurrency
        )
        self._timer: asyncio.TimerHandle | None = None

    def open(self, wall: Callable[[], float], lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        self.http = HttpCarrier(self.name, self.settings, lookup, tls, self._now)
        self.carrier = carrier_of(self.settings, lookup, tls) or self.http
        if isinstance(self.provider, Granting):
            self.tokens = Tokens(self.provider, self.http, wall)

    async def close(self) -> None:
        """Its tasks have ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.tokens is not None:
            await self.tokens.close()
        if self.carrier is not None and self.carrier is not self.http:
            await self.carrier.close()
        if self.http is not None:
            await self.http.close()
            self.http = None

    # -- what it takes now -------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more attempts it takes now."""
        now = self._now()
        if self.http is None or self._rest.left(now):
            return 0
        return self._bucket.room(now, self._breaker.room(now, len(self.tasks)))

    @property
    def shut(self) -> int:
        """For how many ms its breaker lets nothing through."""
        return self._breaker.shut(self._now())

    @property
    def wait(self) -> int:
        """ms until there is room as far as time is concerned; 0: it is not a matter of time."""
        if self.http is None:
            return UNSTARTED
        now = self._now()
        return max(self._rest.left(now), self._breaker.shut(now), self._bucket.wait(now))

    def admit(self, address: str) -> int:
        """0: an attempt to this address may be started, and counts. Else after how many ms to ask again."""
        return self._addresses.admit(address, self._now()) if address else 0

    def call_when_room(self, call: Callable[[str], None]) -> None:
        """There is no room: have it called with the channel's name when time has made some."""
        wait = self.wait
        if self._timer is not None or not wait or self.http is None:
            return

        def fire() -> None:
            self._timer = None
            call(self.name)

        self._timer = asyncio.get_running_loop().call_later(wait / 1000, fire)

    # -- an attempt --------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """An attempt is made; there is room for it. What `end` is to be told."""
        self._bucket.take(self._now())
        return self._breaker.begin()

    def end(self, begun: int, outcome: Outcome, good: bool | None, address: str) -> None:
        """An attempt has ended. `good`: failures.way_is_good."""
        now = self._now()
        if outcome.kind in {"accepted", "delivered"}:
            self._rest.went_through()
        if self._breaker.end(begun, good, now):
            self._bucket.drain(now)
        wait = round(outcome.retry_after * 1000)
        if outcome.pause == "account":
            self._rest.ask(now, wait)
            self._breaker.slowly()
        elif outcome.pause == "recipient" and address and wait:
            self._addresses.pause(address, now, wait)

    # -- how it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._breaker.state(self._now())

    def figures(self, wall: float) -> ChannelFigures:
        """For metrics. `wall`: Unix s."""
        rest = self._rest.left(self._now())
        return ChannelFigures(
            self.history.took_ms, int(self.state), len(self.tasks), wall + rest / 1000 if rest else 0.0
        )

    def describe(self, wall: float) -> dict[str, Any]:
        """For `GET /v1/channels`: nothing of it is secret. `wall`: Unix s."""
        now = self._now()
        rest = self._rest.left(now)
        proxies = self.http.proxies.all if self.http is not None and self.http.proxies is not None else []
        return {
            "name": self.name,
            "kind": self.settings.__struct_config__.tag,
            "breaker": self.state.name.lower(),
            "room": self.room,
            "in_flight": len(self.tasks),
            "paused_until": round(wall * 1000) + rest if rest else None,
            "since_start": dict(self.history.ended),
            "last_hour": self.history.last_hour(wall),
            "failures": self.history.failures(),
            "proxies": [
                {"proxy": p.name, "breaker": p.state.name.lower(), "failed": p.failed} for p in proxies
            ],
        }
