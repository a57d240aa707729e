import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from gateway.config.channels import Sns as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import sns as module
from gateway.providers.provider import Answer, Send, Unsendable
from gateway.providers.sigv4 import Key, signed
from gateway.providers.sns import Sns
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ENDPOINT = "arn:aws:sns:eu-west-1:123456789012:endpoint/GCM/shop/5e3e9847-3183-3f18-a7e8-671c3a57d4b3"
Make = Callable[..., Item]


def sms(**named: Any) -> Sns:
    wanted = {"region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}
    return Sns("sms", Settings(**wanted | named))


def sent(item: Item, address: str = "+4915123456789", ttl: float = 90.5) -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=1, trace="", address=address, wall=NOW, ttl=ttl)


def form(body: bytes) -> dict[str, str]:
    pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def refusal(code: str, message: str = "", status: int = 400) -> Answer:
    body = (
        f'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">\n  <Error>\n    <Type>Sender</Type>\n'
        f"    <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  <RequestId>r</RequestId>\n"
        f"</ErrorResponse>\n"
    )
    return Answer(status, {"content-type": "text/xml"}, body.encode())


# -- requests ----------------------------------------------------------------------------------------------------------


def test_an_sms(message: Make) -> None:
    request = sms(sender_id="Shop").request(sent(message('{"text": "naïve & ☃ = +1"}'.encode())))
    assert (request.method, request.url) == ("POST", "https://sns.eu-west-1.amazonaws.com/")
    assert form(request.body) == {
        "Action": "Publish",
        "Version": "2010-03-31",
        "PhoneNumber": "+4915123456789",
        "Message": "naïve & ☃ = +1",
        "MessageAttributes.entry.1.Name": "AWS.SNS.SMS.SMSType",
        "MessageAttributes.entry.1.Value.DataType": "String",
        "MessageAttributes.entry.1.Value.StringValue": "Transactional",
        "MessageAttributes.entry.2.Name": "AWS.SNS.SMS.SenderID",
        "MessageAttributes.entry.2.Value.DataType": "String",
        "MessageAttributes.entry.2.Value.StringValue": "Shop",
    }
    plain = {name: request.headers[name] for name in ("content-type", "user-agent")}
    assert plain["content-type"] == "application/x-www-form-urlencoded; charset=utf-8"
    key = Key("AKIDEXAMPLE", SECRET, "", "eu-west-1", "sns")
    assert request.headers == signed(key, "POST", request.url, plain, request.body, NOW)


def test_a_push_message_lives_as_long_as_the_message(message: Make) -> None:
    found = form(sms().request(sent(message(b'"hello"'), ENDPOINT)).body)
    assert found == {
        "Action": "Publish",
        "Version": "2010-03-31",
        "TargetArn": ENDPOINT,
        "Message": "hello",
        "MessageAttributes.entry.1.Name": "AWS.SNS.MOBILE.GCM.TTL",
        "MessageAttributes.entry.1.Value.DataType": "String",
        "MessageAttributes.entry.1.Value.StringValue": "90",
    }
    for ttl, seconds in ((0.2, "1"), (1e9, "2419200")):
        found = form(sms().request(sent(message(b'"hello"'), ENDPOINT, ttl)).body)
        assert found["MessageAttributes.entry.1.Value.StringValue"] == seconds


def test_payloads_and_attributes_of_the_sender(message: Make) -> None:
    native = {"message": {"GCM": {"notification": {"title": "Hi"}}, "APNS": "{}"}, "attributes": {"a": "b"}}
    body = json.dumps({"text": "hello", "sns": native}).encode()
    found = form(sms().request(sent(message(body), ENDPOINT)).body)
    assert found["MessageStructure"] == "json"
    assert json.loads(found["Message"]) == {
        "default": "hello",
        "GCM": '{"notification":{"title":"Hi"}}',
        "APNS": "{}",
    }
    assert [found[f"MessageAttributes.entry.{n}.Name"] for n in (1, 2)] == ["AWS.SNS.MOBILE.GCM.TTL", "a"]


def test_the_channel_decides_what_an_sms_is(message: Make) -> None:
    body = b'{"text": "a", "sns": {"attributes": {"AWS.SNS.SMS.SMSType": "Promotional"}}}'
    assert "Promotional" not in form(sms().request(sent(message(body))).body).values()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "4915123456789",
        "+0123",
        "+49 151",
        "+4915123456789012",
        "+49151\n",
        "+٣٤٥٦",
        "arn:aws:sns:eu-west-1:123456789012:everybody",
        "arn:aws:sns:us-east-1:123456789012:endpoint/GCM/shop/5e3e9847",
        ENDPOINT + "/x",
        ENDPOINT + "\n",
    ],
)
def test_bad_addresses_are_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        sms().request(sent(message(b'"a"'), address))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    ("body", "address"),
    [
        (b"{}", "+4915123456789"),
        (b'"%b"' % (b"a" * 1601), "+4915123456789"),
        (b'{"sns": {"message": {"GCM": {}}}}', "+4915123456789"),
        (b'{"sns": {"attributes": {"a": "b"}}}', ENDPOINT),
        (b'"%b"' % (b"a" * 262_145), ENDPOINT),
        (b'{"text": "a", "sns": {"message": []}}', ENDPOINT),
        (b'{"text": "a", "sns": {"message": {"GCM": 1}}}', ENDPOINT),
        (b'{"text": "a", "sns": {"attributes": {"a": 1}}}', ENDPOINT),
        (b'{"text": "a", "sns": {"attributes": {"a b": "c"}}}', ENDPOINT),
        (b'{"text": "a", "sns": {"TopicArn": "x"}}', ENDPOINT),
    ],
)
def test_what_makes_no_message(message: Make, body: bytes, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        sms().request(sent(message(body), address))
    assert wrong.value.blame == "message"


def test_settings() -> None:
    with pytest.raises(ConfigError) as wrong:
        sms(url="http://sns.example")
    assert wrong.value.field == "channels.sms.url"
    assert SECRET not in repr(Settings(region="r", access_key_id="AKID", secret_access_key=SECRET))


# -- answers -----------------------------------------------------------------------------------------------------------


def rows() -> dict[str, Answer]:
    """Every row of the page, as the API says it."""
    found = {
        code: refusal(code, status=503 if kind == "retry" else 400)
        for code, (kind, *_) in module.ERRORS.items()
    }
    return found | {
        "InvalidParameter: PhoneNumber": refusal(
            "InvalidParameter", "Invalid parameter: PhoneNumber Reason: +1 is not valid to publish to"
        ),
        "InvalidParameter: TargetArn": refusal(
            "InvalidParameter", "Invalid parameter: TargetArn Reason: An ARN"
        ),
        "InvalidParameter: No endpoint found": refusal(
            "InvalidParameter",
            "Invalid parameter: TargetArn Reason: No endpoint found for the target arn specified",
        ),
    }


@pytest.mark.parametrize("code", rows())
def test_errors_are_what_the_page_says(code: str) -> None:
    table = table_of("sns")
    assert table.keys() == rows().keys()
    outcome = sms().outcome(rows()[code], NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == table[code]
    assert outcome.code == code.partition(":")[0]
    assert outcome.retry_after == (1.0 if outcome.pause else 0.0)


def test_every_error_of_the_operation_is_known() -> None:
    """As botocore's model of the service has it."""
    import botocore.session  # noqa: PLC0415 - slow to import, and for this test alone

    model = botocore.session.Session().get_service_model("sns").operation_model("Publish")
    codes = {shape.metadata.get("error", {}).get("code", shape.name) for shape in model.error_shapes}
    assert codes <= module.ERRORS.keys()


def test_outcomes_whole() -> None:
    good = (
        b'<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult>'
        b"<MessageId>567910cd-659e-55d4-8ccb-5aaf14679dc0</MessageId></PublishResult></PublishResponse>"
    )
    assert sms().outcome(Answer(200, {}, good), NOW) == Outcome(
        "accepted", "HTTP 200", status=200, provider_id="567910cd-659e-55d4-8ccb-5aaf14679dc0"
    )
    assert sms().outcome(refusal("EndpointDisabled", "Endpoint is disabled"), NOW) == Outcome(
        "refused",
        "HTTP 400: EndpointDisabled: Endpoint is disabled",
        blame="recipient",
        status=400,
        code="EndpointDisabled",
    )


@pytest.mark.parametrize(
    ("one", "kind", "blame"),
    [
        (Answer(200, {}, b"<html>"), "ambiguous", ""),
        (Answer(502, {}, b""), "retry", ""),
        (Answer(403, {}, b"\xff"), "refused", "credential"),
        (refusal("New"), "refused", "message"),
    ],
)
def test_other_answers(one: Answer, kind: str, blame: str) -> None:
    outcome = sms().outcome(one, NOW)
    assert (outcome.kind, outcome.blame) == (kind, blame)
