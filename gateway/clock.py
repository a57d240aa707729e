"""Time for the gateway: Unix milliseconds that never step back.

Wall time is read once and then carried by the monotonic clock, so that a step of the wall clock backwards moves no
deadline. A step forwards of over a second (a suspended machine, a first NTP answer) is followed: deadlines that
passed meanwhile are due. Tokens and signatures need the real time; they take `wall()`.
"""

import time
from typing import Protocol

STEP_MS = 1000


class Clock(Protocol):
    def now(self) -> int:
        """Unix milliseconds, never decreasing."""

    def wall(self) -> float:
        """Real Unix time in seconds, for tokens and signatures."""


class SystemClock:
    """The machine's clock, anchored."""

    __slots__ = ("_anchor_ns",)

    def __init__(self) -> None:
        self._anchor_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return (self._anchor_ns + time.monotonic_ns()) // 1_000_000

    def wall(self) -> float:
        return time.time()

    def reanchor(self) -> int:
        """Follow a forward step of the wall clock of over a second. Returns the step in ms, 0 for none."""
        anchor = time.time_ns() - time.monotonic_ns()
        step = (anchor - self._anchor_ns) // 1_000_000
        if step <= STEP_MS:
            return 0
        self._anchor_ns = anchor
        return step
