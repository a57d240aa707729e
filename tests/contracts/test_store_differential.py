"""The best proof of the SQLite store: any operations at all, and after every commit, reopening and kill it holds the
very rows that the naive store of dictionaries holds, and has told the same.
"""

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.commit import (
    Change,
    Commit,
    DropDead,
    Event,
    Forget,
    Gap,
    KeyClaim,
    Note,
    Op,
    PutClient,
    PutSession,
    Reclaim,
    SettleGaps,
    Sweep,
    Unbind,
)
from gateway.errors import GatewayError
from gateway.model import ChainRow, Extra, Item, SessionRow
from gateway.reads import (
    Read,
    ReadChain,
    ReadChainable,
    ReadChains,
    ReadDue,
    ReadItems,
    ReadResting,
    ReadStories,
    ReadWaiting,
)
from gateway.records import ClientRecord, ClientRow
from gateway.stores import counters, queries
from tests.contracts.storekit import (
    BOUND,
    CLAIMED,
    LATER,
    NONE,
    WAITING,
    Kit,
    MemoryKit,
    SqliteKit,
    plain,
    recovered,
)

CLIENTS = ("alice", "bob", "carol")
CHANNELS = ("hook", "sms")
WHYS = ("expired", "superseded", "dead")


def nothing(_: object) -> None:
    """Nobody is told."""


class Nobody:
    """Asked for a run, and is not told."""

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None: ...

    def refused(self, ref: Any, error: GatewayError) -> None: ...

    def stored_run(self, refs: list[Any], items: list[Item]) -> None: ...


class Twins:
    """A commit for each store, filled alike: everything that is random is drawn once."""

    def __init__(self, rng: Random, world: "World") -> None:
        self.rng = rng
        self.world = world
        self.commits = (Commit(), Commit())
        world.now += rng.randint(0, 20)
        for commit in self.commits:
            commit.at = world.now

    def both(self, make: Any) -> list[Any]:
        """`make` for each store, with the same chance."""
        state = self.rng.getstate()
        made = []
        for _ in self.commits:
            self.rng.setstate(state)
            made.append(make())
        return made

    # -- what there may be -----------------------------------------------------------------------------------------

    def some_id(self) -> int:
        return self.rng.randint(1, max(self.world.last, 1))

    def some_ids(self, most: int = 6) -> list[int]:
        recent = range(max(1, self.world.last - 12), self.world.last + 1)
        return self.rng.sample(recent, min(len(recent), self.rng.randint(0, most)))

    def some_time(self) -> int:
        return self.world.now + self.rng.randint(-60, 60)

    def eno(self, client: str) -> int:
        return self.world.epochs.get(client, 0) or self.rng.randint(0, 1)

    def new_item(self, id: int, hold: int) -> Item:
        rng = self.rng
        client = rng.choice(CLIENTS)
        x = None
        if rng.random() < 0.5:
            x = Extra(
                type=rng.choice((None, 't"y\n', "ü")),
                meta={"k": "v"} if rng.random() < 0.2 else None,
                collapse=rng.choice((None, None, "c", "d")),
                deadline=self.some_time() if rng.random() < 0.3 else None,
            )
        body = None if rng.random() < 0.05 else b'"' + b"\xc3\xbc" * rng.randint(0, 40) + b'"'
        lane, at = rng.randint(0, 3), self.world.now
        item = Item(id, client, rng.choice(("p", "q")), lane, at, at + 50, body, x, int(rng.random() < 0.1))
        item.chain = rng.randint(0, 2)
        item.pid = rng.choice((0, 1, 2, 65_535))
        item.hold = hold
        item.due = rng.choice((0, self.some_time()))
        if hold == BOUND:
            item.eno = self.eno(client)
            item.status = rng.randint(0, 1)
        return item

    # -- what a commit may carry -----------------------------------------------------------------------------------

    def append(self) -> None:
        rng = self.rng
        self.world.last += rng.randint(1, 2)
        id, hold = self.world.last, rng.choice((WAITING, LATER, BOUND, BOUND))
        items = self.both(lambda: self.new_item(id, hold))
        claim = None
        if rng.random() < 0.4:
            claim = KeyClaim(
                rng.choice((*CLIENTS, "p")), rng.choice(("k", "l", "\0")), rng.choice((b"1", b"2")), self.world.now,
                self.world.now - rng.randint(0, 60), rng.random() < 0.2,
            )  # fmt: skip
        for commit, item in zip(self.commits, items, strict=True):
            if claim is not None:
                commit.keys[len(commit.appends)] = claim
            commit.appends.append(item)
            commit.sinks.append(None)
            commit.refs.append(None)

    def append_run(self) -> None:
        """Messages of one publisher that are a body and nothing else (hub/bare.py)."""
        rng, now = self.rng, self.world.now
        sender, count = rng.choice(("p", "q")), rng.randint(1, 80)
        first, self.world.last = self.world.last + 1, self.world.last + count

        def make() -> list[Item]:
            items = []
            for id in range(first, first + count):
                item = Item(id, rng.choice(CLIENTS), sender, 2, now, now + 50, b'{"n":%d}' % id)
                item.pid = rng.choice((0, 1, 65_535))
                item.chain = int(rng.random() < 0.1)
                item.hold = rng.choice((WAITING, BOUND, BOUND, BOUND))
                if item.hold == BOUND:
                    item.eno, item.status = self.eno(item.client), 1
                else:
                    item.due = now + rng.randint(1, 50)
                items.append(item)
            return items

        for commit, items in zip(self.commits, self.both(make), strict=True):
            start = len(commit.appends)
            commit.runs.append((start, start + count, Nobody()))
            commit.appends += items
            commit.sinks += [None] * count
            commit.refs += [None] * count

    def bind(self) -> None:
        client = self.rng.choice(CLIENTS)
        eno = self.eno(client)
        ids = self.some_ids()

        def make() -> tuple[str, int, list[Item]]:
            return client, eno, [Item(id, client, "p", 2, 0, 0, None) for id in ids]

        for commit, bind in zip(self.commits, self.both(make), strict=True):
            commit.binds.append(bind)

    def settle(self) -> None:
        for id in self.some_ids():
            how = self.rng.choice((4, 4, 10)), self.some_time(), self.rng.choice(("ws", "mqtt"))
            for commit in self.commits:
                commit.settles.append((*how, [id]))

    def operate(self) -> None:
        common = [self.change] * 8 + [self.put_session] * 3 + [self.reclaim] * 2
        rare = [
            self.note,
            self.unbind,
            self.settle_gaps,
            self.put_client,
            self.forget,
            self.drop_dead,
            self.sweep,
        ]
        make = self.rng.choice(common + rare)
        last = self.world.last
        for commit, op in zip(self.commits, self.both(make), strict=True):
            commit.ops.append(op)
        if isinstance(op, Change) and op.report is not None:
            self.world.last = last + 1
        if isinstance(op, PutSession):
            self.world.epochs[op.row.client] = op.row.eno
        if isinstance(op, Forget):
            self.world.epochs.pop(op.client, None)

    def change(self) -> Op:
        rng = self.rng
        id = self.some_id()
        client = rng.choice(CLIENTS)
        columns: dict[str, int | str | None] = {}
        if rng.random() < 0.8:
            columns = {"hold": rng.choice((NONE, WAITING, BOUND, LATER, CLAIMED, CLAIMED))}
            for name, values in {
                "status": range(11), "due": (0, self.some_time(), None), "chain": range(3), "marks": range(3),
                "tries": range(3), "sent_at": (0, 7), "ended_at": (0, self.some_time()), "via": ("", "sms", None),
                "why": ("unacked", "a\0b"), "replayed": (0, 7), "seq": (0,), "eno": (0,),
            }.items():  # fmt: skip
                if rng.random() < 0.25:
                    columns[name] = rng.choice(values)
        report = None
        if rng.random() < 0.2:
            report = Item(
                self.world.last + 1, client, "gw", 2, self.world.now, self.world.now + 9, b"{}", kind=1
            )
        return Change(
            id,
            tuple(rng.sample(range(5), rng.randint(2, 5))),
            columns,
            event=Event(id, self.some_time(), "k", {"a": 1}) if rng.random() < 0.3 else None,
            gap=self.gap(id, client) if rng.random() < 0.2 else None,
            claim=self.chain_row(id, client) if rng.random() < 0.4 else None,
            chain=self.chain_row(id, client) if rng.random() < 0.2 else None,
            drop_chain=rng.random() < 0.2,
            free=rng.random() < 0.1,
            ended=rng.random() < 0.3,
            missed=(client, rng.choice(WHYS)) if rng.random() < 0.3 else None,
            report=report,
            unbound=rng.random() < 0.1,
            was=rng.choice((-1, -1, -1, 0, 3, 4)),
            below=rng.choice((4, 4, 3)),
            stood=rng.choice((None, None, (rng.randint(0, 3), rng.randint(0, 1), rng.randint(0, 2)))),
        )

    def gap(self, id: int, client: str) -> Gap:
        rng = self.rng
        return Gap(client, self.eno(client), rng.randint(1, 9), id, rng.choice(WHYS), rng.choice(("", "sms")))

    def chain_row(self, id: int, client: str) -> ChainRow:
        rng = self.rng
        return ChainRow(
            id, client, list(CHANNELS), rng.choice(("offline", "offline", "deadline")), self.some_time(),
            rng.choice((0, 0, 1, 2, 3)), rng.randint(0, 1), rng.randint(0, 2), rng.randint(0, 2), rng.random() < 0.1,
            rng.randint(0, 3), self.some_time(),
        )  # fmt: skip

    def note(self) -> Op:
        return Note(Event(self.some_id(), self.some_time(), "note"))

    def put_session(self) -> Op:
        rng = self.rng
        client = rng.choice(CLIENTS)
        eno = self.world.epochs.get(client, 0)
        if eno == 0 or rng.random() < 0.3:
            eno = self.world.last_eno + 1
        row = SessionRow(
            client,
            f"e{eno}",
            eno,
            1,
            rng.choice((None, b"\x00\xff")),
            b"t",
            self.some_time(),
            1,
            self.some_time(),
            sub=rng.randint(0, 2),
            keep=rng.choice((-1, 0, 60_000)),
        )
        return PutSession(row, rng.choice((None, None, True, False)))

    def unbind(self) -> Op:
        client = self.rng.choice(CLIENTS)
        rows = self.world.memory.store._tables.messages
        return Unbind(client, [id for id in self.some_ids() if id in rows and rows[id].client == client])

    def reclaim(self) -> Op:
        return Reclaim(self.rng.choice(CLIENTS), self.world.now)

    def settle_gaps(self) -> Op:
        return SettleGaps(self.rng.choice(CLIENTS), self.rng.sample(range(1, 10), 4))

    def put_client(self) -> Op:
        client = self.rng.choice(CLIENTS)
        return PutClient(ClientRow(client, ClientRecord(late="deliver"), self.rng.randint(0, 9), 3))

    def forget(self) -> Op:
        return Forget(self.rng.choice(CLIENTS), self.world.now, self.rng.randint(0, 9))

    def drop_dead(self) -> Op:
        return DropDead(self.rng.choice((None, self.some_ids())))

    def sweep(self) -> Op:
        rng = self.rng
        return Sweep(
            self.some_time(), self.some_time(), self.some_time(), rng.choice((1000, rng.randint(0, 30))),
            rng.randint(1, 4),
        )  # fmt: skip

    def look(self) -> None:
        rng = self.rng
        for commit, read in zip(self.commits, self.both(lambda: self.make_read(rng)), strict=True):
            commit.reads.append(read)

    def make_read(self, rng: Random) -> Read:
        client, limit = rng.choice(CLIENTS), rng.randint(1, 4)
        return rng.choice(
            (
                ReadWaiting(
                    client,
                    rng.randint(0, 3),
                    limit,
                    nothing,
                    bare=rng.random() < 0.5,
                    fresh=rng.random() < 0.3,
                    after=rng.choice((0, 0, self.some_id())),
                ),
                ReadChainable(client, rng.choice((0, self.some_id())), self.some_time(), limit, nothing),
                ReadItems(self.some_ids(), nothing),
                ReadDue(self.some_time(), limit, nothing),
                ReadChains(rng.choice(CHANNELS), self.some_time(), limit, nothing),
                ReadResting(self.some_time(), limit, nothing),
                ReadStories(self.some_ids(), nothing),
                ReadChain(self.some_id(), nothing),
            )
        )


class World(RuleBasedStateMachine):
    """Both stores, fed alike."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.memory: Kit = MemoryKit()
        self.sqlite = SqliteKit(Path(self._folder.name))
        self.now = 1000
        self.last = 0
        self.last_eno = 0
        self.epochs: dict[str, int] = {}

    def teardown(self) -> None:
        self.memory.close()
        self.sqlite.close()
        self._folder.cleanup()

    @rule(seed=st.integers(0, 2**32), size=st.integers(1, 12))
    def commit(self, seed: int, size: int) -> None:
        rng = Random(seed)
        twins = Twins(rng, self)
        for _ in range(size):
            rng.choice(
                (
                    *[twins.append] * 4,
                    twins.append_run,
                    twins.bind,
                    twins.settle,
                    *[twins.operate] * 4,
                    twins.look,
                )
            )()
            self.last_eno = max(self.last_eno, *self.epochs.values(), 0)
        errors = [kit.submit(c) for kit, c in zip((self.memory, self.sqlite), twins.commits, strict=True)]
        assert errors == [None, None]
        expected, found = (told(commit) for commit in twins.commits)
        assert found == expected

    @rule(last=st.sampled_from((1, 2, 1000)))
    def ask(self, last: int) -> None:
        async def uplinks(kit: Kit) -> dict[str, dict[int, tuple[int, bytes]]]:
            found: dict[str, dict[int, tuple[int, bytes]]] = await kit.store.uplinks(["p", "q", "r"], 0, last)
            return found

        assert asyncio.run(uplinks(self.sqlite)) == asyncio.run(uplinks(self.memory))

    @rule()
    def reopen(self) -> None:
        assert recovered(self.sqlite.reopen()) == recovered(self.memory.reopen())

    @rule()
    def kill(self) -> None:
        assert recovered(self.sqlite.crash()) == recovered(self.memory.crash())

    @invariant()
    def same_rows(self) -> None:
        expected, found = self.memory.dump(), self.sqlite.dump()
        for name, rows in expected.items():
            assert found[name] == rows, name
        assert self.sqlite.store.figures()["rows"] == len(expected["messages"])


def told(commit: Commit) -> dict[str, Any]:
    """Everything that a store writes into a commit."""
    results = ("back", "count", "ended", "gaps", "missed", "more", "ok", "purged", "unsettled", "waiting")
    ops = [[plain(getattr(op, name)) for name in results if name in op.__slots__] for op in commit.ops]
    reads = [
        {name: plain(getattr(read, name)) for name in read.__slots__ if name != "then"}
        for read in commit.reads
    ]
    return {
        "appends": plain(commit.appends),
        "binds": plain(commit.binds),
        "twins": plain(commit.twins),
        "collapsed": commit.collapsed,
        "ops": ops,
        "reads": reads,
    }


def test_both_stores_hold_and_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # the floor moves every few rows
    monkeypatch.setattr(counters, "FLUSH_ROWS", 7)
    monkeypatch.setattr(queries, "SLICE", 5)
    run_state_machine_as_test(World, settings=settings(max_examples=20, stateful_step_count=20))
