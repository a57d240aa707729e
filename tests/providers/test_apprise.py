import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import apprise as library
import msgspec
import pytest
from aiohttp import web
from apprise.manager_plugins import NotificationManager

from gateway.config.channels import Apprise as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import LANES, Item
from gateway.ports import Outcome
from gateway.providers.apprise import CODES, Apprise
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Send, Unsendable
from tests.providers.pages import table_of

# the library's own imports
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")

SERVICE = "json://user:secret-pw@push.example/{address}"
Make = Callable[..., Item]
Dispatch = Callable[..., Awaitable[Dispatcher]]


def tail(service: str = SERVICE, **named: Any) -> Apprise:
    return Apprise("tail", Settings(service=service, **named))


def sent(item: Item, address: str = "alice") -> Send:
    return Send(
        item=item,
        id=encode_id(item.id),
        attempt=1,
        trace="",
        address=address,
        wall=1_790_000_005.75,
        ttl=60.0,
    )


def test_the_notification(message: Make) -> None:
    notify = tail().request(sent(message(b'{"text": "disk full", "title": "db-1"}')))
    assert (notify.service, notify.text, notify.title, notify.type) == (
        "json://user:secret-pw@push.example/alice",
        "disk full",
        "db-1",
        "info",
    )
    assert "secret-pw" not in repr(notify)


@pytest.mark.parametrize(
    ("priority", "kind"), [("critical", "warning"), ("high", "warning"), ("normal", "info"), ("low", "info")]
)
def test_the_type_follows_the_priority_unless_it_is_named(message: Make, priority: str, kind: str) -> None:
    item, named = message(b'"x"'), message(b'{"text": "x", "apprise": {"type": "failure"}}')
    item.lane = named.lane = LANES[priority]
    assert tail().request(sent(item)).type == kind
    assert tail().request(sent(named)).type == "failure"


@pytest.mark.parametrize(
    ("address", "quoted"), [("@alice", "%40alice"), ("#ops:a!b=c-d_e.f", "%23ops%3Aa%21b%3Dc-d_e.f")]
)
def test_an_address_is_one_part_of_the_url(message: Make, address: str, quoted: str) -> None:
    assert tail().request(sent(message(b'"x"'), address)).service.endswith("/" + quoted)


@pytest.mark.parametrize(
    "address", ["", "a/b", "a,b", "a b", "a?b", "a%2Fb", "a&b", "..\\x", "é", "a\n", "a{b}", "a" * 257]
)
def test_what_could_be_more_than_an_address_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        tail().request(sent(message(b'"x"'), address))
    assert wrong.value.blame == "recipient"


def test_without_a_placeholder_there_is_one_receiver_for_all(message: Make) -> None:
    assert tail("json://push.example/x").request(sent(message(b'"x"'), "")).service == "json://push.example/x"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"apprise": {"type": "info"}},
        {"text": "x", "apprise": {"type": "loud"}},
        {"text": "x", "apprise": {"type": []}},
        {"text": "x", "apprise": {"attach": "file:///etc/passwd"}},
    ],
)
def test_what_is_no_notification_is_the_messages_fault(message: Make, body: dict[str, Any]) -> None:
    with pytest.raises(Unsendable) as wrong:
        tail().request(sent(message(msgspec.json.encode(body))))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize("code", CODES)
def test_every_code(code: str) -> None:
    outcome = tail().outcome(Answer(int(code), {}, b""), 0.0)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[code]
    assert outcome.receipt is False


def test_the_page_shows_the_table() -> None:
    assert table_of("apprise") == CODES


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"service": "nosuch://secret-host/x"}, "service"),
        ({"service": "secret-host"}, "service"),
        ({"service": "json://{address}/secret"}, "service"),
        ({"service": "json://push.{address}.example/secret"}, "service"),
        ({"service": "{address}://secret/"}, "service"),
        ({"service": "json://push.example/{user}/secret"}, "service"),
        ({"proxies": ("http://proxy.example:3128",)}, "proxies"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        tail(**named)
    assert wrong.value.field == f"channels.tail.{field}"
    assert "secret" not in str(wrong.value)


def test_the_service_is_shown_nowhere() -> None:
    assert "secret-pw" not in repr(Settings(service=SERVICE))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'bot-gateway\[apprise\]'"):
        tail()


# -- with the library


@pytest.fixture
def root_log() -> Iterator[list[str]]:
    """What any logger says, as long as it lets it through."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield said
    logging.getLogger().removeHandler(handler)


async def attempted(dispatcher: Dispatcher, item: Item, address: str = "alice") -> Outcome:
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("tail", item, 1, address, outcome.set_result)
    return await outcome


async def test_the_library_hands_it_to_the_service(
    serve: Callable[..., Awaitable[str]],
    dispatch: Dispatch,
    message: Make,
    root_log: list[str],
) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, await request.json()))
        return web.Response()

    at = (await serve(handler)).removeprefix("http://").removesuffix("/hook")
    dispatcher = await dispatch({"tail": Settings(service=f"json://{at}/to/{{address}}")})
    outcome = await attempted(dispatcher, message('{"text": "ü", "title": "t"}'.encode()), "@alice")
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", "", False)
    ((path, body),) = seen
    assert (path, body["message"], body["title"], body["type"]) == ("/to/@alice", "ü", "t", "info")
    assert not root_log


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (401, "refused", "credential"),
        (404, "refused", "recipient"),
        (400, "refused", "message"),
        (302, "ambiguous", ""),
        (429, "ambiguous", ""),
        (503, "ambiguous", ""),
    ],
)
async def test_a_refusal_of_the_service_is_heard(
    serve: Callable[..., Awaitable[str]],
    dispatch: Dispatch,
    message: Make,
    status: int,
    kind: str,
    blame: str,
) -> None:
    """A redirect is not followed: the handler would take what comes to /elsewhere."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            return web.Response()
        return web.Response(status=status, headers={"location": "/elsewhere"})

    at = (await serve(handler)).removeprefix("http://").removesuffix("/hook")
    dispatcher = await dispatch({"tail": Settings(service=f"json://user:secret-pw@{at}/x")})
    outcome = await attempted(dispatcher, message(b'"x"'))
    assert (outcome.kind, outcome.blame, outcome.status) == (kind, blame, status)
    assert "secret-pw" not in repr(outcome)


async def test_what_was_sent_in_part_is_ambiguous(
    serve: Callable[..., Awaitable[str]], dispatch: Dispatch, message: Make
) -> None:
    """The text is cut in two, and the service takes only the first part."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=200 if len(seen) == 1 else 400)

    at = (await serve(handler)).removeprefix("http://").removesuffix("/hook")
    dispatcher = await dispatch({"tail": Settings(service=f"json://{at}/x?overflow=split")})
    outcome = await attempted(dispatcher, message(msgspec.json.encode("x" * 40_000)))
    assert (outcome.kind, len(seen)) == ("ambiguous", 2)


async def test_no_connection_is_ambiguous_for_the_library_does_not_tell(
    dispatch: Dispatch, message: Make, unused_tcp_port: int
) -> None:
    dispatcher = await dispatch({"tail": Settings(service=f"json://127.0.0.1:{unused_tcp_port}/x")})
    assert (await attempted(dispatcher, message(b'"x"'))).kind == "ambiguous"


async def test_an_address_that_the_service_cannot_have_is_the_recipients_fault(
    dispatch: Dispatch, message: Make
) -> None:
    """The library drops it with a warning, and would write to the sender's own number."""
    service = "twilio://AC" + "0" * 32 + ":" + "1" * 32 + "@15550100123/{address}"
    dispatcher = await dispatch({"tail": Settings(service=service)})
    outcome = await attempted(dispatcher, message(b'"x"'), "no-number")
    assert (outcome.kind, outcome.blame) == ("refused", "recipient")


class Stuck:
    """A service that answers when it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def send(self, body: str) -> bool:
        """In a thread."""
        self._loop.call_soon_threadsafe(self.entered.put_nowait, body)
        return self.gate.wait(60)


@pytest.fixture
async def stuck() -> Any:
    service = Stuck()

    @library.decorators.notify(on="stuck")
    def _(body: str, *args: Any, **kwargs: Any) -> bool:
        return service.send(body)

    yield service
    service.gate.set()
    NotificationManager().remove("stuck")


async def test_a_stuck_thread_ends_its_attempt_and_nothing_waits_behind_it(
    dispatch: Dispatch, message: Make, stuck: Stuck
) -> None:
    settings = Settings(service="stuck://x", concurrency=1, timeout=0.2, breaker_failures=10_000)
    dispatcher = await dispatch({"tail": settings})
    first = await attempted(dispatcher, message(b'"first"'))
    assert (first.kind, first.reason) == ("ambiguous", "no answer in time")
    assert await stuck.entered.get() == "first"
    second = await attempted(dispatcher, message(b'"second"'))
    assert (second.kind, second.reason) == ("retry", "not connected")
    stuck.gate.set()
    # the thread is free once it has ended: some later attempt goes through
    while (third := await attempted(dispatcher, message(b'"third"'))).kind == "retry":
        pass
    assert third.kind == "accepted"
    assert await stuck.entered.get() == "third"


async def test_as_many_at_once_as_there_are_threads(dispatch: Dispatch, message: Make, stuck: Stuck) -> None:
    dispatcher = await dispatch({"tail": Settings(service="stuck://x", concurrency=2)})
    attempts = [asyncio.ensure_future(attempted(dispatcher, message(b'"x"'))) for _ in range(2)]
    for _ in range(2):
        await stuck.entered.get()
    assert dispatcher.room("tail") == 0
    stuck.gate.set()
    assert [(await attempt).kind for attempt in attempts] == ["accepted"] * 2


async def test_a_channel_can_be_closed_while_a_thread_is_stuck(
    dispatch: Dispatch, message: Make, stuck: Stuck
) -> None:
    dispatcher = await dispatch({"tail": Settings(service="stuck://x")})
    ended: list[Outcome] = []
    dispatcher.send("tail", message(b'"x"'), 1, "", ended.append)
    await stuck.entered.get()
    await dispatcher.close()
    assert not ended


def test_what_the_library_says_stays_with_it(root_log: list[str]) -> None:
    tail()
    logging.getLogger("apprise").warning("error=500")
    logging.getLogger("elsewhere").warning("heard")
    assert root_log == ["heard"]
