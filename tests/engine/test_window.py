import pytest

from gateway.engine.window import Window
from gateway.model import Hold, Item, Kind
from tests.engine.support import item, seqs


def filled(*numbers: int, kind: Kind = Kind.MESSAGE) -> tuple[Window, dict[int, Item]]:
    """A window with these seqs bound; ids are a hundred higher."""
    window = Window()
    items = {n: item(100 + n, seq=n, kind=kind) for n in numbers}
    for bound in items.values():
        window.add(bound)
    return window, items


def claim(bound: Item) -> None:
    bound.hold = int(Hold.CLAIMED)


# -- what is there -----------------------------------------------------------------------------------------------------


def test_an_empty_window() -> None:
    window = Window()
    assert window.lowest() is None
    assert window.lowest_owned() is None
    assert window.find(1) is None
    assert window.find_id(101) is None
    assert window.settle_to(100) == ([], [])
    assert window.take(10) == []
    assert window.span_left(1) == 65535


def test_find_and_find_id() -> None:
    window, items = filled(4, 5, 6)
    assert window.find(4) is items[4]
    assert window.find(6) is items[6]
    assert window.find(3) is None
    assert window.find(7) is None
    assert window.find_id(105) is items[5]
    assert window.find_id(5) is None
    window.settle(items[5])
    assert window.find(5) is None
    assert window.find_id(105) is None


@pytest.mark.parametrize("seq", [2, 5, 7, 30, 31])
def test_find_where_seqs_are_missing_between(seq: int) -> None:
    # after a start of the gateway only what is unsettled is here
    window, items = filled(2, 5, 7, 30, 31)
    assert window.find(seq) is items[seq]


@pytest.mark.parametrize("seq", [0, 1, 3, 6, 8, 29, 32])
def test_find_what_is_not_there_between(seq: int) -> None:
    window, _ = filled(2, 5, 7, 30, 31)
    assert window.find(seq) is None


def test_find_a_settled_one_by_search() -> None:
    window, items = filled(2, 5, 30, 31)
    window.settle(items[30])
    assert window.find(30) is None
    assert window.find(31) is items[31]


def test_the_lowest_owned_passes_over_what_chains_have() -> None:
    window, items = filled(1, 2, 3, 4)
    claim(items[1])
    window.settle(items[2])
    assert window.lowest() is items[1]
    assert window.lowest_owned() is items[3]
    claim(items[3])
    claim(items[4])
    assert window.lowest_owned() is None


# -- the span ----------------------------------------------------------------------------------------------------------


def test_no_seq_is_65535_above_the_lowest_unsettled() -> None:
    window, items = filled(10)
    assert window.span_left(11) == 65534
    # 65544 may be bound beside 10, 65545 may not: on MQTT both would be packet 10
    assert window.span_left(65544) == 1
    assert window.span_left(65545) == 0
    window.add(item(1, seq=65544))
    window.settle(items[10])
    assert window.span_left(65545) == 65534


# -- settling ----------------------------------------------------------------------------------------------------------


def test_a_cumulative_ack_settles_everything_up_to_it() -> None:
    window, items = filled(1, 2, 3, 4)
    window.take(10)
    claim(items[2])
    owned, claimed = window.settle_to(3)
    assert seqs(owned) == [1, 3]
    assert seqs(claimed) == [2]
    assert (window.open, window.flight) == (1, 1)
    assert all(items[n].hold == Hold.NONE and items[n].body is None for n in (1, 2, 3))
    assert window.lowest() is items[4]
    assert items[4].body is not None


def test_a_cumulative_ack_settles_nothing_twice() -> None:
    window, _ = filled(1, 2, 3)
    assert seqs(window.settle_to(2)[0]) == [1, 2]
    assert window.settle_to(2) == ([], [])
    assert window.settle_to(0) == ([], [])
    assert seqs(window.settle_to(3)[0]) == [3]
    assert (window.open, window.flight) == (0, 0)


def test_single_acks_leave_holes_that_a_cumulative_one_passes() -> None:
    window, items = filled(1, 2, 3, 4, 5)
    window.take(10)
    window.settle(items[2])
    window.settle(items[4])
    assert (window.open, window.flight) == (3, 3)
    assert window.lowest() is items[1]
    assert window.find(3) is items[3]
    assert seqs(window.settle_to(4)[0]) == [1, 3]
    assert (window.open, window.flight) == (1, 1)
    assert window.lowest() is items[5]


def test_holes_go_with_what_is_below_them() -> None:
    window, items = filled(1, 2, 3, 4)
    window.settle(items[2])
    window.settle(items[3])
    assert len(window.items) == 4
    window.settle(items[1])
    assert len(window.items) == 1
    assert window.lowest() is items[4]


def test_what_is_settled_before_it_was_written_is_not_written() -> None:
    window, items = filled(1, 2, 3)
    window.settle(items[2])
    assert (window.open, window.flight) == (2, 0)
    assert seqs(window.take(10)) == [1, 3]
    assert (window.open, window.flight) == (2, 2)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_take_keeps_the_window() -> None:
    window, items = filled(1, 2, 3, 4)
    assert seqs(window.take(2)) == [1, 2]
    assert window.take(2) == []
    assert (window.open, window.flight) == (4, 2)
    window.settle(items[1])
    assert seqs(window.take(2)) == [3]
    assert all(items[n].written for n in (2, 3))
    assert not items[4].written


def test_statuses_count_in_the_window() -> None:
    window, _ = filled(1, 2, 3, kind=Kind.STATUS)
    assert seqs(window.take(2)) == [1, 2]
    assert window.open == 3


def test_what_a_chain_claimed_is_not_written_and_still_counts() -> None:
    window, items = filled(1, 2, 3)
    window.take(1)
    claim(items[1])
    claim(items[2])
    assert window.take(1) == []
    assert seqs(window.take(2)) == [3]
    assert (window.open, window.flight) == (3, 2)


def test_again_writes_one_item_once_more_marked_and_first() -> None:
    window, items = filled(1, 2, 3)
    window.take(2)
    window.again(items[1])
    assert items[1].marks == 1
    assert window.flight == 1
    assert seqs(window.take(2)) == [1]
    window.again(items[1])
    assert items[1].marks == 2
    assert seqs(window.take(3)) == [1, 3]


def test_again_before_it_was_written_changes_nothing() -> None:
    window, items = filled(1)
    window.again(items[1])
    assert items[1].marks == 0
    assert seqs(window.take(1)) == [1]
    assert window.take(1) == []


def test_nothing_is_written_above_one_that_is_just_being_taken() -> None:
    window, items = filled(1, 2, 3)
    items[2].leaving = True
    assert seqs(window.take(10)) == [1]
    assert window.take(10) == []
    gap = window.to_gap(items[2], "superseded", "hook")
    assert window.take(10) == [gap, items[3]]


def test_one_that_stays_after_all_is_written_in_its_place() -> None:
    window, items = filled(1, 2)
    items[1].leaving = True
    assert window.take(10) == []
    items[1].leaving = False
    assert seqs(window.take(10)) == [1, 2]


def test_one_that_was_written_and_is_being_taken_holds_up_nothing() -> None:
    window, items = filled(1, 2)
    window.take(1)
    items[1].leaving = True
    assert seqs(window.take(2)) == [2]


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_a_gap_takes_the_place_of_its_message_outside_the_window() -> None:
    window, items = filled(1, 2)
    window.take(10)
    items[1].eno = 7
    gap = window.to_gap(items[1], "superseded", "sms")
    assert (gap.seq, gap.eno, gap.id, gap.why, gap.via) == (1, 7, 101, "superseded", "sms")
    assert (gap.kind, gap.hold, gap.body) == (Kind.GAP, Hold.BOUND, None)
    assert (items[1].hold, items[1].body) == (Hold.NONE, None)
    assert (window.open, window.flight) == (1, 1)
    assert window.find(1) is gap
    assert window.lowest_owned() is gap
    assert window.find_id(101) is None
    # the window is full: a gap is written all the same
    assert window.take(1) == [gap]
    assert gap.written
    assert window.settle_to(1) == ([gap], [])
    assert (window.open, window.flight) == (1, 1)


def test_the_gap_of_what_was_never_written_takes_nothing_from_the_flight() -> None:
    window, items = filled(1, 2)
    gap = window.to_gap(items[2], "expired", "")
    assert (window.open, window.flight) == (1, 0)
    assert window.take(10) == [items[1], gap]


def test_a_gap_is_written_before_what_stands_above_it() -> None:
    # else a client that never acks past a hole waits for it, and it for room behind what that client does not ack
    window, items = filled(1, 2, 3, 4, 5)
    assert seqs(window.take(1)) == [1]
    gap = window.to_gap(items[3], "superseded", "hook")
    window.settle(items[1])
    assert window.take(1) == [items[2], gap]
    assert window.take(1) == []
    window.settle(items[2])
    assert window.take(1) == [items[4]]


def test_the_gap_of_the_last_one_is_written_last() -> None:
    window, items = filled(1, 2, 3)
    gap = window.to_gap(items[3], "dead", "")
    assert window.take(10) == [items[1], items[2], gap]


def test_a_gap_is_written_again_marked_and_takes_no_room() -> None:
    window, items = filled(1, 2)
    window.take(10)
    gap = window.to_gap(items[1], "expired", "")
    window.take(10)
    window.again(gap)
    assert gap.marks == 1
    assert window.flight == 1
    assert window.take(1) == [gap]


def test_gaps_that_the_store_remembers_take_no_room() -> None:
    window = Window()
    for n in (1, 2, 3):
        window.add(item(100 + n, seq=n, kind=Kind.GAP))
    window.add(item(104, seq=4))
    assert window.open == 1
    window.settle_to(3)
    assert window.open == 1
    assert seqs(window.take(1)) == [4]


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_new_connection_gets_everything_unsettled_in_order_marked_where_written() -> None:
    window, items = filled(1, 2, 3, 4, 5)
    window.take(3)
    window.again(items[1])
    window.settle(items[2])
    gap = window.to_gap(items[3], "expired", "")
    window.reconnected()
    assert window.flight == 0
    assert window.take(10) == [items[1], gap, items[4], items[5]]
    # 1 was marked when it was to be written again, which it was not; 4 and 5 were never written
    assert [i.marks for i in (items[1], gap, items[4], items[5])] == [1, 0, 0, 0]
    window.reconnected()
    assert [i.marks for i in (items[1], gap, items[4], items[5])] == [2, 1, 1, 1]
    assert (window.open, window.flight) == (3, 0)


def test_a_new_connection_may_have_a_smaller_window() -> None:
    window, _ = filled(1, 2, 3, 4)
    window.take(4)
    window.reconnected()
    assert seqs(window.take(2)) == [1, 2]
    window.settle_to(1)
    assert seqs(window.take(2)) == [3]


def test_what_a_chain_claimed_is_not_written_to_a_new_connection_until_it_is_given_back() -> None:
    window, items = filled(1, 2)
    window.take(2)
    claim(items[1])
    window.reconnected()
    assert seqs(window.take(2)) == [2]
    items[1].hold = int(Hold.BOUND)
    window.reconnected()
    assert seqs(window.take(2)) == [1, 2]
    assert items[1].marks == 1


def test_without_a_connection_bodies_stay_in_the_store() -> None:
    window, items = filled(1, 2)
    window.take(1)
    window.drop_bodies()
    assert [i.body for i in items.values()] == [None, None]
    assert window.take(10) == []
    window.reconnected()
    assert seqs(window.take(10)) == [1, 2]
    assert [i.marks for i in items.values()] == [1, 0]


def test_the_same_connection_taking_part_again_is_written_only_what_it_was_not() -> None:
    window, items = filled(1, 2, 3, 4)
    assert seqs(window.take(2)) == [1, 2]
    window.settle(items[2])
    gap = window.to_gap(items[3], "dead", "")
    window.drop_bodies()
    for item_ in items.values():
        item_.body = b"read again"
    window.back()
    assert window.flight == 1
    assert items[1].body is None
    assert items[1].marks == 0
    assert window.take(4) == [gap, items[4]]


def test_a_gap_that_was_written_does_not_count_when_the_same_connection_takes_part_again() -> None:
    window, items = filled(1, 2)
    gap = window.to_gap(items[1], "dead", "")
    assert window.take(2) == [gap, items[2]]
    window.back()
    assert window.flight == 1
    assert window.take(2) == []
