import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.handover import REST, Policy, Verdict, decide, known, next_step, overdue, receive, rested
from gateway.model import ChainRow, Phase
from tests.engine.support import FAR, T0

POLICY = Policy(max_attempts=3, base=1000, cap=8000)


class Always:
    """Chance that always draws the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def random(self) -> float:
        return self._value


def opened(attempt: int = 1, *, channels: tuple[str, ...] = ("hook", "sms"), step: int = 0) -> ChainRow:
    """A row whose attempt is under way."""
    return ChainRow(
        7,
        "alice",
        list(channels),
        "offline",
        T0,
        int(Phase.OPEN),
        step,
        attempt=attempt,
        total=attempt,
        since=T0,
    )


def run(
    row: ChainRow,
    kind: str,
    *,
    retry_after: float = 0.0,
    policy: Policy = POLICY,
    expire: int = FAR,
    receipt: bool = False,
    late: bool = False,
) -> Verdict:
    return decide(row, kind, retry_after, policy, T0, expire, Always(0.5), receipt=receipt, late=late)


def standing(row: ChainRow) -> tuple[int, str, int, int]:
    return row.phase, row.channel, row.attempt, row.due


@pytest.mark.parametrize("kind", ["delivered", "accepted"])
def test_what_a_provider_took_ends_the_chain(kind: str) -> None:
    row = opened()
    assert run(row, kind) == Verdict.SATISFIED
    assert not row.burnt


@pytest.mark.parametrize(("attempt", "pause"), [(1, 500), (2, 1000)])
def test_a_retry_waits_at_the_same_step(attempt: int, pause: int) -> None:
    row = opened(attempt)
    assert run(row, "retry") == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "hook", attempt, T0 + pause)
    assert row.total == attempt
    assert not row.burnt


def test_the_pause_is_capped() -> None:
    row = opened(9)
    assert run(row, "retry", policy=Policy(max_attempts=10, base=1000, cap=8000)) == Verdict.AGAIN
    assert row.due == T0 + 4000


def test_a_receivers_wait_is_a_floor_above_the_cap() -> None:
    row = opened()
    assert run(row, "retry", retry_after=60.0) == Verdict.AGAIN
    assert row.due == T0 + 60_000 + 3000


def test_the_last_attempt_of_a_step_leads_to_the_next_channel_at_once() -> None:
    row = opened(3)
    assert run(row, "retry") == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "sms", 0, T0)
    assert row.total == 3


def test_the_last_attempt_of_the_last_step_exhausts_the_chain() -> None:
    row = opened(3, step=1)
    assert run(row, "retry") == Verdict.EXHAUSTED
    assert row.channel == "sms"


def test_a_refusal_leads_to_the_next_channel_whatever_attempts_are_left() -> None:
    row = opened(1)
    assert run(row, "refused") == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "sms", 0, T0)
    row.phase, row.attempt = int(Phase.OPEN), 1
    assert run(row, "refused") == Verdict.EXHAUSTED


@pytest.mark.parametrize(
    ("expire", "channel", "due"), [(T0 + 501, "hook", T0 + 500), (T0 + 500, "sms", T0), (T0 - 1, "sms", T0)]
)
def test_a_retry_that_could_only_start_after_the_messages_end_is_not_waited_for(
    expire: int, channel: str, due: int
) -> None:
    row = opened(1)
    assert run(row, "retry", expire=expire) == Verdict.AGAIN
    assert (row.channel, row.due) == (channel, due)


def test_a_retry_after_the_messages_end_at_the_last_step_exhausts_the_chain() -> None:
    row = opened(1, channels=("hook",))
    assert run(row, "retry", retry_after=3600.0, expire=T0 + 3_600_000) == Verdict.EXHAUSTED


# -- ambiguous ---------------------------------------------------------------------------------------------------------


def test_ambiguous_and_made_again() -> None:
    row = opened(1)
    assert run(row, "ambiguous") == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "hook", 1, T0 + 500)
    assert row.burnt


def test_ambiguous_and_made_again_as_often_as_any_other() -> None:
    row = opened(3)
    assert run(row, "ambiguous") == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "sms", 0, T0)
    assert row.burnt


def test_ambiguous_and_skipped() -> None:
    policy = Policy(max_attempts=3, on_ambiguous="next")
    row = opened(1)
    assert run(row, "ambiguous", policy=policy) == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "sms", 0, T0)
    assert row.burnt
    row.phase, row.attempt = int(Phase.OPEN), 1
    assert run(row, "ambiguous", policy=policy) == Verdict.EXHAUSTED


def test_ambiguous_and_the_end() -> None:
    row = opened(1)
    assert run(row, "ambiguous", policy=Policy(on_ambiguous="stop")) == Verdict.EXHAUSTED
    assert row.burnt
    assert row.channel == "hook"


def test_burnt_stays_burnt() -> None:
    row = opened(1)
    run(row, "ambiguous")
    row.phase, row.attempt = int(Phase.OPEN), 2
    assert run(row, "retry") == Verdict.AGAIN
    assert row.burnt


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_parked_row_goes_on_from_its_step() -> None:
    row = opened(2, step=0)
    row.phase = int(Phase.PARKED)
    assert next_step(row, T0 + 9) == Verdict.AGAIN
    assert standing(row) == (Phase.WAIT, "sms", 0, T0 + 9)
    assert next_step(row, T0 + 10) == Verdict.EXHAUSTED
    assert standing(row) == (Phase.WAIT, "sms", 0, T0 + 9)


@given(
    st.lists(st.sampled_from(["retry", "refused", "ambiguous"]), min_size=40, max_size=40),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(["retry", "next"]),
    st.integers(0, 2**32),
)
def test_every_chain_ends_and_never_goes_back(
    kinds: list[str], steps: int, attempts: int, on_ambiguous: str, seed: int
) -> None:
    policy = Policy(attempts, 1000, 8000, on_ambiguous)
    row = ChainRow(7, "alice", [f"c{n}" for n in range(steps)], "offline", T0)
    rng, now, made = random.Random(seed), T0, [0] * steps
    for kind in kinds:
        before = row.step
        row.phase, row.attempt, row.total = int(Phase.OPEN), row.attempt + 1, row.total + 1
        made[row.step] += 1
        verdict = decide(row, kind, 0.0, policy, now, FAR, rng)
        if verdict == Verdict.EXHAUSTED:
            break
        assert row.phase == Phase.WAIT
        assert row.step in {before, before + 1}
        assert now <= row.due <= now + 8000
        now = row.due
    else:
        pytest.fail("forty attempts are more than five steps of five")
    assert row.step == steps - 1
    assert all(1 <= n <= attempts for n in made)
    assert row.total == sum(made)


# -- receipts ----------------------------------------------------------------------------------------------------------


def asks(satisfied_by: str, **more: int) -> Policy:
    return Policy(
        max_attempts=3, base=1000, cap=8000, satisfied_by=satisfied_by, receipt_timeout=30_000, **more
    )


HOUR = 3_600_000


@pytest.mark.parametrize(
    ("kind", "satisfied_by", "receipt", "step", "verdict", "standing_"),
    [
        # the chain has ended with what the answer proves
        ("accepted", "accepted", False, 0, Verdict.SATISFIED, None),
        ("delivered", "accepted", False, 0, Verdict.SATISFIED, None),
        ("delivered", "accepted", True, 0, Verdict.SATISFIED, None),
        ("delivered", "delivered", False, 0, Verdict.SATISFIED, None),
        ("delivered", "delivered", True, 0, Verdict.SATISFIED, None),
        ("read", "read", True, 0, Verdict.SATISFIED, None),
        # it rests on the provider's word
        ("accepted", "accepted", True, 0, Verdict.RESTS, (3, "hook", 1, T0 + 72 * HOUR)),
        ("accepted", "accepted", True, 1, Verdict.RESTS, (3, "sms", 1, T0 + 72 * HOUR)),
        # it waits for what was asked for
        ("accepted", "delivered", True, 0, Verdict.RESTS, (3, "hook", 1, T0 + 30_000)),
        ("accepted", "read", True, 0, Verdict.RESTS, (3, "hook", 1, T0 + 30_000)),
        ("delivered", "read", True, 1, Verdict.RESTS, (3, "sms", 1, T0 + 30_000)),
        # which will never come
        ("accepted", "delivered", False, 0, Verdict.AGAIN, (0, "sms", 0, T0)),
        ("delivered", "read", False, 0, Verdict.AGAIN, (0, "sms", 0, T0)),
        # nothing failed, and nothing follows
        ("accepted", "delivered", False, 1, Verdict.SATISFIED, None),
        ("delivered", "read", False, 1, Verdict.SATISFIED, None),
        # known from a receipt that came before the answer
        ("failed", "accepted", True, 0, Verdict.AGAIN, (0, "sms", 0, T0)),
        ("failed", "delivered", True, 1, Verdict.EXHAUSTED, None),
    ],
)
def test_what_an_answer_leads_to(
    kind: str,
    satisfied_by: str,
    receipt: bool,
    step: int,
    verdict: Verdict,
    standing_: tuple[int, str, int, int] | None,
) -> None:
    row = opened(step=step)
    assert run(row, kind, policy=asks(satisfied_by), receipt=receipt) == verdict
    if standing_ is not None:
        assert standing(row) == standing_
    # what a provider had is not given back
    assert row.burnt is (kind == "failed")


def test_the_rest_is_short_for_who_gets_the_message_late() -> None:
    row = opened()
    assert run(row, "accepted", policy=asks("accepted"), receipt=True, late=True) == Verdict.RESTS
    assert row.due == T0 + 30_000


def test_the_rest_is_three_days() -> None:
    assert REST == 72 * HOUR


def resting(step: int = 0, *, phase: Phase = Phase.RECEIPT, attempt: int = 1, total: int = 2) -> ChainRow:
    channels = ["hook", "sms"]
    return ChainRow(
        7, "alice", channels, "offline", T0 + 30_000, int(phase), step, attempt, total, since=T0 - 5
    )


STAYS = (3, "hook", 1, T0 + 30_000)


@pytest.mark.parametrize(
    ("status", "satisfied_by", "step", "verdict", "standing_"),
    [
        ("accepted", "accepted", 0, None, STAYS),
        ("", "accepted", 0, None, STAYS),
        ("delivered", "accepted", 0, Verdict.SATISFIED, STAYS),
        ("read", "accepted", 0, Verdict.SATISFIED, STAYS),
        ("failed", "accepted", 0, Verdict.AGAIN, (0, "sms", 0, T0)),
        ("failed", "accepted", 1, Verdict.EXHAUSTED, None),
        ("accepted", "delivered", 0, None, STAYS),
        ("delivered", "delivered", 0, Verdict.SATISFIED, STAYS),
        ("read", "delivered", 0, Verdict.SATISFIED, STAYS),
        ("failed", "delivered", 0, Verdict.AGAIN, (0, "sms", 0, T0)),
        ("failed", "delivered", 1, Verdict.EXHAUSTED, None),
        ("delivered", "read", 0, None, STAYS),
        ("read", "read", 0, Verdict.SATISFIED, STAYS),
        ("failed", "read", 1, Verdict.EXHAUSTED, None),
    ],
)
def test_a_receipt_of_what_rests(
    status: str,
    satisfied_by: str,
    step: int,
    verdict: Verdict | None,
    standing_: tuple[int, str, int, int] | None,
) -> None:
    row = resting(step)
    assert receive(row, 2, status, asks(satisfied_by), T0, FAR) == verdict
    if standing_ is not None:
        assert standing(row) == standing_
    if verdict == Verdict.AGAIN:
        assert row.since == T0


def test_a_failure_after_the_messages_end_starts_nothing() -> None:
    assert receive(resting(), 2, "failed", asks("accepted"), T0, T0) == Verdict.EXHAUSTED


@pytest.mark.parametrize("phase", [Phase.WAIT, Phase.OPEN, Phase.RECEIPT])
@pytest.mark.parametrize(
    ("status", "satisfied_by", "verdict"),
    [
        ("delivered", "accepted", Verdict.SATISFIED),
        ("delivered", "delivered", Verdict.SATISFIED),
        ("read", "read", Verdict.SATISFIED),
        ("delivered", "read", None),
        ("accepted", "accepted", None),
        ("failed", "accepted", None),
    ],
)
def test_a_late_receipt_of_an_earlier_step(
    phase: Phase, status: str, satisfied_by: str, verdict: Verdict | None
) -> None:
    row = resting(1, phase=phase)
    assert receive(row, 1, status, asks(satisfied_by), T0, FAR) == verdict
    assert standing(row) == (phase, "sms", 1, T0 + 30_000)


@pytest.mark.parametrize(
    ("status", "satisfied_by", "attempt", "verdict", "standing_"),
    [
        # its answer was lost: it is to be made again, unless its provider says that it has it
        ("accepted", "accepted", 1, Verdict.RESTS, (3, "sms", 1, T0 + 72 * HOUR)),
        ("accepted", "delivered", 1, Verdict.RESTS, (3, "sms", 1, T0 + 30_000)),
        ("delivered", "read", 1, Verdict.RESTS, (3, "sms", 1, T0 + 30_000)),
        ("failed", "accepted", 1, Verdict.EXHAUSTED, None),
        # the chain has gone on to a step at which nothing was tried yet
        ("accepted", "accepted", 0, Verdict.RESTS, (3, "sms", 0, T0 + 72 * HOUR)),
        ("accepted", "delivered", 0, None, (0, "sms", 0, T0 + 30_000)),
        ("failed", "accepted", 0, None, (0, "sms", 0, T0 + 30_000)),
    ],
)
def test_a_receipt_of_what_nobody_knew(
    status: str,
    satisfied_by: str,
    attempt: int,
    verdict: Verdict | None,
    standing_: tuple[int, str, int, int] | None,
) -> None:
    row = resting(1, phase=Phase.WAIT, attempt=attempt)
    assert receive(row, 2, status, asks(satisfied_by), T0, FAR) == verdict
    if standing_ is not None:
        assert standing(row) == standing_


def test_what_rests_on_an_earlier_steps_word_goes_on_where_it_stood() -> None:
    row = resting(1, attempt=0)
    assert receive(row, 2, "failed", asks("accepted"), T0, FAR) == Verdict.AGAIN
    assert standing(row) == (0, "sms", 0, T0)
    row = resting(1, attempt=0)
    assert receive(row, 2, "failed", asks("accepted"), T0, T0) == Verdict.EXHAUSTED
    assert rested(resting(1, attempt=0), asks("delivered"), T0, FAR) == Verdict.SATISFIED


@pytest.mark.parametrize("status", ["accepted", "failed", ""])
def test_an_attempt_under_way_counts_with_its_outcome(status: str) -> None:
    row = resting(phase=Phase.OPEN)
    assert receive(row, 2, status, asks("accepted"), T0, FAR) is None
    assert standing(row) == (1, "hook", 1, T0 + 30_000)


@pytest.mark.parametrize(
    ("satisfied_by", "step", "expire", "verdict"),
    [
        ("accepted", 0, FAR, Verdict.SATISFIED),
        ("accepted", 1, FAR, Verdict.SATISFIED),
        ("delivered", 0, FAR, Verdict.AGAIN),
        ("delivered", 1, FAR, Verdict.SATISFIED),
        ("delivered", 0, T0, Verdict.SATISFIED),
        ("read", 0, FAR, Verdict.AGAIN),
    ],
)
def test_no_receipt_came(satisfied_by: str, step: int, expire: int, verdict: Verdict) -> None:
    row = resting(step)
    assert rested(row, asks(satisfied_by), T0, expire) == verdict
    if verdict == Verdict.AGAIN:
        assert (standing(row), row.since) == ((0, "sms", 0, T0), T0)


@pytest.mark.parametrize(
    ("kind", "receipts", "expected"),
    [
        ("retry", [], "retry"),
        ("ambiguous", ["accepted"], "accepted"),
        ("accepted", ["accepted", "failed"], "failed"),
        ("refused", ["failed", "delivered"], "delivered"),
        ("ambiguous", ["read", "delivered"], "read"),
        ("accepted", [""], "accepted"),
    ],
)
def test_what_receipts_prove_that_came_before_the_answer(
    kind: str, receipts: list[str], expected: str
) -> None:
    assert known(kind, receipts) == expected


# -- how long a step may take ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "step", "channel", "due"),
    [(500, 0, "hook", T0 + 500), (499, 0, "sms", T0), (499, 1, "sms", T0 + 500), (0, 0, "hook", T0 + 500)],
)
def test_a_retry_that_outlasts_its_step_leads_to_the_next(
    limit: int, step: int, channel: str, due: int
) -> None:
    row = opened(1, step=step)
    assert run(row, "retry", policy=asks("accepted", step_timeout=limit)) == Verdict.AGAIN
    assert (row.channel, row.due) == (channel, due)


@pytest.mark.parametrize(("limit", "step", "due"), [(9000, 0, 9000), (9000, 1, 30_000), (40_000, 0, 30_000)])
def test_a_receipt_is_not_waited_for_beyond_the_step(limit: int, step: int, due: int) -> None:
    row = opened(step=step)
    policy = asks("delivered", step_timeout=limit)
    assert run(row, "accepted", policy=policy, receipt=True) == Verdict.RESTS
    assert row.due == T0 + due


def test_what_satisfies_is_not_cut_short() -> None:
    row = opened()
    run(row, "accepted", policy=asks("accepted", step_timeout=9000), receipt=True)
    assert row.due == T0 + REST


def test_a_wait_for_room_outlasts_a_step() -> None:
    policy = asks("accepted", step_timeout=9000)
    row = resting(phase=Phase.WAIT)
    assert [overdue(row, policy, T0 - 5 + after) for after in (0, 9000, 9001)] == [False, False, True]
    assert not overdue(resting(1, phase=Phase.WAIT), policy, T0 + 90_000)
    assert not overdue(row, asks("accepted"), T0 + 90_000)
    row.since = 0
    assert not overdue(row, policy, T0 + 90_000)
