import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from gateway.config.channels.twilio import Twilio as Settings
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
from gateway.providers.twilio import CODES, STATUSES, Twilio
from tests.providers.pages import table_of

ACCOUNT = "AC" + "0a" * 16
KEY, SERVICE = "SK" + "0b" * 16, "MG" + "0c" * 16
TOKEN = "token-of-the-account"
BACK = "https://gw.example/v1/callbacks/sms"
NOW = 1_790_000_000.0
REF = "3864A1P7P0048.2"
Make = Callable[..., Item]


def sms(callback: str = BACK, **named: Any) -> Twilio:
    wanted: dict[str, Any] = {"account_sid": ACCOUNT, "auth_token": TOKEN, "sender": "+15550100"}
    return Twilio("sms", Settings(**wanted | named), callback)


def sent(item: Item, address: str = "+4915112345678", ttl: float = 60.9) -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=2, trace="", address=address, wall=NOW, ttl=ttl)


def answer(status: int, said: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json"} | named, msgspec.json.encode(said))


def test_a_request(message: Make) -> None:
    item = message('{"text": "grüß & dich"}'.encode())
    request = sms().request(sent(item))
    assert request.url == f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert request.method == "POST"
    assert request.headers == {
        "content-type": "application/x-www-form-urlencoded",
        "authorization": "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode(),
    }
    assert request.body == (
        b"To=%2B4915112345678&From=%2B15550100&Body=gr%C3%BC%C3%9F+%26+dich&ValidityPeriod=60"
        b"&StatusCallback=https%3A%2F%2Fgw.example%2Fv1%2Fcallbacks%2Fsms%3Fref%3D"
        + f"{encode_id(item.id)}.2".encode()
    )


def form(provider: Twilio, send: Send) -> dict[str, list[str]]:
    return parse_qs(provider.request(send).body.decode(), strict_parsing=True)


def test_an_api_key_signs_in_in_place_of_the_token(message: Make) -> None:
    headers = sms(api_key=KEY, api_secret="s").request(sent(message(b'"hi"'))).headers
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == f"{KEY}:s".encode()


def test_a_messaging_service_alone_or_with_a_sender_of_its_pool(message: Make) -> None:
    alone = form(sms(sender="", messaging_service_sid=SERVICE), sent(message(b'"hi"')))
    assert alone["MessagingServiceSid"] == [SERVICE]
    assert "From" not in alone
    both = form(sms(messaging_service_sid=SERVICE), sent(message(b'"hi"')))
    assert (both["From"], both["MessagingServiceSid"]) == (["+15550100"], [SERVICE])


@pytest.mark.parametrize(
    ("ttl", "said"), [(0.2, "1"), (1, "1"), (59.99, "59"), (36_000, "36000"), (86_400 * 7, "36000")]
)
def test_the_validity_period_is_what_is_left_within_twilios_bounds(
    message: Make, ttl: float, said: str
) -> None:
    assert form(sms(), sent(message(b'"hi"'), ttl=ttl))["ValidityPeriod"] == [said]


@pytest.mark.parametrize("named", [{"callback": ""}, {"auth_token": "", "api_key": KEY, "api_secret": "s"}])
def test_no_callback_is_asked_for_where_none_can_come_or_be_verified(
    message: Make, named: dict[str, Any]
) -> None:
    provider = sms(**named)
    assert "StatusCallback" not in form(provider, sent(message(b'"hi"')))
    assert not provider.outcome(answer(201, {"sid": "SM1", "status": "queued"}), NOW).receipt
    with pytest.raises(Forged):
        provider.callback(Call("POST", BACK, {}, {"x-twilio-signature": ""}, b"MessageSid=SM1"), NOW)


def test_a_callback_url_that_has_a_query_keeps_it(message: Make) -> None:
    url = form(sms(callback=BACK + "?k=v"), sent(message(b'"hi"')))["StatusCallback"]
    assert url[0].startswith(BACK + "?k=v&ref=")


@pytest.mark.parametrize(
    "address", ["", "4915112345678", "+0915112345678", "+12345", "+1234567890123456", "+49151\n", "+٤٩١٥١١٢٣"]
)
def test_an_address_that_is_no_number_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as caught:
        sms().request(sent(message(b'"hi"'), address=address))
    assert caught.value.blame == "recipient"


@pytest.mark.parametrize(("unit", "count"), [("a", 1600), ("ü", 1600), ("😀", 800)])
def test_the_longest_text(message: Make, unit: str, count: int) -> None:
    body = form(sms(), sent(message(msgspec.json.encode(unit * count))))["Body"]
    assert body == [unit * count]
    with pytest.raises(Unsendable, match="1,600") as caught:
        sms().request(sent(message(msgspec.json.encode(unit * count + "."))))
    assert caught.value.blame == "message"


def test_what_the_sender_may_add(message: Make) -> None:
    body = {
        "text": "hi",
        "twilio": {
            "MediaUrl": ["https://a.example/1", "https://a.example/2"],
            "ContentVariables": {"1": "x"},
            "SmartEncoded": True,
        },
    }
    said = form(sms(), sent(message(msgspec.json.encode(body))))
    assert said["MediaUrl"] == ["https://a.example/1", "https://a.example/2"]
    assert said["ContentVariables"] == ['{"1":"x"}']
    assert said["SmartEncoded"] == ["true"]


@pytest.mark.parametrize(
    "name", ["To", "From", "StatusCallback", "MessagingServiceSid", "ValidityPeriod", "?"]
)
def test_what_the_sender_may_not_set(message: Make, name: str) -> None:
    with pytest.raises(Unsendable, match="not for the sender"):
        sms().request(sent(message(msgspec.json.encode({"text": "hi", "twilio": {name: "x"}}))))


def test_options_alone_are_no_message(message: Make) -> None:
    with pytest.raises(Unsendable, match="neither text"):
        sms().request(sent(message(b'{"twilio": {"SmartEncoded": true}}')))
    assert form(sms(), sent(message(b'{"twilio": {"ContentSid": "HX1"}}')))["ContentSid"] == ["HX1"]


def test_accepted_is_not_delivered() -> None:
    found = sms().outcome(answer(201, {"sid": "SM1", "status": "queued", "error_code": None}), NOW)
    assert found == Outcome("accepted", "HTTP 201", provider_id="SM1", status=201, receipt=True)


def test_a_failure_inside_a_201() -> None:
    found = sms().outcome(answer(201, {"sid": "SM1", "status": "failed", "error_code": 30007}), NOW)
    assert (found.kind, found.blame, found.code) == ("refused", "message", "30007")
    found = sms().outcome(answer(201, {"sid": "SM1", "status": "failed", "error_code": 99999}), NOW)
    assert (found.kind, found.blame, found.code) == ("refused", "message", "99999")


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_an_answer(code: str) -> None:
    kind, blame, pause, learnt, meaning = CODES[code]
    found = sms().outcome(
        answer(400, {"code": int(code), "message": "+4915112345678 …"}, retry_after="7"), NOW
    )
    assert found.kind == ("refused" if kind == "failed" else kind)
    assert found.blame == (blame or ("message" if kind == "failed" else ""))
    assert (found.pause, found.learnt, found.code) == (pause, learnt, code)
    assert found.reason == f"{code}: {meaning}"
    assert found.retry_after == (7.0 if kind == "retry" else 0.0)
    assert (found.blame != "") == (found.kind == "refused")


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
        (410, "refused", "account"),
        (429, "retry", ""),
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (503, "retry", ""),
        (504, "ambiguous", ""),
    ],
)
@pytest.mark.parametrize("said", [None, {"code": 19999, "message": "new"}, {"code": "x" * 40, "message": 1}])
def test_answers_without_a_known_code(status: int, kind: str, blame: str, said: Any) -> None:
    found = sms().outcome(answer(status, said), NOW)
    assert (found.kind, found.blame, found.status) == (kind, blame, status)
    if status != 200:
        assert found.code == ("19999" if said and said["code"] == 19999 else "")
        assert (found.reason == "19999: new") == (found.code == "19999")


def test_too_many_requests_pause_the_account() -> None:
    found = sms().outcome(answer(429, {"code": 20429}, retry_after="3"), NOW)
    assert (found.kind, found.pause, found.retry_after) == ("retry", "account", 3.0)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sid", "code", "status", "message", "error_code"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(st.integers(100, 999), ODD, st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, said: Any, wait: str) -> None:
    found = sms().outcome(answer(status, said, retry_after=wait), NOW)
    assert found.reason.isprintable()
    assert len(found.reason) <= MAX_REASON
    assert (found.blame != "") == (found.kind == "refused")
    assert 0 <= found.retry_after <= MAX_RETRY_AFTER


def test_the_page_shows_the_same_table() -> None:
    assert table_of("twilio") == {code: row[:4] for code, row in CODES.items()}


def call(
    fields: dict[str, str],
    query: dict[str, str] | None = None,
    *,
    secret: str = TOKEN,
    algorithm: str = "",
    signed_as: str = "",
) -> Call:
    """A form as Twilio sends it, signed by Twilio's own library."""
    query = {"ref": REF} if query is None else query
    url = BACK + ("?" + urlencode(query) if query else "")
    signature = RequestValidator(secret).compute_signature(signed_as or url, fields, algorithm or None)
    headers = {"x-twilio-signature": signature, "content-type": "application/x-www-form-urlencoded"}
    if algorithm:
        headers["x-twilio-webhooks-signature-settings"] = f"key=webhooks_sharedkey_1,algorithm={algorithm}"
    return Call("POST", url, query, headers, urlencode(fields).encode())


def receipt(found: Reply) -> Receipt:
    (one,) = found.receipts
    return one


STATUS = {"MessageSid": "SM1", "MessageStatus": "delivered", "To": "+4915112345678", "Extra": ""}


@pytest.mark.parametrize(("status", "meant"), [*STATUSES.items(), ("unheard-of", "")])
def test_every_status(status: str, meant: str) -> None:
    found = receipt(sms().callback(call(STATUS | {"MessageStatus": status}), NOW))
    assert (found.ref, found.status, found.key) == (REF, meant, f"SM1.{status}")
    assert (found.blame, found.learnt, found.reason) == ("", "", status)


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_a_callback(code: str) -> None:
    _, blame, _, learnt, meaning = CODES[code]
    fields = STATUS | {"MessageStatus": "undelivered", "ErrorCode": code}
    found = receipt(sms().callback(call(fields), NOW))
    assert found == Receipt(
        ref=REF,
        status="failed",
        reason=f"{code}: {meaning}",
        code=code,
        blame=blame,
        key="SM1.undelivered",
        learnt=learnt,
    )


def test_an_unknown_code_blames_nobody() -> None:
    fields = STATUS | {"MessageStatus": "failed", "ErrorCode": "39999"}
    found = receipt(sms().callback(call(fields), NOW))
    assert (found.status, found.blame, found.learnt, found.code) == ("failed", "", "", "39999")


@pytest.mark.parametrize("query", [{}, {"ref": "not one of ours"}])
def test_a_status_of_a_message_that_is_not_ours_is_taken_and_says_nothing(query: dict[str, str]) -> None:
    assert sms().callback(call(STATUS, query), NOW) == Reply()
    fields = STATUS | {"MessageStatus": "failed", "ErrorCode": "21610"}
    found = receipt(sms().callback(call(fields, query), NOW))
    assert (found.ref, found.learnt, found.address) == ("", "opted_out", "+4915112345678")


INBOUND = {"MessageSid": "SM2", "SmsStatus": "received", "From": "+4915112345678", "To": "+15550100"}


@pytest.mark.parametrize(
    ("fields", "stops"),
    [
        ({"Body": "Bitte nicht mehr", "OptOutType": "STOP"}, True),
        ({"Body": "STOP", "OptOutType": "START"}, False),
        ({"Body": "STOP", "OptOutType": "HELP"}, False),
        ({"Body": " stop "}, True),
        ({"Body": "Unsubscribe"}, True),
        ({"Body": "stop it"}, False),
        ({"Body": "hello"}, False),
        ({"Body": ""}, False),
        ({"Body": "STOP", "From": "whatsapp:+4915112345678"}, False),
    ],
)
def test_what_comes_in_may_be_an_opt_out(fields: dict[str, str], stops: bool) -> None:
    found = sms().callback(call(INBOUND | fields, {}), NOW)
    assert (found.status, found.body, found.content_type) == (200, b"<Response/>", "text/xml")
    expected = Receipt(key="SM2.STOP", learnt="opted_out", address="+4915112345678", reason="STOP")
    assert found.receipts == ((expected,) if stops else ())


def test_stop_words_are_the_operators() -> None:
    provider = sms(stop_words=("Arrêt",))
    assert provider.callback(call(INBOUND | {"Body": "arrêt"}, {}), NOW).receipts
    assert not provider.callback(call(INBOUND | {"Body": "STOP"}, {}), NOW).receipts


@pytest.mark.parametrize("fields", [{"MessageStatus": "sent"}, {"MessageSid": "SM1"}])
def test_what_is_signed_but_cannot_be_read(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Message|status"):
        sms().callback(call(fields), NOW)


@pytest.mark.parametrize(
    ("named", "secret"),
    [
        ({}, TOKEN),
        ({"signing_secret": "s1"}, "s1"),
        ({"signing_secret": ("s1", "s2")}, "s2"),
    ],
)
@pytest.mark.parametrize("algorithm", ["", "HMAC_SHA1", "HMAC_SHA256"])
def test_secrets_and_algorithms(named: dict[str, Any], secret: str, algorithm: str) -> None:
    assert sms(**named).callback(call(STATUS, secret=secret, algorithm=algorithm), NOW).receipts
    with pytest.raises(Forged):
        sms(**named).callback(call(STATUS, secret="another", algorithm=algorithm), NOW)


def test_the_token_does_not_verify_where_a_signing_secret_is_set() -> None:
    with pytest.raises(Forged):
        sms(signing_secret="s1").callback(call(STATUS), NOW)


def test_twilio_signs_with_the_port_or_without() -> None:
    with_port = f"https://gw.example:443/v1/callbacks/sms?ref={REF}"
    one = call(STATUS, signed_as=with_port)
    assert sms().callback(one, NOW).receipts
    other = call(STATUS)
    assert sms().callback(Call("POST", with_port, other.query, other.headers, other.body), NOW).receipts


def json_call(said: Any) -> Call:
    body = said if isinstance(said, bytes) else msgspec.json.encode(said)
    query = {"ref": REF, "bodySHA256": hashlib.sha256(body).hexdigest()}
    url = f"{BACK}?{urlencode(query)}"
    signature = RequestValidator(TOKEN).compute_signature(url, {})
    return Call("POST", url, query, {"x-twilio-signature": signature}, body)


def test_json_is_signed_by_its_hash() -> None:
    one = json_call(STATUS | {"Depth": {"a": 1}})
    assert RequestValidator(TOKEN).validate(one.url, one.body.decode(), one.headers["x-twilio-signature"])
    assert receipt(sms().callback(one, NOW)).status == "delivered"
    with pytest.raises(Forged, match="bodySHA256"):
        sms().callback(
            Call("POST", one.url, one.query, one.headers, one.body.replace(b"delivered", b"failed!!!")), NOW
        )
    with pytest.raises(ValueError, match="object"):
        sms().callback(json_call([1]), NOW)
    with pytest.raises(ValueError, match="not JSON"):
        sms().callback(json_call(b"{"), NOW)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_no_byte_of_what_is_signed_can_change() -> None:
    one = call(STATUS)
    assert RequestValidator(TOKEN).validate(
        one.url, dict(parse_qsl(one.body.decode(), keep_blank_values=True)), one.headers["x-twilio-signature"]
    )
    url, signature = one.url.encode(), one.headers["x-twilio-signature"].encode()
    forged = [
        Call("POST", one.url, one.query, one.headers, flipped(one.body, n)) for n in range(len(one.body))
    ]
    forged += [
        Call("POST", flipped(url, n).decode(), one.query, one.headers, one.body)
        for n in range(len("https://"), len(url))
    ]
    forged += [
        Call("POST", one.url, one.query, {"x-twilio-signature": flipped(signature, n).decode()}, one.body)
        for n in range(len(signature))
    ]
    forged += [
        Call("POST", one.url, one.query, {}, one.body),
        Call("POST", one.url, one.query, {"x-twilio-signature": "ü"}, one.body),
        Call("POST", one.url, one.query, {"x-twilio-signature": "\udcff"}, one.body),
        Call("POST", one.url, one.query, one.headers, one.body + b"&Body=STOP"),
        Call("POST", one.url, one.query, one.headers, b"\xff"),
        Call("POST", one.url, one.query, one.headers, b"a=1&" * 300),
        Call("POST", one.url, one.query | {"bodySHA256": "0" * 64}, one.headers, one.body),
    ]
    for each in forged:
        with pytest.raises(Forged):
            sms().callback(each, NOW)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"auth_token": ""}, "auth_token"),
        ({"api_key": KEY}, "api_key"),
        ({"api_secret": "s"}, "api_key"),
        ({"sender": ""}, "sender"),
        ({"url": "ftp://api.twilio.com"}, "url"),
        ({"url": "http://api.twilio.com"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_hold_no_secret(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        sms(**named)
    assert wrong.value.field == f"channels.sms.{field}"
    assert TOKEN not in str(wrong.value)


def test_secrets_are_not_shown() -> None:
    shown = repr(
        Settings(account_sid=ACCOUNT, auth_token="hid1", api_secret="hid2", signing_secret=("hid3", "hid4"))
    )
    assert "hid" not in shown
    assert ACCOUNT in shown


async def test_a_delivery_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[tuple[str, str, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"], dict(parse_qsl(await request.text()))))
        return web.json_response({"sid": "SM1", "status": "queued"}, status=201)

    url = (await serve(handler)).removesuffix("/hook")
    settings = Settings(
        account_sid=ACCOUNT, auth_token=TOKEN, sender="+15550100", url=url, allow_private=True, timeout=20.0
    )
    dispatcher = await dispatch({"sms": settings}, wall=lambda: NOW)
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("sms", message(b'"hi"'), 1, "+4915112345678", ended.set_result)
    outcome = await ended
    assert (outcome.kind, outcome.provider_id) == ("accepted", "SM1")
    ((path, authorization, said),) = seen
    assert path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert authorization == "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert said == {
        "To": "+4915112345678",
        "From": "+15550100",
        "Body": "hi",
        "ValidityPeriod": "36000",
    }
