"""Limits in time: a token bucket, the rest that a provider asks for, and what single addresses have to wait.

Times in ms; `now` never steps back.
"""

import heapq
from math import ceil

# a bucket holds what comes in so many ms, if that is more than its burst: nobody looks at it every ms
SLICE = 20
# addresses of which something is known; at the limit no further one is taken until one is forgotten
MOST = 100_000
# how long a channel rests whose provider asks for it and names no time: doubling
REST = 1000
REST_MAX = 60_000
# what adding up fractions may lose
_CRUMB = 1e-6


class Bucket:
    """At most `rate` attempts a second in the long run, `burst` at once above that. A rate of 0 is no limit.

    In no second are there more than `rate + max(burst, rate / 50)`.
    """

    __slots__ = ("_at", "_level", "_most", "_per_ms")

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self._per_ms = rate / 1000
        self._most = max(float(burst), self._per_ms * SLICE)
        self._level = self._most
        self._at = now

    def room(self, now: int, most: int) -> int:
        """How many may go now, of `most`."""
        if not self._per_ms:
            return most
        self._fill(now)
        return min(most, int(self._level + _CRUMB))

    def take(self, now: int) -> None:
        """One goes; there is room for it."""
        if self._per_ms:
            self._fill(now)
            self._level -= 1

    def wait(self, now: int) -> int:
        """Until there is room for one; 0: there is."""
        if not self._per_ms:
            return 0
        self._fill(now)
        missing = 1 - self._level - _CRUMB
        return 0 if missing <= 0 else ceil(missing / self._per_ms)

    def drain(self, now: int) -> None:
        """What was saved is gone: from now on the rate alone counts."""
        self._fill(now)
        self._level = min(self._level, 0.0)

    def _fill(self, now: int) -> None:
        if now > self._at:
            self._level = min(self._most, self._level + (now - self._at) * self._per_ms)
            self._at = now


class Rest:
    """A provider has asked for a pause. One that it names no length for doubles, until an attempt goes through."""

    __slots__ = ("_next", "until")

    def __init__(self) -> None:
        self.until = 0
        self._next = REST

    def ask(self, now: int, wait: int) -> None:
        """`wait` 0: as long as we think fit."""
        if not wait:
            if now < self.until:
                # those that were under way together ask together
                return
            wait, self._next = self._next, min(REST_MAX, 2 * self._next)
        self.until = max(self.until, now + wait)

    def went_through(self) -> None:
        self._next = REST

    def left(self, now: int) -> int:
        return max(0, self.until - now)


class _Address:
    __slots__ = ("free", "slot")

    def __init__(self, free: int) -> None:
        self.free = free  # from then on an attempt may be made
        self.slot = free  # when the next of those who wait may come

    @property
    def end(self) -> int:
        return max(self.free, self.slot)


class Addresses:
    """`rate` attempts a second to one address, no burst (0: no limit), and the pauses of single addresses.

    Those who have to wait are given times one behind the other, so that each asks again about once. An address for
    which nothing has to wait any more is forgotten.
    """

    __slots__ = ("_ends", "_gap", "_known", "_most")

    def __init__(self, rate: float, most: int = MOST) -> None:
        self._gap = ceil(1000 / rate) if rate else 0
        self._most = most
        self._known: dict[str, _Address] = {}
        self._ends: list[tuple[int, str]] = []  # one a known address; its end may have moved on since

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, address: str, now: int) -> int:
        """0: an attempt to this address may be made, and counts. Else after how many ms to ask again."""
        self._forget(now)
        known = self._known.get(address)
        if known is None:
            if not self._gap:
                return 0
            if len(self._known) >= self._most:
                return max(1, self._ends[0][0] - now)
            self._know(address, now + self._gap)
            return 0
        if known.free <= now:
            known.free = now + self._gap
            return 0
        when = known.end
        known.slot = when + self._gap
        return when - now

    def pause(self, address: str, now: int, wait: int) -> None:
        """Nothing to this address for so long."""
        self._forget(now)
        known = self._known.get(address)
        if known is None:
            self._know(address, now + wait)
        else:
            known.free = max(known.free, now + wait)

    def _know(self, address: str, free: int) -> None:
        self._known[address] = _Address(free)
        heapq.heappush(self._ends, (free, address))

    def _forget(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            address = self._ends[0][1]
            end = self._known[address].end
            if end > now:
                heapq.heapreplace(self._ends, (end, address))
            else:
                heapq.heappop(self._ends)
                del self._known[address]
