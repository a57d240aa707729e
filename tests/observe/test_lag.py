"""How late the loop is: what was due while it stood still counts, each moment by itself."""

import pytest

from gateway.observe.lag import PERIOD, Lag

MS = PERIOD * 1000


def test_every_moment_counts_that_was_due_meanwhile() -> None:
    clock = [100.0]
    late: list[int] = []
    lag = Lag(lambda: clock[0], late.append)
    assert lag.look() == pytest.approx(PERIOD)
    assert late == []
    # in time, but for 3 ms
    clock[0] += PERIOD + 0.0031
    assert lag.look() == pytest.approx(PERIOD - 0.0031)
    assert late == [3]
    # then it stands still for five periods
    late.clear()
    clock[0] += 5 * PERIOD
    lag.look()
    assert late == pytest.approx([4 * MS + 3, 3 * MS + 3, 2 * MS + 3, MS + 3, 3], abs=1)
    # the schedule is the old one
    assert lag.look() == pytest.approx(PERIOD - 0.0031)
