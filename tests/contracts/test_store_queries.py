"""What the API asks."""

from typing import Any

import pytest

from gateway.commit import Change, Event, MessageView, Note
from gateway.errors import StoreFailed
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
    ):
        with pytest.raises(StoreFailed):
            await call
