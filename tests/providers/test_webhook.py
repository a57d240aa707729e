import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import Webhook as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.providers.provider import MAX_REASON, MAX_RETRY_AFTER, Answer, Send, retry_after, rfc3339
from gateway.providers.webhook import Webhook

OLD, NEW = ("whsec_" + base64.b64encode(key).decode() for key in (b"o" * 24, b"n" * 64))
TRACE = "00-0123456789abcdef0000000000000001-0000000000000001-01"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def hook(
    secret: str | tuple[str, ...] = OLD,
    url: str = "https://hook.example/in?k=v",
    allow_private: bool = False,
) -> Webhook:
    return Webhook("hook", Settings(url=url, secret=secret, allow_private=allow_private))


def sent(item: Item, wall: float) -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=1, trace=TRACE, address="", wall=wall, ttl=60.0)


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_the_body_is_what_the_contract_says(message: Make) -> None:
    body = '{"text": "naïve ☃", "n": 1.0, "big": 123456789012345678901234567890}'.encode()
    item = message(body, type="greeting", meta={"a": "b"})
    request = hook().request(sent(item, NOW))
    assert request.url == "https://hook.example/in?k=v"
    assert request.body == (
        b'{"type":"message","timestamp":"2026-09-21T14:13:20.123Z","data":{"id":"%b","to":"alice","from":"bot-7",'
        b'"at":1790000000123,"type":"greeting","body":%b,"meta":{"a":"b"},"trace":"%b"}}'
        % (encode_id(item.id).encode(), body, TRACE.encode())
    )


@pytest.mark.parametrize("extra", [{}, {"collapse": "c"}])
def test_what_a_message_has_none_of_is_null(message: Make, extra: dict[str, str]) -> None:
    data = msgspec.json.decode(hook().request(sent(message(**extra), NOW)).body)["data"]
    assert list(data) == ["id", "to", "from", "at", "type", "body", "meta", "trace"]
    assert data["type"] is None
    assert data["meta"] is None


def test_headers(message: Make) -> None:
    item = message()
    headers = hook().request(sent(item, NOW)).headers
    assert headers["webhook-id"] == encode_id(item.id)
    assert headers["webhook-timestamp"] == "1790000005"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("bot-gateway/")


def test_an_attempt_later_has_the_same_id_and_body_under_another_signature(message: Make) -> None:
    item = message()
    first, second = (hook().request(sent(item, wall)) for wall in (NOW, NOW + 60))
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert second.headers["webhook-timestamp"] == "1790000065"
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_the_reference_library_verifies_every_secret_of_a_rotation(message: Make) -> None:
    request = hook((OLD, NEW)).request(sent(message('"héllo"'.encode()), time.time()))
    for secret in (OLD, NEW):
        assert (
            standardwebhooks.Webhook(secret).verify(request.body, request.headers)["data"]["body"] == "héllo"
        )
    stranger = standardwebhooks.Webhook("whsec_" + base64.b64encode(b"x" * 32).decode())
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        stranger.verify(request.body, request.headers)


def test_the_reference_library_notices_a_changed_body(message: Make) -> None:
    request = hook().request(sent(message(b"1"), time.time()))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(OLD).verify(request.body.replace(b'"body":1', b'"body":2'), request.headers)


def test_a_message_without_its_body_is_a_bug(message: Make) -> None:
    with pytest.raises(ValueError, match="no body"):
        hook().request(sent(message(None), NOW))


@pytest.mark.parametrize(
    "url",
    [
        "https://hook.example/",
        "https://127.0.0.1/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://localhost/",
    ],
)
def test_urls_that_need_no_permission(url: str) -> None:
    hook(url=url)


@pytest.mark.parametrize("url", ["http://hook.example/", "http://10.0.0.1/", "http://localhost.example/"])
def test_plain_http_needs_permission(url: str) -> None:
    with pytest.raises(ConfigError, match="allow_private") as caught:
        hook(url=url)
    assert caught.value.field == "channels.hook.url"
    hook(url=url, allow_private=True)


def test_what_cannot_be_read_names_its_key() -> None:
    with pytest.raises(ConfigError, match="must be an http or https URL") as caught:
        hook(url="https://[::1/")
    assert caught.value.field == "channels.hook.url"
    with pytest.raises(ConfigError) as caught:
        hook(secret=(OLD, "whsec_not base64"))
    assert caught.value.field == "channels.hook.secret"
    assert "not base64" not in caught.value.detail


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_delivered(status: int) -> None:
    outcome = hook().outcome(answer(status, b"thank you"), NOW)
    assert (outcome.kind, outcome.reason, outcome.status) == ("delivered", f"HTTP {status}", status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599, 600, 999])
def test_retry(status: int) -> None:
    outcome = hook().outcome(answer(status, retry_after="7"), NOW)
    assert (outcome.kind, outcome.reason, outcome.retry_after) == ("retry", f"HTTP {status}", 7.0)
    assert outcome.status == status


@pytest.mark.parametrize(
    ("status", "blame"),
    [(401, "credential"), (403, "credential"), (410, "recipient")]
    + [
        (status, "message")
        for status in (300, 301, 302, 304, 307, 308, 400, 402, 404, 405, 409, 413, 418, 422, 499)
    ],
)
def test_refused(status: int, blame: str) -> None:
    outcome = hook().outcome(answer(status, retry_after="7"), NOW)
    assert (outcome.kind, outcome.blame, outcome.retry_after, outcome.status) == (
        "refused",
        blame,
        0.0,
        status,
    )


def test_another_protocol_is_ambiguous() -> None:
    assert hook().outcome(answer(101), NOW).kind == "ambiguous"


def test_the_reason_is_one_printable_line() -> None:
    body = b"  no such\r\n\x1b[31m order\x00 \xff\xe2\x80\xae "
    assert hook().outcome(answer(400, body, content_type="text/plain; charset=x"), NOW).reason == (
        "HTTP 400: no such [31m order \N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json", "text/html", "Text/Plain"])
def test_the_reason_is_cut(kind: str) -> None:
    reason = hook().outcome(answer(400, "ü".encode() * 40_000, content_type=kind), NOW).reason
    assert len(reason) == MAX_REASON
    assert reason.startswith("HTTP 400: üüü")


def test_what_is_no_text_is_no_reason() -> None:
    assert hook().outcome(answer(400, b"abc", content_type="image/png"), NOW).reason == "HTTP 400"
    assert hook().outcome(answer(400, b"abc", content_encoding="br"), NOW).reason == "HTTP 400"
    assert hook().outcome(answer(400, b" \n\x00"), NOW).reason == "HTTP 400"


@given(st.integers(100, 999), st.binary(max_size=3000), st.text(max_size=40), st.text(max_size=40))
def test_no_answer_is_too_strange(status: int, body: bytes, kind: str, wait: str) -> None:
    outcome = hook().outcome(answer(status, body, content_type=kind, retry_after=wait), NOW)
    assert len(outcome.reason) <= MAX_REASON
    assert outcome.reason.isprintable()
    assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("86400", 86400.0),
        ("86401", 86400.0),
        ("999999999", 86400.0),
        (http_date(60.25), 61.0),  # a date has whole seconds; never early
        (http_date(60.25).replace("GMT", "-0000"), 61.0),
        (http_date(-5), 0.0),
        (http_date(10 * 86400), 86400.0),
        ("Sunday, 21-Sep-26 14:14:20 GMT", 55.0),
        ("", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("1e3", 0.0),
        ("soon", 0.0),
        ("٣", 0.0),
        ("9" * 5000, 0.0),
        ("Mon, 99 Sep 2026 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert retry_after(answer(503, retry_after=text), NOW) == seconds


def test_a_date_without_a_zone_is_in_gmt_wherever_this_machine_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as moved:
        moved.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        waits = retry_after(answer(503, retry_after=http_date(60.25).replace("GMT", "-0000")), NOW)
    time.tzset()
    assert waits == 61.0


def test_no_retry_after() -> None:
    assert retry_after(answer(503), NOW) == 0.0


@given(st.integers(0, 7_258_118_400_000))
def test_timestamps_are_rfc_3339(ms: int) -> None:
    assert rfc3339(ms).endswith("Z")
    assert datetime.fromisoformat(rfc3339(ms)) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        milliseconds=ms
    )


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"secret": ()}, "secret"),
        ({"secret": "whsec_AAAA"}, "secret"),
        ({"secret": OLD[6:]}, "secret"),
        ({"secret": "whsec_????"}, "secret"),
        ({"secret": (OLD, "whsec_AAAA")}, "secret"),
        ({"url": "ftp://hook.example/"}, "url"),
        ({"url": "https://user:pw@hook.example/"}, "url"),
        ({"url": "https://hook.example:99999/"}, "url"),
        ({"url": "https:///in"}, "url"),
        ({"url": "https://hook.example/a b"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        hook(**named)
    assert wrong.value.field == f"channels.hook.{field}"
    value = named[field]
    if value and isinstance(value, str):
        assert value not in str(wrong.value)
