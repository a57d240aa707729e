"""HubSpot: a message as an event on a contact's timeline (developers.hubspot.com: timeline events v3, OAuth v3, "Error
handling"). Pure.

The event's id is the message's: of two events with one id HubSpot keeps the last.
"""

import re
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.config.channels import HubSpot as Settings
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
    rfc3339,
    unexplained,
)
from gateway.providers.settings import check_url

FIELDS = frozenset(("tokens", "extraData", "timelineIFrame", "timestamp"))

_AGAIN = ("retry", "", "", "")
_SLOWER = ("retry", "", "account", "")

# status, and for 429 the policy that it names -> kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "200": ("accepted", "", "", ""),
    "201": ("accepted", "", "", ""),
    "400": ("refused", "message", "", ""),
    "401": ("refused", "credential", "", ""),
    "403": ("refused", "credential", "", ""),
    "404": ("refused", "account", "", ""),
    "414": ("refused", "message", "", ""),
    "423": _AGAIN,
    "429": _SLOWER,
    "429 DAILY": _SLOWER,
    "477": _SLOWER,
    "500": _AGAIN,
    "502": _AGAIN,
    "503": _SLOWER,
    "504": _AGAIN,
    "521": _SLOWER,
    "522": _SLOWER,
    "523": _SLOWER,
    "524": _AGAIN,
    "525": _SLOWER,
    "526": _SLOWER,
}
# s, where Retry-After does not say: a lock lasts 2, the short limit is of 10; the day's is looked at again every hour
WAIT = {"423": 2.0, "429": 10.0, "429 DAILY": 3600.0, "477": 3600.0, "502": 5.0, "503": 5.0, "504": 5.0}

_email = re.compile(r"[^\s@<>]{1,64}@[^\s@<>]{1,255}").fullmatch


class HubSpot:
    """A channel of kind `hubspot`."""

    __slots__ = ("_event", "_form", "_secrets", "_settings", "_token")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where a credential is missing."""
        for key in ("client_id", "client_secret", "refresh_token"):
            if not getattr(settings, key):
                raise ConfigError(f"channels.{name}.{key}: must not be empty", field=f"channels.{name}.{key}")
        check_url(settings.url, settings, f"channels.{name}.url")
        base = settings.url.rstrip("/")
        self._token = base + "/oauth/v3/token"
        self._event = base + "/integrators/timeline/v3/events"
        self._settings = settings
        self._secrets = (settings.client_secret, settings.refresh_token)
        self._form = urlencode({
            "grant_type": "refresh_token",
            "client_id": settings.client_id,
            "client_secret": settings.client_secret,
            "refresh_token": settings.refresh_token,
        }).encode()  # fmt: skip

    def grant_request(self, wall: float) -> Request:
        return Request(self._token, {"content-type": "application/x-www-form-urlencoded"}, self._form)

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        """The token, or why there is none. 4xx but 429: refresh token or app are not accepted."""
        said = json_of(answer)
        token, life = said.get("access_token"), said.get("expires_in")
        if answer.status == 200 and isinstance(token, str) and token.isascii() and token.isprintable():
            return Grant(token, wall + (life if isinstance(life, int) and life > 0 else 1800))
        if not 400 <= answer.status < 500 or answer.status == 429:
            return unexplained(answer, wall)
        reason = f"no access token: {self._words(answer.status, said)}"
        return Outcome("refused", line(reason), blame="credential", status=answer.status)

    def request(self, send: Send) -> Request:
        """The event of one attempt."""
        if not _email(send.address):
            raise Unsendable("not an e-mail address", blame="recipient")
        content = content_of(send.item, "hubspot")
        native = content.native
        if unknown := sorted(native.keys() - FIELDS):
            raise Unsendable(f"`hubspot.{unknown[0]}` of the body is not a field of an event")
        named = native.get("tokens", {})
        if not isinstance(named, dict):
            raise Unsendable("`hubspot.tokens` of the body is not an object")
        ours = ((self._settings.title_as, content.title), (self._settings.text_as, content.text))
        tokens = {token: value for token, value in ours if token and value}
        event: dict[str, Any] = {
            "eventTemplateId": self._settings.template,
            "id": send.id,
            "email": send.address,
            "timestamp": rfc3339(send.item.at),
        }
        event |= native | {"tokens": tokens | named}
        headers = {"authorization": f"Bearer {send.token}", "content-type": "application/json"}
        return Request(self._event, headers, msgspec.json.encode(event))

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: docs/providers/hubspot.md."""
        status, said = answer.status, json_of(answer)
        daily = status == 429 and said.get("policyName") == "DAILY"
        code = str(status) + (" DAILY" if daily else "")
        if code not in CODES:
            return unexplained(answer, wall)
        kind, blame, pause, learnt = CODES[code]
        id, category = said.get("id"), said.get("category")
        if kind == "accepted":
            return Outcome(
                kind, f"HTTP {status}", provider_id=id[:64] if isinstance(id, str) else "", status=status
            )
        wait = (retry_after(answer, wall) or WAIT.get(code, 0.0)) if kind == "retry" else 0.0
        return Outcome(
            kind,
            line(self._words(status, said)),
            blame=blame,
            retry_after=wait,
            status=status,
            code=category if isinstance(category, str) else "",
            pause=pause,
            learnt=learnt,
        )

    def _words(self, status: int, said: dict[str, Any]) -> str:
        """The status and the message, without what is secret. Not the correlation id, which is never the same."""
        message = said.get("message")
        if not isinstance(message, str):
            return f"HTTP {status}"
        for secret in self._secrets:
            message = message.replace(secret, MASK)
        return f"HTTP {status}: {message}"


PROVIDER = HubSpot
