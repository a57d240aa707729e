import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import SlackHook as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import MAX_REASON, Answer, Request, Send, Unsendable
from gateway.providers.slack import WAIT
from gateway.providers.slack_hook import CODES, SlackHook
from tests.providers.pages import table_of

URL = "https://hooks.slack.com/services/T0/B0/s3cr3t"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def hook(**named: Any) -> SlackHook:
    return SlackHook("ops", Settings(url=URL, **named))


def requested(provider: SlackHook, item: Item) -> Request:
    return provider.request(
        Send(item=item, id=encode_id(item.id), attempt=1, trace="", address="", wall=NOW, ttl=60.0)
    )


def test_the_request(message: Make) -> None:
    request = requested(hook(), message(b'{"text":"a & <b>","title":"News"}'))
    assert (request.method, request.url) == ("POST", URL)
    assert request.headers["content-type"] == "application/json"
    assert request.body == b'{"text":"News\\na &amp; &lt;b&gt;","mrkdwn":false}'


def test_what_is_for_the_webhook_alone_stays_in_its_channel(message: Make) -> None:
    body = {"text": "x", "slack_hook": {"channel": "#other", "blocks": [{"type": "divider"}]}}
    request = requested(hook(mrkdwn=True), message(json.dumps(body).encode()))
    assert request.body == b'{"text":"x","blocks":[{"type":"divider"}]}'


def test_text_that_slack_would_cut_blames_the_message(message: Make) -> None:
    with pytest.raises(Unsendable, match="longer than 40000"):
        requested(hook(), message(json.dumps("x" * 40_001).encode()))


def test_ok_is_accepted_and_no_more() -> None:
    assert hook().outcome(Answer(200, {}, b"ok\n"), NOW) == Outcome("accepted", "HTTP 200", status=200)


@pytest.mark.parametrize("body", [b"", b"okay", b"<html>", b"OK"])
def test_what_cannot_be_read_is_ambiguous(body: bytes) -> None:
    assert hook().outcome(Answer(200, {}, body), NOW) == Outcome("ambiguous", "HTTP 200", status=200)


@pytest.mark.parametrize("word", CODES)
@pytest.mark.parametrize("status", [400, 403, 404, 410, 429, 500])
def test_every_word(word: str, status: int) -> None:
    kind, blame, pause, learnt = table_of("slack_hook")[word]
    assert hook().outcome(Answer(status, {}, word.encode()), NOW) == Outcome(
        kind,
        f"HTTP {status}: {word}",
        blame=blame,
        retry_after=WAIT if pause else 0.0,
        status=status,
        code=word,
        pause=pause,
        learnt=learnt,
    )


def test_the_page_has_the_table() -> None:
    assert table_of("slack_hook") == CODES


def test_the_wait() -> None:
    for body in (b"", b"rate_limited", b'{"retry_after":9}'):
        outcome = hook().outcome(Answer(429, {"retry-after": "7"}, body), NOW)
        assert (outcome.kind, outcome.pause, outcome.retry_after) == ("retry", "account", 7.0)
        assert outcome.reason == "HTTP 429: rate_limited"


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (503, "retry", ""),
        (404, "refused", "account"),
        (410, "refused", "account"),
        (302, "refused", "account"),
        (403, "refused", "credential"),
        (400, "refused", "message"),
    ],
)
def test_what_a_server_in_between_says_is_not_repeated(status: int, kind: str, blame: str) -> None:
    outcome = hook().outcome(Answer(status, {"content-type": "text/html"}, f"no {URL}".encode()), NOW)
    assert (outcome.kind, outcome.blame, outcome.reason) == (kind, blame, f"HTTP {status}")


@given(st.integers(100, 999), st.binary(max_size=300))
def test_no_answer_is_too_strange(status: int, body: bytes) -> None:
    outcome = hook().outcome(Answer(status, {}, body), NOW)
    assert len(outcome.reason) <= MAX_REASON
    assert outcome.reason.isprintable()


@pytest.mark.parametrize("url", ["http://hooks.example/x", "ftp://x", "https://a@hooks.example/x", "hooks"])
def test_a_url_that_cannot_work_is_named_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        SlackHook("ops", Settings(url=url))
    assert wrong.value.field == "channels.ops.url"
    assert url not in str(wrong.value)


def test_the_url_is_not_shown() -> None:
    assert "s3cr3t" not in repr(Settings(url=URL))


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Make,
) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, await request.json()))
        return web.Response(text="ok")

    dispatcher = await dispatch({"hook": Settings(url=await serve(handler), allow_private=True)})
    assert await attempt(dispatcher, message(b'"hi"')) == Outcome("accepted", "HTTP 200", status=200)
    assert seen == [("/hook", {"text": "hi", "mrkdwn": False})]
