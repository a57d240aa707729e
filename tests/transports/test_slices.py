"""Slices: at once while there is time, then a slice a turn, in order, with everybody else in between."""

import asyncio

import pytest

from gateway.transports import slices
from gateway.transports.slices import BUDGET, DOORS, ENDS, Slices

# a piece of work takes this share of a slice: three of them are a slice
PIECE = BUDGET / 2.5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that work takes, which is all the time there is."""
    now = [0.0]
    monkeypatch.setattr(slices, "perf_counter", lambda: now[0])
    return now


class Desk:
    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.slices = Slices(asyncio.get_running_loop())
        self.done: list[str] = []

    def put(self, name: str, lane: int = DOORS) -> None:
        def work() -> None:
            self.clock[0] += PIECE
            self.done.append(name)
            if name == "bad":
                raise ValueError(name)

        self.slices.run(lane, work)

    async def turns(self, count: int) -> None:
        """`count` turns of the loop, and what anybody else does in each of them."""
        for _ in range(count):
            self.done.append("|")
            await asyncio.sleep(0)


async def test_a_few_are_done_at_once(clock: list[float]) -> None:
    desk = Desk(clock)
    for name in "abc":
        desk.put(name)
    assert desk.done == ["a", "b", "c"]
    assert desk.slices.waiting == 0
    # there is time again in the next turn
    await asyncio.sleep(0)
    desk.put("d")
    assert desk.done[-1] == "d"


async def test_many_are_done_in_slices_with_others_in_between(clock: list[float]) -> None:
    desk = Desk(clock)
    for name in "abcdefgh":
        desk.put(name)
    assert desk.done == ["a", "b", "c"]
    assert desk.slices.waiting == 5
    await desk.turns(4)
    assert "".join(desk.done) == "abc|def|gh||"
    assert desk.slices.waiting == 0


async def test_who_comes_later_does_not_overtake(clock: list[float]) -> None:
    desk = Desk(clock)
    for name in "abcd":
        desk.put(name)
    await asyncio.sleep(0)
    # "d" has left time in this turn
    desk.put("e")
    desk.put("f")
    desk.put("g")
    desk.put("h")
    assert "".join(desk.done) == "abcdef"
    await desk.turns(2)
    assert "".join(desk.done) == "abcdef|gh|"


async def test_ends_go_first(clock: list[float]) -> None:
    desk = Desk(clock)
    for name in "abcde":
        desk.put(name)
    desk.put("X", ENDS)
    desk.put("Y", ENDS)
    assert desk.slices.waiting == 2
    await desk.turns(2)
    assert "".join(desk.done) == "abc|XYd|e"


async def test_an_error_ends_the_one_whose_work_it_was(clock: list[float]) -> None:
    said: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context["exception"]))
    desk = Desk(clock)
    with pytest.raises(ValueError, match="bad"):
        desk.put("bad")
    for name in ("b", "c", "d", "bad", "e", "f"):
        desk.put(name)
    await desk.turns(4)
    assert [name for name in desk.done if name != "|"] == ["bad", "b", "c", "d", "bad", "e", "f"]
    assert [str(error) for error in said] == ["bad"]
    assert desk.slices.waiting == 0
