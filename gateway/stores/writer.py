"""One commit within a transaction: new rows, runs of seqs, settles; then the operations and, once it is on disk, the
reads.

What is written into Items is written after the commit, so that a failed one leaves them as they were.
"""

import sqlite3
from functools import cache
from itertools import chain
from zlib import crc32

from gateway.commit import Commit, KeyClaim, Twin
from gateway.model import NORMAL, Hold, Item, Status
from gateway.stores.clients import Clients
from gateway.stores.counters import Counters
from gateway.stores.operations import Operations
from gateway.stores.purge import Purge
from gateway.stores.reads import Reads
from gateway.stores.rows import Reader, bulk, checksum, chunks, encode_json, fetch, ids_json, with_values

_WAITING, _BOUND, _LATER = int(Hold.WAITING), int(Hold.BOUND), int(Hold.LATER)
_QUEUED, _SENT = int(Status.QUEUED), int(Status.SENT)

_INSERT = (
    "INSERT INTO messages(id,client,sender,lane,kind,hold,status,chain,eno,seq,at,due,expire,deadline,sent_at,"
    "collapse,extra,crc,body,pid) VALUES "
)
_SETTLE = """
UPDATE messages SET hold=0, due=0, status=iif(status<3,?1,status), via=iif(status<3,?3,via),
  ended_at=iif(status<3 OR (status=3 AND ended_at=0),?2,ended_at)
WHERE id IN (SELECT value FROM json_each(?4)) AND +hold IN (2,4)
"""
_SETTLE_CHAINS = """
DELETE FROM chains WHERE id IN (
  SELECT id FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +hold IN (2,4))
"""
_WAITS = "SELECT id,client,status FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +hold=1"
_BIND = """
UPDATE messages SET hold=2, status=max(status,1), eno=v.eno, seq=v.seq, sent_at=iif(sent_at>0,sent_at,?)
FROM (SELECT json_extract(value,'$[0]') AS id, json_extract(value,'$[1]') AS eno, json_extract(value,'$[2]') AS seq
      FROM json_each(?)) AS v
WHERE messages.id=v.id
"""
_COLLAPSE = """
UPDATE messages SET hold=0, due=0, status=9, ended_at=?, why='collapsed'
WHERE id IN (SELECT value FROM json_each(?))
"""
_EARLIER = "SELECT v.column1 AS n, m.id FROM (VALUES "
_EARLIER_ON = """) AS v CROSS JOIN messages AS m INDEXED BY collapse
ON m.client=v.column2 AND m.sender=v.column3 AND m.collapse=v.column4
WHERE m.collapse IS NOT NULL AND m.hold IN (1,3) AND m.sent_at=0 AND m.status<3 ORDER BY m.id
"""
_CLAIMS = "SELECT v.column1 AS n, d.id, d.digest, d.at, coalesce(m.status,0) AS status FROM (VALUES "
_CLAIMS_ON = """) AS v CROSS JOIN dedup AS d ON d.publisher=v.column2 AND d.key=v.column3
LEFT JOIN messages AS m ON m.id=d.id
"""
_DROP_CHAINS = "DELETE FROM chains WHERE id IN (SELECT value FROM json_each(?))"

Key = tuple[str, str, str]


Settle = tuple[int, int, str, list[int]]


def _firsts(settles: list[Settle]) -> list[Settle]:
    """Of a message that is settled twice, the first time counts."""
    if len(settles) == 1:
        return settles
    seen: set[int] = set()
    out = []
    for status, at, via, ids in settles:
        fresh = ids if seen.isdisjoint(ids) else [id for id in ids if id not in seen]
        seen.update(ids)
        out.append((status, at, via, fresh))
    return out


@cache
def _bound_rows(count: int) -> str:
    """INSERT of so many plain messages that are bound at once. ?1 to ?4: sender, at, expire, sent_at; then of each row
    id, client, eno, seq, crc, body, pid.
    """
    rows = []
    for n in range(5, 5 + 7 * count, 7):
        own = ",".join(f"?{n + i}" for i in range(2))
        seq = f"?{n + 2},?{n + 3}"
        rows.append(
            f"({own},?1,{NORMAL},0,{_BOUND},{_SENT},0,{seq},?2,0,?3,0,?4,NULL,NULL,?{n + 4},?{n + 5},?{n + 6})"
        )
    return _INSERT + ",".join(rows)


class Writer:
    """The writer of one opening of the store; used in the writer thread only."""

    __slots__ = ("_bound", "_clients", "_conn", "_operations", "_placed", "_reads", "chained", "counters")

    def __init__(self, conn: sqlite3.Connection, reader: Reader) -> None:
        self._conn = conn
        self.counters = Counters(conn)
        # whether there may be any chain row: where none ever was, none is looked for
        self.chained: bool = conn.execute("SELECT EXISTS (SELECT 1 FROM chains)").fetchone()[0] == 1
        self._placed: list[tuple[Item, int, int, int, int]] = []
        self._bound: list[tuple[list[Item], list[int]]] = []  # of runs, as they were to be bound: their seqs
        self._clients = Clients(conn, self.counters)
        self._operations = Operations(self, conn, self._clients, Purge(conn, self.counters))
        self._reads = Reads(conn, reader)

    def carry_out(self, commit: Commit) -> None:
        """Everything but the reads, within an open transaction."""
        if commit.appends:
            if commit.keys:
                self._find_twins(commit)
            self._append(commit)
        if commit.binds:
            self._bind(commit)
        if commit.settles:
            self._settle(commit)
        if commit.ops:
            self._operations.run(commit.ops)

    def committed(self) -> None:
        """The transaction is on disk: Items may be told."""
        for item, hold, eno, seq, status in self._placed:
            item.hold = hold
            item.eno = eno
            item.seq = seq
            item.status = status
        self._placed.clear()
        for items, seqs in self._bound:
            for item, seq in zip(items, seqs, strict=True):
                item.seq = seq
        self._bound.clear()

    def unbind(self, ids: list[int]) -> None:
        """Messages bound to no epoch that there is wait again."""
        self._clients.unbind_ids(ids)

    def read(self, commit: Commit) -> None:
        self._reads.run(commit.reads)

    # -- appends ---------------------------------------------------------------------------------------------------

    def _append(self, commit: Commit) -> None:
        at = 0
        for start, end, _ in commit.runs:
            self._append_singles(commit, at, start)
            self._append_run(commit.appends[start:end], commit.at)
            at = end
        self._append_singles(commit, at, len(commit.appends))

    def _append_run(self, items: list[Item], at: int) -> None:
        """Messages of one publisher that came together and have a body and nothing else: what they share is said once
        for many rows.
        """
        first = items[0]
        counters = self.counters
        eno_of, next_of = counters.eno, counters.next
        shared = f"|{first.sender}|{first.lane}|{first.kind}|{first.at}|{first.expire}|0|"
        bound: list[Item] = []
        seqs: list[int] = []
        rows: list[tuple[object, ...]] = []
        others = []
        for item in items:
            id, client, eno = item.id, item.client, item.eno
            if item.hold != _BOUND or item.chain or not eno or eno != eno_of.get(client):
                others.append(self._row(item, at)[0])
                continue
            seq = next_of[client]
            counters.bound(client, seq + 1, id)
            body = item.body or b""
            bound.append(item)
            seqs.append(seq)
            rows.append(
                (id, client, eno, seq, crc32(body, crc32(f"{id}|{client}{shared}".encode())), body, item.pid)
            )
        if rows:
            self._bound.append((bound, seqs))
            before = (first.sender, first.at, first.expire, at)
            for some in chunks(rows):
                self._conn.execute(_bound_rows(len(some)), [*before, *chain.from_iterable(some)])
        if others:
            bulk(self._conn, _INSERT, others)
        counters.added(len(items), first.id, items[-1].id)

    def _append_singles(self, commit: Commit, start: int, end: int) -> None:
        if start == end:
            return
        twins, at = commit.twins, commit.at
        counters = self.counters
        earlier = self._earlier(commit, start, end)
        fresh: dict[Key, int] = {}
        ended: list[int] = []
        ids: list[int] = []
        rows = []
        for i, item in enumerate(commit.appends[start:end], start):
            if i in twins:
                continue
            row, hold = self._row(item, at)
            x = item.x
            if x is not None and x.collapse is not None:
                key = (item.client, item.sender, x.collapse)
                old = earlier.pop(key, [])
                if key in fresh:
                    old.append(fresh.pop(key))
                for id in old:
                    commit.collapsed.append((i, id))
                    counters.missed(item.client, "superseded")
                ended += old
                if hold != _BOUND:
                    fresh[key] = item.id
            ids.append(item.id)
            rows.append(row)
        if not rows:
            return
        bulk(self._conn, _INSERT, rows)
        counters.added(len(ids), min(ids), max(ids))
        if ended:
            of = ids_json(ended)
            self._conn.execute(_COLLAPSE, (at, of))
            if self.chained:
                self._conn.execute(_DROP_CHAINS, (of,))

    def _row(self, item: Item, at: int) -> tuple[tuple[object, ...], int]:
        """The new row and its hold, with the session's next seq where it is bound at once.

        Bound to an epoch that is not its session's it could never be delivered: then it waits.
        """
        id, client, hold, x = item.id, item.client, item.hold, item.x
        eno = seq = sent_at = 0
        status, due = self._status(item), item.due
        if hold == _BOUND:
            counters = self.counters
            if self._current(item):
                eno, seq, sent_at = item.eno, counters.next[client], at
                counters.bound(client, seq + 1, id)
            else:
                hold, due = _WAITING, min(due or item.expire, item.expire)
            self._placed.append((item, hold, eno, seq, status))
        extra = encode_json(x) if x is not None else None
        crc = checksum(id, client, item.sender, item.lane, item.kind, item.at, item.expire, extra, item.body)
        return (
            id, client, item.sender, item.lane, item.kind, hold, status, item.chain, eno, seq, item.at, due,
            item.expire, (x.deadline or 0) if x is not None else 0, sent_at, x.collapse if x is not None else None,
            extra, crc, item.body, item.pid,
        ), hold  # fmt: skip

    def _current(self, item: Item) -> bool:
        """Whether the epoch that it is to be bound to is its session's."""
        return item.eno == self.counters.eno.get(item.client, 0) != 0

    def _status(self, item: Item) -> int:
        """What a new row begins with."""
        if item.hold != _BOUND:
            return item.status
        return item.status or _SENT if self._current(item) else _QUEUED

    def append_reports(self, items: list[Item]) -> None:
        """Status reports that wait."""
        bulk(self._conn, _INSERT, [self._row(item, 0)[0] for item in items])
        ids = [item.id for item in items]
        self.counters.added(len(ids), min(ids), max(ids))

    def _earlier(self, commit: Commit, start: int, end: int) -> dict[Key, list[int]]:
        """What stood before these appends and may be collapsed by them."""
        keys: dict[Key, None] = {}
        for i, item in enumerate(commit.appends[start:end], start):
            if item.x is not None and item.x.collapse is not None and i not in commit.twins:
                keys[item.client, item.sender, item.x.collapse] = None
        found: dict[Key, list[int]] = {}
        for some in chunks(list(keys)):
            source, params = with_values(_EARLIER, [(n, *key) for n, key in enumerate(some)], _EARLIER_ON)
            for n, id in fetch(self._conn, "n,id", source, params):
                found.setdefault(some[n], []).append(id)
        return found

    # -- deduplication ---------------------------------------------------------------------------------------------

    def _find_twins(self, commit: Commit) -> None:
        """Tell repetitions; claim the keys of the rest. Twins within one commit share the first's fate."""
        claims = sorted(commit.keys.items())
        known = self._claims([(claim.publisher, claim.key) for _, claim in claims])
        fates: dict[tuple[str, str], tuple[int, bytes, int]] = {}
        fresh = []
        for i, claim in claims:
            key = (claim.publisher, claim.key)
            fate = fates.get(key)
            if fate is None or (fate[0] == 0 and fate[1] != claim.digest):
                item = commit.appends[i]
                fate = self._fate(known.get(key), claim)
                if fate is None:
                    fates[key] = (item.id, claim.digest, self._status(item))
                    fresh.append((claim.publisher, claim.key, item.id, claim.digest, claim.at))
                    continue
                fates[key] = fate
            id, digest, status = fate
            if id == 0:
                commit.twins[i] = Twin()
            elif digest == claim.digest:
                commit.twins[i] = Twin(id, True, status)
            else:
                commit.twins[i] = Twin(id, False)
        if fresh:
            bulk(
                self._conn,
                "INSERT INTO dedup(publisher,key,id,digest,at) VALUES ",
                fresh,
                " ON CONFLICT DO UPDATE SET id=excluded.id, digest=excluded.digest, at=excluded.at",
            )

    @staticmethod
    def _fate(known: tuple[int, bytes, int, int] | None, claim: KeyClaim) -> tuple[int, bytes, int] | None:
        """(id, digest, status) of the first; id 0: there is none and the quota refuses it; None: it is the first."""
        if known is not None and known[3] >= claim.since:
            return known[:3]
        return (0, claim.digest, 0) if claim.refused else None

    def _claims(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, bytes, int, int]]:
        """(id, digest, status of its message, at) of each key that was claimed."""
        found = {}
        for some in chunks(keys):
            source, params = with_values(_CLAIMS, [(n, *key) for n, key in enumerate(some)], _CLAIMS_ON)
            for n, id, digest, at, status in fetch(self._conn, "n,id,hex(digest),at,status", source, params):
                found[some[n]] = (id, bytes.fromhex(digest), status, at)
        return found

    # -- binds and settles -----------------------------------------------------------------------------------------

    def _bind(self, commit: Commit) -> None:
        counters = self.counters
        ids = [item.id for _, _, items in commit.binds for item in items]
        waiting = {
            id: (client, status)
            for id, client, status in fetch(self._conn, "id,client,status", _WAITS, (ids_json(ids),))
        }
        bound = []
        for client, eno, items in commit.binds:
            if counters.eno.get(client) != eno:
                continue
            following, last = counters.next[client], 0
            for item in items:
                whose, status = waiting.get(item.id, ("", 0))
                if whose != client:
                    continue
                del waiting[item.id]
                bound.append(f"[{item.id},{eno},{following}]")
                self._placed.append((item, _BOUND, eno, following, max(status, _SENT)))
                following += 1
                last = item.id
            if last:
                counters.bound(client, following, last)
        if bound:
            self._conn.execute(_BIND, (commit.at, f"[{','.join(bound)}]"))

    def _settle(self, commit: Commit) -> None:
        groups: dict[tuple[int, int, str], list[int]] = {}
        for status, at, via, ids in _firsts(commit.settles):
            groups.setdefault((status, at, via), []).extend(ids)
        for how, ids in groups.items():
            of = ids_json(ids)
            if self.chained:
                self._conn.execute(_SETTLE_CHAINS, (of,))
            self._conn.execute(_SETTLE, (*how, of))
