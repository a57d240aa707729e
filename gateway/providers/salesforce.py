"""Salesforce: a message as a platform event (Platform Events Developer Guide, "Publish Event Messages with Salesforce
APIs"; REST API Developer Guide, "Status Codes and Error Responses"). Pure.
"""

from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.config.channels import Salesforce as Settings
from gateway.config.table import MASK
from gateway.errors import ConfigError
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

MAX_EVENT = 1024 * 1024  # bytes
# s; the answer does not tell. A session lasts 2 h unless the org says otherwise, and one that has ended is noticed
TOKEN_LIFE = 3600.0

_ACCOUNT = ("refused", "account", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_MESSAGE = ("refused", "message", "", "")
_AGAIN = ("retry", "", "", "")
_SLOWER = ("retry", "", "account", "")

# `errorCode`, or `statusCode` in a result -> kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "INVALID_SESSION_ID": _CREDENTIAL,
    "INVALID_AUTH_HEADER": _CREDENTIAL,
    "INSUFFICIENT_ACCESS": _CREDENTIAL,
    "INSUFFICIENT_ACCESS_OR_READONLY": _CREDENTIAL,
    "API_DISABLED_FOR_ORG": _ACCOUNT,
    "API_CURRENTLY_DISABLED": _ACCOUNT,
    "FUNCTIONALITY_NOT_ENABLED": _ACCOUNT,
    "NOT_FOUND": _ACCOUNT,
    "INVALID_TYPE": _ACCOUNT,
    "METHOD_NOT_ALLOWED": _ACCOUNT,
    "PLATFORM_EVENT_ENCRYPTION_ERROR": _ACCOUNT,
    "REQUEST_LIMIT_EXCEEDED": _SLOWER,
    "LIMIT_EXCEEDED": _SLOWER,
    "SERVER_UNAVAILABLE": _SLOWER,
    "PLATFORM_EVENT_PUBLISHING_UNAVAILABLE": _AGAIN,
    "UNABLE_TO_LOCK_ROW": _AGAIN,
    "UNKNOWN_EXCEPTION": ("ambiguous", "", "", ""),
    "INVALID_FIELD": _MESSAGE,
    "INVALID_FIELD_FOR_INSERT_UPDATE": _MESSAGE,
    "FIELD_INTEGRITY_EXCEPTION": _MESSAGE,
    "JSON_PARSER_ERROR": _MESSAGE,
    "NUMBER_OUTSIDE_VALID_RANGE": _MESSAGE,
    "REQUIRED_FIELD_MISSING": _MESSAGE,
    "STRING_TOO_LONG": _MESSAGE,
}
# s; a day's requests, an hour's events: looked at again, for what was used longest ago is given back all the time
WAIT = {"REQUEST_LIMIT_EXCEEDED": 900.0, "LIMIT_EXCEEDED": 300.0, "SERVER_UNAVAILABLE": 60.0}

# what a request for a token may be answered (OAuth 2.0 Authorization Errors): to be tried again; all else is refused
_TOKEN_AGAIN = frozenset(("rate_limit_exceeded", "server_error", "temporarily_unavailable", "unknown_error"))


class Salesforce:
    """A channel of kind `salesforce`."""

    __slots__ = ("_event", "_form", "_secret", "_settings", "_token")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where a credential is missing."""
        for key in ("client_id", "client_secret"):
            if not getattr(settings, key):
                raise ConfigError(f"channels.{name}.{key}: must not be empty", field=f"channels.{name}.{key}")
        check_url(settings.url, settings, f"channels.{name}.url")
        base = settings.url.rstrip("/")
        self._token = base + "/services/oauth2/token"
        self._event = f"{base}/services/data/{settings.version}/sobjects/{settings.event}/"
        self._settings = settings
        self._secret = settings.client_secret
        self._form = urlencode({
            "grant_type": "client_credentials",
            "client_id": settings.client_id,
            "client_secret": settings.client_secret,
        }).encode()  # fmt: skip

    def grant_request(self, wall: float) -> Request:
        return Request(
            self._token,
            {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
            self._form,
        )

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        """The token; its life is not told."""
        said = json_of(answer)
        token = said.get("access_token")
        if answer.status == 200 and isinstance(token, str) and token.isascii() and token.isprintable():
            return Grant(token, wall + TOKEN_LIFE)
        error = said.get("error")
        if not isinstance(error, str):
            return unexplained(answer, wall)
        reason = line(f"no access token: {error.replace(self._secret, MASK)}")
        if error in _TOKEN_AGAIN:
            wait = retry_after(answer, wall)
            return Outcome("retry", reason, retry_after=wait, status=answer.status, pause="account")
        return Outcome("refused", reason, blame="credential", status=answer.status)

    def request(self, send: Send) -> Request:
        """The event of one attempt."""
        settings, extra = self._settings, send.item.x
        content = content_of(send.item, "salesforce")
        ours = (
            (settings.id_field, send.id),
            (settings.client_field, send.item.client),
            (settings.type_field, extra.type if extra is not None else None),
            (settings.title_field, content.title),
            (settings.text_field, content.text),
        )
        fields: dict[str, Any] = {field: value for field, value in ours if field and value}
        body = msgspec.json.encode(fields | content.native)
        if len(body) > MAX_EVENT:
            raise Unsendable("the event is longer than 1 MiB")
        headers = {"authorization": f"Bearer {send.token}", "content-type": "application/json"}
        return Request(self._event, headers, body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: docs/providers/salesforce.md."""
        status, result = answer.status, json_of(answer)
        code, message = _error(answer)
        if status == 201 and result.get("success") is True:
            id = message if code == "OPERATION_ENQUEUED" else result.get("id")
            return Outcome("accepted", "HTTP 201", provider_id=str(id or "")[:64], status=status)
        if code not in CODES:
            return unexplained(answer, wall)
        kind, blame, pause, learnt = CODES[code]
        wait = (retry_after(answer, wall) or WAIT.get(code, 0.0)) if kind == "retry" else 0.0
        return Outcome(
            kind,
            line(f"HTTP {status}: {message or code}"),
            blame=blame,
            retry_after=wait,
            status=status,
            code=code,
            pause=pause,
            learnt=learnt,
        )


def _error(answer: Answer) -> tuple[str, str]:
    """Code and message of the first error: of a list of errors, or of the errors in a result."""
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    errors = found.get("errors") if isinstance(found, dict) else found
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return "", ""
    code, message = first.get("errorCode") or first.get("statusCode"), first.get("message")
    return code if isinstance(code, str) else "", message if isinstance(message, str) else ""


PROVIDER = Salesforce
