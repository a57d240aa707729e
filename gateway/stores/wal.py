"""The write-ahead log: how long it is, and when it is copied into the database.

A commit only appends to the log. Copying is done between commits: when nothing waits and the log is longer than SOFT
pages, or when it is longer than HARD. So the log stays small, a slice of copying is short, and no commit pays for it.

SQLite does not tell how long the log is without copying it, and the file keeps its size when the log starts over. The
file's format tells: frames of the present log carry the salt of its header (https://sqlite.org/fileformat2.html#walformat).
"""

import os
import sqlite3
import time
from pathlib import Path

SOFT = 2_000
HARD = 8_000
# after a copy that could not be completed (a reader stood in the way) the log grows by so much before the next
AGAIN = 1_000

_HEADER, _FRAME, _SALT = 32, 24, 8


class Wal:
    """`seconds` and `checkpoints` are sums. Raises sqlite3.Error where copying fails."""

    __slots__ = ("_conn", "_fd", "_hard", "_page", "_path", "_soft", "checkpoints", "seconds")

    def __init__(self, conn: sqlite3.Connection, database: Path) -> None:
        self._conn = conn
        self._path = database.with_name(f"{database.name}-wal")
        # SQLite locks the database and its -shm by the process; this file it does not, so it can be closed freely
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._page: int = conn.execute("PRAGMA page_size").fetchone()[0]
        self._soft, self._hard = SOFT, HARD
        self.checkpoints = 0
        self.seconds = 0.0

    def close(self) -> None:
        os.close(self._fd)

    def longer_than(self, pages: int) -> bool:
        """Whether the log has that many pages."""
        salt = os.pread(self._fd, _SALT, 16)
        frame = os.pread(self._fd, _SALT, _HEADER + (pages - 1) * (_FRAME + self._page) + 8)
        return len(frame) == _SALT and frame == salt

    def long(self) -> bool:
        """Whether it is time to copy it when nothing waits."""
        return self.longer_than(self._soft)

    def after_commit(self, waiting: bool) -> None:
        """Copy a slice if it is time. `waiting`: a commit waits."""
        if not self.longer_than(self._hard if waiting else self._soft):
            return
        started = time.perf_counter()
        _, pages, copied = self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
        self.seconds += time.perf_counter() - started
        self.checkpoints += 1
        if copied < pages:
            self._soft, self._hard = pages + AGAIN, max(pages + AGAIN, HARD)
        else:
            self._soft, self._hard = SOFT, HARD
