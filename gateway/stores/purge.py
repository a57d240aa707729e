"""What leaves the store: swept by age and number, dead letters dropped, a client forgotten."""

import sqlite3
from typing import Any

from gateway.commit import DropDead, Forget, Sweep
from gateway.model import Hold, Status
from gateway.records import ClientRecord
from gateway.stores.counters import Counters
from gateway.stores.rows import encode_json, fetch, ids_json

# a slice of a sweep looks at so many rows for each that it may purge
LOOK = 8

_NONE, _DEAD = int(Hold.NONE), int(Status.DEAD)
_ACCEPTED = int(Status.PROVIDER_ACCEPTED)
_IDS = "(SELECT value FROM json_each(?))"
_LOOK = """
SELECT m.id,m.at,m.hold,m.status,m.ended_at,
  EXISTS (SELECT 1 FROM gaps AS g WHERE g.client=m.client AND g.seq=m.seq AND g.mid=m.id) AS gap
FROM messages AS m WHERE m.id>? ORDER BY m.id LIMIT ?
"""
_LETTERS = "SELECT id FROM messages WHERE status=10 AND hold=0 AND client<>''"
_OLD_KEYS = """
DELETE FROM dedup WHERE (publisher,key) IN (
  SELECT publisher,key FROM dedup WHERE at<? ORDER BY at,publisher,key LIMIT ?)
"""
# a tombstone keeps id, lane, kind, status and times
_BURY = """
UPDATE messages SET client='', sender='', hold=0, chain=0, eno=0, seq=0, due=0, deadline=0, marks=0, tries=0,
  crashes=0, via='', why='', collapse=NULL, replayed=0, extra=NULL, crc=0, body=NULL, pid=0,
  ended_at=iif(status<3 OR (status=3 AND ended_at=0),?1,ended_at),
  status=iif(status<3 OR (status=3 AND ended_at=0),9,status)
WHERE id IN (SELECT value FROM json_each(?2))
"""


def _ended(status: int, ended_at: int) -> bool:
    """What a provider has accepted has ended where its row says when."""
    return status > _ACCEPTED or (status == _ACCEPTED and ended_at > 0)


class Purge:
    """`_at`: where the sweep stands. A pass goes by id, so that what lives long is looked at once a pass."""

    __slots__ = ("_at", "_conn", "_counters")

    def __init__(self, conn: sqlite3.Connection, counters: Counters) -> None:
        self._conn = conn
        self._counters = counters
        self._at = 0

    def sweep(self, op: Sweep) -> None:
        """A slice: up to LOOK × `limit` rows are looked at. The pass ends with the first row that is too young."""
        excess = self._counters.rows - op.max_rows
        young = max(op.ended_before, op.dead_before)
        gone: list[int] = []
        op.more = True
        for _ in range(LOOK):
            rows = self._look(self._at, op.limit)
            for id, at, hold, status, ended_at, gap in rows:
                if len(gone) == op.limit:
                    break
                over = len(gone) < excess
                if at >= young and not over:
                    op.more = False
                    break
                self._at = id
                old = ended_at < (op.dead_before if status == _DEAD else op.ended_before)
                if _ended(status, ended_at) and hold == _NONE and not gap and (old or over):
                    gone.append(id)
            if len(rows) < op.limit and len(gone) < op.limit:
                op.more = False
            if not op.more or len(gone) == op.limit:
                break
        if not op.more:
            self._at = 0
        op.purged = len(gone)
        self._delete(gone)
        keys = self._conn.execute(_OLD_KEYS, (op.keys_before, op.limit)).rowcount
        op.more = op.more or keys == op.limit

    def _look(self, after: int, limit: int) -> list[list[Any]]:
        return fetch(self._conn, "id,at,hold,status,ended_at,gap", _LOOK, (after, limit))

    def _delete(self, ids: list[int]) -> None:
        """Rows, with all that hangs on them."""
        if not ids:
            return
        of = (ids_json(ids),)
        self._conn.execute(f"DELETE FROM messages WHERE id IN {_IDS}", of)  # noqa: S608
        self._conn.execute(f"DELETE FROM events WHERE mid IN {_IDS}", of)  # noqa: S608
        self._conn.execute(f"DELETE FROM chains WHERE id IN {_IDS}", of)  # noqa: S608
        self._counters.deleted(len(ids), max(ids))

    def drop_dead(self, op: DropDead) -> None:
        if op.ids is None:
            rows = fetch(self._conn, "id", _LETTERS)
        else:
            rows = fetch(self._conn, "id", f"{_LETTERS} AND id IN {_IDS}", (ids_json(op.ids),))
        ids = [row[0] for row in rows]
        op.count = len(ids)
        self._delete(ids)

    def forget(self, op: Forget) -> None:
        """Looks at every row once, about 0.3 s for a million: no index leads from a client to what has ended."""
        client = op.client
        rows = fetch(
            self._conn,
            "id,status,ended_at",
            "SELECT id,status,ended_at FROM messages WHERE client=? ORDER BY id",
            (client,),
        )
        op.ended = [id for id, status, ended_at in rows if not _ended(status, ended_at)]
        ids = ids_json(row[0] for row in rows)
        self._conn.execute(f"DELETE FROM events WHERE mid IN {_IDS}", (ids,))  # noqa: S608
        self._conn.execute(_BURY, (op.at, ids))
        for table in ("gaps", "chains", "sessions"):
            self._conn.execute(f"DELETE FROM {table} WHERE client=?", (client,))  # noqa: S608
        self._conn.execute("DELETE FROM dedup WHERE publisher=?", (client,))
        self._conn.execute(
            """
            INSERT INTO clients(client,record,not_before,banned_until) VALUES (?,?,?,0)
            ON CONFLICT(client) DO UPDATE SET record=excluded.record, banned_until=0,
              not_before=max(not_before,excluded.not_before)
            """,
            (client, encode_json(ClientRecord()), op.not_before),
        )
        self._counters.forget(client)
