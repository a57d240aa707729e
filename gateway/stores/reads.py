"""What a commit reads, after it is on disk."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from gateway.model import Item
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
from gateway.stores.people import People
from gateway.stores.rows import (
    BARE,
    BARE_ROW,
    CHAIN,
    WHOLE,
    WHOLE_ROW,
    Reader,
    chain_row,
    fetch,
    ids_json,
    timelines,
)

_IDS = "(SELECT value FROM json_each(?))"
# the index that leads to them does not tell a message from a status report: it would cost every insert
_OF_LANE = f"SELECT {WHOLE_ROW} FROM messages WHERE hold=1 AND client=? AND lane=? AND id>?"  # noqa: S608
_WAITING = f"{_OF_LANE} ORDER BY id LIMIT ?"
_BARE_WAITING = f"{_OF_LANE} AND kind=0 ORDER BY id LIMIT ?"
_FRESH_WAITING = f"{_OF_LANE} AND kind=0 AND status=0 AND marks=0 ORDER BY id LIMIT ?"
_ITEMS = f"SELECT {WHOLE_ROW} FROM messages WHERE id IN {_IDS}"  # noqa: S608
_DUE = f"SELECT {BARE_ROW} FROM messages WHERE due>0 AND due<=? ORDER BY due,id LIMIT ?"  # noqa: S608
# what waits for deliver_at was never sent; what was sent waits for the delay of a nack, which no chain minds
_ONE_LANE = f"""
SELECT * FROM (
  SELECT {BARE_ROW} FROM messages
  WHERE hold=1 AND client=:client AND lane=%d AND id>:after AND chain=1 AND deadline=0 ORDER BY id LIMIT :limit)
"""  # noqa: S608
_CHAINABLE = f"""
{"UNION ALL".join(_ONE_LANE % lane for lane in range(4))}
UNION ALL SELECT * FROM (
  SELECT {BARE_ROW} FROM messages
  WHERE hold=3 AND client=:client AND id>:after AND chain=1 AND deadline=0 AND (due<=:now OR sent_at>0)
  ORDER BY id LIMIT :limit)
ORDER BY id LIMIT :limit
"""  # noqa: S608
_CHAINS = f"""
SELECT {CHAIN} FROM chains WHERE phase=0 AND channel=:channel AND lane=:lane AND (due,id)>(:due,:id) AND due<=:now
ORDER BY due,id LIMIT :limit
"""  # noqa: S608
_NEXT_CHAIN = "SELECT min(due) FROM chains WHERE phase=0 AND channel=? AND lane=? AND (due,id)>(?,?)"
_RESTING = f"""
SELECT {CHAIN} FROM chains WHERE phase=3 AND (due,id)>(:due,:id) AND due<=:now ORDER BY due,id LIMIT :limit
"""  # noqa: S608
_NEXT_RESTING = "SELECT min(due) FROM chains WHERE phase=3 AND (due,id)>(?,?)"
# where a read of chain rows stands: (due, id)
_Place = tuple[int, int]
_START: _Place = (-1, 0)


class Reads:
    __slots__ = ("_conn", "_people", "_reader")

    def __init__(self, conn: sqlite3.Connection, reader: Reader) -> None:
        self._conn = conn
        self._reader = reader
        self._people = People(conn)

    def run(self, reads: Sequence[Read]) -> None:
        for read in reads:
            if isinstance(read, ReadWaiting):
                self._waiting(read)
            elif isinstance(read, ReadItems):
                self._items(read)
            elif isinstance(read, ReadDue):
                self._due(read)
            elif isinstance(read, ReadChainable):
                rows = self._fetch(
                    BARE,
                    _CHAINABLE,
                    {"client": read.client, "after": read.after, "now": read.now, "limit": read.limit},
                )
                read.items = [self._reader.item(row)[0] for row in rows]
            elif isinstance(read, ReadChains):
                self._chains(read)
            elif isinstance(read, ReadResting):
                place = self._rows(read, _RESTING, {})
                read.next_due = self._next(_NEXT_RESTING, *place)
            elif isinstance(read, ReadStories):
                self._stories(read)
            elif isinstance(read, ReadSuppressed):
                self._people.suppressed(read)
            else:
                self._chain(read)

    def _fetch(self, columns: str, source: str, params: Sequence[Any] | dict[str, Any]) -> list[list[Any]]:
        return fetch(self._conn, columns, source, params)

    def _good(self, rows: list[list[Any]]) -> list[Item]:
        """The Items that can be trusted."""
        return [item for item, good in map(self._reader.item, rows) if good]

    def _waiting(self, read: ReadWaiting) -> None:
        """Corrupt rows are passed over: what stands behind them must not wait for them."""
        source, after = _WAITING, read.after
        if read.fresh:
            source = _FRESH_WAITING
        elif read.bare:
            source = _BARE_WAITING
        while len(read.items) < read.limit:
            left = read.limit - len(read.items)
            rows = self._fetch(WHOLE, source, (read.client, read.lane, after, left))
            read.items += self._good(rows)
            if len(rows) < left:
                break
            after = rows[-1][0]

    def _items(self, read: ReadItems) -> None:
        if read.ids:
            found = {item.id: item for item in self._good(self._fetch(WHOLE, _ITEMS, (ids_json(read.ids),)))}
            read.items = [found[id] for id in dict.fromkeys(read.ids) if id in found]

    def _due(self, read: ReadDue) -> None:
        rows = self._fetch(BARE, _DUE, (read.now, read.limit))
        read.items = [self._reader.item(row)[0] for row in rows]
        if len(rows) < read.limit:
            # `due>0` as a term of its own: only by that SQLite knows that the partial index has all of them
            found = self._conn.execute(
                "SELECT min(due) FROM messages WHERE due>0 AND due>?", (read.now,)
            ).fetchall()[0][0]
        else:
            last = read.items[-1]
            found = self._conn.execute(
                "SELECT min(due) FROM messages WHERE due>0 AND (due,id)>(?,?)", (last.due, last.id)
            ).fetchall()[0][0]
        read.next_due = found or 0

    def _chains(self, read: ReadChains) -> None:
        """Lane by lane; of each the earliest that is left, too."""
        following = []
        for lane in range(4):
            place = self._rows(read, _CHAINS, {"channel": read.channel, "lane": lane})
            following.append(self._next(_NEXT_CHAIN, read.channel, lane, *place))
        read.next_due = min(filter(None, following), default=0)

    def _rows(self, read: ReadChains | ReadResting, source: str, of: dict[str, Any]) -> _Place:
        """As many as there is room for; where that ended. Rows whose message is gone or corrupt are passed over, and do
        not count as due any more this time.
        """
        due, id = _START
        while len(read.rows) < read.limit:
            left = read.limit - len(read.rows)
            found = self._fetch(CHAIN, source, {**of, "due": due, "id": id, "now": read.now, "limit": left})
            items = {
                item.id: item
                for item in self._good(self._fetch(WHOLE, _ITEMS, (ids_json(row[0] for row in found),)))
            }
            read.rows += [(chain_row(row), items[row[0]]) for row in found if row[0] in items]
            if found:
                id, due = found[-1][0], found[-1][4]
            if len(found) < left:
                break
        return due, id

    def _next(self, source: str, *params: Any) -> int:
        following: int | None = self._conn.execute(source, params).fetchall()[0][0]
        return following or 0

    def _stories(self, read: ReadStories) -> None:
        ids = ids_json(read.ids)
        items = self._good(self._fetch(WHOLE, _ITEMS, (ids,)))
        rows = {
            row[0]: chain_row(row)
            for row in self._fetch(CHAIN, f"SELECT {CHAIN} FROM chains WHERE id IN {_IDS}", (ids,))  # noqa: S608
        }
        events = timelines(self._conn, read.ids)
        read.found = {item.id: Story(item, rows.get(item.id), events.get(item.id, [])) for item in items}

    def _chain(self, read: ReadChain) -> None:
        rows = self._fetch(CHAIN, f"SELECT {CHAIN} FROM chains WHERE id=?", (read.id,))  # noqa: S608
        read.row = chain_row(rows[0]) if rows else None
        items = self._good(self._fetch(WHOLE, _ITEMS, (ids_json([read.id]),)))
        read.item = items[0] if items else None
