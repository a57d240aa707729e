"""What the API answers, as far as the commands read it. Tolerant: what is unknown is passed over."""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType, field


class Problem(Struct):
    """A problem document (RFC 9457)."""

    code: str
    status: int
    detail: str = ""
    field: str = ""
    retry_after: float | None = None


class Accepted(Struct):
    id: str
    status: str
    dup: bool = False


class Step(Struct):
    """One line of a timeline. `at`: Unix ms."""

    at: int
    event: str
    via: str = ""
    why: str = ""
    data: dict[str, Any] | None = None


class ChainView(Struct):
    channels: list[str]
    channel: str
    state: str
    attempts: int = 0
    next_attempt_at: int | None = None


class Message(Struct):
    """A message and where it stands. Times are Unix ms."""

    id: str
    to: str
    at: int
    status: str
    status_at: int
    sender: str = field(name="from", default="")
    priority: str = "normal"
    expires_at: int = 0
    body: Any | UnsetType = UNSET
    type: str | None = None
    meta: dict[str, str] | None = None
    not_before: int | None = None
    deadline_at: int | None = None
    fallback: list[str] | None = None
    via: str = ""
    why: str = ""
    seq: int = 0
    redelivered: int = 0
    replay_of: str | None = None
    replayed_as: str | None = None
    trace: str = ""
    chain: ChainView | None = None
    timeline: list[Step] = []


class SessionView(Struct):
    epoch: str
    next: int
    in_flight: int


class ChannelView(Struct):
    """How a channel is. `paused_until`: Unix ms."""

    name: str
    kind: str
    breaker: str
    in_flight: int
    waiting: int
    last_hour: dict[str, int]
    paused_until: int | None = None


class ChannelList(Struct):
    channels: list[ChannelView]


class ChannelTested(Struct):
    """What became of a test of a channel."""

    outcome: str
    reason: str
    ms: int
    blame: str = ""


class ClientView(Struct):
    """A client: presence, session, queue. Times are Unix ms, `not_before` Unix seconds."""

    client: str
    status: str
    queued: int
    record: dict[str, Any] = {}
    last_proof: int | None = None
    away_since: int | None = None
    via: str | None = None
    session: SessionView | None = None
    not_before: int = 0
    banned_until: int = 0


class Page(Struct):
    """A page of a list: its rows as they came, and where the next one begins."""

    messages: list[Raw] = []
    dead_letters: list[Raw] = []
    clients: list[Raw] = []
    cursor: str | None = None
    after: str | None = None


class Replay(Struct):
    """A dead letter that was accepted anew as `id`, or was not: then `code` and `detail` say why."""

    replay_of: str
    id: str = ""
    code: str = ""
    detail: str = ""


class Replays(Struct):
    results: list[Raw]
    more: bool = False
