"""What a provider is: requests out of messages, outcomes out of answers, receipts out of callbacks. Pure.

The dispatcher does the I/O: it hands in the real time and, where a provider needs one, an access token.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import ceil
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from gateway.model import Item
from gateway.ports import Outcome
from gateway.ports import Receipt as Receipt  # noqa: PLC0414 - providers find all of these here
from gateway.ports import Reply as Reply  # noqa: PLC0414
from gateway.ports import ref_of as ref_of  # noqa: PLC0414

MAX_REASON = 200  # characters of a reason
MAX_RETRY_AFTER = 86400  # s; a receiver cannot park a message for longer than a day

_seconds = re.compile(r"[0-9]{1,9}").fullmatch
_readable = ("text/", "application/json", "application/problem+json")


class Send(Struct, frozen=True, kw_only=True):
    """One attempt, as a provider sees it."""

    item: Item  # with its body
    id: str  # the message's id, as the API shows it
    attempt: int  # counted over the whole chain, from 1
    trace: str  # the message's traceparent
    address: str  # the recipient's; "" where the channel has one receiver for all
    wall: float  # real time, Unix s
    ttl: float  # s for which the message is worth something, from now; above 0
    token: str = ""  # access token, of a provider that is Granting

    @property
    def ref(self) -> str:
        """Names this attempt to a provider that hands it back in its callbacks; `ref_of` reads it."""
        return f"{self.id}.{self.attempt}"


class Request(Struct, frozen=True):
    """One HTTP request, to be sent as it is. `theirs`: its URL is the recipient's address, so that a failure on the way
    there is the recipient's alone.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    method: Literal["POST", "GET", "PUT"] = "POST"
    theirs: bool = False


class Mail(Struct, frozen=True):
    """One e-mail, for a server that speaks SMTP."""

    message: EmailMessage
    sender: str  # of the envelope
    recipient: str


class Notify(Struct, frozen=True):
    """One notification, for a service that Apprise knows. `type`: info, success, warning or failure."""

    service: str  # its URL, with what is secret in it
    text: str
    title: str
    type: str

    def __repr__(self) -> str:
        return "Notify()"


class Answer(Struct, frozen=True):
    """What came back. Header names are in lower case; `body` is only its start."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unsendable(Exception):
    """This attempt cannot be made a request: refused, without one. `blame` as in Outcome."""

    def __init__(self, reason: str, blame: str = "message") -> None:
        super().__init__(reason)
        self.reason = reason
        self.blame = blame


class Provider(Protocol):
    """A kind of channel, bound to its settings.

    It is made by `Kind(name, settings, callback)`: the channel's name, its table of the configuration, and the public
    URL where its callbacks arrive ("": nowhere). That raises ConfigError for settings that cannot work.
    """

    def request(self, send: Send) -> Request | Mail | Notify:
        """The request of one attempt: the same message gives the same one, but for what is of the attempt. A Mail goes
        by SMTP, a Notify by Apprise. Raises Unsendable.
        """

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What the answer means. `wall`: real time, Unix s."""


class Grant(Struct, frozen=True):
    """An access token, good until `until` (Unix s)."""

    token: str
    until: float


@runtime_checkable
class Granting(Protocol):
    """A provider that needs an access token, which is asked for by a request of its own and kept."""

    def grant_request(self, wall: float) -> Request: ...

    def grant(self, answer: Answer, wall: float) -> Grant | Outcome:
        """The token; or why there is none, as the outcome (retry, refused) of the attempts that need it."""


class Call(Struct, frozen=True):
    """A callback as it came in. `url` is the one that the provider was given, with the query of this call."""

    method: str
    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    fetched: Mapping[str, Answer] = {}  # what Needs asked for, by URL


class Forged(Exception):
    """A callback whose signature is wrong, missing or too old. The reason holds nothing of the call."""


class Needs(Exception):
    """A callback cannot be answered without what is at `url`.

    Whoever called fetches it (GET, https, public addresses only, no redirects), and calls again with the answer in
    `Call.fetched`. For `keep` seconds the answer may serve other calls too. The provider has checked `url`, but nothing
    is proven yet: how many are fetched at once is to be bounded. Where no answer comes: 503, and it calls again.
    """

    def __init__(self, url: str, keep: float = 0.0) -> None:
        super().__init__(url)
        self.url = url
        self.keep = keep


@runtime_checkable
class Reporting(Protocol):
    """A provider that calls back."""

    def callback(self, call: Call, wall: float) -> Reply:
        """Check the signature over the raw body, in constant time, and read the call. Raises Forged; ValueError for
        what is signed but cannot be read (400: the provider shows it to its user); Needs.
        """


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
        said = line(answer.body[: 8 * MAX_REASON].decode("utf-8", "replace"))
    return f"HTTP {answer.status}: {said}"[:MAX_REASON] if said else f"HTTP {answer.status}"


def line(text: str) -> str:
    """`text` as one printable line of at most 200 characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:MAX_REASON]


def json_of(answer: Answer) -> dict[str, Any]:
    """The object that an answer holds; empty for anything else."""
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def unexplained(answer: Answer, wall: float, *, accepted: bool = False) -> Outcome:
    """What a status means of which the provider says nothing in particular, by RFC 9110 15.

    2xx whose body was not understood is ambiguous, unless the status alone counts (`accepted`); 408, 425, 429 and 5xx
    are to be tried again; 3xx and the other 4xx are refused: 401 and 403 blame the credential, 404 and 410 the
    recipient, the rest the message.
    """
    status = answer.status
    reason = reason_of(answer)
    if 200 <= status < 300:
        return Outcome("accepted" if accepted else "ambiguous", reason, status=status)
    if status in (408, 425, 429) or status >= 500:
        wait = retry_after(answer, wall)
        pause = "account" if status == 429 or (status == 503 and wait) else ""
        return Outcome("retry", reason, retry_after=wait, status=status, pause=pause)
    if status < 200:
        return Outcome("ambiguous", reason, status=status)
    blame = {401: "credential", 403: "credential", 404: "recipient", 410: "recipient"}.get(status, "message")
    return Outcome("refused", reason, blame=blame, status=status)


def rfc3339(ms: int) -> str:
    """Unix ms as RFC 3339 in UTC, to the millisecond."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(256)
def _second(seconds: int) -> str:
    """What was accepted together is handed over together."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
