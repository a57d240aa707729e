import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.backoff import ack_wait, full_jitter

LAST = 1 - 2**-53  # the greatest number random() gives


class Draws:
    """Chance that was decided beforehand."""

    def __init__(self, draws: Iterable[float]) -> None:
        self._draws = iter(draws)

    def random(self) -> float:
        return next(self._draws)


@pytest.mark.parametrize(
    ("attempt", "ceiling"),
    [(1, 1000), (2, 2000), (3, 4000), (8, 128_000), (9, 256_000), (10, 300_000), (1000, 300_000), (0, 1000)],
)
def test_full_jitter_doubles_its_ceiling_to_the_cap(attempt: int, ceiling: int) -> None:
    assert full_jitter(Draws([0.0]), 1000, 300_000, attempt) == 0
    assert full_jitter(Draws([0.5]), 1000, 300_000, attempt) == ceiling // 2
    assert full_jitter(Draws([LAST]), 1000, 300_000, attempt) == ceiling


def test_full_jitter_above_the_floor_is_left_as_drawn() -> None:
    assert full_jitter(Draws([0.5]), 1000, 300_000, 6, floor_ms=16_000) == 16_000
    assert full_jitter(Draws([0.75]), 1000, 300_000, 6, floor_ms=16_000) == 24_000


def test_what_is_drawn_below_the_floor_is_spread_above_it() -> None:
    assert full_jitter(Draws([0.0, 0.0]), 1000, 300_000, 1, floor_ms=30_000) == 30_000
    assert full_jitter(Draws([0.9, LAST]), 1000, 300_000, 1, floor_ms=30_000) == 33_000
    assert full_jitter(Draws([0.0, LAST]), 1000, 300_000, 1, floor_ms=2000) == 3000


def test_a_floor_is_not_capped() -> None:
    assert full_jitter(Draws([LAST, 0.0]), 1000, 5000, 9, floor_ms=60_000) == 60_000


def test_equal_floors_do_not_come_back_together() -> None:
    rng = random.Random(7)
    assert len({full_jitter(rng, 1000, 300_000, 1, floor_ms=60_000) for _ in range(100)}) > 90


@given(
    st.integers(0, 2**32),
    st.integers(1, 10**8),
    st.integers(0, 10**8),
    st.integers(1, 10**6),
    st.integers(0, 10**8),
)
def test_full_jitter_stays_within_its_bounds(
    seed: int, base: int, more: int, attempt: int, floor: int
) -> None:
    pause = full_jitter(random.Random(seed), base, base + more, attempt, floor)
    assert floor <= pause <= max(base + more, floor + max(base, floor // 10))


@pytest.mark.parametrize(
    ("tries", "low", "high"),
    [
        (0, 9000, 11_000),
        (1, 18_000, 22_000),
        (2, 36_000, 44_000),
        (3, 54_000, 60_000),
        (10_000, 54_000, 60_000),
    ],
)
def test_ack_wait_doubles_to_the_cap(tries: int, low: int, high: int) -> None:
    assert ack_wait(Draws([0.0]), 10_000, 60_000, tries) == low
    assert ack_wait(Draws([LAST]), 10_000, 60_000, tries) == high


def test_ack_wait_near_the_cap_stays_below_it() -> None:
    assert ack_wait(Draws([LAST]), 29_000, 60_000, 1) == 60_000
    assert ack_wait(Draws([0.0]), 29_000, 60_000, 1) == 52_200


def test_the_same_seed_waits_the_same() -> None:
    first, second = random.Random(3), random.Random(3)
    assert [full_jitter(first, 1000, 60_000, n, 500) for n in range(20)] == [
        full_jitter(second, 1000, 60_000, n, 500) for n in range(20)
    ]
    assert [ack_wait(first, 1000, 60_000, n) for n in range(20)] == [
        ack_wait(second, 1000, 60_000, n) for n in range(20)
    ]
