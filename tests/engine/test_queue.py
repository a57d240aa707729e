import pytest

from gateway.engine.queue import LANE_COUNT, Queue
from tests.engine.support import ids, item


def drained(queue: Queue) -> list[int]:
    out = []
    while (found := queue.pop()) is not None:
        out.append(found.id)
    return out


def test_an_empty_queue() -> None:
    queue = Queue(10, 1000)
    assert not queue
    assert queue.pop() is None
    assert queue.hungry() == -1
    assert queue.remove(1) is None


def test_lanes_leave_by_priority_and_in_order_of_acceptance_within() -> None:
    queue = Queue(10, 1000)
    for id, lane in ((1, 3), (2, 1), (3, 0), (4, 2), (5, 1), (6, 0), (7, 3), (8, 2)):
        queue.push(item(id, lane=lane))
    assert queue
    assert queue.count == 8
    assert queue.bytes == 24
    assert drained(queue) == [3, 6, 2, 5, 4, 8, 1, 7]
    assert not queue
    assert (queue.count, queue.bytes) == (0, 0)


def test_an_item_without_body_has_no_bytes() -> None:
    queue = Queue(10, 1000)
    queue.push(item(1, body=None))
    queue.refill(1, [item(2, body=None, lane=1)], complete=True)
    assert queue.bytes == 0
    assert queue.remove(1) is not None
    assert queue.pop() is not None
    assert queue.bytes == 0


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 1000), (10, 6), (10, 4)])
def test_what_is_over_the_limits_is_left_to_the_store(most: int, most_bytes: int) -> None:
    queue = Queue(most, most_bytes)
    for id in (1, 2, 3):
        queue.push(item(id))
    assert queue.count == 2
    assert queue.more == [False, False, True, False]
    assert drained(queue) == [1, 2]
    assert queue
    assert queue.hungry() == 2


def test_behind_rows_in_the_store_nothing_new_is_kept() -> None:
    queue = Queue(2, 1000)
    for id in (1, 2, 3):
        queue.push(item(id))
    assert queue.pop() is not None
    queue.push(item(4))
    assert drained(queue) == [2]
    queue.push(item(5, lane=0))
    assert drained(queue) == [5]


def test_a_lower_lane_waits_for_a_hungry_higher_one() -> None:
    queue = Queue(10, 1000)
    queue.push(item(1, lane=3))
    queue.more[1] = True
    assert queue.hungry() == 1
    assert queue.pop() is None
    queue.refill(1, [item(7, lane=1)], complete=True)
    assert queue.hungry() == -1
    assert drained(queue) == [7, 1]


def test_a_lane_with_something_here_is_not_hungry_whatever_is_behind() -> None:
    queue = Queue(10, 1000)
    queue.push(item(1, lane=1))
    queue.more[1] = True
    assert queue.hungry() == -1
    assert queue.pop() is not None
    assert queue.hungry() == 1


def test_behind_asks_for_every_lane() -> None:
    queue = Queue(10, 1000)
    queue.behind()
    for lane in range(LANE_COUNT):
        assert queue.hungry() == lane
        assert queue
        queue.refill(lane, [], complete=True)
    assert queue.hungry() == -1
    assert not queue


def test_a_refill_merges_by_id_and_takes_nothing_twice() -> None:
    queue = Queue(10, 1000)
    for id in (5, 6):
        queue.push(item(id))
    queue.more[2] = True
    queue.refill(2, [item(id) for id in (3, 5, 6, 8)], complete=True)
    assert queue.count == 4
    assert queue.bytes == 12
    assert drained(queue) == [3, 5, 6, 8]


def test_an_incomplete_refill_leaves_the_lane_open() -> None:
    queue = Queue(10, 1000)
    queue.more[2] = True
    queue.refill(2, [item(1), item(2)], complete=False)
    assert queue.more[2]
    queue.push(item(3))
    assert drained(queue) == [1, 2]
    assert queue.hungry() == 2


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1000), (10, 7)])
def test_a_refill_keeps_the_limits_and_the_order(most: int, most_bytes: int) -> None:
    queue = Queue(most, most_bytes)
    queue.push(item(9))
    queue.more[2] = True
    queue.refill(2, [item(id) for id in (1, 2, 3, 4)], complete=True)
    assert queue.count == 3
    assert queue.bytes == 9
    # what the lane had no room for stands behind: the store is asked again, nothing is overtaken
    assert queue.more[2]
    assert drained(queue) == [1, 2, 3]
    assert queue.hungry() == 2
    queue.refill(2, [item(4), item(9)], complete=True)
    assert drained(queue) == [4, 9]
    assert not queue


def test_a_refilled_lane_gets_one_however_full_the_others_are() -> None:
    queue = Queue(2, 2)
    queue.push(item(1, lane=3))
    queue.push(item(5, lane=0))
    assert queue.hungry() == 0
    queue.refill(0, [item(5, lane=0), item(6, lane=0)], complete=True)
    assert drained(queue) == [5]
    assert queue.hungry() == 0


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_remove_takes_a_row_out(gone: int) -> None:
    queue = Queue(10, 1000)
    for id in (1, 2, 3):
        queue.push(item(id))
    found = queue.remove(gone)
    assert found is not None
    assert found.id == gone
    assert (queue.count, queue.bytes) == (2, 6)
    assert queue.remove(gone) is None
    assert drained(queue) == [id for id in (1, 2, 3) if id != gone]


def test_remove_looks_into_every_lane_and_past_what_is_not_there() -> None:
    queue = Queue(10, 1000)
    for id, lane in ((10, 0), (30, 0), (20, 2)):
        queue.push(item(id, lane=lane))
    queue.pop()
    assert queue.remove(20) is not None
    assert queue.remove(25) is None
    assert ids(list(queue.lanes[0])) == [30]
