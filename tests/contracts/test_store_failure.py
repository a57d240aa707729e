"""A failed commit fails everything behind it, leaves nothing, and the way back is to open again."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.commit import Commit, PutSession
from gateway.errors import ConfigError, StoreFailed
from gateway.model import SessionRow
from gateway.reads import ReadItems
from gateway.stores import MemoryStore, SqliteStore, schema
from gateway.stores import sqlite as sqlite_module
from tests.contracts.storekit import BOUND, Kit, MemoryKit, SqliteKit, failed


def nothing(_: object) -> None:
    """Nobody is told."""


def commit_of(*items: Any) -> Commit:
    commit = Commit()
    commit.at = 100
    for item in items:
        commit.appends.append(item)
        commit.sinks.append(None)
        commit.refs.append(None)
    return commit


class Broken:
    """A connection whose disk fails at one statement."""

    def __init__(self, conn: sqlite3.Connection, at: str, error: Exception) -> None:
        self.conn, self.at, self.error = conn, at, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)

    def execute(self, statement: str, *params: Any) -> Any:
        if statement.startswith(self.at):
            raise self.error
        return self.conn.execute(statement, *params)


def disk_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def break_at(kit: SqliteKit, at: str, error: Exception) -> None:
    assert kit.store._conn is not None
    kit.store._conn = Broken(kit.store._conn, at, error)  # type: ignore[assignment]


def test_nothing_works_before_it_is_open(tmp_path: Path) -> None:
    said: list[Exception | None] = []

    def call(what: Callable[[], None]) -> None:
        what()

    for store in (MemoryStore(auto=True), SqliteStore(tmp_path, call)):
        store.submit(Commit(), lambda _, error: said.append(error))
        store.close()
        store.submit(Commit(), lambda _, error: said.append(error))
        store.close()
    if len(said) < 4:
        pytest.fail(f"only {len(said)} were told")
    assert all(failed(error).definite for error in said)


def test_a_call_that_nobody_runs_any_more_is_passed_over(sqlite: SqliteKit) -> None:
    sqlite.store.close()
    called: list[int] = []
    sqlite.store._jobs.put(lambda: called.append(1))
    assert failed(sqlite.submit(Commit())).definite
    assert called == []


class TestBoth:
    def test_everything_behind_a_failure_fails_until_it_is_opened(self, kit: Kit) -> None:
        first = kit.add()
        kit.session()
        bound = kit.item("alice", BOUND, eno=1)
        assert failed(kit.submit(commit_of(bound, kit.item(id=first.id)))).definite
        behind = commit_of(kit.item())
        behind.reads.append(ReadItems([first.id], nothing))
        for _ in range(2):
            error = failed(kit.submit(behind))
            assert error.definite
            assert not error.disk_full
        assert behind.reads[0].items == []  # type: ignore[union-attr]
        assert (bound.seq, bound.status) == (0, 0)
        assert kit.open().rows == 1
        assert kit.submit(behind) is None
        assert kit.store.figures()["failures"] == 1
        assert kit.crash().rows == 2

    def test_results_come_in_the_order_of_submission(self, kit: Kit) -> None:
        done: list[tuple[int, bool]] = []
        commits = [commit_of(kit.item()) for _ in range(5)]
        commits[3].appends[0].id = commits[1].appends[0].id
        for n, commit in enumerate(commits):
            kit.store.submit(commit, lambda _, error, n=n: done.append((n, error is None)))
        while len(done) < 5:
            assert isinstance(kit, SqliteKit)
            kit.calls.get(timeout=60)()
        assert [n for n, _ in done] == list(range(5))
        oks = [ok for _, ok in done]
        assert oks == sorted(oks, reverse=True)
        assert oks[3:] == [False, False]
        assert kit.open().rows == oks.count(True)

    def test_opening_again_reads_everything_afresh(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        known = kit.open()
        assert [(i.id, i.seq, i.marks) for i in known.windows["alice"]] == [(item.id, 1, 1)]
        assert kit.add("alice", BOUND, eno=1).seq == 2

    def test_figures(self, kit: Kit) -> None:
        kit.add()
        figures = kit.store.figures()
        assert set(figures) == {
            "rows", "bytes", "wal_bytes", "commits", "commits_here", "commit_seconds", "failures", "checkpoints",
            "checkpoint_seconds", "corrupt",
        }  # fmt: skip
        assert (figures["rows"], figures["commits"], figures["failures"], figures["corrupt"]) == (1, 1, 0, 0)


class TestMemory:
    @pytest.fixture
    def store(self) -> MemoryStore:
        store = MemoryStore()
        store.open()
        return store

    def submit(self, store: MemoryStore, *ids: int) -> list[Exception | None]:
        said: list[Exception | None] = []
        for id in ids:
            store.submit(commit_of(MemoryKit().item(id=id)), lambda _, error: said.append(error))
        return said

    def test_a_commit_waits_for_its_step(self, store: MemoryStore) -> None:
        said = self.submit(store, 1, 2)
        assert len(store.pending) == 2
        assert store.step()
        assert said == [None]
        assert store.figures()["rows"] == 1
        assert store.step()
        assert not store.step()

    def test_a_crash_drops_what_waits(self, store: MemoryStore) -> None:
        said = self.submit(store, 1, 2, 3, 4)
        store.step()
        store.crash(lambda commit: commit.appends[0].id < 3)
        assert said == [None]
        assert store.open().highest_id == 2
        assert not store.step()

    def test_a_failure_that_was_asked_for(self, store: MemoryStore) -> None:
        store.fail = lambda commit: (
            StoreFailed("full", definite=True, disk_full=True) if commit.appends else None
        )
        said = self.submit(store, 1, 2)
        store.step()
        store.fail = lambda _: StoreFailed("still", definite=True)
        store.step()
        assert [failed(e).disk_full for e in said] == [True, True]
        with pytest.raises(StoreFailed, match="still"):
            store.open()
        store.fail = lambda _: None
        assert store.open().rows == 0

    @pytest.mark.parametrize("reached", [True, False])
    def test_a_failure_that_may_have_reached_the_disk(self, store: MemoryStore, reached: bool) -> None:
        store.fail = lambda commit: StoreFailed("sync", definite=False) if commit.appends else None
        store.durable = lambda _: reached
        said = self.submit(store, 1, 2)
        store.step()
        store.step()
        assert [failed(e).definite for e in said] == [False, True]
        assert store.open().rows == int(reached)

    def test_post_and_auto(self) -> None:
        calls: list[Callable[[], None]] = []
        store = MemoryStore(auto=True, post=calls.append, trace_root="f" * 16)
        assert store.open().trace_root == "f" * 16
        said = self.submit(store, 1)
        assert said == []
        calls.pop()()
        assert said == [None]

    def test_auto_is_no_recursion(self) -> None:
        store = MemoryStore(auto=True)
        store.open()
        left = list(range(1, 3000))

        def done(_: Commit, error: Exception | None) -> None:
            assert error is None
            if left:
                store.submit(commit_of(MemoryKit().item(id=left.pop(0))), done)

        store.submit(Commit(), done)
        assert store.figures()["rows"] == 2999

    def test_closing_flushes(self, store: MemoryStore) -> None:
        said = self.submit(store, 1)
        store.close()
        assert said == [None]


class TestSqlite:
    def test_a_full_disk(self, sqlite: SqliteKit) -> None:
        kept = sqlite.add()
        conn = sqlite.store._conn
        assert conn is not None
        (pages,) = conn.execute("PRAGMA page_count").fetchone()
        conn.execute(f"PRAGMA max_page_count={pages}")
        error = failed(sqlite.submit(commit_of(sqlite.item(body=b'"' + b"x" * 500_000 + b'"'))))
        assert (error.definite, error.disk_full) == (True, True)
        behind = failed(sqlite.submit(commit_of(sqlite.item())))
        assert (behind.definite, behind.disk_full) == (True, True)
        assert sqlite.open().rows == 1
        assert sqlite.row(kept.id)["body"] == kept.body

    @pytest.mark.parametrize(
        ("at", "code", "definite"),
        [
            ("INSERT INTO messages", sqlite3.SQLITE_IOERR_WRITE, True),
            ("BEGIN", sqlite3.SQLITE_IOERR, True),
            ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, False),
            ("COMMIT", sqlite3.SQLITE_FULL, True),
            ("COMMIT", sqlite3.SQLITE_BUSY, True),
        ],
    )
    def test_what_is_known_of_a_failed_batch(
        self, sqlite: SqliteKit, at: str, code: int, definite: bool
    ) -> None:
        conn = sqlite.store._conn
        break_at(sqlite, at, disk_error(code))
        writer = sqlite.store._writer
        assert writer is not None
        writer._conn = sqlite.store._conn  # type: ignore[assignment]
        error = failed(sqlite.submit(commit_of(sqlite.item())))
        assert error.definite is definite
        assert error.disk_full is (code == sqlite3.SQLITE_FULL)
        assert failed(sqlite.submit(commit_of(sqlite.item()))).definite
        sqlite.store._conn = conn
        assert sqlite.open().rows == 0

    def test_a_read_that_fails_behind_its_commit(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = sqlite.store._writer
        assert writer is not None

        def fail(_: Commit) -> None:
            raise disk_error(sqlite3.SQLITE_IOERR_READ)

        monkeypatch.setattr(type(writer), "read", lambda _, commit: fail(commit))
        assert not failed(sqlite.submit(commit_of(sqlite.item()))).definite
        monkeypatch.undo()
        assert sqlite.open().rows == 1

    def test_a_checkpoint_that_fails(self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise disk_error(sqlite3.SQLITE_IOERR_FSYNC)

        wal = sqlite.store._wal
        assert wal is not None
        monkeypatch.setattr(type(wal), "after_commit", fail)
        sqlite.store._log_long = (
            True  # so that the writer thread makes the next commit, wherever it makes others
        )
        sqlite.add()
        monkeypatch.undo()
        assert failed(sqlite.submit(Commit())).definite
        assert sqlite.open().rows == 1

    def test_a_full_disk_by_its_room(self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
        """Some files of SQLite cannot grow on a full disk and say so in another way."""
        monkeypatch.setattr(sqlite_module, "FULL_BYTES", 1 << 62)
        break_at(sqlite, "BEGIN", disk_error(sqlite3.SQLITE_IOERR_SHMSIZE))
        assert failed(sqlite.submit(commit_of(sqlite.item()))).disk_full

    def test_it_opens_only_when_the_disk_takes_a_probe(
        self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sqlite.add()
        connect = schema.connect_writer

        def full(path: Path) -> sqlite3.Connection:
            conn = connect(path)
            (pages,) = conn.execute("PRAGMA page_count").fetchone()
            conn.execute(f"PRAGMA max_page_count={pages}")
            return conn

        monkeypatch.setattr(sqlite_module, "PROBE_BYTES", 10_000_000)
        monkeypatch.setattr(sqlite_module, "connect_writer", full)
        for _ in range(2):
            with pytest.raises(StoreFailed) as caught:
                sqlite.open()
            assert (caught.value.disk_full, caught.value.definite) == (True, True)
        assert failed(sqlite.submit(commit_of(sqlite.item()))).definite
        monkeypatch.undo()
        assert sqlite.open().rows == 1

    def test_it_opens_only_when_the_log_is_in_the_database(self, sqlite: SqliteKit) -> None:
        sqlite.add()
        other = sqlite3.connect(sqlite.data_dir / "gateway.db", isolation_level=None)
        try:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM messages").fetchall()
            sqlite.add()
            with pytest.raises(StoreFailed, match="another program"):
                sqlite.open()
            other.execute("COMMIT")
        finally:
            other.close()
        assert sqlite.open().rows == 2

    def test_a_reader_that_cannot_be_had(self, sqlite: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schema, "READER_CACHE_KIB", "no number")
        with pytest.raises(StoreFailed, match="syntax error"):
            sqlite.open()
        monkeypatch.undo()
        assert sqlite.open().rows == 0

    async def test_a_query_that_fails(self, sqlite: SqliteKit) -> None:
        queries = sqlite.store._queries
        assert queries is not None
        queries.close()
        with pytest.raises(StoreFailed, match="closed database"):
            await sqlite.store.message(1)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "gateway.db").write_bytes(b"certainly not a database" * 1000)
        store = SqliteStore(tmp_path, lambda call: call())
        with pytest.raises(StoreFailed, match="not a database"):
            store.open()
        store.close()

    def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="cannot be used"):
            SqliteStore(tmp_path / "file" / "data", lambda call: call()).open()

    def test_a_loop_that_has_ended_is_not_told(self, tmp_path: Path) -> None:
        def ended(_: Callable[[], None]) -> None:
            raise RuntimeError("Event loop is closed")

        store = SqliteStore(tmp_path, ended)
        store.open()
        store.submit(commit_of(MemoryKit().item()), lambda *_: None)
        store.close()
        kit = SqliteStore(tmp_path, ended)
        assert kit.open().rows == 1
        kit.close()

    def test_closing_carries_out_what_was_submitted(self, sqlite: SqliteKit) -> None:
        said: list[Exception | None] = []
        for _ in range(3):
            sqlite.store.submit(commit_of(sqlite.item()), lambda _, error: said.append(error))
        sqlite.store.close()
        while not sqlite.calls.empty():
            sqlite.calls.get()()
        assert said == [None] * 3
        assert sqlite.reopen().rows == 3

    def test_closing_on_a_broken_disk(self, sqlite: SqliteKit) -> None:
        sqlite.session()
        for _ in range(3):
            sqlite.add("alice", BOUND, eno=1)
        break_at(sqlite, "COMMIT", disk_error(sqlite3.SQLITE_IOERR_FSYNC))
        assert sqlite.reopen().sessions[0].next == 4


def test_a_session_put_in_a_failed_commit_does_not_count(kit: Kit) -> None:
    first = kit.add()
    kit.session("alice", 1)
    commit = commit_of(kit.item(id=first.id))
    commit.ops.append(PutSession(SessionRow("alice", "e", 2)))
    assert kit.submit(commit) is not None
    commit = commit_of()
    kit.open()
    assert kit.add("alice", BOUND, eno=2).seq == 0
    assert kit.add("alice", BOUND, eno=1).seq == 1
