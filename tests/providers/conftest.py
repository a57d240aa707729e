"""Receivers on loopback, and dispatchers that are closed whatever the test does."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from aiohttp import web

from gateway.config.channels import Channel
from gateway.config.channels import Webhook as Settings
from gateway.ids import IdMaker
from gateway.model import Extra, Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ROOT = "0123456789abcdef"
AT = 1_790_000_000_123

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_ids = IdMaker()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What the dispatcher makes of failures is the loop's to decide: the gateway's loop, and the plain one."""
    if item.path.stem.startswith("test_dispatcher"):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Settings of a webhook that may stay on this machine, but for what is named."""

    def make(url: str, **named: Any) -> Settings:
        wanted: dict[str, Any] = {"url": url, "secret": SECRET, "allow_private": True, "timeout": 20.0}
        return Settings(**wanted | named)

    return make


@pytest.fixture
def message() -> Callable[..., Item]:
    def make(body: bytes | None = b'{"n": 1.0}', **extra: Any) -> Item:
        x = Extra(**extra) if extra else None
        return Item(_ids.next(AT), "alice", "bot-7", 2, AT, AT + 86_400_000, body, x)

    return make


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """An aiohttp server of one handler; gives its URL."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler, **site: Any) -> str:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        runners.append(runner)
        await runner.setup()
        host = site.pop("host", "127.0.0.1")
        await web.TCPSite(runner, host, 0, **site).start()
        return f"http{'s' if site else ''}://{host}:{runner.addresses[0][1]}/hook"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def serve_raw() -> AsyncIterator[Callable[[RawHandler], Awaitable[str]]]:
    """A TCP server that answers as it likes; gives `host:port`."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(handler: RawHandler) -> str:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await handler(reader, writer)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@pytest.fixture
async def dispatch() -> AsyncIterator[Callable[..., Awaitable[Dispatcher]]]:
    """A started dispatcher of channels by name, or of one called `hook`."""
    made: list[Dispatcher] = []

    async def start(channels: Settings | dict[str, Channel], **named: Any) -> Dispatcher:
        dispatcher = Dispatcher({"hook": channels} if isinstance(channels, Settings) else channels, **named)
        made.append(dispatcher)
        await dispatcher.start(ROOT)
        return dispatcher

    yield start
    for dispatcher in made:
        await dispatcher.close()


@pytest.fixture
def attempt() -> Callable[..., Awaitable[Outcome]]:
    """Make one attempt and wait for its outcome. A second outcome would raise."""

    async def make(dispatcher: Dispatcher, item: Item, channel: str = "hook", address: str = "") -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        dispatcher.send(channel, item, 1, address, outcome.set_result)
        return await outcome

    return make


@pytest.fixture
def complaints() -> list[dict[str, Any]]:
    return []


@pytest.fixture
async def reported(complaints: list[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    """What reached the loop's exception handler."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield complaints
    loop.set_exception_handler(None)
