import itertools

import pytest

from gateway.engine import session as module
from gateway.engine.session import NEVER, TRANSITIONS, Half, Impossible, Input, Rules, Session, State
from gateway.errors import Invalid
from gateway.model import Hold, Kind
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
    (State.JOINING, Input.UNMET): State.NEW,
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
        (State[words[0]], Input[{"unmet": "UNMET"}.get(column, column.upper())]): State[to]
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


def test_a_first_hello_that_ends_before_anything_of_it_is_committed() -> None:
    session = Session("alice", RULES)
    session.feed(Input.HELLO)
    session.lost(T0, OFFLINE)
    assert session.state == State.NEW
    assert session.next_deadline() == 0


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
    assert seqs(session.take()) == [1, 2]
    session.lost(T0 + 1000, OFFLINE)
    assert all(i.body is None for i in first)
    session.feed(Input.HELLO)
    session.welcomed(T0 + 2000, 8, 0.5)
    assert seqs(session.take()) == [1, 2, 3]
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


# -- binding -----------------------------------------------------------------------------------------------------------


def insert(session: Session) -> bool:
    """What the driver does with a publish: whether it gets its seq on the insert."""
    now = session.may_bind_now(True)
    session.binding += now
    session.incoming += 1
    return now


def inserted(session: Session, id: int, with_seq: bool) -> None:
    """Its commit is on disk."""
    session.incoming -= 1
    if with_seq:
        session.bound(item(id, seq=session.next), T0)
    else:
        session.waiting += 1
        session.queue.push(item(id))


def test_an_insert_is_bound_at_once_while_the_window_is_open() -> None:
    session = live(RULES, limit=2)
    assert insert(session)
    assert insert(session)
    assert not session.may_bind_now(True)
    inserted(session, 11, True)
    inserted(session, 12, True)
    assert session.next == 3
    assert not session.may_bind_now(True)
    session.acked_to(1, T0)
    assert session.may_bind_now(True)


@pytest.mark.parametrize("state", [s for s in State if s != State.LIVE])
def test_without_a_welcomed_connection_nothing_is_bound(state: State) -> None:
    session = live(RULES)
    session.state = state
    assert not session.may_bind_now(True)


def test_while_the_peer_does_not_read_nothing_is_bound() -> None:
    assert not live(RULES).may_bind_now(False)


def test_behind_what_waits_nothing_is_bound_on_the_insert() -> None:
    session = live(RULES)
    session.queue.push(item(11))
    assert not session.may_bind_now(True)
    session.queue.pop()
    session.queue.more[3] = True
    assert not session.may_bind_now(True)


def test_what_left_the_queue_is_not_overtaken_while_it_is_being_bound() -> None:
    # a commit gives seqs to its inserts before it gives them to what waited
    session = live(RULES)
    session.queue.push(item(11))
    assert ids(session.pull(T0)[0]) == [11]
    assert not session.queue
    assert not session.may_bind_now(True)
    session.bound(item(11, seq=1), T0)
    assert session.may_bind_now(True)


def test_what_left_the_queue_in_vain_is_waited_for_no_longer() -> None:
    session = live(RULES)
    session.queue.push(item(11))
    session.pull(T0)
    # cancelled meanwhile: the store bound nothing
    session.binding -= 1
    assert session.may_bind_now(True)


def test_an_insert_without_seq_is_not_overtaken_while_it_is_being_committed() -> None:
    session = live(RULES, limit=1)
    assert insert(session)
    inserted(session, 11, True)
    assert not insert(session)
    session.acked_to(1, T0)
    # the window is open and the queue empty, and yet 12 comes first
    assert not insert(session)
    inserted(session, 12, False)
    inserted(session, 13, False)
    assert ids(session.pull(T0)[0]) == [12]


def test_no_seq_is_bound_65535_above_the_lowest_unsettled() -> None:
    session = live(RULES, limit=10)
    lowest = bind(session, 11)[0]
    session.next = 65534
    session.queue.push(item(12))
    session.queue.push(item(13))
    session.queue.push(item(14))
    assert seqs(session.window.take(10)) == [1]
    assert ids(session.pull(T0)[0]) == [12, 13]
    session.bound(item(12, seq=65534), T0)
    session.bound(item(13, seq=65535), T0)
    assert session.pull(T0) == ([], [])
    session.queue.pop()
    assert not session.may_bind_now(True)
    session.acked_one(lowest.seq, T0)
    assert session.may_bind_now(True)


def test_the_queue_leaves_as_the_window_opens() -> None:
    session = live(RULES, limit=3)
    bind(session, 11)
    for id, lane in ((12, 2), (13, 2), (14, 0)):
        session.queue.push(item(id, lane=lane))
    assert ids(session.pull(T0)[0]) == [14, 12]
    assert session.binding == 2
    assert session.pull(T0) == ([], [])
    session.bound(item(14, seq=2), T0)
    session.bound(item(12, seq=3), T0)
    assert session.pull(T0) == ([], [])
    session.acked_to(2, T0)
    assert ids(session.pull(T0)[0]) == [13]


def test_claimed_items_hold_their_place_in_the_window_and_gaps_do_not() -> None:
    session = live(RULES, limit=2)
    first, second = bind(session, 11, 12)
    first.hold = int(Hold.CLAIMED)
    assert not session.may_bind_now(True)
    session.window.to_gap(second, "expired", "")
    assert session.may_bind_now(True)


def test_what_is_expired_at_the_head_of_the_queue_takes_no_room() -> None:
    session = live(RULES, limit=2)
    for id, expire in ((11, T0 + 1), (12, T0), (13, T0 - 5), (14, FAR), (15, T0)):
        session.queue.push(item(id, expire=expire))
    out, dead = session.pull(T0)
    assert ids(out) == [11, 14]
    assert ids(dead) == [12, 13]
    assert session.binding == 2
    # the window is full: what is behind is not looked at
    assert session.queue.count == 1


def test_a_window_that_shrank_is_not_filled_until_it_has_room() -> None:
    session = live(RULES, limit=4)
    bind(session, 11, 12, 13)
    session.feed(Input.HELLO)
    session.welcomed(T0, 1, 0.5)
    session.queue.push(item(14))
    assert session.pull(T0) == ([], [])
    assert seqs(session.take()) == [1]
    session.acked_to(2, T0)
    assert seqs(session.take()) == [3]
    assert session.pull(T0) == ([], [])


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_cumulative_ack() -> None:
    session = live(RULES)
    items = bind(session, 11, 12, 13)
    items[1].hold = int(Hold.CLAIMED)
    owned, claimed = session.acked_to(2, T0)
    assert (ids(owned), ids(claimed)) == ([11], [12])
    assert session.acked_to(2, T0) == ([], [])
    assert session.acked_to(0, T0) == ([], [])
    assert ids(session.acked_to(3, T0)[0]) == [13]


def test_single_acks() -> None:
    session = live(RULES)
    first, second, third = bind(session, 11, 12, 13)
    third.hold = int(Hold.CLAIMED)
    assert session.acked_one(2, T0) == (second, False)
    assert session.acked_one(3, T0) == (third, True)
    assert session.acked_one(2, T0) is None
    assert session.acked_one(0, T0) is None
    assert session.acked_to(3, T0) == ([first], [])


@pytest.mark.parametrize("seq", [3, 4, 1 << 53])
def test_a_seq_at_or_above_next_was_never_sent(seq: int) -> None:
    session = live(RULES)
    bind(session, 11, 12)
    with pytest.raises(Invalid, match=f"seq {seq} was never sent: next is 3") as cumulative:
        session.acked_to(seq, T0)
    assert (cumulative.value.code, cumulative.value.field) == ("seq_unknown", "$.seq")
    with pytest.raises(Invalid):
        session.acked_one(seq, T0)
    with pytest.raises(Invalid):
        session.unsettled(seq)
    with pytest.raises(Invalid):
        session.working(seq, T0)
    assert session.window.open == 2


def test_what_a_nack_names() -> None:
    session = live(RULES)
    first, second = bind(session, 11, 12)
    session.acked_one(2, T0)
    assert session.unsettled(1) is first
    assert session.unsettled(2) is None
    assert session.unsettled(0) is None
    assert second.hold == Hold.NONE


# -- the ack timer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "wait"), [(0.0, 9000), (0.5, 10_000), (0.999999, 11_000)])
def test_the_timer_of_a_connection_has_its_jitter(half: float, wait: int) -> None:
    session = live(RULES, half=half)
    bind(session, 11)
    session.take()
    assert session.ack_due() == session.next_deadline() == T0 + wait
    assert session.ack_due() == T0 + wait


@pytest.mark.parametrize(("tries", "wait"), [(0, 10_000), (1, 20_000), (2, 40_000), (3, 57_000), (9, 57_000)])
@pytest.mark.parametrize("kind", list(Kind))
def test_the_timer_doubles_with_each_timeout(kind: Kind, tries: int, wait: int) -> None:
    session = live(RULES)
    bound = bind(session, 11, kind=Kind.STATUS if kind == Kind.GAP else kind)[0]
    if kind == Kind.GAP:
        bound = session.window.to_gap(bound, "dead", "")
    session.take()
    # gaps and statuses count to nothing: how often they were repeated is their number of marks
    if kind == Kind.MESSAGE:
        bound.tries = tries
    else:
        bound.marks = tries
    assert session.ack_due() == T0 + wait


def test_the_timer_runs_while_the_lowest_is_written_and_the_connection_stands() -> None:
    session = live(RULES)
    assert session.ack_due() == 0
    bind(session, 11, 12)
    assert session.ack_due() == 0
    session.take()
    assert session.ack_due() == T0 + 10_000
    session.lost(T0 + 1, OFFLINE)
    assert session.ack_due() == 0


def test_the_timer_of_a_message_that_finds_the_window_empty_starts_with_it() -> None:
    session = live(RULES)
    bind(session, 11, now=T0)
    session.acked_to(1, T0 + 4000)
    bind(session, 12, now=T0 + 50_000)
    bind(session, 13, now=T0 + 55_000)
    session.take()
    assert session.ack_due() == T0 + 60_000


def test_settling_the_lowest_restarts_the_timer_and_settling_another_does_not() -> None:
    session = live(RULES, limit=8)
    bind(session, 11, 12, 13, 14)
    session.take()
    session.acked_one(2, T0 + 3000)
    session.acked_one(4, T0 + 4000)
    assert session.ack_due() == T0 + 10_000
    session.acked_one(1, T0 + 5000)
    assert session.ack_due() == T0 + 15_000
    session.acked_to(2, T0 + 6000)
    assert session.ack_due() == T0 + 15_000
    bind(session, 15, now=T0 + 7000)
    session.take()
    session.acked_to(3, T0 + 8000)
    assert session.ack_due() == T0 + 18_000


def test_working_restarts_the_timer_of_the_lowest_alone() -> None:
    session = live(RULES)
    bind(session, 11, 12)
    session.take()
    session.working(2, T0 + 3000)
    assert session.ack_due() == T0 + 10_000
    session.working(1, T0 + 4000)
    assert session.ack_due() == T0 + 14_000
    session.acked_one(1, T0 + 5000)
    session.working(1, T0 + 6000)
    assert session.ack_due() == T0 + 15_000


def test_the_timer_passes_over_what_a_chain_has() -> None:
    session = live(RULES)
    first, second = bind(session, 11, 12)
    session.take()
    first.hold = int(Hold.CLAIMED)
    second.tries = 1
    assert session.ack_due() == T0 + 20_000
    session.working(1, T0 + 3000)
    assert session.ack_due() == T0 + 20_000
    session.working(2, T0 + 4000)
    assert session.ack_due() == T0 + 24_000
    second.hold = int(Hold.CLAIMED)
    assert session.ack_due() == 0


def test_behind_a_claimed_one_the_timer_starts_with_each_message() -> None:
    session = live(RULES)
    claimed = bind(session, 11)[0]
    session.take()
    claimed.hold = int(Hold.CLAIMED)
    bind(session, 12, now=T0 + 100_000)
    session.take()
    assert session.ack_due() == T0 + 110_000
    bind(session, 13, now=T0 + 101_000)
    session.take()
    session.acked_one(2, T0 + 105_000)
    assert session.ack_due() == T0 + 115_000


def test_settling_a_claimed_one_does_not_restart_the_timer_of_another() -> None:
    session = live(RULES)
    first, second, third = bind(session, 11, 12, 13)
    session.take()
    first.hold = second.hold = int(Hold.CLAIMED)
    session.acked_one(1, T0 + 3000)
    session.acked_to(2, T0 + 4000)
    assert session.window.lowest() is third
    assert session.ack_due() == T0 + 10_000


def test_a_welcome_starts_the_timer_of_what_was_bound_before() -> None:
    session = live(RULES)
    bind(session, 11)
    session.take()
    session.lost(T0 + 1000, OFFLINE)
    session.feed(Input.HELLO)
    session.welcomed(T0 + 70_000, 4, 0.0)
    session.take()
    assert session.ack_due() == T0 + 79_000


def test_half_says_what_it_was_told() -> None:
    assert Half().random() == 0.5
    assert Half(0.25).random() == 0.25
