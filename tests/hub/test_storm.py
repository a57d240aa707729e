"""Ten thousand clients at once, in small: a commit takes so many joins, a turn so many sessions and connections, and
whoever is there already is served in between.
"""

import pytest

from gateway.errors import Close, StoreFailed
from gateway.hub import hub, joining, turn
from tests.hub.rig import Conn, Rig


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of everything."""
    monkeypatch.setattr(joining, "JOINS_A_COMMIT", 2)
    monkeypatch.setattr(turn, "TOUCHED_A_TURN", 2)
    monkeypatch.setattr(hub, "LEAVES_A_TURN", 2)


def say_hello(rig: Rig, names: str) -> list[Conn]:
    """All of them in one turn."""
    conns = [Conn(rig, name) for name in names]
    for conn in conns:
        rig.hub.accept(conn, 0)
        rig.hub.hello(conn, conn.principal, joining.NO_HELLO)
    rig.turns.run()
    return conns


def welcomed(conns: list[Conn]) -> str:
    return "".join(conn.client for conn in conns if conn.welcomed is not None)


def commit(rig: Rig) -> None:
    """The commit under way is through."""
    assert rig.store.step()
    rig.turns.run()


@pytest.mark.usefixtures("few")
def test_a_commit_has_room_for_so_many_joins_first_come_first_served() -> None:
    rig = Rig()
    rig.auto = False
    conns = say_hello(rig, "abcdefg")
    assert rig.hub.figures()["joins_waiting"] == 5
    seen = []
    for _ in range(4):
        commit(rig)
        seen.append(welcomed(conns))
        if len(seen) == 1:
            # who comes later stands behind
            conns += say_hello(rig, "x")
    assert seen == ["ab", "abcd", "abcdef", "abcdefgx"]
    assert rig.hub.figures()["joins_waiting"] == 0


@pytest.mark.usefixtures("few")
def test_messages_go_on_in_between() -> None:
    rig = Rig()
    live = rig.conn("live")
    rig.auto = False
    conns = say_hello(rig, "abcdefg")
    commit(rig)
    sink = rig.publish("live")
    commit(rig)
    commit(rig)
    assert 0 in sink.results
    assert len(live.items) == 1
    assert welcomed(conns) != "abcdefg"


@pytest.mark.usefixtures("few")
def test_who_waits_for_room_may_go_or_come_again() -> None:
    rig = Rig()
    rig.auto = False
    conns = say_hello(rig, "abcdefg")
    *_, e, f, g = conns
    # f goes away, g comes once more on another connection: in the place that it had
    rig.hub.disconnected(f, False)
    (again,) = say_hello(rig, "g")
    assert g.closed == Close.TAKEN_OVER
    commit(rig)
    commit(rig)
    commit(rig)
    assert e.welcomed is not None
    assert again.welcomed is not None
    assert f.welcomed is g.welcomed is None
    assert rig.hub.figures()["joins_waiting"] == 0
    rig.auto = True
    rig.pass_(0.1)
    assert rig.conn("f").welcomed is not None


@pytest.mark.usefixtures("few")
def test_what_is_published_to_one_who_waits_comes_with_its_welcome() -> None:
    rig = Rig()
    rig.auto = False
    conns = say_hello(rig, "abcdefg")
    rig.publish("g")
    while rig.store.step():
        rig.turns.run()
    rig.auto = True
    rig.pass_(0.1)
    assert welcomed(conns) == "abcdefg"
    assert [(seq, marks) for seq, _, marks in conns[-1].items] == [(1, 0)]


@pytest.mark.usefixtures("few")
def test_a_failed_commit_voids_those_who_wait_too() -> None:
    rig = Rig()
    rig.auto = False
    conns = say_hello(rig, "abcdefg")
    rig.store.fail = lambda _: StoreFailed("away", definite=True)
    commit(rig)
    assert [conn.closed for conn in conns] == [Close.DRAIN] * 7
    assert rig.hub.figures()["joins_waiting"] == 0
    rig.store.fail = lambda _: None
    rig.auto = True
    rig.pass_(2.0)
    assert rig.conn("g").welcomed is not None


@pytest.mark.usefixtures("few")
def test_a_turn_works_so_many_sessions_and_writes_so_many_connections() -> None:
    rig = Rig()
    conns = [rig.conn(name) for name in "abcde"]
    order: list[str] = []
    for conn in conns:
        conn.flush = lambda conn=conn: order.append(conn.client)  # type: ignore[method-assign,misc]
        rig.hub.core.touch(conn)
    end = rig.hub.core.end_turn
    end()
    assert order == ["a", "b"]
    end()
    assert order == ["a", "b", "c", "d"]
    # the last comes by itself
    rig.turns.run()
    assert order == ["a", "b", "c", "d", "e"]
    for conn in conns:
        rig.publish(conn.client)
    assert [len(conn.items) for conn in conns] == [1] * 5


@pytest.mark.usefixtures("few")
def test_all_are_asked_to_leave_a_few_at_a_time() -> None:
    rig = Rig()
    conns = [rig.conn(name) for name in "abcde"]

    def asked() -> int:
        return sum(conn.errors == ["goaway"] for conn in conns)

    rig.hub.drain()
    assert asked() == 2
    rig.turns.run()
    assert asked() == 5
    rig.pass_(rig.hub.config.drain.timeout + 0.1)
    assert [conn.closed for conn in conns] == [Close.DRAIN] * 5
