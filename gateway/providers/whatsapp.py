"""WhatsApp by Meta's Cloud API (developers.facebook.com/documentation/business-messaging/whatsapp). Pure.

The Cloud API has no idempotency key and no validity period of a single message. `biz_opaque_callback_data` comes back
in every status of a message, so that even one before the answer names its attempt.
"""

import hmac
import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from gateway.config.channels.whatsapp import Whatsapp as Settings
from gateway.ports import Outcome
from gateway.providers.content import Content, content_of
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
    ref_of,
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

MAX_TEXT = 4096  # characters of a text message
PAIR_WAIT = 6.0  # s between two messages to the same recipient, in the long run

_phone = re.compile(r"\+[1-9][0-9]{6,14}").fullmatch
_seconds = re.compile(r"[0-9]{1,12}").fullmatch

TYPES = (
    "text",
    "template",
    "interactive",
    "image",
    "video",
    "audio",
    "document",
    "sticker",
    "location",
    "contacts",
    "reaction",
)

# what the sender of a message may not set: to whom it goes, and how its statuses find it
OWN = frozenset(("messaging_product", "recipient_type", "to", "recipient", "biz_opaque_callback_data"))

Status = Literal["", "accepted", "delivered", "read", "failed"]

STATUSES: dict[str, Status] = {
    "sent": "accepted",  # it has left Meta, the phone may be off
    "delivered": "delivered",
    "read": "read",
    "played": "read",
    "failed": "failed",
}

# code: kind, blame, pause, learnt, meaning
# (developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes). Answers and failed statuses
# have the same ones. Blamed is the message where another one would reach the same recipient.
CODES: dict[str, tuple[str, str, str, str, str]] = {
    "0": ("refused", "credential", "", "", "not authenticated"),
    "1": ("ambiguous", "", "", "", "unknown error of the API"),
    "2": ("retry", "", "account", "", "API is down or overloaded"),
    "3": ("refused", "credential", "", "", "capability or permission is missing"),
    "4": ("retry", "", "account", "", "too many calls of the app"),
    "10": ("refused", "credential", "", "", "permission denied"),
    "33": ("refused", "account", "", "", "business phone number does not exist"),
    "100": ("refused", "message", "", "", "parameter is not valid"),
    "190": ("refused", "credential", "", "", "access token has expired or is not valid"),
    **{str(code): ("refused", "credential", "", "", "permission is missing") for code in range(200, 300)},
    "368": ("refused", "account", "", "", "blocked for a violation of policies"),
    "80007": ("retry", "", "account", "", "rate limit of the business account"),
    "130429": ("retry", "", "account", "", "throughput of the phone number reached"),
    "130472": ("refused", "recipient", "", "", "number is part of an experiment"),
    "130497": ("refused", "recipient", "", "", "account may not send to this country"),
    "131000": ("retry", "", "", "", "something went wrong"),
    "131005": ("refused", "credential", "", "", "access denied"),
    "131008": ("refused", "message", "", "", "parameter is missing"),
    "131009": ("refused", "message", "", "", "value of a parameter is not valid"),
    "131016": ("retry", "", "account", "", "service unavailable"),
    "131021": ("refused", "recipient", "", "", "recipient is the sender"),
    "131026": ("refused", "recipient", "", "", "undeliverable: not on WhatsApp, or terms not accepted"),
    "131030": ("refused", "recipient", "", "", "number is not on the list of a test number"),
    "131031": ("refused", "account", "", "", "account locked"),
    "131037": ("refused", "account", "", "", "display name of the number is not approved"),
    "131042": ("refused", "account", "", "", "payment issue"),
    "131045": ("refused", "account", "", "", "phone number is not registered properly"),
    "131047": ("refused", "message", "", "", "24 h since the recipient last wrote: only a template is taken"),
    "131048": ("refused", "account", "", "", "restricted: too much was blocked or flagged as spam"),
    "131049": ("refused", "message", "", "", "recipient gets enough marketing"),
    "131050": ("refused", "message", "", "", "recipient has stopped marketing from this business"),
    "131051": ("refused", "message", "", "", "type of message is not supported"),
    "131052": ("refused", "message", "", "", "media cannot be downloaded"),
    "131053": ("refused", "message", "", "", "media cannot be uploaded"),
    "131055": ("refused", "message", "", "", "method not allowed"),
    "131056": ("retry", "", "recipient", "", "too many messages to this recipient"),
    "131057": ("retry", "", "account", "", "account in maintenance"),
    "132000": ("refused", "message", "", "", "template: number of parameters"),
    "132001": ("refused", "message", "", "", "template does not exist in this language, or is not approved"),
    "132005": ("refused", "message", "", "", "template: text too long"),
    "132007": ("refused", "message", "", "", "template: policy on content violated"),
    "132012": ("refused", "message", "", "", "template: format of a parameter"),
    "132015": ("refused", "message", "", "", "template is paused"),
    "132016": ("refused", "message", "", "", "template is disabled"),
    "132068": ("refused", "message", "", "", "flow is blocked"),
    "132069": ("refused", "message", "", "", "flow is throttled"),
    "133004": ("retry", "", "account", "", "server temporarily unavailable"),
    "133010": ("refused", "account", "", "", "phone number is not registered"),
    "134011": ("refused", "account", "", "", "terms of payments are not accepted"),
    "135000": ("refused", "message", "", "", "unknown error with the parameters"),
}


class Whatsapp:
    """A channel of kind `whatsapp`."""

    __slots__ = ("_headers", "_receipt", "_secrets", "_token", "_url", "_verify")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        check_url(settings.url, settings, f"channels.{name}.url")
        version, number = quote(settings.version, safe=""), quote(settings.phone_number_id, safe="")
        self._url = f"{settings.url.rstrip('/')}/{version}/{number}/messages"
        self._token = settings.access_token
        self._headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {settings.access_token}",
        }
        secrets = (settings.app_secret,) if isinstance(settings.app_secret, str) else settings.app_secret
        self._secrets = tuple(secret.encode() for secret in secrets if secret)
        self._verify = settings.verify_token.encode()
        self._receipt = bool(callback and self._secrets)

    def request(self, send: Send) -> Request:
        """One message: its text, or what the sender wrote for WhatsApp, such as a template."""
        if not _phone(send.address):
            raise Unsendable("not a phone number in E.164 form", blame="recipient")
        body = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": send.address,
            **_message(content_of(send.item, "whatsapp")),
            "biz_opaque_callback_data": send.ref,
        }
        return Request(url=self._url, headers=self._headers, body=msgspec.json.encode(body))

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        said, status = json_of(answer), answer.status
        if "error" not in said and 200 <= status < 300:
            message_id = _message_id(said)
            if not message_id:
                return unexplained(answer, wall)
            return Outcome(
                "accepted",
                f"HTTP {status}",
                provider_id=message_id,
                status=status,
                receipt=self._receipt,
            )
        error = said.get("error")
        code, message = _code(error), error.get("message") if isinstance(error, dict) else None
        if code in CODES:
            kind, blame, pause, learnt, meaning = CODES[code]
            return Outcome(
                kind,
                f"{code}: {meaning}",
                blame=blame,
                retry_after=_wait(answer, wall, pause) if kind == "retry" else 0.0,
                status=status,
                code=code,
                pause=pause,
                learnt=learnt,
            )
        return self._unknown(answer, wall, code, message)

    def _unknown(self, answer: Answer, wall: float, code: str, message: object) -> Outcome:
        """An answer without a code that is known here."""
        status = answer.status
        found = unexplained(answer, wall)
        if status < 300 or (status >= 500 and status != 503):
            # nothing here is idempotent
            found = Outcome("ambiguous", found.reason, status=status)
        elif status in (404, 410):
            # of what the URL names: the phone number
            found = replace(found, blame="account")
        reason = line(f"{code}: {message}") if code and isinstance(message, str) else found.reason
        if self._token[:8] in reason:
            # Meta quotes a token that it cannot read
            reason = f"HTTP {status}"
        return replace(found, reason=reason, code=code)

    def callback(self, call: Call, wall: float) -> Reply:
        """The statuses of messages; and Meta's test of a URL that was entered there. Messages that come in say nothing
        here. Meta's signature has no time in it: that a call is repeated shows in the keys.
        """
        if call.method == "GET":
            return self._challenge(call)
        given = call.headers.get("x-hub-signature-256", "").encode(errors="surrogateescape")
        good = [b"sha256=" + hmac.digest(s, call.body, "sha256").hex().encode() for s in self._secrets]
        if not any(hmac.compare_digest(value, given) for value in good):
            raise Forged("X-Hub-Signature-256 is wrong or missing")
        try:
            said = msgspec.json.decode(call.body)
        except msgspec.DecodeError:
            raise ValueError("not JSON") from None
        if not isinstance(said, dict) or not isinstance(said.get("entry"), list):
            raise ValueError("no `entry`")
        return Reply(tuple(_receipts(said["entry"])))

    def _challenge(self, call: Call) -> Reply:
        given = call.query.get("hub.verify_token", "").encode()
        if not self._verify or not hmac.compare_digest(self._verify, given):
            raise Forged("hub.verify_token is wrong or missing")
        return Reply(body=call.query.get("hub.challenge", "").encode())


def _message(content: Content) -> dict[str, Any]:
    """`type`, the object of that name, and what else the sender wrote."""
    native = content.native
    for name in native:
        if name in OWN:
            raise Unsendable(f"`whatsapp.{name}` is not for the sender to set")
    kind = native.get("type") or next((name for name in TYPES if name in native), "text")
    if kind != "text":
        return {"type": kind, **native}
    if not isinstance(native.get("text", {}), dict):
        raise Unsendable("`whatsapp.text` is not an object")
    text = {"body": content.text, **native.get("text", {})}
    if not isinstance(text["body"], str) or not text["body"]:
        raise Unsendable("no text")
    if len(text["body"]) > MAX_TEXT:
        raise Unsendable(f"text longer than {MAX_TEXT:,} characters")
    return {**native, "type": "text", "text": text}


def _message_id(said: dict[str, Any]) -> str:
    match said.get("messages"):
        case [{"id": str(found)}, *_]:
            return found
    return ""


def _code(error: object) -> str:
    match error:
        case {"code": int(code)}:
            return str(code)
    return ""


def _wait(answer: Answer, wall: float, pause: str) -> float:
    """The least wait: Retry-After, the minutes in X-Business-Use-Case-Usage until calls are taken again, or the pace
    that one recipient is bound to.
    """
    wait = retry_after(answer, wall)
    try:
        usage = msgspec.json.decode(
            answer.headers.get("x-business-use-case-usage", "{}"), type=dict[str, list[_Usage]]
        )
    except msgspec.DecodeError:
        usage = {}
    minutes = max((each.estimated_time_to_regain_access for one in usage.values() for each in one), default=0)
    return max(wait, min(minutes * 60.0, MAX_RETRY_AFTER), PAIR_WAIT if pause == "recipient" else 0.0)


class _Usage(msgspec.Struct):
    """How much of a rate is used (developers.facebook.com/docs/graph-api/overview/rate-limiting)."""

    estimated_time_to_regain_access: int = 0  # minutes


def _receipts(entries: list[Any]) -> Iterator[Receipt]:
    """What each status says. What has another form than a status is passed over: Meta adds to it at any time."""
    for entry in entries:
        for change in _items(entry, "changes"):
            value = change.get("value")
            for status in _items(value, "statuses"):
                found = _receipt(status)
                if found is not None:
                    yield found


def _items(holder: object, name: str) -> list[dict[str, Any]]:
    found = holder.get(name) if isinstance(holder, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _receipt(status: dict[str, Any]) -> Receipt | None:
    """None for a message that is not ours."""
    ref, message_id, told = (status.get(n) for n in ("biz_opaque_callback_data", "id", "status"))
    if not isinstance(ref, str) or not ref_of(ref) or not isinstance(told, str):
        return None
    now: Status = STATUSES.get(told, "")
    code, at = "", str(status.get("timestamp", ""))
    if now == "failed":
        code = next((_code(error) for error in _items(status, "errors")), "")
    _, blame, _, learnt, meaning = CODES.get(code, ("", "", "", "", ""))
    return Receipt(
        ref=ref,
        status=now,
        at=int(at) * 1000 if _seconds(at) else 0,
        reason=line(f"{code}: {meaning}" if meaning else f"{told} {code}"),
        code=code,
        blame=blame,
        key=f"{message_id}.{told}",
        learnt=learnt,
    )


PROVIDER = Whatsapp
