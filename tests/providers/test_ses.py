import base64
import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.config.channels import Ses as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import ses as module
from gateway.providers.provider import Answer, Call, Forged, Needs, Receipt, Reply, Send, Unsendable
from gateway.providers.ses import Ses
from gateway.providers.sigv4 import Key, signed
from tests.providers.pages import PAGES, table_of

NOW = 1_790_000_005.75
TOPIC = "arn:aws:sns:eu-west-1:123456789012:ses-events"
CALLBACK = "https://gw.example/v1/callbacks/mail"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
Make = Callable[..., Item]


def mail(callback: str = CALLBACK, **named: Any) -> Ses:
    wanted = {
        "region": "eu-west-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": SECRET,
        "sender": "Shop <shop@example.com>",
        "topic_arn": TOPIC,
    }
    return Ses("mail", Settings(**wanted | named), callback)


def sent(item: Item, address: str = "ann@example.net") -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=3, trace="", address=address, wall=NOW, ttl=60.0)


def answer(status: int, code: str = "", message: str = "") -> Answer:
    headers = {"content-type": "application/json"}
    if code:
        headers["x-amzn-errortype"] = f"{code}:http://internal.amazon.com/coral/com.amazonaws.ses/"
    return Answer(status, headers, json.dumps({"message": message} if message else {}).encode())


# -- requests ----------------------------------------------------------------------------------------------------------


def test_the_request(message: Make) -> None:
    item = message(b'{"text": "h\\u00e9llo", "title": "Hi\\nthere", "html": "<b>h</b>"}')
    request = mail(reply_to="help@example.com", configuration_set="gw").request(sent(item))
    url = "https://email.eu-west-1.amazonaws.com/v2/email/outbound-emails"
    assert (request.method, request.url) == ("POST", url)
    assert json.loads(request.body) == {
        "FromEmailAddress": "Shop <shop@example.com>",
        "Destination": {"ToAddresses": ["ann@example.net"]},
        "ReplyToAddresses": ["help@example.com"],
        "Content": {
            "Simple": {
                "Subject": {"Data": "Hi there", "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": "héllo", "Charset": "UTF-8"},
                    "Html": {"Data": "<b>h</b>", "Charset": "UTF-8"},
                },
            }
        },
        "EmailTags": [{"Name": "gateway-ref", "Value": f"{encode_id(item.id)}-3"}],
        "ConfigurationSetName": "gw",
    }
    plain = {name: request.headers[name] for name in ("content-type", "user-agent")}
    key = Key("AKIDEXAMPLE", SECRET, "", "eu-west-1", "ses")
    assert request.headers == signed(key, "POST", url, plain, request.body, NOW)


def test_a_name_in_other_letters(message: Make) -> None:
    body = json.loads(mail(sender="Bücher <shop@example.com>").request(sent(message(b'"a"'))).body)
    assert body["FromEmailAddress"] == "=?utf-8?q?B=C3=BCcher?= <shop@example.com>"


def test_temporary_credentials(message: Make) -> None:
    headers = mail(session_token="tok").request(sent(message(b'"a"'))).headers
    assert headers["x-amz-security-token"] == "tok"
    assert "x-amz-security-token" in headers["authorization"]


def test_a_template_needs_no_text(message: Make) -> None:
    native = {
        "Template": {"TemplateName": "t", "TemplateData": "{}"},
        "ListManagementOptions": {"ContactListName": "l"},
    }
    body = json.loads(mail().request(sent(message(json.dumps({"ses": native}).encode()))).body)
    assert body["Content"] == {"Template": {"TemplateName": "t", "TemplateData": "{}"}}
    assert body["ListManagementOptions"] == {"ContactListName": "l"}


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'""',
        b'{"text": "a", "ses": {"Destination": {"BccAddresses": ["eve@example.net"]}}}',
        b'{"text": "a", "ses": {"FromEmailAddress": "eve@example.net"}}',
        b'{"text": "a", "ses": {"EmailTags": []}}',
        b'{"ses": {"Template": 1}}',
        b'{"ses": {"Headers": []}}',
    ],
)
def test_what_makes_no_mail(message: Make, body: bytes) -> None:
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(body)))
    assert wrong.value.blame == "message"


def test_bad_addresses_are_the_recipients_fault(message: Make) -> None:
    with pytest.raises(Unsendable) as wrong:
        mail().request(sent(message(b'"a"'), "ann@example.net, eve@example.net"))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"sender": "Shop"}, "sender"),
        ({"reply_to": "a@b\nc"}, "reply_to"),
        ({"topic_arn": "arn:aws:sqs:eu-west-1:123456789012:q"}, "topic_arn"),
        ({"topic_arn": TOPIC + "\n"}, "topic_arn"),
        ({"url": "http://email.example"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        mail(**named)
    assert wrong.value.field == f"channels.mail.{field}"


def test_settings_show_no_secret() -> None:
    shown = repr(
        Settings(
            region="r", access_key_id="AKID", secret_access_key=SECRET, session_token="tok-en", sender="a@b"
        )
    )
    assert SECRET not in shown
    assert "tok-en" not in shown


# -- answers -----------------------------------------------------------------------------------------------------------

STATUSES = {"retry": 503, "refused": 400}


def code_answers() -> dict[str, list[Answer]]:
    """Every row of the page, as the API says it."""
    found = {code: [answer(STATUSES[kind], code)] for code, (kind, _, _) in module.ERRORS.items()}
    for message in module.MESSAGES:
        found[message] = [
            answer(400, code, f"{message}. So") for code in ("ThrottlingException", "MessageRejected", "X")
        ]
    return found


@pytest.mark.parametrize("code", code_answers())
def test_errors_are_what_the_page_says(code: str) -> None:
    table = table_of("ses")
    assert table.keys() == code_answers().keys()
    for one in code_answers()[code]:
        outcome = mail().outcome(one, NOW)
        assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == table[code]


def test_every_error_of_the_operation_is_known() -> None:
    """As botocore's model of the service has it."""
    import botocore.session  # noqa: PLC0415 - slow to import, and for this test alone

    model = botocore.session.Session().get_service_model("sesv2").operation_model("SendEmail")
    assert {shape.name for shape in model.error_shapes} <= module.ERRORS.keys()


def test_outcomes_whole() -> None:
    good = Answer(200, {"content-type": "application/json"}, b'{"MessageId": "0102-abc-000000"}')
    accepted = Outcome("accepted", "HTTP 200", status=200, provider_id="0102-abc-000000", receipt=True)
    assert mail().outcome(good, NOW) == accepted
    assert not mail(callback="").outcome(good, NOW).receipt
    assert not mail(topic_arn="").outcome(good, NOW).receipt
    assert mail().outcome(
        answer(400, "MessageRejected", "Email address is not verified. So"), NOW
    ) == Outcome(
        "refused",
        "HTTP 400: MessageRejected: Email address is not verified. So",
        blame="account",
        status=400,
        code="MessageRejected",
    )
    day = mail().outcome(answer(400, "ThrottlingException", "Daily message quota exceeded."), NOW)
    assert (day.kind, day.retry_after) == ("refused", 900.0)
    rate = mail().outcome(answer(400, "ThrottlingException", "Maximum sending rate exceeded."), NOW)
    assert (rate.kind, rate.retry_after) == ("retry", 1.0)


@pytest.mark.parametrize(
    ("one", "kind", "blame"),
    [
        (Answer(200, {}, b"<html>"), "ambiguous", ""),
        (Answer(200, {}, b'{"MessageId": 1}'), "ambiguous", ""),
        (Answer(502, {}, b""), "retry", ""),
        (Answer(403, {}, b'{"message": 7}'), "refused", "credential"),
        (answer(400, "NewException"), "refused", "message"),
        (Answer(400, {}, b'{"__type": "com.amazonaws.ses#BadRequestException"}'), "refused", "message"),
        (Answer(400, {}, b'{"__type": "AccountSuspendedException"}'), "refused", "account"),
        (Answer(400, {}, b'{"__type": 1, "code": []}'), "refused", "message"),
    ],
)
def test_other_answers(one: Answer, kind: str, blame: str) -> None:
    outcome = mail().outcome(one, NOW)
    assert (outcome.kind, outcome.blame) == (kind, blame)


# -- messages of SNS ---------------------------------------------------------------------------------------------------

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(
    name: str = "sns.amazonaws.com", begins: float = -3600, ends: float = 3600, key: Any = RSA
) -> Answer:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.fromtimestamp(NOW, dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now + dt.timedelta(seconds=begins))
        .not_valid_after(now + dt.timedelta(seconds=ends))
        .sign(key, hashes.SHA256())
    )
    return Answer(200, {}, made.public_bytes(Encoding.PEM))


FETCHED = {CERTIFICATE: certificate()}


def envelope(message: str, version: str = "2", at: float = NOW, **named: str) -> dict[str, str]:
    """Signed as the documentation says; what is named is signed too."""
    stamp = dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": message,
        "Timestamp": stamp,
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        **named,
    }
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    text = "".join(f"{name}\n{made[name]}\n" for name in names if name in made)
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303 - what version 1 is
    made["Signature"] = base64.b64encode(RSA.sign(text.encode(), padding.PKCS1v15(), algorithm)).decode()
    return made


def call(found: Any, fetched: Any = None) -> Call:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    return Call("POST", CALLBACK, {}, {}, body, FETCHED if fetched is None else fetched)


def event(kind: str, **inside: Any) -> dict[str, Any]:
    """One as the documentation shows it."""
    return {
        "eventType": kind,
        "mail": {
            "timestamp": "2026-09-21T14:13:20.123Z",
            "source": "shop@example.com",
            "messageId": "EXAMPLE7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000",
            "destination": ["ann@example.net"],
            "tags": {"ses:configuration-set": ["gw"], "gateway-ref": ["3864A1P7P0048-3"]},
        },
        **inside,
    }


def bounce(sub: str, status: str = "5.0.0", kind: str = "Permanent") -> dict[str, Any]:
    return event(
        "Bounce",
        bounce={
            "bounceType": kind,
            "bounceSubType": sub,
            "bouncedRecipients": [
                {
                    "emailAddress": "ann@example.net",
                    "action": "failed",
                    "status": status,
                    "diagnosticCode": "smtp; no",
                }
            ],
            "timestamp": "2026-09-21T14:13:25.000Z",
            "feedbackId": "01000157c44f053b",
        },
    )


def complaint(kind: str | None, sub: str | None = None) -> dict[str, Any]:
    return event(
        "Complaint",
        complaint={
            "complainedRecipients": [{"emailAddress": "ann@example.net"}],
            "complaintFeedbackType": kind,
            "complaintSubType": sub,
            "timestamp": "2026-09-21T14:13:25.000Z",
        },
    )


def receipt_of(one: Any) -> Receipt:
    (receipt,) = mail().callback(call(envelope(json.dumps(one))), NOW).receipts
    return receipt


EVENTS = [
    (event("Send", send={}), "accepted", "", ""),
    (event("Delivery", delivery={"smtpResponse": "250 ok"}), "delivered", "", ""),
    (event("DeliveryDelay", deliveryDelay={"delayType": "MailboxFull"}), "", "", ""),
    (event("Open", open={}), "read", "", ""),
    (event("Click", click={}), "read", "", ""),
    (event("Reject", reject={"reason": "Bad content"}), "failed", "message", ""),
    (event("Rendering Failure", failure={"errorMessage": "Attribute x"}), "failed", "message", ""),
    (
        event("Subscription", subscription={"newTopicPreferences": {"unsubscribeAll": True}}),
        "",
        "",
        "opted_out",
    ),
    (event("Subscription", subscription={"newTopicPreferences": {"unsubscribeAll": False}}), "", "", ""),
    (bounce("General"), "failed", "recipient", ""),
    (bounce("General", "5.1.1"), "failed", "recipient", "gone"),
    (bounce("NoEmail", "5.1.10"), "failed", "recipient", "gone"),
    (bounce("NoEmail"), "failed", "recipient", ""),
    (bounce("Suppressed"), "failed", "recipient", ""),
    (bounce("OnAccountSuppressionList"), "failed", "recipient", ""),
    (bounce("UnsubscribedRecipient"), "failed", "recipient", ""),
    (bounce("MailboxFull", "4.2.2", "Transient"), "failed", "recipient", ""),
    (bounce("MessageTooLarge", "5.3.4", "Transient"), "failed", "message", ""),
    (bounce("ContentRejected", "5.6.1", "Transient"), "failed", "message", ""),
    (bounce("AttachmentRejected", "", "Transient"), "failed", "message", ""),
    (bounce("Undetermined", "", "Undetermined"), "failed", "message", ""),
    (complaint("abuse"), "", "", "opted_out"),
    (complaint("fraud"), "", "", "opted_out"),
    (complaint(None), "", "", "opted_out"),
    (complaint("not-spam"), "", "", ""),
    (complaint("auth-failure"), "", "", ""),
    (complaint("virus"), "", "", ""),
    (complaint(None, "OnAccountSuppressionList"), "failed", "recipient", "opted_out"),
]


@pytest.mark.parametrize(("one", "status", "blame", "learnt"), EVENTS)
def test_events(one: dict[str, Any], status: str, blame: str, learnt: str) -> None:
    receipt = receipt_of(one)
    assert (receipt.status, receipt.blame, receipt.learnt) == (status, blame, learnt)
    assert receipt.ref == "3864A1P7P0048.3"
    assert receipt.address == ("ann@example.net" if learnt else "")


def test_the_page_knows_every_event_and_kind_of_bounce() -> None:
    rows = [row for row in (PAGES / "ses.md").read_text().splitlines() if row.startswith("| `")]
    for name in module.EVENTS:
        assert any(f"`{name}`" in row.split("|")[1] for row in rows), name
    for name, blame in module.BOUNCES.items():
        (row,) = (row for row in rows if row.startswith("| `Bounce`") and f"`{name}`" in row)
        assert row.split("|")[3].strip() == blame
    assert {one["eventType"] for one, *_ in EVENTS} == module.EVENTS.keys()
    assert {one["bounce"]["bounceSubType"] for one, *_ in EVENTS if "bounce" in one} >= module.BOUNCES.keys()


def test_a_receipt_whole() -> None:
    assert receipt_of(bounce("General", "5.1.1")) == Receipt(
        ref="3864A1P7P0048.3",
        status="failed",
        at=1_790_000_005_000,
        reason="Bounce: Permanent/General smtp; no",
        code="5.1.1",
        blame="recipient",
        key="22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        learnt="gone",
        address="ann@example.net",
    )
    assert receipt_of(event("Open", open=None)).at == 1_790_000_000_123


@pytest.mark.parametrize(
    "text",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        "[]",
        '{"eventType": "New"}',
        '{"eventType": 5}',
        '{"eventType": "Received"}',
    ],
)
def test_what_is_no_event_of_ours(text: str) -> None:
    assert mail().callback(call(envelope(text)), NOW) == Reply()


@pytest.mark.parametrize(
    "inside",
    [{"mail": 1}, {"mail": {"tags": []}}, {"mail": {"tags": {"gateway-ref": []}}}, {"bounce": []},
     {"mail": {"tags": {"gateway-ref": ["../x"]}, "timestamp": "soon"}}],
)  # fmt: skip
def test_strange_events_are_no_trouble(inside: dict[str, Any]) -> None:
    receipt = receipt_of({"eventType": "Bounce", **inside})
    assert (receipt.ref, receipt.status, receipt.learnt) == ("", "failed", "")


@pytest.mark.parametrize("version", ["1", "2"])
def test_both_versions_of_the_signature(version: str) -> None:
    found = envelope(json.dumps(event("Send")), version, Subject="s")
    assert len(mail().callback(call(found), NOW).receipts) == 1
    for name in ("Message", "MessageId", "Subject", "Timestamp"):
        with pytest.raises(Forged, match="signature"):
            mail().callback(call(found | {name: found[name] + " "}), NOW)
    other = "1" if version == "2" else "2"
    with pytest.raises(Forged, match="signature"):
        mail().callback(call(found | {"SignatureVersion": other}), NOW)


def test_the_certificate_is_asked_for() -> None:
    with pytest.raises(Needs) as needs:
        mail().callback(call(envelope("{}"), {}), NOW)
    assert (needs.value.url, needs.value.keep) == (CERTIFICATE, 86400.0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-0123abcd.pem",
        "https://evil.example/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com/evil.pem",
        "https://sns.eu-west-1.amazonaws.com/../SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com/?x=/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem?x=1",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem#x",
        "https://sns.eu-west-1.amazonaws.com\\@evil.example/SimpleNotificationService-0123abcd.pem",
        "https://[::1/SimpleNotificationService-0123abcd.pem",
        "https://s3.amazonaws.com/SimpleNotificationService-0123abcd.pem",
    ],
)
def test_a_certificate_from_elsewhere_is_never_asked_for(url: str) -> None:
    with pytest.raises(Forged, match="elsewhere"):
        mail().callback(call(envelope("{}", SigningCertURL=url), {}), NOW)


@pytest.mark.parametrize(
    "found",
    [
        certificate(name="sns.evil.example"),
        certificate(name="amazonaws.com"),
        certificate(begins=60, ends=120),
        certificate(begins=-120, ends=-60),
        certificate(key=ec.generate_private_key(ec.SECP256R1())),
        certificate(key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        Answer(404, {}, b"<Error/>"),
        Answer(200, {}, b""),
    ],
)
def test_what_is_no_certificate_of_sns(found: Answer) -> None:
    with pytest.raises(Forged, match="signature"):
        mail().callback(call(envelope("{}"), {CERTIFICATE: found}), NOW)


def test_forgeries() -> None:
    good = envelope(json.dumps(event("Send")))
    assert mail().callback(call(good), NOW).receipts
    flipped = good["Signature"][:-4] + ("AAA=" if good["Signature"][-4:] != "AAA=" else "BBB=")
    for changed in (
        {"Signature": flipped},
        {"Signature": "?"},
        {"Signature": ""},
        {"SignatureVersion": "3"},
        {"Type": "New"},
        {"TopicArn": TOPIC + "2"},
    ):
        with pytest.raises(Forged):
            mail().callback(call(good | changed), NOW)
    for body in (b"", b"[]", b"{", b"\xff", b"{}"):
        with pytest.raises(Forged):
            mail().callback(call(body), NOW)
    for at in (NOW - 3602, NOW + 3602):
        with pytest.raises(Forged, match="too old"):
            mail().callback(call(envelope("{}", at=at)), NOW)
    for stamp in ("soon", "2026-09-21T14:13:20", "9999-99-99T00:00:00Z"):
        with pytest.raises(Forged, match="too old"):
            mail().callback(call(envelope("{}", Timestamp=stamp)), NOW)
    with pytest.raises(Forged):
        mail(topic_arn="").callback(call(good), NOW)
    assert mail().callback(call(envelope(json.dumps(event("Send")), at=NOW - 3599)), NOW).receipts


# -- subscriptions -----------------------------------------------------------------------------------------------------

SUBSCRIBE = (
    f"https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37f"
)


def confirmation(url: str = SUBSCRIBE, kind: str = "SubscriptionConfirmation") -> dict[str, str]:
    text = "You have chosen to subscribe to the topic."
    return envelope(text, Type=kind, SubscribeURL=url, Token="2336412f37f")


def test_a_subscription_is_confirmed() -> None:
    with pytest.raises(Needs) as needs:
        mail().callback(call(confirmation()), NOW)
    assert (needs.value.url, needs.value.keep) == (SUBSCRIBE, 0.0)
    fetched = {**FETCHED, SUBSCRIBE: Answer(200, {}, b"<ConfirmSubscriptionResponse/>")}
    assert mail().callback(call(confirmation(), fetched), NOW) == Reply()
    fetched[SUBSCRIBE] = Answer(403, {}, b"")
    with pytest.raises(ValueError, match="not confirmed"):
        mail().callback(call(confirmation(), fetched), NOW)
    quoted = SUBSCRIBE.replace(TOPIC, quote(TOPIC, safe=""))
    with pytest.raises(Needs):
        mail().callback(call(confirmation(quoted)), NOW)


def test_the_end_of_a_subscription_is_left_at_that() -> None:
    assert mail().callback(call(confirmation(kind="UnsubscribeConfirmation")), NOW) == Reply()


@pytest.mark.parametrize(
    "url",
    [
        "",
        SUBSCRIBE.replace("https", "http"),
        SUBSCRIBE.replace("eu-west-1.amazonaws.com", "us-east-1.amazonaws.com", 1),
        SUBSCRIBE.replace("sns.eu-west-1.amazonaws.com", "evil.example"),
        SUBSCRIBE.replace("ConfirmSubscription", "DeleteTopic"),
        SUBSCRIBE.replace("/?", "/x?"),
        SUBSCRIBE + "&x=1",
        SUBSCRIBE + "1",
        SUBSCRIBE.replace("ses-events", "other"),
    ],
)
def test_what_confirms_something_else_is_never_visited(url: str) -> None:
    with pytest.raises(Forged, match="something else"):
        mail().callback(call(confirmation(url)), NOW)


def test_an_unsigned_confirmation_is_never_visited() -> None:
    found = confirmation() | {"Token": "other"}
    with pytest.raises(Forged, match="signature"):
        mail().callback(msgspec.structs.replace(call(found)), NOW)
