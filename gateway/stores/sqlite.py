"""The default store: one SQLite file in `data_dir`.

    hub's thread       submit ──► queue ──► writer thread: BEGIN, commits in order, COMMIT, reads ──► post(done)
                       submit ──► soon, where it is small and the disk quick: the same, here ──► done
    asyncio            queries ──► reader thread, a read-only connection

All is written over one connection, by one thread at a time, with synchronous=FULL: when `done` says so, it is on disk.
What waits in the queue when a commit is taken is carried by the same transaction; only the last of them may have reads,
since reads see what their commit made of the world and nothing later. Which commits are made on the hub's thread is
told in pace.py; nothing else differs. The log is copied by the writer thread alone.

**A failure fails everything.** The transaction is rolled back, its commits and all behind them fail, until `open` has
succeeded again: with new connections, the whole log copied into the database and synced, and a probe written. After a
failed sync nothing else tells what is on the disk. That a checkpoint fails counts as a failure too.

Sink, `then` and `failed` are the hub's to call: the store calls `done`.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import structlog

from gateway.commit import Commit, Recovered
from gateway.errors import ConfigError, StoreFailed
from gateway.stores.asked import Asked
from gateway.stores.pace import Pace, small
from gateway.stores.queries import Queries
from gateway.stores.recover import recover
from gateway.stores.rows import Reader
from gateway.stores.schema import FILE, MIGRATIONS, Migration, connect_reader, connect_writer, lock, migrate
from gateway.stores.wal import Wal
from gateway.stores.writer import Writer

log = structlog.get_logger("gateway.store")

_T = TypeVar("_T")
Done = Callable[[Commit, Exception | None], None]
_Job = tuple[Commit, Done] | Callable[[], None]

# commits of one transaction
GROUP = 64
# commits on the hub's thread between two looks at the length of the log: each adds a few hundred pages at the most
LOOK = 16
# seconds in which the writer thread lets go of the connection after a commit if it does not copy the log
LETS_GO = 0.001
# a disk on which this cannot be written is full
PROBE_BYTES = 64 << 10
# as is one with less room than this, whatever SQLite calls the error
FULL_BYTES = 1 << 20


class SqliteStore(Asked):
    """`post` runs a call on the hub's thread (`loop.call_soon_threadsafe`), `soon` does so from that thread
    (`loop.call_soon`); without it the writer thread makes all commits.
    """

    name = "sqlite"

    def __init__(
        self,
        data_dir: Path,
        post: Callable[[Callable[[], None]], None],
        soon: Callable[[Callable[[], None]], object] | None = None,
        *,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._dir = data_dir
        self._path = data_dir / FILE
        self._post = post
        self._soon = soon
        self._migrations = migrations
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = -1
        self._stop = False
        self._reader = Reader()
        self._using = threading.Lock()  # the connection
        # of the hub's thread: a commit that it is to make; those of the writer thread that were not told
        self._here: tuple[Commit, Done] | None = None
        self._untold = 0
        self._made_here = 0
        self._log_long = False
        self._pace = Pace()
        # of one opening
        self._failure: StoreFailed | None = StoreFailed("the store is not open", definite=True)
        self._conn: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._wal: Wal | None = None
        self._queries: Queries | None = None
        # sums over all openings
        self._commits = 0
        self._seconds = 0.0
        self._failures = 0
        self._checkpoints = 0
        self._checkpoint_seconds = 0.0

    # -- the hub's thread ------------------------------------------------------------------------------------------

    def open(self) -> Recovered:
        """Open, migrate, check, and tell what is there; again after a failure. Blocks.

        Raises StoreFailed (try again later), or ConfigError where another process has the folder or a newer gateway
        made the file.
        """
        if self._lock < 0:
            self._lock = lock(self._dir)
        if self._thread is None:
            self._stop = False
            self._pool = ThreadPoolExecutor(1, "store-reader")
            self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
            self._thread.start()
        try:
            return self._ask(self._open)
        except ConfigError:
            self.close()
            raise

    def submit(self, commit: Commit, done: Done) -> None:
        """See ports.Store."""
        if self._fits_here(commit):
            self._here = (commit, done)
            self._soon(self._commit_here)  # type: ignore[misc]
            return
        self._leave_here()
        self._put((commit, done))
        if self._thread is None:
            self._refuse_queued()

    def _fits_here(self, commit: Commit) -> bool:
        return (
            self._soon is not None
            and self._here is None
            and not self._untold
            and not self._log_long
            and self._thread is not None
            and self._pace.quick(time.perf_counter())
            and small(commit)
        )

    def _commit_here(self) -> None:
        job, self._here = self._here, None
        if job is None:
            return
        if not self._using.acquire(timeout=LETS_GO):
            # the writer thread copies the log
            self._put(job)
            return
        started = time.perf_counter()
        try:
            error = self._commit([job])
            self._made_here += 1
            if error is None and self._made_here % LOOK == 0:
                self._look_at_log()
        finally:
            self._using.release()
        now = time.perf_counter()
        self._pace.took(now - started, now)
        commit, done = job
        done(commit, error)

    def _leave_here(self) -> None:
        """Something is to come behind the commit that waits here: the writer thread makes both."""
        job, self._here = self._here, None
        if job is not None:
            self._put(job)

    def _put(self, job: tuple[Commit, Done]) -> None:
        self._untold += 1
        self._log_long = False
        self._jobs.put(job)

    def close(self) -> None:
        """Carry out what was submitted, write the counters, let go of the files. May be called again."""
        if self._thread is not None:
            self._ask(self._close)
            self._thread.join()
            self._thread = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def figures(self) -> dict[str, float]:
        """Rows, bytes on disk, sums of commits and checkpoints since the start."""
        writer, wal = self._writer, self._wal
        wal_bytes = _size(self._path.with_name(f"{FILE}-wal"))
        return {
            "rows": writer.counters.rows if writer is not None else 0,
            "bytes": _size(self._path) + wal_bytes,
            "wal_bytes": wal_bytes,
            "commits": self._commits,
            "commits_here": self._made_here,
            "commit_seconds": self._seconds,
            "failures": self._failures,
            "checkpoints": self._checkpoints + (wal.checkpoints if wal is not None else 0),
            "checkpoint_seconds": self._checkpoint_seconds + (wal.seconds if wal is not None else 0.0),
            "corrupt": self._reader.corrupt,
        }

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Have the writer thread call, behind what is queued, and wait for it."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
                future.set_exception(error)

        self._leave_here()
        self._jobs.put(run)
        return future.result()

    # -- queries ---------------------------------------------------------------------------------------------------

    async def _query(self, call: Callable[[Queries], _T]) -> _T:
        """Raises StoreFailed while the store is not open."""
        if self._failure is not None or self._queries is None or self._pool is None:
            raise self._failure or StoreFailed("the store is not open", definite=True)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, self._queries)
        except sqlite3.Error as error:
            raise self._explain(error, definite=True) from error

    # -- the writer thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        held: Callable[[], None] | None = None
        while not self._stop:
            job = held or self._jobs.get()
            held = None
            if not isinstance(job, tuple):
                with self._using:
                    job()
                continue
            group = [job]
            while not group[-1][0].reads and len(group) < GROUP:
                try:
                    following = self._jobs.get_nowait()
                except Empty:
                    break
                if not isinstance(following, tuple):
                    held = following
                    break
                group.append(following)
            with self._using:
                self._tell(group, self._commit(group))
                self._checkpoint()

    def _commit(self, group: list[tuple[Commit, Done]]) -> StoreFailed | None:
        """Carry out these commits in one transaction."""
        error = self._failure
        if error is None:
            started = time.perf_counter()
            error = self._transact([commit for commit, _ in group])
            if error is None:
                self._commits += len(group)
                self._seconds += time.perf_counter() - started
            else:
                self._fail(error)
        return error

    def _tell(self, group: list[tuple[Commit, Done]], error: StoreFailed | None) -> None:
        def tell() -> None:
            self._untold -= len(group)
            for commit, done in group:
                done(commit, error)

        # a loop that has ended has nobody to be told
        with contextlib.suppress(RuntimeError):
            self._post(tell)

    def _transact(self, commits: list[Commit]) -> StoreFailed | None:
        conn, writer = self._conn, self._writer
        assert conn is not None
        assert writer is not None
        try:
            if any(c.appends or c.binds or c.settles or c.ops for c in commits):
                conn.execute("BEGIN IMMEDIATE")
                for commit in commits:
                    writer.carry_out(commit)
                writer.counters.finish()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing of this batch was committed
            with contextlib.suppress(sqlite3.Error):
                conn.execute("ROLLBACK")
            return self._explain(error, definite=True)
        committed = False
        try:
            if conn.in_transaction:
                conn.execute("COMMIT")
            committed = True
            writer.committed()
            writer.read(commits[-1])
        except Exception as error:  # noqa: BLE001 - nobody knows whether the commit reached the disk
            with contextlib.suppress(sqlite3.Error):
                conn.execute("ROLLBACK")
            return self._explain(error, definite=not committed and _refused(error))
        return None

    def _look_at_log(self) -> None:
        """Where it is long, the next commit is the writer thread's, which copies it then."""
        assert self._wal is not None
        try:
            self._log_long = self._wal.long()
        except OSError as error:
            self._fail(self._explain(error, definite=True))

    def _checkpoint(self) -> None:
        if self._failure is None and self._wal is not None:
            try:
                self._wal.after_commit(not self._jobs.empty())
            except (sqlite3.Error, OSError) as error:
                self._fail(self._explain(error, definite=True))

    def _fail(self, error: StoreFailed) -> None:
        """From here on everything fails, and it is certain that nothing of it reached the disk."""
        self._failures += 1
        self._failure = StoreFailed(str(error), definite=True, disk_full=error.disk_full)
        log.error("the store cannot commit", error=str(error), disk_full=error.disk_full)

    def _explain(self, error: Exception, *, definite: bool) -> StoreFailed:
        """`definite` is for this batch. Room on the disk is looked at as well: SQLite names a full one in many ways."""
        full = isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL
        with contextlib.suppress(OSError):
            room = os.statvfs(self._dir)
            full = full or (
                isinstance(error, sqlite3.Error | OSError) and room.f_bavail * room.f_frsize < FULL_BYTES
            )
        failed = StoreFailed(f"{type(error).__name__}: {error}", definite=definite, disk_full=full)
        failed.__cause__ = error
        return failed

    def _refuse_queued(self) -> None:
        """Nobody runs: answer what was submitted."""
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if isinstance(job, tuple):
                    self._tell([job], self._failure)

    # -- opening and closing, in the writer thread -----------------------------------------------------------------

    def _open(self) -> Recovered:
        self._drop()
        try:
            conn = self._conn = connect_writer(self._path)
            migrate(conn, self._migrations)
            busy, _, _ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
            if busy:
                raise sqlite3.OperationalError("another program holds on to the database")
            conn.execute("INSERT OR REPLACE INTO meta VALUES ('probe',zeroblob(?))", (PROBE_BYTES,))
            self._writer = Writer(conn, self._reader)
            known = recover(conn, self._writer, self._reader)
            self._wal = Wal(conn, self._path)
            self._queries = Queries(connect_reader(self._path), self._reader)
        except ConfigError:
            self._drop()
            raise
        except Exception as error:
            self._drop()
            raise self._explain(error, definite=True) from error
        self._failure = None
        return known

    def _close(self) -> None:
        self._stop = True
        if self._failure is None and self._conn is not None and self._writer is not None:
            try:
                self._conn.execute("BEGIN IMMEDIATE")
                self._writer.counters.flush()
                self._conn.execute("COMMIT")
            except sqlite3.Error as error:
                # they are exact without it
                log.warning("the counters could not be written", error=str(error))
        self._drop()

    def _drop(self) -> None:
        """Let go of what one opening had."""
        self._failure = self._failure or StoreFailed("the store is not open", definite=True)
        if self._queries is not None and self._pool is not None:
            self._pool.submit(self._queries.close).result()
        if self._wal is not None:
            self._checkpoints += self._wal.checkpoints
            self._checkpoint_seconds += self._wal.seconds
            self._wal.close()
        if self._conn is not None:
            with contextlib.suppress(sqlite3.Error):
                self._conn.close()
        self._queries = self._wal = self._writer = self._conn = None


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _refused(error: Exception) -> bool:
    """Whether a failed COMMIT is known to have written no commit: the disk was full before its last page."""
    return isinstance(error, sqlite3.Error) and _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
