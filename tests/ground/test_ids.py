"""Message ids: 13 characters, in order, never twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ids import COUNTER_BITS, MAX_ID, NODE_BITS, TIME_SHIFT, IdMaker, decode_id, encode_id, id_text


def id_at(ms: int) -> int:
    """The lowest id that could have been made at `ms`."""
    return ms << TIME_SHIFT


def id_time(value: int) -> int:
    """The ms that an id carries."""
    return value >> TIME_SHIFT


ids = st.integers(0, MAX_ID)
instants = st.integers(1_700_000_000_000, 1_900_000_000_000)
nodes = st.integers(0, (1 << NODE_BITS) - 1)


@given(ids)
def test_round_trip(value: int) -> None:
    text = encode_id(value)
    assert len(text) == 13
    assert decode_id(text) == value
    assert decode_id(text.lower()) == value


def test_text_of_more_than_are_remembered() -> None:
    values = [id_at(ms) + n for ms in range(1000) for n in (0, 1)]
    assert [decode_id(id_text(value).decode()) for value in values * 2] == values * 2


@given(ids, ids)
def test_text_sorts_as_numbers_do(a: int, b: int) -> None:
    assert (encode_id(a) < encode_id(b)) == (a < b)


def test_literal_ids() -> None:
    assert encode_id(0) == "0000000000000"
    assert encode_id(MAX_ID) == "7ZZZZZZZZZZZZ"
    assert encode_id(32) == "0000000000010"


def test_what_crockford_reads_alike() -> None:
    assert decode_id("00000000000oO") == 0
    assert decode_id("000000000iIlL") == decode_id("0000000001111")


@pytest.mark.parametrize(
    "text", ["", "0", "0" * 12, "0" * 14, "000000000000U", "000000000000-", "000000000000é", "8" + "0" * 12]
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="a message id"):
        decode_id(text)


@given(st.text(max_size=16))
def test_any_text_is_an_id_or_a_value_error(text: str) -> None:
    try:
        value = decode_id(text)
    except ValueError:
        return
    assert 0 <= value <= MAX_ID
    assert len(text) == 13


@given(instants, nodes)
def test_an_id_tells_its_time(now: int, node: int) -> None:
    made = IdMaker(node).next(now)
    assert id_time(made) == now
    assert id_at(now) <= made < id_at(now + 1)


@given(st.lists(instants, min_size=2, max_size=50), nodes, ids.filter(lambda i: i < id_at(1_800_000_000_000)))
def test_ids_only_grow_whatever_the_clock_does(clock: list[int], node: int, floor: int) -> None:
    maker = IdMaker(node, floor)
    made = [maker.next(now) for now in clock]
    assert made == sorted(set(made))
    assert made[0] > floor
    assert {(i >> COUNTER_BITS) & 0x3F for i in made} == {node}


@given(instants, nodes, st.integers(0, (1 << NODE_BITS) - 1))
def test_a_full_counter_borrows_the_next_millisecond(now: int, node: int, other: int) -> None:
    last_of_now = id_at(now) | other << COUNTER_BITS | (1 << COUNTER_BITS) - 1
    maker = IdMaker(node, floor=last_of_now)
    made = maker.next(now)
    assert made > last_of_now
    assert id_time(made) == (now if node > other else now + 1)
    assert (made >> COUNTER_BITS) & 0x3F == node


@given(instants, nodes)
def test_makers_of_different_nodes_never_meet(now: int, node: int) -> None:
    one, two = IdMaker(node), IdMaker((node + 1) % (1 << NODE_BITS))
    first = {one.next(now) for _ in range(100)}
    assert first.isdisjoint(two.next(now) for _ in range(100))


def test_a_raised_floor_is_passed_and_never_lowered() -> None:
    maker = IdMaker(3)
    maker.raise_floor(id_at(5000))
    maker.raise_floor(id_at(10))
    assert maker.next(1000) > id_at(5000)


@pytest.mark.parametrize("node", [-1, 64])
def test_a_node_has_six_bits(node: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.63"):
        IdMaker(node)
