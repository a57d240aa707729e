"""Small commits on the thread that submits them: which, what comes behind them, and what a slow disk does to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.commit import Commit, Note
from gateway.commit import Event as Line
from gateway.reads import ReadItems
from gateway.stores.pace import AWAY, BYTES, QUICK, ROWS, Pace, small
from tests.contracts.storekit import BOUND, SqliteKit, failed
from tests.contracts.test_store_failure import commit_of, nothing


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SqliteKit]:
    made = SqliteKit(tmp_path, here=True)
    yield made
    made.close()


def made_here(kit: SqliteKit) -> int:
    """How many so far. The writer thread has let go of the connection then."""
    with kit.store._using:
        return int(kit.store.figures()["commits_here"])


class TestWhich:
    def test_rows_of_all_kinds_count(self, here: SqliteKit) -> None:
        commit = commit_of(*(here.item() for _ in range(ROWS - 20)))
        commit.settles += [(4, 1, "ws", list(range(5))), (4, 2, "ws", list(range(5)))]
        commit.binds.append(("alice", 1, [here.item() for _ in range(10)]))
        assert small(commit)
        commit.settles.append((4, 3, "ws", [7]))
        assert not small(commit)

    def test_many_of_one_kind(self, here: SqliteKit) -> None:
        assert not small(commit_of(*(here.item(body=None) for _ in range(ROWS + 1))))
        commit = Commit()
        commit.settles += [(4, n, "ws", [n]) for n in range(ROWS + 1)]
        assert not small(commit)

    def test_bytes_count(self, here: SqliteKit) -> None:
        assert small(commit_of(here.item(body=b"x" * BYTES)))
        assert not small(commit_of(here.item(body=b"x" * BYTES), here.item(body=b"1")))

    def test_what_may_look_at_many_rows_is_not_small(self) -> None:
        reads, operates = Commit(), Commit()
        reads.reads.append(ReadItems([1], nothing))
        operates.ops.append(Note(Line(1, 1, "x")))
        assert (small(reads), small(operates)) == (False, False)


class TestPace:
    def test_the_first_that_is_slow_ends_it(self) -> None:
        pace = Pace()
        assert pace.quick(100.0)
        pace.took(QUICK * 2, 100.0)
        assert not pace.quick(100.0 + QUICK * 2 * AWAY - 0.01)
        assert pace.quick(100.0 + QUICK * 2 * AWAY)

    def test_it_comes_back_on_probation(self) -> None:
        pace = Pace()
        pace.took(0.1, 0.0)
        assert pace.quick(0.1 * AWAY)
        pace.took(QUICK * 1.1, 1000.0)
        assert not pace.quick(1000.0)

    def test_one_slow_commit_among_quick_ones(self) -> None:
        pace = Pace()
        for _ in range(100):
            pace.took(QUICK / 10, 1.0)
        pace.took(QUICK * 6, 1.0)
        assert pace.quick(1.0)
        pace.took(QUICK * 6, 1.0)
        assert not pace.quick(1.0)

    def test_always_a_little_slow(self) -> None:
        pace = Pace()
        for _ in range(100):
            pace.took(QUICK / 10, 1.0)
        for _ in range(100):
            pace.took(QUICK * 1.1, 1.0)
        assert not pace.quick(1.0)


class TestWhere:
    def test_a_small_one_is_made_here_a_large_one_by_the_writer(self, here: SqliteKit) -> None:
        here.add()
        assert made_here(here) == 1
        assert here.submit(commit_of(*(here.item() for _ in range(ROWS + 1)))) is None
        assert made_here(here) == 1
        here.add()
        assert made_here(here) == 2
        assert here.crash().rows == ROWS + 3

    def test_it_is_not_made_within_submit(self, here: SqliteKit) -> None:
        told: list[Exception | None] = []
        here.store.submit(commit_of(here.item()), lambda _, error: told.append(error))
        assert (told, made_here(here)) == ([], 0)
        here.calls.get()()
        assert (told, made_here(here)) == ([None], 1)

    def test_what_comes_behind_one_that_waits_goes_with_it_to_the_writer(self, here: SqliteKit) -> None:
        here.session()
        told: list[int] = []
        items = [here.item("alice", BOUND, eno=1) for _ in range(3)]
        for item in items:
            here.store.submit(commit_of(item), lambda commit, _: told.append(commit.appends[0].seq))
        while len(told) < 3:
            here.calls.get(timeout=60)()
        assert (told, made_here(here)) == ([1, 2, 3], 0)

    def test_opening_again_comes_behind_it(self, here: SqliteKit) -> None:
        told: list[Exception | None] = []
        here.store.submit(commit_of(here.item()), lambda _, error: told.append(error))
        assert here.open().rows == 1
        while not here.calls.empty():
            here.calls.get()()
        assert (told, made_here(here)) == ([None], 0)

    def test_so_does_closing(self, here: SqliteKit) -> None:
        here.store.submit(commit_of(here.item()), lambda *_: None)
        assert here.reopen().rows == 1

    def test_while_the_writer_copies_the_log_it_is_the_writers(self, here: SqliteKit) -> None:
        told: list[Exception | None] = []
        with here.store._using:
            here.store.submit(commit_of(here.item()), lambda _, error: told.append(error))
            here.calls.get()()
            assert told == []
        here.calls.get(timeout=60)()
        assert (told, made_here(here)) == ([None], 0)

    def test_a_slow_disk_puts_an_end_to_it(self, here: SqliteKit) -> None:
        here.store._pace = pace = Pace()
        here.add()
        pace.took(1000.0, 1e12)
        here.add()
        assert made_here(here) == 1


class TestLog:
    def test_a_long_log_is_copied_by_the_writer(self, here: SqliteKit) -> None:
        assert here.store._wal is not None
        here.store._wal._soft = 1
        before = here.store.figures()["checkpoints"]
        for _ in range(20):
            here.add()
        # what came behind the look was the writer's, which told of it before it copied
        assert made_here(here) < 20
        assert here.store.figures()["checkpoints"] == before + 1

    def test_a_log_that_cannot_be_looked_at(self, here: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: object) -> bool:
            raise OSError

        assert here.store._wal is not None
        monkeypatch.setattr(type(here.store._wal), "long", fail)
        for _ in range(16):
            here.add()
        assert failed(here.submit(commit_of(here.item()))).definite
        monkeypatch.undo()
        assert here.open().rows == 16
