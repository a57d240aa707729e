"""The operations of a commit, in order, but gathered: as many as can be are carried out by the same few statements.

A run takes operations as long as moving them to their place in it changes nothing:

    compare-and-sets and notes → gaps acked → epochs ended → chains reclaimed → sessions written

So an operation joins unless the run already holds one of a later place that touches the same client (or, for a
compare-and-set, whose client nobody knows before it is looked at, any that moves messages), or a compare-and-set on
the same message. What is rare (records, purging) stands alone.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.commit import (
    Change,
    DropDead,
    Forget,
    Note,
    Op,
    PutClient,
    PutSession,
    Reclaim,
    SettleGaps,
    Sweep,
    Unbind,
)
from gateway.commit_people import Audit, DropSuppressions, PutSuppressions, PutTemplate
from gateway.model import Hold, Item
from gateway.stores.clients import PUT_GAP, Clients, gap_values
from gateway.stores.counters import Counters
from gateway.stores.people import People
from gateway.stores.purge import Purge
from gateway.stores.rows import CHAIN, bulk, chain_values, encode_json, fetch, ids_json

SETTABLE = frozenset(
    (
        "hold",
        "status",
        "due",
        "seq",
        "eno",
        "marks",
        "tries",
        "crashes",
        "chain",
        "sent_at",
        "ended_at",
        "via",
        "why",
        "replayed",
    )
)
_UNSETTLED = frozenset((int(Hold.BOUND), int(Hold.CLAIMED)))
_PUT_CHAIN = f" INTO chains({CHAIN},channel) VALUES "
_CLAIMED = """
ON CONFLICT(id) DO UPDATE SET phase=excluded.phase, why=excluded.why, due=max(due,excluded.due), since=excluded.since
"""
_FREE = """
SELECT id FROM chains WHERE id IN (SELECT value FROM json_each(?)) AND +phase=0 AND burnt=0 AND why='offline'
"""
_STANDS = "SELECT id,phase,step,total FROM chains WHERE id IN (SELECT value FROM json_each(?))"
_STATES = """
SELECT id,hold,status,client,eno,seq,sent_at,ended_at FROM messages WHERE id IN (SELECT value FROM json_each(?))
"""
_COLUMNS = {
    _FREE: "id",
    _STANDS: "id,phase,step,total",
    _STATES: "id,hold,status,client,eno,seq,sent_at,ended_at",
}


class Owner(Protocol):
    """What operations need of the writer."""

    counters: Counters
    chained: bool

    def append_reports(self, items: list[Item]) -> None: ...


class _Run:
    """Operations that are carried out together. Each `add_…` tells whether it may join."""

    __slots__ = ("changed", "clients", "first", "moving", "puts", "reclaims", "seqs", "settles", "unbinds")

    def __init__(self) -> None:
        self.first: list[Change | Note] = []
        self.changed: set[int] = set()  # and reports that they add
        self.settles: list[SettleGaps] = []
        self.unbinds: list[Unbind] = []
        self.reclaims: list[Reclaim] = []
        self.puts: list[PutSession] = []
        # how far each client has come: 2 gaps acked, 3 unbound, 4 reclaimed, 5 written
        self.clients: dict[str, int] = {}
        # whether a compare-and-set may no longer be put before what is here
        self.moving = False

    def __bool__(self) -> bool:
        return bool(self.first or self.clients)

    def join(self, op: Op, counters: Counters) -> bool:
        """Take `op`, unless the run must be carried out before it."""
        if isinstance(op, Change):
            if self.moving or op.id in self.changed or (op.gap is not None and self.settles):
                return False
            self.changed.add(op.id)
            if op.report is not None:
                self.changed.add(op.report.id)
            self.first.append(op)
        elif isinstance(op, Note):
            self.first.append(op)
        elif isinstance(op, SettleGaps):
            # gaps are acked many at a time: a client may come again
            if self.clients.get(op.client, 2) > 2:
                return False
            self.clients[op.client] = 2
            self.settles.append(op)
        elif isinstance(op, Unbind):
            return self._place(op.client, 3, self.unbinds, op)
        elif isinstance(op, Reclaim):
            return self._place(op.client, 4, self.reclaims, op)
        elif isinstance(op, PutSession):
            plain = op.proven is None and counters.eno.get(op.row.client) == op.row.eno
            return self._place(op.row.client, 5, self.puts, op, moving=not plain)
        else:
            return False
        return True

    def _place(self, client: str, place: int, among: list[Any], op: Op, *, moving: bool = True) -> bool:
        if self.clients.get(client, 0) >= place:
            return False
        self.clients[client] = place
        self.moving = self.moving or moving
        among.append(op)
        return True


class Operations:
    __slots__ = ("_clients", "_conn", "_owner", "_people", "_purge")

    def __init__(self, owner: Owner, conn: sqlite3.Connection, clients: Clients, purge: Purge) -> None:
        self._owner = owner
        self._conn = conn
        self._clients = clients
        self._purge = purge
        self._people = People(conn)

    def run(self, ops: Sequence[Op]) -> None:
        counters = self._owner.counters
        run = _Run()
        for op in ops:
            if run.join(op, counters):
                continue
            if run:
                self._carry_out(run)
                run = _Run()
                if run.join(op, counters):
                    continue
            self._alone(op)
        if run:
            self._carry_out(run)

    def _alone(self, op: Op) -> None:
        if isinstance(op, PutClient):
            self._clients.put_client(op)
        elif isinstance(op, PutTemplate):
            self._people.put_template(op)
        elif isinstance(op, PutSuppressions):
            self._people.put_suppressions(op)
        elif isinstance(op, DropSuppressions):
            self._people.drop_suppressions(op)
        elif isinstance(op, Audit):
            self._people.audit(op)
        elif isinstance(op, Forget):
            self._purge.forget(op)
        elif isinstance(op, DropDead):
            self._purge.drop_dead(op)
        elif isinstance(op, Sweep):
            self._purge.sweep(op)
        else:
            raise TypeError(f"not an operation: {op!r}")

    def _carry_out(self, run: _Run) -> None:
        if run.first:
            self._change(run)
        if run.settles:
            self._clients.settle_gaps(run.settles)
        if run.unbinds:
            self._clients.unbind(run.unbinds)
        if run.reclaims and self._owner.chained:
            self._clients.reclaim(run.reclaims)
        if run.puts:
            self._clients.put_sessions(run.puts)

    # -- compare and set -------------------------------------------------------------------------------------------

    def _change(self, run: _Run) -> None:
        """Look at all rows, decide, write what applies."""
        changes = [op for op in run.first if isinstance(op, Change)]
        states = {row[0]: row for row in self._fetch(_STATES, {op.id for op in changes})} if changes else {}
        free = {op.id for op in changes if op.free}
        if free:
            free = {row[0] for row in self._fetch(_FREE, free)}
        stands: dict[int, tuple[int, ...]] = {}
        if compared := {op.id for op in changes if op.stood is not None}:
            stands = {id: tuple(stand) for id, *stand in self._fetch(_STANDS, compared)}
        for op in changes:
            row = states.get(op.id)
            if row is None or not _applies(op, row) or (op.free and op.id not in free):
                continue
            if op.stood is None or stands.get(op.id) == op.stood:
                op.ok, op.unsettled = True, row[1] in _UNSETTLED
        applied = [op for op in changes if op.ok]
        if applied:
            self._write_sets(applied, states)
            self._write_chains(applied)
            gaps = [gap_values(op.gap) for op in applied if op.gap is not None and op.unsettled]
            bulk(self._conn, PUT_GAP, gaps)
            reports = [op.report for op in applied if op.report is not None]
            if reports:
                self._owner.append_reports(reports)
        events = [
            (event.id, event.at, event.kind, encode_json(event.data) if event.data is not None else None)
            for op in run.first
            if (isinstance(op, Note) or op.ok) and (event := op.event) is not None
        ]
        bulk(self._conn, "INSERT INTO events(mid,at,kind,data) VALUES ", events)

    def _fetch(self, source: str, ids: set[int]) -> list[list[Any]]:
        return fetch(self._conn, _COLUMNS[source], source, (ids_json(ids),))

    def _write_sets(self, applied: list[Change], states: dict[int, list[Any]]) -> None:
        counters = self._owner.counters
        groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for op in applied:
            _, _, _, client, eno, seq, _, _ = states[op.id]
            if op.missed is not None:
                who, why = op.missed
                if not (seq > 0 and counters.eno.get(who) == eno):
                    counters.missed(who, why)
            columns = tuple(op.set)
            if not columns:
                continue
            if "seq" in op.set or "eno" in op.set:
                counters.unbound(client)
            values = (("" if name in {"via", "why"} else 0) if v is None else v for name, v in op.set.items())
            groups.setdefault(columns, []).append((op.id, *values))
        for columns, rows in groups.items():
            if not SETTABLE.issuperset(columns):
                raise ValueError(f"not columns of a change: {sorted(set(columns) - SETTABLE)}")
            sets = ",".join(f"{name}=v.column{n}" for n, name in enumerate(columns, 2))
            bulk(
                self._conn,
                f"UPDATE messages SET {sets} FROM (VALUES ",  # noqa: S608
                rows,
                ") AS v WHERE id=v.column1",
            )

    def _write_chains(self, applied: list[Change]) -> None:
        dropped = [op.id for op in applied if op.drop_chain]
        if dropped and self._owner.chained:
            self._conn.execute(
                "DELETE FROM chains WHERE id IN (SELECT value FROM json_each(?))", (ids_json(dropped),)
            )
        claims = [chain_values(op.claim) for op in applied if op.claim is not None]
        bulk(self._conn, f"INSERT{_PUT_CHAIN}", claims, _CLAIMED)
        rows = [chain_values(op.chain) for op in applied if op.chain is not None]
        bulk(self._conn, f"INSERT OR REPLACE{_PUT_CHAIN}", rows)
        if claims or rows:
            self._owner.chained = True


def _applies(op: Change, row: list[Any]) -> bool:
    _, hold, status, _, _, _, sent_at, ended_at = row
    if hold not in op.holds or (op.unbound and sent_at > 0):
        return False
    if status == 3 and ended_at > 0 and not op.ended:
        return False
    if op.was != -1:
        return bool(status == op.was)
    return op.ended or status < op.below
