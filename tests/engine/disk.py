"""A store that is a few dicts, and a ledger of what happened."""

from collections.abc import Callable

from msgspec.structs import replace

from gateway.model import Hold, Item, SessionRow
from tests.engine.support import item

After = Callable[[], None]
Op = Callable[[], After | None]  # on disk; gives what the gateway does when it hears of it


class Row:
    """A message on disk. `marks`: what a reader of the row is told at least."""

    def __init__(self, lane: int, expire: int) -> None:
        self.lane = lane
        self.expire = expire
        self.hold = Hold.WAITING
        self.seq = 0
        self.marks = 0


class Commit:
    def __init__(self) -> None:
        self.appends: list[Item] = []
        self.binds: list[Item] = []
        self.ops: list[Op] = []
        self.reads: list[After] = []

    def __bool__(self) -> bool:
        return bool(self.appends or self.binds or self.ops or self.reads)


class Ledger:
    """What happened, as plainly as it can be kept."""

    def __init__(self) -> None:
        self.bindings: list[int] = []  # the ids of this epoch, by seq
        self.repeated: set[int] = set()  # came to wait a second time: their place is their own
        self.suspect: set[int] = set()  # a client may have been written these before
        self.settled: set[int] = set()
        self.answered: set[int] = set()  # seqs of this epoch that the client has settled
        self.outstanding: set[int] = set()  # seqs of messages written to this connection and not settled
        self.shown: set[int] = set()  # seqs of which this connection was told, as a message or a gap
        self.since = 0  # when the ack timer started
        self.welcomed = False  # since the client was last away
        self.away_from = 0

    def new_connection(self) -> None:
        self.outstanding.clear()
        self.shown.clear()


class Disk:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.rows: dict[int, Row] = {}
        self.gaps: dict[int, int] = {}  # seq -> id
        self.session: SessionRow | None = None
        self.next = 1

    def give_seq(self, bound: Item) -> None:
        row = self.rows[bound.id]
        row.hold, row.seq = Hold.BOUND, self.next
        bound.hold, bound.seq = int(Hold.BOUND), row.seq
        self.next += 1
        self.ledger.bindings.append(bound.id)
        assert len(self.ledger.bindings) == row.seq, "a seq was skipped or given twice"

    def read(self, id: int) -> Item:
        row = self.rows[id]
        made = item(id, lane=row.lane, expire=row.expire)
        made.hold, made.seq, made.marks = int(row.hold), row.seq, row.marks
        return made

    def waiting(self, lane: int) -> list[int]:
        return sorted(id for id, row in self.rows.items() if row.hold == Hold.WAITING and row.lane == lane)

    def holding(self, *holds: Hold) -> list[int]:
        return [id for id, row in self.rows.items() if row.hold in holds]

    def carry_out(self, commit: Commit) -> list[After]:
        for made in commit.appends:
            self.rows[made.id] = Row(made.lane, made.expire)
            if made.hold == Hold.BOUND:
                self.give_seq(made)
        for made in commit.binds:
            if self.rows[made.id].hold == Hold.WAITING:
                self.give_seq(made)
        return [after for op in commit.ops if (after := op()) is not None]

    def change(self, id: int, holds: set[Hold], to: Hold, after: After = lambda: None) -> Op:
        """A compare-and-set. NONE is the end of a message."""

        def op() -> After | None:
            row = self.rows[id]
            if row.hold not in holds:
                return None
            row.hold = to
            if to == Hold.NONE:
                self.ledger.settled.add(id)
            return after

        return op

    def put_session(self, row: SessionRow) -> None:
        if self.session is None or self.session.eno != row.eno:
            self.ledger.bindings.clear()
            self.ledger.answered.clear()
            self.next = 1
        assert self.next == row.next, "the session's next is not the store's"
        self.session = row

    def put_absent(self, epoch: str, now: int) -> None:
        """Since when it is away, and whether its epoch is over: a start of the gateway must know both."""
        assert self.session is not None
        self.session = replace(self.session, epoch=epoch, away_since=now, next=self.next)
