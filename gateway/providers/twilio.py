"""SMS by Twilio Programmable Messaging (twilio.com/docs/messaging/api/message-resource). Pure.

Twilio has no idempotency key: what it answers with 500 may have been sent (twilio.com/docs/api/errors/20500). The
callback of an attempt carries its name in the query of the URL, so that it is understood even before the answer is.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from msgspec.structs import replace

from gateway.config.channels.twilio import Twilio as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.content import content_of
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
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

MAX_TEXT = 1600  # characters of a body, some of which count as several (error 21617): UTF-16 has it
MAX_VALIDITY = 36_000  # s that a message may wait in Twilio's queue (error 21624)
MAX_FIELDS = 200  # of a callback; Twilio sends some 30

_phone = re.compile(r"\+[1-9][0-9]{6,14}").fullmatch

# what the sender of a message may set; who it goes to, who pays and where it is reported are the operator's
NATIVE = frozenset(
    (
        "AddressRetention",
        "ContentRetention",
        "ContentSid",
        "ContentVariables",
        "ForceDelivery",
        "MediaUrl",
        "RiskCheck",
        "SendAsMms",
        "ShortenUrls",
        "SmartEncoded",
        "TrafficType",
    )
)

Status = Literal["", "accepted", "delivered", "read", "failed"]

STATUSES: dict[str, Status] = {
    "accepted": "accepted",
    "scheduled": "accepted",
    "queued": "accepted",
    "sending": "accepted",
    "sent": "accepted",  # the carrier has it, the handset may not
    "partially_delivered": "accepted",
    "delivered": "delivered",
    "read": "read",
    "undelivered": "failed",
    "failed": "failed",
    "canceled": "failed",
}

# code: kind, blame, pause, learnt, meaning (twilio.com/docs/api/errors). `failed` is told by callbacks, as a rule.
# Blamed is the account only for what strikes every message of it.
CODES: dict[str, tuple[str, str, str, str, str]] = {
    "10001": ("refused", "account", "", "", "account is not active"),
    "20003": ("refused", "credential", "", "", "not authenticated"),
    "20005": ("refused", "account", "", "", "account is not active"),
    "20006": ("refused", "credential", "", "", "access denied"),
    "20008": ("refused", "credential", "", "", "not for test credentials"),
    "20010": ("refused", "account", "", "", "action is disabled for the account"),
    "20403": ("refused", "account", "", "", "forbidden"),
    "20404": ("refused", "account", "", "", "no such account or resource"),
    "20429": ("retry", "", "account", "", "too many requests"),
    "20500": ("ambiguous", "", "", "", "internal error"),
    "20503": ("retry", "", "account", "", "service unavailable"),
    "21211": ("refused", "recipient", "", "", "not a valid phone number"),
    "21212": ("refused", "account", "", "", "sender is not valid"),
    "21265": ("refused", "recipient", "", "", "number is a short code"),
    "21266": ("refused", "recipient", "", "", "number is the sender's own"),
    "21267": ("refused", "account", "", "", "no alphanumeric sender on a trial account"),
    "21268": ("refused", "recipient", "", "", "premium or information number"),
    "21408": ("refused", "recipient", "", "", "country is not enabled"),
    "21601": ("refused", "account", "", "", "sender is not a number for messages"),
    "21602": ("refused", "message", "", "", "no text"),
    "21603": ("refused", "account", "", "", "no sender"),
    "21604": ("refused", "recipient", "", "", "no number"),
    "21605": ("refused", "message", "", "", "text too long"),
    "21606": ("refused", "account", "", "", "sender is not the account's, or not for messages"),
    "21608": ("refused", "recipient", "", "", "number is not verified, as a trial account needs it"),
    "21609": ("refused", "account", "", "", "StatusCallback is not valid"),
    "21610": ("refused", "recipient", "", "opted_out", "unsubscribed"),
    "21611": ("retry", "", "account", "", "queue of the sender is full"),
    "21612": ("refused", "recipient", "", "", "number cannot be reached from this sender"),
    "21614": ("refused", "recipient", "", "", "not a mobile number"),
    "21617": ("refused", "message", "", "", "text longer than 1,600 characters"),
    "21618": ("refused", "message", "", "", "text cannot be sent"),
    "21619": ("refused", "message", "", "", "neither text nor media"),
    "21620": ("refused", "message", "", "", "media URL is not valid"),
    "21621": ("refused", "message", "", "", "sender cannot send media"),
    "21622": ("refused", "message", "", "", "account cannot send media"),
    "21623": ("refused", "message", "", "", "too many media files"),
    "21624": ("refused", "message", "", "", "validity period is not valid"),
    "21635": ("refused", "recipient", "", "", "landline"),
    "21654": ("refused", "message", "", "", "no content SID"),
    "21655": ("refused", "message", "", "", "content SID is not valid"),
    "21656": ("refused", "message", "", "", "content variables are not valid"),
    "21657": ("refused", "account", "", "", "sender is not valid"),
    "21658": ("refused", "message", "", "", "a parameter is too long"),
    "21659": ("refused", "account", "", "", "sender is not a Twilio number, or of another country"),
    "21660": ("refused", "account", "", "", "sender is not the account's"),
    "21661": ("refused", "account", "", "", "sender cannot send SMS"),
    "21701": ("refused", "account", "", "", "no such messaging service"),
    "21702": ("refused", "account", "", "", "messaging service is not available"),
    "21703": ("refused", "account", "", "", "messaging service has no sender"),
    "21704": ("refused", "account", "", "", "messaging service has no number"),
    "21705": ("refused", "account", "", "", "messaging service is not valid"),
    "21708": ("refused", "account", "", "", "no alphanumeric sender"),
    "21709": ("refused", "account", "", "", "alphanumeric sender is not authorised"),
    "21711": ("refused", "account", "", "", "sender is not of the messaging service"),
    "21730": ("retry", "", "account", "", "maintenance"),
    "30001": ("failed", "", "", "", "queue overflow"),
    "30002": ("failed", "account", "", "", "account suspended"),
    "30003": ("failed", "recipient", "", "", "handset unreachable"),
    "30004": ("failed", "recipient", "", "", "blocked"),
    "30005": ("failed", "recipient", "", "", "unknown handset"),
    "30006": ("failed", "recipient", "", "", "landline or unreachable carrier"),
    "30007": ("failed", "message", "", "", "filtered as unwanted"),
    "30008": ("failed", "", "", "", "unknown error of the carrier"),
    "30010": ("failed", "message", "", "", "dearer than allowed"),
    "30011": ("failed", "recipient", "", "", "no MMS for this number"),
    "30012": ("failed", "message", "", "", "validity period too short"),
    "30013": ("failed", "message", "", "", "validity period too long"),
    "30014": ("failed", "recipient", "", "", "number is not valid"),
    "30017": ("failed", "", "", "", "carrier network congested"),
    "30018": ("failed", "recipient", "", "", "carrier wants the sender registered"),
    "30019": ("failed", "message", "", "", "larger than the carrier takes"),
    "30020": ("failed", "", "", "", "internal failure of the scheduling"),
    "30021": ("failed", "", "", "", "internal failure of the messaging service"),
    "30022": ("failed", "", "", "", "rate of the 10DLC campaign exceeded"),
    "30023": ("failed", "", "", "", "daily cap of the 10DLC brand reached"),
    "30024": ("failed", "recipient", "", "", "sender not provisioned at the carrier"),
    "30027": ("failed", "", "", "", "daily limit of the carrier reached"),
    "30032": ("failed", "account", "", "", "toll-free sender is not verified"),
    "30033": ("failed", "account", "", "", "10DLC campaign suspended"),
    "30034": ("failed", "account", "", "", "sender has no 10DLC registration"),
    "30035": ("failed", "account", "", "", "sender is still being set up"),
    "30036": ("failed", "message", "", "", "validity period expired"),
    "30044": ("failed", "message", "", "", "too long for a trial account"),
    "30410": ("failed", "", "", "", "timeout of the carrier"),
    "30450": ("failed", "recipient", "", "", "blocked as fraud"),
    "30500": ("failed", "", "", "", "internal error"),
    "63038": ("retry", "", "account", "", "daily limit of the account reached"),
}


class Twilio:
    """A channel of kind `twilio`."""

    __slots__ = ("_callback", "_headers", "_secrets", "_sender", "_stop_words", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError without a way to sign in or a sender."""
        at = f"channels.{name}"
        if bool(settings.api_key) != bool(settings.api_secret):
            raise ConfigError(f"{at}.api_key: goes with `api_secret`", field=f"{at}.api_key")
        if not settings.api_key and not settings.auth_token:
            raise ConfigError(
                f"{at}.auth_token: is missing, and so is `api_key` in its place", field=f"{at}.auth_token"
            )
        if not settings.sender and not settings.messaging_service_sid:
            raise ConfigError(
                f"{at}.sender: is missing, and so is `messaging_service_sid` in its place",
                field=f"{at}.sender",
            )
        check_url(settings.url, settings, f"{at}.url")
        account = quote(settings.account_sid, safe="")
        self._url = f"{settings.url.rstrip('/')}/2010-04-01/Accounts/{account}/Messages.json"
        user = settings.api_key or settings.account_sid
        password = settings.api_secret or settings.auth_token
        self._headers = {
            "content-type": "application/x-www-form-urlencoded",
            "authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode(),
        }
        self._sender = {
            key: value
            for key, value in (
                ("From", settings.sender),
                ("MessagingServiceSid", settings.messaging_service_sid),
            )
            if value
        }
        secrets = settings.signing_secret or settings.auth_token
        self._secrets = tuple(
            secret.encode() for secret in ((secrets,) if isinstance(secrets, str) else secrets) if secret
        )
        self._callback = callback if self._secrets else ""
        self._stop_words = frozenset(word.upper() for word in settings.stop_words)

    def request(self, send: Send) -> Request:
        """One message. It may wait at Twilio for as long as it is worth something, in whole seconds."""
        if not _phone(send.address):
            raise Unsendable("not a phone number in E.164 form", blame="recipient")
        content = content_of(send.item, "twilio")
        if len(content.text.encode("utf-16-le")) > 2 * MAX_TEXT:
            raise Unsendable(f"text longer than {MAX_TEXT:,} characters")
        if not content.text and not {"MediaUrl", "ContentSid"} & set(content.native):
            raise Unsendable("neither text nor `MediaUrl` nor `ContentSid`")
        form = {"To": send.address, **self._sender}
        if content.text:
            form["Body"] = content.text
        form["ValidityPeriod"] = str(int(min(max(send.ttl, 1), MAX_VALIDITY)))
        if self._callback:
            form["StatusCallback"] = f"{self._callback}{'&' if '?' in self._callback else '?'}ref={send.ref}"
        pairs = [*form.items(), *_native(content.native)]
        return Request(url=self._url, headers=self._headers, body=urlencode(pairs).encode())

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        said, status = json_of(answer), answer.status
        if 200 <= status < 300:
            sid, now = said.get("sid"), said.get("status")
            if not isinstance(sid, str) or not sid:
                return unexplained(answer, wall)
            if STATUSES.get(str(now)) != "failed":
                return Outcome(
                    "accepted",
                    f"HTTP {status}",
                    provider_id=sid,
                    status=status,
                    receipt=bool(self._callback),
                )
        code = _code(said.get("code") or said.get("error_code"))
        if code in CODES:
            kind, blame, pause, learnt, meaning = CODES[code]
            return Outcome(
                "refused" if kind == "failed" else kind,
                f"{code}: {meaning}",
                blame=blame or ("message" if kind == "failed" else ""),
                retry_after=retry_after(answer, wall) if kind == "retry" else 0.0,
                status=status,
                code=code,
                pause=pause,
                learnt=learnt,
            )
        return self._unknown(answer, wall, code, said.get("message"))

    def _unknown(self, answer: Answer, wall: float, code: str, message: object) -> Outcome:
        """An answer without a code that is known here."""
        found = unexplained(answer, wall)
        reason = line(f"{code}: {message}") if code and isinstance(message, str) else found.reason
        if 200 <= answer.status < 300:
            found = Outcome("refused", reason, blame="message", status=answer.status)
        elif answer.status >= 500 and answer.status != 503:
            # sending an SMS is not idempotent (20500)
            found = Outcome("ambiguous", reason, status=answer.status)
        elif answer.status in (404, 410):
            # of what the URL names: the account
            found = replace(found, blame="account")
        return replace(found, reason=reason, code=code)

    def callback(self, call: Call, wall: float) -> Reply:
        """A status of a message of ours, or a message that came in: that is read for an opt-out alone. Twilio's
        signature has no time in it: that it is repeated shows in the key.
        """
        fields = self._signed(call)
        sid, status = fields.get("MessageSid", ""), fields.get("MessageStatus", "")
        if not sid:
            raise ValueError("no MessageSid")
        if status:
            return Reply(tuple(_report(sid, status, fields, call.query.get("ref", ""))))
        if "Body" not in fields:
            raise ValueError("neither a status nor a message")
        return Reply(tuple(self._opt_out(sid, fields)), body=b"<Response/>", content_type="text/xml")

    def _opt_out(self, sid: str, fields: dict[str, str]) -> Iterator[Receipt]:
        said = fields.get("OptOutType", "")
        stops = said.upper() == "STOP" if said else fields["Body"].strip().upper() in self._stop_words
        address = fields.get("From", "")
        if stops and _phone(address):
            yield Receipt(key=f"{sid}.STOP", learnt="opted_out", address=address, reason="STOP")

    def _signed(self, call: Call) -> dict[str, str]:
        """The fields of a call whose X-Twilio-Signature holds (twilio.com/docs/usage/webhooks/webhooks-security): of
        a form all are signed with the URL, of JSON the URL with `bodySHA256` in it is.
        """
        fields: list[tuple[str, str]] = []
        digest = call.query.get("bodySHA256")
        if digest is not None:
            if not hmac.compare_digest(hashlib.sha256(call.body).hexdigest().encode(), digest.encode()):
                raise Forged("body and `bodySHA256` differ")
        else:
            try:
                fields = parse_qsl(
                    call.body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
                )
            except ValueError:
                raise Forged("not a form") from None
        given = call.headers.get("x-twilio-signature", "").encode(errors="surrogateescape")
        signed = "".join(name + value for name, value in sorted(set(fields)))
        hashed = _hash(call.headers.get("x-twilio-webhooks-signature-settings", ""))
        good = [
            base64.b64encode(hmac.digest(secret, (url + signed).encode(), hashed))
            for url in _spellings(call.url)
            for secret in self._secrets
        ]
        if not any(hmac.compare_digest(value, given) for value in good):
            raise Forged("X-Twilio-Signature is wrong or missing")
        return dict(fields) if digest is None else _strings(call.body)


def _report(sid: str, status: str, fields: dict[str, str], ref: str) -> Iterator[Receipt]:
    code = fields.get("ErrorCode", "")
    now: Status = STATUSES.get(status, "")
    failed = now == "failed"
    _, blame, _, learnt, meaning = CODES.get(code, ("", "", "", "", "")) if failed else ("",) * 5
    address = fields.get("To", "") if learnt and not ref_of(ref) else ""
    if not ref_of(ref) and not address:
        return  # of a message that is not ours
    yield Receipt(
        ref=ref if ref_of(ref) else "",
        status=now,
        reason=line(f"{code}: {meaning}" if meaning else f"{status} {code}"),
        code=code,
        blame=blame,
        key=f"{sid}.{status}",
        learnt=learnt,
        address=address,
    )


def _native(native: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in native.items():
        if name not in NATIVE:
            raise Unsendable(f"`twilio.{line(name)}` is not for the sender to set")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                yield name, one
            else:  # true, false, a number; ContentVariables, which are JSON
                yield name, msgspec.json.encode(one).decode()


def _code(value: object) -> str:
    """Codes are numbers, sometimes as text; anything else is none."""
    text = str(value) if isinstance(value, int | str) else ""
    return text if text.isascii() and text.isdigit() and len(text) <= 9 else ""


def _hash(settings: str) -> str:
    """The hash of a signature: SHA-1, unless `…,algorithm=HMAC_SHA256` says otherwise."""
    parts = (part.strip() for part in settings.split(","))
    return "sha256" if "algorithm=HMAC_SHA256" in parts else "sha1"


def _spellings(url: str) -> tuple[str, str]:
    """A URL without and with its port: Twilio signs the one or the other."""
    parts = urlsplit(url)
    start, rest = f"{parts.scheme}://", url[len(parts.scheme) + 3 + len(parts.netloc) :]
    if parts.port:
        return start + parts.netloc.rpartition(":")[0] + rest, url
    return url, f"{start}{parts.netloc}:{443 if parts.scheme == 'https' else 80}{rest}"


def _strings(body: bytes) -> dict[str, str]:
    """The texts and numbers of a JSON object. Raises ValueError for anything else."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return {name: str(value) for name, value in found.items() if isinstance(value, str | int)}


PROVIDER = Twilio
