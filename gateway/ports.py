"""What the rooms ask of each other: the store, a connection, the scheduler, the outbound side, the observer.

The store works through one object, `Commit`: the hub fills one while another is being written. Operations are carried
out in the order of its fields, whole commits in the order of their submission, one at a time.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Struct

from gateway.commit import Commit, MessageView, Recovered
from gateway.errors import GatewayError
from gateway.model import Item
from gateway.records import AuditEntry, Suppression


class Store(Protocol):
    """Durable state. `open`, `submit` and `close` belong to the hub's thread; the queries read committed state
    only.
    """

    name: str

    def open(self) -> Recovered:
        """Open, migrate, check, and tell what is there. Blocks. Raises StoreFailed, or ConfigError where
        another process has it.
        """

    def submit(self, commit: Commit, done: Callable[[Commit, Exception | None], None]) -> None:
        """Carry out a commit. `done` is called on the hub's thread, in the order of submission. After a failure
        every commit behind it fails too (StoreFailed, definite) until `open` has succeeded again.
        """

    def close(self) -> None:
        """Flush what was submitted and let go of the files."""

    async def message(self, id: int) -> MessageView | None: ...

    async def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> list[MessageView]:
        """Newest first, ids below `before`, without events and bodies."""

    async def dead_letters(
        self, to: str | None, why: str | None, before: int, limit: int, replayed: bool
    ) -> list[MessageView]:
        """Dead letters, newest first, whole. `replayed`: those already replayed too."""

    async def suppressions(self, after: tuple[str, str, str], limit: int) -> list[Suppression]:
        """In the order of (address, channel, category), behind `after`."""

    async def suppressions_of(self, address: str) -> list[Suppression]: ...

    async def audit(self, before: int, limit: int) -> list[AuditEntry]:
        """The audit log, newest first, ids below `before`."""

    async def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None: ...

    async def uplinks(
        self, clients: list[str], since: int, last: int
    ) -> dict[str, dict[int, tuple[int, bytes]]]:
        """Of each client the latest message that it published under each of its `last` packet ids, of those accepted
        since (Unix ms): packet id -> (id, body). Looks through the rows; for the rare PUBLISH with DUP.
        """

    async def waiting(self) -> dict[str, int]:
        """How many chain rows wait for an attempt, by channel."""

    def figures(self) -> dict[str, float]:
        """Plain numbers for metrics: rows, bytes, commits, commit seconds, wal bytes."""


class Connection(Protocol):
    """One live connection, as the hub sees it. It buffers what it is handed and writes once, in `flush`."""

    via: str  # ws | mqtt
    door: str  # websocket | mqtt | broker: whose limit of connections it counts on
    sub: int  # model.Sub: the MQTT subscription that its session's row is to hold
    writable: bool  # False: the peer does not read; deliveries wait
    session: Any  # the hub's own handle, None until welcomed

    @property
    def client(self) -> str:
        """Who it is; "" until that is known."""

    def deliver(self, items: list[Item]) -> None:
        """Messages, gaps and statuses in seq order, to be written when `flush` is called; it asks for that. The list is
        the connection's from now on. A body that was written may be dropped: the store has it.
        """

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None: ...

    def refused(self, ref: Any, error: GatewayError) -> None: ...

    def error(self, error: GatewayError) -> None:
        """An `err` about the connection."""

    def welcome(self, fields: dict[str, Any]) -> None: ...

    def goaway(self, low: float, high: float, why: str) -> None: ...

    def flush(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Write what is buffered, then close; `code` is of errors.Close."""


class Attach(Struct, frozen=True, kw_only=True):
    """How a device with a stock MQTT client joins its client's session (PROTOCOL 4, plain)."""

    clean: bool  # begin a new epoch
    window: int  # its Receive Maximum
    qos: int  # granted: 0 settles a message when it is written
    keep: int  # ms that the epoch is to outlive the connection; 0: it ends with it
    live: bool = True  # False: only begin the new epoch; the client stays away


class Handle(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Time and turns of the loop. The simulation has its own."""

    def now(self) -> int:
        """Unix ms, never stepping back."""

    def wall(self) -> float: ...

    def soon(self, call: Callable[[], None]) -> None:
        """At the end of this turn of the loop."""

    def at(self, when: int, call: Callable[[], None]) -> Handle: ...


class Outcome(Struct, frozen=True):
    """What became of one attempt (PROVIDERS).

    `kind`: accepted (the provider has taken it; `receipt`: it will report what follows), delivered, retry (nothing went
    out), refused (`blame`: message, recipient, credential or account), ambiguous (may or may not have gone out); and of
    the dispatcher's own, held (Outbound.send). Of a retry or an ambiguous one only the recipient is ever to blame:
    where its address is the URL that failed.
    `retry_after`: seconds, a floor. `pause`: what else waits so long, whatever the kind: "account", "recipient", or ""
    (nothing). `learnt` of the address: gone, opted_out, moved (to `address`), or "". `code`: the provider's own.
    """

    kind: str
    reason: str
    blame: str = ""
    retry_after: float = 0.0
    provider_id: str = ""
    status: int = 0  # the HTTP status, 0 = none
    code: str = ""
    pause: str = ""
    learnt: str = ""
    address: str = ""
    receipt: bool = False


class Receipt(Struct, frozen=True, kw_only=True):
    """What a callback of a provider reports of one attempt, or of an address.

    `ref`: names the attempt (`ref_of`), as it was handed back; "": it is about an address alone. `status`: accepted,
    delivered, read, failed (the provider has given up) or "" (nothing of the kind). `at`: Unix ms, 0: unknown. `key`:
    the same event has the same one each time it is reported. `learnt` and `address` as in Outcome.
    """

    ref: str = ""
    status: Literal["", "accepted", "delivered", "read", "failed"] = ""
    at: int = 0
    reason: str = ""
    code: str = ""
    blame: str = ""
    key: str = ""
    learnt: str = ""
    address: str = ""


class Reply(Struct, frozen=True):
    """What a callback of a provider says, and the answer to it, once what it reports is durable."""

    receipts: tuple[Receipt, ...] = ()
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"


_ref = re.compile(r"([0-9A-Za-z]{1,32})\.([0-9]{1,6})").fullmatch


def ref_of(text: str) -> tuple[str, int] | None:
    """The message's id and the attempt that a `ref` names (providers: Send.ref); None for what is none."""
    match = _ref(text)
    return (match[1], int(match[2])) if match else None


class Outbound(Protocol):
    """The fallback channels: what they take now, and one attempt at a time."""

    def room(self, channel: str) -> int:
        """How many more attempts the channel takes now. Where that is none for a reason of time,
        `Hub.channel_ready` is called when it may be more.
        """

    def shut(self, channel: str) -> int:
        """For how many ms its circuit breaker lets nothing through; 0: it is closed, or is to be tried."""

    def admit(self, channel: str, address: str) -> int:
        """0: an attempt to this address may be started, and is counted there. Else after how many ms to ask again."""

    def send(
        self, channel: str, item: Item, attempt: int, address: str, done: Callable[[Outcome], None]
    ) -> None:
        """Make one attempt, which is committed already. `done` is called on the loop exactly once. `address`: the
        recipient's at this channel; "" where it has none there. Where the channel has no room after all, the outcome
        is of the kind `held`: no attempt was made, nor should one before `retry_after`.
        """


class Custodian(Protocol):
    """An MQTT broker that takes messages for plain clients behind it into custody (PROTOCOL 4)."""

    def room(self) -> int:
        """How many more messages it takes now; 0 while it is away. `Hub.broker_ready` is called when there is room
        again.
        """

    def publish(self, item: Item, now: int, done: Callable[[bool], None]) -> None:
        """Publish once. `done` is called on the loop exactly once: whether the broker has it (its PUBACK)."""


class Observer(Protocol):
    """Told what happened, for metrics and logs; never in the way."""

    def committed(self, commit: Commit, seconds: float) -> None: ...

    def acked(self, elapsed: list[int]) -> None:
        """Messages were acked, so many ms after their acceptance."""

    def attempt(self, channel: str, kind: str) -> None:
        """An attempt at a channel ended with this outcome."""

    def receipt(self, channel: str, what: str) -> None:
        """A receipt came: its status (`other` for none of these), or unknown, repeated, dropped, forged, unreadable."""

    def learnt(self, channel: str, what: str) -> None:
        """A provider told something lasting of an address: gone, opted_out, moved."""

    def on_their_way(self, items: list[Item], status: int, at: int, via: str) -> None:
        """The same for many that simply go their way: they came to stand at QUEUED, SENT or DELIVERED."""

    def status(self, item: Item, status: int, at: int, via: str, why: str) -> None:
        """A message has a new status, durably."""
