"""What the API asks: committed state only, in short transactions on a connection of its own."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gateway.commit import Event, MessageView
from gateway.model import Kind
from gateway.stores.rows import (
    BARE,
    BARE_ROW,
    CHAIN,
    WHOLE,
    WHOLE_ROW,
    Reader,
    chain_row,
    decode_data,
    fetch,
    ids_json,
)

# rows that one transaction looks at
SLICE = 10_000

_TIMES = ",sent_at,ended_at,replayed"
_IDS = "(SELECT value FROM json_each(?))"


class Page(NamedTuple):
    """A slice of a listing, and where the next one goes on: ids below `before`; 0 = the end was reached."""

    views: list[MessageView]
    before: int


class Queries:
    __slots__ = ("_conn", "_reader")

    def __init__(self, conn: sqlite3.Connection, reader: Reader) -> None:
        self._conn = conn
        self._reader = reader

    def close(self) -> None:
        self._conn.close()

    def message(self, id: int) -> MessageView | None:
        conn = self._conn
        conn.execute("BEGIN")
        try:
            one = f"SELECT {WHOLE_ROW}{_TIMES} FROM messages WHERE id=?"  # noqa: S608
            rows = fetch(conn, WHOLE + _TIMES, one, (id,))
            if not rows:
                return None
            view = self._view(rows[0])
            view.events = self._events([id]).get(id, [])
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
            self._conn,
            BARE + _TIMES,
            f"SELECT {BARE_ROW}{_TIMES} FROM messages WHERE id>=? AND id<? AND kind=? AND client<>''{where}"  # noqa: S608
            " ORDER BY id DESC LIMIT ?",
            (floor, before, int(Kind.MESSAGE), *params, limit),
        )
        return Page([self._view(row) for row in rows], floor)

    def _floor(self, where: str, before: int) -> int:
        """The lowest id of the SLICE rows below `before`; 0 = there are none."""
        found: int | None = self._conn.execute(
            f"SELECT min(id) FROM (SELECT id FROM messages WHERE {where} ORDER BY id DESC LIMIT ?)",  # noqa: S608
            (before, SLICE),
        ).fetchall()[0][0]
        return found or 0

    def dead_letters(self, to: str | None, why: str | None, before: int, limit: int, replayed: bool) -> Page:
        """One slice, over the index of dead letters."""
        where, params = _filters({"client": to, "why": why})
        if not replayed:
            where += " AND replayed=0"
        conn = self._conn
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
            events = self._events(view.item.id for view in views)
        finally:
            conn.execute("COMMIT")
        for view in views:
            view.events = events.get(view.item.id, [])
        return Page(views, floor)

    def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        found: list[tuple[int, bytes]] = self._conn.execute(
            "SELECT id,digest FROM dedup WHERE publisher=? AND key=?", (publisher, key)
        ).fetchall()
        return found[0] if found else None

    def _view(self, row: Sequence[Any]) -> MessageView:
        sent_at, ended_at, replayed = row[-3:]
        item, _ = self._reader.item(row[:-3])
        return MessageView(item, sent_at, ended_at, replayed, [])

    def _events(self, ids: Iterable[int]) -> dict[int, list[Event]]:
        """The timelines of these messages, each in the order of their times."""
        found: dict[int, list[Event]] = {}
        for id, at, kind, data in self._conn.execute(
            f"SELECT mid,at,kind,data FROM events WHERE mid IN {_IDS} ORDER BY mid,at,rowid",  # noqa: S608
            (ids_json(ids),),
        ):
            found.setdefault(id, []).append(
                Event(id, at, kind, decode_data(data) if data is not None else None)
            )
        return found


def _filters(equal: dict[str, str | None]) -> tuple[str, list[Any]]:
    """` AND column=?…` for what is asked, and its parameters."""
    asked = {column: value for column, value in equal.items() if value is not None}
    return "".join(f" AND {column}=?" for column in asked), list(asked.values())
