"""The values that the rooms share: names, lanes, statuses, a message on its way in, a message in the gateway.

Structs are values; `Item` alone is state: one accepted message (or a status report) while memory holds it.
"""

import re
from enum import IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.errors import Invalid

CLIENT_ID = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_client_id = re.compile(CLIENT_ID).fullmatch
_space = re.compile(rf"(pool|group):({CLIENT_ID})").fullmatch

MAX_TTL = 31_536_000.0
DEFAULT_TTL = 86_400.0
MAX_DEPTH = 64
MAX_META = 2048
MAX_TYPE = 64
MAX_KEY = 128
MAX_CHAIN = 8
MAX_CORRELATION = 172  # base64 of 128 bytes
# bind no seq at or above the lowest unsettled one plus this (an MQTT packet id must stay unambiguous, PROTOCOL 1)
SEQ_SPAN = 65535


def valid_client_id(text: str) -> bool:
    """Whether `text` is a client id (PROTOCOL 1)."""
    return _client_id(text) is not None


def check_address(to: str, field: str = "$.to") -> None:
    """Raises Invalid unless `to` is the address of a client.

    Pools and groups are known by name and refused with a code of their own: nothing serves them yet.
    """
    if _client_id(to) is not None:
        return
    if _space(to) is not None:
        raise Invalid(
            "this gateway does not serve pools and groups yet; address a client",
            code="address_kind_unsupported",
            field=field,
        )
    raise Invalid(
        "not a client id: letters, digits and ._@- , at most 64", code="address_invalid", field=field
    )


Priority = Literal["critical", "high", "normal", "low"]
# lanes: what is queued leaves in this order, first in first out within one
LANES: dict[str, int] = {"critical": 0, "high": 1, "normal": 2, "low": 3}
NORMAL = LANES["normal"]  # that of status reports too
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low")


class Hold(IntEnum):
    """What of a message is in its client's session."""

    NONE = 0  # nothing: it has ended, or its chain owns it and no seq is unsettled
    WAITING = 1  # in the queue of its client
    BOUND = 2  # a seq is bound to it and unsettled
    LATER = 3  # not before `due`: deliver_at, or the delay of a nack
    CLAIMED = 4  # its chain owns it; its seq is unsettled and no gap is committed for it


class Status(IntEnum):
    """Where a message stands (PROTOCOL 2). From DELIVERED on it is an end, and the first committed end wins.

    PROVIDER_ACCEPTED is one where nothing more is to be learnt, which `ended_at` of its row tells. A receipt that comes
    later raises it, and PROVIDER_DELIVERED, all the same.
    """

    QUEUED = 0
    SENT = 1
    HANDED_OVER = 2
    PROVIDER_ACCEPTED = 3
    DELIVERED = 4
    READ = 5
    PROVIDER_DELIVERED = 6
    PROVIDER_READ = 7
    EXPIRED = 8
    CANCELLED = 9
    DEAD = 10

    @property
    def ended(self) -> bool:
        return self >= Status.DELIVERED


STATUS_NAMES: tuple[str, ...] = tuple(s.name.lower() for s in Status)
STATUS_BY_NAME: dict[str, Status] = {s.name.lower(): s for s in Status}
StatusName = Literal[
    "queued",
    "sent",
    "handed_over",
    "provider_accepted",
    "delivered",
    "read",
    "provider_delivered",
    "provider_read",
    "expired",
    "cancelled",
    "dead",
]


class Kind(IntEnum):
    """What a seq stands for. Messages and statuses are rows of one table; a gap is a row of its own."""

    MESSAGE = 0
    STATUS = 1
    GAP = 2


class Chain(IntEnum):
    """Whether a message has a fallback chain, and whether it was walked (it is walked once, PROTOCOL 6)."""

    NONE = 0
    READY = 1
    WALKED = 2


TRACE = r"^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z"

BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z"

Seconds = Annotated[float, Meta(gt=0, le=MAX_TTL)]
ChannelName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]


class Publish(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A message on its way in (PROTOCOL 2): the same JSON over HTTP and in a `pub` frame."""

    to: Annotated[str, Meta(description="address of the client that must get it", max_length=80)]
    body: Annotated[Raw | UnsetType, Meta(description="any JSON value")] = UNSET
    type: (
        Annotated[str, Meta(max_length=MAX_TYPE, description="the application's own name for it")] | None
    ) = None
    priority: Annotated[Priority, Meta(description="what is queued leaves in this order")] = "normal"
    ttl: Annotated[Seconds, Meta(description="seconds until it is worthless: then expired")] = DEFAULT_TTL
    deadline: (
        Annotated[
            Seconds,
            Meta(description="seconds within which the client must have acked it; then its chain starts"),
        ]
        | None
    ) = None
    deliver_at: (
        Annotated[
            int, Meta(ge=0, le=1 << 53, description="Unix ms before which nothing is sent or handed over")
        ]
        | None
    ) = None
    fallback: (
        Annotated[
            list[ChannelName], Meta(max_length=MAX_CHAIN, description="channels tried in order; [] = none")
        ]
        | None
    ) = None
    key: (
        Annotated[str, Meta(min_length=1, max_length=MAX_KEY, description="deduplication key, per publisher")]
        | None
    ) = None
    collapse: (
        Annotated[
            str, Meta(min_length=1, max_length=MAX_KEY, description="replaces the earlier one never bound")
        ]
        | None
    ) = None
    notify: (
        Annotated[list[StatusName], Meta(max_length=11, description="statuses to report to the publisher")]
        | None
    ) = None
    meta: Annotated[dict[str, str], Meta(description="handed through untouched, at most 2 KiB")] | None = None
    trace: (
        Annotated[str, Meta(pattern=TRACE, description="W3C traceparent; made here where absent")] | None
    ) = None
    reply_to: (
        Annotated[str, Meta(max_length=64, description="client id that a reply to this is addressed to")]
        | None
    ) = None
    correlation: (
        Annotated[
            str,
            Meta(
                max_length=MAX_CORRELATION,
                pattern=BASE64,
                description="base64 of at most 128 bytes that a reply repeats (MQTT 5 correlation data)",
            ),
        ]
        | None
    ) = None
    template: (
        Annotated[
            str,
            Meta(max_length=128, description="template, `name` or `name@version`; the body is its values"),
        ]
        | None
    ) = None


class Extra(Struct, omit_defaults=True):
    """What only some messages have. Stored as one JSON blob; never changed after acceptance."""

    type: str | None = None
    meta: dict[str, str] | None = None
    trace: str | None = None
    collapse: str | None = None
    notify: list[str] | None = None
    fallback: list[str] | None = None
    deadline: int | None = None  # Unix ms at which its own deadline passes
    priority_claimed: bool = False
    replay_of: str | None = None
    reply_to: str | None = None
    correlation: str | None = None
    template: str | None = None  # name@version, of which the body was made
    possible_dup: str | None = None  # the id that an MQTT device's repeated PUBLISH got at first, perhaps


class Item:
    """One message, status report or gap while memory holds it.

    `body` is JSON bytes, or None where only the store has it. `seq` and `eno` (the session's epoch number) are
    0 until bound. Times are Unix ms; `due` 0 = nothing to look at before its turn.
    """

    __slots__ = (
        "at", "body", "chain", "client", "crashes", "due", "eno", "expire", "hold", "id", "kind", "lane",
        "leaving", "marks", "pid", "sender", "seq", "status", "tries", "via", "why", "written", "x",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        client: str,
        sender: str,
        lane: int,
        at: int,
        expire: int,
        body: bytes | None,
        x: Extra | None = None,
        kind: int = 0,
        chain: int = 0,
    ) -> None:
        self.id = id
        self.client = client
        self.sender = sender
        self.lane = lane
        self.at = at
        self.expire = expire
        self.body = body
        self.x = x
        self.kind = kind
        self.chain = chain
        self.hold = 1
        self.status = 0
        self.due = 0
        self.eno = 0
        self.seq = 0
        self.marks = 0  # how often it may have been written before: shown as `redelivered`
        self.tries = 0  # ack timeouts and nacks, across seqs and epochs (deliver_max)
        self.crashes = 0  # connections that ended uncleanly under it (crash_max)
        self.written = False  # a frame of this connection carried it
        self.pid = 0  # the packet id under which an MQTT device published it at QoS 1
        self.leaving = False  # bound, and a claim or an end of it is being committed
        self.why = ""  # of a gap
        self.via = ""

    def __repr__(self) -> str:
        return f"<Item {self.id} to {self.client} seq {self.seq} hold {self.hold}>"


class Sub(IntEnum):
    """The MQTT subscription that a session's epoch holds (PROTOCOL 4): it makes Session Present and fixes the kind."""

    NONE = 0
    PLAIN = 1
    FRAMED = 2
    PLAIN_0 = 3  # in a session's row only: plain, granted QoS 0


class Missed(Struct):
    """What ended undelivered without a seq of the current epoch (PROTOCOL 3, `welcome.missed`)."""

    expired: int = 0
    superseded: int = 0
    dead: int = 0


class SessionRow(Struct):
    """What the store remembers of a session. Tokens are SHA-256 digests; times Unix ms, 0 = none.

    `sub`: a Sub. `keep`: how long the epoch outlives its last connection, in ms; -1: `session.expiry`.
    """

    client: str
    epoch: str
    eno: int
    next: int = 1
    token_presented: bytes | None = None
    token_issued: bytes | None = None
    away_since: int = 0
    created: int = 0
    seen: int = 0
    missed: Missed = msgspec.field(default_factory=Missed)
    sub: int = 0
    keep: int = -1


class Phase(IntEnum):
    """Where a handed-over message stands in its chain."""

    WAIT = 0  # an attempt is to be made at `due`
    OPEN = 1  # an attempt is committed and its outcome unknown
    PARKED = 2  # given back to the client; a later hand-over goes on from here
    RECEIPT = 3  # a provider has it and will report: until `due` nothing else is tried


class ChainRow(Struct):
    """A message that its chain owns; deleted when the chain ends. `due`: Unix ms of the next attempt, or (RECEIPT) of
    the end of waiting.
    """

    id: int
    client: str
    channels: list[str]
    why: str  # offline | deadline | deliver_max | replay
    due: int
    phase: int = 0
    step: int = 0
    attempt: int = 0  # attempts made at this step
    total: int = 0  # attempts made in all
    burnt: bool = (
        False  # one attempt was ambiguous, or failed only after a provider had it: never handed back
    )
    lane: int = NORMAL  # the message's
    since: int = 0  # Unix ms: when its turn came at this step; 0: nobody knows

    @property
    def channel(self) -> str:
        return self.channels[self.step]

    @property
    def stand(self) -> tuple[int, int, int]:
        """What tells two states of the same row apart (Change.stood)."""
        return self.phase, self.step, self.total
