"""SMS, and push to mobile devices, by Amazon SNS: Publish to a phone number or to the ARN of an endpoint. Pure.

Sources: the service model `sns` of botocore, and docs.aws.amazon.com/sns: "Publish", "Common errors", "Mobile push
TTL", "Publishing to a mobile phone". There is no idempotency key outside FIFO topics: a repetition is a second message.
"""

import re
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway import __version__
from gateway.config.channels import Sns as Settings
from gateway.ports import Outcome
from gateway.providers.content import Content, content_of
from gateway.providers.provider import Answer, Request, Send, Unsendable, line, unexplained
from gateway.providers.settings import check_url
from gateway.providers.sigv4 import Key, signed

MAX_SMS = 1600  # characters of one Publish; SNS cuts it into parts
MAX_PUSH = 262_144  # bytes
TOO_FAST = 1.0  # s
MAX_TTL = 2_419_200  # s: four weeks, the longest of any push service

# error -> outcome, blame, pause, learnt
ERRORS: dict[str, tuple[str, str, str, str]] = {
    "InvalidParameter": ("refused", "message", "", ""),
    "InvalidParameterValue": ("refused", "message", "", ""),
    "ParameterValueInvalid": ("refused", "message", "", ""),
    "ValidationError": ("refused", "message", "", ""),
    "ValidationException": ("refused", "message", "", ""),
    "NotFound": ("refused", "recipient", "", ""),
    "EndpointDisabled": ("refused", "recipient", "", ""),
    "OptedOut": ("refused", "recipient", "", "opted_out"),
    "PlatformApplicationDisabled": ("refused", "account", "", ""),
    "KMSAccessDenied": ("refused", "account", "", ""),
    "KMSDisabled": ("refused", "account", "", ""),
    "KMSInvalidState": ("refused", "account", "", ""),
    "KMSNotFound": ("refused", "account", "", ""),
    "KMSOptInRequired": ("refused", "account", "", ""),
    "KMSThrottling": ("retry", "", "account", ""),
    "Throttled": ("retry", "", "account", ""),
    "Throttling": ("retry", "", "account", ""),
    "ThrottlingException": ("retry", "", "account", ""),
    "AccessDenied": ("refused", "credential", "", ""),
    "AuthorizationError": ("refused", "credential", "", ""),
    "ExpiredToken": ("refused", "credential", "", ""),
    "IncompleteSignature": ("refused", "credential", "", ""),
    "InvalidClientTokenId": ("refused", "credential", "", ""),
    "InvalidSecurity": ("refused", "credential", "", ""),
    "MissingAuthenticationToken": ("refused", "credential", "", ""),
    "OptInRequired": ("refused", "credential", "", ""),
    "SignatureDoesNotMatch": ("refused", "credential", "", ""),
    "RequestExpired": ("retry", "", "", ""),
    "InternalError": ("retry", "", "", ""),
    "InternalFailure": ("retry", "", "", ""),
    "ServiceUnavailable": ("retry", "", "", ""),
}
# what the message of an InvalidParameter says -> blame, learnt
PARAMETERS = {
    "No endpoint found for the target arn specified": ("recipient", "gone"),
    "Invalid parameter: PhoneNumber": ("recipient", ""),
    "Invalid parameter: TargetArn": ("recipient", ""),
}
# platforms of which SNS knows a TTL
_TTL = frozenset(("ADM", "APNS", "APNS_SANDBOX", "BAIDU", "FCM", "GCM", "MACOS", "MACOS_SANDBOX", "WNS"))

_phone = re.compile(r"\+[1-9][0-9]{1,14}").fullmatch
_endpoint = re.compile(
    r"arn:aws[a-z-]*:sns:([a-z0-9-]{1,32}):[0-9]{12}:endpoint/([A-Z_]{1,32})/[A-Za-z0-9_.-]{1,256}/[A-Za-z0-9-]{1,64}"
).fullmatch
_tag = {name: re.compile(rf"<{name}>([^<]*)</{name}>").search for name in ("MessageId", "Code", "Message")}
_name = re.compile(r"[A-Za-z0-9_.-]{1,256}").fullmatch


class Sns:
    """A channel of kind `sns`."""

    __slots__ = ("_key", "_region", "_sms", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError. There are no callbacks: SNS reports deliveries to CloudWatch."""
        url = settings.url or f"https://sns.{settings.region}.amazonaws.com"
        check_url(url, settings, f"channels.{name}.url")
        self._url = url.rstrip("/") + "/"
        self._region = settings.region
        self._key = Key(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region, "sns"
        )
        self._sms: dict[str, str] = {"AWS.SNS.SMS.SMSType": settings.sms_type}
        if settings.sender_id:
            self._sms["AWS.SNS.SMS.SenderID"] = settings.sender_id

    def request(self, send: Send) -> Request:
        content = content_of(send.item, "sns")
        wanted = {"Action": "Publish", "Version": "2010-03-31"}
        if send.address.startswith("arn:"):
            wanted |= self._push(send, content)
        else:
            wanted |= self._text(send, content)
        body = urlencode(wanted).encode()
        headers = {
            "content-type": "application/x-www-form-urlencoded; charset=utf-8",
            "user-agent": f"bot-gateway/{__version__}",
        }
        return Request(self._url, signed(self._key, "POST", self._url, headers, body, send.wall), body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        status = answer.status
        if status == 200 and (message_id := _in(answer, "MessageId")):
            return Outcome("accepted", "HTTP 200", status=200, provider_id=message_id)
        code, message = _in(answer, "Code"), _in(answer, "Message")
        meant = ERRORS.get(code)
        if meant is None or status < 300:
            return msgspec.structs.replace(unexplained(answer, wall), code=code)
        kind, blame, pause, learnt = meant
        if code == "InvalidParameter":
            named = (about for said, about in PARAMETERS.items() if said in message)
            blame, learnt = next(named, (blame, learnt))
        wait = unexplained(answer, wall).retry_after
        return Outcome(
            kind,
            line(f"HTTP {status}: {code}: {message}" if message else f"HTTP {status}: {code}"),
            blame=blame,
            pause=pause,
            retry_after=max(wait, TOO_FAST) if pause else wait,
            status=status,
            code=code,
            learnt=learnt,
        )

    def _text(self, send: Send, content: Content) -> dict[str, str]:
        if not _phone(send.address):
            raise Unsendable("neither a phone number (E.164) nor the ARN of an endpoint", blame="recipient")
        if not content.text:
            raise Unsendable("the body has no `text` for an SMS")
        if len(content.text) > MAX_SMS:
            raise Unsendable(f"an SMS has at most {MAX_SMS} characters")
        return {
            "PhoneNumber": send.address,
            "Message": content.text,
            **_entries(_attributes(content) | self._sms),
        }

    def _push(self, send: Send, content: Content) -> dict[str, str]:
        """To one device. A topic, which has many receivers, is no address."""
        match = _endpoint(send.address)
        if match is None or match[1] != self._region:
            raise Unsendable("not the ARN of an endpoint in this region", blame="recipient")
        attributes = _attributes(content)
        if match[2] in _TTL:
            ttl = str(min(max(int(send.ttl), 1), MAX_TTL))
            attributes[f"AWS.SNS.MOBILE.{match[2]}.TTL"] = ttl
        wanted = {"TargetArn": send.address, "Message": content.text}
        payloads = content.native.get("message")
        if payloads is not None:
            wanted["Message"] = _payloads(payloads, content.text)
            wanted["MessageStructure"] = "json"
        if not wanted["Message"]:
            raise Unsendable("the body has neither `text` nor `sns.message`")
        if len(wanted["Message"].encode()) > MAX_PUSH:
            raise Unsendable(f"a push message has at most {MAX_PUSH} bytes")
        return wanted | _entries(attributes)


def _attributes(content: Content) -> dict[str, str]:
    """Those of the sender, `{"sns": {"attributes": {"name": "value"}}}`. Raises Unsendable."""
    attributes = content.native.get("attributes", {})
    if content.native.keys() - {"attributes", "message"} or not isinstance(attributes, dict):
        raise Unsendable("`sns` of the body may hold `attributes` and `message`, objects, and nothing else")
    for name, value in attributes.items():
        if not _name(name) or not isinstance(value, str) or not value:
            raise Unsendable(f"`sns.attributes`: {line(name)} is not text under a name")
    return dict(attributes)


def _payloads(found: Any, text: str) -> str:
    """One for each platform; an object becomes the JSON text that SNS wants."""
    if not isinstance(found, dict) or not all(isinstance(value, str | dict) for value in found.values()):
        raise Unsendable("`sns.message` of the body is not an object of texts or objects")
    made = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in found.items()
    }
    return msgspec.json.encode({"default": text, **made}).decode()


def _entries(attributes: dict[str, str]) -> dict[str, str]:
    """As the query protocol writes a map."""
    made: dict[str, str] = {}
    for n, (name, value) in enumerate(sorted(attributes.items()), 1):
        at = f"MessageAttributes.entry.{n}"
        made |= {f"{at}.Name": name, f"{at}.Value.DataType": "String", f"{at}.Value.StringValue": value}
    return made


def _in(answer: Answer, name: str) -> str:
    """The text of an element of the answer; "": there is none. The answers are a few flat lines of XML."""
    match = _tag[name](answer.body.decode("utf-8", "replace"))
    return line(match[1]) if match else ""


PROVIDER = Sns
