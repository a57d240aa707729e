"""Token buckets: the arithmetic, against a naive model in fractions; the bound on keys."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.limits import RateLimiter, peer_key

T0 = 1_800_000_000_000


class NaiveBucket:
    """Tokens as a fraction, filled up by the clock."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate, self.burst = rate / 1000, burst
        self.tokens, self.at = Fraction(burst), T0

    def take(self, n: int, now: int) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < min(n, self.burst):
            return False
        self.tokens -= n
        return True


rates = st.integers(1, 5_000_000).map(lambda thousandths: Fraction(thousandths, 1000))
steps = st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 40)), max_size=60)


@given(rates, st.integers(1, 30), steps)
def test_it_grants_exactly_what_a_bucket_of_fractions_grants(
    rate: Fraction, burst: int, takes: list[tuple[int, int]]
) -> None:
    limiter, naive, now = RateLimiter(float(rate), burst), NaiveBucket(rate, burst), T0
    for pause, n in takes:
        now += pause
        assert (limiter.take("k", n, now) == 0) is naive.take(n, now)


@given(rates, st.integers(1, 30), steps)
def test_the_wait_is_the_shortest_that_works(
    rate: Fraction, burst: int, takes: list[tuple[int, int]]
) -> None:
    limiter, now = RateLimiter(float(rate), burst), T0
    for pause, n in takes:
        now += pause
        wait = limiter.take("k", n, now)
        if wait:
            assert 0 < limiter.take("k", n, now + wait - 1) <= 1
            now += wait
            assert limiter.take("k", n, now) == 0


@given(rates, st.integers(1, 30), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 5)), max_size=80))
def test_no_window_sees_more_than_burst_and_rate(
    rate: Fraction, burst: int, takes: list[tuple[int, int]]
) -> None:
    limiter, now = RateLimiter(float(rate), burst), T0
    granted: list[tuple[int, int]] = []
    for pause, n in takes:
        now += pause
        if limiter.take("k", min(n, burst), now) == 0:
            granted.append((now, min(n, burst)))
    for i, (start, _) in enumerate(granted):
        total = 0
        for at, n in granted[i:]:
            total += n
            assert total <= burst + rate * (at - start) / 1000


def test_a_batch_above_the_burst_passes_once_and_is_owed() -> None:
    limiter = RateLimiter(10, 5)
    assert limiter.take("k", 25, T0) == 0
    # 25 owed of a burst of 5: the next single one has to wait for 21 tokens
    assert limiter.take("k", 1, T0) == 2100
    assert limiter.take("k", 1, T0 + 2100) == 0


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(1, 1)
    assert limiter.take("a", 1, T0) == 0
    assert limiter.take("b", 1, T0) == 0
    assert limiter.take("a", 1, T0) == 1000


def test_a_refused_take_costs_nothing() -> None:
    limiter = RateLimiter(1, 1)
    limiter.take("a", 1, T0)
    assert [limiter.take("a", 1, T0) for _ in range(5)] == [1000] * 5


def test_a_clock_that_stands_or_steps_back_grants_nothing_new() -> None:
    limiter = RateLimiter(1, 2)
    assert limiter.take("a", 2, T0) == 0
    assert limiter.take("a", 1, T0 - 500) == 1500


@pytest.mark.parametrize(("rate", "burst", "keys"), [(0, 1, 1), (0.0001, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_must_be_positive(rate: float, burst: int, keys: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        RateLimiter(rate, burst, keys)


keyed = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 1500), st.integers(1, 3)), max_size=80
)


@given(keyed, st.integers(1, 6))
def test_the_number_of_keys_is_bounded_and_the_smallest_debt_goes(
    takes: list[tuple[str, int, int]], max_keys: int
) -> None:
    """With enough room for every key as the reference: a key is dropped only if no other owed less."""
    limiter, now = RateLimiter(1, 3, max_keys), T0
    for key, pause, n in takes:
        now += pause
        before = dict(limiter._full_at)
        granted = limiter.take(key, n, now) == 0
        after = limiter._full_at
        assert len(limiter) <= max_keys
        gone = before.keys() - after.keys()
        if not granted or key in before or len(before) < max_keys:
            assert not gone
        else:
            (dropped,) = gone
            assert before[dropped] == min(before.values())
        assert len(limiter._heap) == len(after)


def test_a_full_bucket_makes_room_before_a_busy_one() -> None:
    limiter = RateLimiter(1, 10, max_keys=2)
    limiter.take("idle", 1, T0)
    limiter.take("busy", 10, T0)
    # a second later `idle` is full again, however long ago `busy` was seen
    assert limiter.take("new", 1, T0 + 1000) == 0
    assert set(limiter._full_at) == {"busy", "new"}


def test_who_is_far_over_cannot_wash_it_off_with_fresh_keys() -> None:
    limiter = RateLimiter(1, 10, max_keys=50)
    limiter.take("hog", 10, T0)
    for i in range(1000):
        limiter.take(f"fresh-{i}", 1, T0)
    assert limiter.take("hog", 1, T0) > 0
    assert len(limiter) == 50


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "local"),
        ("/run/gateway.sock", "local"),
    ],
)
def test_peers_are_counted_by_what_one_customer_has(host: str, key: str) -> None:
    assert peer_key(host) == key
