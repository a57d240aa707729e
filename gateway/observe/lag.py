"""How late the loop is, on a schedule that does not wait for it: a loop that stands still for a second is late for all
that was due in it (no coordinated omission).
"""

from collections.abc import Callable
from typing import Final

# seconds between the moments of the schedule
PERIOD: Final = 0.02


class Lag:
    """`now` is a clock in seconds that never steps; `tell` gets the ms that the loop was late for a moment."""

    def __init__(self, now: Callable[[], float], tell: Callable[[int], None]) -> None:
        self._now = now
        self._tell = tell
        self._due = now() + PERIOD

    def look(self) -> float:
        """Tell of all that was due until now. Seconds until the next is."""
        now = self._now()
        while self._due <= now:
            self._tell(int((now - self._due) * 1000))
            self._due += PERIOD
        return self._due - now
