import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import Discord as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.discord import CODES, GUARD, WAIT, Discord
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import MAX_REASON, MAX_RETRY_AFTER, Answer, Request, Send, Unsendable
from tests.providers.pages import table_of

URL = "https://discord.com/api/webhooks/223704706495545344/s3cr3t-_X"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def hook(**named: Any) -> Discord:
    return Discord("ops", Settings(**{"url": URL} | named))


def requested(provider: Discord, item: Item) -> Request:
    return provider.request(
        Send(item=item, id=encode_id(item.id), attempt=1, trace="", address="", wall=NOW, ttl=60.0)
    )


def error(status: int, code: int | None = None, message: str = "words", **headers: str) -> Answer:
    body = {"message": message} | ({} if code is None else {"code": code})
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(body).encode())


def test_the_request(message: Make) -> None:
    request = requested(hook(), message(b'{"text":"hello @everyone","title":"News"}'))
    assert request.method == "POST"
    assert request.url == ("https://discord.com/api/v10/webhooks/223704706495545344/s3cr3t-_X?wait=true")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("DiscordBot (")
    assert request.body == b'{"allowed_mentions":{"parse":[]},"content":"**News**\\nhello @everyone"}'


def test_what_is_for_discord_alone(message: Make) -> None:
    native = {"embeds": [{"title": "x"}], "allowed_mentions": {"parse": ["users"]}, "username": "Bot"}
    request = requested(hook(thread="42"), message(json.dumps({"text": "x", "discord": native}).encode()))
    assert request.url.endswith("?wait=true&thread_id=42")
    assert msgspec.json.decode(request.body) == {"content": "x"} | native


def test_components_are_not_dropped_without_a_word(message: Make) -> None:
    request = requested(hook(), message(b'{"discord":{"components":[]}}'))
    assert request.url.endswith("?wait=true&with_components=true")


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("https://discord.com/api/v9/webhooks/1/a", "https://discord.com/api/v10/webhooks/1/a?wait=true"),
        ("https://discord.com/api/webhooks/1/a/", "https://discord.com/api/v10/webhooks/1/a?wait=true"),
        (
            "https://proxy.example/d/api/webhooks/1/a",
            "https://proxy.example/d/api/v10/webhooks/1/a?wait=true",
        ),
    ],
)
def test_urls(message: Make, url: str, becomes: str) -> None:
    assert requested(hook(url=url), message(b'"x"')).url == becomes


@pytest.mark.parametrize(
    "url",
    [
        "http://discord.com/api/webhooks/1/s3cr3t",
        "https://discord.com/webhooks/1/s3cr3t",
        "https://discord.com/api/webhooks/x/s3cr3t",
        "https://discord.com/api/webhooks/1",
        "https://discord.com/api/webhooks/1/s3cr3t/slack",
        "https://discord.com/api/webhooks/1/s3cr3t?wait=false",
        "https://discord.com/api/webhooks/1/s3cr3t#x",
    ],
)
def test_a_url_that_cannot_work_is_named_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        hook(url=url)
    assert wrong.value.field == "channels.ops.url"
    assert "s3cr3t" not in str(wrong.value)


def test_the_url_is_not_shown() -> None:
    assert "s3cr3t" not in repr(Settings(url=URL))


@pytest.mark.parametrize(
    "text", ["x" * 2001, {"text": "x" * 1990, "title": "y" * 8}, {"discord": {"content": "x" * 2001}}]
)
def test_text_that_is_too_long_blames_the_message(message: Make, text: Any) -> None:
    requested(hook(), message(json.dumps("x" * 2000).encode()))
    with pytest.raises(Unsendable) as wrong:
        requested(hook(), message(json.dumps(text).encode()))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize("answer", [Answer(200, {}, b'{"id":"77","type":0}'), Answer(204, {}, b"")])
def test_saved_is_accepted_and_no_more(answer: Answer) -> None:
    outcome = hook().outcome(answer, NOW)
    expected = Outcome("accepted", f"HTTP {answer.status}", status=answer.status)
    assert outcome == (msgspec.structs.replace(expected, provider_id="77") if answer.body else expected)


@pytest.mark.parametrize(
    ("remaining", "after", "wait"),
    [
        ("0", "1.5", 1.5),
        ("0", "2", 2.0),
        ("1", "2", 0.0),
        ("", "2", 0.0),
        ("0", "", 0.0),
        ("0", "soon", 0.0),
        ("0", "-1", 0.0),
        ("0", "nan", 0.0),
        ("0", "999999999", MAX_RETRY_AFTER),
    ],
)
def test_the_last_one_that_was_allowed_pauses_the_channel(remaining: str, after: str, wait: float) -> None:
    headers = {"x-ratelimit-remaining": remaining, "x-ratelimit-reset-after": after}
    outcome = hook().outcome(Answer(200, headers, b'{"id":"77"}'), NOW)
    assert (outcome.kind, outcome.retry_after, outcome.pause) == ("accepted", wait, "account" if wait else "")


@pytest.mark.parametrize("body", [b"", b"ok", b"[]", b'{"id":7}'])
def test_what_cannot_be_read_is_ambiguous(body: bytes) -> None:
    assert hook().outcome(Answer(200, {}, body), NOW) == Outcome("ambiguous", "HTTP 200", status=200)


@pytest.mark.parametrize("row", CODES)
def test_every_code(row: str) -> None:
    kind, blame, pause, learnt = table_of("discord")[row]
    status, code = (int(row[5:]), None) if row.startswith("HTTP ") else (400, int(row))
    outcome = hook().outcome(error(status, code), NOW)
    guarded = status in (401, 403)
    assert outcome == Outcome(
        kind,
        f"HTTP {status}" + ("" if status == 429 else ": words"),
        blame=blame,
        retry_after=WAIT if pause else GUARD if guarded else 0.0,
        status=status,
        code="" if code is None else str(code),
        pause="account" if guarded else pause,
        learnt=learnt,
    )


def test_the_page_has_the_table() -> None:
    assert table_of("discord") == CODES


# docs.discord.com/developers/topics/rate-limits, its three examples
LIMITED: list[tuple[dict[str, str], dict[str, Any], float]] = [
    (
        {
            "retry-after": "65",
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset-after": "64.57",
            "x-ratelimit-scope": "user",
        },
        {"message": "You are being rate limited.", "retry_after": 64.57, "global": False},
        65.0,
    ),
    (
        {
            "retry-after": "1337",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset-after": "64.57",
            "x-ratelimit-scope": "shared",
        },
        {"message": "The resource is being rate limited.", "retry_after": 1336.57, "global": False},
        1337.0,
    ),
    (
        {"retry-after": "65", "x-ratelimit-global": "true", "x-ratelimit-scope": "global"},
        {"message": "You are being rate limited.", "retry_after": 64.57, "global": True},
        65.0,
    ),
    ({}, {"retry_after": 64.57}, 65.0),
    ({"retry-after": "3"}, {}, 3.0),
    ({}, {}, WAIT),
    ({}, {"retry_after": "soon"}, WAIT),
    ({}, {"retry_after": 1e300}, WAIT),
]


@pytest.mark.parametrize(("headers", "said", "wait"), LIMITED)
def test_every_scope_of_a_limit_pauses_the_channel(
    headers: dict[str, str], said: dict[str, Any], wait: float
) -> None:
    outcome = hook().outcome(Answer(429, headers, json.dumps(said).encode()), NOW)
    assert outcome == Outcome("retry", "HTTP 429", retry_after=wait, status=429, pause="account")


def test_what_counts_towards_a_ban_lets_the_channel_rest() -> None:
    for answer in (error(401, 0), error(403, 50013), error(403, 20009)):
        outcome = hook().outcome(answer, NOW)
        assert (outcome.pause, outcome.retry_after) == ("account", GUARD)
    # so one channel alone stays far below what brings it about
    assert Settings(url=URL).concurrency * 600 / GUARD <= 10_000 / 100


def test_after_404_of_discord_the_webhook_is_not_used_again(message: Make) -> None:
    provider = hook()
    outcome = provider.outcome(error(404, 10015, "Unknown Webhook"), NOW)
    assert outcome == Outcome(
        "refused", "HTTP 404: Unknown Webhook", blame="credential", status=404, code="10015"
    )
    with pytest.raises(Unsendable) as wrong:
        requested(provider, message(b'"x"'))
    assert wrong.value.blame == "credential"


def test_404_of_another_server_is_not_the_end(message: Make) -> None:
    provider = hook()
    assert provider.outcome(Answer(404, {}, b"<html>"), NOW).blame == "credential"
    requested(provider, message(b'"x"'))


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (500, "ambiguous", ""),
        (504, "ambiguous", ""),
        (302, "refused", "account"),
        (403, "refused", "account"),
    ],
)
def test_what_a_server_in_between_says_is_not_repeated(status: int, kind: str, blame: str) -> None:
    outcome = hook().outcome(Answer(status, {"content-type": "text/html"}, f"no {URL}".encode()), NOW)
    assert (outcome.kind, outcome.blame, outcome.reason) == (kind, blame, f"HTTP {status}")


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=300), st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, body: bytes, words: str, wait: str) -> None:
    headers = {"retry-after": wait, "x-ratelimit-remaining": "0", "x-ratelimit-reset-after": wait}
    for answer in (Answer(status, headers, body), error(status, 1, words, retry_after=wait)):
        outcome = hook().outcome(answer, NOW)
        assert len(outcome.reason) <= MAX_REASON
        assert outcome.reason.isprintable()
        assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Make,
) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path_qs, await request.json()))
        headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.25"}
        return web.json_response({"id": "77"}, headers=headers)

    url = (await serve(handler)).replace("/hook", "/api/webhooks/1/a")
    dispatcher = await dispatch({"hook": Settings(url=url, allow_private=True)})
    assert await attempt(dispatcher, message(b'"hi"')) == Outcome(
        "accepted", "HTTP 200", provider_id="77", status=200, retry_after=1.25, pause="account"
    )
    body = {"content": "hi", "allowed_mentions": {"parse": []}}
    assert seen == [("/api/v10/webhooks/1/a?wait=true", body)]
