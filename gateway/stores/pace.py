"""Which commits the loop's thread makes itself, and for how long a slow disk puts an end to that.

Handing a small commit to the writer thread and hearing of it costs nearly half as much as the commit: two changes of
threads, and the interpreter changes hands at each statement. On the loop's thread it costs nothing, but the loop stands
still while the disk syncs. So:

    small     ROWS, BYTES: nothing that looks at many rows, and a ms or two of work
    quick     the mean of the last commits is below QUICK; else none for AWAY times as long as the last one took
    at first  the mean is as high as it may be: one slow commit suffices

A disk that always takes 5 ms holds the loop up once a second. One that stands still for a second does so once, and then
not for three minutes: slow commits take one part in AWAY of the loop's time at the most. It cannot be less than one
commit; while the disk stands still nothing could be acknowledged or delivered anyway.
"""

from gateway.commit import Commit

ROWS = 256
BYTES = 256 << 10
# seconds, of the whole commit: one of ROWS rows takes 2 ms of work
QUICK = 0.003
AWAY = 200
# the mean goes an eighth of the way to each commit: of those that take 0.3 ms, one may take 20
_WEIGHT = 1 / 8


def small(commit: Commit) -> bool:
    """Whether it is little work, and all of it told by its size: no operations and no reads."""
    if commit.ops or commit.reads or len(commit.appends) > ROWS or len(commit.settles) > ROWS:
        return False
    rows = size = 0
    for _, _, _, ids in commit.settles:
        rows += len(ids)
    for _, _, items in commit.binds:
        rows += len(items)
    for item in commit.appends:
        if item.body is not None:
            size += len(item.body)
    return rows + len(commit.appends) <= ROWS and size <= BYTES


class Pace:
    """Times are seconds of one clock."""

    __slots__ = ("_mean", "_not_before")

    def __init__(self) -> None:
        self._mean = QUICK
        self._not_before = 0.0

    def quick(self, now: float) -> bool:
        return now >= self._not_before

    def took(self, seconds: float, now: float) -> None:
        """A commit on the loop's thread is through."""
        self._mean += (seconds - self._mean) * _WEIGHT
        if self._mean > QUICK:
            self._mean = QUICK
            self._not_before = now + seconds * AWAY
