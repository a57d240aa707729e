"""The tables of the memory store: values by key, with what it takes to undo; and what a commit reads of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.commit import Event, Gap
from gateway.model import Chain, ChainRow, Extra, Hold, Item, Kind, Missed, Phase, SessionRow
from gateway.reads import (
    Read,
    ReadChain,
    ReadChainable,
    ReadChains,
    ReadDue,
    ReadItems,
    ReadResting,
    ReadStories,
    ReadSuppressed,
    ReadWaiting,
    Story,
)
from gateway.records import AuditEntry, ClientRow, Suppression
from gateway.templates import TemplateRow

_NONE, _WAITING, _LATER = int(Hold.NONE), int(Hold.WAITING), int(Hold.LATER)

_K = TypeVar("_K")
_V = TypeVar("_V")


class Row(Struct, frozen=True):
    """A message. `sent_at` is when it was first sent, 0 = never; `deadline` is its own, 0 = none."""

    id: int
    client: str
    sender: str
    lane: int
    kind: int
    hold: int
    status: int
    chain: int
    eno: int
    seq: int
    at: int
    due: int
    expire: int
    deadline: int
    sent_at: int
    collapse: str | None
    x: Extra | None
    body: bytes | None
    marks: int = 0
    tries: int = 0
    crashes: int = 0
    ended_at: int = 0
    via: str = ""
    why: str = ""
    replayed: int = 0
    pid: int = 0


class Known(Struct, frozen=True):
    """A session, and what its last welcome told of `row.missed`."""

    row: SessionRow
    told: Missed = field(default_factory=Missed)


class Key(Struct, frozen=True):
    """A claimed deduplication key."""

    id: int
    digest: bytes
    at: int


class Table(dict[_K, _V], Generic[_K, _V]):
    """Written by `put` and `drop` only, which can be undone. Values are replaced, never changed."""

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        super().__init__()
        self._undo = undo

    def put(self, key: _K, value: _V) -> None:
        if key in self:
            old = self[key]
            self._undo.append(lambda: self._set(key, old))
        else:
            self._undo.append(lambda: self._remove(key))
        self._set(key, value)

    def drop(self, key: _K) -> None:
        if key in self:
            old = self[key]
            self._undo.append(lambda: self._set(key, old))
            self._remove(key)

    def _set(self, key: _K, value: _V) -> None:
        self[key] = value

    def _remove(self, key: _K) -> None:
        del self[key]


class Messages(Table[int, Row]):
    """`live`: the ids of the rows that some read may look for."""

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        super().__init__(undo)
        self.live: dict[int, None] = {}

    def _set(self, key: int, value: Row) -> None:
        super()._set(key, value)
        if value.hold != _NONE or value.due > 0:
            self.live[key] = None
        else:
            self.live.pop(key, None)

    def _remove(self, key: int) -> None:
        super()._remove(key)
        self.live.pop(key, None)

    def change(self, id: int, **columns: object) -> None:
        self.put(id, replace(self[id], **columns))

    def of_live(self) -> Iterator[Row]:
        """By id."""
        for id in sorted(self.live):
            yield self[id]


class Tables:
    """Everything that is committed."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self.messages = Messages(self._undo)
        self.sessions: Table[str, Known] = Table(self._undo)
        self.clients: Table[str, ClientRow] = Table(self._undo)
        self.templates: Table[tuple[str, int], TemplateRow] = Table(self._undo)
        self.suppressions: Table[tuple[str, str, str], Suppression] = Table(self._undo)
        self.audit: Table[int, AuditEntry] = Table(self._undo)
        self.gaps: Table[tuple[str, int], Gap] = Table(self._undo)
        self.chains: Table[int, ChainRow] = Table(self._undo)
        self.events: Table[int, tuple[Event, ...]] = Table(self._undo)
        self.keys: Table[tuple[str, str], Key] = Table(self._undo)
        self.highest = 0

    def settled(self) -> None:
        """The commit stands: there is nothing to undo any more."""
        self._undo.clear()

    def undo(self) -> None:
        for step in reversed(self._undo):
            step()
        self._undo.clear()

    def eno(self, client: str) -> int | None:
        """The number of the client's epoch, None where it has no session."""
        known = self.sessions.get(client)
        return known.row.eno if known is not None else None


def item_of(row: Row, *, body: bool = True) -> Item:
    """A new Item. The seq of what waits is that of a settled delivery: not told."""
    item = Item(
        row.id, row.client, row.sender, row.lane, row.at, row.expire, row.body if body else None, row.x, row.kind,
        row.chain,
    )  # fmt: skip
    item.hold = row.hold
    item.status = row.status
    item.due = row.due
    if row.hold not in {_WAITING, _LATER}:
        item.eno, item.seq = row.eno, row.seq
    item.marks, item.tries, item.crashes = row.marks, row.tries, row.crashes
    item.via, item.why = row.via, row.why
    return item


def gap_of(gap: Gap) -> Item:
    """A gap as it stands in a window."""
    item = Item(gap.id, gap.client, "", 0, 0, 0, None, kind=int(Kind.GAP))
    item.hold = int(Hold.BOUND)
    item.eno, item.seq, item.why, item.via = gap.eno, gap.seq, gap.why, gap.via
    return item


def copy_chain(row: ChainRow) -> ChainRow:
    """A chain row that nobody else holds."""
    return replace(row, channels=list(row.channels))


def run_reads(tables: Tables, reads: Sequence[Read]) -> None:
    for read in reads:
        if isinstance(read, ReadWaiting):
            read.items = _waiting(tables, read)
        elif isinstance(read, ReadChainable):
            read.items = _chainable(tables, read)
        elif isinstance(read, ReadItems):
            found = [tables.messages.get(id) for id in dict.fromkeys(read.ids)]
            read.items = [item_of(row) for row in found if row is not None]
        elif isinstance(read, ReadDue):
            due = sorted(
                (row for row in tables.messages.of_live() if row.due > 0), key=lambda r: (r.due, r.id)
            )
            taken = _first(read.limit, (row for row in due if row.due <= read.now))
            read.items = [item_of(row, body=False) for row in taken]
            read.next_due = due[len(taken)].due if len(due) > len(taken) else 0
        elif isinstance(read, ReadChains):
            waiting = _in_phase(tables, Phase.WAIT)
            of_channel = [row for row in waiting if row.channel == read.channel]
            _rows(tables, read, sorted(of_channel, key=lambda row: (row.lane, row.due, row.id)))
        elif isinstance(read, ReadResting):
            _rows(tables, read, sorted(_in_phase(tables, Phase.RECEIPT), key=lambda row: (row.due, row.id)))
        elif isinstance(read, ReadStories):
            read.found = {id: _story(tables, row) for id in read.ids if (row := tables.messages.get(id))}
        elif isinstance(read, ReadSuppressed):
            for (address, _, _), one in sorted(tables.suppressions.items()):
                if address in read.addresses:
                    read.found.setdefault(address, []).append(one)
        else:
            _chain(tables, read)


def _first(limit: int, rows: Iterable[_V]) -> list[_V]:
    return [row for row, _ in zip(rows, range(limit), strict=False)]


def _waiting(tables: Tables, read: ReadWaiting) -> list[Item]:
    rows = (
        row
        for row in tables.messages.of_live()
        if row.hold == _WAITING
        and row.client == read.client
        and row.lane == read.lane
        and row.id > read.after
        and not ((read.bare or read.fresh) and row.kind != Kind.MESSAGE)
        and not (read.fresh and (row.status or row.marks))
    )
    return [item_of(row) for row in _first(read.limit, rows)]


def _chainable(tables: Tables, read: ReadChainable) -> list[Item]:
    rows = (
        row
        for row in tables.messages.of_live()
        if row.client == read.client
        and row.id > read.after
        and row.chain == Chain.READY
        and not row.deadline
        and (row.hold == _WAITING or (row.hold == _LATER and (row.due <= read.now or row.sent_at > 0)))
    )
    return [item_of(row, body=False) for row in _first(read.limit, rows)]


def _in_phase(tables: Tables, phase: Phase) -> list[ChainRow]:
    return [row for row in tables.chains.values() if row.phase == phase]


def _rows(tables: Tables, read: ReadChains | ReadResting, rows: list[ChainRow]) -> None:
    """Of these, in their order. What has no message is passed over, and does not count as due any more this time."""
    left: list[int] = []
    for row in rows:
        if row.due > read.now or len(read.rows) == read.limit:
            left.append(row.due)
            continue
        message = tables.messages.get(row.id)
        if message is not None:
            read.rows.append((copy_chain(row), item_of(message)))
    read.next_due = min(left, default=0)


def _story(tables: Tables, row: Row) -> Story:
    chain = tables.chains.get(row.id)
    events = sorted(tables.events.get(row.id, ()), key=lambda event: event.at)
    return Story(item_of(row), copy_chain(chain) if chain is not None else None, events)


def _chain(tables: Tables, read: ReadChain) -> None:
    row, message = tables.chains.get(read.id), tables.messages.get(read.id)
    read.row = copy_chain(row) if row is not None else None
    read.item = item_of(message) if message is not None else None
