"""Settles that nobody waits for are committed with something that somebody does wait for, or a few ms later."""

from msgspec import Raw

from gateway.hub.turn import LAZY
from gateway.model import Hold, Publish
from tests.hub.rig import KEY, Conn, Rig
from tests.hub.test_bare import rows


def holds(rig: Rig) -> list[int]:
    return [row[4] for row in rows(rig)]


def in_flight(rig: Rig) -> Conn:
    """A client with a message in flight, whose commit was submitted 2 ms ago."""
    conn = rig.conn("bob")
    rig.hub.publish(KEY, Publish(to="bob", body=Raw(b"1")), Conn(rig, "nobody"), 0)
    rig.turns.run(2)
    assert [seq for seq, _, _ in conn.items] == [1]
    assert holds(rig) == [Hold.BOUND]
    return conn


def test_settles_alone_wait() -> None:
    rig = Rig()
    conn = in_flight(rig)
    commits = rig.hub.commits
    conn.ack(1)
    rig.turns.run(1)
    assert (holds(rig), rig.hub.commits) == ([Hold.BOUND], commits)
    rig.turns.run(LAZY)
    assert (holds(rig), rig.hub.commits) == ([Hold.NONE], commits + 1)


def test_they_go_with_the_next_publish() -> None:
    rig = Rig()
    conn = in_flight(rig)
    commits = rig.hub.commits
    conn.ack(1)
    rig.hub.publish(KEY, Publish(to="bob", body=Raw(b"2")), Conn(rig, "nobody"), 0)
    rig.turns.run(2)
    assert (holds(rig), rig.hub.commits) == ([Hold.NONE, Hold.BOUND], commits + 1)
    # nothing is left of the wait
    rig.turns.run(2 * LAZY)
    assert rig.hub.commits == commits + 1


def test_behind_a_quiet_time_nothing_waits() -> None:
    rig = Rig()
    conn = in_flight(rig)
    rig.turns.run(LAZY)
    conn.ack(1)
    rig.turns.run(1)
    assert holds(rig) == [Hold.NONE]


def test_nothing_waits_in_a_drain() -> None:
    rig = Rig()
    conn = in_flight(rig)
    rig.hub.drain()
    conn.ack(1)
    rig.turns.run(1)
    assert holds(rig) == [Hold.NONE]


def test_a_store_that_fails_meanwhile_is_given_nothing() -> None:
    rig = Rig()
    conn = in_flight(rig)
    conn.ack(1)
    rig.hub.core.down = "store: away"
    submitted = rig.hub.commits
    rig.turns.run(2 * LAZY)
    assert rig.hub.commits == submitted
    assert holds(rig) == [Hold.BOUND]
