"""A gateway's store that holds a great deal before its gateway starts, written by the store itself."""

import os
import threading
import time
from pathlib import Path

import msgspec

from bench.pipeline import Body, Progress
from gateway.commit import Commit, PutSession
from gateway.ids import IdMaker
from gateway.model import NORMAL, Hold, Item, SessionRow, Status
from gateway.stores import SqliteStore

# rows of a commit
BATCH = 10_000
SENDER = "backend"
TTL_MS = 86_400_000

_encode = msgspec.json.Encoder().encode


def fill(
    folder: Path, clients: list[str], pending: int, pad: str, progress: Progress, *, delivered: int = 0
) -> None:
    """Write `delivered` messages that have reached their clients and are kept for their retention, and `pending` that
    wait for them, both spread evenly over `clients`, who are away. Blocks.

    Raises RuntimeError where a commit fails.
    """
    folder.mkdir(mode=0o700, parents=True)
    store = SqliteStore(folder, lambda call: call())
    store.open()
    try:
        now = time.time_ns() // 1_000_000
        ids, total = IdMaker(), delivered + pending

        def batch(start: int, end: int, hold: Hold) -> list[Item]:
            items = []
            for n in range(start, end):
                client, body = clients[n % len(clients)], _encode(Body(0, n // len(clients), 0.0, pad))
                item = Item(ids.next(now), client, SENDER, NORMAL, now, now + TTL_MS, body)
                if hold is Hold.BOUND:
                    item.hold, item.eno = hold, 1
                items.append(item)
            progress(end, total)
            return items

        if delivered:
            commit = Commit()
            rows = [SessionRow(name, "0", 1, away_since=now, created=now, seen=now) for name in clients]
            commit.ops += [PutSession(row) for row in rows]
            _submit(store, commit, now)
        for start in range(0, delivered, BATCH):
            items = batch(start, min(start + BATCH, delivered), Hold.BOUND)
            _submit(store, _appending(items), now)
            commit = Commit()
            commit.settles.append((Status.DELIVERED, now, "", [item.id for item in items]))
            _submit(store, commit, now)
        for start in range(0, pending, BATCH):
            items = batch(start, min(start + BATCH, pending), Hold.WAITING)
            _submit(store, _appending(items), now)
    finally:
        store.close()
    # what the kernel has yet to write of it is not for the gateway to wait for
    os.sync()


def _appending(items: list[Item]) -> Commit:
    commit = Commit()
    commit.appends = items
    commit.sinks = [None] * len(items)
    commit.refs = [None] * len(items)
    return commit


def _submit(store: SqliteStore, commit: Commit, now: int) -> None:
    commit.at = now
    done = threading.Event()
    failed: list[Exception] = []

    def on_done(_: Commit, error: Exception | None) -> None:
        if error is not None:
            failed.append(error)
        done.set()

    store.submit(commit, on_done)
    done.wait()
    if failed:
        raise RuntimeError(f"the store could not be made: {failed[0]}")
