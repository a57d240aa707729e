"""E-mail by Twilio SendGrid: v3 Mail Send, and its Event Webhook. Pure.

Sources: the OpenAPI file `tsg_mail_v3` (github.com/twilio/sendgrid-oai), the pages "Mail Send", "Errors" and "Event
Webhook Reference" of twilio.com/docs/sendgrid, and the verifier of github.com/sendgrid/sendgrid-python.

The API knows no idempotency key: a repetition is a second mail.
"""

import base64
import binascii
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway import __version__
from gateway.config.channels import SendGrid as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.content import Content, content_of
from gateway.providers.mail import learnt_of, mailbox_of, recipient_of, subject_of
from gateway.providers.provider import (
    MAX_RETRY_AFTER,
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
    reason_of,
    ref_of,
    unexplained,
)
from gateway.providers.settings import check_url

REF = "gateway_ref"  # the custom argument that comes back in every event
REPLAY_WINDOW = 300  # s
MAX_TIME = 1 << 36  # Unix s
OUT_OF_CREDIT = 900.0  # s until an account without credit is tried again

# status -> blame; what is not here is read by its class
STATUSES = {
    200: "account",  # valid, but not queued: the account's sandbox mode
    400: "message",
    401: "credential",
    403: "credential",
    404: "account",  # `url` leads elsewhere
    405: "account",
    413: "message",
    415: "message",
}
# the field that an error names -> blame, by how it begins; before the status
FIELDS = {"from": "account", "reply_to": "account", "personalizations.0.to": "recipient"}
CREDIT = "Maximum credits exceeded"  # comes as 401

# the reason of `dropped` (in lower case) -> blame, learnt
DROPPED = {
    "bounced address": ("recipient", ""),
    "invalid": ("recipient", "gone"),
    "unsubscribed address": ("recipient", "opted_out"),
    "spam reporting address": ("recipient", "opted_out"),
    "spam content": ("message", ""),
    "invalid smtpapi header": ("message", ""),
    "recipient list over package quota": ("account", ""),
}
# the class of `bounce` (in lower case) -> blame, learnt; of others only the type tells
BOUNCED = {
    "invalid address": ("recipient", "gone"),
    "mailbox unavailable": ("recipient", ""),
    "content": ("message", ""),
    "reputation": ("account", ""),
}
# event -> status, learnt; `bounce`, `dropped` and `open` are read more closely
EVENTS: dict[str, tuple[Literal["", "accepted", "delivered", "read", "failed"], str]] = {
    "processed": ("accepted", ""),
    "deferred": ("", ""),
    "delivered": ("delivered", ""),
    "bounce": ("failed", ""),
    "dropped": ("failed", ""),
    "open": ("read", ""),
    "click": ("read", ""),
    "spamreport": ("", "opted_out"),
    "unsubscribe": ("", "opted_out"),
    "group_unsubscribe": ("", ""),
    "group_resubscribe": ("", ""),
}
# what a sender may add to the request; the rest would change who gets it, or whom SendGrid leaves out
_NATIVE = frozenset(
    (
        "asm",
        "attachments",
        "batch_id",
        "categories",
        "dynamic_template_data",
        "headers",
        "ip_pool_name",
        "template_id",
        "tracking_settings",
    )
)


class SendGrid:
    """A channel of kind `sendgrid`."""

    __slots__ = ("_event_key", "_from", "_headers", "_receipt", "_reply_to", "_subject", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError."""
        at = f"channels.{name}"
        check_url(settings.url, settings, f"{at}.url")
        if not settings.api_key.isprintable() or not settings.api_key.isascii() or not settings.api_key:
            raise ConfigError(f"{at}.api_key: must be an API key", field=f"{at}.api_key")
        self._url = settings.url.rstrip("/") + "/v3/mail/send"
        self._headers = {
            "authorization": f"Bearer {settings.api_key}",
            "content-type": "application/json",
            "user-agent": f"bot-gateway/{__version__}",
        }
        self._from = _person(settings.sender, f"{at}.sender")
        self._reply_to = _person(settings.reply_to, f"{at}.reply_to") if settings.reply_to else None
        self._subject = subject_of(settings.subject)
        self._event_key = _key(settings.event_key, f"{at}.event_key") if settings.event_key else None
        self._receipt = bool(callback) and self._event_key is not None

    def request(self, send: Send) -> Request:
        content = content_of(send.item, "sendgrid", needs_text=False)
        extra = dict(content.native)
        for key in extra:
            if key not in _NATIVE:
                raise Unsendable(f"`sendgrid.{line(key)}` of the body is not for the sender to set")
        person: dict[str, Any] = {
            "to": [{"email": recipient_of(send.address)}],
            "custom_args": {REF: send.ref},
        }
        if "dynamic_template_data" in extra:
            person["dynamic_template_data"] = extra.pop("dynamic_template_data")
        body: dict[str, Any] = {
            "personalizations": [person],
            "from": self._from,
            "subject": subject_of(content.title) or self._subject,
            **extra,
        }
        if self._reply_to:
            body["reply_to"] = self._reply_to
        parts = _parts(content)
        if parts:
            body["content"] = parts
        elif "template_id" not in extra:
            raise Unsendable("the body has neither `text` nor `html` nor a template")
        return Request(self._url, self._headers, msgspec.json.encode(body))

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        status = answer.status
        if status == 202:
            return Outcome(
                "accepted",
                "HTTP 202",
                status=202,
                provider_id=line(answer.headers.get("x-message-id", "")),
                receipt=self._receipt,
            )
        if status == 429:
            wait = _reset(answer, wall)
            outcome = unexplained(answer, wall)
            return msgspec.structs.replace(outcome, retry_after=max(outcome.retry_after, wait))
        if status not in STATUSES:
            return unexplained(answer, wall)
        field, message = _error(answer)
        reason = line(f"HTTP {status}: {message}") if message else reason_of(answer)
        if message == CREDIT:
            return Outcome(
                "refused", reason, blame="account", status=status, pause="account", retry_after=OUT_OF_CREDIT
            )
        named = (
            blame for prefix, blame in FIELDS.items() if field == prefix or field.startswith(f"{prefix}.")
        )
        return Outcome("refused", reason, blame=next(named, STATUSES[status]), status=status)

    def callback(self, call: Call, wall: float) -> Reply:
        """A batch of events, signed with ECDSA (P-256, SHA-256) over the timestamp and the raw body."""
        self._verify(call, wall)
        try:
            events = msgspec.json.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            events = None
        if not isinstance(events, list):
            raise ValueError("not a list of events")
        return Reply(tuple(_receipt(event) for event in events if _text(event, "event") in EVENTS))

    def _verify(self, call: Call, wall: float) -> None:
        if self._event_key is None:
            raise Forged("no verification key is configured")
        timestamp = call.headers.get("x-twilio-email-event-webhook-timestamp", "")
        try:
            signature = base64.b64decode(
                call.headers.get("x-twilio-email-event-webhook-signature", ""), validate=True
            )
            self._event_key.verify(signature, timestamp.encode() + call.body, ec.ECDSA(hashes.SHA256()))
        except (binascii.Error, ValueError, InvalidSignature):
            raise Forged("wrong signature") from None
        if not timestamp.isdecimal() or abs(int(timestamp) - wall) > REPLAY_WINDOW:
            raise Forged("too old")


def _person(text: str, field: str) -> dict[str, str]:
    name, address = mailbox_of(text, field)
    return {"email": address, "name": name} if name else {"email": address}


def _key(text: str, field: str) -> ec.EllipticCurvePublicKey:
    """Raises ConfigError."""
    bare = "".join(part for part in text.split("\n") if not part.startswith("-----"))
    try:
        key = load_der_public_key(base64.b64decode(bare, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{field}: must be a public key of ECDSA, base64", field=field)
    return key


def _parts(content: Content) -> list[dict[str, str]]:
    """Plain text comes first: the API insists on it."""
    parts = (("text/plain", content.text), ("text/html", content.html))
    return [{"type": kind, "value": value} for kind, value in parts if value]


def _error(answer: Answer) -> tuple[str, str]:
    """Field ("": none) and text of the first error that an answer tells of."""
    errors = json_of(answer).get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return "", ""
    field, message = first.get("field"), first.get("message")
    return (field if isinstance(field, str) else ""), (line(message) if isinstance(message, str) else "")


def _reset(answer: Answer, wall: float) -> float:
    """Seconds until the limit of the account begins anew, at most a day. 0: not told."""
    text = answer.headers.get("x-ratelimit-reset", "")
    if not text.isdecimal() or len(text) > 12:
        return 0.0
    return float(min(max(int(text) - int(wall), 0), MAX_RETRY_AFTER))


def _text(event: Any, name: str) -> str:
    """Events carry the custom arguments of every sender of the account: nothing about them is certain."""
    value = event.get(name) if isinstance(event, dict) else None
    return line(value) if isinstance(value, str) else ""


def _receipt(event: dict[str, Any]) -> Receipt:
    kind, reason, code = _text(event, "event"), _text(event, "reason"), _text(event, "status")
    status, learnt = EVENTS[kind]
    blame = ""
    if kind == "dropped":
        blame, learnt = DROPPED.get(reason.lower(), ("message", ""))
    elif kind == "bounce":
        blame, learnt = _bounced(event, code)
    elif kind == "open" and event.get("sg_machine_open"):
        status = ""  # a mail program that fetches images before anybody looks
    said = reason or _text(event, "response")
    at, ref = event.get("timestamp"), _text(event, REF)
    return Receipt(
        ref=ref if ref_of(ref) else "",
        status=status,
        at=at * 1000 if isinstance(at, int) and 0 < at < MAX_TIME else 0,
        reason=line(f"{kind}: {said}" if said else kind),
        code=code,
        blame=blame,
        key=_text(event, "sg_event_id"),
        learnt=learnt,
        address=_text(event, "email") if learnt else "",
    )


def _bounced(event: dict[str, Any], code: str) -> tuple[str, str]:
    """Blame, and what is learnt. `blocked` is a refusal that SendGrid does not hold against the address."""
    if learnt_of(code):
        return "recipient", learnt_of(code)
    unknown = ("message" if _text(event, "type") == "blocked" else "recipient", "")
    return BOUNCED.get(_text(event, "bounce_classification").lower(), unknown)


PROVIDER = SendGrid
