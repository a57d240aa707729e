"""One heap of deadlines for the whole process, with one live entry a key.

A key may be set again as often as one likes: an entry that comes up too early is simply looked at again, and a
later one that was superseded is skipped. So the hot path touches the heap only where a deadline moves forward
in time. Superseded entries are thrown out once they are most of the heap.
"""

import heapq
from collections.abc import Hashable

# below this size a heap full of superseded entries is no matter
_SMALL = 64


class Deadlines:
    """`known`: when each key is looked at, for reading."""

    __slots__ = ("_heap", "_n", "known")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self.known: dict[Hashable, int] = {}
        self._n = 0

    def set(self, key: Hashable, when: int) -> None:
        """Look at `key` at `when` (ms) at the latest. An earlier entry stays; the caller then looks and sets
        again.
        """
        known = self.known.get(key)
        if known is not None and known <= when:
            return
        self.known[key] = when
        self._n += 1
        heapq.heappush(self._heap, (when, self._n, key))
        if len(self._heap) > _SMALL + 2 * len(self.known):
            self._heap = [entry for entry in self._heap if self.known.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def next(self) -> int:
        """The earliest deadline, 0 for none."""
        heap = self._heap
        while heap:
            when, _, key = heap[0]
            if self.known.get(key) == when:
                return when
            heapq.heappop(heap)
        return 0

    def pop(self, now: int) -> Hashable | None:
        """A key whose deadline has come, or None. It is no longer set then."""
        when = self.next()
        if when == 0 or when > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self.known[key]
        return key

    def clear(self) -> None:
        self._heap.clear()
        self.known.clear()
