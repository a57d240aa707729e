"""Bulkheads, ending, and what a bug does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outbound, Outcome
from gateway.providers import http as module
from gateway.providers import registry
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Request, Send

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]


class Gate:
    """A receiver that lets nobody go before it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0
        self.changed = asyncio.Condition()

    async def receive(self, request: web.Request) -> web.Response:
        await request.read()
        await self._count(1)
        try:
            await self.open.wait()
            return web.Response()
        finally:
            await self._count(-1)

    async def _count(self, by: int) -> None:
        async with self.changed:
            self.inside += by
            self.most = max(self.most, self.inside)
            self.changed.notify_all()

    async def hold(self, n: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.inside == n)


def figures(**named: int) -> dict[str, int]:
    zero = {"accepted": 0, "delivered": 0, "retry": 0, "refused": 0, "ambiguous": 0, "in_flight": 0}
    return zero | named


def counted(dispatcher: Dispatcher, channel: str = "hook") -> dict[str, int]:
    """Attempts under way, and what became of the others."""
    (found,) = (state for state in dispatcher.describe() if state["name"] == channel)
    assert found["last_hour"] == found["since_start"]
    return {**found["since_start"], "in_flight": found["in_flight"]}


async def test_it_is_the_outbound_side(settings: SettingsOf, dispatch: Dispatch) -> None:
    outbound: Outbound = await dispatch(settings("https://hook.example/"))
    assert outbound.room("hook") == 64


async def test_concurrency_is_bounded(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, message: Message
) -> None:
    gate = Gate()
    dispatcher = await dispatch(settings(await serve(gate.receive), concurrency=2))
    outcomes: asyncio.Queue[tuple[Outcome, int]] = asyncio.Queue()

    def done(outcome: Outcome) -> None:
        outcomes.put_nowait((outcome, dispatcher.room("hook")))

    assert dispatcher.room("hook") == 2
    dispatcher.send("hook", message(), 1, "", done)
    assert dispatcher.room("hook") == 1
    dispatcher.send("hook", message(), 1, "", done)
    assert dispatcher.room("hook") == 0
    dispatcher.send("hook", message(), 1, "", done)
    assert outcomes.empty()  # never from within `send`
    assert await outcomes.get() == (Outcome("held", "no room at the channel"), 0)
    await gate.hold(2)
    assert counted(dispatcher) == figures(in_flight=2)
    gate.open.set()
    # the place is free when its outcome is told
    assert [(outcome.kind, room) for outcome, room in (await outcomes.get(), await outcomes.get())] == [
        ("delivered", 1),
        ("delivered", 2),
    ]
    assert gate.most == 2
    assert counted(dispatcher) == figures(delivered=2)


async def test_done_may_send_again(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, message: Message
) -> None:
    gate = Gate()
    gate.open.set()
    dispatcher = await dispatch(settings(await serve(gate.receive), concurrency=1))
    outcomes: list[Outcome] = []
    finished = asyncio.Event()

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) < 5:
            dispatcher.send("hook", message(), 1, "", done)
        else:
            finished.set()

    dispatcher.send("hook", message(), 1, "", done)
    await finished.wait()
    assert {outcome.kind for outcome in outcomes} == {"delivered"}


async def test_a_dead_channel_holds_nobody_else_up(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    stuck, open_gate = Gate(), Gate()
    open_gate.open.set()

    async def lookup(host: str, port: int) -> list[str]:
        if host == "silent.example":
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    fine = await serve(open_gate.receive)
    channels = {
        "stuck": settings(await serve(stuck.receive), concurrency=3),
        "silent": settings("https://silent.example/", concurrency=3),
        "fine": settings(fine.replace("127.0.0.1", "fine.example"), concurrency=3),
    }
    dispatcher = await dispatch(channels, lookup=lookup)
    for channel in ("stuck", "silent"):
        while dispatcher.room(channel):
            dispatcher.send(channel, message(), 1, "", lambda outcome: None)
    await stuck.hold(3)
    for _ in range(10):
        assert (await attempt(dispatcher, message(), "fine")).kind == "delivered"
    assert counted(dispatcher, "stuck") == counted(dispatcher, "silent") == figures(in_flight=3)
    assert counted(dispatcher, "fine") == figures(delivered=10)


async def test_an_unknown_channel_is_refused(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    dispatcher = await dispatch({})
    assert dispatcher.room("gone") == 1
    assert await attempt(dispatcher, message(), "gone") == Outcome(
        "refused", "no such channel", blame="account"
    )


async def test_before_start_there_is_no_room(
    settings: SettingsOf, attempt: Attempt, message: Message
) -> None:
    dispatcher = Dispatcher({"hook": settings("https://hook.example/")})
    assert dispatcher.room("hook") == 0
    assert await attempt(dispatcher, message()) == Outcome("held", "no room at the channel", retry_after=1.0)
    await dispatcher.close()


# -- closing ----------------------------------------------------------------------------------------------------------


async def test_close_breaks_off_without_an_outcome(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, message: Message
) -> None:
    gate = Gate()
    dispatcher = await dispatch(settings(await serve(gate.receive), concurrency=4))
    told: list[Outcome] = []
    before = asyncio.all_tasks()
    for _ in range(3):
        dispatcher.send("hook", message(), 1, "", told.append)
    await gate.hold(3)
    dispatcher.send("hook", message(), 1, "", told.append)  # this one has not even begun
    await dispatcher.close()
    await gate.hold(0)  # the receiver sees them go
    assert told == []
    assert counted(dispatcher) == figures()
    mine = {task for task in asyncio.all_tasks() - before if "Dispatcher" in repr(task.get_coro())}
    assert mine == set()
    # and takes no more
    assert (dispatcher.room("hook"), dispatcher.room("gone")) == (0, 0)
    for channel in ("hook", "gone"):
        dispatcher.send(channel, message(), 1, "", told.append)
    await asyncio.sleep(0)
    assert told == []
    await dispatcher.close()


async def test_close_lets_go_of_idle_connections(
    serve_raw: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    hung_up = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        assert await reader.read() == b""
        hung_up.set()

    dispatcher = await dispatch(settings(f"http://{await serve_raw(handler)}/"))
    assert (await attempt(dispatcher, message())).kind == "delivered"
    assert not hung_up.is_set()
    await dispatcher.close()
    await hung_up.wait()


@pytest.mark.parametrize("how", ["timeout", "close"])
async def test_a_peer_that_does_not_read_keeps_no_connection(
    serve_raw: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    transports: list[asyncio.Transport] = []
    closed: list[asyncio.Future[None]] = []
    connected = asyncio.Event()
    connect = module._Connector.connect

    async def noticed(*args: Any, **named: Any) -> Any:
        connection: Any = await connect(*args, **named)
        transports.append(connection.transport)
        closed.append(connection.protocol.closed)
        return connection

    monkeypatch.setattr(module._Connector, "connect", noticed)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()

    url = f"http://{await serve_raw(handler)}/"
    dispatcher = await dispatch(settings(url, timeout=0.5 if how == "timeout" else 20.0))
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("hook", message(b'"%b"' % (b"x" * (16 << 20))), 1, "", outcome.set_result)
    if how == "timeout":
        assert await outcome == Outcome("ambiguous", "no answer in time")
    else:
        await connected.wait()
        while not transports or not transports[0].get_write_buffer_size():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        await dispatcher.close()
    async with asyncio.timeout(10):  # closing would wait for the peer, that is, for ever
        await closed[0]


# -- bugs -------------------------------------------------------------------------------------------------------------


class Provider:
    """A provider with a bug somewhere."""

    def __init__(self, url: str, *, outcome: Any = None) -> None:
        self._url = url
        self._outcome = outcome

    def request(self, send: Send) -> Request:
        return Request(self._url, {}, b"{}")

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        if isinstance(self._outcome, Outcome):
            return self._outcome
        raise KeyError("a key nobody sent")


async def test_a_bug_before_the_request_is_definite(
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    reported: list[dict[str, Any]],
) -> None:
    dispatcher = await dispatch(settings("https://hook.example/"))
    item = message(None)
    assert await attempt(dispatcher, item) == Outcome("retry", "internal error: ValueError")
    (context,) = reported
    assert context["message"] == f"attempt 1 of {encode_id(item.id)} on channel hook"
    assert isinstance(context["exception"], ValueError)


@pytest.mark.parametrize("answer", [None, Outcome("fine", "")])
async def test_a_bug_after_the_request_is_ambiguous(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    reported: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Outcome | None,
) -> None:
    gate = Gate()
    gate.open.set()
    provider = Provider(await serve(gate.receive), outcome=answer)
    monkeypatch.setattr(registry, "make", lambda *_: provider)
    dispatcher = await dispatch(settings("https://hook.example/"))
    outcome = await attempt(dispatcher, message())
    name = "ValueError" if answer else "KeyError"
    assert outcome == Outcome("ambiguous", f"internal error: {name}")
    assert len(reported) == 1
    assert counted(dispatcher) == figures(ambiguous=1)


async def test_a_bug_of_the_caller_harms_no_other_attempt(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    reported: list[dict[str, Any]],
) -> None:
    gate = Gate()
    gate.open.set()
    dispatcher = await dispatch(settings(await serve(gate.receive)))
    called = asyncio.Event()

    def done(outcome: Outcome) -> None:
        called.set()
        raise RuntimeError("a bug")

    dispatcher.send("hook", message(), 1, "", done)
    await called.wait()
    assert (await attempt(dispatcher, message())).kind == "delivered"
    assert [repr(context["exception"]) for context in reported] == ["RuntimeError('a bug')"]
    assert counted(dispatcher) == figures(delivered=2)


async def test_a_cancellation_from_within_still_ends_in_an_outcome(
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    reported: list[dict[str, Any]],
) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        raise asyncio.CancelledError

    dispatcher = await dispatch(settings("https://hook.example/"), lookup=lookup)
    assert await attempt(dispatcher, message()) == Outcome("retry", "internal error: CancelledError")
    assert len(reported) == 1


def test_a_wrong_configuration_is_told_at_once(settings: SettingsOf) -> None:
    with pytest.raises(ConfigError) as caught:
        Dispatcher({"hook": settings("http://hook.example/", allow_private=False)})
    assert caught.value.field == "channels.hook.url"
