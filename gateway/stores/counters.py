"""Numbers that the writer carries in memory and that must be exact after a SIGKILL: the next seq of each session, how
many rows there are, the highest id.

Writing them with every message would double what a commit writes. So they are written rarely, with a `floor`: the
highest id at that moment. What has happened since follows from the rows above it:

    next    the greater of `sessions.next` and 1 + the highest seq among the session's rows above the floor
    rows    those counted at the floor and those above it
    highest the greater of the floor and the highest row

That holds as long as what these rules look at stays there. Where it does not, the transaction that takes it away
writes: a seq leaves its row (an epoch ends, a chain takes over) or is bound to a row below the floor: that session's
`next`; a row below the floor is deleted: `rows`; a row above it is deleted, or one below it added: everything, and
the floor moves up. It also moves every FLUSH_ROWS rows, so that a start counts no more than those, and at the end.
"""

import sqlite3
from collections.abc import Iterable

from gateway.stores.rows import bulk

FLUSH_ROWS = 20_000


class Counters:
    """`next` and `eno` by client, for every session there is. Lives as long as one opening of the store."""

    __slots__ = ("_base", "_conn", "_flush", "_fresh", "_missed", "_purged", "_save", "_unwritten", "eno", "floor",
                 "highest", "next", "rows")  # fmt: skip

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self.next: dict[str, int] = {}
        self.eno: dict[str, int] = {}
        self._unwritten: dict[str, None] = {}  # whose `next` only rows above the floor tell
        self._save: dict[str, None] = {}  # whose `next` this transaction writes
        self._missed: dict[str, list[int]] = {}
        self._flush = False
        self._purged = False
        meta = dict(conn.execute("SELECT key,value FROM meta WHERE key IN ('floor','rows')"))
        self.floor: int = meta["floor"]
        self._base: int = meta["rows"]
        count, highest = conn.execute(
            "SELECT count(*),max(id) FROM messages WHERE id>?", (self.floor,)
        ).fetchone()
        self._fresh: int = count  # rows above the floor, about
        self.rows = self._base + count
        self.highest: int = max(self.floor, highest or 0)
        for client, eno, following in conn.execute("SELECT client,eno,next FROM sessions"):
            self.eno[client] = eno
            self.next[client] = following
        for client, eno, seq in conn.execute(
            "SELECT client,eno,max(seq) FROM messages WHERE id>? AND seq>0 GROUP BY client,eno", (self.floor,)
        ):
            if self.eno.get(client) == eno and seq >= self.next[client]:
                self.next[client] = seq + 1
                self._unwritten[client] = None

    # -- what a transaction does -----------------------------------------------------------------------------------

    def bound(self, client: str, following: int, id: int) -> None:
        """Seqs below `following` are bound now, the highest of them to the row `id`."""
        self.next[client] = following
        if id > self.floor:
            self._unwritten[client] = None
        else:
            self._save[client] = None

    def unbound(self, client: str) -> None:
        """A seq of this client has left its row."""
        if client in self.next:
            self._save[client] = None

    def added(self, count: int, lowest: int, highest: int) -> None:
        """`count` new rows, their ids between these two."""
        self.rows += count
        self._fresh += count
        self.highest = max(self.highest, highest)
        if lowest <= self.floor or self._fresh >= FLUSH_ROWS:
            self._flush = True

    def deleted(self, count: int, highest: int) -> None:
        """`count` rows are gone; `highest` is the highest of their ids."""
        self.rows -= count
        if highest > self.floor:
            self._flush = True
        else:
            self._base -= count
            self._purged = True

    def session(self, client: str, eno: int, following: int) -> int:
        """A session's row is being written. Tells the `next` to write: of a known epoch it is counted here."""
        if self.eno.get(client) != eno:
            self.eno[client] = eno
            self.next[client] = following
        self._unwritten.pop(client, None)
        self._save.pop(client, None)
        return self.next[client]

    def forget(self, client: str) -> None:
        for of in (self.next, self.eno, self._unwritten, self._save, self._missed):
            of.pop(client, None)

    def missed(self, client: str, why: str, count: int = 1) -> None:
        """Messages ended undelivered, without a seq of the current epoch. A client without a session missed nothing."""
        if client in self.eno:
            counts = self._missed.setdefault(client, [0, 0, 0])
            counts[("expired", "superseded", "dead").index(why)] += count

    # -- what it writes --------------------------------------------------------------------------------------------

    def write_missed(self) -> None:
        if self._missed:
            bulk(
                self._conn,
                "UPDATE sessions SET expired=expired+column2, superseded=superseded+column3, dead=dead+column4"
                " FROM (VALUES ",
                [(client, *counts) for client, counts in self._missed.items()],
                ") AS v WHERE client=v.column1",
            )
            self._missed.clear()

    def _write_next(self, clients: Iterable[str]) -> None:
        bulk(
            self._conn,
            "UPDATE sessions SET next=column2 FROM (VALUES ",
            [(client, self.next[client]) for client in clients],
            ") AS v WHERE client=v.column1",
        )

    def finish(self) -> None:
        """The last thing in a transaction: write what it must."""
        self.write_missed()
        if self._flush:
            self.flush()
            return
        if self._save:
            self._write_next(self._save)
            for client in self._save:
                self._unwritten.pop(client, None)
            self._save.clear()
        if self._purged:
            self._conn.execute("UPDATE meta SET value=? WHERE key='rows'", (self._base,))
            self._purged = False

    def flush(self) -> None:
        """Write everything and move the floor up."""
        self._write_next(self._unwritten | self._save)
        self._unwritten.clear()
        self._save.clear()
        self.floor, self._base, self._fresh = self.highest, self.rows, 0
        self._conn.execute(
            "UPDATE meta SET value=iif(key='floor',?,?) WHERE key IN ('floor','rows')",
            (self.floor, self._base),
        )
        self._flush = self._purged = False
