"""Compare and set: when it applies, and what becomes true with it."""

import pytest

from gateway.commit import Change, DropDead, Event, Gap, Note, PutSession, Unbind
from gateway.model import ChainRow, Extra, Item, Missed, SessionRow, Status
from gateway.reads import ReadChain, ReadDue, ReadItems, ReadWaiting
from tests.contracts.storekit import BOUND, CLAIMED, FAR, LATER, NONE, WAITING, Kit, failed


def nothing(_: object) -> None:
    """Nobody is told."""


def chain(id: int, why: str = "offline", *, due: int = 500, phase: int = 0, burnt: bool = False) -> ChainRow:
    return ChainRow(id, "alice", ["hook", "sms"], why, due, phase, burnt=burnt)


class TestWhenItApplies:
    @pytest.mark.parametrize(("holds", "ok"), [((WAITING,), True), ((BOUND, LATER), False), ((), False)])
    def test_by_hold(self, kit: Kit, holds: tuple[int, ...], ok: bool) -> None:
        item = kit.add()
        change = Change(item.id, holds, {"tries": 1}, event=Event(item.id, 120, "tried"))
        kit.do(change)
        assert change.ok is ok
        assert kit.row(item.id)["tries"] == int(ok)
        assert (item.id in kit.dump()["events"]) is ok

    @pytest.mark.parametrize(
        ("status", "ended", "was", "ok"),
        [
            (Status.HANDED_OVER, False, -1, True),
            (Status.PROVIDER_ACCEPTED, False, -1, True),
            (Status.DELIVERED, False, -1, False),
            (Status.DELIVERED, True, -1, True),
            (Status.DELIVERED, False, 4, True),
            (Status.DELIVERED, True, 5, False),
            (Status.QUEUED, False, 1, False),
        ],
    )
    def test_by_status(self, kit: Kit, status: Status, ended: bool, was: int, ok: bool) -> None:
        item = kit.add()
        kit.do(Change(item.id, (WAITING,), {"status": int(status)}))
        change = Change(item.id, (WAITING,), {"why": "x"}, ended=ended, was=was)
        kit.do(change)
        assert change.ok is ok

    @pytest.mark.parametrize(
        ("ended_at", "ended", "was", "below", "ok"),
        [
            (0, False, -1, 4, True),
            (0, False, -1, 3, False),
            (0, False, 3, 3, True),
            (200, False, -1, 4, False),
            (200, False, 3, 4, False),
            (200, True, -1, 3, True),
            (200, True, 3, 4, True),
            (200, True, 2, 4, False),
        ],
    )
    def test_by_whether_what_a_provider_accepted_has_ended(
        self, kit: Kit, ended_at: int, ended: bool, was: int, below: int, ok: bool
    ) -> None:
        item = kit.add()
        kit.do(Change(item.id, (WAITING,), {"status": 3, "ended_at": ended_at}))
        change = Change(item.id, (WAITING,), {"why": "x"}, ended=ended, was=was, below=below)
        kit.do(change)
        assert change.ok is ok

    @pytest.mark.parametrize(
        ("stood", "ok"),
        [((1, 1, 3), True), ((0, 1, 3), False), ((1, 0, 3), False), ((1, 1, 2), False), (None, True)],
    )
    def test_by_where_its_chain_stands(self, kit: Kit, stood: tuple[int, int, int] | None, ok: bool) -> None:
        item, other = kit.add(), kit.add()
        row = ChainRow(item.id, "alice", ["hook", "sms"], "offline", 500, 1, 1, 2, 3)
        kit.do(Change(item.id, (WAITING,), {}, claim=row))
        change = Change(item.id, (WAITING,), {}, stood=stood)
        none = Change(other.id, (WAITING,), {}, stood=(1, 1, 3))
        kit.do(change, none)
        assert (change.ok, none.ok) == (ok, False)

    def test_by_where_its_chain_stood_until_its_own_commit(self, kit: Kit) -> None:
        item = kit.add()
        row = chain(item.id)
        kit.do(Change(item.id, (WAITING,), {}, claim=row))
        after = chain(item.id, phase=1)
        changes = [Change(item.id, (WAITING,), {}, chain=after, stood=row.stand) for _ in range(2)]
        kit.do(*changes)
        assert [c.ok for c in changes] == [True, False]

    @pytest.mark.parametrize(
        ("row", "ok"),
        [
            ({}, True),
            ({"phase": 1}, False),
            ({"phase": 2}, False),
            ({"burnt": True}, False),
            ({"why": "deadline"}, False),
            (None, False),
        ],
    )
    def test_by_whether_its_chain_is_free(self, kit: Kit, row: dict[str, object] | None, ok: bool) -> None:
        item, other = kit.add(), kit.add()
        if row is not None:
            kit.do(Change(item.id, (WAITING,), {}, claim=chain(item.id, **row)))  # type: ignore[arg-type]
        change, plain = Change(item.id, (WAITING,), {}, free=True), Change(other.id, (WAITING,), {})
        kit.do(change, plain)
        assert (change.ok, plain.ok) == (ok, True)

    def test_by_whether_it_ever_had_a_seq(self, kit: Kit) -> None:
        kit.session()
        never, once = kit.add(), kit.add("alice", BOUND, eno=1)
        kit.do(Unbind("alice", [once.id]))
        changes = [Change(i.id, (WAITING,), {"hold": NONE}, unbound=True) for i in (never, once)]
        kit.do(*changes)
        assert [c.ok for c in changes] == [True, False]

    def test_by_whether_it_was_sent_without_one(self, kit: Kit) -> None:
        """A broker's custody: neither cancelled nor collapsed, unless it is put back."""
        x = Extra(collapse="c")
        sent, back = kit.add(x=x), kit.add(x=x, sender="other")
        for item in (sent, back):
            kit.do(Change(item.id, (WAITING,), {"status": 1, "marks": 1, "sent_at": 100}))
        kit.do(Change(back.id, (WAITING,), {"status": 0, "marks": 0, "sent_at": 0}, was=1))
        commit = kit.do(appends=[kit.item(x=x), kit.item(x=x, sender="other")])
        assert commit.collapsed == [(1, back.id)]
        change = Change(sent.id, (WAITING,), {"hold": NONE}, unbound=True)
        kit.do(change)
        assert not change.ok
        assert kit.row(sent.id)["sent_at"] == 100

    def test_not_without_a_row(self, kit: Kit) -> None:
        change = Change(77, (WAITING,), {}, event=Event(77, 1, "x"), gap=Gap("alice", 1, 1, 77, "dead"))
        kit.do(change)
        assert not change.ok
        assert kit.dump()["events"] == kit.dump()["gaps"] == {}

    def test_the_first_of_two_wins(self, kit: Kit) -> None:
        item = kit.add()
        changes = [Change(item.id, (WAITING,), {"hold": NONE, "via": via}) for via in ("a", "b")]
        kit.do(*changes)
        assert [c.ok for c in changes] == [True, False]
        assert kit.row(item.id)["via"] == "a"

    def test_in_the_order_of_the_operations(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        changes = [
            Change(item.id, (WAITING,), {"tries": 1}),
            Change(item.id, (BOUND,), {"crashes": 1}),
            Change(item.id, (WAITING,), {"tries": 2}),
        ]
        kit.do(changes[0], changes[1], Unbind("alice", [item.id]), changes[2])
        assert [c.ok for c in changes] == [False, True, True]

    def test_on_what_its_own_commit_appended(self, kit: Kit) -> None:
        item = kit.item()
        change = Change(item.id, (WAITING,), {"hold": NONE, "status": int(Status.DEAD)})
        kit.do(change, appends=[item])
        assert change.ok


class TestWhatItSets:
    def test_every_column(self, kit: Kit) -> None:
        item = kit.add()
        values: dict[str, int | str | None] = {
            "hold": LATER, "status": 1, "due": 700, "seq": 0, "eno": 0, "marks": 2, "tries": 3, "crashes": 4,
            "chain": 2, "ended_at": 5, "via": "sms", "why": "a\0'ü", "replayed": 1 << 62,
        }  # fmt: skip
        kit.do(Change(item.id, (WAITING,), dict(values)))
        row = kit.row(item.id)
        assert {name: row[name] for name in values} == values
        (found,) = kit.read(ReadItems([item.id], nothing)).items
        assert (found.hold, found.due, found.marks, found.tries, found.crashes) == (LATER, 700, 2, 3, 4)
        assert (found.via, found.why, found.chain) == ("sms", "a\0'ü", 2)

    def test_none_is_nothing(self, kit: Kit) -> None:
        item = kit.add(due=300)
        kit.do(Change(item.id, (WAITING,), {"due": None, "via": None, "why": None}))
        row = kit.row(item.id)
        assert (row["due"], row["via"], row["why"]) == (0, "", "")

    def test_many_with_other_values_and_other_columns(self, kit: Kit) -> None:
        items = [kit.item() for _ in range(90)]
        kit.do(appends=items)
        kit.do(
            *(Change(i.id, (WAITING,), {"due": i.id * 10} if i.id % 3 else {"tries": i.id}) for i in items)
        )
        for item in items:
            row = kit.row(item.id)
            assert (row["due"], row["tries"]) == ((item.id * 10, 0) if item.id % 3 else (0, item.id))

    @pytest.mark.parametrize("column", ["body", "id", "hold=0 WHERE 1; --"])
    def test_nothing_else_can_be_set(self, kit: Kit, column: str) -> None:
        item = kit.add()
        commit = kit.do()
        commit.ops = [Change(item.id, (WAITING,), {column: 1})]
        assert failed(kit.submit(commit)).definite
        kit.open()
        assert kit.row(item.id)["body"] == item.body

    def test_what_waits_again_shows_no_seq(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        kit.do(Change(item.id, (BOUND,), {"hold": WAITING, "status": 0, "tries": 1, "marks": 1}))
        (found,) = kit.read(ReadWaiting("alice", 2, 9, nothing)).items
        assert (found.seq, found.eno, found.tries, found.marks) == (0, 0, 1, 1)
        assert kit.crash().sessions[0].next == 2

    def test_a_seq_taken_from_its_row_is_never_given_again(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        kit.do(Change(item.id, (BOUND,), {"hold": WAITING, "seq": 0, "eno": 0}))
        assert kit.crash().sessions[0].next == 2


class TestWhatComesWithIt:
    def test_a_gap(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        gap = Gap("alice", 1, 1, item.id, "superseded", "sms")
        kit.do(Change(item.id, (BOUND,), {"hold": NONE}, gap=gap))
        assert kit.dump()["gaps"] == {("alice", 1): gap}

    def test_a_gap_of_a_settled_seq_is_none(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(4)]
        for item, hold in zip(items, (BOUND, CLAIMED, NONE, WAITING), strict=True):
            kit.do(Change(item.id, (BOUND,), {"hold": hold}))
        ends = [
            Change(
                item.id,
                (BOUND, CLAIMED, NONE, WAITING),
                {"hold": NONE, "status": 10},
                gap=Gap("alice", 1, n, item.id, "dead"),
            )
            for n, item in enumerate(items, 1)
        ]
        kit.do(*ends)
        assert [change.unsettled for change in ends] == [True, True, False, False]
        assert set(kit.dump()["gaps"]) == {("alice", 1), ("alice", 2)}

    def test_what_does_not_apply_says_nothing_of_its_seq(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        change = Change(item.id, (WAITING,), {}, gap=Gap("alice", 1, 1, item.id, "dead"))
        kit.do(change)
        assert (change.ok, change.unsettled, kit.dump()["gaps"]) == (False, False, {})

    def test_a_claim_of_a_parked_chain_keeps_its_place(self, kit: Kit) -> None:
        item = kit.add()
        old = chain(item.id, phase=2)
        old.step, old.attempt, old.total, old.burnt = 1, 2, 5, True
        kit.do(Change(item.id, (WAITING,), {}, chain=old))
        claim = ChainRow(item.id, "alice", ["hook"], "deadline", 900, since=800)
        kit.do(Change(item.id, (WAITING,), {}, claim=claim))
        row = kit.read(ReadChain(item.id, nothing)).row
        assert (row.channels, row.step, row.attempt, row.total, row.burnt) == (["hook", "sms"], 1, 2, 5, True)
        assert (row.phase, row.why, row.due, row.since) == (0, "deadline", 900, 800)
        kit.do(Change(item.id, (WAITING,), {}, claim=ChainRow(item.id, "alice", ["hook"], "offline", 100)))
        assert kit.read(ReadChain(item.id, nothing)).row.due == 900

    def test_a_chain_is_written_whole_or_dropped(self, kit: Kit) -> None:
        item = kit.add()
        kit.do(Change(item.id, (WAITING,), {}, claim=chain(item.id)))
        whole = ChainRow(item.id, "alice", ["sms"], "replay", 1, 1, 0, 1, 1, True, 3, 77)
        kit.do(Change(item.id, (WAITING,), {}, chain=whole))
        assert kit.read(ReadChain(item.id, nothing)).row == whole
        whole.attempt = 99
        assert kit.read(ReadChain(item.id, nothing)).row.attempt == 1
        kit.do(
            Change(item.id, (BOUND,), {}, drop_chain=True), Change(item.id, (WAITING,), {}, drop_chain=True)
        )
        assert kit.read(ReadChain(item.id, nothing)).row is None

    def test_a_report_that_waits(self, kit: Kit) -> None:
        kit.session("backend")
        items = [kit.add(), kit.add()]
        reports = [Item(50 + n, "backend", "alice", 2, 130, 900, b"{}", kind=1) for n in range(2)]
        reports[0].due = 900
        kit.do(
            Change(items[0].id, (WAITING,), {"hold": NONE}, report=reports[0]),
            Change(items[1].id, (BOUND,), {"hold": NONE}, report=reports[1]),
        )
        (found,) = kit.read(ReadWaiting("backend", 2, 9, nothing)).items
        assert (found.id, found.kind, found.body, found.due, found.hold) == (50, 1, b"{}", 900, WAITING)
        assert kit.reopen().highest_id == 50
        assert kit.known.waiting == {"alice": 1, "backend": 1}

    def test_a_count_of_what_was_missed(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add() for _ in range(3)]
        put = PutSession(kit.known.sessions[0] if kit.known.sessions else kit.session(), proven=False)
        whys = ("expired", "dead", "expired")
        kit.do(
            *(
                Change(i.id, (WAITING,), {"hold": NONE}, missed=("alice", w))
                for i, w in zip(items, whys, strict=True)
            ),
            put,
        )
        assert put.missed == Missed(expired=2, dead=1)

    def test_only_what_can_be_missed(self, kit: Kit) -> None:
        kit.session()
        item = kit.add()
        commit = kit.do()
        commit.ops = [Change(item.id, (WAITING,), {}, missed=("alice", "lost"))]
        assert failed(kit.submit(commit)).definite

    async def test_a_timeline(self, kit: Kit) -> None:
        item = kit.add()
        data = {"n": 1, "why": "ü\n", "list": [1.5, None]}
        kit.do(
            Note(Event(item.id, 120, "note", data)),
            Change(item.id, (WAITING,), {}, event=Event(item.id, 120, "changed")),
            Note(Event(item.id, 120, "after")),
            Note(Event(item.id, 110, "before")),
            Note(Event(999, 110, "nobody's")),
        )
        view = await kit.store.message(item.id)
        assert view.events == [
            Event(item.id, 110, "before"),
            Event(item.id, 120, "note", data),
            Event(item.id, 120, "changed"),
            Event(item.id, 120, "after"),
        ]


class TestReportsThatWaitAgain:
    """A plain MQTT session has no frame for a status report that was bound to it."""

    def bound(self, kit: Kit) -> list[Item]:
        """Both bound, beside a message that is."""
        kit.session("backend")
        item = kit.item("backend", BOUND, eno=1)
        reports = [kit.item("backend", kind=1, expire=900, body=b'{"n":%d}' % n) for n in range(2)]
        kit.do(appends=[item, *reports], binds=[("backend", 1, reports)])
        assert [i.seq for i in (item, *reports)] == [1, 2, 3]
        return reports

    def waiting(self, kit: Kit) -> list[tuple[int, int, int, bytes | None, int]]:
        read = kit.read(ReadWaiting("backend", 2, 9, nothing))
        assert {(i.hold, i.kind, i.eno) for i in read.items} == {(WAITING, 1, 0)}
        return [(i.id, i.due, i.seq, i.body, i.marks) for i in read.items]

    def test_of_an_epoch_that_goes_on(self, kit: Kit) -> None:
        reports = self.bound(kit)
        changes = [Change(r.id, (BOUND,), {"hold": WAITING, "due": r.expire}) for r in reports]
        kit.do(*changes)
        assert [c.ok for c in changes] == [True, True]
        assert self.waiting(kit) == [(r.id, 900, 0, r.body, 0) for r in reports]
        assert kit.read(ReadWaiting("backend", 2, 9, nothing, bare=True)).items == []
        assert [i.id for i in kit.read(ReadDue(900, 9, nothing)).items] == [r.id for r in reports]
        known = kit.crash()
        assert [i.seq for i in known.windows["backend"]] == [1]
        assert (known.waiting, known.sessions[0].next, known.next_due) == ({"backend": 2}, 4, 900)
        kit.do(binds=[("backend", 1, reports)])
        assert [r.seq for r in reports] == [4, 5]
        assert kit.crash().sessions[0].next == 6

    def test_of_an_epoch_that_is_over(self, kit: Kit) -> None:
        reports = self.bound(kit)
        kit.do(Unbind("backend", [r.id for r in reports]), PutSession(SessionRow("backend", "new", 2)))
        assert self.waiting(kit) == [(r.id, 900, 0, r.body, 1) for r in reports]
        known = kit.crash()
        assert known.waiting["backend"] >= 2
        assert known.sessions[0].next == 1
        kit.do(binds=[("backend", 2, reports)])
        assert [r.seq for r in reports] == [1, 2]


async def test_appended_and_dead_in_one_commit(kit: Kit) -> None:
    """What can never be delivered is its publisher's dead letter, though nobody waited for it."""
    item = kit.item("nobody", LATER, sender="alice", due=900, pid=7)
    values: dict[str, int | str | None] = {
        "hold": NONE, "status": int(Status.DEAD), "ended_at": 130, "why": "address_forbidden", "due": 0,
    }  # fmt: skip
    change = Change(item.id, (LATER,), values, event=Event(item.id, 130, "refused", {"code": "address"}))
    due, waiting = ReadDue(FAR, 9, nothing), ReadWaiting("nobody", 2, 9, nothing)
    kit.do(change, appends=[item], reads=[due, waiting], at=130)
    assert change.ok
    assert (due.items, due.next_due, waiting.items) == ([], 0, [])
    known = kit.crash()
    assert (known.rows, known.waiting, known.next_due) == (1, {}, 0)
    asked: tuple[tuple[str | None, str | None], ...] = ((None, None), ("nobody", "address_forbidden"))
    for to, why in asked:
        (view,) = await kit.store.dead_letters(to, why, 1 << 62, 9, False)
        found = view.item
        assert (found.id, found.client, found.sender, found.body) == (item.id, "nobody", "alice", item.body)
        assert (found.hold, found.status, found.why) == (NONE, Status.DEAD, "address_forbidden")
        assert (view.sent_at, view.ended_at) == (0, 130)
        assert [e.kind for e in view.events] == ["refused"]
    assert await kit.store.dead_letters(None, "unacked", 1 << 62, 9, False) == []
    (view,) = await kit.store.messages("nobody", "alice", (int(Status.DEAD),), 1 << 62, 9)
    assert view.item.id == item.id
    assert await kit.store.uplinks(["alice"], 0, 1000) == {"alice": {7: (item.id, item.body)}}
    drop = DropDead(None)
    kit.do(drop)
    assert drop.count == 1


def test_a_claimed_message_s_row(kit: Kit) -> None:
    kit.session()
    item = kit.add("alice", BOUND, eno=1, due=FAR)
    kit.do(Change(item.id, (BOUND,), {"hold": CLAIMED, "status": 2, "due": 0}, claim=chain(item.id)))
    read = kit.read(ReadChain(item.id, nothing))
    assert (read.item.hold, read.item.seq, read.item.eno, read.item.body) == (CLAIMED, 1, 1, item.body)


def test_what_is_no_operation_fails(kit: Kit) -> None:
    commit = kit.do()
    commit.ops = ["not an operation"]  # type: ignore[list-item]
    assert "not an operation" in str(failed(kit.submit(commit)))
