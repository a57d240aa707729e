import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels.whatsapp import Whatsapp as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import (
    MAX_REASON,
    MAX_RETRY_AFTER,
    Answer,
    Call,
    Forged,
    Receipt,
    Reply,
    Send,
    Unsendable,
)
from gateway.providers.whatsapp import CODES, STATUSES, Whatsapp
from tests.providers.pages import table_of

TOKEN = "EAAJB0token"
BACK = "https://gw.example/v1/callbacks/wa"
NOW = 1_790_000_000.0
REF = "3864A1P7P0048.2"
Make = Callable[..., Item]


def channel(callback: str = BACK, **named: Any) -> Whatsapp:
    wanted: dict[str, Any] = {
        "phone_number_id": "106540352242922",
        "access_token": TOKEN,
        "app_secret": "s3cret",
        "verify_token": "v3rify",
    }
    return Whatsapp("wa", Settings(**wanted | named), callback)


def sent(item: Item, address: str = "+16505551234") -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=2, trace="", address=address, wall=NOW, ttl=60.0)


def answer(status: int, said: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json"} | named, msgspec.json.encode(said))


def refusal(code: Any, message: str = "(#1) …") -> dict[str, Any]:
    return {"error": {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "A"}}


def test_a_request(message: Make) -> None:
    item = message('{"text": "grüß dich"}'.encode())
    request = channel().request(sent(item))
    assert request.url == "https://graph.facebook.com/v23.0/106540352242922/messages"
    assert request.method == "POST"
    assert request.headers == {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    assert (
        request.body
        == (
            '{"messaging_product":"whatsapp","recipient_type":"individual","to":"+16505551234","type":"text",'
            f'"text":{{"body":"grüß dich"}},"biz_opaque_callback_data":"{encode_id(item.id)}.2"}}'
        ).encode()
    )


def body(item: Item) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(channel().request(sent(item)).body)
    return {k: v for k, v in found.items() if k not in {"messaging_product", "recipient_type", "to"}} | {
        "biz_opaque_callback_data": ""
    }


TEMPLATE = {"name": "code", "language": {"code": "en_US"}, "components": []}
IMAGE = {"link": "https://a.example/b.png"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"whatsapp": {"type": "template", "template": TEMPLATE}},
            {"type": "template", "template": TEMPLATE},
        ),
        ({"whatsapp": {"template": TEMPLATE}}, {"type": "template", "template": TEMPLATE}),
        ({"text": "for others", "whatsapp": {"image": IMAGE}}, {"type": "image", "image": IMAGE}),
        (
            {"text": "hi", "whatsapp": {"text": {"preview_url": True}}},
            {"type": "text", "text": {"body": "hi", "preview_url": True}},
        ),
        (
            {"text": "for others", "whatsapp": {"text": {"body": "hi"}}},
            {"type": "text", "text": {"body": "hi"}},
        ),
        (
            {"text": "hi", "whatsapp": {"context": {"message_id": "wamid.1"}}},
            {"type": "text", "text": {"body": "hi"}, "context": {"message_id": "wamid.1"}},
        ),
        ({"text": "x" * 4096}, {"type": "text", "text": {"body": "x" * 4096}}),
    ],
)
def test_what_the_sender_writes_for_whatsapp(
    message: Make, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert body(message(msgspec.json.encode(said))) == expected | {"biz_opaque_callback_data": ""}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"text": "hi", "whatsapp": {"to": "+1"}}, "whatsapp.to"),
        ({"text": "hi", "whatsapp": {"biz_opaque_callback_data": "x"}}, "biz_opaque"),
        ({"whatsapp": {"context": {}}}, "no text"),
        ({"whatsapp": {"text": {"body": 1}}}, "no text"),
        ({"whatsapp": {"text": "hi"}}, "not an object"),
        ({"text": "x" * 4097}, "4,096"),
        ({"n": 1}, "neither text"),
    ],
)
def test_what_cannot_be_sent_is_the_messages_fault(message: Make, said: Any, reason: str) -> None:
    with pytest.raises(Unsendable, match=reason) as caught:
        channel().request(sent(message(msgspec.json.encode(said))))
    assert caught.value.blame == "message"


@pytest.mark.parametrize(
    "address", ["", "16505551234", "+0650555123", "+1650", "+1650555123456789", "+1650\n"]
)
def test_an_address_that_is_no_number_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as caught:
        channel().request(sent(message(b'"hi"'), address))
    assert caught.value.blame == "recipient"


ACCEPTED = {"messaging_product": "whatsapp", "messages": [{"id": "wamid.1", "message_status": "accepted"}]}


@pytest.mark.parametrize(
    ("named", "receipt"), [({}, True), ({"callback": ""}, False), ({"app_secret": ""}, False)]
)
def test_accepted_is_not_delivered(named: dict[str, Any], receipt: bool) -> None:
    found = channel(**named).outcome(answer(200, ACCEPTED), NOW)
    assert found == Outcome("accepted", "HTTP 200", provider_id="wamid.1", status=200, receipt=receipt)


@pytest.mark.parametrize("said", [None, {}, {"messages": []}, {"messages": [{"id": 1}]}, []])
def test_a_200_that_is_not_understood_is_ambiguous(said: Any) -> None:
    assert channel().outcome(answer(200, said), NOW).kind == "ambiguous"


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("code", CODES)
def test_every_code_of_an_answer_whatever_the_status(code: str, status: int) -> None:
    kind, blame, pause, learnt, meaning = CODES[code]
    found = channel().outcome(answer(status, refusal(int(code)), retry_after="7"), NOW)
    assert (found.kind, found.blame, found.pause, found.learnt) == (kind, blame, pause, learnt)
    assert (found.code, found.reason, found.status) == (code, f"{code}: {meaning}", status)
    assert found.retry_after == (7.0 if kind == "retry" else 0.0)
    assert (blame != "") == (kind == "refused")


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (200, "ambiguous", ""),
        (301, "refused", "message"),
        (400, "refused", "message"),
        (401, "refused", "credential"),
        (403, "refused", "credential"),
        (404, "refused", "account"),
        (408, "retry", ""),
        (429, "retry", ""),
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (503, "retry", ""),
        (504, "ambiguous", ""),
    ],
)
@pytest.mark.parametrize("said", [{"error": "x"}, refusal(999_999, "new"), refusal("190")])
def test_answers_without_a_known_code(status: int, kind: str, blame: str, said: Any) -> None:
    found = channel().outcome(answer(status, said), NOW)
    assert (found.kind, found.blame, found.status) == (kind, blame, status)
    assert (found.code, found.reason == "999999: new") == (
        ("999999", True) if said == refusal(999_999, "new") else ("", False)
    )


def test_a_token_that_meta_quotes_is_not_in_the_reason() -> None:
    found = channel().outcome(answer(400, refusal(999_999, f"Malformed access token {TOKEN[:10]}")), NOW)
    assert found.reason == "HTTP 400"
    found = channel().outcome(answer(400, {"error": f"Malformed access token {TOKEN}"}), NOW)
    assert found.reason == "HTTP 400"


def usage(minutes: Any) -> str:
    return msgspec.json.encode(
        {"102290129340398": [{"type": "whatsapp", "estimated_time_to_regain_access": minutes}]}
    ).decode()


@pytest.mark.parametrize(
    ("code", "headers", "seconds"),
    [
        (80007, {}, 0.0),
        (80007, {"x_business_use_case_usage": usage(5)}, 300.0),
        (80007, {"x_business_use_case_usage": usage(5), "retry_after": "400"}, 400.0),
        (80007, {"x_business_use_case_usage": usage(99_999)}, 86_400.0),
        (80007, {"x_business_use_case_usage": usage("soon")}, 0.0),
        (80007, {"x_business_use_case_usage": "{"}, 0.0),
        (80007, {"x_business_use_case_usage": "[]"}, 0.0),
        (131056, {}, 6.0),
        (131056, {"retry_after": "60"}, 60.0),
    ],
)
def test_waits(code: int, headers: dict[str, str], seconds: float) -> None:
    assert channel().outcome(answer(400, refusal(code), **headers), NOW).retry_after == seconds


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "code", "message", "messages", "id"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.integers(100, 999), ODD, st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, said: Any, wait: str) -> None:
    found = channel().outcome(answer(status, said, retry_after=wait), NOW)
    assert found.reason.isprintable()
    assert len(found.reason) <= MAX_REASON
    assert (found.blame != "") == (found.kind == "refused")
    assert 0 <= found.retry_after <= MAX_RETRY_AFTER


def test_the_page_shows_the_same_table() -> None:
    assert table_of("whatsapp") == {code: row[:4] for code, row in CODES.items()}


def status(told: str = "delivered", **named: Any) -> dict[str, Any]:
    return {
        "id": "wamid.1",
        "status": told,
        "timestamp": "1790000001",
        "recipient_id": "16505551234",
        "biz_opaque_callback_data": REF,
    } | named


def event(*statuses: Any) -> bytes:
    """As developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status."""
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"},
        "statuses": list(statuses),
    }
    change = {"value": value, "field": "messages"}
    return msgspec.json.encode(
        {"object": "whatsapp_business_account", "entry": [{"id": "1022", "changes": [change]}]}
    )


def call(data: bytes, secret: str = "s3cret") -> Call:
    signature = hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
    return Call("POST", BACK, {}, {"x-hub-signature-256": f"sha256={signature}"}, data)


@pytest.mark.parametrize(("told", "meant"), [*STATUSES.items(), ("deleted", "")])
def test_every_status(told: str, meant: str) -> None:
    found = channel().callback(call(event(status(told))), NOW)
    assert found == Reply(
        (Receipt(ref=REF, status=meant, at=1_790_000_001_000, reason=told, key=f"wamid.1.{told}"),)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_failed_status(code: str) -> None:
    _, blame, _, learnt, meaning = CODES[code]
    failed = status("failed", errors=[{"code": int(code), "title": "…", "error_data": {"details": "…"}}])
    (found,) = channel().callback(call(event(failed)), NOW).receipts
    assert (found.status, found.code, found.reason) == ("failed", code, f"{code}: {meaning}")
    assert (found.blame, found.learnt) == (blame, learnt)


@pytest.mark.parametrize("errors", [None, [], [{}], [{"code": "x"}], {}, [{"code": 999_999}]])
def test_a_failure_for_no_known_reason_blames_nobody(errors: Any) -> None:
    (found,) = channel().callback(call(event(status("failed", errors=errors))), NOW).receipts
    assert (found.status, found.blame, found.learnt) == ("failed", "", "")
    assert found.reason == ("failed 999999" if errors == [{"code": 999_999}] else "failed")


def test_several_statuses_in_their_order_without_those_of_others() -> None:
    data = event(
        status("sent"),
        status("sent", biz_opaque_callback_data="another's"),
        {"id": "wamid.2", "status": "read"},
        "nonsense",
        status("read", timestamp="soon"),
    )
    found = channel().callback(call(data), NOW).receipts
    assert [(one.status, one.at) for one in found] == [("accepted", 1_790_000_001_000), ("read", 0)]


def test_what_is_said_again_has_the_same_key() -> None:
    one, again = (channel().callback(call(event(status())), NOW).receipts[0].key for _ in range(2))
    other = channel().callback(call(event(status("read"))), NOW).receipts[0].key
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    "said",
    [
        {"entry": [{"changes": [{"value": {"messages": [{"from": "16505551234", "id": "wamid.3"}]}}]}]},
        {"entry": [{"changes": [{"value": None}, 1]}, None]},
        {"entry": []},
    ],
)
def test_what_is_no_status_is_taken_and_says_nothing(said: Any) -> None:
    assert channel().callback(call(msgspec.json.encode(said)), NOW) == Reply()


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"entry": 1}', b""])
def test_what_is_signed_but_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|entry"):
        channel().callback(call(data), NOW)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_no_byte_of_what_is_signed_can_change() -> None:
    one = call(event(status()))
    signature = one.headers["x-hub-signature-256"].encode()
    assert channel().callback(one, NOW).receipts
    forged = [Call("POST", BACK, {}, one.headers, flipped(one.body, n)) for n in range(len(one.body))]
    forged += [
        Call("POST", BACK, {}, {"x-hub-signature-256": flipped(signature, n).decode()}, one.body)
        for n in range(len(signature))
    ]
    forged += [
        Call("POST", BACK, {}, {}, one.body),
        Call("POST", BACK, {}, {"x-hub-signature-256": "ü"}, one.body),
        Call("POST", BACK, {}, {"x-hub-signature-256": "\udcff"}, one.body),
        call(one.body, "another"),
        call(one.body, ""),
    ]
    for each in forged:
        with pytest.raises(Forged):
            channel().callback(each, NOW)
    with pytest.raises(Forged):
        channel(app_secret="").callback(call(one.body, ""), NOW)


def test_secrets_are_rotated() -> None:
    for secret in ("new", "old"):
        assert channel(app_secret=("new", "old")).callback(call(event(status()), secret), NOW).receipts


HANDSHAKE = {"hub.mode": "subscribe", "hub.verify_token": "v3rify", "hub.challenge": "1158201444"}


def test_the_handshake_returns_the_challenge() -> None:
    found = channel().callback(Call("GET", BACK, HANDSHAKE, {}, b""), NOW)
    assert found == Reply(body=b"1158201444")
    assert found.content_type == "text/plain"


@pytest.mark.parametrize("token", ["", "v3rifx", "v3rify "])
def test_the_handshake_needs_the_token(token: str) -> None:
    asked = HANDSHAKE | {"hub.verify_token": token}
    for provider in (channel(), channel(verify_token="")):
        with pytest.raises(Forged):
            provider.callback(Call("GET", BACK, asked, {}, b""), NOW)


@pytest.mark.parametrize("url", ["ftp://graph.facebook.com", "http://graph.facebook.com"])
def test_settings_that_cannot_work_are_named(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        channel(url=url)
    assert wrong.value.field == "channels.wa.url"


def test_secrets_are_not_shown() -> None:
    shown = repr(
        Settings(phone_number_id="1", access_token="hid1", app_secret=("hid2", "hid3"), verify_token="hid4")
    )
    assert "hid" not in shown


async def test_a_delivery_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[tuple[str, str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"], await request.json()))
        return web.json_response(ACCEPTED)

    url = (await serve(handler)).removesuffix("/hook")
    settings = Settings(
        phone_number_id="106540352242922", access_token=TOKEN, url=url, allow_private=True, timeout=20.0
    )
    dispatcher = await dispatch({"wa": settings})
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    item = message(b'"hi"')
    dispatcher.send("wa", item, 1, "+16505551234", ended.set_result)
    outcome = await ended
    assert (outcome.kind, outcome.provider_id) == ("accepted", "wamid.1")
    ((path, authorization, said),) = seen
    assert (path, authorization) == ("/v23.0/106540352242922/messages", f"Bearer {TOKEN}")
    assert (said["to"], said["text"]) == ("+16505551234", {"body": "hi"})
    assert said["biz_opaque_callback_data"] == f"{encode_id(item.id)}.1"
