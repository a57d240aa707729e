"""ntfy, by its JSON publishing (github.com/binwiederhier/ntfy, docs/publish.md and server/errors.go). Pure."""

import base64
import re
from typing import Any

import msgspec

from gateway.config.channels import Ntfy as Settings
from gateway.errors import ConfigError
from gateway.model import PRIORITIES
from gateway.ports import Outcome
from gateway.providers.content import content_of
from gateway.providers.provider import (
    Answer,
    Request,
    Send,
    Unsendable,
    json_of,
    line,
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

PRIORITY = {"critical": 5, "high": 4, "normal": 3, "low": 2}
FIELDS = frozenset((
    "title", "message", "priority", "tags", "click", "icon", "actions", "attach", "filename", "markdown", "email",
    "call", "delay", "cache", "firebase", "sequence_id",
))  # fmt: skip

_MESSAGE = ("refused", "message", "", "")
_TOPIC = ("refused", "recipient", "", "")
_AGAIN = ("retry", "", "", "")
_SLOWER = ("retry", "", "account", "")

# the server's own code (of those that publishing can bring) -> kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "40000": _MESSAGE,
    "40001": _MESSAGE,
    "40002": _MESSAGE,
    "40003": _MESSAGE,
    "40004": _MESSAGE,
    "40005": _MESSAGE,
    "40006": _MESSAGE,
    "40007": _MESSAGE,
    "40009": _TOPIC,
    "40010": _TOPIC,
    "40011": _MESSAGE,
    "40013": _MESSAGE,
    "40014": _MESSAGE,
    "40015": _MESSAGE,
    "40017": _MESSAGE,
    "40018": _MESSAGE,
    "40021": _MESSAGE,
    "40024": _MESSAGE,
    "40032": _MESSAGE,
    "40033": _MESSAGE,
    "40034": _MESSAGE,
    "40035": _MESSAGE,
    "40037": _MESSAGE,
    "40101": ("refused", "credential", "", ""),
    # of this topic: a client's address must not be able to stop the channel
    "40301": _TOPIC,
    "40401": ("refused", "account", "", ""),
    "41301": _MESSAGE,
    "41303": _MESSAGE,
    "42901": _SLOWER,
    "42902": _AGAIN,
    "42904": ("retry", "", "recipient", ""),
    "42905": _AGAIN,
    "42908": _SLOWER,
    "42909": _SLOWER,
    "42910": _AGAIN,
    "50001": _AGAIN,
    "50002": _AGAIN,
    "50003": _AGAIN,
    "50701": _TOPIC,
}
# s; the server says how much it allows, and not when. Daily quotas are looked at again every hour
WAIT = {
    "42901": 5.0,
    "42902": 3600.0,
    "42904": 60.0,
    "42905": 3600.0,
    "42908": 3600.0,
    "42909": 60.0,
    "42910": 3600.0,
}

_topic = re.compile(r"[-_A-Za-z0-9]{1,64}").fullmatch
_visible = re.compile(r"[!-~]+").fullmatch


class Ntfy:
    """A channel of kind `ntfy`."""

    __slots__ = ("_headers", "_max", "_topic", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where the topic or the credentials cannot be any."""
        at = f"channels.{name}"
        if settings.topic and not _topic(settings.topic):
            raise ConfigError(f"{at}.topic: must be 1 to 64 of A-Z a-z 0-9 - _", field=f"{at}.topic")
        check_url(settings.url, settings, f"{at}.url")
        self._url = settings.url.rstrip("/") + "/"
        self._topic = settings.topic
        self._max = settings.max_message
        self._headers = {"content-type": "application/json"} | _authorization(at, settings)

    def request(self, send: Send) -> Request:
        """The message of one attempt."""
        topic = send.address or self._topic
        if not topic:
            raise Unsendable("no topic: neither the client nor the channel has one", blame="recipient")
        if not _topic(topic):
            raise Unsendable("the address is not a topic", blame="recipient")
        content = content_of(send.item, "ntfy")
        native = content.native
        if unknown := sorted(native.keys() - FIELDS):
            raise Unsendable(f"`ntfy.{unknown[0]}` of the body is not a field of a message")
        message: dict[str, Any] = {
            "topic": topic,
            "message": content.text,
            "priority": PRIORITY[PRIORITIES[send.item.lane]],
            "sequence_id": send.id,
        }
        if content.title:
            message["title"] = content.title
        message |= native
        text = message["message"]
        # of none the server would make `triggered`
        if not isinstance(text, str) or not text:
            raise Unsendable("the body has no text")
        if len(text.encode()) > self._max:
            raise Unsendable(f"the text is longer than {self._max} bytes")
        return Request(self._url, self._headers, msgspec.json.encode(message))

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: docs/providers/ntfy.md."""
        status, said = answer.status, json_of(answer)
        id, code, error = said.get("id"), str(said.get("code", "")), said.get("error")
        if status == 200 and isinstance(id, str) and id:
            return Outcome("accepted", "HTTP 200", provider_id=id[:64], status=200)
        if code not in CODES:
            return unexplained(answer, wall)
        kind, blame, pause, learnt = CODES[code]
        reason = line(f"HTTP {status}: {error}") if isinstance(error, str) else f"HTTP {status}"
        wait = (retry_after(answer, wall) or WAIT.get(code, 0.0)) if kind == "retry" else 0.0
        return Outcome(
            kind, reason, blame=blame, retry_after=wait, status=status, code=code, pause=pause, learnt=learnt
        )


def _authorization(at: str, settings: Settings) -> dict[str, str]:
    """The header that proves who publishes; none where anyone may. Raises ConfigError."""
    token, user, password = settings.token, settings.user, settings.password
    if token and (user or password):
        raise ConfigError(f"{at}.token: not together with user and password", field=f"{at}.token")
    if bool(user) != bool(password):
        field = f"{at}.password" if user else f"{at}.user"
        raise ConfigError(f"{field}: user and password go together", field=field)
    if token:
        if not _visible(token):
            raise ConfigError(f"{at}.token: must be printable ASCII without spaces", field=f"{at}.token")
        return {"authorization": f"Bearer {token}"}
    if user:
        return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {}


PROVIDER = Ntfy
