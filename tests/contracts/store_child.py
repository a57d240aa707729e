"""The process that `test_store_kill` kills: it commits without end and says what is on disk, line by line.

`store_child.py FOLDER here`: on the thread that submits, else on the writer thread.
"""

import json
import queue
import random
import sys
import time
from pathlib import Path

from gateway.commit import Commit, PutSession
from gateway.ids import IdMaker
from gateway.model import Item, SessionRow
from gateway.stores import SqliteStore, counters

CLIENTS = ("alice", "bob", "carol")


def main(data_dir: Path, where: str) -> None:
    calls: queue.SimpleQueue[object] = queue.SimpleQueue()
    # the floor moves now and then
    counters.FLUSH_ROWS = 150
    store = SqliteStore(data_dir, calls.put, calls.put if where == "here" else None)
    known = store.open()
    ids = IdMaker(floor=known.highest_id)
    rng = random.Random(known.rows)
    now = time.time_ns() // 1_000_000
    unacked = [item.id for items in known.windows.values() for item in items]

    def run(commit: Commit) -> None:
        commit.at = now
        said: list[Exception | None] = []
        store.submit(commit, lambda _, error: said.append(error))
        while not said:
            calls.get()()  # type: ignore[operator]
        assert said == [None], said

    if not known.sessions:
        first = Commit()
        first.ops += [PutSession(SessionRow(client, f"{client}-1", 1)) for client in CLIENTS]
        run(first)
    while True:
        commit = Commit()
        waiting: list[Item] = []
        for _ in range(rng.randint(1, 8)):
            client = rng.choice(CLIENTS)
            item = Item(ids.next(now), client, "backend", 2, now, now + 10**9, b'{"x":1}')
            if rng.random() < 0.7:
                item.hold, item.eno = 2, 1
            else:
                waiting.append(item)
            commit.appends.append(item)
            commit.sinks.append(None)
            commit.refs.append(None)
        commit.binds += [(item.client, 1, [item]) for item in waiting]
        acked = rng.sample(unacked, min(len(unacked), rng.randint(0, 6)))
        commit.settles.append((4, now, "ws", list(acked)))
        run(commit)
        unacked = [id for id in unacked if id not in acked] + [item.id for item in commit.appends]
        rows = sorted(((i.id, i.client, i.seq) for i in commit.appends), key=lambda row: row[2])
        sys.stdout.write(json.dumps({"rows": rows, "acked": acked}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
