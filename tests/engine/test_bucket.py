from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.bucket import Addresses, Bucket, Rest

START = 5_000


def gone(bucket: Bucket, times: range) -> list[int]:
    """When attempts went, by somebody who always has more and looks at these times."""
    out = []
    for now in times:
        while bucket.room(now, 1000):
            bucket.take(now)
            out.append(now)
    return out


def test_a_rate_of_0_is_no_limit() -> None:
    bucket = Bucket(0, 1, START)
    assert (bucket.room(START, 64), bucket.wait(START)) == (64, 0)
    bucket.take(START)
    bucket.drain(START)
    assert (bucket.room(START, 64), bucket.wait(START)) == (64, 0)


def test_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(2, 3, START)
    assert bucket.room(START, 64) == 3
    assert bucket.room(START, 2) == 2
    assert gone(bucket, range(START, START + 2001)) == [START] * 3 + [START + 500 * n for n in (1, 2, 3, 4)]


def test_it_says_when_there_is_room() -> None:
    bucket = Bucket(2, 1, START)
    assert bucket.wait(START) == 0
    bucket.take(START)
    assert bucket.wait(START) == 500
    assert bucket.wait(START + 200) == 300
    assert (bucket.wait(START + 499), bucket.room(START + 499, 9)) == (1, 0)
    assert (bucket.wait(START + 500), bucket.room(START + 500, 9)) == (0, 1)


def test_what_was_saved_can_be_taken_away() -> None:
    bucket = Bucket(10, 50, START)
    bucket.drain(START)
    assert (bucket.room(START, 64), bucket.wait(START)) == (0, 100)
    bucket.take(START)
    bucket.take(START)
    bucket.drain(START)  # a debt stays
    assert bucket.wait(START) == 300


def test_a_high_rate_is_reached_by_who_looks_every_20_ms() -> None:
    bucket = Bucket(1000, 1, START)
    assert len(gone(bucket, range(START, START + 10_000, 20))) == 10_000


@given(
    rate=st.floats(0.1, 5000),
    burst=st.integers(1, 300),
    pauses=st.lists(st.integers(1, 1500), min_size=1, max_size=60),
)
def test_in_no_second_are_there_more_than_rate_and_burst(rate: float, burst: int, pauses: list[int]) -> None:
    bucket = Bucket(rate, burst, START)
    now, times = START, []
    for pause in pauses:
        now += pause
        if wait := bucket.wait(now):
            assert bucket.room(now, 10_000) == 0
            assert bucket.room(now + wait, 10_000) == 1 or rate > 1000
            now += wait
        times += gone(bucket, range(now, now + 1))
    bound = rate + max(burst, rate / 50) + 1e-3
    for first in range(len(times)):
        second = [t for t in times[first:] if t < times[first] + 1000]
        assert len(second) <= bound


# -- rests ------------------------------------------------------------------------------------------------------------


def test_the_longest_rest_counts() -> None:
    rest = Rest()
    assert rest.left(START) == 0
    rest.ask(START, 30_000)
    rest.ask(START + 1000, 5000)
    assert rest.left(START + 2000) == 28_000
    rest.ask(START + 3000, 30_000)
    assert (rest.left(START + 32_999), rest.left(START + 33_000)) == (1, 0)


def test_a_rest_of_no_length_doubles_until_something_goes_through() -> None:
    rest = Rest()
    now, lengths = START, []
    for _ in range(8):
        rest.ask(now, 0)
        rest.ask(now + 10, 0)  # who was under way at the same time
        lengths.append(rest.left(now))
        now += rest.left(now)
    assert lengths == [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
    rest.went_through()
    rest.ask(now, 0)
    assert rest.left(now) == 1000


# -- addresses --------------------------------------------------------------------------------------------------------


def test_without_a_limit_nothing_is_known_of_addresses() -> None:
    addresses = Addresses(0)
    assert [addresses.admit("a", START) for _ in range(9)] == [0] * 9
    assert len(addresses) == 0


def test_each_address_has_its_own_rate_and_who_waits_gets_a_time_of_its_own() -> None:
    addresses = Addresses(2)
    assert [addresses.admit("a", START) for _ in range(4)] == [0, 500, 1000, 1500]
    assert addresses.admit("b", START) == 0
    # each of them asks again when its time has come
    assert [addresses.admit("a", START + wait) for wait in (500, 1000, 1500)] == [0, 0, 0]
    assert addresses.admit("a", START + 1600) == 400


def test_full_addresses_are_forgotten() -> None:
    addresses = Addresses(1)
    for n in range(1000):
        assert addresses.admit(f"a{n}", START + n) == 0
    assert len(addresses) == 1000
    assert addresses.admit("b", START + 1500) == 0
    assert len(addresses) == 500
    assert addresses.admit("b", START + 9000) == 0
    assert len(addresses) == 1


def test_one_for_which_others_wait_is_not_forgotten_before_them() -> None:
    addresses = Addresses(1)
    assert [addresses.admit("a", START) for _ in range(3)] == [0, 1000, 2000]
    assert addresses.admit("b", START + 1500) == 0
    # a's own time has come, but somebody has the next one
    assert addresses.admit("a", START + 1600) == 0
    assert addresses.admit("a", START + 1600) == 1400
    assert len(addresses) == 2


def test_their_number_is_bounded() -> None:
    addresses = Addresses(1, most=3)
    assert [addresses.admit(a, START + n) for n, a in enumerate("abc")] == [0, 0, 0]
    assert addresses.admit("d", START + 10) == 990
    assert addresses.admit("a", START + 10) == 990
    assert addresses.admit("d", START + 1001) == 0
    assert len(addresses) == 3


def test_a_pause_is_of_one_address_with_a_rate_and_without() -> None:
    for addresses in (Addresses(0), Addresses(100)):
        addresses.pause("a", START, 60_000)
        addresses.pause("a", START + 5, 1000)  # a shorter one changes nothing
        assert addresses.admit("a", START + 10) == 59_990
        assert addresses.admit("b", START + 10) == 0
        assert addresses.admit("a", START + 60_000) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=80), st.sampled_from([1, 5, 50]))
def test_no_address_has_two_within_its_gap(asked: list[tuple[int, int]], rate: int) -> None:
    addresses = Addresses(rate)
    now, went = START, {address: [-100_000] for address in "abcd"}
    for which, pause in asked:
        now += pause
        address = "abcd"[which]
        if addresses.admit(address, now) == 0:
            went[address] = [*went[address], now]
    for times in went.values():
        assert all(b - a >= 1000 // rate for a, b in pairwise(times))
