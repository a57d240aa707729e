import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.handover import Policy, Verdict, decide, next_step
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
        7, "alice", list(channels), "offline", T0, int(Phase.OPEN), step, attempt=attempt, total=attempt
    )


def run(
    row: ChainRow, kind: str, *, retry_after: float = 0.0, policy: Policy = POLICY, expire: int = FAR
) -> Verdict:
    return decide(row, kind, retry_after, policy, T0, expire, Always(0.5))


def standing(row: ChainRow) -> tuple[int, str, int, int]:
    return row.phase, row.channel, row.attempt, row.due


@pytest.mark.parametrize("kind", ["delivered", "accepted"])
def test_what_a_provider_took_ends_the_chain(kind: str) -> None:
    row = opened()
    assert run(row, kind) == Verdict.DELIVERED
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
