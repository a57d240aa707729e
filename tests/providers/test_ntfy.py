from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gateway.config.channels import Ntfy as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import LANES, Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.ntfy import CODES, WAIT, Ntfy
from gateway.providers.provider import Answer, Send, Unsendable
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
TOKEN = "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"
Make = Callable[..., Item]


def push(**named: Any) -> Ntfy:
    return Ntfy("push", Settings(**named))


def sent(item: Item, address: str = "alice-3f", attempt: int = 1, wall: float = NOW) -> Send:
    return Send(
        item=item, id=encode_id(item.id), attempt=attempt, trace="", address=address, wall=wall, ttl=60.0
    )


def published(item: Item, **named: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(push(**named).request(sent(item)).body)
    return decoded


def test_the_message(message: Make) -> None:
    item = message('{"text": "disk füll", "title": "db-1"}'.encode())
    request = push().request(sent(item))
    assert (request.method, request.url) == ("POST", "https://ntfy.sh/")
    assert request.headers == {"content-type": "application/json"}
    assert msgspec.json.decode(request.body) == {
        "topic": "alice-3f",
        "message": "disk füll",
        "priority": 3,
        "sequence_id": encode_id(item.id),
        "title": "db-1",
    }


def test_a_later_attempt_is_the_same_message(message: Make) -> None:
    item = message(b'"disk full"')
    assert push().request(sent(item)) == push().request(sent(item, attempt=2, wall=NOW + 60))


@pytest.mark.parametrize(("priority", "number"), [("critical", 5), ("high", 4), ("normal", 3), ("low", 2)])
def test_priorities(message: Make, priority: str, number: int) -> None:
    item = message(b'"x"')
    item.lane = LANES[priority]
    assert published(item)["priority"] == number


def test_what_the_sender_wrote_wins(message: Make) -> None:
    item = message(b'{"text": "x", "ntfy": {"priority": 1, "tags": ["skull"], "delay": "30m"}}')
    made = published(item)
    assert (made["priority"], made["tags"], made["delay"], made["message"]) == (1, ["skull"], "30m", "x")


def test_the_topic_is_the_address_else_the_channels(message: Make) -> None:
    item, both = message(b'"x"'), push(topic="shared")
    assert msgspec.json.decode(both.request(sent(item)).body)["topic"] == "alice-3f"
    assert msgspec.json.decode(both.request(sent(item, "")).body)["topic"] == "shared"


@pytest.mark.parametrize("topic", ["", "a/b", "a b", "ü", "a" * 65, "topic\n", "a,b"])
def test_what_is_no_topic_is_the_recipients_fault(message: Make, topic: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        push().request(sent(message(b'"x"'), topic))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "neither text"),
        ({"ntfy": {"tags": ["x"]}}, "no text"),
        ({"text": "x", "ntfy": {"message": ""}}, "no text"),
        ({"text": "x", "ntfy": {"message": 7}}, "no text"),
        ({"text": "x", "ntfy": {"topic": "bobs"}}, "topic"),
        ({"text": "ü" * 2048 + "x"}, "4096 bytes"),
    ],
)
def test_what_cannot_be_published_is_the_messages_fault(
    message: Make, body: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unsendable, match=reason) as wrong:
        published(message(msgspec.json.encode(body)))
    assert wrong.value.blame == "message"


def test_the_longest_text(message: Make) -> None:
    assert published(message(msgspec.json.encode("ü" * 2048)))["message"] == "ü" * 2048


@pytest.mark.parametrize(
    ("named", "header"),
    [
        ({"token": TOKEN}, f"Bearer {TOKEN}"),
        ({"user": "testuser", "password": "fakepassword"}, "Basic dGVzdHVzZXI6ZmFrZXBhc3N3b3Jk"),
    ],
)
def test_authorization(message: Make, named: dict[str, str], header: str) -> None:
    """The Basic pair is the example of ntfy's own page."""
    assert push(**named).request(sent(message(b'"x"'))).headers["authorization"] == header


@pytest.mark.parametrize("code", CODES)
def test_every_code(code: str) -> None:
    body = msgspec.json.encode({"code": int(code), "http": int(code[:3]), "error": "so it is"})
    outcome = push().outcome(Answer(int(code[:3]), {}, body), NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[code]
    assert (outcome.reason, outcome.code) == (f"HTTP {code[:3]}: so it is", code)
    assert outcome.retry_after == WAIT.get(code, 0.0)


def test_the_page_shows_the_table() -> None:
    assert table_of("ntfy") == CODES


def test_a_proxys_wait_is_heeded() -> None:
    answer = Answer(429, {"retry-after": "7"}, b'{"code":42908,"http":429,"error":"x"}')
    assert push().outcome(answer, NOW).retry_after == 7.0


def test_accepted_is_not_delivered() -> None:
    body = b'{"id":"hwQ2YpKdmg","time":1635528741,"event":"message","topic":"t","message":"x"}'
    outcome = push().outcome(Answer(200, {}, body), NOW)
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", "hwQ2YpKdmg", False)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", "ambiguous"),
        (200, b"{}", "ambiguous"),
        (400, b'{"code":40099}', "refused"),
        (429, b"slow down", "retry"),
        (502, b"<html>", "retry"),
    ],
)
def test_other_answers(status: int, body: bytes, kind: str) -> None:
    assert push().outcome(Answer(status, {}, body), NOW).kind == kind


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"topic": "a/b"}, "topic"),
        ({"token": "tk_\r\nx: y"}, "token"),
        ({"token": TOKEN, "user": "u", "password": "pw-of-u"}, "token"),
        ({"user": "some-user"}, "password"),
        ({"password": "pw-of-u"}, "user"),
        ({"url": "http://ntfy.example/"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        push(**named)
    assert wrong.value.field == f"channels.push.{field}"
    assert not any(value in str(wrong.value) for value in named.values() if len(value) > 1)


def test_secrets_are_shown_nowhere() -> None:
    settings = Settings(topic="secret-topic", token=TOKEN, password="pw-of-u")
    assert not any(secret in repr(settings) for secret in ("secret-topic", TOKEN, "pw-of-u"))


async def test_a_message_goes_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Make,
) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["authorization"], await request.read()))
        return web.json_response({"id": "hwQ2YpKdmg", "event": "message"})

    url = (await serve(handler)).removesuffix("/hook")
    item = message(b'"disk full"')
    dispatcher = await dispatch({"hook": Settings(url=url, topic="t", token=TOKEN, allow_private=True)})
    outcome = await attempt(dispatcher, item)
    assert (outcome.kind, outcome.provider_id) == ("accepted", "hwQ2YpKdmg")
    assert seen == [("/", f"Bearer {TOKEN}", push(topic="t").request(sent(item, "")).body)]
