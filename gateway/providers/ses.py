"""E-mail by Amazon SES: API v2, and its events, which come over SNS. Pure.

Sources: the service model `sesv2` of botocore, and docs.aws.amazon.com/ses: "Amazon SES email sending errors", "Errors
related to the sending quotas", "Contents of event data that Amazon SES publishes to Amazon SNS".

The API knows no idempotency key: a repetition is a second mail.
"""

import re
from collections.abc import Mapping
from email.header import Header
from email.headerregistry import Address
from typing import Any, Literal

import msgspec

from gateway import __version__
from gateway.config.channels import Ses as Settings
from gateway.ports import Outcome
from gateway.providers.content import Content, content_of
from gateway.providers.mail import enhanced_of, learnt_of, mailbox_of, recipient_of, subject_of
from gateway.providers.provider import (
    Answer,
    Call,
    Forged,
    Receipt,
    Reply,
    Request,
    Send,
    Unsendable,
    json_of,
    line,
    ref_of,
    unexplained,
)
from gateway.providers.settings import check_url
from gateway.providers.sigv4 import Key, signed
from gateway.providers.sns_message import NOTIFICATION, Topic, time_of

REF = "gateway-ref"  # the tag that comes back in every event
TOO_FAST = 1.0  # s
USED_UP = 900.0  # s until an account whose day is used up is tried again: the day is a sliding window

# error -> outcome, blame, pause
ERRORS: dict[str, tuple[str, str, str]] = {
    "TooManyRequestsException": ("retry", "", "account"),
    "ThrottlingException": ("retry", "", "account"),
    "Throttling": ("retry", "", "account"),
    "RequestThrottled": ("retry", "", "account"),
    "LimitExceededException": ("refused", "account", ""),
    "AccountSuspendedException": ("refused", "account", ""),
    "SendingPausedException": ("refused", "account", ""),
    "MailFromDomainNotVerifiedException": ("refused", "account", ""),
    "NotFoundException": ("refused", "account", ""),
    "MessageRejected": ("refused", "message", ""),
    "BadRequestException": ("refused", "message", ""),
    "ValidationException": ("refused", "message", ""),
    "AccessDeniedException": ("refused", "credential", ""),
    "ExpiredTokenException": ("refused", "credential", ""),
    "IncompleteSignatureException": ("refused", "credential", ""),
    "InvalidClientTokenId": ("refused", "credential", ""),
    "InvalidSignatureException": ("refused", "credential", ""),
    "MissingAuthenticationTokenException": ("refused", "credential", ""),
    "NotAuthorized": ("refused", "credential", ""),
    "OptInRequired": ("refused", "credential", ""),
    "SignatureDoesNotMatch": ("refused", "credential", ""),
    "UnrecognizedClientException": ("refused", "credential", ""),
    "RequestExpired": ("retry", "", ""),
    "InternalFailure": ("retry", "", ""),
    "InternalServiceErrorException": ("retry", "", ""),
    "ServiceUnavailable": ("retry", "", ""),
    "ServiceUnavailableException": ("retry", "", ""),
}
# how an error's message begins, whatever the error -> outcome, blame, pause
MESSAGES: dict[str, tuple[str, str, str]] = {
    "Daily message quota exceeded": ("refused", "account", "account"),
    "Maximum sending rate exceeded": ("retry", "", "account"),
    "Email address is not verified": ("refused", "account", ""),
}

# event -> status; the others are read more closely
EVENTS: dict[str, Literal["", "accepted", "delivered", "read", "failed"]] = {
    "Send": "accepted",
    "Delivery": "delivered",
    "DeliveryDelay": "",
    "Open": "read",
    "Click": "read",
    "Reject": "failed",
    "Rendering Failure": "failed",
    "Bounce": "failed",
    "Complaint": "",
    "Subscription": "",
}
# a bounce's subtype -> blame; of others nothing is known but that it failed
BOUNCES = {
    "General": "recipient",
    "NoEmail": "recipient",
    "MailboxFull": "recipient",
    "Suppressed": "recipient",
    "OnAccountSuppressionList": "recipient",
    "UnsubscribedRecipient": "recipient",
    "MessageTooLarge": "message",
    "ContentRejected": "message",
    "AttachmentRejected": "message",
}
# what a mail program reports without the wish to be left alone
_NO_COMPLAINT = frozenset(("not-spam", "auth-failure", "virus"))
# what a sender may add to the request
_NATIVE = frozenset(("Attachments", "Headers", "ListManagementOptions", "Template"))

_code = re.compile(r"[A-Za-z]{1,64}").match


class Ses:
    """A channel of kind `ses`."""

    __slots__ = ("_from", "_key", "_receipt", "_reply_to", "_set", "_subject", "_topic", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError."""
        at = f"channels.{name}"
        url = settings.url or f"https://email.{settings.region}.amazonaws.com"
        check_url(url, settings, f"{at}.url")
        self._url = url.rstrip("/") + "/v2/email/outbound-emails"
        self._key = Key(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region, "ses"
        )
        self._from = _person(settings.sender, f"{at}.sender")
        self._reply_to = _person(settings.reply_to, f"{at}.reply_to") if settings.reply_to else ""
        self._subject = subject_of(settings.subject)
        self._set = settings.configuration_set
        self._topic = Topic(settings.topic_arn, f"{at}.topic_arn") if settings.topic_arn else None
        self._receipt = bool(callback) and self._topic is not None

    def request(self, send: Send) -> Request:
        content = content_of(send.item, "ses", needs_text=False)
        for name in content.native:
            if name not in _NATIVE:
                raise Unsendable(f"`ses.{line(name)}` of the body is not for the sender to set")
        wanted: dict[str, Any] = {
            "FromEmailAddress": self._from,
            "Destination": {"ToAddresses": [recipient_of(send.address)]},
            "Content": _content(content, subject_of(content.title) or self._subject),
            "EmailTags": [{"Name": REF, "Value": send.ref.replace(".", "-")}],  # a tag holds no dot
        }
        if self._reply_to:
            wanted["ReplyToAddresses"] = [self._reply_to]
        if self._set:
            wanted["ConfigurationSetName"] = self._set
        if "ListManagementOptions" in content.native:
            wanted["ListManagementOptions"] = content.native["ListManagementOptions"]
        body = msgspec.json.encode(wanted)
        headers = {"content-type": "application/json", "user-agent": f"bot-gateway/{__version__}"}
        return Request(self._url, signed(self._key, "POST", self._url, headers, body, send.wall), body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        status, found = answer.status, json_of(answer)
        if status == 200 and isinstance(found.get("MessageId"), str):
            return Outcome(
                "accepted",
                "HTTP 200",
                status=200,
                provider_id=line(found["MessageId"]),
                receipt=self._receipt,
            )
        code = error_of(answer, found)
        said = found.get("message") or found.get("Message")
        message = line(said) if isinstance(said, str) else ""
        named = (meant for start, meant in MESSAGES.items() if message.startswith(start))
        meant = next(named, ERRORS.get(code))
        if meant is None or status < 300:
            return msgspec.structs.replace(unexplained(answer, wall), code=code)
        kind, blame, pause = meant
        wait = unexplained(answer, wall).retry_after
        if pause:
            wait = max(wait, USED_UP if kind == "refused" else TOO_FAST)
        reason = line(f"HTTP {status}: {code}: {message}" if message else f"HTTP {status}: {code}")
        return Outcome(kind, reason, blame=blame, pause=pause, retry_after=wait, status=status, code=code)

    def callback(self, call: Call, wall: float) -> Reply:
        """An event, in a message of SNS."""
        if self._topic is None:
            raise Forged("no topic is configured")
        message = self._topic.read(call, wall)
        if message["Type"] != NOTIFICATION:
            return Reply()
        try:
            event = msgspec.json.decode(message.get("Message", ""))
        except (msgspec.DecodeError, RecursionError):
            event = None
        if not isinstance(event, dict):
            return Reply()  # "Successfully validated SNS topic for Amazon SES event publishing."
        receipt = _receipt(event, message.get("MessageId", ""))
        return Reply((receipt,) if receipt else ())


def error_of(answer: Answer, found: Mapping[str, Any]) -> str:
    """The name of an error: in the header `x-amzn-errortype` or the body, with things around it."""
    named = answer.headers.get("x-amzn-errortype") or found.get("__type") or found.get("code")
    match = _code(named.rpartition("#")[2]) if isinstance(named, str) else None
    return match[0] if match else ""


def _person(text: str, field: str) -> str:
    """As a header has it, in ASCII: the API takes encoded words only."""
    name, address = mailbox_of(text, field)
    if name.isascii():
        return str(Address(name, addr_spec=address))
    return f"{Header(name, 'utf-8').encode(maxlinelen=0)} <{address}>"


def _content(content: Content, subject: str) -> dict[str, Any]:
    if "Template" in content.native:
        template = content.native["Template"]
        if not isinstance(template, dict):
            raise Unsendable("`ses.Template` of the body is not an object")
        extra = {name: content.native[name] for name in ("Headers", "Attachments") if name in content.native}
        return {"Template": {**template, **extra}}
    parts = {
        kind: {"Data": text, "Charset": "UTF-8"}
        for kind, text in (("Text", content.text), ("Html", content.html))
        if text
    }
    if not parts:
        raise Unsendable("the body has neither `text` nor `html` nor a template")
    simple: dict[str, Any] = {"Subject": {"Data": subject, "Charset": "UTF-8"}, "Body": parts}
    simple |= {name: content.native[name] for name in ("Headers", "Attachments") if name in content.native}
    return {"Simple": simple}


def _at(found: Any, *path: str | int) -> Any:
    """What is inside, or None: nothing about an event is certain."""
    for step in path:
        if isinstance(step, str):
            found = found.get(step) if isinstance(found, dict) else None
        else:
            found = found[step] if isinstance(found, list) and len(found) > step else None
    return found


def _text(found: Any, *path: str | int) -> str:
    value = _at(found, *path)
    return line(value) if isinstance(value, str) else ""


def _receipt(event: dict[str, Any], key: str) -> Receipt | None:
    kind = _text(event, "eventType") or _text(event, "notificationType")
    if kind not in EVENTS:
        return None
    status = EVENTS[kind]
    code = blame = learnt = said = ""
    # `DeliveryDelay` is found under `deliveryDelay`, `Rendering Failure` under `failure`
    inner = event.get("failure" if kind == "Rendering Failure" else kind[:1].lower() + kind[1:])
    address = _text(event, "mail", "destination", 0)
    match kind:
        case "Bounce":
            address = _text(inner, "bouncedRecipients", 0, "emailAddress") or address
            said = _text(inner, "bouncedRecipients", 0, "diagnosticCode")
            code = _text(inner, "bouncedRecipients", 0, "status") or enhanced_of(said)
            sub = _text(inner, "bounceSubType")
            blame, learnt = BOUNCES.get(sub, "message"), learnt_of(code)
            said = f"{_text(inner, 'bounceType')}/{sub} {said}"
        case "Complaint":
            address = _text(inner, "complainedRecipients", 0, "emailAddress") or address
            said = _text(inner, "complaintFeedbackType") or _text(inner, "complaintSubType")
            learnt = "" if said in _NO_COMPLAINT else "opted_out"
            if _text(inner, "complaintSubType") == "OnAccountSuppressionList":
                status, blame = "failed", "recipient"  # it was not sent at all
        case "Subscription":
            learnt = "opted_out" if _at(inner, "newTopicPreferences", "unsubscribeAll") is True else ""
        case "Reject" | "Rendering Failure":
            said, blame = _text(inner, "reason") or _text(inner, "errorMessage"), "message"
        case "DeliveryDelay":
            said = _text(inner, "delayType")
        case "Delivery":
            said = _text(inner, "smtpResponse")
        case _:
            pass
    ref = _text(event, "mail", "tags", REF, 0).replace("-", ".")
    return Receipt(
        ref=ref if ref_of(ref) else "",
        status=status,
        at=int(time_of(_text(inner, "timestamp") or _text(event, "mail", "timestamp")) * 1000),
        reason=line(f"{kind}: {said}" if said.strip() else kind),
        code=code,
        blame=blame,
        key=key,
        learnt=learnt,
        address=address if learnt else "",
    )


PROVIDER = Ses
