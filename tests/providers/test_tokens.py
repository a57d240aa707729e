"""Access tokens: asked for once, kept, shared, dropped when they are refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import registry
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Grant, Request, Send

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]

NOW = 1_790_000_000.0
REFUSED = Outcome("refused", "HTTP 401", blame="credential", status=401)
AGAIN = Outcome("retry", "HTTP 401", status=401)
DELIVERED = Outcome("delivered", "HTTP 200", status=200)


class Provider:
    """Tokens live for `life` seconds; the token's own number is all there is to them."""

    def __init__(self, url: str, life: float) -> None:
        self._url = url
        self._life = life

    def request(self, send: Send) -> Request:
        return Request(self._url, {"Authorization": send.token}, b"{}")

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        return REFUSED if answer.status == 401 else DELIVERED

    def grant_request(self, wall: float) -> Request:
        return Request(self._url.replace("/hook", "/token"), {}, b"")

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        if answer.status != 200:
            kind = {503: "retry", 400: "refused"}.get(answer.status, "ambiguous")
            return Outcome(kind, f"HTTP {answer.status}", blame="credential", status=answer.status)
        return Grant(answer.body.decode(), wall + self._life)


class Server:
    """Gives tokens 1, 2, …; takes those in `good`."""

    def __init__(self) -> None:
        self.given = 0
        self.good: set[str] = {"1", "2", "3", "4", "5"}
        self.used: list[str] = []
        self.status = 200
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def receive(self, request: web.Request) -> web.Response:
        if request.path == "/token":
            self.asked.set()
            await self.gate.wait()
            if self.status == 0:
                assert request.transport is not None
                request.transport.abort()
            self.given += 1
            return web.Response(status=self.status, text=str(self.given))
        token = request.headers["Authorization"]
        self.used.append(token)
        return web.Response(status=200 if token in self.good else 401)


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def dispatcher(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    server: Server,
) -> Dispatcher:
    url = await serve(server.receive)
    monkeypatch.setattr(registry, "make", lambda *_: Provider(url, 3600.0))
    return await dispatch(settings(url), wall=clock)


async def test_attempts_at_once_ask_once_and_the_token_is_kept(
    dispatcher: Dispatcher, server: Server, attempt: Attempt, message: Message
) -> None:
    outcomes = await asyncio.gather(*(attempt(dispatcher, message()) for _ in range(5)))
    outcomes.append(await attempt(dispatcher, message()))
    assert outcomes == [DELIVERED] * 6
    assert (server.given, server.used) == (1, ["1"] * 6)


async def test_a_token_is_not_used_shortly_before_its_end(
    dispatcher: Dispatcher, server: Server, clock: Clock, attempt: Attempt, message: Message
) -> None:
    for later in (0.0, 3539.0, 3540.0):
        clock.time = NOW + later
        await attempt(dispatcher, message())
    assert server.used == ["1", "1", "2"]


async def test_one_that_lives_shortly_is_used_all_the_same(
    dispatcher: Dispatcher, server: Server, clock: Clock, attempt: Attempt, message: Message
) -> None:
    (channel,) = dispatcher._channels.values()
    channel.provider._life = 10.0  # type: ignore[attr-defined]
    for later in (0.0, 8.9, 9.0):
        clock.time = NOW + later
        await attempt(dispatcher, message())
    assert server.used == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (503, Outcome("retry", "HTTP 503", blame="credential", status=503)),
        (400, Outcome("refused", "HTTP 400", blame="credential", status=400)),
        (302, Outcome("retry", "no access token: HTTP 302", status=302)),
        (0, Outcome("retry", "no access token: connection lost before the answer")),
    ],
)
async def test_a_failed_request_for_a_token_is_told_to_all_who_wait_and_is_definite(
    dispatcher: Dispatcher,
    server: Server,
    attempt: Attempt,
    message: Message,
    status: int,
    outcome: Outcome,
) -> None:
    server.status = status
    assert await asyncio.gather(*(attempt(dispatcher, message()) for _ in range(3))) == [outcome] * 3
    assert server.used == []
    # it is not remembered
    server.status = 200
    assert await attempt(dispatcher, message()) == DELIVERED


async def test_a_kept_token_that_is_refused_is_dropped_and_the_attempt_may_be_made_again(
    dispatcher: Dispatcher, server: Server, attempt: Attempt, message: Message
) -> None:
    await attempt(dispatcher, message())
    server.good = {"2"}
    assert await attempt(dispatcher, message()) == AGAIN
    assert await attempt(dispatcher, message()) == DELIVERED
    assert server.used == ["1", "1", "2"]


async def test_a_fresh_token_that_is_refused_too_stands_for_the_credential(
    dispatcher: Dispatcher, server: Server, attempt: Attempt, message: Message
) -> None:
    await attempt(dispatcher, message())
    server.good = set()
    assert [await attempt(dispatcher, message()) for _ in range(3)] == [AGAIN, REFUSED, REFUSED]
    assert server.used == ["1", "1", "2", "3"]
    # and once one is taken again, age may be the reason again
    server.good = {"4"}
    assert await attempt(dispatcher, message()) == DELIVERED
    server.good = {"5"}
    assert [await attempt(dispatcher, message()) for _ in range(2)] == [AGAIN, DELIVERED]


async def test_a_refusal_that_comes_late_does_not_drop_the_token_that_came_after(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    late = asyncio.Event()
    arrived = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == "1" and server.good == set():
            server.good = {"2"}
            arrived.set()
            await late.wait()
            return web.Response(status=401)
        return await server.receive(request)

    url = await serve(receive)
    monkeypatch.setattr(registry, "make", lambda *_: Provider(url, 3600.0))
    dispatcher = await dispatch(settings(url))
    await attempt(dispatcher, message())
    server.good = set()
    slow = asyncio.ensure_future(attempt(dispatcher, message()))
    await arrived.wait()
    assert await attempt(dispatcher, message()) == AGAIN  # drops 1
    assert await attempt(dispatcher, message()) == DELIVERED  # with 2
    late.set()
    assert await slow == AGAIN
    assert await attempt(dispatcher, message()) == DELIVERED
    assert server.given == 2


async def test_close_breaks_off_the_request_for_a_token(
    dispatcher: Dispatcher, server: Server, message: Message
) -> None:
    server.gate.clear()
    told: list[Outcome] = []
    before = asyncio.all_tasks()
    dispatcher.send("hook", message(), 1, "", told.append)
    await server.asked.wait()
    await dispatcher.close()
    left = {task for task in asyncio.all_tasks() - before if "Tokens" in repr(task.get_coro())}
    assert (told, left) == ([], set())
    server.gate.set()


async def test_a_bug_in_the_grant_is_definite(
    dispatcher: Dispatcher,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
    reported: list[dict[str, Any]],
) -> None:
    (channel,) = dispatcher._channels.values()

    def grant(answer: Answer, wall: float) -> Grant:
        raise KeyError("access_token")

    monkeypatch.setattr(channel.provider, "grant", grant, raising=False)
    assert await attempt(dispatcher, message()) == Outcome("retry", "internal error: KeyError")
    assert len(reported) == 1
