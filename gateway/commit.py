"""What one commit carries: the work that the hub hands to the store, and the results that the store writes into it.

Rows in bulk (`Commit.appends`, `binds`, `settles`) are the hot path. Everything rarer is an operation of its own:
`Change`, a compare-and-set on one message with its consequences, and the few that concern a session or a client whole.
Reads (gateway/reads.py) stand behind the commit, so that they see everything that was submitted before them.
"""

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from gateway.commit_people import Audit, DropSuppressions, PutSuppressions, PutTemplate
from gateway.errors import GatewayError
from gateway.model import ChainRow, Item, Missed, SessionRow, Status
from gateway.reads import Event as Event  # noqa: PLC0414 - its name is known here
from gateway.reads import Read
from gateway.records import ClientRow
from gateway.templates import TemplateRow


class Gap(Struct, frozen=True):
    """A bound seq whose message can no longer be delivered under it."""

    client: str
    eno: int
    seq: int
    id: int
    why: str  # expired | superseded | dead
    via: str = ""


class KeyClaim(Struct, frozen=True):
    """A publish with a deduplication key. `refused`: over a quota; stored only if it turns out to be a
    repetition.
    """

    publisher: str
    key: str
    digest: bytes
    at: int
    since: int  # a claim made before this (Unix ms) is forgotten
    refused: bool = False
    field: str = "$"  # where the message stands in its request, for an error


class Twin(Struct, frozen=True):
    """What became of a keyed publish that was not stored: a repetition, a conflict, or over its quota."""

    id: int = 0  # of the first; 0 = there is none and the quota refused it
    same: bool = True
    status: int = 0


class Change:
    """A compare-and-set on one message, and all that must become true with it.

    Applies only if the row's hold is in `holds`, its status is below `below` and did not end as PROVIDER_ACCEPTED
    (unless `ended`), and, where `free` is set, its chain row is in phase WAIT, not burnt and was claimed for `offline`;
    where `stood` is set, its chain row stands exactly so (ChainRow.stand); where `unbound` is set, it was never sent;
    where `was` is not -1, its status is exactly that (whatever `below` says). Where it does not apply, nothing of it
    does and `ok` stays False. `set` names columns: hold, status, due, seq, eno, marks, tries, crashes, chain, sent_at,
    ended_at, via, why, replayed. `unsettled` tells whether its seq was: then alone `gap` is written.
    """

    __slots__ = (
        "below", "chain", "claim", "drop_chain", "ended", "event", "free", "gap", "holds", "id", "missed", "ok",
        "report", "set", "stood", "then", "unbound", "unsettled", "was",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        holds: tuple[int, ...],
        set: dict[str, int | str | None],  # noqa: A002 - it is what SQL calls it
        *,
        event: Event | None = None,
        gap: Gap | None = None,
        claim: ChainRow | None = None,
        chain: ChainRow | None = None,
        drop_chain: bool = False,
        free: bool = False,
        ended: bool = False,
        missed: tuple[str, str] | None = None,
        report: Item | None = None,
        unbound: bool = False,
        was: int = -1,
        below: int = int(Status.DELIVERED),
        stood: tuple[int, int, int] | None = None,
        then: Callable[["Change"], None] | None = None,
    ) -> None:
        self.id = id
        self.holds = holds
        self.set = set
        self.event = event
        self.gap = gap  # written if the hold was BOUND or CLAIMED
        # inserted; of a row that is there (parked) phase, why and since are overwritten, and due by a later one
        self.claim = claim
        self.chain = chain  # written whole
        self.drop_chain = drop_chain
        self.free = free
        self.ended = ended
        # (client, field of Missed): plus one, unless the row has a seq of the client's current epoch
        self.missed = missed
        self.report = report  # a WAITING row (kind STATUS) appended if the change applies
        self.unbound = unbound
        self.was = was
        self.below = below
        self.stood = stood
        self.then = then
        self.ok = False
        self.unsettled = False  # result, where it applied: the hold was BOUND or CLAIMED


class PutSession:
    """Write a session's row; its counts of what was missed belong to the store and are not taken from
    `row.missed`.

    At a welcome `proven` is a bool: True = the last welcome is known to have arrived, so what it told is
    subtracted first. What is left is remembered as told (in columns beside the counts) and handed back in
    `missed`. None: not a welcome; counts and what was told stay as they are.
    """

    __slots__ = ("missed", "proven", "row", "then")

    def __init__(
        self, row: SessionRow, proven: bool | None = None, then: Callable[["PutSession"], None] | None = None
    ) -> None:
        self.row = row
        self.proven = proven
        self.then = then
        self.missed = Missed()  # result


class Unbind:
    """An epoch has ended. Of `ids`: BOUND becomes WAITING (marks at least 1; `due` becomes `expire` where it
    was 0), CLAIMED becomes NONE. Every gap of the client goes and counts in `missed` under its `why`. Stands
    before the PutSession of the new epoch.
    """

    __slots__ = ("client", "ids", "then")

    def __init__(self, client: str, ids: list[int], then: Callable[["Unbind"], None] | None = None) -> None:
        self.client = client
        self.ids = ids  # the messages of its window, bound or claimed
        self.then = then


class Reclaim:
    """A client is being welcomed: everything that its chains can give back, they do (PROTOCOL 6).

    Free rows (phase WAIT, not burnt, claimed for `offline`) become PARKED, so that a later hand-over goes on
    where they stood; their message, if CLAIMED, is BOUND again under its old seq, else WAITING (`due` becomes
    `expire`), with status SENT or QUEUED by whether it ever had a seq. Of the others a CLAIMED message gets a
    gap (`superseded`, via its channel) and hold NONE; an unbound one is left alone.
    """

    __slots__ = ("at", "back", "client", "gaps", "then", "waiting")

    def __init__(self, client: str, at: int, then: Callable[["Reclaim"], None] | None = None) -> None:
        self.client = client
        self.at = at
        self.then = then
        self.back: list[int] = []  # result: BOUND again
        self.waiting = 0  # result: how many wait again
        self.gaps: list[Gap] = []  # result: committed gaps


class SettleGaps:
    """Gaps of a client that were acked."""

    __slots__ = ("client", "seqs", "then")

    def __init__(self, client: str, seqs: list[int]) -> None:
        self.client = client
        self.seqs = seqs
        self.then = None


class PutClient:
    """Write a client record."""

    __slots__ = ("row", "then")

    def __init__(self, row: ClientRow, then: Callable[["PutClient"], None] | None = None) -> None:
        self.row = row
        self.then = then


class Forget:
    """Delete everything about a client: session, messages to it (each ends as cancelled if it had not ended,
    then its body, sender and extra go; a tombstone of id, times and status stays), gaps, chains, keys it
    claimed, record. `not_before` stays: tokens issued earlier are refused.
    """

    __slots__ = ("at", "client", "ended", "not_before", "then")

    def __init__(
        self, client: str, at: int, not_before: int, then: Callable[["Forget"], None] | None = None
    ) -> None:
        self.client = client
        self.at = at
        self.not_before = not_before
        self.then = then
        self.ended: list[int] = []  # result: what had not ended before


class Note:
    """Timeline lines that no compare-and-set depends on."""

    __slots__ = ("event", "then")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.then = None


class DropDead:
    """Delete dead letters (all when `ids` is None): the rows go, with body and timeline."""

    __slots__ = ("count", "ids", "then")

    def __init__(self, ids: list[int] | None, then: Callable[["DropDead"], None] | None = None) -> None:
        self.ids = ids
        self.then = then
        self.count = 0


class Sweep:
    """Purge up to `limit` rows that ended before `ended_before` (dead letters: `dead_before`), or the oldest
    ended ones while there are more than `max_rows`, and keys claimed before `keys_before`. Never a row with
    an unsettled seq.
    """

    __slots__ = ("dead_before", "ended_before", "keys_before", "limit", "max_rows", "more", "purged", "then")

    def __init__(
        self,
        ended_before: int,
        dead_before: int,
        keys_before: int,
        max_rows: int,
        limit: int,
        then: Callable[["Sweep"], None] | None = None,
    ) -> None:
        self.ended_before = ended_before
        self.dead_before = dead_before
        self.keys_before = keys_before
        self.max_rows = max_rows
        self.limit = limit
        self.then = then
        self.purged = 0  # result
        self.more = False  # result: this slice did not reach the end


Op = (
    Change
    | PutSession
    | Unbind
    | Reclaim
    | SettleGaps
    | PutClient
    | PutTemplate
    | PutSuppressions
    | DropSuppressions
    | Audit
    | Forget
    | Note
    | DropDead
    | Sweep
)


class Sink(Protocol):
    """Who asked for a publish. Called on the loop, once for each publish, after the commit or its failure."""

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """The message is durable, or (`dup`) is the repetition of `id`, which stands at `status`."""

    def refused(self, ref: Any, error: GatewayError) -> None: ...


class RunSink(Sink, Protocol):
    """Who asked for many at once (hub/bare.py)."""

    def stored_run(self, refs: list[Any], items: list[Item]) -> None:
        """These messages are durable, none of them a repetition."""


# of a message that has nothing else: address, body (bytes that may be JSON), MQTT packet id (0: none), ref
BareMessage = tuple[str, bytes, int, Any]


class Commit:
    """What one commit carries. The hub fills it, the store carries it out and writes results into it.

    1. `appends`: new rows. `item.hold` says how: WAITING, LATER, or BOUND: then the store gives it the session's next
       seq, in order, writing `item.seq` (`item.eno` is set). `keys[i]` is the KeyClaim of append i, `twins[i]` the
       result where it was not stored (no seq is used). An append whose `x.collapse` is set first ends (CANCELLED,
       why `collapsed`) the earlier row of the same client, sender and collapse, if that waits and was never bound:
       `collapsed` gets (index, id), and `missed.superseded` of the client counts one. `runs` is the hub's: ranges of
       appends whose sink is one RunSink.
    2. `binds`: (client, eno, items): those of `items` that still wait get the next seqs, in order, and become BOUND
       (status SENT if it was QUEUED); the item gets `seq`, `eno`, hold BOUND and status; one that no longer waits
       keeps hold WAITING and seq 0.
    3. `settles`: (status, at, via, ids): a BOUND or CLAIMED row becomes NONE with due 0 and, unless it has ended or a
       provider has it, that status; it has ended in any case, and its chain row is deleted (what an open attempt still
       brings goes to the timeline only). `settled` is the hub's.
    4. `ops`, in order.
    5. `reads`, after the commit, in order.

    `joins` is the hub's: how many clients are welcomed after it.
    """

    __slots__ = (
        "appends", "at", "binds", "collapsed", "failed", "joins", "keys", "ops", "reads", "refs", "runs", "settled",
        "settles", "sinks", "twins",
    )  # fmt: skip

    def __init__(self) -> None:
        self.appends: list[Item] = []
        self.sinks: list[Sink | None] = []  # beside appends
        self.refs: list[Any] = []  # beside appends
        self.runs: list[tuple[int, int, RunSink]] = []
        self.keys: dict[int, KeyClaim] = {}
        self.twins: dict[int, Twin] = {}
        self.collapsed: list[tuple[int, int]] = []
        self.binds: list[tuple[str, int, list[Item]]] = []
        self.settles: list[tuple[int, int, str, list[int]]] = []
        self.settled: list[
            tuple[int, str, list[Item]]
        ] = []  # messages that were not delivered before: at, via
        self.ops: list[Op] = []
        self.reads: list[Read] = []
        self.failed: list[Callable[[GatewayError], None]] = []  # told when the commit fails
        self.at = 0  # the hub's clock at submission
        self.joins = 0

    def __bool__(self) -> bool:
        return bool(self.appends or self.binds or self.settles or self.ops or self.reads)

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for what it brings: nobody does for settles alone."""
        return bool(self.appends or self.binds or self.ops or self.reads)


class Recovered(Struct):
    """What the store knows when it opens. Window items come without bodies (but with `x`), in seq order, marks
    at least 1 where bound.
    """

    sessions: list[SessionRow]
    clients: list[ClientRow]
    templates: list[TemplateRow]
    suppressions: int  # how many rows there are
    windows: dict[
        str, list[Item]
    ]  # client -> BOUND and CLAIMED items and gaps (kind GAP) of the current epoch, by seq
    waiting: dict[str, int]  # client -> rows WAITING or LATER
    open_chains: list[ChainRow]  # attempts found open
    channels: dict[str, int]  # channel -> earliest due of a waiting chain row
    next_rest: int  # earliest due of a chain row in phase RECEIPT, 0 = none
    highest_id: int
    next_due: int
    rows: int
    trace_root: str  # 16 hex digits, made with the database


class MessageView(Struct, omit_defaults=True):
    """A message as the store tells it to the API."""

    item: Item
    sent_at: int
    ended_at: int
    replayed: int
    events: list[Event]
    chain_row: ChainRow | None = None
