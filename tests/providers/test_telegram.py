import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import Telegram as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import MAX_REASON, MAX_RETRY_AFTER, Answer, Request, Send, Unsendable
from gateway.providers.telegram import CODES, Telegram
from tests.providers.pages import table_of

TOKEN = "123456:" + "AAH-secret_of_the_bot" * 2
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def bot(**named: Any) -> Telegram:
    return Telegram("chat", Settings(token=TOKEN, **named))


def requested(provider: Telegram, item: Item, address: str = "4711") -> Request:
    return provider.request(
        Send(item=item, id=encode_id(item.id), attempt=2, trace="", address=address, wall=NOW, ttl=60.0)
    )


def fields(provider: Telegram, item: Item, address: str = "4711") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(requested(provider, item, address).body)
    return found


def error(description: str, status: int = 400, **parameters: Any) -> Answer:
    said: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if parameters:
        said["parameters"] = parameters
    return Answer(status, {"content-type": "application/json"}, json.dumps(said).encode())


def test_the_request(message: Make) -> None:
    request = requested(bot(), message(b'{"text":"hello <all>","title":"News"}'))
    assert request.method == "POST"
    assert request.url == f"https://api.telegram.org/bot{TOKEN}/sendMessage"
    assert request.headers["content-type"] == "application/json"
    assert request.body == b'{"text":"News\\n\\nhello <all>","chat_id":"4711"}'


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("", "a<b & *c*.\n\n<i>hi</i>"),
        ("HTML", "<b>a&lt;b &amp; *c*.</b>\n\n<i>hi</i>"),
        ("MarkdownV2", "*a<b & \\*c\\*\\.*\n\n<i>hi</i>"),
    ],
)
def test_the_title_is_escaped_and_the_text_is_the_senders(message: Make, mode: str, text: str) -> None:
    body = b'{"text":"<i>hi</i>","title":"a<b & *c*."}'
    expected = {"text": text, "chat_id": "4711"} | ({"parse_mode": mode} if mode else {})
    assert fields(bot(parse_mode=mode), message(body)) == expected
    native = msgspec.json.decode(body) | {"telegram": {"parse_mode": mode}}
    assert fields(bot(), message(msgspec.json.encode(native))) == {"parse_mode": mode} | expected


def test_what_is_for_telegram_alone_goes_to_the_same_chat(message: Make) -> None:
    body = b'{"text":"x","telegram":{"chat_id":1,"text":"y","disable_notification":true,"reply_markup":{"k":[1]}}}'
    assert fields(bot(), message(body)) == {
        "text": "y",
        "chat_id": "4711",
        "disable_notification": True,
        "reply_markup": {"k": [1]},
    }


@pytest.mark.parametrize("address", ["1", "-1001234567890", "@some_channel", "999999999999999"])
def test_chats(message: Make, address: str) -> None:
    assert fields(bot(), message(b'"x"'), address)["chat_id"] == address


@pytest.mark.parametrize(
    "address",
    ["", "0", "+4915112345678", "1.5", "@x", "some_channel", "1\n", "1 ", "--1", "@a/b", "٣", "@" + "x" * 33],
)
def test_what_is_no_chat_blames_the_recipient(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        requested(bot(), message(b'"x"'), address)
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    ("body", "mode", "sendable"),
    [
        (json.dumps("x" * 4096), "", True),
        (json.dumps("\N{GRINNING FACE}" * 4096 + "\n"), "", True),
        (json.dumps("x" * 4097), "", False),
        (json.dumps({"text": "x" * 4090, "title": "y" * 5}), "", False),
        (json.dumps({"telegram": {"text": "x" * 4097}}), "", False),
        (json.dumps("x" * 4097), "HTML", True),
        ('{"telegram":{"disable_notification":true}}', "", False),
        ('{"telegram":{"text":7}}', "", False),
        ('{"n":1}', "", False),
    ],
)
def test_text_that_telegram_would_not_take_blames_the_message(
    message: Make, body: str, mode: str, sendable: bool
) -> None:
    if sendable:
        requested(bot(parse_mode=mode), message(body.encode()))
        return
    with pytest.raises(Unsendable) as wrong:
        requested(bot(parse_mode=mode), message(body.encode()))
    assert wrong.value.blame == "message"


def test_sent_is_accepted_and_no_more() -> None:
    outcome = bot().outcome(
        Answer(200, {}, b'{"ok":true,"result":{"message_id":77,"chat":{"id":4711}}}'), NOW
    )
    assert outcome == Outcome("accepted", "HTTP 200", provider_id="77", status=200)


@pytest.mark.parametrize("body", [b"", b"ok", b"[]", b'{"ok":1}', b'{"result":{"message_id":7}}'])
def test_what_cannot_be_read_is_ambiguous(body: bytes) -> None:
    assert bot().outcome(Answer(200, {}, body), NOW) == Outcome("ambiguous", "HTTP 200", status=200)


# as the Bot API's own server says it: the start of the description in CODES, the whole of it, the status
SAID = [
    ("Too Many Requests", "Too Many Requests: retry after 7", 429),
    ("Unauthorized", "Unauthorized", 401),
    ("Unauthorized", "Unauthorized: invalid token specified", 401),
    ("Not Found", "Not Found", 404),
    ("Misdirected Request", "Misdirected Request: unallowed token specified", 421),
    ("Bad Request: Logged out", "Bad Request: Logged out", 400),
    (
        "Bad Request: group chat was upgraded to a supergroup chat",
        "Bad Request: group chat was upgraded to a supergroup chat",
        400,
    ),
    ("Bad Request: chat not found", "Bad Request: chat not found", 400),
    ("Bad Request: private chat not found", "Bad Request: private chat not found", 400),
    ("Bad Request: PEER_ID_INVALID", "Bad Request: PEER_ID_INVALID", 400),
    (
        "Bad Request: not enough rights",
        "Bad Request: not enough rights to send text messages to the chat",
        400,
    ),
    ("Bad Request: have no rights to send a message", "Bad Request: have no rights to send a message", 400),
    (
        "Bad Request: need administrator rights",
        "Bad Request: need administrator rights in the channel chat",
        400,
    ),
    ("Bad Request: CHAT_WRITE_FORBIDDEN", "Bad Request: CHAT_WRITE_FORBIDDEN", 400),
    ("Bad Request: CHAT_SEND_PLAIN_FORBIDDEN", "Bad Request: CHAT_SEND_PLAIN_FORBIDDEN", 400),
    ("Bad Request: CHAT_RESTRICTED", "Bad Request: CHAT_RESTRICTED", 400),
    ("Bad Request: TOPIC_CLOSED", "Bad Request: TOPIC_CLOSED", 400),
    ("Bad Request: TOPIC_DELETED", "Bad Request: TOPIC_DELETED", 400),
    ("Bad Request", "Bad Request: message is too long", 400),
    ("Bad Request", 'Bad Request: can\'t parse entities: Unsupported start tag "x" at byte offset 0', 400),
    ("Bad Request", "Bad Request: message thread not found", 400),
    ("Request Entity Too Large", "Request Entity Too Large", 413),
    ("Forbidden: bot was blocked by the user", "Forbidden: bot was blocked by the user", 403),
    ("Forbidden: bot was kicked from", "Forbidden: bot was kicked from the supergroup chat", 403),
    ("Forbidden: user is deactivated", "Forbidden: user is deactivated", 403),
    ("Forbidden: the group chat was deleted", "Forbidden: the group chat was deleted", 403),
    ("Forbidden: bot is not a member of", "Forbidden: bot is not a member of the channel chat", 403),
    (
        "Forbidden: bot can't initiate conversation with a user",
        "Forbidden: bot can't initiate conversation with a user",
        403,
    ),
    ("Forbidden: bot can't send messages to", "Forbidden: bot can't send messages to the user", 403),
    ("Forbidden", "Forbidden: something new", 403),
    ("Internal Server Error", "Internal Server Error: restart", 500),
    ("Bad Gateway", "Bad Gateway", 502),
    ("Gateway Timeout", "Gateway Timeout", 504),
]


@pytest.mark.parametrize(("start", "words", "status"), SAID)
def test_every_description(start: str, words: str, status: int) -> None:
    known = error(words, status, retry_after=7, migrate_to_chat_id=-1001234567890)
    outcome = bot().outcome(known, NOW)
    kind, blame, pause, learnt = table_of("telegram")[start]
    assert outcome == Outcome(
        kind,
        f"HTTP {status}: {start if pause else words}",
        blame=blame,
        retry_after=7.0 if pause else 0.0,
        status=status,
        code=str(status),
        pause=pause,
        learnt=learnt,
        address="-1001234567890" if learnt == "moved" else "",
    )


def test_the_page_has_the_table_and_the_tests_reach_all_of_it() -> None:
    assert table_of("telegram") == CODES
    assert {start for start, _, _ in SAID} == set(CODES)


@pytest.mark.parametrize("to", [None, "x", 0, {"a": 1}])
def test_moved_without_saying_where_is_refused(to: Any) -> None:
    words = "Bad Request: group chat was upgraded to a supergroup chat"
    outcome = bot().outcome(error(words, migrate_to_chat_id=to), NOW)
    assert (outcome.kind, outcome.blame, outcome.learnt, outcome.address) == ("refused", "recipient", "", "")


@pytest.mark.parametrize(
    ("parameters", "header", "seconds"),
    [
        ({"retry_after": 30}, "29", 30.0),
        ({"retry_after": 10**9}, "", MAX_RETRY_AFTER),
        ({}, "29", 29.0),
        ({"retry_after": "soon"}, "", 1.0),
        ({"retry_after": -3}, "", 1.0),
        ({}, "", 1.0),
    ],
)
def test_the_wait(parameters: dict[str, Any], header: str, seconds: float) -> None:
    plain = error("Too Many Requests: retry after 5", 429, **parameters)
    outcome = bot().outcome(Answer(429, {"retry-after": header}, plain.body), NOW)
    assert (outcome.kind, outcome.pause, outcome.retry_after) == ("retry", "account", seconds)
    assert outcome.reason == "HTTP 429: Too Many Requests"


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (504, "ambiguous", ""),
        (503, "retry", ""),
        (429, "retry", ""),
        (404, "refused", "account"),
        (302, "refused", "account"),
        (401, "refused", "credential"),
        (413, "refused", "message"),
    ],
)
def test_what_a_server_in_between_says_is_not_repeated(status: int, kind: str, blame: str) -> None:
    page = Answer(status, {"content-type": "text/html"}, f"no such URL: /bot{TOKEN}/sendMessage".encode())
    outcome = bot().outcome(page, NOW)
    assert (outcome.kind, outcome.blame, outcome.learnt) == (kind, blame, "")
    assert outcome.reason == f"HTTP {status}"


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=300), st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, body: bytes, words: str, wait: str) -> None:
    for answer in (Answer(status, {"retry-after": wait}, body), error(words, status, retry_after=wait)):
        outcome = bot().outcome(answer, NOW)
        assert len(outcome.reason) <= MAX_REASON
        assert outcome.reason.isprintable()
        assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"token": "abc"}, "token"),
        ({"token": "0123:abc"}, "token"),
        ({"token": "123:a/../b"}, "token"),
        ({"token": "123:abc\n"}, "token"),
        ({"token": TOKEN, "url": "http://api.example/"}, "url"),
        ({"token": TOKEN, "url": "https://user:pw@api.example/"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        Telegram("chat", Settings(**named))
    assert wrong.value.field == f"channels.chat.{field}"
    assert named[field] not in str(wrong.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Settings(token=TOKEN))


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, await request.json()))
        return web.json_response({"ok": True, "result": {"message_id": 77}})

    url = (await serve(handler)).removesuffix("/hook")
    dispatcher = await dispatch({"chat": Settings(token=TOKEN, url=url + "/", allow_private=True)})
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("chat", message(b'"hi"'), 1, "4711", done.set_result)
    assert await done == Outcome("accepted", "HTTP 200", provider_id="77", status=200)
    assert seen == [(f"/bot{TOKEN}/sendMessage", {"text": "hi", "chat_id": "4711"})]
