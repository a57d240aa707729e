"""How a session gives seqs, and what settles them."""

from typing import Any

import pytest

from gateway.engine.session import Session
from gateway.engine.states import Input, Rules, State
from gateway.errors import Invalid
from gateway.model import Extra, Hold, Item, Kind, Status
from tests.engine.support import FAR, T0, bind, ids, item, live, seqs

RULES = Rules(window=4, ack_wait=10_000, ack_wait_max=60_000, expiry=600_000, heads=8, heads_bytes=1000)


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
    assert not insert(session)
    assert not insert(session)
    session.bound(item(11, seq=1), T0)
    assert not session.may_bind_now(True)
    inserted(session, 12, False)
    inserted(session, 13, False)
    assert ids(session.pull(T0)[0]) == [12, 13]
    session.bound(item(12, seq=2), T0)
    session.bound(item(13, seq=3), T0)
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
    session.acked_each([lowest.seq], T0)
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
    assert seqs(session.take(session.ack_from)) == [1]
    session.acked_to(2, T0)
    assert seqs(session.take(session.ack_from)) == [3]
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
    assert session.acked_each([2, 3, 2, 0], T0) == ([second], [third], 0)
    assert session.acked_each([2], T0) == ([], [], 0)
    assert session.acked_to(3, T0) == ([first], [])


def test_single_acks_in_a_row() -> None:
    """A run from the lowest on, over one that was settled before, up to a seq that nobody was sent."""
    session = live(RULES)
    items = bind(session, 11, 12, 13, 14, 15)
    assert session.acked_each([3], T0 + 1) == ([items[2]], [], 0)
    assert session.ack_from == T0
    assert session.acked_each([1, 2, 3, 4, 6, 5], T0 + 2) == ([items[0], items[1], items[3]], [], 6)
    assert session.ack_from == T0 + 2
    assert session.window.lowest() is items[4]
    assert session.window.open == 1
    assert session.acked_each([5], T0 + 3) == ([items[4]], [], 0)
    assert session.window.lowest() is None


@pytest.mark.parametrize("seq", [3, 4, 1 << 53])
def test_a_seq_at_or_above_next_was_never_sent(seq: int) -> None:
    session = live(RULES)
    bind(session, 11, 12)
    with pytest.raises(Invalid, match=f"seq {seq} was never sent: next is 3") as cumulative:
        session.acked_to(seq, T0)
    assert (cumulative.value.code, cumulative.value.field) == ("seq_unknown", "$.seq")
    assert session.acked_each([seq], T0) == ([], [], seq)
    with pytest.raises(Invalid):
        session.unsettled(seq)
    with pytest.raises(Invalid):
        session.working(seq, T0)
    assert session.window.open == 2


def test_what_a_nack_names() -> None:
    session = live(RULES)
    first, second = bind(session, 11, 12)
    session.acked_each([2], T0)
    assert session.unsettled(1) is first
    assert session.unsettled(2) is None
    assert session.unsettled(0) is None
    assert second.hold == Hold.NONE


# -- in one step -------------------------------------------------------------------------------------------------------


def fresh(session: Session, id: int, kind: Kind = Kind.MESSAGE) -> Item:
    """As the store has just bound it to the next seq."""
    session.binding += 1
    return item(id, seq=session.next, kind=kind)


def test_what_is_bound_goes_out_at_once() -> None:
    session = live(RULES)
    one = fresh(session, 11)
    assert session.sends(one, T0 + 5)
    assert one.written
    assert (session.binding, session.next, session.ack_from) == (0, 2, T0 + 5)
    assert (session.window.open, session.window.flight) == (1, 1)
    assert session.take(T0 + 6) == []
    # the timer is the lowest one's
    assert session.sends(fresh(session, 12), T0 + 7)
    assert session.ack_from == T0 + 5
    assert ids(list(session.window.items)) == [11, 12]


def test_nothing_goes_out_before_what_was_there_first() -> None:
    session = live(RULES)
    bind(session, 11)
    second = fresh(session, 12)
    assert not session.sends(second, T0)
    session.bound(second, T0)
    assert ids(session.take(T0)) == [11, 12]


def test_what_is_no_ordinary_message_goes_out_the_long_way() -> None:
    session = live(RULES, limit=1)
    status = fresh(session, 11, Kind.STATUS)
    leaving = fresh(session, 11)
    leaving.leaving = True
    assert not session.sends(status, T0)
    assert not session.sends(leaving, T0)
    assert session.sends(fresh(session, 11), T0)
    # the window is full
    assert not session.sends(fresh(session, 12), T0)


def test_the_timer_starts_with_what_goes_out_behind_a_claimed_one() -> None:
    session = live(RULES)
    claimed = fresh(session, 11)
    assert session.sends(claimed, T0)
    claimed.hold = int(Hold.CLAIMED)
    assert session.sends(fresh(session, 12), T0 + 9)
    assert session.ack_from == T0 + 9


def test_the_ack_of_the_lowest_in_one_step() -> None:
    session = live(RULES)
    assert session.acked_lowest(1, T0) is None
    first, _, third, fourth = bind(session, 11, 12, 13, 14)
    session.take(T0)
    assert session.acked_lowest(2, T0 + 1) is None
    session.acked_each([2], T0 + 1)
    assert session.acked_lowest(1, T0 + 2) is first
    assert (first.hold, first.body, session.ack_from) == (Hold.NONE, None, T0 + 2)
    assert (session.window.open, session.window.flight) == (2, 2)
    # what was settled above it is behind it now
    assert session.acked_lowest(2, T0 + 3) is None
    assert session.acked_lowest(3, T0 + 4) is third
    session.window.again(fourth)
    assert session.acked_lowest(4, T0 + 5) is fourth
    assert (session.window.open, session.window.flight) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"hold": int(Hold.CLAIMED)},
        {"leaving": True},
        {"x": Extra(type="t")},
        {"kind": int(Kind.STATUS)},
        {"status": int(Status.PROVIDER_DELIVERED)},
    ],
)
def test_an_ack_with_more_to_it_is_looked_at(change: dict[str, Any]) -> None:
    session = live(RULES)
    (held,) = bind(session, 11)
    session.take(T0)
    for name, value in change.items():
        setattr(held, name, value)
    assert session.acked_lowest(1, T0 + 1) is None
    assert session.window.open == 1
    assert session.ack_from == T0
