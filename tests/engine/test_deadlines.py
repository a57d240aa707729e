from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.deadlines import Deadlines


def popped(deadlines: Deadlines, now: int) -> list[object]:
    out: list[object] = []
    while (key := deadlines.pop(now)) is not None:
        out.append(key)
    return out


def test_nothing_is_set() -> None:
    deadlines = Deadlines()
    assert deadlines.next() == 0
    assert deadlines.pop(1 << 62) is None


def test_a_deadline_comes_at_its_time_and_not_before() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 500)
    assert deadlines.next() == 500
    assert deadlines.pop(499) is None
    assert deadlines.pop(500) == "a"
    assert deadlines.next() == 0
    assert deadlines.pop(501) is None


def test_they_come_in_order_of_time_and_then_of_setting() -> None:
    deadlines = Deadlines()
    for key, when in (("late", 900), ("first", 300), ("second", 300), ("early", 100)):
        deadlines.set(key, when)
    assert popped(deadlines, 1000) == ["early", "first", "second", "late"]


def test_keys_need_no_order_of_their_own() -> None:
    deadlines = Deadlines()
    deadlines.set(("chain", "hook"), 300)
    deadlines.set("due", 300)
    assert popped(deadlines, 300) == [("chain", "hook"), "due"]


def test_a_later_time_leaves_the_earlier_one() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 500)
    deadlines.set("a", 500)
    deadlines.set("a", 900)
    assert popped(deadlines, 500) == ["a"]
    assert deadlines.next() == 0


def test_an_earlier_time_replaces_the_later_one() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 900)
    deadlines.set("b", 700)
    deadlines.set("a", 500)
    assert deadlines.next() == 500
    assert popped(deadlines, 600) == ["a"]
    assert deadlines.next() == 700
    assert popped(deadlines, 1000) == ["b"]


def test_what_was_popped_can_be_set_again_beside_its_old_entry() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 900)
    deadlines.set("a", 500)
    assert deadlines.pop(500) == "a"
    deadlines.set("a", 900)
    assert popped(deadlines, 900) == ["a"]
    assert deadlines.next() == 0


def test_clear_forgets_all() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 100)
    deadlines.clear()
    assert deadlines.next() == 0
    deadlines.set("a", 300)
    assert popped(deadlines, 300) == ["a"]


def test_a_key_that_is_set_far_and_near_in_turn_does_not_fill_the_heap() -> None:
    deadlines = Deadlines()
    deadlines.set("other", 5_000_000)
    for n in range(1, 10_001):
        deadlines.set("a", 1_000_000_000 + n)
        deadlines.set("a", n)
        assert deadlines.pop(n) == "a"
    assert len(deadlines._heap) <= 70
    assert deadlines.next() == 5_000_000


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 40), st.integers(1, 1000)),
            st.tuples(st.just("pop"), st.just(0), st.integers(1, 1000)),
        ),
        max_size=400,
    )
)
def test_a_plain_dict_agrees(steps: list[tuple[str, int, int]]) -> None:
    deadlines, naive = Deadlines(), dict[int, int]()
    for what, key, when in steps:
        if what == "set":
            deadlines.set(key, when)
            naive[key] = min(when, naive.get(key, when))
        else:
            found = deadlines.pop(when)
            if min(naive.values(), default=when + 1) > when:
                assert found is None
            else:
                assert isinstance(found, int)
                assert naive[found] == min(naive.values())
                del naive[found]
        assert deadlines.next() == min(naive.values(), default=0)
