"""Microsoft Teams through Graph (learn.microsoft.com/graph/api/chatmessage-post), in the name of a user. Pure.

An application by itself may write to chats and channels only while it imports old messages (Teamwork.Migrate.All); so
the access token is that of a user, from a refresh token (learn.microsoft.com/entra/identity-platform/refresh-tokens).
Graph knows no repetition of a message.
"""

import re
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gateway import __version__
from gateway.config.channels import TeamsGraph as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.between import between
from gateway.providers.content import content_of
from gateway.providers.provider import (
    Answer,
    Grant,
    Request,
    Send,
    Unsendable,
    json_of,
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

WAIT = 30.0  # s; where Graph does not say how long

_thread = r"19:[A-Za-z0-9_-]{1,128}@[a-z0-9.]{1,40}"
_chat = re.compile(_thread).fullmatch
_channel = re.compile(
    rf"([0-9A-Fa-f]{{8}}(?:-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}})/({_thread})"
).fullmatch
_code = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}").fullmatch

_MESSAGE = ("refused", "message", "", "")
_RECIPIENT = ("refused", "recipient", "", "")
_CREDENTIAL = ("refused", "credential", "", "")
_ACCOUNT = ("refused", "account", "", "")
_LATER = ("retry", "", "account", "")
_UNKNOWN = ("ambiguous", "", "", "")

# "HTTP <status>" of Graph's own answers, or what its message starts with: kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "Missing scope permissions": _CREDENTIAL,
    "Missing role permissions": _CREDENTIAL,
    "Message POST is allowed in application-only context only for import purposes": _CREDENTIAL,
    "HTTP 400": _MESSAGE,
    "HTTP 401": _CREDENTIAL,
    "HTTP 402": _ACCOUNT,
    "HTTP 403": _RECIPIENT,
    "HTTP 404": _RECIPIENT,
    "HTTP 409": ("retry", "", "", ""),
    "HTTP 410": _RECIPIENT,
    "HTTP 412": _MESSAGE,
    "HTTP 413": _MESSAGE,
    "HTTP 415": _MESSAGE,
    "HTTP 422": _MESSAGE,
    "HTTP 423": ("retry", "", "", ""),
    "HTTP 429": _LATER,
    "HTTP 500": _UNKNOWN,
    "HTTP 502": _UNKNOWN,
    "HTTP 503": _LATER,
    "HTTP 504": _UNKNOWN,
    "HTTP 507": _ACCOUNT,
    "HTTP 509": _LATER,
}


class TeamsGraph:
    """A channel of kind `teams_graph`."""

    __slots__ = ("_form", "_login", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError for URLs that cannot be used, and without a refresh token."""
        check_url(settings.url, settings, f"channels.{name}.url")
        check_url(settings.login_url, settings, f"channels.{name}.login_url")
        if not settings.refresh_token:
            field = f"channels.{name}.refresh_token"
            raise ConfigError(f"{field}: is empty", field=field)
        self._url = settings.url.rstrip("/")
        tenant = quote(settings.tenant, safe="")
        self._login = f"{settings.login_url.rstrip('/')}/{tenant}/oauth2/v2.0/token"
        graph = urlsplit(settings.url)
        form = {
            "client_id": settings.client_id,
            "grant_type": "refresh_token",
            "refresh_token": settings.refresh_token,
            # what the user has consented to, of the Graph of this cloud
            "scope": f"{graph.scheme}://{graph.netloc}/.default",
        }
        if settings.client_secret:
            form["client_secret"] = settings.client_secret
        self._form = urlencode(form).encode()

    def grant_request(self, wall: float) -> Request:
        """Redeem the refresh token. It stays good when it is used (no new one is needed until its 90 days are over)."""
        headers = {"content-type": "application/x-www-form-urlencoded", "user-agent": _agent()}
        return Request(url=self._login, headers=headers, body=self._form)

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        """The token; or why there is none. Nothing of the message has gone out."""
        said, status = json_of(answer), answer.status
        token, lasts = said.get("access_token"), said.get("expires_in")
        if status == 200 and isinstance(token, str) and token and isinstance(lasts, int) and lasts > 0:
            return Grant(token, wall + lasts)
        code = said.get("error")
        named = code if isinstance(code, str) and _code(code) else ""
        reason = f"no access token: HTTP {status}" + (f": {named}" if named else "")
        wait = retry_after(answer, wall)
        if status < 300 or status in (408, 429) or status >= 500 or named == "temporarily_unavailable":
            return Outcome(
                "retry", reason, retry_after=wait or WAIT, status=status, code=named, pause="account"
            )
        return Outcome("refused", reason, blame="credential", status=status, code=named)

    def request(self, send: Send) -> Request:
        """A message in a chat, or in a channel of a team. What the sender wrote under `teams_graph` is added."""
        address = send.address
        if _chat(address):
            path = f"/chats/{quote(address, safe='')}/messages"
        elif match := _channel(address):
            path = f"/teams/{match[1]}/channels/{quote(match[2], safe='')}/messages"
        else:
            raise Unsendable("neither a chat's id nor `<team id>/<channel id>`", blame="recipient")
        content = content_of(send.item, "teams_graph")
        fields: dict[str, object] = {}
        if content.text:
            text = f"{content.title}\n\n{content.text}" if content.title else content.text
            fields["body"] = {"contentType": "text", "content": text}
        headers = {
            "authorization": f"Bearer {send.token}",
            "content-type": "application/json",
            "user-agent": _agent(),
        }
        return Request(
            url=self._url + path, headers=headers, body=msgspec.json.encode(fields | content.native)
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: 201, or Graph's error by its status."""
        status, said = answer.status, json_of(answer)
        if status == 201 and isinstance(said.get("id"), str):
            return Outcome("accepted", "HTTP 201", provider_id=said["id"], status=status)
        error = said.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(code, str) or not _code(code):
            return between(answer, wall)
        words = str(error.get("message", ""))
        row = next((known for known in CODES if words.startswith(known)), f"HTTP {status}")
        if row not in CODES:
            return unexplained(Answer(status, answer.headers, b""), wall)
        kind, blame, pause, learnt = CODES[row]
        # the message holds ids of requests: only what is known of it is repeated
        said_so = code if row.startswith("HTTP ") else row
        return Outcome(
            kind,
            f"HTTP {status}: {said_so}",
            blame=blame,
            retry_after=(retry_after(answer, wall) or WAIT) if pause else retry_after(answer, wall),
            status=status,
            code=code,
            pause=pause,
            learnt=learnt,
        )


def _agent() -> str:
    return f"bot-gateway/{__version__}"


PROVIDER = TeamsGraph
