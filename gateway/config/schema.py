"""The tables of the configuration. Each field carries its meaning, unit and bounds: docs/configuration.md shows them.

Durations are seconds, sizes bytes. Secrets are marked, and never appear in a repr, a log line or `bot-gateway check`.
"""

from typing import Annotated, Literal

from gateway.config.channels import Channel
from gateway.config.listeners import Callbacks, Http, Mqtt, Websocket
from gateway.config.table import DAY, KIB, MIB, Table, about
from gateway.model import MAX_CHAIN, MAX_TTL, MAX_TYPE, ChannelName

MAX_WINDOW = 32_767


class Store(Table, frozen=True, kw_only=True):
    """What is kept, and for how long."""

    url: Annotated[str, about("`sqlite`: a file in `data_dir`")] = "sqlite"
    retention: Annotated[
        float, about("how long a message keeps its row after its end", "s", ge=0, le=MAX_TTL)
    ] = DAY
    dead_letter_retention: Annotated[
        float, about("how long a dead letter can be read and replayed", "s", ge=0, le=10 * MAX_TTL)
    ] = 30 * DAY
    max_rows: Annotated[
        int,
        about(
            "rows of messages; above it the oldest that have ended go early, never a pending one",
            "rows",
            ge=1000,
        ),
    ] = 10_000_000


Scope = Literal["publish", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("publish", "read", "admin")
Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]


class ApiKey(Table, frozen=True, kw_only=True):
    """A backend's key, presented as `Authorization: Bearer id.secret`."""

    id: Annotated[str, about("name of the key", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
    secret: Annotated[
        str, about("at least 16 characters; or `secret_sha256`", hide="all", max_length=256)
    ] = ""
    secret_sha256: Annotated[
        str,
        about("SHA-256 of the secret, 64 hexadecimal digits", hide="all", pattern=r"^([0-9a-fA-F]{64})?\Z"),
    ] = ""
    scopes: Annotated[tuple[Scope, ...], about("what it may: `publish`, `read`, `admin`", min_length=1)]


class Issuer(Table, frozen=True, kw_only=True):
    """Somebody else who signs tokens of clients. Exactly one source of keys; a token never chooses it."""

    name: Annotated[str, about("the `iss` claim, exactly", min_length=1, max_length=512)]
    algorithms: Annotated[
        tuple[Algorithm, ...],
        about("accepted algorithms; `HS256` with `secret` and only there", min_length=1),
    ]
    secret: Annotated[str, about("for `HS256`, at least 32 bytes", hide="all")] = ""
    public_key: Annotated[str, about("one public key, PEM")] = ""
    public_key_file: Annotated[str, about("file with one public key, PEM")] = ""
    jwks_file: Annotated[str, about("file with a JSON Web Key Set")] = ""
    jwks_url: Annotated[
        str, about("where the JSON Web Key Set is; https, or http on this machine", hide="query")
    ] = ""
    refresh: Annotated[
        float, about("how old a key set may be before it is read again", "s", ge=1, le=7 * DAY)
    ] = 300.0


class Auth(Table, frozen=True, kw_only=True):
    """Who may connect and who may publish."""

    jwt_secret: Annotated[
        str,
        about(
            "signs the tokens this gateway mints (HS256), at least 32 bytes; made on the first start",
            hide="all",
        ),
    ] = ""
    audience: Annotated[str, about("the `aud` a token must name; empty: none", max_length=512)] = ""
    leeway: Annotated[
        float, about("how far a clock may be off when `nbf` and `iat` are checked", "s", ge=0, le=300)
    ] = 5.0
    api_keys: Annotated[
        tuple[ApiKey, ...],
        about("keys of backends; where there is none, `backend` is made on the first start"),
    ] = ()
    issuers: Annotated[tuple[Issuer, ...], about("others whose tokens are accepted")] = ()


class Session(Table, frozen=True, kw_only=True):
    """What the gateway does for a client between and during its connections."""

    window: Annotated[
        int, about("unacked messages of a client that names no window", "messages", ge=1, le=MAX_WINDOW)
    ] = 64
    ack_wait: Annotated[
        float, about("how long the lowest unsettled seq may wait for its ack at first", "s", ge=0.01, le=3600)
    ] = 10.0
    ack_wait_max: Annotated[float, about("where the doubling of `ack_wait` ends", "s", ge=0.01, le=86400)] = (
        60.0
    )
    deliver_max: Annotated[
        int,
        about(
            "timeouts and nacks of one message until its fallback or the dead letters", "times", ge=1, le=1000
        ),
    ] = 5
    offline_deadline: Annotated[
        float,
        about("how long a client may be away until its messages are handed over", "s", ge=0, le=MAX_TTL),
    ] = 30.0
    heartbeat: Annotated[
        float, about("between pings; silence of 1.75 times this closes 4002", "s", ge=0.05, le=3600)
    ] = 25.0
    expiry: Annotated[
        float, about("how long a session waits for its client: then a new epoch", "s", ge=0.05, le=MAX_TTL)
    ] = 7 * DAY
    crash_max: Annotated[
        int,
        about(
            "connections a message may end as their lowest unsettled: then dead, `poison`",
            "times",
            ge=1,
            le=1000,
        ),
    ] = 20


class Clients(Table, frozen=True, kw_only=True):
    """Who may be addressed."""

    strict: Annotated[
        bool, about("refuse messages to clients that have neither a record nor ever connected")
    ] = False
    max: Annotated[
        int, about("clients the store may know: 429 above it for a new one", "clients", ge=1, le=100_000_000)
    ] = 1_000_000


class Dedup(Table, frozen=True, kw_only=True):
    """Deduplication keys."""

    window: Annotated[float, about("how long a `key` is remembered", "s", ge=0, le=MAX_TTL)] = DAY


class RouteRule(Table, frozen=True, kw_only=True):
    """A fallback chain for some messages. The first rule that fits counts; one that names both needs both."""

    type: Annotated[str, about("the message's `type`, exactly; empty: any", max_length=MAX_TYPE)] = ""
    priority: Annotated[
        Literal["any", "critical", "high", "normal", "low"], about("the message's `priority`")
    ] = "any"
    fallback: Annotated[
        tuple[ChannelName, ...],
        about("channels tried in order; empty: messages that it fits wait", max_length=MAX_CHAIN),
    ]


class Routes(Table, frozen=True, kw_only=True):
    """Fallback chains of messages that name none, and whose clients prefer none."""

    default: Annotated[
        tuple[ChannelName, ...],
        about("channels tried in order where no rule fits; empty: they wait", max_length=MAX_CHAIN),
    ] = ()
    rules: Annotated[tuple[RouteRule, ...], about("what comes before it", max_length=1000)] = ()


class Category(Table, frozen=True, kw_only=True):
    """Messages of one category, by their `type`. What is in none is `general`."""

    types: Annotated[
        tuple[str, ...], about("types of messages, `*` for any characters: `otp`, `login.*`", min_length=1)
    ]
    opt_in: Annotated[bool, about("a client gets none that has not consented")] = False
    always: Annotated[bool, about("quiet hours do not hold it back: security, one-time passwords")] = False


class Limits(Table, frozen=True, kw_only=True):
    """What is bounded beside the listeners. What was accepted stays, whatever limit is met later."""

    max_payload: Annotated[int, about("size of one message: 413 above it", "bytes", ge=256, le=16 * MIB)] = (
        64 * KIB
    )
    max_window: Annotated[
        int, about("window a client can ask for; a larger wish gets this", "messages", ge=1, le=MAX_WINDOW)
    ] = 1024
    max_frame_bytes: Annotated[
        int, about("size of a frame from a client: close 1009", "bytes", ge=KIB, le=256 * MIB)
    ] = MIB
    batch: Annotated[
        int, about("messages in one array or `pub` frame: 413 above it", "messages", ge=1, le=100_000)
    ] = 10_000
    queue_per_client: Annotated[
        int, about("pending messages of one client: 429 `queue_full`", "messages", ge=1, le=10_000_000)
    ] = 100_000
    publish_rate: Annotated[
        float,
        about("messages of one publisher in the long run: 429 `rate_limited`", "per second", ge=0.01, le=1e9),
    ] = 5000.0
    publish_burst: Annotated[
        int, about("messages of one publisher at once", "messages", ge=1, le=1_000_000_000)
    ] = 20_000
    intake_bytes: Annotated[
        int, about("bodies waiting for a commit, together: 503 above it", "bytes", ge=MIB, le=64 * 1024 * MIB)
    ] = 64 * MIB
    ndjson_line_bytes: Annotated[
        int,
        about("one line of an NDJSON stream: refused, the next one is read", "bytes", ge=512, le=64 * MIB),
    ] = 128 * KIB
    ndjson_unread: Annotated[
        int, about("answers an NDJSON sender may leave unread: the stream ends", "lines", ge=1, le=1_000_000)
    ] = 10_000
    sse_clients: Annotated[
        int, about("readers of `/v1/events` at once: 503 above it", "readers", ge=0, le=100_000)
    ] = 100
    sse_ring: Annotated[
        int, about("events kept for `Last-Event-ID`; older: `reset`", "events", ge=1, le=10_000_000)
    ] = 10_000
    head_messages: Annotated[
        int,
        about(
            "queued messages of one session held in memory; the rest stays in the store",
            "messages",
            ge=1,
            le=MAX_WINDOW,
        ),
    ] = 256
    head_bytes: Annotated[int, about("their bodies, a session", "bytes", ge=KIB, le=1024 * MIB)] = MIB
    notify_entries: Annotated[
        int,
        about(
            "status reports kept for one publisher; above it the newest are dropped and counted",
            "entries",
            ge=1,
            le=10_000_000,
        ),
    ] = 100_000


class Log(Table, frozen=True, kw_only=True):
    """Log lines go to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], about("the lowest level written")] = "info"
    format: Annotated[
        Literal["auto", "console", "json"], about("`auto`: `console` on a terminal, else `json`")
    ] = "auto"


class Drain(Table, frozen=True, kw_only=True):
    """Leaving gracefully, on SIGTERM."""

    after: Annotated[tuple[float, float], about("range in which `goaway` asks clients to reconnect", "s")] = (
        0.5,
        5.0,
    )
    timeout: Annotated[
        float, about("until connections that are left are closed with 4000", "s", ge=0, le=3600)
    ] = 10.0


class Config(Table, frozen=True, kw_only=True):
    """Everything that can be configured."""

    data_dir: Annotated[
        str,
        about(
            "folder of the database and the generated secrets; relative to the working folder", min_length=1
        ),
    ] = "data"
    http: Annotated[Http, about("the inner listener")] = Http()
    callbacks: Annotated[Callbacks, about("where providers report")] = Callbacks()
    websocket: Annotated[Websocket, about("the outer listener")] = Websocket()
    mqtt: Annotated[Mqtt, about("the MQTT endpoint")] = Mqtt()
    store: Annotated[Store, about("the store")] = Store()
    auth: Annotated[Auth, about("tokens and keys")] = Auth()
    session: Annotated[Session, about("sessions")] = Session()
    clients: Annotated[Clients, about("clients")] = Clients()
    dedup: Annotated[Dedup, about("deduplication")] = Dedup()
    routes: Annotated[Routes, about("fallback chains")] = Routes()
    categories: Annotated[
        dict[str, Category], about("categories of messages by name; the first that fits counts")
    ] = {}  # noqa: RUF012
    limits: Annotated[Limits, about("limits")] = Limits()
    log: Annotated[Log, about("the log")] = Log()
    drain: Annotated[Drain, about("draining")] = Drain()
    channels: Annotated[dict[str, Channel], about("fallback channels by name")] = {}  # noqa: RUF012 - msgspec copies it
