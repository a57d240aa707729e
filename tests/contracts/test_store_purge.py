"""What leaves the store: swept, dropped, forgotten."""

import pytest

from gateway.commit import (
    Change,
    DropDead,
    Event,
    Forget,
    Gap,
    KeyClaim,
    Note,
    PutClient,
    SettleGaps,
    Sweep,
    Twin,
)
from gateway.model import ChainRow, Extra, Item, Status
from gateway.reads import ReadChain, ReadItems
from gateway.records import ClientRecord, ClientRow
from tests.contracts.storekit import BOUND, CLAIMED, LATER, NONE, WAITING, Kit


def nothing(_: object) -> None:
    """Nobody is told."""


def end(kit: Kit, item: Item, at: int, status: Status = Status.DELIVERED) -> None:
    kit.do(Change(item.id, (WAITING, BOUND), {"hold": NONE, "status": int(status), "ended_at": at, "due": 0}))


def sweep(
    kit: Kit, before: int, dead_before: int = 0, keys_before: int = 0, *, rows: int = 10_000, limit: int = 100
) -> Sweep:
    op = Sweep(before, dead_before, keys_before, rows, limit)
    kit.do(op)
    return op


def left(kit: Kit) -> list[int]:
    return sorted(kit.dump()["messages"])


class TestSweep:
    def test_by_the_time_of_the_end(self, kit: Kit) -> None:
        for n in range(5):
            item = kit.add(at=100 + n)
            if n != 1:
                end(kit, item, 200 + 10 * n, Status.DEAD if n == 2 else Status.EXPIRED)
            kit.do(Note(Event(item.id, 200, "x")))
        op = sweep(kit, 240, 220)
        assert (op.purged, op.more) == (2, False)
        assert left(kit) == [2, 3, 5]
        assert sorted(kit.dump()["events"]) == [2, 3, 5]
        assert sweep(kit, 0, 221).purged == 1
        assert left(kit) == [2, 5]
        assert kit.crash().rows == 2

    def test_what_a_provider_accepted_once_it_has_ended(self, kit: Kit) -> None:
        pending, ended = kit.add(), kit.add()
        kit.do(Change(pending.id, (WAITING,), {"hold": NONE, "status": 3, "due": 0}))
        end(kit, ended, 150, Status.PROVIDER_ACCEPTED)
        assert sweep(kit, 140).purged == 0
        assert sweep(kit, 200, rows=0).purged == 1
        assert left(kit) == [pending.id]

    def test_in_slices(self, kit: Kit) -> None:
        for _ in range(5):
            end(kit, kit.add(), 110)
        assert [(op.purged, op.more) for op in (sweep(kit, 200, limit=2) for _ in range(4))] == [
            (2, True), (2, True), (1, False), (0, False),
        ]  # fmt: skip

    def test_a_slice_looks_at_so_many_and_goes_on_there(self, kit: Kit) -> None:
        kit.do(appends=[kit.item() for _ in range(40)])
        last = kit.add()
        end(kit, last, 110)
        ops = [sweep(kit, 200, limit=2) for _ in range(4)]
        assert [(op.purged, op.more) for op in ops] == [(0, True), (0, True), (1, False), (0, True)]
        assert last.id not in left(kit)

    def test_a_slice_that_is_full_ends_where_it_is(self, kit: Kit) -> None:
        items = [kit.add() for _ in range(4)]
        for item in items[1:]:
            end(kit, item, 110)
        assert [(op.purged, op.more) for op in (sweep(kit, 200, limit=2) for _ in range(2))] == [
            (2, True), (1, False),
        ]  # fmt: skip
        assert left(kit) == [items[0].id]

    def test_the_pass_ends_with_what_is_too_young(self, kit: Kit) -> None:
        old, young = kit.add(at=100), [kit.add(at=300) for _ in range(50)]
        for item in (old, *young):
            end(kit, item, 400)
        op = sweep(kit, 300, 200, limit=2)
        assert (op.purged, op.more) == (0, False)
        op = sweep(kit, 401, limit=100)
        assert (op.purged, op.more) == (51, False)

    def test_the_oldest_when_there_are_too_many(self, kit: Kit) -> None:
        items = [kit.add(at=500) for _ in range(6)]
        for item in items[1:]:
            end(kit, item, 600, Status.DEAD if item.id == 2 else Status.EXPIRED)
        op = sweep(kit, 100, 100, rows=4)
        assert (op.purged, op.more) == (2, False)
        assert left(kit) == [1, 4, 5, 6]
        assert sweep(kit, 100, 100, rows=1).purged == 3
        assert left(kit) == [1]
        assert sweep(kit, 100, 100, rows=0).purged == 0

    def test_never_what_has_an_unsettled_seq(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(4)]
        end(kit, items[0], 110)
        kit.do(Change(items[1].id, (BOUND,), {"status": 6, "ended_at": 110}))
        kit.do(Change(items[2].id, (BOUND,), {"status": 6, "ended_at": 110, "hold": CLAIMED}))
        gap = Gap("alice", 1, 4, items[3].id, "dead")
        kit.do(Change(items[3].id, (BOUND,), {"status": 8, "ended_at": 110, "hold": NONE}, gap=gap))
        assert sweep(kit, 900, 900).purged == 1
        assert left(kit) == [2, 3, 4]
        kit.do(SettleGaps("alice", [4]))
        assert sweep(kit, 900, 900).purged == 1
        assert sweep(kit, 900, 900, rows=0).purged == 0
        assert kit.crash().sessions[0].next == 5

    def test_its_chain_goes_too(self, kit: Kit) -> None:
        item = kit.add()
        row = ChainRow(item.id, "alice", ["hook"], "offline", 1)
        kit.do(Change(item.id, (WAITING,), {}, claim=row))
        end(kit, item, 110)
        sweep(kit, 900)
        assert kit.read(ReadChain(item.id, nothing)).row is None

    def test_keys_outlive_their_message(self, kit: Kit) -> None:
        first = kit.item()
        claim = KeyClaim("backend", "k", b"1", 100, 0)
        kit.do(appends=[first], keys={0: claim})
        end(kit, first, 110)
        assert sweep(kit, 900, 900, 100).purged == 1
        assert kit.do(appends=[kit.item()], keys={0: claim}).twins == {0: Twin(first.id, True, 0)}
        assert sweep(kit, 0, 0, 101).purged == 0
        assert kit.do(appends=[kit.item()], keys={0: claim}).twins == {}

    def test_keys_in_slices(self, kit: Kit) -> None:
        kit.do(
            appends=[kit.item() for _ in range(5)],
            keys={n: KeyClaim("p", f"k{n}", b"1", 100 - n, 0) for n in range(5)},
        )
        assert [sweep(kit, 0, 0, 200, limit=2).more for _ in range(3)] == [True, True, False]
        assert kit.dump()["keys"] == {}


class TestSeqsAfterRowsAreGone:
    """The next seq is exact, although the rows that told it are purged."""

    @pytest.mark.parametrize("how", ["sweep", "drop", "forget another"])
    def test_purged(self, kit: Kit, how: str) -> None:
        kit.session()
        for _ in range(3):
            end(kit, kit.add("alice", BOUND, eno=1), 110, Status.DEAD)
        if how == "sweep":
            sweep(kit, 0, 900)
        elif how == "drop":
            kit.do(DropDead(None))
        else:
            kit.do(Forget("bob", 1, 1))
        known = kit.crash()
        assert (known.sessions[0].next, known.highest_id) == (4, 3)
        assert kit.add("alice", BOUND, eno=1).seq == 4


class TestDropDead:
    def letters(self, kit: Kit) -> list[Item]:
        items = [kit.add() for _ in range(4)]
        for item in items[1:]:
            end(kit, item, 110, Status.DEAD)
            kit.do(Note(Event(item.id, 110, "died")))
        return items

    def test_all(self, kit: Kit) -> None:
        items = self.letters(kit)
        op = DropDead(None)
        kit.do(op)
        assert op.count == 3
        assert left(kit) == [items[0].id]
        assert kit.dump()["events"] == {}
        kit.do(op)
        assert kit.crash().rows == 1

    def test_some(self, kit: Kit) -> None:
        items = self.letters(kit)
        op = DropDead([items[0].id, items[2].id, 99])
        kit.do(op)
        assert op.count == 1
        assert left(kit) == [1, 2, 4]

    def test_none(self, kit: Kit) -> None:
        op = DropDead(None)
        kit.do(op)
        assert op.count == 0


class TestForget:
    async def test_everything_about_a_client_goes(self, kit: Kit) -> None:
        kit.session("alice")
        kit.session("bob")
        x = Extra(type="secret", collapse="c")
        waiting = kit.add(x=x, due=300)
        bound = kit.add("alice", BOUND, eno=1)
        later = kit.add("alice", LATER, due=300)
        ended = kit.add()
        end(kit, ended, 140, Status.DEAD)
        gone = kit.add("alice", BOUND, eno=1)
        gap = Gap("alice", 1, 2, gone.id, "expired")
        kit.do(Change(gone.id, (BOUND,), {"hold": NONE, "status": 8, "ended_at": 141}, gap=gap))
        chained = kit.add()
        row = ChainRow(chained.id, "alice", ["hook"], "offline", 1)
        kit.do(Change(chained.id, (WAITING,), {"hold": NONE}, claim=row), Note(Event(chained.id, 1, "x")))
        theirs = kit.item("bob", sender="alice")
        kit.do(appends=[theirs], keys={0: KeyClaim("alice", "k", b"1", 100, 0)})
        kit.do(PutClient(ClientRow("alice", ClientRecord(late="deliver"), 9, 8)))

        op = Forget("alice", 200, 5)
        kit.do(op)
        assert op.ended == [waiting.id, bound.id, later.id, chained.id]
        known = kit.crash()
        assert [row.client for row in known.sessions] == ["bob"]
        assert known.clients == [ClientRow("alice", not_before=9)]
        assert (known.windows, known.waiting, known.channels, known.next_due) == ({}, {"bob": 1}, {}, 0)
        dump = kit.dump()
        assert (dump["gaps"], dump["chains"], dump["events"], dump["keys"]) == ({}, {}, {}, {})
        assert len(dump["messages"]) == known.rows == 7
        for item, status, ended_at in (
            (waiting, Status.CANCELLED, 200), (bound, Status.CANCELLED, 200), (later, Status.CANCELLED, 200),
            (ended, Status.DEAD, 140), (gone, Status.EXPIRED, 141), (chained, Status.CANCELLED, 200),
        ):  # fmt: skip
            view = await kit.store.message(item.id)
            assert (view.item.client, view.item.sender, view.item.x, view.item.body) == ("", "", None, None)
            assert (view.item.status, view.ended_at, view.item.at) == (status, ended_at, 100)
            assert view.sent_at == (100 if item in {bound, gone} else 0)
        assert await kit.store.messages(None, None, None, 1 << 62, 50) != []
        assert [v.item.id for v in await kit.store.messages(None, None, None, 1 << 62, 50)] == [theirs.id]
        assert await kit.store.dead_letters(None, None, 1 << 62, 50, True) == []
        assert [i.id for i in kit.read(ReadItems([theirs.id], nothing)).items] == [theirs.id]

    def test_what_a_provider_accepted_is_cancelled_unless_it_has_ended(self, kit: Kit) -> None:
        pending, ended = kit.add(), kit.add()
        kit.do(Change(pending.id, (WAITING,), {"hold": NONE, "status": 3, "due": 0}))
        end(kit, ended, 150, Status.PROVIDER_ACCEPTED)
        op = Forget("alice", 200, 5)
        kit.do(op)
        assert op.ended == [pending.id]
        assert [(kit.row(i.id)["status"], kit.row(i.id)["ended_at"]) for i in (pending, ended)] == [
            (Status.CANCELLED, 200), (Status.PROVIDER_ACCEPTED, 150),
        ]  # fmt: skip

    def test_what_is_others_stays(self, kit: Kit) -> None:
        kit.session("bob")
        item = kit.add("bob", BOUND, eno=1)
        gap = Gap("bob", 1, 1, item.id, "dead")
        row = ChainRow(item.id, "bob", ["hook"], "offline", 1)
        key = KeyClaim("bob", "k", b"1", 100, 0)
        kit.do(
            Change(item.id, (BOUND,), {"hold": NONE}, gap=gap, claim=row), appends=[kit.item()], keys={0: key}
        )
        kit.do(Forget("alice", 200, 5))
        dump = kit.dump()
        assert (dump["gaps"], dump["chains"]) == ({("bob", 1): gap}, {item.id: row})
        assert list(dump["keys"]) == [("bob", "k")]
        assert [i.seq for i in kit.crash().windows["bob"]] == [1]

    def test_it_may_come_anew(self, kit: Kit) -> None:
        kit.session("alice", 1)
        kit.add("alice", BOUND, eno=1)
        kit.do(Forget("alice", 200, 5))
        kit.session("alice", 1)
        assert kit.crash().sessions[0].next == 1
        assert kit.add("alice", BOUND, eno=1).seq == 1

    def test_a_stranger(self, kit: Kit) -> None:
        op = Forget("alice", 200, 5)
        kit.do(op, Forget("alice", 200, 7))
        assert op.ended == []
        assert kit.reopen().clients == [ClientRow("alice", not_before=7)]

    def test_what_it_leaves_is_swept_in_time(self, kit: Kit) -> None:
        end(kit, kit.add(), 140, Status.DEAD)
        kit.add()
        kit.do(Forget("alice", 200, 5))
        op = DropDead(None)
        kit.do(op)
        assert op.count == 0
        assert sweep(kit, 201, 141).purged == 2
