"""What a commit reads once it is on disk."""

import pytest

from gateway.commit import Change, Event, Note, Reclaim, Unbind
from gateway.model import ChainRow, Extra
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
from tests.contracts.storekit import BOUND, LATER, NONE, WAITING, Kit


def nothing(_: object) -> None:
    """Nobody is told."""


def ids(read: Read) -> list[int]:
    assert not isinstance(read, ReadChains | ReadResting | ReadStories | ReadChain)
    return [item.id for item in read.items]


def test_a_read_sees_what_its_own_commit_did(kit: Kit) -> None:
    item = kit.item()
    read = ReadWaiting("alice", 2, 9, nothing)
    kit.do(appends=[item], reads=[read])
    assert ids(read) == [item.id]


class TestWaiting:
    def test_one_lane_lowest_id_first_with_bodies(self, kit: Kit) -> None:
        for client, hold, lane in (
            ("alice", WAITING, 1), ("alice", WAITING, 2), ("alice", WAITING, 1), ("bob", WAITING, 1),
            ("alice", LATER, 1), ("alice", WAITING, 1),
        ):  # fmt: skip
            kit.add(client, hold, lane=lane, body=b'"%d"' % kit.ids)
        read = kit.read(ReadWaiting("alice", 1, 2, nothing))
        assert [(i.id, i.body) for i in read.items] == [(1, b'"0"'), (3, b'"2"')]
        assert ids(kit.read(ReadWaiting("alice", 1, 9, nothing))) == [1, 3, 6]
        assert ids(kit.read(ReadWaiting("carol", 1, 9, nothing))) == []

    def test_bare_of_status_reports(self, kit: Kit) -> None:
        for kind in (0, 1, 1, 0, 1, 0, 0, 1):
            kit.add(kind=kind)
        assert ids(kit.read(ReadWaiting("alice", 2, 3, nothing, bare=True))) == [1, 4, 6]
        assert ids(kit.read(ReadWaiting("alice", 2, 9, nothing, bare=True))) == [1, 4, 6, 7]
        assert ids(kit.read(ReadWaiting("alice", 2, 3, nothing))) == [1, 2, 3]
        assert ids(kit.read(ReadWaiting("alice", 1, 3, nothing, bare=True))) == []

    def test_those_behind_an_id(self, kit: Kit) -> None:
        for lane in (2, 1, 2, 2):
            kit.add(lane=lane)
        assert ids(kit.read(ReadWaiting("alice", 2, 9, nothing, after=1))) == [3, 4]
        assert ids(kit.read(ReadWaiting("alice", 2, 1, nothing, after=3))) == [4]
        assert ids(kit.read(ReadWaiting("alice", 2, 9, nothing, after=4))) == []

    def test_fresh_is_what_was_never_sent_in_any_way(self, kit: Kit) -> None:
        kit.session()
        report, sent, nacked, bound, unbound, handed, back, late, fresh, last = (
            kit.add("alice", BOUND if n in {3, 4} else WAITING, eno=1 if n in {3, 4} else 0, kind=int(n == 0))
            for n in range(10)
        )
        chain = ChainRow(back.id, "alice", ["hook"], "offline", 100)
        kit.do(
            Change(sent.id, (WAITING,), {"status": 1, "marks": 1, "sent_at": 100}),
            Change(nacked.id, (WAITING,), {"status": 0, "marks": 1}),
            Change(handed.id, (WAITING,), {"hold": NONE, "status": 2}),
            Change(back.id, (WAITING,), {"hold": NONE, "status": 2}, claim=chain),
            Change(late.id, (WAITING,), {"status": 6}),
        )
        kit.do(Unbind("alice", [unbound.id]), Reclaim("alice", 100))
        assert (kit.row(report.id)["kind"], kit.row(bound.id)["hold"]) == (1, BOUND)
        assert kit.row(unbound.id)["hold"] == WAITING
        read = kit.read(ReadWaiting("alice", 2, 9, nothing, fresh=True))
        assert ids(read) == [back.id, fresh.id, last.id]
        assert read.items[0].body is not None
        assert ids(kit.read(ReadWaiting("alice", 2, 1, nothing, fresh=True, after=back.id))) == [fresh.id]
        assert ids(kit.read(ReadWaiting("alice", 1, 9, nothing, fresh=True))) == []

    def test_large_bodies(self, kit: Kit) -> None:
        items = [kit.item(body=b'"' + bytes([65 + n]) * 200_000 + b'"') for n in range(5)]
        kit.do(appends=items)
        assert [i.body for i in kit.read(ReadWaiting("alice", 2, 9, nothing)).items] == [
            i.body for i in items
        ]


class TestItems:
    def test_in_the_order_asked_missing_ones_left_out(self, kit: Kit) -> None:
        for _ in range(3):
            kit.add(x=Extra(type="t"))
        read = kit.read(ReadItems([3, 77, 1, 3], nothing))
        assert ids(read) == [3, 1]
        assert read.items[0].body is not None
        assert read.items[0].x == Extra(type="t")

    def test_nothing_asked(self, kit: Kit) -> None:
        assert ids(kit.read(ReadItems([], nothing))) == []


class TestDue:
    def test_earliest_first_and_what_comes_after(self, kit: Kit) -> None:
        kit.session()
        for hold, due in (
            (WAITING, 300),
            (LATER, 200),
            (BOUND, 250),
            (WAITING, 0),
            (WAITING, 200),
            (WAITING, 900),
        ):
            kit.add("alice", hold, due=due, eno=1)
        read = kit.read(ReadDue(300, 9, nothing))
        assert [(i.id, i.due, i.body) for i in read.items] == [
            (2, 200, None), (5, 200, None), (3, 250, None), (1, 300, None),
        ]  # fmt: skip
        assert read.next_due == 900
        slice_of = kit.read(ReadDue(300, 2, nothing))
        assert (ids(slice_of), slice_of.next_due) == ([2, 5], 250)
        exact = kit.read(ReadDue(300, 4, nothing))
        assert (ids(exact), exact.next_due) == ([2, 5, 3, 1], 900)
        assert kit.reopen().next_due == 200

    def test_nothing_is_due(self, kit: Kit) -> None:
        kit.add(due=0)
        for now in (-5, 0, 500):
            read = kit.read(ReadDue(now, 5, nothing))
            assert (ids(read), read.next_due) == ([], 0)
        kit.add(due=600)
        read = kit.read(ReadDue(-5, 5, nothing))
        assert (ids(read), read.next_due) == ([], 600)
        full = kit.read(ReadDue(700, 1, nothing))
        assert (ids(full), full.next_due) == ([2], 0)


class TestChainable:
    def test_what_has_a_chain_and_no_deadline_of_its_own(self, kit: Kit) -> None:
        kit.add(chain=1, lane=3)
        kit.add(chain=0)
        kit.add(chain=2)
        kit.add(chain=1, x=Extra(deadline=500))
        kit.add("bob", chain=1)
        kit.add(chain=1, lane=0, x=Extra(type="t"))
        kit.add("alice", LATER, chain=1, due=400)
        kit.add("alice", LATER, chain=1, due=600)
        kit.add(chain=1, lane=1)
        assert ids(kit.read(ReadChainable("alice", 0, 500, 9, nothing))) == [1, 6, 7, 9]
        assert ids(kit.read(ReadChainable("alice", 0, 600, 9, nothing))) == [1, 6, 7, 8, 9]
        read = kit.read(ReadChainable("alice", 1, 500, 2, nothing))
        assert ids(read) == [6, 7]
        assert read.items[0].body is None
        assert read.items[0].x == Extra(type="t")

    def test_the_delay_of_a_nack_does_not_hold_it_back(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1, chain=1)
        kit.do(Change(item.id, (BOUND,), {"hold": LATER, "due": 900}))
        assert ids(kit.read(ReadChainable("alice", 0, 500, 9, nothing))) == [item.id]

    def test_what_is_bound_or_handed_over_is_not(self, kit: Kit) -> None:
        kit.session()
        kit.add("alice", BOUND, eno=1, chain=1)
        handed = kit.add(chain=1)
        kit.do(Change(handed.id, (WAITING,), {"hold": NONE}))
        assert ids(kit.read(ReadChainable("alice", 0, 500, 9, nothing))) == []
        kit.do(Unbind("alice", [1]))
        assert ids(kit.read(ReadChainable("alice", 0, 500, 9, nothing))) == [1]


class TestChains:
    def hand_over(self, kit: Kit, due: int, *, step: int = 0, phase: int = 0, lane: int = 2) -> int:
        item = kit.add(body=b'"%d"' % due, lane=lane)
        row = ChainRow(item.id, "alice", ["hook", "sms"], "offline", due, phase, step, lane=lane)
        kit.do(Change(item.id, (WAITING,), {"hold": NONE}, claim=row))
        return item.id

    def test_those_of_a_channel_earliest_first(self, kit: Kit) -> None:
        for due, step, phase in (
            (300, 0, 0),
            (100, 1, 0),
            (100, 0, 0),
            (150, 0, 1),
            (200, 0, 0),
            (900, 0, 0),
        ):
            self.hand_over(kit, due, step=step, phase=phase)
        read = kit.read(ReadChains("hook", 300, 9, nothing))
        assert [(row.id, row.due, item.id, item.body) for row, item in read.rows] == [
            (3, 100, 3, b'"100"'), (5, 200, 5, b'"200"'), (1, 300, 1, b'"300"'),
        ]  # fmt: skip
        assert read.next_due == 900
        part = kit.read(ReadChains("hook", 300, 2, nothing))
        assert ([row.id for row, _ in part.rows], part.next_due) == ([3, 5], 300)
        sms = kit.read(ReadChains("sms", 300, 2, nothing))
        assert ([row.id for row, _ in sms.rows], sms.next_due) == ([2], 0)
        none = kit.read(ReadChains("hook", 50, 2, nothing))
        assert (none.rows, none.next_due) == ([], 100)
        known = kit.reopen()
        assert known.channels == {"hook": 100, "sms": 100}
        assert [row.id for row in known.open_chains] == [4]

    def test_those_of_a_channel_by_lane_first(self, kit: Kit) -> None:
        for due, lane in ((100, 3), (300, 0), (200, 2), (400, 0), (150, 2), (200, 1), (250, 3)):
            self.hand_over(kit, due, lane=lane)
        read = kit.read(ReadChains("hook", 300, 9, nothing))
        assert [row.id for row, _ in read.rows] == [2, 6, 5, 3, 1, 7]
        assert read.next_due == 400
        for limit, expected, following in ((1, [2], 100), (3, [2, 6, 5], 100), (5, [2, 6, 5, 3, 1], 250)):
            read = kit.read(ReadChains("hook", 300, limit, nothing))
            assert ([row.id for row, _ in read.rows], read.next_due) == (expected, following)
        assert kit.reopen().channels == {"hook": 100}

    def test_those_that_wait_for_a_receipt(self, kit: Kit) -> None:
        assert kit.reopen().next_rest == 0
        for due, step, phase in ((300, 0, 3), (100, 1, 3), (50, 0, 0), (200, 0, 3), (10, 0, 1), (20, 0, 2)):
            self.hand_over(kit, due, step=step, phase=phase)
        read = kit.read(ReadResting(200, 9, nothing))
        assert [(row.id, row.channel, item.body) for row, item in read.rows] == [
            (2, "sms", b'"100"'), (4, "hook", b'"200"'),
        ]  # fmt: skip
        assert read.next_due == 300
        part = kit.read(ReadResting(400, 2, nothing))
        assert ([row.id for row, _ in part.rows], part.next_due) == ([2, 4], 300)
        none = kit.read(ReadResting(60, 2, nothing))
        assert (none.rows, none.next_due) == ([], 100)
        assert kit.read(ReadChains("hook", 900, 9, nothing)).rows[0][0].id == 3
        known = kit.crash()
        assert (known.next_rest, known.channels) == (100, {"hook": 50})

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_a_chain_whose_message_is_gone_holds_nobody_up(self, kit: Kit, limit: int) -> None:
        first = kit.add()
        for n in range(3):
            row = ChainRow(1000 + n, "alice", ["hook"], "offline", 100)
            kit.do(Change(first.id, (WAITING,), {}, chain=row))
        last = self.hand_over(kit, 200)
        read = kit.read(ReadChains("hook", 300, limit, nothing))
        assert ([row.id for row, _ in read.rows], read.next_due) == ([last], 0)

    def test_what_is_handed_out_is_nobody_else_s(self, kit: Kit) -> None:
        id = self.hand_over(kit, 100)
        row, _ = kit.read(ReadChains("hook", 300, 2, nothing)).rows[0]
        row.attempt, row.channels[0] = 9, "x"
        found = kit.read(ReadChain(id, nothing))
        assert (found.row.attempt, found.row.channels[0]) == (0, "hook")
        assert found.item.body == b'"100"'

    def test_a_message_without_a_chain(self, kit: Kit) -> None:
        item = kit.add()
        read = kit.read(ReadChain(item.id, nothing))
        assert read.row is None
        assert read.item.id == item.id
        read = kit.read(ReadChain(99, nothing))
        assert (read.row, read.item) == (None, None)


class TestStories:
    def test_a_message_with_its_chain_and_its_timeline(self, kit: Kit) -> None:
        items = [kit.add(body=b'"%d"' % n) for n in range(3)]
        row = ChainRow(items[0].id, "alice", ["hook"], "offline", 100, 3)
        lines = [Event(items[0].id, at, "receipt", {"n": at}) for at in (300, 200, 200)]
        kit.do(Change(items[0].id, (WAITING,), {"hold": NONE}, claim=row), *map(Note, lines))
        read = kit.read(ReadStories([items[2].id, items[0].id, 99], nothing))
        assert sorted(read.found) == [items[0].id, items[2].id]
        story = read.found[items[0].id]
        assert (story.item.body, story.item.hold, story.row) == (b'"0"', NONE, row)
        assert story.events == [lines[1], lines[2], lines[0]]
        other = read.found[items[2].id]
        assert (other.item.body, other.row, other.events) == (b'"2"', None, [])
        story.row.total = 9
        assert kit.read(ReadStories([items[0].id], nothing)).found[items[0].id].row == row

    def test_it_sees_what_its_own_commit_wrote(self, kit: Kit) -> None:
        item = kit.item()
        read = ReadStories([item.id], nothing)
        kit.do(Note(Event(item.id, 100, "x")), appends=[item], reads=[read])
        assert [event.kind for event in read.found[item.id].events] == ["x"]
