import pytest

from gateway.engine.breaker import LOOK, Breaker, State

START = 5_000
PAUSE = 30_000
MOST = 8


def make(failures: int = 3) -> Breaker:
    return Breaker(failures, PAUSE, MOST)


def fail(breaker: Breaker, now: int, times: int = 3) -> None:
    for _ in range(times):
        assert not breaker.end(breaker.begin(), False, now)


def opened() -> Breaker:
    breaker = make()
    fail(breaker, START)
    return breaker


def tried(good: bool | None) -> Breaker:
    """One that was open, and the attempt that tried it has ended so."""
    breaker = opened()
    assert breaker.end(breaker.begin(), good, START + PAUSE) is (good is True)
    return breaker


def test_nothing_is_wrong() -> None:
    breaker = make()
    assert (breaker.state(START), breaker.shut(START)) == (State.CLOSED, 0)
    assert [breaker.room(START, n) for n in (0, 7, 8, 9)] == [8, 1, 0, 0]


def test_so_many_failures_in_a_row_open_it() -> None:
    breaker = make()
    fail(breaker, START, 2)
    assert breaker.state(START) == State.CLOSED
    fail(breaker, START, 1)
    assert breaker.state(START) == State.OPEN
    assert [breaker.shut(START + later) for later in (0, 10_000, PAUSE - 1)] == [PAUSE, 20_000, 1]
    assert breaker.room(START, 0) == 0


@pytest.mark.parametrize(("between", "state"), [(True, State.CLOSED), (None, State.OPEN)])
def test_in_a_row_means_without_a_success_between(between: bool | None, state: State) -> None:
    breaker = make()
    fail(breaker, START, 2)
    breaker.end(breaker.begin(), between, START)
    fail(breaker, START, 1)
    assert breaker.state(START) == state


def test_exactly_one_attempt_tries_it() -> None:
    breaker = opened()
    now = START + PAUSE
    assert (breaker.state(now), breaker.shut(now), breaker.room(now, 0)) == (State.HALF_OPEN, 0, 1)
    # others that began before it opened are no matter
    assert breaker.room(now, 5) == 1
    breaker.begin()
    assert (breaker.shut(now), breaker.room(now, 1)) == (LOOK, 0)


def test_a_failed_trial_opens_it_again() -> None:
    breaker = tried(False)
    assert (breaker.state(START + PAUSE), breaker.shut(START + PAUSE)) == (State.OPEN, PAUSE)


def test_a_trial_that_tells_nothing_leaves_it_to_the_next() -> None:
    breaker = tried(None)
    assert (breaker.state(START + PAUSE), breaker.room(START + PAUSE, 0)) == (State.HALF_OPEN, 1)


def test_after_a_success_the_attempts_at_once_double_round_by_round() -> None:
    breaker = tried(True)
    now = START + PAUSE
    assert breaker.state(now) == State.CLOSED
    widths = []
    for _ in range(4):
        width = breaker.room(now, 0)
        widths.append(width)
        for begun in [breaker.begin() for _ in range(width)]:
            breaker.end(begun, True, now)
    assert widths == [2, 4, 8, 8]


def test_a_failure_on_the_way_up_begins_anew() -> None:
    breaker = tried(True)
    now = START + PAUSE
    for good, room in [(True, 2), (True, 4), (False, 1), (True, 2), (None, 2)]:
        breaker.end(breaker.begin(), good, now)
        assert breaker.room(now, 0) == room


def test_a_single_failure_with_all_well_narrows_nothing() -> None:
    breaker = make()
    fail(breaker, START, 1)
    assert breaker.room(START, 0) == MOST


def test_a_rest_for_another_reason_is_followed_by_one_at_once_too() -> None:
    breaker = make()
    breaker.slowly()
    assert breaker.room(START, 0) == 1


@pytest.mark.parametrize("good", [True, False, None])
def test_what_began_before_it_opened_counts_no_more(good: bool | None) -> None:
    breaker = make()
    old = breaker.begin()
    fail(breaker, START)
    assert not breaker.end(old, good, START + 10)
    assert breaker.shut(START + 10) == PAUSE - 10
    # nor may it end the trial of another
    breaker.begin()
    assert not breaker.end(old, good, START + PAUSE)
    assert breaker.shut(START + PAUSE) == LOOK
