"""What a channel takes now: rates, pauses that providers ask for, the circuit breaker. The clock is the test's."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.engine.breaker import State
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import registry
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.failures import way_is_good
from gateway.providers.provider import Answer, Request, Send, Unsendable

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]

HELD = "no room at the channel"


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += seconds


class Provider:
    """Answers as the test says: `outcomes`, one an attempt; an exception is raised before the request is made."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.outcomes: list[Outcome | Exception] = []

    def request(self, send: Send) -> Request:
        if self.outcomes and isinstance(self.outcomes[0], Exception):
            raise self.outcomes.pop(0)  # type: ignore[misc]
        return Request(self._url, {}, b"{}")

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        found = self.outcomes.pop(0) if self.outcomes else Outcome("delivered", "HTTP 200", status=200)
        assert isinstance(found, Outcome)
        return found


class Rig:
    """A dispatcher of one channel, its provider and its clock."""

    def __init__(self, dispatcher: Dispatcher, provider: Provider, clock: Clock, message: Message) -> None:
        self.dispatcher = dispatcher
        self.provider = provider
        self.clock = clock
        self._message = message
        self.ready: asyncio.Queue[str] = asyncio.Queue()
        dispatcher.ready = self.ready.put_nowait

    @property
    def room(self) -> int:
        return self.dispatcher.room("hook")

    @property
    def state(self) -> State:
        (channel,) = self.dispatcher._channels.values()
        return channel.state

    async def attempt(self, *outcomes: Outcome | Exception, address: str = "") -> Outcome:
        """One attempt for each of these, one after the other; what became of the last."""
        told = Outcome("", "")
        for outcome in outcomes or (Outcome("delivered", "HTTP 200", status=200),):
            self.provider.outcomes = [outcome]
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self.dispatcher.send("hook", self._message(), 1, address, future.set_result)
            told = await future
        return told


Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
def make(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    async def made(**named: Any) -> Rig:
        async def fine(request: web.Request) -> web.Response:
            return web.Response()

        provider = Provider(await serve(fine))
        monkeypatch.setattr(registry, "make", lambda *_: provider)
        clock = Clock()
        return Rig(
            await dispatch(settings(provider._url, **named), monotonic=clock), provider, clock, message
        )

    return made


def retry(status: int = 0, wait: float = 0.0, pause: str = "", reason: str = "no") -> Outcome:
    return Outcome("retry", reason, status=status, retry_after=wait, pause=pause)


FAILED = retry(500)


async def test_a_rate_and_a_call_when_there_is_room_again(make: Make) -> None:
    rig = await make(rate=20.0, burst=2)
    assert rig.room == 2
    await rig.attempt()
    await rig.attempt()
    assert rig.room == 0
    assert await rig.attempt() == Outcome("held", HELD, retry_after=0.05)
    assert await rig.ready.get() == "hook"
    rig.clock.pass_(0.05)
    assert rig.room == 1
    assert rig.ready.empty()


async def test_room_for_a_reason_other_than_time_calls_nobody(make: Make) -> None:
    rig = await make(concurrency=1)
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    rig.dispatcher.send("hook", rig._message(), 1, "", future.set_result)
    assert rig.room == 0
    (channel,) = rig.dispatcher._channels.values()
    assert channel._timer is None
    await future


async def test_an_account_that_must_wait_takes_nothing(make: Make) -> None:
    rig = await make()
    assert (await rig.attempt(retry(429, 30.0, "account"))).retry_after == 30.0
    assert (rig.room, rig.dispatcher.shut("hook")) == (0, 0)
    rig.clock.pass_(29.9)
    assert (await rig.attempt()).kind == "held"
    rig.clock.pass_(0.1)
    # and then one at a time, at first
    assert rig.room == 1
    await rig.attempt()
    assert rig.room == 2


async def test_a_pause_of_no_length_doubles(make: Make) -> None:
    rig = await make(breaker_failures=100)
    for seconds in (1, 2, 4):
        await rig.attempt(retry(502, pause="account"))
        rig.clock.pass_(seconds - 0.1)
        assert rig.room == 0
        rig.clock.pass_(0.1)
        assert rig.room == 1
    await rig.attempt()
    await rig.attempt(retry(502, pause="account"))
    rig.clock.pass_(1)
    assert rig.room == 1


async def test_a_recipient_that_must_wait_is_nobody_elses_matter(make: Make) -> None:
    rig = await make()
    await rig.attempt(retry(429, 30.0, "recipient"), address="bob")
    assert rig.room == 64
    assert rig.dispatcher.admit("hook", "bob") == 30_000
    assert rig.dispatcher.admit("hook", "cleo") == 0
    rig.clock.pass_(30)
    assert rig.dispatcher.admit("hook", "bob") == 0


async def test_the_rate_of_an_address_counts_what_is_admitted(make: Make) -> None:
    rig = await make(recipient_rate=1.0)
    assert [rig.dispatcher.admit("hook", "bob") for _ in range(3)] == [0, 1000, 2000]
    assert [rig.dispatcher.admit("hook", "") for _ in range(3)] == [0, 0, 0]


# -- the breaker ------------------------------------------------------------------------------------------------------


async def test_failures_in_a_row_open_the_breaker_and_one_attempt_tries_it(make: Make) -> None:
    rig = await make(breaker_failures=3, breaker_pause=30.0)
    await rig.attempt(FAILED, FAILED)
    assert (rig.state, rig.dispatcher.shut("hook")) == (State.CLOSED, 0)
    await rig.attempt(FAILED)
    assert (rig.state, rig.dispatcher.shut("hook"), rig.room) == (State.OPEN, 30_000, 0)
    assert (await rig.attempt()).kind == "held"
    rig.clock.pass_(30)
    assert (rig.state, rig.dispatcher.shut("hook"), rig.room) == (State.HALF_OPEN, 0, 1)
    await rig.attempt(FAILED)
    assert (rig.state, rig.room) == (State.OPEN, 0)
    rig.clock.pass_(30)
    await rig.attempt()
    assert (rig.state, rig.room) == (State.CLOSED, 2)


async def test_after_an_outage_nothing_was_saved_up(make: Make) -> None:
    rig = await make(breaker_failures=1, breaker_pause=30.0, rate=2.0, burst=50)
    await rig.attempt(FAILED)
    rig.clock.pass_(30)
    await rig.attempt()
    assert rig.room == 0
    rig.clock.pass_(0.5)
    assert rig.room == 1


async def test_an_open_breaker_is_heard_of_when_it_may_be_tried(make: Make) -> None:
    rig = await make(breaker_failures=1, breaker_pause=0.05)
    await rig.attempt(FAILED)
    assert rig.room == 0
    assert await rig.ready.get() == "hook"


@pytest.mark.parametrize(
    "outcome",
    [
        retry(500),
        retry(503, wait=3.0),
        retry(reason="connection refused"),
        Outcome("ambiguous", "no answer in time"),
        Outcome("refused", "HTTP 401", blame="credential", status=401),
        Outcome("refused", "suspended", blame="account", status=200),
        Outcome("refused", "address not public", blame="account"),
    ],
)
def test_what_blames_the_account_or_the_way(outcome: Outcome) -> None:
    assert way_is_good(outcome) is False


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("delivered", "HTTP 200", status=200),
        Outcome("accepted", "queued", status=201),
        Outcome("refused", "HTTP 400", blame="message", status=400),
        Outcome("refused", "HTTP 410", blame="recipient", status=410),
        retry(429, wait=1.0, pause="account"),
        Outcome("ambiguous", "internal_error", status=200),
        Outcome("retry", "greylisted", code="451"),
    ],
)
def test_any_answer_of_the_provider_shows_that_the_way_is_good(outcome: Outcome) -> None:
    assert way_is_good(outcome) is True


async def test_what_is_not_sent_tells_nothing_about_the_way(
    make: Make, reported: list[dict[str, Any]]
) -> None:
    rig = await make(breaker_failures=2)
    await rig.attempt(FAILED)
    await rig.attempt(Unsendable("too long"), KeyError("a bug"), Unsendable("no number", "recipient"))
    before = rig.state
    await rig.attempt(FAILED)
    assert (before, rig.state) == (State.CLOSED, State.OPEN)
    assert len(reported) == 1


@pytest.mark.parametrize("kind", ["retry", "ambiguous"])
def test_what_fails_at_an_address_of_the_recipient_s_says_nothing_of_the_account(kind: str) -> None:
    """A Web Push subscription names its own server."""
    assert way_is_good(Outcome(kind, "HTTP 503", blame="recipient", status=503)) is None
    assert way_is_good(Outcome(kind, "not connected in time", blame="recipient")) is None
