"""What waits is looked at when its ttl ends, at the latest: no row waits with a `due` behind its `expire`."""

from typing import Any

import pytest

from gateway.commit import Change, Reclaim, Unbind
from gateway.model import ChainRow, Status
from tests.contracts.storekit import BOUND, NONE, WAITING, Kit

EXPIRE = 900
# a deadline, and when the row that waits is looked at
DUES = pytest.mark.parametrize(
    ("due", "looked_at"), [(0, EXPIRE), (500, 500), (EXPIRE, EXPIRE), (5000, EXPIRE)]
)


def held(kit: Kit, id: int) -> tuple[Any, Any]:
    row = kit.row(id)
    return row["hold"], row["due"]


@DUES
def test_what_was_bound_to_an_epoch_that_ended(kit: Kit, due: int, looked_at: int) -> None:
    kit.session()
    item = kit.add("alice", BOUND, eno=1, expire=EXPIRE, due=due)
    assert held(kit, item.id) == (BOUND, due)
    kit.do(Unbind("alice", [item.id]))
    assert held(kit, item.id) == (WAITING, looked_at)


@DUES
def test_what_was_to_be_bound_to_an_epoch_that_is_over(kit: Kit, due: int, looked_at: int) -> None:
    kit.session("alice", 2)
    item = kit.add("alice", BOUND, eno=1, expire=EXPIRE, due=due)
    assert held(kit, item.id) == (WAITING, looked_at)


@DUES
def test_what_a_chain_gives_back(kit: Kit, due: int, looked_at: int) -> None:
    kit.session()
    item = kit.add(expire=EXPIRE)
    kit.do(
        Change(
            item.id, (WAITING,), {"hold": NONE, "status": int(Status.HANDED_OVER), "due": due},
            claim=ChainRow(item.id, "alice", ["hook"], "offline", 500),
        )
    )  # fmt: skip
    reclaim = Reclaim("alice", 100)
    kit.do(reclaim)
    assert reclaim.waiting == 1
    assert held(kit, item.id) == (WAITING, looked_at)
