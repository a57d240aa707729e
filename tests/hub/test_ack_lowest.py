"""An ack in one step leaves what the long way leaves, and is not taken where there is more to it."""

from typing import Any

import pytest

from gateway.config import Config
from gateway.model import Hold
from tests.hub.rig import Conn, Rig
from tests.hub.test_bare import rows


def taken(rig: Rig) -> Conn:
    """A client with three messages in flight."""
    conn = rig.conn("bob")
    for n in range(3):
        rig.publish("bob", b"%d" % n)
    assert [seq for seq, _, _ in conn.items] == [1, 2, 3]
    return conn


def events(rig: Rig) -> list[Any]:
    return [(status, at, via) for _, named, status, at, via, _ in rig.hub.events._runs for _ in named]


@pytest.mark.parametrize("acks", [[1], [1, 2, 3]])
def test_the_same_as_the_long_way(acks: list[int]) -> None:
    found = []
    for one_step in (True, False):
        rig = Rig()
        conn = taken(rig)
        for seq in acks:
            if one_step:
                assert rig.hub.ack_lowest(conn, seq)
            else:
                rig.hub.ack(conn, seq, None)
        rig.pass_(0.01)
        found.append((rows(rig), rig.hub.figures(), events(rig)))
    assert found[0] == found[1]
    assert found[0][1]["acked"] == len(acks)


def test_acks_of_one_turn_are_settled_together() -> None:
    rig = Rig()
    conn = taken(rig)
    conn.via = "ws"
    assert rig.hub.ack_lowest(conn, 1)
    rig.hub.ack(conn, None, [2])
    assert rig.hub.ack_lowest(conn, 3)
    [(_, _, via, ids)] = rig.hub.core.commit.settles
    [(_, _, items)] = rig.hub.core.commit.settled
    assert via == "ws"
    assert ids == [item.id for item in items]
    assert len(ids) == 3


def test_others_are_looked_at() -> None:
    rig = Rig(Config())
    conn = taken(rig)
    for seq in (0, 2, 4):
        assert not rig.hub.ack_lowest(conn, seq)
    # a message that asks for reports
    reported = rig.conn("carol")
    rig.publish("carol", notify=["delivered"])
    assert not rig.hub.ack_lowest(reported, 1)
    # one that is just being cancelled
    held = rig.hub.core.sessions["bob"].window.items[0]
    held.leaving = True
    assert not rig.hub.ack_lowest(conn, 1)
    held.leaving = False
    assert rig.hub.ack_lowest(conn, 1)


def test_a_connection_that_was_taken_over_acks_nothing() -> None:
    rig = Rig()
    conn = taken(rig)
    rig.conn("bob")
    assert not rig.hub.ack_lowest(conn, 1)
    assert not rig.hub.ack_lowest(Conn(rig, "nobody"), 1)


def test_what_waits_goes_out_as_the_window_opens() -> None:
    rig = Rig()
    conn = rig.conn("bob", window=1)
    rig.publish("bob", b"1")
    rig.publish("bob", b"2")
    assert len(conn.items) == 1
    assert rig.hub.ack_lowest(conn, 1)
    rig.pass_(0.01)
    assert [seq for seq, _, _ in conn.items] == [1, 2]
    assert [row[4] for row in rows(rig)] == [Hold.NONE, Hold.BOUND]
