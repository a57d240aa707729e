"""What is written by client: sessions, records, gaps, ended epochs, what chains give back."""

import sqlite3
from typing import Any

from gateway.commit import Gap, PutClient, PutSession, Reclaim, SettleGaps, Unbind
from gateway.model import Hold, Missed
from gateway.stores.counters import Counters
from gateway.stores.rows import bulk, encode_json, fetch, ids_json

_NONE, _CLAIMED = int(Hold.NONE), int(Hold.CLAIMED)

PUT_GAP = "INSERT OR REPLACE INTO gaps(client,seq,eno,mid,why,via) VALUES "

_PUT_SESSION = (
    "INSERT INTO sessions(client,epoch,eno,next,token_presented,token_issued,away_since,created,seen,sub,keep)"
    " VALUES "
)
_PUT_SESSION_OVER = """
ON CONFLICT(client) DO UPDATE SET epoch=excluded.epoch, eno=excluded.eno, next=excluded.next,
  token_presented=excluded.token_presented, token_issued=excluded.token_issued, away_since=excluded.away_since,
  created=excluded.created, seen=excluded.seen, sub=excluded.sub, keep=excluded.keep
"""
# v: client, whether what was told is known to have arrived
_TELL = """
) AS v WHERE client=v.column1 AND (expired OR superseded OR dead OR told_expired OR told_superseded OR told_dead)
"""
_TELL_SETS = ", ".join(
    f"{name}={left}, told_{name}={left}"
    for name in ("expired", "superseded", "dead")
    for left in (f"max(0,{name}-told_{name}*v.column2)",)
)
_IDS = "(SELECT value FROM json_each(?))"
_GAP_COUNTS = f"SELECT client,why,count(*) AS n FROM gaps WHERE client IN {_IDS} GROUP BY client,why"  # noqa: S608
_CHAINS_OF = """
SELECT c.id,c.client,c.phase,c.burnt,c.why,c.channel,m.hold,m.status,m.eno,m.seq,m.sent_at
FROM json_each(?) AS j CROSS JOIN chains AS c ON c.client=j.value JOIN messages AS m ON m.id=c.id
WHERE c.phase<>2
"""
# a message that was sent before says so when it comes again
_BACK = "status=iif(sent_at>0,1,0), marks=max(marks,sent_at>0)"
# what waits is looked at when its time to live ends, at the latest
_WAITS = "due=iif(due BETWEEN 1 AND expire,due,expire), eno=0, seq=0"


def gap_values(gap: Gap) -> tuple[Any, ...]:
    """A row for PUT_GAP."""
    return gap.client, gap.seq, gap.eno, gap.id, gap.why, gap.via


class Clients:
    __slots__ = ("_conn", "_counters")

    def __init__(self, conn: sqlite3.Connection, counters: Counters) -> None:
        self._conn = conn
        self._counters = counters

    def put_client(self, op: PutClient) -> None:
        row = op.row
        self._conn.execute(
            "INSERT OR REPLACE INTO clients(client,record,not_before,banned_until) VALUES (?,?,?,?)",
            (row.client, encode_json(row.record), row.not_before, row.banned_until),
        )

    def put_sessions(self, ops: list[PutSession]) -> None:
        """At most one for a client."""
        self._counters.write_missed()
        rows = []
        for op in ops:
            row = op.row
            following = self._counters.session(row.client, row.eno, row.next)
            rows.append(
                (
                    row.client, row.epoch, row.eno, following, row.token_presented, row.token_issued, row.away_since,
                    row.created, row.seen, row.sub, row.keep,
                )
            )  # fmt: skip
        bulk(self._conn, _PUT_SESSION, rows, _PUT_SESSION_OVER)
        welcomes = {op.row.client: op for op in ops if op.proven is not None}
        if not welcomes:
            return
        bulk(
            self._conn,
            f"UPDATE sessions SET {_TELL_SETS} FROM (VALUES ",  # noqa: S608
            [(client, int(op.proven is True)) for client, op in welcomes.items()],
            _TELL,
        )
        for client, expired, superseded, dead in fetch(
            self._conn,
            "client,expired,superseded,dead",
            f"SELECT * FROM sessions WHERE client IN {_IDS} AND (expired OR superseded OR dead)",  # noqa: S608
            (encode_json(list(welcomes)).decode(),),
        ):
            welcomes[client].missed = Missed(expired, superseded, dead)

    def settle_gaps(self, ops: list[SettleGaps]) -> None:
        """Any number for a client."""
        pairs = [(op.client, seq) for op in ops for seq in op.seqs]
        self._conn.execute(
            """
            DELETE FROM gaps WHERE (client,seq) IN (
              SELECT json_extract(value,'$[0]'), json_extract(value,'$[1]') FROM json_each(?))
            """,
            (encode_json(pairs).decode(),),
        )

    def unbind(self, ops: list[Unbind]) -> None:
        """At most one for a client."""
        clients = encode_json([op.client for op in ops]).decode()
        for client, why, count in fetch(self._conn, "client,why,n", _GAP_COUNTS, (clients,)):
            self._counters.missed(client, why, count)
        self._conn.execute(f"DELETE FROM gaps WHERE client IN {_IDS}", (clients,))  # noqa: S608
        for op in ops:
            self._counters.unbound(op.client)
        self.unbind_ids([id for op in ops for id in op.ids])

    def unbind_ids(self, ids: list[int]) -> None:
        if not ids:
            return
        of = (ids_json(ids),)
        self._update(f"hold=1, marks=max(marks,1), {_WAITS}", "+hold=2", of)
        self._update("hold=0, eno=0, seq=0", "+hold=4", of)

    def _update(self, sets: str, where: str, ids: tuple[str]) -> None:
        self._conn.execute(f"UPDATE messages SET {sets} WHERE id IN {_IDS} AND {where}", ids)  # noqa: S608

    def reclaim(self, ops: list[Reclaim]) -> None:
        """At most one for a client."""
        by_client = {op.client: op for op in ops}
        parked: list[int] = []
        back: list[int] = []
        waiting: list[int] = []
        lost: list[int] = []
        found = fetch(
            self._conn,
            "id,client,phase,burnt,why,channel,hold,status,eno,seq,sent_at",
            _CHAINS_OF,
            (encode_json(list(by_client)).decode(),),
        )
        # by seq, then by id, whatever the order of the index
        for row in sorted(found, key=lambda row: (row[9], row[0])):
            id, client, phase, burnt, why, channel, hold, status, eno, seq, _ = row
            op = by_client[client]
            free = phase == 0 and not burnt and why == "offline" and status < 3
            if free and hold == _CLAIMED:
                parked.append(id)
                back.append(id)
                op.back.append(id)
            elif free and hold == _NONE:
                parked.append(id)
                waiting.append(id)
                op.waiting += 1
                if seq:
                    self._counters.unbound(client)
            elif hold == _CLAIMED:
                lost.append(id)
                op.gaps.append(Gap(client, eno, seq, id, "superseded", channel))
        if parked:
            self._conn.execute(f"UPDATE chains SET phase=2 WHERE id IN {_IDS}", (ids_json(parked),))  # noqa: S608
        if back:
            self._update(f"hold=2, {_BACK}", "+hold=4", (ids_json(back),))
        if waiting:
            self._update(f"hold=1, {_BACK}, {_WAITS}", "+hold=0", (ids_json(waiting),))
        if lost:
            self._update("hold=0", "+hold=4", (ids_json(lost),))
            bulk(self._conn, PUT_GAP, [gap_values(gap) for op in ops for gap in op.gaps])
