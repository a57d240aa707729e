"""PagerDuty, by the Events API v2 (PagerDuty/developer-docs, events-API-v2). Pure.

A message triggers an alert whose `dedup_key` is the message's id: a repetition goes to the log of the same alert.
"""

import re
from typing import Any

import msgspec

from gateway.config.channels import PagerDuty as Settings
from gateway.config.table import MASK
from gateway.errors import ConfigError
from gateway.model import PRIORITIES
from gateway.ports import Outcome
from gateway.providers.content import Content, content_of
from gateway.providers.provider import (
    Answer,
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

MAX_EVENT = 512 * 1024  # bytes of a request's body
MAX_SUMMARY = 1024  # characters
MAX_DEDUP_KEY = 255  # characters
SLOW_DOWN = 120.0  # s; 429 comes without a wait, "preferably with a backoff of a few minutes"

SEVERITY = {"critical": "critical", "high": "error", "normal": "warning", "low": "info"}
ACTIONS = ("trigger", "acknowledge", "resolve")
FIELDS = frozenset(("event_action", "dedup_key", "payload", "links", "images", "client", "client_url"))

# what an answer says -> kind, blame, pause, learnt; the other statuses as RFC 9110 has them
CODES: dict[str, tuple[str, str, str, str]] = {
    "202": ("accepted", "", "", ""),
    "400": ("refused", "message", "", ""),
    "400 routing key": ("refused", "credential", "", ""),
    "429": ("retry", "", "account", ""),
}

_key = re.compile(r"[0-9A-Za-z]{32}").fullmatch
_about_the_key = re.compile(r"routing[_ ]key", re.IGNORECASE).search


class PagerDuty:
    """A channel of kind `pagerduty`."""

    __slots__ = ("_key", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where the integration key cannot be one."""
        field = f"channels.{name}.routing_key"
        if not _key(settings.routing_key):
            raise ConfigError(
                f"{field}: must be 32 letters and digits, the integration key of an Events API v2 integration",
                field=field,
            )
        check_url(settings.url, settings, f"channels.{name}.url")
        self._key = settings.routing_key
        self._url = settings.url.rstrip("/") + "/v2/enqueue"

    def request(self, send: Send) -> Request:
        """The event of one attempt."""
        content = content_of(send.item, "pagerduty")
        native = content.native
        if unknown := sorted(native.keys() - FIELDS):
            raise Unsendable(f"`pagerduty.{unknown[0]}` of the body is not a field of an event")
        action = native.get("event_action", "trigger")
        if action not in ACTIONS:
            raise Unsendable("`pagerduty.event_action` of the body is no action of an event")
        key = native.get("dedup_key", send.id)
        if not isinstance(key, str) or not 0 < len(key) <= MAX_DEDUP_KEY:
            raise Unsendable("`pagerduty.dedup_key` of the body must be text of 1 to 255 characters")
        event: dict[str, Any] = {"routing_key": self._key, "event_action": action, "dedup_key": key}
        if action == "trigger":
            event |= {name: value for name, value in native.items() if name not in event}
            event["payload"] = _payload(send, content)
        elif "dedup_key" not in native:
            raise Unsendable(
                f"`pagerduty.event_action` is `{action}`, and no `dedup_key` says of which alert"
            )
        body = msgspec.json.encode(event)
        if len(body) > MAX_EVENT:
            raise Unsendable("the event is longer than 512 KiB")
        return Request(self._url, {"content-type": "application/json"}, body)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: docs/providers/pagerduty.md."""
        status, said = answer.status, json_of(answer)
        errors = said.get("errors")
        words = [said.get("message"), *(errors if isinstance(errors, list) else ())]
        text = "; ".join(word for word in words if isinstance(word, str))
        code = f"{status} routing key" if status == 400 and _about_the_key(text) else str(status)
        if code not in CODES:
            return unexplained(answer, wall)
        kind, blame, pause, learnt = CODES[code]
        key = said.get("dedup_key")
        wait = (retry_after(answer, wall) or SLOW_DOWN) if pause else 0.0
        reason = f"HTTP {status}"
        if kind != "accepted" and text:
            reason = line(f"{reason}: {text.replace(self._key, MASK)}")
        return Outcome(
            kind,
            reason,
            blame=blame,
            retry_after=wait,
            provider_id=key if kind == "accepted" and isinstance(key, str) else "",
            status=status,
            pause=pause,
            learnt=learnt,
        )


def _payload(send: Send, content: Content) -> dict[str, Any]:
    """What the alert says: made of the message, but for the fields that the sender wrote."""
    item, extra = send.item, send.item.x
    written = content.native.get("payload", {})
    if not isinstance(written, dict):
        raise Unsendable("`pagerduty.payload` of the body is not an object")
    details = {"client": item.client, "message": send.id}
    if content.title or len(content.text) > MAX_SUMMARY:
        details["text"] = content.text
    payload: dict[str, Any] = {
        "summary": (content.title or content.text)[:MAX_SUMMARY],
        "source": item.sender,
        "severity": SEVERITY[PRIORITIES[item.lane]],
        "timestamp": rfc3339(item.at),
    }
    if extra is not None and extra.type is not None:
        payload["class"] = extra.type
    payload |= {"custom_details": details} | written
    if payload["severity"] not in SEVERITY.values():
        raise Unsendable("`pagerduty.payload.severity` of the body must be critical, error, warning or info")
    if not isinstance(payload["summary"], str) or not 0 < len(payload["summary"]) <= MAX_SUMMARY:
        raise Unsendable("an event needs a summary of 1 to 1024 characters: `text` or `title` of the body")
    return payload


PROVIDER = PagerDuty
