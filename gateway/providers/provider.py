"""What a provider is, and what those that speak HTTP have in common. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import ceil
from typing import Protocol

from msgspec import Struct

from gateway.model import Item
from gateway.ports import Outcome

MAX_REASON = 200  # characters of a reason
MAX_RETRY_AFTER = 86400  # s; a receiver cannot park a message for longer than a day

_seconds = re.compile(r"[0-9]{1,9}").fullmatch
_readable = ("text/", "application/json", "application/problem+json")


class Request(Struct, frozen=True):
    """One attempt, to be sent by POST as it is."""

    url: str
    headers: dict[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """What came back. Header names are in lower case; `body` is only its start."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Provider(Protocol):
    """A kind of channel, bound to its settings. Pure: the real time is handed in as `wall` (Unix s)."""

    def request(self, item: Item, trace: str, wall: float) -> Request:
        """The request of one attempt. `trace`: the message's traceparent."""

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What the answer means."""


def retry_after(answer: Answer, wall: float) -> float:
    """The whole seconds that Retry-After asks for (RFC 9110 10.2.3: a number, or a date), at most a day. 0: none."""
    text = answer.headers.get("retry-after", "").strip()
    if _seconds(text):
        return float(min(int(text), MAX_RETRY_AFTER))
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    # an HTTP-date is in GMT, whether it says so or not
    wait = ceil((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall)
    return float(min(max(wait, 0), MAX_RETRY_AFTER))


def reason_of(answer: Answer) -> str:
    """`HTTP <status>`, and what the answer says, where that is text: one printable line of at most 200 characters."""
    kind = answer.headers.get("content-type", "text/plain").lower()
    said = ""
    if kind.startswith(_readable) and "content-encoding" not in answer.headers:
        words = " ".join(answer.body[: 8 * MAX_REASON].decode("utf-8", "replace").split())
        said = "".join(c for c in words if c.isprintable())
    return f"HTTP {answer.status}: {said}"[:MAX_REASON] if said else f"HTTP {answer.status}"


def rfc3339(ms: int) -> str:
    """Unix ms as RFC 3339 in UTC, to the millisecond."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(256)
def _second(seconds: int) -> str:
    """What was accepted together is handed over together."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
