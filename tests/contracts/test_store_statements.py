"""No statement of a commit looks through a table: each finds its rows by an index. Uplinks go slice by slice."""

import asyncio
import re
from typing import Any

import pytest

from gateway.commit import Change, Event, KeyClaim, PutSession, Reclaim, SettleGaps, Sweep, Unbind
from gateway.ids import IdMaker
from gateway.model import ChainRow, Extra, SessionRow
from gateway.reads import (
    ReadChain,
    ReadChainable,
    ReadChains,
    ReadDue,
    ReadItems,
    ReadResting,
    ReadStories,
    ReadWaiting,
)
from gateway.stores import queries
from tests.contracts.storekit import BOUND, NONE, WAITING, SqliteKit


def nothing(_: object) -> None:
    """Nobody is told."""


class TestCommits:
    def test_none_scans(self, sqlite: SqliteKit) -> None:
        conn = sqlite.store._conn
        assert conn is not None
        statements: dict[str, None] = {}
        conn.set_trace_callback(lambda s: statements.update({s: None}))
        self.everything(sqlite)
        conn.set_trace_callback(None)
        plans = {}
        for statement in statements:
            if statement.startswith(("BEGIN", "COMMIT", "PRAGMA", "--")):
                continue
            plans[statement] = [row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert len(plans) > 30
        scans = {
            (step, re.sub(r"\s+", " ", statement)[:160])
            for statement, plan in plans.items()
            for step in plan
            # `SEARCH messages` alone is a scan as well: for min() or max(), until the first row that fits
            if re.match(
                r"(SCAN|SEARCH) (messages|m|sessions|chains|c|gaps|g|events|dedup|d)\b(?!.*USING)", step
            )
        }
        assert scans == set()

    def test_waiting_rows_are_counted_without_touching_them(self, sqlite: SqliteKit) -> None:
        for hold, index in ((1, "waiting"), (3, "later")):
            statement = f"SELECT client,count(*) FROM messages WHERE hold={hold} GROUP BY client"  # noqa: S608
            ((_, _, _, plan),) = sqlite.sql(f"EXPLAIN QUERY PLAN {statement}")
            assert plan == f"SCAN messages USING COVERING INDEX {index}"

    @pytest.mark.parametrize("rows", [10, 1000])
    def test_due_chains_are_found_whatever_waits(self, sqlite: SqliteKit, rows: int) -> None:
        """The work of a read does not grow with the rows that wait: counted in steps of SQLite's machine. Seen to grow
        where the index does not have the lane before the time.
        """
        items = [sqlite.item(lane=0 if n >= rows - 3 else 3) for n in range(rows)]
        sqlite.do(appends=items)
        ops = [
            Change(
                item.id, (WAITING,), {"hold": NONE, "status": 2},
                claim=ChainRow(item.id, "alice", ["hook"], "offline", 500 + n, 3 * (n % 8 == 7), lane=item.lane),
            )
            for n, item in enumerate(items)
        ]  # fmt: skip
        sqlite.do(*ops)
        conn = sqlite.store._conn
        assert conn is not None
        steps = [0]

        def count() -> None:
            steps[0] += 1

        conn.set_progress_handler(count, 10)
        chains, resting = ReadChains("hook", 500 + rows, 2, nothing), ReadResting(500 + rows, 1, nothing)
        sqlite.do(reads=[chains, resting])
        conn.set_progress_handler(None, 0)
        assert [row.lane for row, _ in chains.rows] == [0, 0]
        assert [row.due for row, _ in resting.rows] == [507]
        assert steps[0] < 130

    def everything(self, sqlite: SqliteKit) -> None:
        sqlite.session("alice", 1)
        sqlite.session("bob", 1)
        x = Extra(collapse="c")
        items = [sqlite.item("alice", BOUND, eno=1) for _ in range(6)] + [sqlite.item(x=x) for _ in range(2)]
        sqlite.do(appends=items, keys={0: KeyClaim("p", "k", b"1", 100, 0)})
        row = ChainRow(items[5].id, "alice", ["hook"], "offline", 1)
        reads: list[Any] = [
            ReadWaiting("alice", 2, 9, nothing), ReadChainable("alice", 0, 9, 9, nothing), ReadItems([1, 2], nothing),
            ReadDue(500, 9, nothing), ReadDue(500, 1, nothing), ReadChains("hook", 900, 9, nothing),
            ReadChain(1, nothing), ReadResting(900, 9, nothing), ReadStories([1, 2], nothing),
            ReadWaiting("alice", 2, 9, nothing, bare=True),
            ReadWaiting("alice", 2, 9, nothing, fresh=True),
        ]  # fmt: skip
        sqlite.do(
            Change(
                items[4].id,
                (BOUND,),
                {"hold": NONE, "status": 8, "due": 0},
                missed=("alice", "expired"),
                free=True,
            ),
            Change(items[5].id, (BOUND,), {"hold": 4}, claim=row, event=Event(items[5].id, 1, "x")),
            Reclaim("alice", 100),
            Change(items[5].id, (BOUND,), {"seq": 0, "hold": 4}, chain=row, drop_chain=True, stood=row.stand),
            SettleGaps("alice", [1]),
            Unbind("alice", [items[3].id]),
            PutSession(SessionRow("alice", "e", 2), proven=True),
            Sweep(900, 900, 900, 9, 1),
            appends=[sqlite.item(x=x)],
            binds=[("alice", 1, [items[7]])],
            settles=[(items[0].id, 4, 100, "ws")],
            reads=reads,
        )
        sqlite.do(
            Change(items[3].id, (WAITING,), {"hold": NONE}, missed=("alice", "dead")),
            binds=[("alice", 2, [items[7]])],
            reads=reads,
        )


class TestUplinks:
    async def test_they_are_looked_for_by_id(self, sqlite: SqliteKit) -> None:
        assert sqlite.store._queries is not None
        conn = sqlite.store._queries.conn
        sqlite.add(pid=1)
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        await sqlite.store.uplinks(["backend"], 0, 1000)
        conn.set_trace_callback(None)
        plans = {
            s: [row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {s}")]
            for s in statements
            if "SELECT" in s
        }
        found = {step for plan in plans.values() for step in plan if "messages" in step}
        ranges = ("rowid<?", "rowid>? AND rowid<?", "rowid=?")
        assert found == {f"SEARCH messages USING INTEGER PRIMARY KEY ({of})" for of in ranges}

    async def test_other_queries_come_between_the_slices(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queries, "SLICE", 2)
        sqlite.do(appends=[sqlite.item(pid=n) for n in range(1, 8)])
        assert sqlite.store._queries is not None
        conn = sqlite.store._queries.conn
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        found, _ = await asyncio.gather(sqlite.store.uplinks(["backend"], 0, 1000), sqlite.store.message(1))
        conn.set_trace_callback(None)
        assert len(found["backend"]) == 7
        # one transaction for each slice of two, one that finds the end, and the message's among them, not behind
        begins = [n for n, s in enumerate(statements) if s == "BEGIN"]
        assert len(begins) == 6
        assert "events" in "".join(statements[begins[1] : begins[2]])

    async def test_what_is_older_is_not_looked_at(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queries, "SLICE", 2)
        ids = IdMaker()
        sqlite.do(appends=[sqlite.item(pid=n, at=n, id=ids.next(n)) for n in range(1, 11)])
        assert sqlite.store._queries is not None
        conn = sqlite.store._queries.conn
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        found = await sqlite.store.uplinks(["backend"], 7, 1000)
        conn.set_trace_callback(None)
        assert sorted(found["backend"]) == [7, 8, 9, 10]
        assert statements.count("BEGIN") == 2
