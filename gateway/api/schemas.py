"""The shapes of what the API takes and gives. `/openapi.json` is made from them, and answers are encoded from them.

Times are Unix milliseconds, durations seconds. What takes input refuses unknown fields.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.auth.tokens import Grants
from gateway.model import CLIENT_ID, MAX_TTL, STATUS_NAMES, ChannelName, Priority, StatusName
from gateway.records import ClientRecord
from gateway.topics import MqttTopics

MAX_PAGE = 500

ClientId = Annotated[str, Meta(pattern=rf"^{CLIENT_ID}\Z", description="a client id")]
# 63 bits: the first of the 13 characters is at most 7; Crockford reads o as 0, i and l as 1, and either case
MessageId = Annotated[
    str, Meta(pattern=r"^[0-7oOiIlL][0-9a-tv-zA-TV-Z]{12}\Z", description="a message id, 13 characters")
]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="how many at most")]
Cursor = Annotated[MessageId, Meta(description="`cursor` of the page before")]
Why = Annotated[str, Meta(max_length=64, description="the reason, exactly, such as `unacked`")]
Replayed = Literal["true", "false"]
_one_status = "|".join(STATUS_NAMES)


class Problem(Struct, omit_defaults=True, kw_only=True):
    """What went wrong (RFC 9457). `code` is stable; docs/errors.md lists every one."""

    title: str
    status: int
    code: str
    detail: str
    request_id: Annotated[str, Meta(description="also in the header X-Request-Id and, for a 500, in the log")]
    field: Annotated[str, Meta(description="`$.…` in the body, else a parameter or header")] | UnsetType = (
        UNSET
    )
    retry_after: Annotated[float, Meta(description="seconds")] | UnsetType = UNSET


class Refusal(Struct, omit_defaults=True, kw_only=True):
    """One message of a list that was not accepted."""

    code: str
    status: Annotated[int, Meta(description="the HTTP status it would have had alone")]
    detail: str
    field: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class Accepted(Struct):
    """A message that is durable. `dup`: it was accepted before, under this id."""

    id: MessageId
    status: StatusName
    dup: bool


class LineAccepted(Struct, omit_defaults=True):
    """The answer to a line of an NDJSON stream that was accepted."""

    line: int
    id: MessageId
    dup: bool = False


class LineRefused(Refusal, kw_only=True, omit_defaults=True):
    """The answer to a line that was not accepted. The last answer of a stream that is ended has `last_line` instead."""

    line: int | UnsetType = UNSET
    last_line: (
        Annotated[int, Meta(description="the last line that was taken; what follows it was not")] | UnsetType
    ) = UNSET


class Step(Struct, omit_defaults=True, kw_only=True):
    """One line of a timeline: a status, an attempt, a decision."""

    at: int
    event: str
    via: str = ""
    why: str = ""
    data: dict[str, Any] | None = None


class ChainOut(Struct, omit_defaults=True, kw_only=True):
    """Where a message stands in its fallback chain."""

    channels: list[str]
    channel: Annotated[str, Meta(description="the one whose turn it is")]
    state: Annotated[
        Literal["waiting", "open", "parked", "receipt"],
        Meta(description="receipt: a provider has it and will report"),
    ]
    why: Annotated[str, Meta(description="why the chain began")]
    attempts: int
    next_attempt_at: int | UnsetType = UNSET
    receipt_until: (
        Annotated[int, Meta(description="when it goes on, or has ended, without one")] | UnsetType
    ) = UNSET
    ambiguous: Annotated[bool, Meta(description="an attempt may have arrived: never handed back")] = False


class Message(Struct, omit_defaults=True, kw_only=True):
    """A message, where it stands, and how it came there. Lists leave out `body` and `timeline`."""

    id: MessageId
    to: str
    sender: Annotated[str, Meta(description="client id, or `api:` and the id of a key")] = msgspec.field(
        name="from", default=""
    )
    at: Annotated[int, Meta(description="when it was accepted")]
    status: StatusName
    status_at: int
    priority: Priority
    expires_at: int
    trace: str
    body: Annotated[Raw | UnsetType, Meta(description="any JSON value; absent once it is forgotten")] = UNSET
    type: str | None = None
    meta: dict[str, str] | None = None
    deadline_at: int | None = None
    not_before: Annotated[int, Meta(description="nothing is sent before it")] | None = None
    fallback: list[str] | None = None
    notify: list[str] | None = None
    collapse: str | None = None
    reply_to: Annotated[str, Meta(description="client id that a reply is addressed to")] | None = None
    correlation: Annotated[str, Meta(description="base64; a reply repeats it")] | None = None
    possible_dup: (
        Annotated[
            MessageId, Meta(description="an MQTT device sent it again, perhaps: the id it got at first")
        ]
        | None
    ) = None
    via: Annotated[str, Meta(description="`ws`, `mqtt`, or the channel that delivered it")] = ""
    why: Annotated[str, Meta(description="why it ended")] = ""
    seq: int = 0
    redelivered: int = 0
    unacked: Annotated[int, Meta(description="ack timeouts and nacks")] = 0
    crashes: Annotated[int, Meta(description="connections that ended under it")] = 0
    replay_of: MessageId | None = None
    replayed_as: MessageId | None = None
    chain: ChainOut | None = None
    timeline: list[Step] = msgspec.field(default_factory=list)


class MessagePage(Struct, omit_defaults=True):
    messages: list[Message]
    cursor: Annotated[MessageId, Meta(description="for the next page; absent on the last")] | UnsetType = (
        UNSET
    )


class DeadLetterPage(Struct, omit_defaults=True):
    dead_letters: list[Message]
    cursor: Annotated[MessageId, Meta(description="for the next page; absent on the last")] | UnsetType = (
        UNSET
    )


class MessagesQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    to: Annotated[ClientId, Meta(description="only messages to this client")] | None = None
    status: (
        Annotated[
            str,
            Meta(
                pattern=rf"^({_one_status})(,({_one_status}))*\Z",
                description="one status, or several with commas",
            ),
        ]
        | None
    ) = None
    limit: Limit = 50
    cursor: Cursor | None = None


class DeadLettersQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    to: Annotated[ClientId, Meta(description="only messages to this client")] | None = None
    why: Why | None = None
    replayed: Annotated[Replayed, Meta(description="those that were replayed already, too")] = "false"
    limit: Limit = 50
    cursor: Cursor | None = None


class ClientsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = 50
    after: Annotated[ClientId, Meta(description="`after` of the page before")] | None = None


class EventsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    to: Annotated[ClientId, Meta(description="only messages to this client")] | None = None


class Cancelled(Struct):
    id: MessageId
    status: Literal["cancelled"] = "cancelled"


class SessionOut(Struct, omit_defaults=True, kw_only=True):
    """What the gateway remembers of a client between its connections."""

    epoch: str
    next: Annotated[int, Meta(description="the first seq not yet bound")]
    in_flight: Annotated[int, Meta(description="bound and unsettled")]
    window: int | None = None


class ClientOut(Struct, omit_defaults=True, kw_only=True):
    """A client: presence, session, queue, record."""

    client: ClientId
    status: Literal["online", "suspect", "offline", "unknown"]
    queued: Annotated[int, Meta(description="messages that wait, without those in flight")]
    record: ClientRecord
    last_proof: Annotated[int, Meta(description="when it was last heard of")] | None = None
    away_since: int | None = None
    offline_at: Annotated[int, Meta(description="when its messages are handed over")] | None = None
    handed_over: Annotated[bool, Meta(description="its offline deadline has passed")] = False
    via: str | None = None
    session: SessionOut | None = None
    not_before: Annotated[int, Meta(description="Unix seconds; tokens issued earlier are refused")] = 0
    banned_until: int = 0


class ClientPage(Struct, omit_defaults=True):
    clients: list[ClientOut]
    after: Annotated[ClientId, Meta(description="for the next page; absent on the last")] | UnsetType = UNSET


class ClientBody(ClientRecord, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What an administrator says about a client. It replaces the record whole."""


class TokenBody(Struct, forbid_unknown_fields=True, kw_only=True):
    ttl: Annotated[float, Meta(gt=0, le=MAX_TTL, description="seconds")] = 3600.0
    claims: Grants = msgspec.field(default_factory=Grants)


class WebsocketSettings(Struct):
    path: str = "/ws"


class MqttSettings(Struct, kw_only=True):
    """How the client connects to the gateway's own MQTT endpoint; the password is the token."""

    client_id: ClientId
    username: ClientId
    part: Annotated[str, Meta(description="its share of the topics `u/{part}/…`")]
    plain: Annotated[MqttTopics, Meta(description="for stock clients: payloads are bodies")]
    framed: Annotated[MqttTopics, Meta(description="for clients that speak in frames")]
    path: Annotated[str, Meta(description="on the WebSocket listener")] = "/mqtt"


class TokenOut(Struct, kw_only=True):
    """A client's token and where to use it."""

    token: str
    expires: int
    client: ClientId
    websocket: WebsocketSettings
    mqtt: Annotated[MqttSettings | None, Meta(description="null: the endpoint is off")]


class DisconnectBody(Struct, forbid_unknown_fields=True, kw_only=True):
    ban: (
        Annotated[float, Meta(gt=0, le=MAX_TTL, description="seconds for which it may not come back")] | None
    ) = None


class DisconnectOut(Struct):
    disconnected: Annotated[bool, Meta(description="it was connected")]


class ReplayBody(Struct, forbid_unknown_fields=True, kw_only=True):
    channel: Annotated[ChannelName, Meta(description="a channel; to the client where absent")] | None = None


class ReplayManyBody(ReplayBody, forbid_unknown_fields=True, kw_only=True):
    """Which dead letters to replay: the newest `limit` that fit, oldest of them first."""

    to: ClientId | None = None
    why: Why | None = None
    limit: Limit = 100


class Replay(Struct):
    """A dead letter `replay_of`, accepted anew as `id`."""

    id: MessageId
    replay_of: MessageId


class ReplayResult(Struct, omit_defaults=True, kw_only=True):
    """What became of a dead letter: accepted anew as `id`, or refused with `code`, `status`, `detail`, `field`."""

    replay_of: MessageId
    id: MessageId | UnsetType = UNSET
    code: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    field: str | UnsetType = UNSET


class Replays(Struct):
    results: list[ReplayResult]
    more: Annotated[bool, Meta(description="there are more that fit")]


class Deleted(Struct):
    deleted: int


Breaker = Literal["closed", "half_open", "open"]


class Failure(Struct, kw_only=True):
    """Why an attempt failed. `blame`: message, recipient, credential, account, or empty; `status`: of HTTP, 0: none."""

    at: int
    outcome: Literal["retry", "refused", "ambiguous"]
    reason: str
    blame: str
    code: Annotated[str, Meta(description="the provider's own")]
    status: int


class ProxyOut(Struct):
    proxy: Annotated[str, Meta(description="host and port")]
    breaker: Breaker
    failed: Annotated[int, Meta(description="tunnels that it did not open, since the start")]


class ChannelOut(Struct, kw_only=True):
    """How a channel is. Attempts are counted by outcome."""

    name: str
    kind: str
    breaker: Annotated[
        Breaker, Meta(description="open: nothing goes there; half_open: one attempt may try it")
    ]
    room: Annotated[int, Meta(description="attempts that it takes now")]
    in_flight: int
    waiting: Annotated[int, Meta(description="messages that wait for an attempt")]
    paused_until: Annotated[int | None, Meta(description="the provider asked for a pause")]
    since_start: dict[str, int]
    last_hour: dict[str, int]
    failures: Annotated[list[Failure], Meta(description="the last ten, newest first")]
    proxies: list[ProxyOut]


class ChannelTestBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """One attempt, to see that a channel works."""

    address: Annotated[
        str, Meta(max_length=4096, description="whom it goes to, where the channel needs one")
    ] = ""
    body: Annotated[Raw | UnsetType, Meta(description="as of a message; absent: a short text")] = UNSET


class ChannelTested(Struct, omit_defaults=True, kw_only=True):
    """What the provider made of it."""

    outcome: Literal["accepted", "delivered", "retry", "refused", "ambiguous", "held"]
    reason: str
    ms: Annotated[int, Meta(description="how long it took")]
    blame: str = ""
    code: str = ""
    status: Annotated[int, Meta(description="of HTTP")] = 0
    provider_id: str = ""


class Channels(Struct):
    channels: list[ChannelOut]


class Ok(Struct):
    status: Literal["ok", "ready"]
