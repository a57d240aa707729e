"""The wheel: looks are never early, never twice, and survive whatever a look does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transports.wheel import LOOKS, Wheel

TICK = 100


class Member:
    """Notes its looks. `plan`: what each look answers, as a distance from now; 0 at the end."""

    def __init__(self, *plan: int) -> None:
        self.slot = 0
        self.plan = list(plan)
        self.looks: list[int] = []
        self.aborted = False

    def look(self, now: int) -> int:
        self.looks.append(now)
        return now + self.plan.pop(0) if self.plan else 0

    def abort(self) -> None:
        self.aborted = True


def test_looks_come_at_the_first_tick_that_is_not_early() -> None:
    wheel, member = Wheel(TICK), Member(250)
    wheel.put(member, 1001)
    for now in range(1000, 2000, TICK):
        wheel.turn(now)
    assert member.looks == [1100, 1400]
    assert member.slot == 0


def test_an_earlier_look_stands_and_a_later_one_gives_way() -> None:
    wheel, member = Wheel(TICK), Member()
    wheel.put(member, 1500)
    wheel.put(member, 1200)
    wheel.put(member, 1900)
    for now in range(1000, 2500, TICK):
        wheel.turn(now)
    assert member.looks == [1200]


def test_who_was_dropped_is_not_looked_at_even_in_the_same_turn() -> None:
    wheel = Wheel(TICK)

    class Dropper(Member):
        other: Member

        def look(self, now: int) -> int:
            wheel.drop(self.other)
            return super().look(now)

    first, second = Dropper(), Dropper()
    first.other, second.other = second, first
    wheel.put(first, 1000)
    wheel.put(second, 1000)
    wheel.turn(1000)
    wheel.turn(1100)
    assert len(first.looks) + len(second.looks) == 1


def test_an_error_ends_its_member_and_nobody_else() -> None:
    wheel = Wheel(TICK)

    class Bad(Member):
        def look(self, now: int) -> int:
            raise ZeroDivisionError

    bad, good = Bad(), [Member(100) for _ in range(5)]
    for member in (*good, bad):
        wheel.put(member, 1000)
    with pytest.raises(ZeroDivisionError):
        wheel.turn(1000)
    wheel.turn(1100)
    wheel.turn(1200)
    assert bad.aborted
    assert bad.slot == 0
    assert all(len(member.looks) == 2 for member in good)


def test_a_late_turn_looks_at_all_that_was_missed_in_order() -> None:
    wheel = Wheel(TICK)
    seen: list[int] = []

    class Noted(Member):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def look(self, now: int) -> int:
            seen.append(self.number)
            return 0

    for number in (3, 1, 2):
        wheel.put(Noted(number), 1000 + number * 200)
    wheel.turn(9000)
    assert seen == [1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3000)), max_size=40))
def test_every_member_is_looked_at_once_for_its_earliest_wish(puts: list[tuple[int, int]]) -> None:
    wheel, members = Wheel(TICK), [Member() for _ in range(6)]
    earliest: dict[int, int] = {}
    for index, when in puts:
        wheel.put(members[index], when)
        earliest[index] = min(when, earliest.get(index, when))
    for now in range(TICK, 3200, TICK):
        wheel.turn(now)
    for index, member in enumerate(members):
        assert member.looks == ([-(-earliest[index] // TICK) * TICK] if index in earliest else [])


def test_a_turn_looks_at_so_many_and_says_that_there_are_more() -> None:
    wheel, members = Wheel(TICK), [Member(250) for _ in range(2 * LOOKS + 1)]
    for n, member in enumerate(members):
        wheel.put(member, 1000 + n % 2 * TICK)

    def seen() -> int:
        return sum(len(member.looks) for member in members)

    assert wheel.turn(1100)
    assert seen() == LOOKS
    assert wheel.turn(1101)
    assert seen() == 2 * LOOKS
    assert not wheel.turn(1102)
    assert all(len(member.looks) == 1 for member in members)
    assert not wheel.turn(1200)
