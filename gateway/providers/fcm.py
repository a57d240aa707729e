"""Push by Firebase Cloud Messaging, HTTP v1 (firebase.google.com/docs/reference/fcm/rest/v1/projects.messages). Pure.

Access tokens are asked for with a JWT that the service account's key signs (RFC 7523). FCM has no idempotency key and
no callbacks; a repeated notification takes the place of the first on the device, for both carry the message's id.
"""

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec.structs import replace

from gateway.config.channels.fcm import Fcm as Settings
from gateway.errors import ConfigError
from gateway.model import LANES
from gateway.ports import Outcome
from gateway.providers.content import content_of
from gateway.providers.provider import (
    Answer,
    Grant,
    Request,
    Send,
    Unsendable,
    json_of,
    line,
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

MAX_TTL = 2_419_200  # s, four weeks
MAX_PAYLOAD = 4096  # bytes of notification and data, keys and values
QUOTA_WAIT = 60.0  # s after 429 without Retry-After (firebase.google.com/docs/cloud-messaging/scale-fcm)
ASSERTION = 3600  # s for which the JWT is good, the most that Google takes
SPARE = 60.0  # s before its end at which an access token is no longer used

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address

_token = re.compile(r"[!-~]{1,4096}").fullmatch
_word = re.compile(r"[a-z_]{1,40}").fullmatch

# the sender of a message may set all else of it (notification, data, android, apns, webpush, fcm_options)
OWN = frozenset(("token", "topic", "condition", "name"))

# code: kind, blame, pause, learnt, meaning. Those of FcmError (firebase.google.com/docs/cloud-messaging/error-codes);
# `code:what` where its details say what is meant; and those of google.rpc.Code where there is no FcmError.
CODES: dict[str, tuple[str, str, str, str, str]] = {
    "UNSPECIFIED_ERROR": ("ambiguous", "", "", "", "error without a reason"),
    "INVALID_ARGUMENT": ("refused", "message", "", "", "a field is not valid, or the message is too big"),
    "INVALID_ARGUMENT:token": ("refused", "recipient", "", "gone", "not a valid registration token"),
    "UNREGISTERED": ("refused", "recipient", "", "gone", "token is no longer registered"),
    "SENDER_ID_MISMATCH": ("refused", "recipient", "", "", "token is of another project"),
    "QUOTA_EXCEEDED": ("retry", "", "account", "", "quota of the project exceeded"),
    "QUOTA_EXCEEDED:device": ("retry", "", "recipient", "", "too many messages to this device"),
    "UNAVAILABLE": ("retry", "", "account", "", "server overloaded"),
    "INTERNAL": ("ambiguous", "", "", "", "unknown internal error"),
    "THIRD_PARTY_AUTH_ERROR": (
        "refused",
        "recipient",
        "",
        "",
        "key for APNs or web push is missing or wrong",
    ),
    "UNAUTHENTICATED": ("refused", "credential", "", "", "access token is not accepted"),
    "PERMISSION_DENIED": ("refused", "credential", "", "", "service account may not send for the project"),
    "NOT_FOUND": ("refused", "account", "", "", "no such project"),
    "RESOURCE_EXHAUSTED": ("retry", "", "account", "", "quota of the project exceeded"),
    "DEADLINE_EXCEEDED": ("ambiguous", "", "", "", "timeout inside Google"),
}


class Fcm:
    """A channel of kind `fcm`."""

    __slots__ = ("_audience", "_email", "_key", "_key_id", "_token_url", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError, which does not quote it, for a service account that cannot be read."""
        at = f"channels.{name}"
        self._key, account = _account(settings.service_account, f"{at}.service_account")
        project = settings.project_id or account.get("project_id", "")
        if not project:
            raise ConfigError(
                f"{at}.project_id: is missing, here and in the service account", field=f"{at}.project_id"
            )
        check_url(settings.url, settings, f"{at}.url")
        self._email = account["client_email"]
        self._key_id = account.get("private_key_id", "")
        self._audience = account.get("token_uri") or TOKEN_URI
        self._token_url = settings.token_url or self._audience
        check_url(self._token_url, settings, f"{at}.token_url")
        self._url = f"{settings.url.rstrip('/')}/v1/projects/{quote(project, safe='')}/messages:send"

    def grant_request(self, wall: float) -> Request:
        """Ask for an access token (developers.google.com/identity/protocols/oauth2/service-account)."""
        now = int(wall)
        assertion = jwt.encode(
            {
                "iss": self._email,
                "scope": SCOPE,
                "aud": self._audience,
                "iat": now,
                "exp": now + ASSERTION,
            },
            self._key,
            algorithm="RS256",
            headers={"kid": self._key_id} if self._key_id else None,
        )
        return Request(
            url=self._token_url,
            headers={"content-type": "application/x-www-form-urlencoded"},
            body=urlencode({"grant_type": GRANT_TYPE, "assertion": assertion}).encode(),
        )

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        """Without one nothing has been sent: refused where Google does not accept the account, else retry."""
        said, status = json_of(answer), answer.status
        if 200 <= status < 300:
            match said:
                case {"access_token": str(token), "expires_in": int(seconds)} if token:
                    return Grant(token, wall + max(seconds - SPARE, 0.0))
            return Outcome("retry", "no access token: answer not understood", status=status, pause="account")
        error = said.get("error")
        code = error if isinstance(error, str) and _word(error) else ""
        reason = f"no access token: {code or f'HTTP {status}'}"
        if status in (408, 425, 429) or status >= 500 or status < 200:
            wait = retry_after(answer, wall)
            return Outcome("retry", reason, retry_after=wait, status=status, code=code, pause="account")
        return Outcome("refused", reason, blame="credential", status=status, code=code)

    def request(self, send: Send) -> Request:
        """One message to one device. The device's push service drops it when it is worth nothing any more."""
        if not _token(send.address):
            raise Unsendable("not a registration token", blame="recipient")
        body = msgspec.json.encode({"message": _message(send)})
        headers = {"content-type": "application/json", "authorization": f"Bearer {send.token}"}
        return Request(url=self._url, headers=headers, body=body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        said, status = json_of(answer), answer.status
        if 200 <= status < 300:
            name = said.get("name")
            if not isinstance(name, str) or not name:
                return unexplained(answer, wall)
            return Outcome("accepted", f"HTTP {status}", provider_id=name, status=status)
        error = said.get("error")
        row, code = _row(error if isinstance(error, dict) else {})
        if row in CODES:
            kind, blame, pause, learnt, meaning = CODES[row]
            wait = retry_after(answer, wall) if kind == "retry" else 0.0
            return Outcome(
                kind,
                f"{code}: {meaning}",
                blame=blame,
                retry_after=wait or (QUOTA_WAIT if kind == "retry" and row != "UNAVAILABLE" else 0.0),
                status=status,
                code=code,
                pause=pause,
                learnt=learnt,
            )
        found = unexplained(answer, wall)
        if status >= 500 and status != 503:
            found = Outcome("ambiguous", found.reason, status=status)
        elif found.kind == "refused" and found.blame == "recipient":
            # of what the URL names: the project
            found = replace(found, blame="account")
        message = error.get("message") if isinstance(error, dict) else None
        reason = line(f"{code}: {message}") if code and isinstance(message, str) else found.reason
        return replace(found, reason=reason, code=code)


def _account(text: str, field: str) -> tuple[RSAPrivateKey, dict[str, str]]:
    """The private key, and the texts of a service account's JSON."""
    try:
        said = json.loads(text)
        account = {name: value for name, value in said.items() if isinstance(value, str)}
        key = load_pem_private_key(account["private_key"].encode(), None)
        if not isinstance(key, RSAPrivateKey) or not account["client_email"]:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        # of whatever kind: it may quote the key
        raise ConfigError(
            f"{field}: must be the JSON of a service account's key, with `client_email` and `private_key` (RSA)",
            field=field,
        ) from None
    return key, account


def _message(send: Send) -> dict[str, Any]:
    """What is shown if the sender says nothing else: the text. A message without text goes as data alone, to be read by
    the app.
    """
    item = send.item
    content = content_of(item, "fcm", needs_text=False)
    for name in content.native:
        if name in OWN:
            raise Unsendable(f"`fcm.{name}` is not for the sender to set")
    message: dict[str, Any] = {"token": send.address, "data": {"id": send.id}}
    if item.x and item.x.type:
        message["data"]["type"] = item.x.type
    urgent = item.lane <= LANES["high"]
    if content.text:
        message["notification"] = {"title": content.title} if content.title else {}
        message["notification"]["body"] = content.text
        message["android"] = {"notification": {"tag": send.id}}
        message["apns"] = {"headers": {"apns-collapse-id": send.id}}
    elif not content.native:
        assert item.body is not None
        message["data"]["body"] = item.body.decode()
        message["apns"] = {
            "headers": {"apns-priority": "5"},
            "payload": {"aps": {"content-available": 1}},
        }
    if urgent:
        message = _merged(message, {"android": {"priority": "HIGH"}})
    message = _merged(message, content.native)
    _check_payload(message)
    ttl = int(min(send.ttl, MAX_TTL))
    return _merged(
        message,
        {
            "android": {"ttl": f"{ttl}s"},
            "apns": {"headers": {"apns-expiration": str(int(send.wall) + ttl)}},
            "webpush": {"headers": {"TTL": str(ttl)}},
        },
    )


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, objects inside each other too; where both have a value it is that of `above`."""
    found = dict(below)
    for name, value in above.items():
        inner = found.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            found[name] = _merged(inner, value)
        elif isinstance(inner, dict):
            raise Unsendable(f"`fcm.{line(name)}` is not an object")
        else:
            found[name] = value
    return found


def _check_payload(message: dict[str, Any]) -> None:
    data, notification = message["data"], message.get("notification", {})
    if not all(isinstance(value, str) for value in data.values()):
        raise Unsendable("a value of `fcm.data` is not text")
    if not isinstance(notification, dict):
        raise Unsendable("`fcm.notification` is not an object")
    shown = [str(value) for value in notification.values()]
    size = sum(len(text.encode()) for text in (*data, *data.values(), *notification, *shown))
    if size > MAX_PAYLOAD:
        raise Unsendable(f"more than {MAX_PAYLOAD:,} bytes to push")


def _row(error: dict[str, Any]) -> tuple[str, str]:
    """The row of CODES that an error belongs to, and the code that Google calls it by."""
    listed = error.get("details")
    details = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    code = error.get("status")
    for detail in details:
        if str(detail.get("@type", "")).endswith("/google.firebase.fcm.v1.FcmError"):
            code = detail.get("errorCode", code)
    if not isinstance(code, str):
        return "", ""
    if code == "INVALID_ARGUMENT" and _blames_token(error, details):
        return "INVALID_ARGUMENT:token", code
    if code == "QUOTA_EXCEEDED" and "device" in str(_violations(details, "violations")).lower():
        return "QUOTA_EXCEEDED:device", code
    return code, line(code)


def _blames_token(error: dict[str, Any], details: list[dict[str, Any]]) -> bool:
    """A bad token and a bad field have the same code: the fields that are blamed say which it is, and where there are
    none the message does.
    """
    fields = [each.get("field") for each in _violations(details, "fieldViolations")]
    if fields:
        return all(field == "message.token" for field in fields)
    return str(error.get("message", "")).startswith("The registration token is not a valid")


def _violations(details: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    lists = [detail[name] for detail in details if isinstance(detail.get(name), list)]
    return [each for one in lists for each in one if isinstance(each, dict)]


PROVIDER = Fcm
