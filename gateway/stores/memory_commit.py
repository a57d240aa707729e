"""What a commit does to the tables of the memory store, one thing after the other."""

from msgspec.structs import asdict, replace

from gateway.commit import (
    Change,
    Commit,
    DropDead,
    Event,
    Forget,
    Gap,
    Note,
    Op,
    PutClient,
    PutSession,
    Reclaim,
    SettleGaps,
    Sweep,
    Twin,
    Unbind,
)
from gateway.commit_people import Audit, DropSuppressions, PutSuppressions, PutTemplate
from gateway.model import ChainRow, Hold, Item, Missed, Phase, SessionRow, Status
from gateway.records import ClientRow
from gateway.stores.memory_people import carry_out
from gateway.stores.memory_tables import Key, Known, Row, Tables, copy_chain

_NONE, _WAITING, _BOUND = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND)
_LATER, _CLAIMED = int(Hold.LATER), int(Hold.CLAIMED)
_QUEUED, _SENT, _ACCEPTED = int(Status.QUEUED), int(Status.SENT), int(Status.PROVIDER_ACCEPTED)
_CANCELLED, _DEAD = int(Status.CANCELLED), int(Status.DEAD)

SETTABLE = frozenset(
    (
        "hold", "status", "due", "seq", "eno", "marks", "tries", "crashes", "chain", "sent_at", "ended_at", "via",
        "why", "replayed",
    )
)  # fmt: skip
# a slice of a sweep looks at so many rows for each that it may purge
LOOK = 8

# what Items are told once the commit stands: hold, eno, seq, status
Placed = tuple[Item, int, int, int, int]


class Carrier:
    """Carries out commits. `placed` is what the last one has for Items."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.placed: list[Placed] = []
        self._sweep_at = 0

    def carry_out(self, commit: Commit) -> None:
        """Everything but the reads. Raises what makes it impossible; then the tables must be undone."""
        self.placed = []
        self._find_twins(commit)
        for i, item in enumerate(commit.appends):
            if i in commit.twins:
                continue
            if item.x is not None and item.x.collapse is not None:
                self._collapse(commit, i, item)
            self._append(item, commit.at)
        for client, eno, items in commit.binds:
            for item in items:
                self._bind(client, eno, item, commit.at)
        for status, at, via, ids in commit.settles:
            for id in ids:
                self._settle(id, status, at, via)
        for op in commit.ops:
            self._operate(op)

    # -- appends, binds, settles -----------------------------------------------------------------------------------

    def _find_twins(self, commit: Commit) -> None:
        """Twins within one commit share the first's fate: (id, digest, status), id 0 where the quota refused it."""
        tables = self.tables
        fates: dict[tuple[str, str], tuple[int, bytes, int]] = {}
        for i, claim in sorted(commit.keys.items()):
            who = (claim.publisher, claim.key)
            fate = fates.get(who)
            if fate is None or (fate[0] == 0 and fate[1] != claim.digest):
                known = tables.keys.get(who)
                if known is not None and known.at >= claim.since:
                    row = tables.messages.get(known.id)
                    fate = (known.id, known.digest, row.status if row is not None else 0)
                elif claim.refused:
                    fate = (0, claim.digest, 0)
                else:
                    item = commit.appends[i]
                    fates[who] = (item.id, claim.digest, self._begins(item)[1])
                    tables.keys.put(who, Key(item.id, claim.digest, claim.at))
                    continue
                fates[who] = fate
            id, digest, status = fate
            same = id == 0 or digest == claim.digest
            commit.twins[i] = Twin(id, same, status if same else 0)

    def _begins(self, item: Item) -> tuple[int, int]:
        """The hold and status of a new row. Bound to an epoch that is not its session's it could never be delivered:
        then it waits.
        """
        if item.hold != _BOUND:
            return item.hold, item.status
        if item.eno == 0 or item.eno != self.tables.eno(item.client):
            return _WAITING, _QUEUED
        return _BOUND, item.status or _SENT

    def _collapse(self, commit: Commit, i: int, item: Item) -> None:
        assert item.x is not None
        key = (item.client, item.sender, item.x.collapse)
        for row in list(self.tables.messages.of_live()):
            if (row.client, row.sender, row.collapse) != key or row.hold not in {_WAITING, _LATER}:
                continue
            if row.sent_at == 0 and row.status < _ACCEPTED:
                self.tables.messages.change(
                    row.id, hold=_NONE, due=0, status=_CANCELLED, ended_at=commit.at, why="collapsed"
                )
                self.tables.chains.drop(row.id)
                self._missed(item.client, "superseded")
                commit.collapsed.append((i, row.id))

    def _append(self, item: Item, at: int) -> None:
        tables, x = self.tables, item.x
        if item.id in tables.messages:
            raise ValueError(f"a message {item.id} is there already")
        hold, status = self._begins(item)
        due, eno, seq, sent_at = item.due, 0, 0, 0
        if item.hold == _BOUND:
            if hold == _BOUND:
                eno, seq, sent_at = item.eno, self._next(item.client), at
            else:
                due = min(due or item.expire, item.expire)
            self.placed.append((item, hold, eno, seq, status))
        row = Row(
            item.id, item.client, item.sender, item.lane, item.kind, hold, status, item.chain, eno, seq, item.at, due,
            item.expire, (x.deadline or 0) if x is not None else 0, sent_at, x.collapse if x is not None else None,
            x, item.body, pid=item.pid,
        )  # fmt: skip
        tables.messages.put(item.id, row)
        tables.highest = max(tables.highest, item.id)

    def _next(self, client: str) -> int:
        known = self.tables.sessions[client]
        self.tables.sessions.put(client, replace(known, row=replace(known.row, next=known.row.next + 1)))
        return known.row.next

    def _bind(self, client: str, eno: int, item: Item, at: int) -> None:
        messages = self.tables.messages
        row = messages.get(item.id)
        if row is None or row.hold != _WAITING or row.client != client or self.tables.eno(client) != eno:
            return
        seq, status = self._next(client), max(row.status, _SENT)
        messages.change(item.id, hold=_BOUND, eno=eno, seq=seq, status=status, sent_at=row.sent_at or at)
        self.placed.append((item, _BOUND, eno, seq, status))

    def _settle(self, id: int, status: int, at: int, via: str) -> None:
        row = self.tables.messages.get(id)
        if row is None or row.hold not in {_BOUND, _CLAIMED}:
            return
        self.tables.messages.change(id, hold=_NONE, due=0)
        if row.status < _ACCEPTED:
            self.tables.messages.change(id, status=status, ended_at=at, via=via)
        elif not _ended(row):
            self.tables.messages.change(id, ended_at=at)
        self.tables.chains.drop(id)

    def _missed(self, client: str, why: str, count: int = 1) -> None:
        known = self.tables.sessions.get(client)
        if known is not None:
            missed = replace(known.row.missed, **{why: getattr(known.row.missed, why) + count})
            self.tables.sessions.put(client, replace(known, row=replace(known.row, missed=missed)))

    # -- operations ------------------------------------------------------------------------------------------------

    def _operate(self, op: Op) -> None:
        if isinstance(op, Change):
            self._change(op)
        elif isinstance(op, PutSession):
            self._put_session(op)
        elif isinstance(op, Unbind):
            self._unbind(op)
        elif isinstance(op, Reclaim):
            self._reclaim(op)
        elif isinstance(op, SettleGaps):
            for seq in op.seqs:
                self.tables.gaps.drop((op.client, seq))
        elif isinstance(op, PutClient):
            self.tables.clients.put(op.row.client, replace(op.row))
        elif isinstance(op, PutTemplate | PutSuppressions | DropSuppressions | Audit):
            carry_out(self.tables, op)
        elif isinstance(op, Forget):
            self._forget(op)
        elif isinstance(op, Note):
            self._event(op.event)
        elif isinstance(op, DropDead):
            self._drop_dead(op)
        elif isinstance(op, Sweep):
            self._sweep(op)
        else:
            raise TypeError(f"not an operation: {op!r}")

    def _event(self, event: Event) -> None:
        self.tables.events.put(event.id, (*self.tables.events.get(event.id, ()), event))

    def _change(self, op: Change) -> None:
        tables = self.tables
        row = tables.messages.get(op.id)
        op.ok = row is not None and self._applies(op, row)
        if row is None or not op.ok:
            return
        op.unsettled = row.hold in {_BOUND, _CLAIMED}
        if not SETTABLE.issuperset(op.set):
            raise ValueError(f"not columns of a change: {sorted(set(op.set) - SETTABLE)}")
        if op.missed is not None:
            who, why = op.missed
            if not (row.seq > 0 and row.eno == tables.eno(who)):
                self._missed(who, why)
        values = {k: ("" if k in {"via", "why"} else 0) if v is None else v for k, v in op.set.items()}
        if values:
            tables.messages.change(op.id, **values)
        if op.drop_chain:
            tables.chains.drop(op.id)
        if op.claim is not None:
            old = tables.chains.get(op.claim.id)
            claim = copy_chain(op.claim)
            if old is not None:
                claim = replace(
                    old, phase=claim.phase, why=claim.why, due=max(old.due, claim.due), since=claim.since
                )
            tables.chains.put(claim.id, claim)
        if op.chain is not None:
            tables.chains.put(op.chain.id, copy_chain(op.chain))
        if op.gap is not None and op.unsettled:
            tables.gaps.put((op.gap.client, op.gap.seq), op.gap)
        if op.report is not None:
            self._append(op.report, 0)
        if op.event is not None:
            self._event(op.event)

    def _applies(self, op: Change, row: Row) -> bool:
        if row.hold not in op.holds or (op.unbound and row.sent_at > 0):
            return False
        chain = self.tables.chains.get(op.id)
        if op.free and not _free(chain):
            return False
        if op.stood is not None and (chain is None or chain.stand != op.stood):
            return False
        if row.status == _ACCEPTED and row.ended_at > 0 and not op.ended:
            return False
        if op.was != -1:
            return row.status == op.was
        return op.ended or row.status < op.below

    def _put_session(self, op: PutSession) -> None:
        """The count of seqs and of what was missed is the store's."""
        old = self.tables.sessions.get(op.row.client)
        row = replace(op.row, missed=Missed())
        told = Missed()
        if old is not None:
            row.missed, told = old.row.missed, old.told
            if old.row.eno == row.eno:
                row.next = old.row.next
        if op.proven is not None:
            if op.proven:
                row.missed = _less(row.missed, told)
            told = row.missed
            op.missed = replace(row.missed)
        self.tables.sessions.put(row.client, Known(row, told))

    def _unbind(self, op: Unbind) -> None:
        tables = self.tables
        for key, gap in list(tables.gaps.items()):
            if gap.client == op.client:
                self._missed(op.client, gap.why)
                tables.gaps.drop(key)
        self.unbind_rows(op.ids)

    def unbind_rows(self, ids: list[int]) -> None:
        for id in ids:
            row = self.tables.messages.get(id)
            if row is not None and row.hold == _BOUND:
                self._wait(row, marks=max(row.marks, 1))
            elif row is not None and row.hold == _CLAIMED:
                self.tables.messages.change(id, hold=_NONE, eno=0, seq=0)

    def _wait(self, row: Row, **columns: int) -> None:
        due = min(row.due or row.expire, row.expire)
        self.tables.messages.change(row.id, hold=_WAITING, eno=0, seq=0, due=due, **columns)

    def _reclaim(self, op: Reclaim) -> None:
        tables = self.tables
        rows = [
            (tables.messages[chain.id], chain)
            for chain in tables.chains.values()
            if chain.client == op.client and chain.phase != Phase.PARKED and chain.id in tables.messages
        ]
        for row, chain in sorted(rows, key=lambda both: (both[0].seq, both[0].id)):
            back = _free(chain) and row.status < _ACCEPTED
            sent = {
                "status": _SENT if row.sent_at else _QUEUED,
                "marks": max(row.marks, int(row.sent_at > 0)),
            }
            if back and row.hold == _CLAIMED:
                tables.messages.change(row.id, hold=_BOUND, **sent)
                op.back.append(row.id)
            elif back and row.hold == _NONE:
                self._wait(row, **sent)
                op.waiting += 1
            elif row.hold == _CLAIMED:
                gap = Gap(op.client, row.eno, row.seq, row.id, "superseded", chain.channel)
                tables.messages.change(row.id, hold=_NONE)
                tables.gaps.put((gap.client, gap.seq), gap)
                op.gaps.append(gap)
                continue
            else:
                continue
            tables.chains.put(chain.id, replace(chain, phase=int(Phase.PARKED)))

    # -- what leaves -----------------------------------------------------------------------------------------------

    def _forget(self, op: Forget) -> None:
        tables, client = self.tables, op.client
        for id, row in sorted(tables.messages.items()):
            if row.client == client:
                if not _ended(row):
                    op.ended.append(id)
                    row = replace(row, status=_CANCELLED, ended_at=op.at)  # noqa: PLW2901 - it is the row from here on
                tables.messages.put(id, _tombstone(row))
                tables.events.drop(id)
        for key, gap in list(tables.gaps.items()):
            if gap.client == client:
                tables.gaps.drop(key)
        for id, chain in list(tables.chains.items()):
            if chain.client == client:
                tables.chains.drop(id)
        for who in list(tables.keys):
            if who[0] == client:
                tables.keys.drop(who)
        tables.sessions.drop(client)
        old = tables.clients.get(client)
        not_before = max(op.not_before, old.not_before if old is not None else 0)
        tables.clients.put(client, ClientRow(client, not_before=not_before))

    def _delete(self, id: int) -> None:
        self.tables.messages.drop(id)
        self.tables.events.drop(id)
        self.tables.chains.drop(id)

    def _drop_dead(self, op: DropDead) -> None:
        for id, row in sorted(self.tables.messages.items()):
            if row.status == _DEAD and row.hold == _NONE and row.client and (op.ids is None or id in op.ids):
                self._delete(id)
                op.count += 1

    def _sweep(self, op: Sweep) -> None:
        tables = self.tables
        young = max(op.ended_before, op.dead_before)
        rows = [row for id, row in sorted(tables.messages.items()) if id > self._sweep_at]
        op.more = len(rows) >= LOOK * op.limit
        for row in rows[: LOOK * op.limit]:
            over = len(tables.messages) > op.max_rows
            if row.at >= young and not over:
                op.more = False
                break
            self._sweep_at = row.id
            old = row.ended_at < (op.dead_before if row.status == _DEAD else op.ended_before)
            gap = tables.gaps.get((row.client, row.seq))
            unsettled = row.hold != _NONE or (gap is not None and gap.id == row.id)
            if _ended(row) and not unsettled and (old or over):
                self._delete(row.id)
                op.purged += 1
                if op.purged == op.limit:
                    op.more = True
                    break
        if not op.more:
            self._sweep_at = 0
        old_keys = sorted((key.at, who) for who, key in tables.keys.items() if key.at < op.keys_before)
        for _, who in old_keys[: op.limit]:
            tables.keys.drop(who)
        op.more = op.more or len(old_keys) >= op.limit


def _ended(row: Row) -> bool:
    """What a provider has accepted has ended where its row says when."""
    return row.status > _ACCEPTED or (row.status == _ACCEPTED and row.ended_at > 0)


def _free(chain: ChainRow | None) -> bool:
    """Whether a chain gives its message back to a client that is welcomed."""
    return chain is not None and chain.phase == Phase.WAIT and not chain.burnt and chain.why == "offline"


def _less(missed: Missed, told: Missed) -> Missed:
    return Missed(**{name: max(0, count - getattr(told, name)) for name, count in asdict(missed).items()})


def _tombstone(row: Row) -> Row:
    """Id, lane, kind, status and times."""
    return Row(
        row.id, "", "", row.lane, row.kind, _NONE, row.status, 0, 0, 0, row.at, 0, row.expire, 0, row.sent_at, None,
        None, None, ended_at=row.ended_at,
    )  # fmt: skip


def as_recovered(known: Known) -> SessionRow:
    """A session's row that nobody else holds."""
    return replace(known.row, missed=replace(known.row.missed))
