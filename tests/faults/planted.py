"""The gateway with a bug in it: `python -m tests.faults.planted BUG serve --config …`.

A fault test that has never been seen to fail proves nothing. Each test here runs once more against the bug that it is
there to find, and must find it.
"""

import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from gateway.cli import main
from gateway.commit import Sink
from gateway.hub.hub import Hub
from gateway.hub.intake import Intake
from gateway.hub.joining import Joining
from gateway.transports.websocket import server


def acked_before_commit() -> None:
    """Publishers are told `ok` when the message comes in, not when it is on disk."""
    add = Intake.add

    class Told:
        def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
            """It was told already."""

        def refused(self, ref: Any, error: Exception) -> None:
            """It was told the contrary already."""

    def early(self: Intake, commit: Any, session: Any, item: Any, sink: Sink | None, ref: Any) -> None:
        add(self, commit, session, item, Told() if sink is not None else None, ref)
        if sink is not None:
            sink.stored(ref, item.id, False, 0)

    Intake.add = early  # type: ignore[method-assign]


def synchronous_off() -> None:
    """Commits do not wait for the disk."""
    connect = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(
                sql.replace("synchronous=FULL", "synchronous=OFF").replace(
                    "synchronous = FULL", "synchronous = OFF"
                ),
                *args,
            )

    def careless(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Careless)

    sqlite3.connect = careless  # type: ignore[assignment]


def unmarked() -> None:
    """What is written again after a start carries no mark."""
    apply = Joining._apply

    def forgetful(self: Joining, session: Any, join: Any, read: Any) -> None:
        apply(self, session, join, read)
        for item in session.window.items:
            item.marks = 0
            item.written = False

    Joining._apply = forgetful  # type: ignore[method-assign]


def full_is_fine() -> None:
    """A commit that found the disk full is taken for one that succeeded."""

    def deaf(self: Hub, commit: Any, error: Exception | None) -> None:
        self.core.busy = False
        self.intake.committed(commit)
        for op in commit.ops:
            if op.then is not None:
                op.then(op)
        for read in commit.reads:
            read.then(read)
        self.core.end_turn()
        if error is not None:
            self._reopen()

    Hub._finish = deaf  # type: ignore[method-assign]


def unbounded() -> None:
    """Stalled readers are never let go, and buffers have no limit."""
    start = server.WebSocketServer.__init__

    def generous(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.stall_ms = 1 << 40
        self.pile_limit = self.pile_high = 1 << 40

    server.WebSocketServer.__init__ = generous  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    f.__name__: f for f in (acked_before_commit, synchronous_off, unmarked, full_is_fine, unbounded)
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    sys.argv = [sys.argv[0], *sys.argv[2:]]
    sys.exit(main())
