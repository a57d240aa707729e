import itertools

import pytest
from msgspec.structs import replace

from gateway.engine import session as module
from gateway.engine.session import Session
from gateway.engine.states import NEVER, TRANSITIONS, Impossible, Input, Rules, State
from gateway.model import Hold, Sub
from tests.engine.support import (
    FAR,
    ISSUED,
    OFFLINE,
    PRESENTED,
    T0,
    bind,
    ids,
    item,
    live,
    row,
    seqs,
)

RULES = Rules(window=4, ack_wait=10_000, ack_wait_max=60_000, expiry=600_000, heads=8, heads_bytes=1000)


def away(*, following: int = 1, state: State = State.AWAY) -> Session:
    session = Session("alice", RULES, row(following=following))
    session.found_away(T0, OFFLINE, T0)
    session.state = state
    return session


# -- states ------------------------------------------------------------------------------------------------------------

TABLE = {
    (State.NEW, Input.HELLO): State.JOINING,
    (State.JOINING, Input.HELLO): State.JOINING,
    (State.LIVE, Input.HELLO): State.JOINING,
    (State.AWAY, Input.HELLO): State.JOINING,
    (State.EXPIRED, Input.HELLO): State.JOINING,
    (State.JOINING, Input.WELCOMED): State.LIVE,
    (State.JOINING, Input.LOST): State.AWAY,
    (State.LIVE, Input.LOST): State.AWAY,
    (State.AWAY, Input.EXPIRE): State.EXPIRED,
}
EVERY = list(itertools.product(State, Input))


@pytest.mark.parametrize(("state", "what"), EVERY, ids=[f"{s.name}-{i.name}" for s, i in EVERY])
def test_every_cell_of_the_table(state: State, what: Input) -> None:
    session = Session("alice", RULES, row())
    session.state = state
    if (state, what) in TABLE:
        session.feed(what)
        assert session.state == TABLE[state, what]
        assert session.live == (session.state == State.LIVE)
    else:
        with pytest.raises(Impossible, match=f"{what.name} in {state.name}"):
            session.feed(what)
        assert session.state == state


def test_the_table_in_the_essay_is_the_table() -> None:
    assert module.__doc__ is not None
    lines = [line.split() for line in module.__doc__.splitlines()]
    columns = next(words for words in lines if words[:2] == ["hello", "welcomed"])
    told = {
        (State[words[0]], Input[column.upper()]): State[to]
        for words in lines
        if len(words) == len(columns) + 1 and words[0] in State.__members__
        for column, to in zip(columns, words[1:], strict=True)
        if to != "-"
    }
    assert told == TRANSITIONS == TABLE


def test_a_session_begins_new_or_away() -> None:
    assert Session("alice", RULES).state == State.NEW
    known = Session("alice", RULES, row(following=9))
    assert (known.state, known.epoch, known.eno, known.next) == (State.AWAY, "e1", 1, 9)


def test_only_an_absent_session_expires() -> None:
    session = live(RULES)
    with pytest.raises(Impossible):
        session.expire()


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "epoch", "ack", "why"),
    [
        (PRESENTED, "e1", None, ""),
        (ISSUED, "e1", None, ""),
        (ISSUED, "e1", 0, ""),
        (ISSUED, "e1", 8, ""),
        (ISSUED, "e1", 9, "epoch"),
        (ISSUED, "e1", 65535, "epoch"),
        (ISSUED, "e0", None, "epoch"),
        (ISSUED, None, None, "epoch"),
        (b"x" * 32, "e1", None, "unknown"),
        (b"x" * 32, "e0", None, "unknown"),
        (None, "e1", 8, "unknown"),
        (None, None, None, "clean"),
        (None, None, 8, "clean"),
    ],
)
@pytest.mark.parametrize("state", [State.AWAY, State.LIVE])
def test_what_a_hello_resumes(
    token: bytes | None, epoch: str | None, ack: int | None, why: str, state: State
) -> None:
    session = away(following=9, state=state)
    session.feed(Input.HELLO)
    assert session.resume(token, epoch, ack) == why


def test_a_hello_of_nobody_is_new_whatever_it_presents() -> None:
    session = Session("alice", RULES)
    session.feed(Input.HELLO)
    assert session.resume(None, None, None) == "new"
    assert session.resume(ISSUED, "e1", 3) == "new"


def test_a_row_without_tokens_is_resumed_by_none() -> None:
    bare = row()
    bare.token_presented = bare.token_issued = None
    session = Session("alice", RULES, bare)
    assert session.resume(ISSUED, "e1", None) == "unknown"
    assert session.resume(None, "e1", None) == "unknown"


@pytest.mark.parametrize(("token", "epoch"), [(ISSUED, "e1"), (None, None), (b"x" * 32, "e0")])
def test_an_expired_session_is_not_resumed(token: bytes | None, epoch: str | None) -> None:
    session = away(following=9)
    session.handed = True
    session.expire()
    session.feed(Input.HELLO)
    assert session.resume(token, epoch, None) == "expired"


def test_an_expired_session_stays_so_when_its_hello_is_not_welcomed() -> None:
    session = away()
    session.expire()
    session.feed(Input.HELLO)
    session.lost(T0 + 700_000, OFFLINE)
    session.feed(Input.HELLO)
    assert session.resume(ISSUED, "e1", None) == "expired"


def test_an_epoch_that_ended_while_the_gateway_was_down_is_not_resumed() -> None:
    session = Session("alice", RULES, row())
    session.found_away(T0, OFFLINE, T0 - 600_000)
    session.feed(Input.HELLO)
    assert session.resume(ISSUED, "e1", None) == "expired"


def test_one_that_has_a_moment_left_after_a_start_is_resumed() -> None:
    session = Session("alice", RULES, row())
    session.found_away(T0, OFFLINE, T0 - 599_999)
    session.feed(Input.HELLO)
    assert session.resume(ISSUED, "e1", None) == ""


def test_a_new_epoch_starts_at_one_with_an_empty_window() -> None:
    session = live(RULES)
    bind(session, 11, 12)
    session.feed(Input.HELLO)
    session.begin_epoch("e2", 2)
    assert (session.epoch, session.eno, session.next) == ("e2", 2, 1)
    assert session.window.lowest() is None
    session.welcomed(T0, 4, 0.5)
    assert seqs(bind(session, 13)) == [1]


# -- connections -------------------------------------------------------------------------------------------------------


def test_what_waits_in_the_store_is_asked_for_after_a_welcome() -> None:
    session = away()
    session.waiting = 3
    session.feed(Input.HELLO)
    session.welcomed(T0, 4, 0.5)
    assert session.queue.hungry() == 0
    assert session.pull(T0) == ([], [])


def test_where_nothing_waits_nothing_is_asked_for() -> None:
    session = live(RULES)
    assert session.queue.hungry() == -1
    assert not session.queue


def test_a_resumed_connection_gets_what_is_unsettled_in_order_and_marked() -> None:
    session = live(RULES, limit=2)
    first = bind(session, 11, 12, 13)
    assert seqs(session.take(session.ack_from)) == [1, 2]
    session.lost(T0 + 1000, OFFLINE)
    assert all(i.body is None for i in first)
    session.feed(Input.HELLO)
    session.welcomed(T0 + 2000, 8, 0.5)
    assert seqs(session.take(session.ack_from)) == [1, 2, 3]
    # 3 was never written: nothing to be told about it
    assert [i.marks for i in first] == [1, 1, 0]


def test_what_was_queued_in_memory_is_asked_for_anew_by_the_next_connection() -> None:
    session = live(RULES)
    session.queue.push(item(11))
    session.waiting = 1
    session.lost(T0, OFFLINE)
    assert not session.queue
    session.feed(Input.HELLO)
    session.welcomed(T0, 4, 0.5)
    assert session.pull(T0) == ([], [])
    session.queue.refill(0, [], complete=True)
    session.queue.refill(1, [], complete=True)
    session.queue.refill(2, [item(11)], complete=True)
    assert ids(session.pull(T0)[0]) == [11]


def test_a_connection_that_takes_over_asks_anew_too() -> None:
    session = live(RULES)
    session.queue.push(item(11))
    session.waiting = 1
    session.feed(Input.HELLO)
    session.welcomed(T0, 4, 0.5)
    assert session.queue.count == 0
    assert session.queue.hungry() == 0


# -- the clocks of an absent client ------------------------------------------------------------------------------------


def test_the_offline_deadline_runs_from_the_loss() -> None:
    session = live(RULES)
    assert session.next_deadline() == 0
    session.lost(T0 + 5000, OFFLINE)
    assert (session.state, session.handed) == (State.AWAY, False)
    assert session.offline_at == T0 + 35_000
    assert session.next_deadline() == T0 + 35_000


def test_the_session_expires_after_the_offline_deadline() -> None:
    session = live(RULES)
    session.lost(T0, OFFLINE)
    assert session.expires_at == NEVER
    session.handed = True
    assert session.expires_at == session.next_deadline() == T0 + 600_000
    session.expire()
    assert session.state == State.EXPIRED
    assert session.next_deadline() == 0


def test_an_offline_deadline_beyond_the_expiry_passes_first() -> None:
    # in EXPIRED nothing would ever hand over what has a chain
    session = live(RULES)
    session.lost(T0, 900_000)
    assert session.next_deadline() == T0 + 900_000
    assert session.expires_at == NEVER
    session.handed = True
    assert session.next_deadline() == session.expires_at == T0 + 600_000


def test_after_a_start_the_offline_clock_is_fresh_and_the_expiry_is_not() -> None:
    session = Session("alice", RULES, row())
    session.found_away(T0, OFFLINE, T0 - 500_000)
    assert session.next_deadline() == T0 + 30_000
    session.handed = True
    assert session.next_deadline() == T0 + 100_000


def test_after_a_crash_under_a_live_connection_both_clocks_start_at_readiness() -> None:
    session = Session("alice", RULES, row())
    session.found_away(T0, OFFLINE, 0)
    session.handed = True
    assert session.next_deadline() == T0 + 600_000


def test_a_welcome_stops_the_clocks() -> None:
    session = away()
    session.handed = True
    session.feed(Input.HELLO)
    session.welcomed(T0 + 1000, 4, 0.5)
    assert (session.offline_at, session.handed) == (0, False)
    assert session.next_deadline() == 0
    session.lost(T0 + 2000, OFFLINE)
    assert session.next_deadline() == T0 + 32_000


def test_a_hello_without_welcome_does_not_restart_the_clocks() -> None:
    session = away()
    session.feed(Input.HELLO)
    assert session.next_deadline() == 0
    session.lost(T0 + 29_000, OFFLINE)
    assert session.next_deadline() == T0 + 30_000


def test_after_a_hello_without_welcome_a_passed_deadline_passes_again() -> None:
    # its hello may have brought back what had been handed over
    session = away()
    session.handed = True
    session.feed(Input.HELLO)
    assert not session.handed
    session.lost(T0 + 40_000, OFFLINE)
    assert not session.handed
    assert session.next_deadline() == T0 + 30_000


def test_taken_over_and_then_lost_the_clock_starts() -> None:
    session = live(RULES)
    session.feed(Input.HELLO)
    session.lost(T0 + 7000, OFFLINE)
    assert session.next_deadline() == T0 + 37_000


def test_a_bound_message_expires_between_connections_only() -> None:
    session = live(RULES)
    first, second, third, fourth = bind(session, 11, 12, 13, 14)
    first.expire, second.expire, third.expire, fourth.expire = T0 + 9000, T0 + 5000, T0 + 4000, T0 + 6000
    third.hold = int(Hold.CLAIMED)
    session.window.to_gap(fourth, "dead", "")
    assert session.expired_while_away(FAR) == []
    session.lost(T0, OFFLINE)
    assert session.next_deadline() == T0 + 5000
    assert session.expired_while_away(T0 + 4999) == []
    assert session.expired_while_away(T0 + 5000) == [second]
    assert session.expired_while_away(T0 + 9000) == [first, second]


# -- plain devices -----------------------------------------------------------------------------------------------------


def test_a_plain_device_needs_no_token() -> None:
    assert Session("alice", RULES).continues(clean=False) == "new"
    session = away()
    assert session.continues(clean=False) == ""
    assert session.continues(clean=True) == "clean"
    session.over = True
    assert session.continues(clean=False) == "expired"
    assert session.resume(ISSUED, session.epoch, None) == "expired"
    session.end_epoch()
    assert not session.over
    assert session.continues(clean=True) == "expired"


def test_the_subscription_belongs_to_the_epoch() -> None:
    assert Session("alice", RULES).holds(T0) == Sub.NONE
    session = Session("alice", RULES, replace(row(), sub=int(Sub.PLAIN), keep=5_000))
    session.found_away(T0, OFFLINE, T0)
    assert session.holds(T0 + 4_999) == Sub.PLAIN
    assert session.holds(T0 + 5_000) == Sub.NONE
    session.state = State.LIVE
    assert session.holds(T0 + 5_000) == Sub.PLAIN
    session.over = True
    assert session.holds(T0) == Sub.NONE
    session.end_epoch()
    assert session.holds(T0) == Sub.NONE


@pytest.mark.parametrize(("keep", "after"), [(-1, 600_000), (0, 0), (5_000, 5_000), (700_000, 600_000)])
def test_how_long_an_epoch_is_kept(keep: int, after: int) -> None:
    session = live(RULES)
    session.keep = keep
    session.lost(T0, OFFLINE)
    session.handed = True
    assert session.expires_at == T0 + after


def test_the_same_connection_subscribed_once_more_is_not_written_the_same_again() -> None:
    session = live()
    bind(session, 1, 2)
    session.take(T0)
    session.lost(T0, OFFLINE)
    session.feed(Input.HELLO)
    session.welcomed(T0, 4, 0.5, plain=True, again=True)
    assert session.plain
    assert session.take(T0) == []
    session.lost(T0, OFFLINE)
    session.feed(Input.HELLO)
    session.welcomed(T0, 4, 0.5, plain=True)
    assert seqs(session.take(T0)) == [1, 2]
