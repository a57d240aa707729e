"""Sessions: runs of seqs, settles, ended epochs, what chains give back, what was missed."""

import pytest

from gateway.commit import Change, Gap, Op, PutClient, PutSession, Reclaim, SettleGaps, Unbind
from gateway.model import ChainRow, Item, Kind, Missed, SessionRow, Status, Sub
from gateway.reads import ReadChain, ReadItems
from gateway.records import ClientRecord, ClientRow
from tests.contracts.storekit import BOUND, CLAIMED, FAR, LATER, NONE, WAITING, Kit


def nothing(_: object) -> None:
    """Nobody is told."""


def chain(id: int, why: str = "offline", **columns: object) -> ChainRow:
    row = ChainRow(id, "alice", ["hook", "sms"], why, 500)
    for name, value in columns.items():
        setattr(row, name, value)
    return row


def claim(kit: Kit, item: Item, why: str = "offline", **columns: object) -> None:
    """Its chain takes it."""
    hold = CLAIMED if item.hold == BOUND else NONE
    change = Change(
        item.id, (item.hold,), {"hold": hold, "status": int(Status.HANDED_OVER), "due": 0},
        claim=chain(item.id, why, **columns),
    )  # fmt: skip
    kit.do(change)
    assert change.ok


def gap(item: Item, why: str = "dead") -> Gap:
    return Gap(item.client, item.eno, item.seq, item.id, why)


def end_with_gap(kit: Kit, item: Item, why: str = "dead") -> None:
    kit.do(Change(item.id, (BOUND, CLAIMED), {"hold": NONE, "status": int(Status.DEAD)}, gap=gap(item, why)))


class TestBinds:
    def test_those_that_wait_get_the_next_seqs(self, kit: Kit) -> None:
        kit.session("alice", 1, next=5)
        kit.session("bob", 1)
        waiting = [kit.add() for _ in range(3)]
        gone = kit.add("alice", LATER, due=400)
        kit.do(Change(waiting[1].id, (WAITING,), {"hold": NONE, "status": int(Status.EXPIRED)}))
        other = kit.add("bob")
        kit.do(binds=[("alice", 1, [*waiting, gone]), ("bob", 1, [other])], at=170)
        assert [(i.hold, i.eno, i.seq, i.status) for i in waiting] == [
            (BOUND, 1, 5, Status.SENT),
            (WAITING, 0, 0, Status.QUEUED),
            (BOUND, 1, 6, Status.SENT),
        ]
        assert (gone.hold, gone.seq) == (LATER, 0)
        assert (other.hold, other.seq) == (BOUND, 1)
        assert kit.row(waiting[2].id)["sent_at"] == 170
        assert {r.client: r.next for r in kit.reopen().sessions} == {"alice": 7, "bob": 2}

    def test_the_first_time_it_was_sent_stays(self, kit: Kit) -> None:
        kit.session()
        item = kit.item("alice", BOUND, eno=1)
        kit.do(appends=[item], at=110)
        kit.do(Change(item.id, (BOUND,), {"hold": WAITING, "status": 0}))
        kit.do(binds=[("alice", 1, [item])], at=190)
        assert (item.seq, kit.row(item.id)["sent_at"]) == (2, 110)

    def test_what_comes_late_keeps_its_end(self, kit: Kit) -> None:
        kit.session()
        item = kit.add()
        kit.do(
            Change(item.id, (WAITING,), {"status": int(Status.PROVIDER_DELIVERED), "via": "sms", "due": 0})
        )
        kit.do(binds=[("alice", 1, [item])])
        assert (item.seq, item.status) == (1, Status.PROVIDER_DELIVERED)
        (found,) = kit.read(ReadItems([item.id], nothing)).items
        assert (found.hold, found.via) == (BOUND, "sms")

    @pytest.mark.parametrize("ended_at", [0, 90])
    def test_what_a_provider_accepted_and_its_client_acked_has_ended_as_accepted(
        self, kit: Kit, ended_at: int
    ) -> None:
        """Its own ack stops what is left of its chain; the provider's word stands."""
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        claim(kit, item)
        kit.do(Change(item.id, (CLAIMED,), {"status": 3, "via": "sms", "ended_at": ended_at}))
        kit.do(settles=[(item.id, 4, 120, "ws")])
        row = kit.row(item.id)
        assert (row["hold"], row["status"], row["via"], row["ended_at"]) == (NONE, 3, "sms", ended_at or 120)
        assert kit.read(ReadChain(item.id, nothing)).row is None

    def test_not_to_an_epoch_that_is_over_nor_to_another_client(self, kit: Kit) -> None:
        kit.session("alice", 2)
        item = kit.add()
        kit.do(binds=[("alice", 1, [item]), ("bob", 1, [item]), ("alice", 2, [kit.item("bob", id=99)])])
        assert (item.hold, item.seq) == (WAITING, 0)
        assert kit.reopen().sessions[0].next == 1

    def test_appended_and_bound_in_one_commit(self, kit: Kit) -> None:
        kit.session()
        item = kit.item()
        kit.do(appends=[item], binds=[("alice", 1, [item])])
        assert (item.hold, item.seq) == (BOUND, 1)


class TestSettles:
    def test_an_ack_ends_it(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1, due=400)
        kit.do(settles=[(item.id, int(Status.DELIVERED), 160, "ws")])
        row = kit.row(item.id)
        assert (row["hold"], row["due"], row["status"], row["ended_at"], row["via"]) == (
            NONE, 0, Status.DELIVERED, 160, "ws",
        )  # fmt: skip

    def test_what_had_ended_keeps_its_end(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        ended: dict[str, int | str | None] = {"status": 6, "ended_at": 150, "via": "sms"}
        kit.do(Change(item.id, (BOUND,), dict(ended)))
        kit.do(settles=[(item.id, int(Status.DELIVERED), 160, "ws")])
        row = kit.row(item.id)
        assert row["hold"] == NONE
        assert {name: row[name] for name in ended} == ended

    def test_the_first_of_two_counts(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(2)]
        kit.do(settles=[(items[0].id, 10, 160, "a"), (items[1].id, 4, 161, "b"), (items[1].id, 10, 160, "a")])
        assert [kit.row(i.id)["via"] for i in items] == ["a", "b"]

    def test_its_chain_ends(self, kit: Kit) -> None:
        kit.session()
        item, other = kit.add("alice", BOUND, eno=1), kit.add("alice")
        claim(kit, item)
        claim(kit, other)
        kit.do(settles=[(item.id, 4, 160, "ws"), (other.id, 4, 160, "ws")])
        assert kit.read(ReadChain(item.id, nothing)).row is None
        assert kit.read(ReadChain(other.id, nothing)).row == chain(other.id)
        assert kit.row(item.id)["status"] == Status.DELIVERED
        assert kit.row(other.id)["status"] == Status.HANDED_OVER


class TestUnbind:
    def test_what_was_bound_waits_marked_and_gaps_count(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(5)]
        bound, marked, claimed, dead, expired = items
        kit.do(Change(marked.id, (BOUND,), {"marks": 3, "due": 700}))
        claim(kit, claimed)
        end_with_gap(kit, dead)
        end_with_gap(kit, expired, "expired")
        held = [i.id for i in (bound, marked, claimed)]
        put = PutSession(SessionRow("alice", "new", 2), proven=False)
        kit.do(Unbind("alice", held), put)
        assert put.missed == Missed(expired=1, dead=1)
        rows = [kit.row(i.id) for i in items]
        assert [(r["hold"], r["marks"], r["due"], r["eno"], r["seq"]) for r in rows[:3]] == [
            (WAITING, 1, FAR, 0, 0), (WAITING, 3, 700, 0, 0), (NONE, 0, 0, 0, 0),
        ]  # fmt: skip
        known = kit.reopen()
        assert known.windows == {}
        assert known.waiting == {"alice": 2}
        assert known.sessions[0].next == 1
        kit.do(binds=[("alice", 2, [bound])])
        assert bound.seq == 1

    def test_an_epoch_that_ends_while_nobody_is_there(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        kit.do(Unbind("alice", [item.id]))
        assert kit.crash().sessions[0].next == 2
        kit.do(Change(item.id, (WAITING,), {"hold": NONE, "status": 8}, missed=("alice", "expired")))
        assert kit.reopen().sessions[0].missed == Missed(expired=1)

    def test_others_and_what_is_held_no_more_are_left_alone(self, kit: Kit) -> None:
        kit.session()
        kit.session("bob")
        bob, settled, waiting = kit.add("bob", BOUND, eno=1), kit.add("alice", BOUND, eno=1), kit.add()
        end_with_gap(kit, bob)
        kit.do(settles=[(settled.id, 4, 160, "ws")])
        before = kit.dump()
        kit.do(Unbind("alice", [settled.id, waiting.id, 99]), SettleGaps("alice", [1]))
        assert kit.dump() == before

    def test_nothing_held(self, kit: Kit) -> None:
        kit.session()
        kit.do(Unbind("alice", []), Unbind("bob", []))
        assert kit.reopen().sessions[0].missed == Missed()


class TestReclaim:
    def test_what_is_free_comes_back(self, kit: Kit) -> None:
        kit.session()
        bound = [kit.add("alice", BOUND, eno=1) for _ in range(2)]
        never = kit.add("alice")
        was = kit.add("alice", BOUND, eno=1)
        kit.do(Change(was.id, (BOUND,), {"hold": WAITING}))
        was.hold = WAITING
        for item in (*bound, never, was):
            claim(kit, item)
        reclaim = Reclaim("alice", 600)
        kit.do(reclaim)
        assert reclaim.back == [i.id for i in bound]
        assert reclaim.waiting == 2
        assert reclaim.gaps == []
        rows = [kit.row(i.id) for i in (bound[0], never, was)]
        assert [(r["hold"], r["status"], r["seq"], r["marks"], r["due"]) for r in rows] == [
            (BOUND, Status.SENT, 1, 1, 0),
            (WAITING, Status.QUEUED, 0, 0, FAR),
            (WAITING, Status.SENT, 0, 1, FAR),
        ]
        assert kit.read(ReadChain(never.id, nothing)).row == chain(never.id, phase=2)
        assert kit.crash().sessions[0].next == 4

    def test_a_later_hand_over_goes_on_where_it_stood(self, kit: Kit) -> None:
        item = kit.add("alice")
        claim(kit, item, attempt=2, total=3, step=1)
        kit.do(Reclaim("alice", 600))
        claim(kit, item, "deadline", due=900)
        expected = chain(item.id, "deadline", due=900, attempt=2, total=3, step=1)
        assert kit.read(ReadChain(item.id, nothing)).row == expected

    def test_the_rest_becomes_gaps(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(4)]
        claim(kit, items[0], "deadline")
        claim(kit, items[1], burnt=True, step=1)
        claim(kit, items[2], phase=1)
        unbound = kit.add("alice")
        claim(kit, unbound, "deadline")
        other = kit.add("bob")
        kit.do(
            Change(
                other.id, (WAITING,), {"hold": NONE}, claim=ChainRow(other.id, "bob", ["hook"], "offline", 1)
            )
        )
        reclaim = Reclaim("alice", 600)
        kit.do(reclaim)
        assert (reclaim.back, reclaim.waiting) == ([], 0)
        assert reclaim.gaps == [
            Gap("alice", 1, 1, items[0].id, "superseded", "hook"),
            Gap("alice", 1, 2, items[1].id, "superseded", "sms"),
            Gap("alice", 1, 3, items[2].id, "superseded", "hook"),
        ]
        assert [kit.row(i.id)["hold"] for i in items] == [NONE, NONE, NONE, BOUND]
        assert kit.row(unbound.id)["hold"] == NONE
        assert kit.row(other.id)["hold"] == NONE
        window = kit.reopen().windows["alice"]
        assert [(i.seq, i.kind, i.why, i.via) for i in window] == [
            (1, Kind.GAP, "superseded", "hook"),
            (2, Kind.GAP, "superseded", "sms"),
            (3, Kind.GAP, "superseded", "hook"),
            (4, Kind.MESSAGE, "", ""),
        ]

    @pytest.mark.parametrize("status", [Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED])
    def test_what_a_provider_has_does_not_come_back(self, kit: Kit, status: Status) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1), kit.add("alice")]
        for item in items:
            claim(kit, item)
            kit.do(Change(item.id, (CLAIMED, NONE), {"status": int(status)}))
        reclaim = Reclaim("alice", 600)
        kit.do(reclaim)
        assert (reclaim.back, reclaim.waiting, [g.seq for g in reclaim.gaps]) == ([], 0, [1])
        assert [kit.row(i.id)["hold"] for i in items] == [NONE, NONE]

    def test_many_clients_at_once_each_in_its_order(self, kit: Kit) -> None:
        items = []
        for client in ("alice", "bob"):
            kit.session(client)
            items.append(kit.add(client, BOUND, eno=1))
        ops: list[Op] = []
        for item in items:
            row = ChainRow(item.id, item.client, ["hook"], "offline", 500)
            ops += [
                Change(item.id, (BOUND,), {"hold": CLAIMED}, claim=row),
                Reclaim(item.client, 600),
                PutSession(SessionRow(item.client, "e1", 1, away_since=7)),
            ]
        kit.do(*ops)
        assert [op.back for op in ops if isinstance(op, Reclaim)] == [[i.id] for i in items]
        assert {row.away_since for row in kit.reopen().sessions} == {7}


class TestMissed:
    def expire(self, kit: Kit, item: Item) -> None:
        kit.do(Change(item.id, (WAITING, BOUND), {"hold": NONE, "status": 8}, missed=("alice", "expired")))

    def test_told_at_a_welcome_and_subtracted_when_that_is_known_to_have_arrived(self, kit: Kit) -> None:
        kit.session()
        self.expire(kit, kit.add())
        row = SessionRow("alice", "alice-1", 1)
        first, again, proven = (PutSession(row, p) for p in (False, False, True))
        kit.do(first)
        assert first.missed == Missed(expired=1)
        self.expire(kit, kit.add())
        kit.do(again)
        assert again.missed == Missed(expired=2)
        self.expire(kit, kit.add())
        kit.do(proven)
        assert proven.missed == Missed(expired=1)
        last = PutSession(row, True)
        kit.do(PutSession(row), last)
        assert last.missed == Missed()
        assert kit.reopen().sessions[0].missed == Missed()

    def test_not_what_had_a_seq_of_the_current_epoch(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        self.expire(kit, item)
        assert kit.reopen().sessions[0].missed == Missed()
        old = kit.add("alice", BOUND, eno=1)
        kit.do(PutSession(SessionRow("alice", "new", 2)))
        self.expire(kit, old)
        assert kit.reopen().sessions[0].missed == Missed(expired=1)

    def test_nobody_counts_for_a_client_without_a_session(self, kit: Kit) -> None:
        self.expire(kit, kit.add())
        first = PutSession(SessionRow("alice", "e", 1), False)
        kit.do(first)
        assert first.missed == Missed()


class TestRows:
    def test_a_session_comes_back(self, kit: Kit) -> None:
        row = SessionRow("alice", "e9", 4, 1, b"\x00\xff", b"new", 11, 12, 13, Missed(expired=7), 2, 60_000)
        kit.do(PutSession(row))
        (found,) = kit.reopen().sessions
        row.missed = Missed()
        assert found == row
        assert found is not row

    def test_what_mqtt_subscribed_to_is_written_with_every_row(self, kit: Kit) -> None:
        kit.session()
        kit.session("bob", sub=int(Sub.PLAIN), keep=0)
        assert [(r.sub, r.keep) for r in kit.crash().sessions] == [(Sub.NONE, -1), (Sub.PLAIN, 0)]
        kit.session(sub=int(Sub.FRAMED), keep=1 << 40)
        kit.session("bob")
        assert [(r.sub, r.keep) for r in kit.crash().sessions] == [(Sub.FRAMED, 1 << 40), (Sub.NONE, -1)]

    def test_its_next_seq_is_the_store_s_as_long_as_the_epoch_lasts(self, kit: Kit) -> None:
        kit.session()
        for _ in range(3):
            kit.add("alice", BOUND, eno=1)
        kit.do(PutSession(SessionRow("alice", "alice-1", 1, next=2, away_since=50)))
        assert kit.crash().sessions[0].next == 4
        kit.do(PutSession(SessionRow("alice", "alice-2", 2, next=1)))
        assert kit.add("alice", BOUND, eno=2).seq == 1

    def test_a_client_s_record_comes_back(self, kit: Kit) -> None:
        row = ClientRow("alice", ClientRecord(late="deliver", contacts={"sms": "+1"}, fallback=[]), 5, 6)
        kit.do(PutClient(ClientRow("alice")), PutClient(row))
        assert kit.reopen().clients == [row]

    def test_acked_gaps_go(self, kit: Kit) -> None:
        kit.session()
        for item in [kit.add("alice", BOUND, eno=1) for _ in range(3)]:
            end_with_gap(kit, item)
        kit.do(SettleGaps("alice", [1, 3, 9]), SettleGaps("alice", []), SettleGaps("bob", [2]))
        assert [i.seq for i in kit.reopen().windows["alice"]] == [2]

    def test_a_gap_that_comes_behind_an_ack_stays(self, kit: Kit) -> None:
        kit.session()
        item = kit.add("alice", BOUND, eno=1)
        kit.do(
            SettleGaps("alice", [1]),
            Change(item.id, (BOUND,), {"hold": NONE, "status": 10}, gap=gap(item)),
            SettleGaps("alice", [2]),
        )
        assert [i.seq for i in kit.reopen().windows["alice"]] == [1]


class TestWindows:
    def test_what_was_bound_may_have_been_sent(self, kit: Kit) -> None:
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(4)]
        kit.do(Change(items[1].id, (BOUND,), {"marks": 2}))
        claim(kit, items[2])
        end_with_gap(kit, items[0])
        window = kit.crash().windows["alice"]
        assert [(i.seq, i.hold, i.kind, i.marks, i.body) for i in window] == [
            (1, BOUND, Kind.GAP, 0, None),
            (2, BOUND, Kind.MESSAGE, 2, None),
            (3, CLAIMED, Kind.MESSAGE, 0, None),
            (4, BOUND, Kind.MESSAGE, 1, None),
        ]

    def test_what_is_bound_to_no_epoch_waits_again(self, kit: Kit) -> None:
        """No message is lost, should an epoch ever end without all of its messages being unbound."""
        kit.session()
        items = [kit.add("alice", BOUND, eno=1) for _ in range(3)]
        claim(kit, items[1])
        end_with_gap(kit, items[2])
        kit.do(PutSession(SessionRow("alice", "new", 2)))
        known = kit.reopen()
        assert known.windows == {}
        assert known.waiting == {"alice": 1}
        row = kit.row(items[0].id)
        assert (row["hold"], row["marks"], row["seq"]) == (WAITING, 1, 0)
        assert kit.row(items[1].id)["hold"] == NONE
