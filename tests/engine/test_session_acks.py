"""The ack timer of a session: on the lowest unsettled seq, while the connection stands."""

import pytest

from gateway.engine.states import Half, Input, Rules
from gateway.model import Hold, Kind
from tests.engine.support import OFFLINE, T0, bind, live

RULES = Rules(window=4, ack_wait=10_000, ack_wait_max=60_000, expiry=600_000, heads=8, heads_bytes=1000)


# -- the ack timer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "wait"), [(0.0, 9000), (0.5, 10_000), (0.999999, 11_000)])
def test_the_timer_of_a_connection_has_its_jitter(half: float, wait: int) -> None:
    session = live(RULES, half=half)
    bind(session, 11)
    session.take(session.ack_from)
    assert session.ack_due() == session.next_deadline() == T0 + wait
    assert session.ack_due() == T0 + wait


@pytest.mark.parametrize(("tries", "wait"), [(0, 10_000), (1, 20_000), (2, 40_000), (3, 57_000), (9, 57_000)])
@pytest.mark.parametrize("kind", list(Kind))
def test_the_timer_doubles_with_each_timeout(kind: Kind, tries: int, wait: int) -> None:
    session = live(RULES)
    bound = bind(session, 11, kind=Kind.STATUS if kind == Kind.GAP else kind)[0]
    if kind == Kind.GAP:
        bound = session.window.to_gap(bound, "dead", "")
    session.take(session.ack_from)
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
    session.take(session.ack_from)
    assert session.ack_due() == T0 + 10_000
    session.lost(T0 + 1, OFFLINE)
    assert session.ack_due() == 0


def test_the_timer_of_a_message_that_finds_the_window_empty_starts_with_it() -> None:
    session = live(RULES)
    bind(session, 11, now=T0)
    session.acked_to(1, T0 + 4000)
    bind(session, 12, now=T0 + 50_000)
    bind(session, 13, now=T0 + 55_000)
    session.take(session.ack_from)
    assert session.ack_due() == T0 + 60_000


def test_settling_the_lowest_restarts_the_timer_and_settling_another_does_not() -> None:
    session = live(RULES, limit=8)
    bind(session, 11, 12, 13, 14)
    session.take(session.ack_from)
    session.acked_each([2], T0 + 3000)
    session.acked_each([4], T0 + 4000)
    assert session.ack_due() == T0 + 10_000
    session.acked_each([1], T0 + 5000)
    assert session.ack_due() == T0 + 15_000
    session.acked_to(2, T0 + 6000)
    assert session.ack_due() == T0 + 15_000
    bind(session, 15, now=T0 + 7000)
    session.take(session.ack_from)
    session.acked_to(3, T0 + 8000)
    assert session.ack_due() == T0 + 18_000


def test_working_restarts_the_timer_of_the_lowest_alone() -> None:
    session = live(RULES)
    bind(session, 11, 12)
    session.take(session.ack_from)
    session.working(2, T0 + 3000)
    assert session.ack_due() == T0 + 10_000
    session.working(1, T0 + 4000)
    assert session.ack_due() == T0 + 14_000
    session.acked_each([1], T0 + 5000)
    session.working(1, T0 + 6000)
    assert session.ack_due() == T0 + 15_000


def test_the_timer_passes_over_what_a_chain_has() -> None:
    session = live(RULES)
    first, second = bind(session, 11, 12)
    session.take(session.ack_from)
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
    session.take(session.ack_from)
    claimed.hold = int(Hold.CLAIMED)
    bind(session, 12, now=T0 + 100_000)
    session.take(session.ack_from)
    assert session.ack_due() == T0 + 110_000
    bind(session, 13, now=T0 + 101_000)
    session.take(session.ack_from)
    session.acked_each([2], T0 + 105_000)
    assert session.ack_due() == T0 + 115_000


def test_settling_a_claimed_one_does_not_restart_the_timer_of_another() -> None:
    session = live(RULES)
    first, second, third = bind(session, 11, 12, 13)
    session.take(session.ack_from)
    first.hold = second.hold = int(Hold.CLAIMED)
    session.acked_each([1], T0 + 3000)
    session.acked_to(2, T0 + 4000)
    assert session.window.lowest() is third
    assert session.ack_due() == T0 + 10_000


def test_a_welcome_starts_the_timer_of_what_was_bound_before() -> None:
    session = live(RULES)
    bind(session, 11)
    session.take(session.ack_from)
    session.lost(T0 + 1000, OFFLINE)
    session.feed(Input.HELLO)
    session.welcomed(T0 + 70_000, 4, 0.0)
    session.take(session.ack_from)
    assert session.ack_due() == T0 + 79_000


def test_half_says_what_it_was_told() -> None:
    assert Half().random() == 0.5
    assert Half(0.25).random() == 0.25
