import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config.channels import SendGrid as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import sendgrid as module
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Call, Forged, Receipt, Send, Unsendable
from gateway.providers.sendgrid import SendGrid
from tests.providers.pages import PAGES, table_of

NOW = 1_790_000_005.75
KEY = ec.generate_private_key(ec.SECP256R1())
EVENT_KEY = base64.b64encode(
    KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
CALLBACK = "https://gw.example/v1/callbacks/mail"
API_KEY = "SG.secret-of-the-test"
Make = Callable[..., Item]


def mail(callback: str = CALLBACK, **named: Any) -> SendGrid:
    wanted = {"api_key": API_KEY, "sender": "Shop <shop@example.com>", "event_key": EVENT_KEY}
    return SendGrid("mail", Settings(**wanted | named), callback)


def sent(item: Item, address: str = "ann@example.net") -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=3, trace="", address=address, wall=NOW, ttl=60.0)


def errors(message: str, field: str | None = None) -> bytes:
    return json.dumps({"errors": [{"message": message, "field": field, "help": None}]}).encode()


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json", **named}, body)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_the_request(message: Make) -> None:
    item = message(b'{"text": "h\\u00e9llo", "title": "Hi", "html": "<b>h</b>"}')
    request = mail(reply_to="help@example.com").request(sent(item))
    assert (request.method, request.url) == ("POST", "https://api.sendgrid.com/v3/mail/send")
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "personalizations": [
            {"to": [{"email": "ann@example.net"}], "custom_args": {"gateway_ref": f"{encode_id(item.id)}.3"}}
        ],
        "from": {"email": "shop@example.com", "name": "Shop"},
        "reply_to": {"email": "help@example.com"},
        "subject": "Hi",
        "content": [
            {"type": "text/plain", "value": "héllo"},
            {"type": "text/html", "value": "<b>h</b>"},
        ],
    }


def test_a_plain_body_gets_the_channels_subject(message: Make) -> None:
    body = json.loads(mail(subject="News", sender="shop@example.com").request(sent(message(b'"hello"'))).body)
    assert (body["subject"], body["from"]) == ("News", {"email": "shop@example.com"})
    assert body["content"] == [{"type": "text/plain", "value": "hello"}]


def test_a_template_needs_no_text(message: Make) -> None:
    native = b'{"sendgrid": {"template_id": "d-1", "dynamic_template_data": {"a": 1}, "categories": ["c"]}}'
    body = json.loads(mail().request(sent(message(native))).body)
    (person,) = body["personalizations"]
    assert (person["to"], person["dynamic_template_data"]) == ([{"email": "ann@example.net"}], {"a": 1})
    assert (body["template_id"], body["categories"]) == ("d-1", ["c"])
    assert "content" not in body


@pytest.mark.parametrize(
    "key", ["personalizations", "from", "custom_args", "mail_settings", "send_at", "content", "x\ny"]
)
def test_what_would_change_who_gets_it_is_refused(message: Make, key: str) -> None:
    body = json.dumps({"text": "a", "sendgrid": {key: {"sandbox_mode": {"enable": True}}}}).encode()
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(body)))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize("body", [b'{"sendgrid": {"categories": ["c"]}}', b"{}", b'""', b"7"])
def test_neither_text_nor_template(message: Make, body: bytes) -> None:
    with pytest.raises(Unsendable, match="neither `text` nor `html` nor a template"):
        mail().request(sent(message(body)))


def test_html_alone(message: Make) -> None:
    body = json.loads(mail().request(sent(message(b'{"html": "<p>a</p>"}'))).body)
    assert body["content"] == [{"type": "text/html", "value": "<p>a</p>"}]


@pytest.mark.parametrize(
    "address",
    ["", "ann", "ann@", "@example.net", "a b@example.net", "ann@example.net\n", "ann@-a.example", "ä@example.net",
     "ann@example.net, eve@example.net", "<ann@example.net>", "a" * 65 + "@example.net", "a@" + "b." * 130 + "c"],
)  # fmt: skip
def test_bad_addresses_are_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(b'"a"'), address))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize("address", ["o'neil+x@example.net", "a@localhost", "a@xn--bcher-kva.example"])
def test_good_addresses(message: Make, address: str) -> None:
    body = json.loads(mail().request(sent(message(b'"a"'), address)).body)
    assert body["personalizations"][0]["to"] == [{"email": address}]


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"api_key": ""}, "api_key"),
        ({"api_key": "SG.a\nb"}, "api_key"),
        ({"sender": "Shop"}, "sender"),
        ({"sender": "Shop <shop@example.com\r\nBcc: eve@example.net>"}, "sender"),
        ({"reply_to": "nobody"}, "reply_to"),
        ({"event_key": "AAAA"}, "event_key"),
        ({"event_key": "?"}, "event_key"),
        ({"url": "http://api.example"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        mail(**named)
    assert wrong.value.field == f"channels.mail.{field}"
    assert API_KEY not in str(wrong.value)
    assert API_KEY not in repr(Settings(api_key=API_KEY, sender="a@b"))


# -- answers -----------------------------------------------------------------------------------------------------------

ANSWERS = {
    "202": answer(202, x_message_id="14c5d75ce93.dfd.64b469"),
    "200": answer(200, b"{}"),
    "400": answer(400, errors("The subject is required.", "subject")),
    "400 personalizations.0.to": answer(
        400, errors("Does not contain a valid address.", "personalizations.0.to.0.email")
    ),
    "400 from": answer(400, errors("Does not contain a valid address.", "from.email")),
    "401": answer(401, errors("The provided authorization grant is invalid, expired, or revoked")),
    "401 Maximum credits exceeded": answer(401, errors("Maximum credits exceeded")),
    "403": answer(403, errors("access forbidden")),
    "403 from": answer(
        403, errors("The from address does not match a verified Sender Identity. Mail cannot be sent", "from")
    ),
    "404": answer(404),
    "405": answer(405),
    "413": answer(413),
    "415": answer(415),
    "429": answer(429, errors("too many requests"), x_ratelimit_reset="1790000047"),
    "5xx": answer(503),
}


@pytest.mark.parametrize("code", ANSWERS)
def test_answers_are_what_the_page_says(code: str) -> None:
    table = table_of("sendgrid")
    assert table.keys() == ANSWERS.keys()
    outcome = mail().outcome(ANSWERS[code], NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == table[code]
    assert outcome.status == ANSWERS[code].status


def test_accepted() -> None:
    good = Outcome("accepted", "HTTP 202", status=202, provider_id="14c5d75ce93.dfd.64b469", receipt=True)
    assert mail().outcome(ANSWERS["202"], NOW) == good
    assert not mail(callback="").outcome(ANSWERS["202"], NOW).receipt
    assert not mail(event_key="").outcome(ANSWERS["202"], NOW).receipt


def test_waits() -> None:
    waits = {
        "1790000047": 42.0,
        "1789999999": 0.0,
        "1999999999": 86400.0,
        "soon": 0.0,
        "9" * 30: 0.0,
    }
    for text, seconds in waits.items():
        assert mail().outcome(answer(429, x_ratelimit_reset=text), NOW).retry_after == seconds, text
    assert mail().outcome(answer(429, retry_after="7"), NOW).retry_after == 7.0
    assert mail().outcome(ANSWERS["401 Maximum credits exceeded"], NOW).retry_after == 900.0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"errors": []}', b'{"errors": [1]}', b'{"errors": {"a": 1}}', b"\xff"]
)
def test_errors_without_a_reason(body: bytes) -> None:
    outcome = mail().outcome(answer(400, body), NOW)
    assert (outcome.kind, outcome.blame) == ("refused", "message")
    assert outcome.reason.startswith("HTTP 400")


# -- events ------------------------------------------------------------------------------------------------------------


def call(body: bytes, at: float = NOW, key: ec.EllipticCurvePrivateKey = KEY, **changed: str) -> Call:
    timestamp = str(int(at))
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    headers = {
        "x-twilio-email-event-webhook-timestamp": timestamp,
        "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
    }
    return Call("POST", CALLBACK, {}, headers | changed, body)


def event(kind: str, **named: Any) -> dict[str, Any]:
    """One as the documentation shows it."""
    common = {
        "email": "ann@example.net",
        "timestamp": 1513299569,
        "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
        "category": "cat facts",
        "sg_event_id": "rbtnWrG1DVDGGGFHFyun0A==",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        "gateway_ref": "3864A1P7P0048.3",
    }
    return {"event": kind, **common, **named}


def receipts(*events: Any) -> tuple[Receipt, ...]:
    return mail().callback(call(json.dumps(events).encode()), NOW).receipts


def bounce(**named: Any) -> dict[str, Any]:
    return event("bounce", **({"type": "bounce", "reason": "500 no", "status": "5.0.0"} | named))


# the page's row -> an event
EVENTS = {
    "`processed` | accepted | | |": event("processed"),
    "`deferred` | | | |": event("deferred", response="400 try again later", attempt="5"),
    "`delivered` | delivered | | |": event("delivered", response="250 OK"),
    "`bounce`: invalid address | failed | recipient | gone |": bounce(
        bounce_classification="Invalid Address"
    ),
    "`bounce`: mailbox unavailable | failed | recipient | |": bounce(
        bounce_classification="Mailbox Unavailable"
    ),
    "`bounce`: content | failed | message | |": bounce(bounce_classification="Content"),
    "`bounce`: reputation | failed | account | |": bounce(bounce_classification="Reputation"),
    "`bounce`: any other class, type `blocked` | failed | message | |": bounce(
        type="blocked", bounce_classification="Unclassified"
    ),
    "`bounce`: any other class | failed | recipient | |": bounce(bounce_classification="Unclassified"),
    "`dropped`: any other reason | failed | message | |": event("dropped", reason="Who knows"),
} | {
    f"`dropped`: {reason} | failed | {blame} | {learnt + ' |' if learnt else '|'}": event(
        "dropped", reason=reason.title()
    )
    for reason, (blame, learnt) in module.DROPPED.items()
}


@pytest.mark.parametrize("row", EVENTS)
def test_events_are_what_the_page_says(row: str) -> None:
    assert f"| {row}\n" in (PAGES / "sendgrid.md").read_text()
    _, status, blame, learnt, _ = (cell.strip() for cell in row.split("|"))
    (receipt,) = receipts(EVENTS[row])
    assert (receipt.status, receipt.blame, receipt.learnt) == (status, blame, learnt)
    assert receipt.ref == "3864A1P7P0048.3"
    assert receipt.address == ("ann@example.net" if learnt else "")


@pytest.mark.parametrize(
    ("code", "learnt"),
    [
        ("5.1.1", "gone"),
        ("5.1.6", "gone"),
        ("5.1.10", "gone"),
        ("5.1.2", ""),
        ("5.2.1", ""),
        ("5.2.2", ""),
        ("", ""),
    ],
)
def test_a_bounced_address_is_gone_only_where_the_code_says_so(code: str, learnt: str) -> None:
    for kind in ("bounce", "blocked"):
        (receipt,) = receipts(bounce(status=code, type=kind))
        assert (receipt.learnt, receipt.code) == (learnt, code)


@pytest.mark.parametrize(
    ("one", "status", "learnt"),
    [
        (event("open"), "read", ""),
        (event("open", sg_machine_open=False), "read", ""),
        (event("open", sg_machine_open=True), "", ""),
        (event("click", url="https://example.com/"), "read", ""),
        (event("spamreport"), "", "opted_out"),
        (event("unsubscribe"), "", "opted_out"),
        (event("group_unsubscribe", asm_group_id=10), "", ""),
        (event("group_resubscribe", asm_group_id=10), "", ""),
    ],
)
def test_what_people_do(one: dict[str, Any], status: str, learnt: str) -> None:
    (receipt,) = receipts(one)
    assert (receipt.status, receipt.learnt) == (status, learnt)


def test_a_receipt_whole() -> None:
    failed = bounce(reason="550 5.1.1 no\r\nsuch user", status="5.1.1")
    assert receipts(failed, event("delivered", response="250 OK")) == (
        Receipt(
            ref="3864A1P7P0048.3",
            status="failed",
            at=1_513_299_569_000,
            reason="bounce: 550 5.1.1 no such user",
            code="5.1.1",
            blame="recipient",
            key="rbtnWrG1DVDGGGFHFyun0A==",
            learnt="gone",
            address="ann@example.net",
        ),
        Receipt(
            ref="3864A1P7P0048.3",
            status="delivered",
            at=1_513_299_569_000,
            reason="delivered: 250 OK",
            key="rbtnWrG1DVDGGGFHFyun0A==",
        ),
    )


def test_every_event_is_known() -> None:
    assert {one["event"] for one in EVENTS.values()} <= module.EVENTS.keys()
    assert set(module.EVENTS) == {
        "processed", "deferred", "delivered", "bounce", "dropped", "open", "click", "spamreport", "unsubscribe",
        "group_unsubscribe", "group_resubscribe",
    }  # fmt: skip


def test_events_of_others_in_the_account_spoil_nothing() -> None:
    strange: list[Any] = [
        7,
        None,
        {},
        {"event": 5},
        {"event": "account_status_change"},
        event("delivered", gateway_ref=17, email=None, timestamp="soon", sg_event_id=None, response=None),
        event("bounce", gateway_ref="../etc", timestamp=10**18, status=None, reason=[], type=1),
        event("delivered"),
    ]
    first, second, third = receipts(*strange)
    assert first == Receipt(status="delivered", reason="delivered")
    assert (second.ref, second.at, second.blame) == ("", 0, "recipient")
    assert third.ref == "3864A1P7P0048.3"


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[", b"\xff"])
def test_signed_but_unreadable(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of events"):
        mail().callback(call(body), NOW)


def test_the_example_of_the_vendors_own_library() -> None:
    """Key, signature, timestamp and body of sendgrid-python's tests."""
    body = (
        b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
        b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
        b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
        b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
    )
    headers = {
        "x-twilio-email-event-webhook-timestamp": "1600112502",
        "x-twilio-email-event-webhook-signature": "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0J"
        "uG+luQAbPIqHh89M15TluLtEZtM=",
    }
    known = mail(
        event_key="MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaIN"
        "XvVpiglSI8eNEc6wEA3F+g=="
    )
    (receipt,) = known.callback(Call("POST", CALLBACK, {}, headers, body), 1_600_112_510.0).receipts
    assert (receipt.key, receipt.at) == (
        "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
        1_600_112_492_000,
    )
    with pytest.raises(Forged):
        known.callback(Call("POST", CALLBACK, {}, headers, body.replace(b"hello", b"hallo")), 1_600_112_510.0)


def test_forgeries() -> None:
    good = call(json.dumps([event("delivered")]).encode())
    stamp = "x-twilio-email-event-webhook-timestamp"
    sign = "x-twilio-email-event-webhook-signature"
    other = ec.generate_private_key(ec.SECP256R1())
    mail().callback(good, NOW)
    calls = [
        msgspec.structs.replace(good, body=good.body[:-1] + b" ]"),
        msgspec.structs.replace(good, headers=good.headers | {stamp: "1790000006"}),
        msgspec.structs.replace(good, headers=good.headers | {stamp: "é"}),
        msgspec.structs.replace(good, headers=good.headers | {sign: "?"}),
        msgspec.structs.replace(good, headers=good.headers | {sign: ""}),
        msgspec.structs.replace(good, headers={}),
        call(good.body, key=other),
        call(good.body, at=NOW - 302),
        call(good.body, at=NOW + 302),
    ]
    for n, forged in enumerate(calls):
        with pytest.raises(Forged):
            pytest.fail(f"{n}: {mail().callback(forged, NOW)}")
    with pytest.raises(Forged):
        mail(event_key="").callback(good, NOW)
    mail().callback(call(good.body, at=NOW - 299), NOW)


# -- through the dispatcher --------------------------------------------------------------------------------------------


async def test_delivered_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    message: Make,
    attempt: Callable[..., Awaitable[Outcome]],
) -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["authorization"], await request.json()))
        return web.Response(status=202, headers={"X-Message-Id": "abc"})

    url = (await serve(handler)).removesuffix("/hook")
    settings = Settings(api_key=API_KEY, sender="shop@example.com", url=url, allow_private=True)
    dispatcher = await dispatch({"mail": settings})
    item = message(b'"hello"')
    outcome = await attempt(dispatcher, item, "mail", "ann@example.net")
    assert outcome == Outcome("accepted", "HTTP 202", status=202, provider_id="abc")
    ((path, authorization, body),) = seen
    assert (path, authorization) == ("/v3/mail/send", f"Bearer {API_KEY}")
    assert body["personalizations"][0]["custom_args"] == {"gateway_ref": f"{encode_id(item.id)}.1"}
