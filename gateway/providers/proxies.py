"""The HTTP proxies of a channel: which one an attempt goes through, and which of them rest.

A proxy that fails is not the provider's failure: nothing of the message has gone out before its tunnel stands, so the
next one is tried at once. One that fails again and again rests; a tunnel without a message tries it before it is used
again.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable
from hashlib import blake2b

from yarl import URL

from gateway.engine.breaker import Breaker, State
from gateway.errors import ConfigError
from gateway.providers.resolver import Lookup

FAILURES = 2  # in a row, until a proxy rests
PAUSE = 30_000  # ms of rest, until it is tried
TRIAL = 5.0  # s for the tunnel that tries it


class ProxyFailed(Exception):
    """No proxy opened a tunnel. The reason names none of them."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Proxy:
    """`name` is its host and port, without what may be secret."""

    __slots__ = ("_now", "authorization", "breaker", "failed", "name", "trial", "url")

    def __init__(self, url: URL, now: Callable[[], int]) -> None:
        self.authorization = ""
        if url.user is not None:
            pair = f"{url.user}:{url.password or ''}".encode()
            self.authorization = "Basic " + base64.b64encode(pair).decode()
        self.url = url.with_user(None)
        self.name = f"{self.url.host_subcomponent}:{self.url.port}"
        self.breaker = Breaker(FAILURES, PAUSE, 1)
        self.failed = 0
        self.trial: asyncio.Task[None] | None = None
        self._now = now

    @property
    def state(self) -> State:
        return self.breaker.state(self._now())

    @property
    def headers(self) -> dict[str, str]:
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


class Proxies:
    def __init__(self, urls: tuple[str, ...], name: str, lookup: Lookup, now: Callable[[], int]) -> None:
        self.all = [Proxy(url, now) for url in proxy_urls(urls, name)]
        self._lookup = lookup
        self._now = now
        self._turn = 0

    def order(self, address: str) -> list[Proxy]:
        """Those that can be used, the first choice first. The same address has the same order always, so that one that
        fails moves none but its own; without an address they take turns.
        """
        usable = [proxy for proxy in self.all if proxy.state == State.CLOSED]
        if address:
            return sorted(usable, key=lambda proxy: _weight(proxy.name, address))
        self._turn += 1
        first = self._turn % len(usable) if usable else 0
        return usable[first:] + usable[:first]

    def opened(self, proxy: Proxy) -> None:
        """A tunnel through it stood."""
        proxy.breaker.end(proxy.breaker.begin(), True, self._now())

    def failed(self, proxy: Proxy, target: URL) -> None:
        """It opened no tunnel to this host."""
        proxy.failed += 1
        proxy.breaker.end(proxy.breaker.begin(), False, self._now())
        if proxy.state != State.CLOSED and proxy.trial is None:
            proxy.trial = asyncio.get_running_loop().create_task(self._rest(proxy, target))

    async def close(self) -> None:
        trials = [proxy.trial for proxy in self.all if proxy.trial is not None]
        for trial in trials:
            trial.cancel()
        await asyncio.gather(*trials, return_exceptions=True)

    async def _rest(self, proxy: Proxy, target: URL) -> None:
        """Until a tunnel stands again."""
        while proxy.state != State.CLOSED:
            await asyncio.sleep(proxy.breaker.shut(self._now()) / 1000)
            if proxy.state == State.HALF_OPEN:
                begun = proxy.breaker.begin()
                proxy.breaker.end(begun, await self._try(proxy, target), self._now())
        proxy.trial = None

    async def _try(self, proxy: Proxy, target: URL) -> bool:
        """Whether it opens a tunnel to this host, which is closed at once."""
        writer: asyncio.StreamWriter | None = None
        where = f"{target.host_subcomponent}:{target.port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        assert proxy.url.host is not None
        assert proxy.url.port is not None
        try:
            async with asyncio.timeout(TRIAL):
                host = (await self._lookup(proxy.url.host, proxy.url.port))[0]
                reader, writer = await asyncio.open_connection(host, proxy.url.port)
                writer.write("\r\n".join([*lines, "", ""]).encode())
                said = await reader.readline()
        except (OSError, ValueError, IndexError, TimeoutError):
            return False
        finally:
            if writer is not None:
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return said.split(maxsplit=2)[1:2] == [b"200"]


def proxy_urls(urls: tuple[str, ...], name: str) -> list[URL]:
    """Raises ConfigError, which quotes nothing: there may be passwords."""
    field = f"channels.{name}.proxies"
    wrong = ConfigError(
        f"{field}: each must be `http://host:port`, with `user:password@` or without", field=field
    )
    found: list[URL] = []
    for text in urls:
        try:
            url = URL(text)
            valid = url.scheme == "http" and url.host and url.explicit_port and url.path in {"", "/"}
        except ValueError:
            raise wrong from None
        if not valid or url.query_string or url.fragment or not text.isprintable() or " " in text:
            raise wrong
        found.append(url)
    if len({(url.host, url.port) for url in found}) < len(found):
        raise ConfigError(f"{field}: names a proxy twice", field=field)
    return found


def _weight(name: str, address: str) -> bytes:
    return blake2b(f"{name}\n{address}".encode(), digest_size=8).digest()
