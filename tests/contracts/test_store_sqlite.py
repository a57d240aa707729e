"""What only the SQLite store has: its file, lock and log, statements that find their index, rows that went bad."""

import multiprocessing
import re
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.commit import Change, Commit
from gateway.errors import ConfigError
from gateway.model import ChainRow, Extra, Item
from gateway.reads import ReadChain, ReadChainable, ReadChains, ReadDue, ReadItems, ReadWaiting
from gateway.stores import SqliteStore, counters, rows, schema, wal
from gateway.stores.rows import bulk
from tests.contracts.storekit import BOUND, NONE, WAITING, SqliteKit


def nothing(_: object) -> None:
    """Nobody is told."""


def commit_of(*items: Item) -> Commit:
    commit = Commit()
    commit.at = 100
    for item in items:
        commit.appends.append(item)
        commit.sinks.append(None)
        commit.refs.append(None)
    return commit


class TestFile:
    def test_how_it_is_written(self, sqlite: SqliteKit) -> None:
        conn = sqlite.store._conn
        assert conn is not None
        pragmas = ("journal_mode", "synchronous", "wal_autocheckpoint", "page_size", "mmap_size")
        assert [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == ["wal", 2, 0, 4096, 0]

    def test_it_is_nobody_else_s(self, sqlite: SqliteKit) -> None:
        for name in ("gateway.db", "gateway.db-wal"):
            assert stat.S_IMODE((sqlite.data_dir / name).stat().st_mode) == 0o600

    def test_a_second_process_is_told_at_once(self, sqlite: SqliteKit) -> None:
        context = multiprocessing.get_context("spawn")
        said = context.Queue()
        other = context.Process(target=_try_to_open, args=(sqlite.data_dir, said))
        other.start()
        assert said.get(timeout=60) == f"another gateway is running on {sqlite.data_dir}"
        other.join()

    def test_the_lock_is_kept_while_it_opens_again_and_goes_with_the_store(self, sqlite: SqliteKit) -> None:
        sqlite.open()
        other = SqliteStore(sqlite.data_dir, lambda call: call())
        with pytest.raises(ConfigError, match="another gateway"):
            other.open()
        sqlite.store.close()
        assert other.open().rows == 0
        other.close()
        assert other.figures()["rows"] == 0

    def test_the_trace_root_is_made_once(self, sqlite: SqliteKit) -> None:
        root = sqlite.known.trace_root
        assert re.fullmatch("[0-9a-f]{16}", root)
        assert sqlite.reopen().trace_root == root

    def test_an_old_sqlite_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schema, "OLDEST_SQLITE", (99, 0, 0))
        with pytest.raises(ConfigError, match=r"at least 99\.0\.0"):
            SqliteStore(tmp_path, lambda call: call()).open()


def _try_to_open(data_dir: Path, said: Any) -> None:
    try:
        SqliteStore(data_dir, lambda call: call()).open()
    except ConfigError as error:
        said.put(error.detail)


class TestLog:
    """The write-ahead log."""

    def test_it_is_copied_when_it_is_long_enough(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = sqlite.store._wal
        assert log is not None
        assert not log.longer_than(wal.SOFT)
        while not sqlite.store.figures()["checkpoints"]:
            sqlite.do(appends=[sqlite.item(body=b'"' + b"x" * 60_000 + b'"') for _ in range(20)])
        assert sqlite.store.figures()["rows"] * 60_000 > wal.SOFT * 4000
        # the next commit starts the log over
        sqlite.add()
        assert not log.longer_than(wal.SOFT // 2)
        size = sqlite.store.figures()["wal_bytes"]
        sqlite.add()
        assert sqlite.store.figures()["wal_bytes"] == size
        assert sqlite.crash().rows == sqlite.ids

    def test_a_reader_in_the_way_puts_it_off(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wal, "SOFT", 8)
        monkeypatch.setattr(wal, "AGAIN", 8)
        sqlite.open()
        other = sqlite3.connect(sqlite.data_dir / "gateway.db", isolation_level=None)
        try:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM messages").fetchall()
            for _ in range(30):
                sqlite.add()
            put_off = sqlite.store.figures()["checkpoints"]
            other.execute("COMMIT")
        finally:
            other.close()
        assert 0 < put_off < 15
        for _ in range(30):
            sqlite.add()
        log = sqlite.store._wal
        assert log is not None
        assert (log._soft, log._hard) == (8, wal.HARD)
        assert not log.longer_than(20)

    def test_it_waits_while_commits_wait_unless_it_is_far_too_long(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wal, "SOFT", 2)
        monkeypatch.setattr(wal, "HARD", 50)
        sqlite.open()
        log, conn = sqlite.store._wal, sqlite.store._conn
        assert log is not None
        assert conn is not None
        for n in range(60):
            # the writer thread is idle: the log can be asked from here
            conn.execute("INSERT OR REPLACE INTO meta VALUES ('t',?)", (n,))
            log.after_commit(waiting=True)
            if log.checkpoints:
                break
        assert log.checkpoints == 1
        assert log.longer_than(50)
        conn.execute("INSERT OR REPLACE INTO meta VALUES ('t',1)")
        conn.execute("INSERT OR REPLACE INTO meta VALUES ('t',2)")
        log.after_commit(waiting=False)
        assert log.checkpoints == 2


class TestGroups:
    """Commits that wait together are carried by one transaction, each as if alone."""

    def hold(self, sqlite: SqliteKit) -> threading.Event:
        """The writer thread waits until the event is set."""
        go = threading.Event()

        def wait() -> None:
            go.wait(60)

        sqlite.store._jobs.put(wait)
        return go

    def run(self, sqlite: SqliteKit, commits: list[Commit]) -> tuple[list[Any], int]:
        """What each was told, and how many transactions there were."""
        conn = sqlite.store._conn
        assert conn is not None
        statements: list[str] = []
        conn.set_trace_callback(statements.append)
        told: list[Any] = []
        go = self.hold(sqlite)
        for commit in commits:
            sqlite.store.submit(commit, lambda _, error: told.append(error))
        go.set()
        while len(told) < len(commits):
            sqlite.calls.get(timeout=60)()
        return told, sum(1 for s in statements if s == "COMMIT")

    def test_one_transaction(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        commits = [commit_of(sqlite.item("alice", BOUND, eno=1)) for _ in range(5)]
        assert self.run(sqlite, commits) == ([None] * 5, 1)
        assert [c.appends[0].seq for c in commits] == [1, 2, 3, 4, 5]

    def test_a_read_sees_no_later_commit(self, sqlite: SqliteKit) -> None:
        commits = [commit_of(sqlite.item()) for _ in range(3)]
        read = ReadWaiting("alice", 2, 9, nothing)
        commits[1].reads.append(read)
        assert self.run(sqlite, commits) == ([None] * 3, 2)
        assert len(read.items) == 2

    def test_one_that_fails_takes_all_with_it(self, sqlite: SqliteKit) -> None:
        item = sqlite.item()
        told, transactions = self.run(sqlite, [commit_of(item), commit_of(sqlite.item(id=item.id)), Commit()])
        assert [e.definite for e in told] == [True] * 3
        assert transactions == 0
        assert sqlite.open().rows == 0

    def test_opening_comes_behind_what_was_submitted(self, sqlite: SqliteKit) -> None:
        told: list[Any] = []
        go = self.hold(sqlite)
        sqlite.store.submit(commit_of(sqlite.item()), lambda _, error: told.append(error))
        threading.Timer(0, go.set).start()
        assert sqlite.store.open().rows == 1

    def test_reads_alone_take_no_transaction(self, sqlite: SqliteKit) -> None:
        commit = Commit()
        commit.reads.append(ReadItems([1], nothing))
        assert self.run(sqlite, [commit]) == ([None], 0)


class TestCounters:
    """Exact after a kill at any point, though written rarely."""

    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counters, "FLUSH_ROWS", 10)

    def test_the_floor_moves_up(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        for n in range(1, 35):
            item = sqlite.add("alice", BOUND, eno=1)
            assert item.seq == n
            (floor,) = sqlite.sql("SELECT value FROM meta WHERE key='floor'")[0]
            assert floor == n // 10 * 10
            if n % 7 == 0:
                known = sqlite.crash()
                assert (known.sessions[0].next, known.rows, known.highest_id) == (n + 1, n, n)

    def test_an_old_message_that_is_bound_now(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        old = sqlite.add()
        for _ in range(12):
            sqlite.add("bob")
        sqlite.do(binds=[("alice", 1, [old])])
        sqlite.do(settles=[(old.id, 4, 120, "ws")])
        assert sqlite.crash().sessions[0].next == 2

    def test_an_id_out_of_order(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        for n in range(30, 45):
            sqlite.add("alice", BOUND, eno=1, id=n)
        sqlite.add("alice", BOUND, eno=1, id=5)
        known = sqlite.crash()
        assert (known.sessions[0].next, known.rows, known.highest_id) == (17, 16, 44)

    def test_closing_writes_them(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        for _ in range(3):
            sqlite.add("alice", BOUND, eno=1)
        sqlite.store.close()
        assert sqlite.sql("SELECT next FROM sessions") == [(4,)]
        assert sqlite.sql("SELECT value FROM meta WHERE key='floor'") == [(3,)]
        assert sqlite.reopen().sessions[0].next == 4


class TestCorruption:
    """A row that is not what was written is told, and stands in nobody's way."""

    def damage(self, sqlite: SqliteKit, id: int, column: str = "body", value: object = b'{"n":2}') -> None:
        sqlite.store.close()
        sqlite.sql(f"UPDATE messages SET {column}=? WHERE id=?", value, id)  # noqa: S608
        sqlite.reopen()

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("body", b'{"n":2}'),
            ("body", b"\xff\0"),
            ("body", None),
            ("sender", "mallory"),
            ("sender", b"\xff\xfe"),
            ("extra", b'{"type":"u"}'),
            ("extra", b"{"),
            ("extra", b"\xff"),
            ("expire", 1),
            ("crc", 0),
        ],
    )
    async def test_left_out_of_deliveries_shown_to_the_api(
        self, sqlite: SqliteKit, column: str, value: object
    ) -> None:
        items = [sqlite.add(chain=1, due=50, x=Extra(type="t")) for _ in range(3)]
        if value == b"\xff\xfe":
            # text that is no UTF-8, as a flipped bit makes it
            sqlite.store.close()
            sqlite.sql("UPDATE messages SET sender=CAST(x'fffe' AS TEXT) WHERE id=?", items[0].id)
            sqlite.reopen()
        else:
            self.damage(sqlite, items[0].id, column, value)
        structlog.reset_defaults()
        with capture_logs() as logs:
            for _ in range(2):
                assert [i.id for i in sqlite.read(ReadWaiting("alice", 2, 2, nothing)).items] == [2, 3]
                assert [i.id for i in sqlite.read(ReadItems([1, 2], nothing)).items] == [2]
                assert sqlite.read(ReadChain(1, nothing)).item is None
            assert len(sqlite.read(ReadDue(900, 9, nothing)).items) == 3
            assert len(sqlite.read(ReadChainable("alice", 0, 900, 9, nothing)).items) == 3
            view = await sqlite.store.message(1)
        assert view is not None
        assert (view.item.body, view.item.client) == (None, "alice")
        assert [(entry["event"], entry["id"]) for entry in logs] == [
            ("a stored message does not match its checksum", 1)
        ]
        assert "n" not in logs[0]
        assert sqlite.store.figures()["corrupt"] == 1

    @pytest.mark.parametrize(("column", "value"), [("body", b'{"n":2}'), ("sender", "mallory"), ("crc", 0)])
    async def test_no_uplink_is_told_from_it(self, sqlite: SqliteKit, column: str, value: object) -> None:
        items = [sqlite.add(pid=pid) for pid in (1, 2, 1)]
        self.damage(sqlite, items[2].id, column, value)
        found = await sqlite.store.uplinks(["backend", "mallory"], 0, 1000)
        expected = {2: (items[1].id, items[1].body)}
        if column == "sender":
            # it is nobody's now: the one before it is the latest that is known
            expected[1] = (items[0].id, items[0].body)
        assert found == {"backend": expected}
        assert sqlite.store.figures()["corrupt"] == 1

    def test_its_chain_is_passed_over(self, sqlite: SqliteKit) -> None:
        items = [sqlite.add() for _ in range(2)]
        for item in items:
            row = ChainRow(item.id, "alice", ["hook"], "offline", 100)
            sqlite.do(Change(item.id, (WAITING,), {"hold": NONE}, claim=row))
        self.damage(sqlite, items[0].id)
        read = sqlite.read(ReadChains("hook", 500, 1, nothing))
        assert ([row.id for row, _ in read.rows], read.next_due) == ([2], 0)

    def test_only_so_many_are_remembered(self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "CORRUPT_KNOWN", 1)
        for _ in range(2):
            sqlite.add()
        sqlite.store.close()
        sqlite.sql("UPDATE messages SET crc=7")
        sqlite.reopen()
        for _ in range(2):
            sqlite.read(ReadItems([1, 2], nothing))
        assert sqlite.store.figures()["corrupt"] == 3


class TestHelpers:
    def test_rows_that_are_too_long_together_are_read_one_by_one(self) -> None:
        conn = sqlite3.connect(":memory:")
        try:
            conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
            conn.execute("CREATE TABLE t(a, b)")
            bulk(conn, "INSERT INTO t VALUES ", [(n, "x" * 100) for n in range(20)])
            found = rows.fetch(conn, "a,b", "SELECT a,b FROM t WHERE a>=?", (5,))
            assert found == [[n, "x" * 100] for n in range(5, 20)]
        finally:
            conn.close()

    @pytest.mark.parametrize("count", [0, 1, 3, 63, 64, 65, 200])
    def test_bulk_writes_every_row_once(self, count: int) -> None:
        conn = sqlite3.connect(":memory:")
        try:
            conn.execute("CREATE TABLE t(a, b)")
            bulk(conn, "INSERT INTO t VALUES ", [(n, -n) for n in range(count)])
            assert conn.execute("SELECT a,b FROM t ORDER BY a").fetchall() == [(n, -n) for n in range(count)]
        finally:
            conn.close()


def test_the_reader_can_write_nothing(sqlite: SqliteKit) -> None:
    queries = sqlite.store._queries
    assert queries is not None
    with pytest.raises(sqlite3.OperationalError):
        queries.conn.execute("DELETE FROM messages")
