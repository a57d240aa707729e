"""New rows: how they are held, seqs on the insert, deduplication, collapse."""

import pytest

from gateway.commit import Change, KeyClaim, Twin
from gateway.model import ChainRow, Extra, Missed, Status
from gateway.reads import ReadChain, ReadItems, ReadWaiting
from tests.contracts.storekit import BOUND, FAR, LATER, NONE, WAITING, Kit, failed


def nothing(_: object) -> None:
    """Nobody is told."""


def claim(
    key: str = "k", digest: bytes = b"1", *, at: int = 100, since: int = 0, refused: bool = False
) -> KeyClaim:
    return KeyClaim("backend", key, digest, at, since, refused)


def test_a_row_comes_back_as_it_went_in(kit: Kit) -> None:
    x = Extra(type="t", meta={"ü": "\n"}, trace="00-a", notify=["dead"], fallback=["hook"], deadline=500)
    item = kit.add(lane=1, due=500, body='"ü\\u0000"'.encode(), chain=1, x=x)
    (found,) = kit.read(ReadItems([item.id], nothing)).items
    assert found is not item
    assert (found.client, found.sender, found.lane, found.at) == ("alice", "backend", 1, 100)
    assert (found.expire, found.due, found.body, found.x) == (FAR, 500, item.body, x)
    assert (found.hold, found.status, found.chain, found.kind) == (WAITING, 0, 1, 0)
    row = kit.row(item.id)
    assert (row["deadline"], row["sent_at"], row["ended_at"]) == (500, 0, 0)


def test_seqs_are_given_on_the_insert_in_order(kit: Kit) -> None:
    kit.session("alice", 3)
    kit.session("bob", 1)
    items = [kit.item(client, BOUND, eno=eno) for client, eno in (("alice", 3), ("bob", 1), ("alice", 3))]
    later = kit.item("alice", LATER, due=400)
    kit.do(appends=[*items, later], at=250)
    assert [(i.client, i.eno, i.seq, i.status) for i in items] == [
        ("alice", 3, 1, Status.SENT),
        ("bob", 1, 1, Status.SENT),
        ("alice", 3, 2, Status.SENT),
    ]
    assert later.seq == 0
    assert kit.row(items[2].id)["sent_at"] == 250
    assert kit.row(later.id)["sent_at"] == 0


@pytest.mark.parametrize("eno", [0, 1, 3])
def test_a_message_for_an_epoch_that_is_not_there_waits(kit: Kit, eno: int) -> None:
    kit.session("alice", 2)
    item = kit.add("alice", BOUND, eno=eno)
    stranger = kit.add("bob", BOUND, eno=1)
    for one in (item, stranger):
        assert (one.hold, one.eno, one.seq, one.status) == (WAITING, 0, 0, Status.QUEUED)
        assert kit.row(one.id)["due"] == FAR
    assert kit.reopen().sessions[0].next == 1


def test_the_packet_id_is_kept_and_not_read_back(kit: Kit) -> None:
    kit.session()
    items = [kit.item(pid=65_535), kit.item("alice", BOUND, eno=1, pid=1), kit.item()]
    kit.do(appends=items)
    kit.crash()
    assert [kit.row(i.id)["pid"] for i in items] == [65_535, 1, 0]
    assert [i.pid for i in kit.read(ReadItems([1, 2, 3], nothing)).items] == [0, 0, 0]
    assert [i.pid for i in kit.known.windows["alice"]] == [0]


def test_an_id_that_is_there_already_fails_the_commit_whole(kit: Kit) -> None:
    first = kit.add()
    kit.session()
    again = kit.item(id=first.id)
    bound = kit.item("alice", BOUND, eno=1)
    commit = kit.do()
    commit.appends = [bound, again]
    assert failed(kit.submit(commit)).definite
    assert bound.seq == 0
    kit.open()
    assert list(kit.dump()["messages"]) == [first.id]
    assert kit.add("alice", BOUND, eno=1).seq == 1


class TestKeys:
    def test_the_same_message_again_is_a_repetition(self, kit: Kit) -> None:
        kit.session()
        first = kit.item("alice", BOUND, eno=1)
        assert kit.do(appends=[first], keys={0: claim()}).twins == {}
        second = kit.item("alice", BOUND, eno=1)
        commit = kit.do(appends=[second], keys={0: claim(at=101)})
        assert commit.twins == {0: Twin(first.id, True, Status.SENT)}
        assert second.seq == 0
        assert second.id not in kit.dump()["messages"]
        assert kit.add("alice", BOUND, eno=1).seq == 2

    def test_another_message_under_the_key_is_a_conflict(self, kit: Kit) -> None:
        first = kit.item()
        kit.do(appends=[first], keys={0: claim()})
        commit = kit.do(appends=[kit.item()], keys={0: claim(digest=b"2")})
        assert commit.twins == {0: Twin(first.id, False)}

    def test_keys_belong_to_their_publisher(self, kit: Kit) -> None:
        kit.do(appends=[kit.item()], keys={0: claim()})
        other = KeyClaim("alice", "k", b"2", 100, 0)
        assert kit.do(appends=[kit.item()], keys={0: other}).twins == {}

    def test_an_old_claim_is_forgotten(self, kit: Kit) -> None:
        kit.do(appends=[kit.item()], keys={0: claim(at=100)})
        second = kit.item()
        assert kit.do(appends=[second], keys={0: claim(digest=b"2", at=200, since=101)}).twins == {}
        commit = kit.do(appends=[kit.item()], keys={0: claim(digest=b"2", at=210, since=120)})
        assert commit.twins == {0: Twin(second.id, True, 0)}

    def test_twins_in_one_commit_share_the_first_s_fate(self, kit: Kit) -> None:
        items = [kit.item() for _ in range(5)]
        keys = {
            0: claim("a"),
            1: claim("a"),
            2: claim("a", b"2"),
            3: claim("b", refused=True),
            4: claim("b"),
        }
        commit = kit.do(appends=items, keys=keys)
        assert commit.twins == {
            1: Twin(items[0].id, True, 0),
            2: Twin(items[0].id, False),
            3: Twin(),
            4: Twin(),
        }
        assert list(kit.dump()["messages"]) == [items[0].id]
        assert list(kit.dump()["keys"]) == [("backend", "a")]

    def test_another_message_under_a_refused_key_stands_for_itself(self, kit: Kit) -> None:
        items = [kit.item(), kit.item()]
        commit = kit.do(appends=items, keys={0: claim(refused=True), 1: claim(digest=b"2")})
        assert commit.twins == {0: Twin()}

    def test_over_its_quota_only_a_repetition_is_answered(self, kit: Kit) -> None:
        commit = kit.do(appends=[kit.item()], keys={0: claim(refused=True)})
        assert commit.twins == {0: Twin()}
        assert kit.dump()["messages"] == {}
        first = kit.item()
        kit.do(appends=[first], keys={0: claim()})
        commit = kit.do(appends=[kit.item()], keys={0: claim(refused=True)})
        assert commit.twins == {0: Twin(first.id, True, 0)}

    def test_many_keys_at_once(self, kit: Kit) -> None:
        firsts = [kit.item() for _ in range(150)]
        kit.do(appends=firsts, keys={i: claim(f"k\0{i}") for i in range(150)})
        commit = kit.do(
            appends=[kit.item() for _ in range(150)], keys={i: claim(f"k\0{i}") for i in range(150)}
        )
        assert commit.twins == {i: Twin(first.id, True, 0) for i, first in enumerate(firsts)}

    async def test_a_key_is_found(self, kit: Kit) -> None:
        first = kit.item()
        kit.do(appends=[first], keys={0: claim()})
        assert await kit.store.find_key("backend", "k") == (first.id, b"1")
        assert await kit.store.find_key("backend", "l") is None


class TestCollapse:
    def x(self) -> Extra:
        return Extra(collapse="c")

    def test_the_earlier_one_ends(self, kit: Kit) -> None:
        kit.session()
        old = kit.add(x=self.x(), due=300)
        new = kit.item(x=self.x())
        commit = kit.do(appends=[kit.item(), new], at=150)
        assert commit.collapsed == [(1, old.id)]
        row = kit.row(old.id)
        assert (row["hold"], row["status"], row["due"]) == (NONE, Status.CANCELLED, 0)
        assert (row["ended_at"], row["why"]) == (150, "collapsed")
        assert kit.reopen().sessions[0].missed == Missed(superseded=1)
        assert kit.known.waiting == {"alice": 2}

    def test_within_one_commit_too(self, kit: Kit) -> None:
        items = [kit.item(x=self.x()) for _ in range(3)]
        commit = kit.do(appends=items)
        assert commit.collapsed == [(1, items[0].id), (2, items[1].id)]
        assert [kit.row(i.id)["status"] for i in items] == [Status.CANCELLED, Status.CANCELLED, Status.QUEUED]

    @pytest.mark.parametrize(
        "other", [{"client": "bob"}, {"sender": "else"}, {"x": Extra(collapse="d")}, {"x": None}]
    )
    def test_only_of_the_same_client_sender_and_key(self, kit: Kit, other: dict[str, object]) -> None:
        kit.add(**{"x": self.x(), **other})  # type: ignore[arg-type]
        assert kit.do(appends=[kit.item(x=self.x())]).collapsed == []

    def test_never_one_that_was_bound(self, kit: Kit) -> None:
        kit.session()
        sent = kit.add("alice", BOUND, eno=1, x=self.x())
        kit.do(Change(sent.id, (BOUND,), {"hold": WAITING, "status": 0}))
        assert kit.do(appends=[kit.item(x=self.x())]).collapsed == []

    def test_a_bound_one_ends_what_waits(self, kit: Kit) -> None:
        kit.session()
        old = kit.add(x=self.x())
        items = [kit.item("alice", BOUND, eno=1, x=self.x()), kit.item(x=self.x())]
        assert kit.do(appends=items).collapsed == [(0, old.id)]

    @pytest.mark.parametrize("status", [Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED])
    def test_never_one_that_a_provider_has(self, kit: Kit, status: Status) -> None:
        late = kit.add(x=self.x())
        kit.do(Change(late.id, (WAITING,), {"status": int(status)}))
        assert kit.do(appends=[kit.item(x=self.x())]).collapsed == []

    def test_its_parked_chain_goes_with_it(self, kit: Kit) -> None:
        old = kit.add(x=self.x())
        kit.do(
            Change(old.id, (WAITING,), {}, claim=ChainRow(old.id, "alice", ["hook"], "offline", 1, phase=2))
        )
        kit.do(appends=[kit.item(x=self.x())])
        assert kit.read(ReadChain(old.id, nothing)).row is None

    def test_a_twin_collapses_nothing(self, kit: Kit) -> None:
        first = kit.item(x=self.x())
        kit.do(appends=[first], keys={0: claim()})
        assert kit.do(appends=[kit.item(x=self.x())], keys={0: claim()}).collapsed == []
        assert [i.id for i in kit.read(ReadWaiting("alice", 2, 9, nothing)).items] == [first.id]
