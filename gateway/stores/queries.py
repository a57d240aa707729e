"""What the API asks: committed state only, in short transactions on a connection of its own."""

import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from gateway.commit import MessageView
from gateway.ids import MAX_ID, TIME_SHIFT
from gateway.model import Kind
from gateway.stores.rows import (
    BARE,
    BARE_ROW,
    CHAIN,
    WHOLE,
    WHOLE_ROW,
    Reader,
    chain_row,
    chunks,
    encode_json,
    fetch,
    ids_json,
    timelines,
)

# rows that one transaction looks at
SLICE = 10_000

_TIMES = ",sent_at,ended_at,replayed"
_IDS = "(SELECT value FROM json_each(?))"
_LATEST = f"""
SELECT sender, pid, max(id) AS id FROM messages
WHERE id>=? AND id<? AND pid>0 AND kind=0 AND at>=? AND sender IN {_IDS} GROUP BY sender, pid
"""  # noqa: S608
_ITEMS = f"SELECT {WHOLE_ROW} FROM messages WHERE id IN {_IDS}"  # noqa: S608


class Page(NamedTuple):
    """A slice of a listing, and where the next one goes on: ids below `before`; 0 = the end was reached."""

    views: list[MessageView]
    before: int


class Uplinks:
    """What `uplinks` has found: client -> packet id -> (id, body). It goes on with ids below `before`; 0 = the end
    was reached. `left`: how many packet ids of each client are still looked for.
    """

    __slots__ = ("before", "floor", "found", "left", "seen", "since")

    def __init__(self, clients: list[str], since: int, last: int) -> None:
        self.left = dict.fromkeys(clients, last)
        self.since = since
        self.floor = since << TIME_SHIFT  # no message accepted since then has a lower id
        self.before = MAX_ID if clients else 0
        self.found: dict[str, dict[int, tuple[int, bytes]]] = {}
        self.seen: set[tuple[str, int]] = set()

    def newest(self, rows: list[list[Any]]) -> dict[int, tuple[str, int]]:
        """Of rows (client, packet id, id) those that count: id -> (client, packet id)."""
        fresh: dict[int, tuple[str, int]] = {}
        for client, pid, id in sorted(rows, key=itemgetter(2), reverse=True):
            if (client, pid) in self.seen or client not in self.left:
                continue
            self.seen.add((client, pid))
            fresh[id] = client, pid
            self.left[client] -= 1
            if not self.left[client]:
                del self.left[client]
        return fresh


class Queries:
    __slots__ = ("_reader", "conn")

    def __init__(self, conn: sqlite3.Connection, reader: Reader) -> None:
        self.conn = conn
        self._reader = reader

    def close(self) -> None:
        self.conn.close()

    def message(self, id: int) -> MessageView | None:
        conn = self.conn
        conn.execute("BEGIN")
        try:
            one = f"SELECT {WHOLE_ROW}{_TIMES} FROM messages WHERE id=?"  # noqa: S608
            rows = fetch(conn, WHOLE + _TIMES, one, (id,))
            if not rows:
                return None
            view = self._view(rows[0])
            view.events = timelines(conn, [id]).get(id, [])
            chains = fetch(conn, CHAIN, f"SELECT {CHAIN} FROM chains WHERE id=?", (id,))  # noqa: S608
            view.chain_row = chain_row(chains[0]) if chains else None
            return view
        finally:
            conn.execute("COMMIT")

    def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> Page:
        """One slice. There is no index of all rows by client: it would cost every insert a page of its own. So a
        listing looks at the newest rows, SLICE at a time, each slice in its own transaction.
        """
        floor = self._floor("id<?", before)
        if floor == 0:
            return Page([], 0)
        where, params = _filters({"client": to, "sender": sender})
        if statuses is not None:
            where += f" AND status IN {_IDS}"
            params.append(ids_json(statuses))
        rows = fetch(
            self.conn,
            BARE + _TIMES,
            f"SELECT {BARE_ROW}{_TIMES} FROM messages WHERE id>=? AND id<? AND kind=? AND client<>''{where}"  # noqa: S608
            " ORDER BY id DESC LIMIT ?",
            (floor, before, int(Kind.MESSAGE), *params, limit),
        )
        return Page([self._view(row) for row in rows], floor)

    def _floor(self, where: str, before: int) -> int:
        """The lowest id of the SLICE rows below `before`; 0 = there are none."""
        found: int | None = self.conn.execute(
            f"SELECT min(id) FROM (SELECT id FROM messages WHERE {where} ORDER BY id DESC LIMIT ?)",  # noqa: S608
            (before, SLICE),
        ).fetchall()[0][0]
        return found or 0

    def dead_letters(self, to: str | None, why: str | None, before: int, limit: int, replayed: bool) -> Page:
        """One slice, over the index of dead letters."""
        where, params = _filters({"client": to, "why": why})
        if not replayed:
            where += " AND replayed=0"
        conn = self.conn
        conn.execute("BEGIN")
        try:
            floor = self._floor("status=10 AND id<?", before)
            rows = fetch(
                conn,
                WHOLE + _TIMES,
                f"SELECT {WHOLE_ROW}{_TIMES} FROM messages"  # noqa: S608
                f" WHERE status=10 AND id>=? AND id<? AND kind=? AND client<>''{where} ORDER BY id DESC LIMIT ?",
                (floor, before, int(Kind.MESSAGE), *params, limit),
            )
            views = [self._view(row) for row in rows]
            events = timelines(conn, (view.item.id for view in views))
        finally:
            conn.execute("COMMIT")
        for view in views:
            view.events = events.get(view.item.id, [])
        return Page(views, floor)

    def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        found: list[tuple[int, bytes]] = self.conn.execute(
            "SELECT id,digest FROM dedup WHERE publisher=? AND key=?", (publisher, key)
        ).fetchall()
        return found[0] if found else None

    def waiting(self) -> dict[str, int]:
        """Chain rows that wait, by channel: from their index alone."""
        return dict(
            self.conn.execute(
                "SELECT channel,count(*) FROM chains WHERE phase=0 GROUP BY channel ORDER BY channel"
            ).fetchall()
        )

    def uplinks(self, asked: Uplinks) -> None:
        """One slice. A message that is corrupt is left out, and so is what it followed: it is not the latest."""
        conn = self.conn
        conn.execute("BEGIN")
        try:
            floor = max(self._floor("id<?", asked.before), asked.floor)
            wanted = encode_json(list(asked.left)).decode()
            latest = fetch(conn, "sender,pid,id", _LATEST, (floor, asked.before, asked.since, wanted))
            fresh = asked.newest(latest)
            for some in chunks(list(fresh)):
                for row in fetch(conn, WHOLE, _ITEMS, (ids_json(some),)):
                    item, _ = self._reader.item(row)
                    client, pid = fresh[item.id]
                    if item.body is not None:
                        asked.found.setdefault(client, {})[pid] = item.id, item.body
        finally:
            conn.execute("COMMIT")
        asked.before = floor if floor > asked.floor and asked.left else 0

    def _view(self, row: Sequence[Any]) -> MessageView:
        sent_at, ended_at, replayed = row[-3:]
        item, _ = self._reader.item(row[:-3])
        return MessageView(item, sent_at, ended_at, replayed, [])


def _filters(equal: dict[str, str | None]) -> tuple[str, list[Any]]:
    """` AND column=?…` for what is asked, and its parameters."""
    asked = {column: value for column, value in equal.items() if value is not None}
    return "".join(f" AND {column}=?" for column in asked), list(asked.values())
