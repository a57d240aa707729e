"""Server-side request forgery: whoever can name a URL (a Web Push endpoint, a webhook) reaches nothing on this machine,
or in its network. A listener stands on loopback, on IPv4 and IPv6, and must hear nothing.

Seen to fail with `is_public` and `is_literal` always true, and with redirects followed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import registry, resolver
from gateway.providers.addresses import is_public
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Request, Send
from gateway.providers.resolver import system_lookup
from tests.providers.conftest import SECRET

HOSTS = (
    # this machine
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1",
    "0177.0.0.1", "017700000001", "0177.0x0.0.01", "127.0.0.1.", "0", "0.0.0.0", "00.00.00.00",  # noqa: S104
    "localhost", "localhost.", "LOCALHOST", "%6c%6f%63alhost", "%31%32%37.0.0.1", "127.0.0.1%09",
    "127.0.0.1%00.example.com",
    "１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",  # noqa: RUF001
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::]", "[::1%25lo]",
    # an IPv4 address inside an IPv6 one: mapped, compatible, translated (NAT64), 6to4, Teredo, ISATAP
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::7f00:1]",
    "[2001:0:7f00:1::]", "[2001::80ff:fffe]", "[2a00:1450::5efe:127.0.0.1]", "[2a00:1450::200:5efe:7f00:1]",
    # its network, and what clouds have at link-local
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "[fd00:ec2::254]", "100.64.0.1", "100.100.100.200",
    "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[ff02::1]",
    # who is meant, and who is said to be
    "example.com@127.0.0.1", "example.com:80@127.0.0.1", "user:password@localhost", "127.0.0.1\\@example.com",
)  # fmt: skip
# what a name server may say
ANSWERS = {
    "private.example": ["127.0.0.1"],
    "mixed.example": ["93.184.215.14", "127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "6to4.example": ["2002:7f00:1::"],
    "any.example": ["0.0.0.0"],  # noqa: S104 - an answer, not bound
    "link.example": ["fe80::1%lo"],
    "metadata.example": ["169.254.169.254"],
    "none.example": [],
}


class Listener:
    """On both loopbacks, on one port. What it hears must be nothing."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.port = 0
        self.servers: list[asyncio.Server] = []

    async def start(self) -> None:
        def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heard.append(str(writer.get_extra_info("sockname")))
            writer.close()

        first = await asyncio.start_server(hear, "127.0.0.1", 0)
        self.port = first.sockets[0].getsockname()[1]
        self.servers = [first, await asyncio.start_server(hear, "::1", self.port)]

    async def stop(self) -> None:
        for server in self.servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    await made.start()
    yield made
    await made.stop()


class Anywhere:
    """A provider whose requests go where a stranger says."""

    def __init__(self) -> None:
        self.url = ""

    def request(self, send: Send) -> Request:
        return Request(self.url, {"content-type": "text/plain"}, b"secret")

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        return Outcome("delivered", f"HTTP {answer.status}", status=answer.status)


async def lookup(host: str, port: int) -> list[str]:
    return ANSWERS[host] if host in ANSWERS else await system_lookup(host, port)


Go = Callable[[str], Awaitable[Outcome]]


@pytest.fixture
async def go(
    monkeypatch: pytest.MonkeyPatch,
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Callable[..., Item],
) -> Go:
    """Make an attempt at a URL."""
    provider = Anywhere()
    monkeypatch.setattr(registry, "make", lambda *_: provider)
    settings = Settings(url="https://hook.example/", secret=SECRET, timeout=2.0, breaker_failures=10_000)

    async def make(url: str) -> Outcome:
        provider.url = url
        dispatcher = await dispatch(settings, lookup=lookup)
        outcome = await attempt(dispatcher, message())
        await dispatcher.close()
        return outcome

    return make


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTS) | set(ANSWERS)) >= 60


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [*HOSTS, *ANSWERS], ids=ascii)
async def test_nothing_inside_is_reached(listener: Listener, go: Go, host: str, scheme: str) -> None:
    outcome = await go(f"{scheme}://{host}:{listener.port}/x")
    assert outcome.kind in {"refused", "retry"}, outcome
    assert "internal error" not in outcome.reason
    assert listener.heard == []


@pytest.mark.parametrize(
    "url",
    [
        "http:///127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "//127.0.0.1:{port}/", "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/", "ws://127.0.0.1:{port}/", "unix:///run/docker.sock",
        "http://127.0.0.1:{port}#@example.com/", "http://127.0.0.1:{port}?@example.com/", "http://[::1]:{port}/%2e%2e",
        " http://127.0.0.1:{port}/", "http://127.0.0.1:{port}\r\nHost: example.com/", "http://127.0.0.1:0{port}/",
    ],
)  # fmt: skip
async def test_nor_by_a_strange_url(listener: Listener, go: Go, url: str) -> None:
    outcome = await go(url.format(port=listener.port))
    assert outcome.kind in {"refused", "retry"}, outcome
    assert "internal error" not in outcome.reason
    assert listener.heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nor_by_a_redirect(
    listener: Listener,
    go: Go,
    serve: Callable[..., Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """127.0.0.5 plays a public address, whose server sends us inside."""
    monkeypatch.setattr(resolver, "is_public", lambda address: address == "127.0.0.5" or is_public(address))
    monkeypatch.setitem(ANSWERS, "outside.example", ["127.0.0.5"])

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"http://127.0.0.1:{listener.port}/"})

    there = await serve(elsewhere, host="127.0.0.5")
    outcome: Any = await go(there.replace("127.0.0.5", "outside.example"))
    assert outcome.status == status
    assert listener.heard == []
