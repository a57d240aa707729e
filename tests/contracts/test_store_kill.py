"""A real SIGKILL: what the store said is on disk is there, and no seq is given twice."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreFailed
from gateway.model import Kind
from gateway.stores import SqliteStore

CHILD = Path(__file__).with_name("store_child.py")
CLIENTS = ("alice", "bob", "carol")
# the child settles at most so many in one commit
ACKS = 6


class Ledger:
    """What the children said was on disk."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Any]] = {}
        self.next = dict.fromkeys(CLIENTS, 1)
        self.acked: set[int] = set()

    def run(self, data_dir: Path, enough: int, where: str) -> None:
        """A child works on the folder until it has committed `enough` times, and is killed."""
        with subprocess.Popen(
            [sys.executable, str(CHILD), str(data_dir), where], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for count, line in enumerate(child.stdout, 1):
                self.take(line)
                if count == enough:
                    child.send_signal(signal.SIGKILL)
                    break
            for line in child.stdout:
                # said before it was killed; the last line may be cut
                if line.endswith("\n"):
                    self.take(line)
            child.wait()
            assert child.returncode == -signal.SIGKILL

    def take(self, line: str) -> None:
        said = json.loads(line)
        for id, client, seq in said["rows"]:
            assert id not in self.rows
            assert seq >= self.next[client], "a seq was given twice"
            self.next[client] = seq + 1
            self.rows[id] = [client, seq]
        self.acked.update(said["acked"])


@pytest.mark.parametrize("where", ["here", "writer"])
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again(tmp_path: Path, seed: int, where: str) -> None:
    rng = random.Random(seed)
    ledger = Ledger()
    for _ in range(4):
        ledger.run(tmp_path, rng.randint(20, 120), where)
        store = SqliteStore(tmp_path, lambda call: call())
        try:
            known = store.open()
            assert known.highest_id >= max(ledger.rows)
            bound = {i.id: i for items in known.windows.values() for i in items if i.kind == Kind.MESSAGE}
            assert ledger.acked.isdisjoint(bound)
            conn = store._conn
            assert conn is not None
            found = {
                id: [client, seq] for id, client, seq in conn.execute("SELECT id,client,seq FROM messages")
            }
            assert ledger.rows.items() <= found.items()
            unacked = [id for id in ledger.rows if id not in ledger.acked]
            assert all([bound[id].client, bound[id].seq] == ledger.rows[id] for id in unacked if id in bound)
            assert all(item.marks == 1 for item in bound.values())
            # those of the commit that the kill cut off may have been settled without having been said
            unsaid = [id for id in unacked if id not in bound]
            assert len(unsaid) <= ACKS
            ledger.acked.update(unsaid)
            assert len(found) == known.rows
            for session in known.sessions:
                client = session.client
                given = [i.seq for i in bound.values() if i.client == client]
                # committed and not said in time: those seqs are given as well
                (most,) = conn.execute("SELECT max(seq) FROM messages WHERE client=?", (client,)).fetchone()
                assert session.next == most + 1
                assert session.next > max(given, default=0)
                assert session.next >= ledger.next[client]
        finally:
            # as little is written at this end as by a kill
            store._failure = StoreFailed("left as it is", definite=True)
            store.close()
