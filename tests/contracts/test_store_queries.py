"""What the API asks."""

from typing import Any

import pytest

from gateway.commit import Change, DropDead, Event, Forget, MessageView, Note
from gateway.errors import StoreFailed
from gateway.ids import IdMaker
from gateway.model import ChainRow, Extra, Status
from gateway.stores import queries
from tests.contracts.storekit import BOUND, NONE, WAITING, Kit

TOP = 1 << 62


def ids(views: list[MessageView]) -> list[int]:
    return [view.item.id for view in views]


@pytest.fixture(autouse=True, params=[queries.SLICE, 3])
def _slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing is the same whatever a transaction looks at."""
    monkeypatch.setattr(queries, "SLICE", request.param)


async def test_a_message_whole(kit: Kit) -> None:
    kit.session()
    item = kit.item("alice", BOUND, eno=1, x=Extra(type="t"))
    kit.do(appends=[item], at=130)
    row = ChainRow(item.id, "alice", ["hook"], "offline", 1)
    ended: dict[str, int | str | None] = {
        "status": 10,
        "ended_at": 150,
        "why": "rejected",
        "via": "ws",
        "tries": 2,
    }
    ended["replayed"] = 77
    kit.do(Change(item.id, (BOUND,), dict(ended), claim=row, event=Event(item.id, 149, "k", {"n": 1})))
    view = await kit.store.message(item.id)
    assert (view.sent_at, view.ended_at, view.replayed) == (130, 150, 77)
    assert view.events == [Event(item.id, 149, "k", {"n": 1})]
    assert view.chain_row == row
    found = view.item
    assert (found.id, found.client, found.seq, found.body, found.x) == (
        item.id,
        "alice",
        1,
        item.body,
        item.x,
    )
    assert (found.status, found.why, found.via, found.tries) == (Status.DEAD, "rejected", "ws", 2)


async def test_no_message(kit: Kit) -> None:
    assert await kit.store.message(1) is None
    kit.add()
    view = await kit.store.message(1)
    assert (view.events, view.chain_row) == ([], None)


class TestListing:
    @pytest.fixture
    def rows(self, kit: Kit) -> Kit:
        for n in range(12):
            kit.add("alice" if n % 3 else "bob", sender="p" if n % 2 else "q", kind=int(n == 7))
        for id in (2, 5, 11):
            kit.do(Change(id, (WAITING,), {"hold": NONE, "status": int(Status.EXPIRED)}))
        return kit

    async def test_newest_first_without_status_reports(self, rows: Kit) -> None:
        views = await rows.store.messages(None, None, None, TOP, 50)
        assert ids(views) == [12, 11, 10, 9, 7, 6, 5, 4, 3, 2, 1]
        assert all(v.item.body is None and v.events == [] for v in views)

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (("alice", None, None), [12, 11, 9, 6, 5, 3, 2]),
            (("bob", None, None), [10, 7, 4, 1]),
            ((None, "p", None), [12, 10, 6, 4, 2]),
            (("alice", "q", None), [11, 9, 5, 3]),
            ((None, None, (8,)), [11, 5, 2]),
            (("alice", "q", (0, 4)), [9, 3]),
            ((None, None, ()), []),
            (("carol", None, None), []),
        ],
    )
    async def test_what_is_asked_for(
        self, rows: Kit, filters: tuple[Any, Any, Any], expected: list[int]
    ) -> None:
        assert ids(await rows.store.messages(*filters, TOP, 50)) == expected

    async def test_page_by_page(self, rows: Kit) -> None:
        pages, before = [], TOP
        while page := ids(await rows.store.messages("alice", None, None, before, 2)):
            pages.append(page)
            before = page[-1]
        assert pages == [[12, 11], [9, 6], [5, 3], [2]]


class TestDeadLetters:
    @pytest.fixture
    def rows(self, kit: Kit) -> Kit:
        for n in range(8):
            item = kit.add("alice" if n % 2 else "bob", body=b'"%d"' % n)
            if n != 3:
                why = "unacked" if n < 5 else "poison"
                dead: dict[str, int | str | None] = {"hold": NONE, "status": int(Status.DEAD), "why": why}
                dead["replayed"] = 99 if n == 6 else 0
                kit.do(Change(item.id, (WAITING,), dict(dead)), Note(Event(item.id, 5, "died", {"n": n})))
        return kit

    async def test_whole(self, rows: Kit) -> None:
        views = await rows.store.dead_letters(None, None, TOP, 50, False)
        assert ids(views) == [8, 6, 5, 3, 2, 1]
        assert [v.item.body for v in views][:2] == [b'"7"', b'"5"']
        assert views[0].events == [Event(8, 5, "died", {"n": 7})]

    @pytest.mark.parametrize(
        ("to", "why", "before", "limit", "replayed", "expected"),
        [
            (None, None, TOP, 50, True, [8, 7, 6, 5, 3, 2, 1]),
            ("bob", None, TOP, 50, True, [7, 5, 3, 1]),
            (None, "poison", TOP, 50, False, [8, 6]),
            ("alice", "unacked", TOP, 50, False, [2]),
            (None, None, 6, 2, False, [5, 3]),
            (None, None, 1, 2, False, []),
            ("carol", None, TOP, 2, False, []),
        ],
    )
    async def test_what_is_asked_for(
        self, rows: Kit, to: str | None, why: str | None, before: int, limit: int, replayed: bool, expected: list[int]
    ) -> None:  # fmt: skip
        assert ids(await rows.store.dead_letters(to, why, before, limit, replayed)) == expected


class TestUplinks:
    """Of each publisher the latest message under each packet id."""

    async def test_the_latest_of_each(self, kit: Kit) -> None:
        kit.session()
        for n, (sender, pid) in enumerate(
            (("a", 1), ("b", 1), ("a", 2), ("a", 1), ("c", 1), ("a", 0), ("b", 65_535), ("a", 3), ("a", 2))
        ):
            kit.add("alice", BOUND if n % 2 else WAITING, eno=1, sender=sender, pid=pid, body=b'"%d"' % n)
        assert await kit.store.uplinks(["a", "b", "stranger", "a"], 0, 1000) == {
            "a": {1: (4, b'"3"'), 2: (9, b'"8"'), 3: (8, b'"7"')},
            "b": {1: (2, b'"1"'), 65_535: (7, b'"6"')},
        }
        assert await kit.store.uplinks(["stranger"], 0, 1000) == {}
        assert await kit.store.uplinks([], 0, 1000) == {}

    async def test_only_the_last_packet_ids_count(self, kit: Kit) -> None:
        for pid in (1, 2, 3, 2, 4):
            kit.add(sender="a", pid=pid)
        kit.add(sender="b", pid=9)
        found = await kit.store.uplinks(["a", "b"], 0, 2)
        assert {client: sorted(pids) for client, pids in found.items()} == {"a": [2, 4], "b": [9]}
        assert found["a"][2][0] == 4

    async def test_what_an_answered_commit_holds_is_found(self, kit: Kit) -> None:
        for n in range(1, 6):
            kit.add(pid=9)
            assert await kit.store.uplinks(["backend"], 0, 1000) == {"backend": {9: (n, b'{"n":1}')}}
        kit.crash()
        assert await kit.store.uplinks(["backend"], 0, 1000) == {"backend": {9: (5, b'{"n":1}')}}

    async def test_whatever_became_of_it(self, kit: Kit) -> None:
        items = [kit.add(pid=n) for n in (1, 2, 3)]
        kit.do(Change(items[0].id, (WAITING,), {"hold": NONE, "status": int(Status.DELIVERED)}))
        kit.do(Change(items[1].id, (WAITING,), {"hold": NONE, "status": int(Status.CANCELLED)}))
        assert set((await kit.store.uplinks(["backend"], 0, 1000))["backend"]) == {1, 2, 3}

    async def test_messages_only(self, kit: Kit) -> None:
        item = kit.add(pid=4)
        kit.add(pid=4, kind=1)
        kit.add(pid=5, kind=1)
        assert await kit.store.uplinks(["backend"], 0, 1000) == {"backend": {4: (item.id, item.body)}}

    @pytest.mark.parametrize(
        ("since", "expected"),
        [
            (0, [1, 2, 3, 4]),
            (5000, [1, 2, 3, 4]),
            (5010, [2, 3, 4]),
            (5011, [3, 4]),
            (5013, [4]),
            (5020, [4]),
            (5021, []),
        ],
    )
    async def test_since(self, kit: Kit, since: int, expected: list[int]) -> None:
        ids = IdMaker()
        # one that waited for its commit has an id above its time
        for pid, at, made in ((1, 5000, 5000), (2, 5010, 5010), (3, 5011, 5015), (4, 5020, 5020)):
            kit.add(pid=pid, at=at, id=ids.next(made))
        found = (await kit.store.uplinks(["backend"], since, 1000)).get("backend", {})
        assert sorted(found) == expected

    async def test_an_older_use_counts_where_the_latest_is_for_somebody_else(self, kit: Kit) -> None:
        first = kit.add(sender="a", pid=1)
        second = kit.add(sender="b", pid=1)
        assert await kit.store.uplinks(["a"], 0, 1000) == {"a": {1: (first.id, first.body)}}
        assert await kit.store.uplinks(["b"], 0, 1000) == {"b": {1: (second.id, second.body)}}

    async def test_what_was_deleted_is_not_found(self, kit: Kit) -> None:
        dead, kept = kit.add(pid=1), kit.add("bob", pid=2)
        forgotten = kit.add("carol", pid=3)
        kit.do(Change(dead.id, (WAITING,), {"hold": NONE, "status": int(Status.DEAD)}), DropDead(None))
        kit.do(Forget("carol", 200, 5))
        assert await kit.store.uplinks(["backend", ""], 0, 1000) == {"backend": {2: (kept.id, kept.body)}}
        assert kit.row(forgotten.id)["pid"] == 0

    async def test_many_clients_in_one_pass(self, kit: Kit) -> None:
        senders = [f"dev-{n}" for n in range(300)]
        kit.do(appends=[kit.item(sender=sender, pid=pid) for pid in (1, 2, 1) for sender in senders])
        found = await kit.store.uplinks(senders, 0, 1000)
        body = b'{"n":1}'
        assert found == {sender: {1: (601 + n, body), 2: (301 + n, body)} for n, sender in enumerate(senders)}

    async def test_a_message_that_has_lost_its_body_hides_the_one_before(self, kit: Kit) -> None:
        for pid, body in ((1, b"1"), (2, b"2"), (1, None)):
            kit.add(pid=pid, body=body)
        kit.add(sender="else", pid=1, body=None)
        assert await kit.store.uplinks(["backend", "else"], 0, 1000) == {"backend": {2: (2, b"2")}}


async def test_nothing_is_answered_while_the_store_is_away(kit: Kit) -> None:
    item = kit.add()
    commit = kit.do()
    commit.appends = [kit.item(id=item.id)]
    assert kit.submit(commit) is not None
    with pytest.raises(StoreFailed):
        await kit.store.message(item.id)
    kit.open()
    assert (await kit.store.message(item.id)).item.id == item.id
    kit.close()
    for call in (
        kit.store.messages(None, None, None, TOP, 1),
        kit.store.dead_letters(None, None, TOP, 1, True),
        kit.store.find_key("p", "k"),
        kit.store.uplinks(["p"], 0, 1000),
    ):
        with pytest.raises(StoreFailed):
            await call


async def test_what_waits_at_the_channels(kit: Kit) -> None:
    """Rows on their way, or given back, are not waiting."""
    kit.session()
    for channel in ("hook", "hook", "mail", "open", "parked"):
        item = kit.item("alice", WAITING)
        kit.do(appends=[item])
        row = ChainRow(item.id, "alice", [channel], "offline", 1)
        row.phase = {"open": 1, "parked": 2}.get(channel, 0)
        kit.do(Change(item.id, (WAITING,), {"hold": NONE}, claim=row))
    assert await kit.store.waiting() == {"hook": 2, "mail": 1}
