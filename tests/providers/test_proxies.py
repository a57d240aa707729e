"""Outbound proxies: real ones on loopback, which tunnel, refuse, hang up or keep silent, in front of a TLS receiver."""

import asyncio
import base64
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.config.table import hidden
from gateway.engine.breaker import State
from gateway.errors import ConfigError
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import http, proxies
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.proxies import Proxies
from tests.providers.test_dispatcher_connecting import REFUSED, certificate, port_of

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]

SAID = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
    "504": b"HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n",
    "nonsense": b"220 mail.example ESMTP\r\n",
}


class ProxyServer:
    """One proxy; `does`: tunnel, one of SAID, hang up, silent, break (the tunnel, when the message is in it)."""

    def __init__(self, does: str = "tunnel") -> None:
        self.does = does
        self.asked: list[str] = []  # the first line of each request
        self.authorization = ""
        self.url = ""
        self.server: asyncio.Server | None = None
        self.to = 0  # the port to which all tunnels lead
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, to: int) -> "ProxyServer":
        self.to = to
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either end is gone, or the test is over
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(head[0])
        for line in head[1:]:
            if line.lower().startswith("proxy-authorization: "):
                self.authorization = line.partition(": ")[2]
        if self.does == "silent":
            await asyncio.Event().wait()
        if self.does in SAID:
            writer.write(SAID[self.does])
            await writer.drain()
        if self.does not in {"tunnel", "break"}:
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        self._writers.append(back)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = 0
        while data := await reader.read(65536):
            seen += len(data)
            if self.does == "break" and seen > 20_000:
                for each in self._writers:
                    each.transport.abort()
                return
            writer.write(data)
        writer.transport.abort()


class Rig:
    def __init__(
        self, servers: list[ProxyServer], url: str, dispatcher: Dispatcher, clock: list[float]
    ) -> None:
        self.servers = servers
        self.url = url
        self.dispatcher = dispatcher
        self.clock = clock

    @property
    def pool(self) -> Proxies:
        (channel,) = self.dispatcher._channels.values()
        assert channel.http is not None
        assert channel.http.proxies is not None
        return channel.http.proxies

    @property
    def states(self) -> list[State]:
        return [proxy.state for proxy in self.pool.all]

    @property
    def asked(self) -> list[int]:
        return [len(server.asked) for server in self.servers]


Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make(serve: Serve, settings: SettingsOf, dispatch: Dispatch, tmp_path: Path) -> AsyncIterator[Make]:
    servers: list[ProxyServer] = []
    pem = certificate(tmp_path / "hook.pem", "hook.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)

    async def never(host: str, port: int) -> list[str]:
        assert host == "127.0.0.1", "a target's name was looked up here"
        return [host]

    async def made(
        *does: str, status: int = 200, name: str = "hook.example", user: str = "", **named: Any
    ) -> Rig:
        async def handler(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=status, headers={"Connection": "close"})

        port = port_of(await serve(handler, ssl_context=server))
        servers.extend([await ProxyServer(each).start(int(port)) for each in does])
        urls = tuple(s.url.replace("http://", f"http://{user}") for s in servers)
        url = f"https://{name}:{port}/hook"
        clock = [1000.0]
        channel = settings(url, proxies=urls, allow_private=False, **named)
        trusting = ssl.create_default_context(cafile=str(pem))
        dispatcher = await dispatch(channel, lookup=never, tls=trusting, monotonic=lambda: clock[0])
        return Rig(servers, url, dispatcher, clock)

    yield made
    for each in servers:
        await each.stop()


async def test_a_message_goes_through_a_tunnel_and_its_name_is_the_proxys_matter(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("tunnel", user="bob:s%40cret@")
    assert (await attempt(rig.dispatcher, message())).kind == "delivered"
    (server,) = rig.servers
    assert server.asked == [f"CONNECT {rig.url.removeprefix('https://').removesuffix('/hook')} HTTP/1.1"]
    assert server.authorization == "Basic " + base64.b64encode(b"bob:s@cret").decode()


async def test_without_an_address_they_take_turns(make: Make, attempt: Attempt, message: Message) -> None:
    rig = await make("tunnel", "tunnel", "tunnel")
    for _ in range(6):
        await attempt(rig.dispatcher, message())
    assert rig.asked == [2, 2, 2]


def test_the_same_address_goes_the_same_way_and_a_dead_proxy_moves_only_its_own() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        raise AssertionError

    pool = Proxies(tuple(f"http://10.0.0.{n}:3128" for n in range(5)), "hook", lookup, lambda: 0)
    addresses = [f"+1555{n:07d}" for n in range(2000)]
    before = {address: pool.order(address)[0] for address in addresses}
    assert before == {address: pool.order(address)[0] for address in addresses}
    shares = Counter(before.values())
    assert all(300 < shares[proxy] < 500 for proxy in pool.all)
    dead = pool.all[2]
    for _ in range(2):
        dead.breaker.end(dead.breaker.begin(), False, 0)
    after = {address: pool.order(address)[0] for address in addresses}
    assert dead not in after.values()
    assert {a for a in addresses if before[a] is not after[a]} == {a for a in addresses if before[a] is dead}
    assert len({after[a] for a in addresses if before[a] is dead}) == 4


WAYS = [
    ("407", "proxy: HTTP 407 to CONNECT"),
    ("502", "proxy: HTTP 502 to CONNECT"),
    ("503", "proxy: HTTP 503 to CONNECT"),
    ("504", "proxy: HTTP 504 to CONNECT"),
    ("hang up", "proxy: not connected"),
    ("nonsense", "proxy: not connected"),
    ("silent", "proxy: not connected in time"),
    ("gone", "proxy: connection refused"),
]


@pytest.mark.parametrize(("does", "reason"), WAYS)
async def test_a_proxys_failure_is_definite(
    make: Make, attempt: Attempt, message: Message, does: str, reason: str
) -> None:
    rig = await make(does, timeout=1.2 if does == "silent" else 20.0)
    if does == "gone":
        await rig.servers[0].stop()
    assert await attempt(rig.dispatcher, message()) == Outcome("retry", reason)


@pytest.mark.parametrize("does", [does for does, _ in WAYS])
async def test_a_proxys_failure_is_its_own_and_the_next_is_tried_at_once(
    make: Make, attempt: Attempt, message: Message, does: str
) -> None:
    rig = await make(does, "tunnel", timeout=6.0 if does == "silent" else 20.0)
    if does == "gone":
        await rig.servers[0].stop()
    # whichever of them has the first turn
    for _ in range(4):
        assert (await attempt(rig.dispatcher, message())).kind == "delivered"
    assert rig.states == [State.OPEN, State.CLOSED]
    assert rig.pool.all[0].failed == 2
    assert rig.dispatcher.shut("hook") == 0


async def test_with_all_of_them_resting_nothing_is_sent_and_the_channel_rests_too(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("502", breaker_failures=4)
    told = [await attempt(rig.dispatcher, message()) for _ in range(4)]
    assert [outcome.reason for outcome in told] == ["proxy: HTTP 502 to CONNECT"] * 2 + [
        "all proxies rest"
    ] * 2
    assert {outcome.kind for outcome in told} == {"retry"}
    assert rig.dispatcher.shut("hook") == 30_000


@pytest.mark.parametrize("does", ["tunnel", "502"])
async def test_a_tunnel_without_a_message_tries_one_that_has_rested(
    make: Make, attempt: Attempt, message: Message, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    tried = asyncio.Event()
    ways: list[bool] = []
    really = Proxies._try

    async def noticed(self: Proxies, *args: Any) -> bool:
        ways.append(await really(self, *args))
        asyncio.get_running_loop().call_soon(tried.set)
        return ways[-1]

    monkeypatch.setattr(Proxies, "_try", noticed)
    monkeypatch.setattr(proxies, "PAUSE", 50)
    rig = await make("502", "tunnel")
    for _ in range(4):
        await attempt(rig.dispatcher, message())
    assert rig.states[0] == State.OPEN
    before = rig.asked[0]
    rig.servers[0].does = does
    rig.clock[0] += 0.05
    await tried.wait()
    assert ways == [does == "tunnel"]
    assert rig.asked[0] == before + 1
    assert rig.servers[0].asked[-1] == rig.servers[0].asked[0]
    assert rig.states[0] == (State.CLOSED if does == "tunnel" else State.OPEN)


async def test_what_fails_behind_a_tunnel_is_the_providers(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("tunnel", "tunnel", name="other.example")  # of which there is no certificate
    for _ in range(4):
        assert await attempt(rig.dispatcher, message()) == Outcome("retry", "TLS certificate not accepted")
    assert rig.states == [State.CLOSED] * 2
    assert [proxy.failed for proxy in rig.pool.all] == [0, 0]
    # each attempt was made once
    assert rig.asked == [2, 2]


async def test_an_answer_of_502_in_the_tunnel_is_the_providers(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("tunnel", status=502)
    outcome = await attempt(rig.dispatcher, message())
    assert (outcome.kind, outcome.status) == ("retry", 502)
    assert rig.pool.all[0].failed == 0


async def test_a_tunnel_that_breaks_under_a_message_is_ambiguous_and_not_made_again(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("break", "break")
    outcome = await attempt(rig.dispatcher, message(b'"%b"' % (b"x" * 60_000)))
    assert outcome == Outcome("ambiguous", "connection lost before the answer")
    assert sum(rig.asked) == 1


async def test_addresses_that_are_not_public_are_refused_before_a_proxy_hears_of_them(
    make: Make, attempt: Attempt, message: Message
) -> None:
    rig = await make("tunnel", name="127.0.0.1")
    assert await attempt(rig.dispatcher, message()) == REFUSED
    assert rig.asked == [0]


@pytest.mark.parametrize(
    "proxy",
    [
        "https://proxy.example:3128",
        "socks5://proxy.example:1080",
        "http://proxy.example",
        "http://:3128",
        "http://proxy.example:3128/path",
        "http://proxy.example:3128?x=1",
        "proxy.example:3128",
        "http://u:s3cret@[::1:3128",
    ],
)
def test_what_is_no_proxy_is_told_at_once_and_not_quoted(settings: SettingsOf, proxy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Dispatcher({"hook": settings("https://hook.example/", proxies=(proxy,))})
    assert caught.value.field == "channels.hook.proxies"
    assert "s3cret" not in str(caught.value)


def test_a_proxy_named_twice_and_plain_http_are_told_at_once(settings: SettingsOf) -> None:
    twice = ("http://p.example:3128", "http://u:p@p.example:3128/")
    with pytest.raises(ConfigError, match="twice"):
        Dispatcher({"hook": settings("https://hook.example/", proxies=twice)})
    with pytest.raises(ConfigError, match="plain http") as caught:
        Dispatcher({"hook": settings("http://hook.example/", proxies=twice[:1])})
    assert caught.value.field == "channels.hook.url"


def test_a_proxys_password_is_shown_nowhere(settings: SettingsOf) -> None:
    url = "http://bob:s3cret@proxy.example:3128"
    assert "s3cret" not in repr(settings("https://hook.example/", proxies=(url,)))
    assert hidden((url,), "password") == ("http://bob:•••@proxy.example:3128",)
    (made,) = proxies.proxy_urls((url,), "hook")
    proxy = proxies.Proxy(made, lambda: 0)
    assert proxy.name == "proxy.example:3128"
    assert "s3cret" not in str(proxy.url)
    assert http.PROXY_TRIES * http.PROXY_SHARE < 1
