"""The clock: anchored once, never back, forward after a jump."""

import pytest

from gateway.clock import SystemClock

SECOND = 1_000_000_000


class Machine:
    """A wall clock and a monotonic clock that go as the test says."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000 * SECOND
        self.monotonic = 50 * SECOND

    def run(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND)
        self.monotonic += round(seconds * SECOND)

    def step(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr("time.time_ns", lambda: machine.wall)
    monkeypatch.setattr("time.time", lambda: machine.wall / SECOND)
    monkeypatch.setattr("time.monotonic_ns", lambda: machine.monotonic)
    return machine


def test_it_starts_at_wall_time_and_runs(machine: Machine) -> None:
    clock = SystemClock()
    assert clock.now() == 1_800_000_000_000
    machine.run(1.5)
    assert clock.now() == 1_800_000_001_500


def test_a_step_moves_wall_but_not_now(machine: Machine) -> None:
    clock = SystemClock()
    machine.step(-3600)
    assert clock.now() == 1_800_000_000_000
    assert clock.wall() == 1_800_000_000 - 3600


@pytest.mark.parametrize(
    ("step", "moved"), [(-3600, 0), (-0.5, 0), (0, 0), (0.9, 0), (1.0, 0), (1.001, 1001), (60, 60_000)]
)
def test_only_a_forward_step_of_over_a_second_is_followed(machine: Machine, step: float, moved: int) -> None:
    clock = SystemClock()
    machine.run(10)
    machine.step(step)
    assert clock.reanchor() == moved
    assert clock.now() == 1_800_000_010_000 + moved
    assert clock.reanchor() == 0


def test_small_steps_add_up_to_one_that_is_followed(machine: Machine) -> None:
    clock = SystemClock()
    moved = []
    for _ in range(3):
        machine.step(0.4)
        moved.append(clock.reanchor())
    assert moved == [0, 0, 1200]


def test_back_and_forth_moves_nothing(machine: Machine) -> None:
    clock = SystemClock()
    machine.step(-60)
    assert clock.reanchor() == 0
    machine.step(60)
    assert clock.reanchor() == 0
    assert clock.now() == 1_800_000_000_000
