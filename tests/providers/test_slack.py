import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import Slack as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import MAX_REASON, MAX_RETRY_AFTER, Answer, Request, Send, Unsendable
from gateway.providers.slack import CODES, WAIT, Slack
from tests.providers.pages import table_of

TOKEN = "xoxb-1-2-secret"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def app(**named: Any) -> Slack:
    return Slack("team", Settings(token=TOKEN, **named))


def requested(provider: Slack, item: Item, address: str = "C0123ABCD") -> Request:
    return provider.request(
        Send(item=item, id=encode_id(item.id), attempt=2, trace="", address=address, wall=NOW, ttl=60.0)
    )


def fields(provider: Slack, item: Item) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(requested(provider, item).body)
    return found


def error(code: str, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps({"ok": False, "error": code}).encode())


def test_the_request(message: Make) -> None:
    request = requested(app(), message(b'{"text":"<!channel> a & b","title":"News"}'))
    assert request.method == "POST"
    assert request.url == "https://slack.com/api/chat.postMessage"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert request.body == (
        b'{"text":"News\\n&lt;!channel&gt; a &amp; b","mrkdwn":false,"channel":"C0123ABCD"}'
    )


def test_mrkdwn_is_the_senders(message: Make) -> None:
    body = b'{"text":"<!here> *a*","title":"a<b"}'
    assert fields(app(mrkdwn=True), message(body)) == {
        "text": "*a&lt;b*\n<!here> *a*",
        "channel": "C0123ABCD",
    }


def test_what_is_for_slack_alone_goes_to_the_same_conversation(message: Make) -> None:
    blocks = [{"type": "divider"}]
    body = {"text": "x", "slack": {"blocks": blocks, "channel": "C9", "thread_ts": "1.2"}}
    assert fields(app(), message(json.dumps(body).encode())) == {
        "text": "x",
        "mrkdwn": False,
        "blocks": blocks,
        "thread_ts": "1.2",
        "channel": "C0123ABCD",
    }


def test_slack_takes_text_or_markdown(message: Make) -> None:
    body = b'{"text":"x","slack":{"markdown_text":"**x**"}}'
    assert fields(app(), message(body)) == {"markdown_text": "**x**", "channel": "C0123ABCD"}


@pytest.mark.parametrize(
    "address", ["C0123ABCD", "G0123ABCD", "D0123ABCD", "U012", "W0123ABCD", "#a-chännel"]
)
def test_conversations(message: Make, address: str) -> None:
    assert msgspec.json.decode(requested(app(), message(b'"x"'), address).body)["channel"] == address


@pytest.mark.parametrize("address", ["", "general", "c0123", "#", "#a b", "C0123\n", "X0123ABCD", "@someone"])
def test_what_is_no_conversation_blames_the_recipient(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        requested(app(), message(b'"x"'), address)
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    "body",
    [json.dumps("x" * 40_001), json.dumps("&" * 8001), '{"slack":{"text":"%s"}}' % ("x" * 40_001), "7"],
)
def test_text_that_slack_would_cut_blames_the_message(message: Make, body: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        requested(app(), message(body.encode()))
    assert wrong.value.blame == "message"


def test_the_longest_text(message: Make) -> None:
    assert len(fields(app(), message(json.dumps("x" * 40_000).encode()))["text"]) == 40_000


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"channel": "C1", "ts": "1503435956.000247"}, "C1:1503435956.000247"),
        ({"ts": "1503435956.000247"}, "1503435956.000247"),
        ({"channel": 7}, ""),
    ],
)
def test_posted_is_accepted_and_no_more(said: dict[str, Any], name: str) -> None:
    outcome = app().outcome(Answer(200, {}, json.dumps({"ok": True} | said).encode()), NOW)
    assert outcome == Outcome("accepted", "HTTP 200", provider_id=name, status=200)


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"[]", b'{"ok":1}', b'{"ok":false}', b'{"ok":false,"error":"<b>"}']
)
def test_what_cannot_be_read_is_ambiguous(body: bytes) -> None:
    assert app().outcome(Answer(200, {}, body), NOW) == Outcome("ambiguous", "HTTP 200", status=200)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("status", [200, 429, 500])
def test_every_code(code: str, status: int) -> None:
    kind, blame, pause, learnt = table_of("slack")[code]
    assert app().outcome(error(code, status), NOW) == Outcome(
        kind,
        f"HTTP {status}: {code}",
        blame=blame,
        retry_after=WAIT if pause else 0.0,
        status=status,
        code=code,
        pause=pause,
        learnt=learnt,
    )


def test_the_page_has_the_table() -> None:
    assert table_of("slack") == CODES


def test_a_code_that_is_new_blames_the_message() -> None:
    outcome = app().outcome(error("brand_new_error"), NOW)
    assert (outcome.kind, outcome.blame, outcome.code) == ("refused", "message", "brand_new_error")


@pytest.mark.parametrize("answer", [error("ratelimited", 429), Answer(429, {}, b"")])
@pytest.mark.parametrize(("wait", "seconds"), [("7", 7.0), ("", WAIT), ("999999", MAX_RETRY_AFTER)])
def test_the_wait(answer: Answer, wait: str, seconds: float) -> None:
    outcome = app().outcome(Answer(answer.status, {"retry-after": wait}, answer.body), NOW)
    assert outcome == Outcome(
        "retry",
        "HTTP 429: ratelimited",
        retry_after=seconds,
        status=429,
        code="ratelimited",
        pause="account",
    )


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (504, "ambiguous", ""),
        (503, "retry", ""),
        (404, "refused", "account"),
        (302, "refused", "account"),
        (401, "refused", "credential"),
    ],
)
def test_what_a_server_in_between_says_is_not_repeated(status: int, kind: str, blame: str) -> None:
    page = Answer(status, {"content-type": "text/html"}, f"sent: Bearer {TOKEN}".encode())
    outcome = app().outcome(page, NOW)
    assert (outcome.kind, outcome.blame, outcome.reason) == (kind, blame, f"HTTP {status}")


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=300), st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, body: bytes, code: str, wait: str) -> None:
    for answer in (Answer(status, {"retry-after": wait}, body), error(code, status, **{"retry-after": wait})):
        outcome = app().outcome(answer, NOW)
        assert len(outcome.reason) <= MAX_REASON
        assert outcome.reason.isprintable()
        assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"token": ""}, "token"),
        ({"token": "xoxb-1\r\nx: y"}, "token"),
        ({"token": TOKEN, "url": "http://api.example/"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        Slack("team", Settings(**named))
    assert wrong.value.field == f"channels.team.{field}"
    assert not named[field] or named[field] not in str(wrong.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Settings(token=TOKEN))


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[tuple[str, str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response({"ok": False, "error": "is_archived"})

    url = (await serve(handler)).replace("/hook", "/api/")
    dispatcher = await dispatch({"team": Settings(token=TOKEN, url=url, allow_private=True)})
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("team", message(b'"hi"'), 1, "C0123ABCD", done.set_result)
    assert await done == Outcome(
        "refused", "HTTP 200: is_archived", blame="recipient", status=200, code="is_archived"
    )
    body = {"text": "hi", "mrkdwn": False, "channel": "C0123ABCD"}
    assert seen == [("/api/chat.postMessage", f"Bearer {TOKEN}", body)]
