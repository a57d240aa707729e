"""Virtual time: one clock, one heap of events, no sleeping. What is due at the same moment runs in the order in
which it was asked for, so a run depends on nothing but its seed.

A turn is one event, or a few that come at the same moment (as bytes of several sockets do in one turn of a loop), and
then what they asked to be done at its end.
"""

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

START = 1_750_000_000_000  # Unix ms
# how likely an event of the same moment still belongs to the turn
SAME_TURN = 0.5

Call = Callable[[], None]


class Timer:
    __slots__ = ("call",)

    def __init__(self, call: Call | None) -> None:
        self.call = call

    def cancel(self) -> None:
        self.call = None


class Timeline:
    """`mono` is the true time in ms; the wall clock, which may step, is `wall()`."""

    def __init__(self, rng: Random) -> None:
        self.mono = 0
        self.offset = START
        self.turns = 0
        self._rng = rng
        self._heap: list[tuple[int, int, Timer]] = []
        self._n = 0
        self._soon: deque[Timer] = deque()

    def wall(self) -> int:
        """Unix ms by the machine's clock."""
        return self.offset + self.mono

    def at(self, mono: int, call: Call) -> Timer:
        timer = Timer(call)
        self._n += 1
        heapq.heappush(self._heap, (max(mono, self.mono), self._n, timer))
        return timer

    def after(self, delay: int, call: Call) -> Timer:
        return self.at(self.mono + delay, call)

    def soon(self, call: Call) -> Timer:
        timer = Timer(call)
        self._soon.append(timer)
        return timer

    def turn(self) -> None:
        """Go to the next event and run its turn. There is always one: the gateway's own clock ticks."""
        when, _, timer = heapq.heappop(self._heap)
        self.mono = when
        self.turns += 1
        self._run(timer)
        while self._heap and self._heap[0][0] == when and self._rng.random() < SAME_TURN:
            self._run(heapq.heappop(self._heap)[2])
        while self._soon:
            self._run(self._soon.popleft())

    @staticmethod
    def _run(timer: Timer) -> None:
        call, timer.call = timer.call, None
        if call is not None:
            call()


class GatewayTime:
    """ports.Scheduler for one life of the gateway, with the clock of gateway.clock: anchored to the wall at its start,
    following steps forward only. After `stop` nothing of that life runs any more.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._anchor = timeline.offset
        self.stopped = False

    def now(self) -> int:
        return self._anchor + self._timeline.mono

    def wall(self) -> float:
        return self._timeline.wall() / 1000

    def reanchor(self) -> int:
        step = self._timeline.offset - self._anchor
        if step <= 1000:
            return 0
        self._anchor = self._timeline.offset
        return step

    def soon(self, call: Call) -> None:
        self._timeline.soon(self.guard(call))

    def at(self, when: int, call: Call) -> Timer:
        return self._timeline.at(when - self._anchor, self.guard(call))

    def after(self, delay: int, call: Call) -> Timer:
        return self._timeline.after(delay, self.guard(call))

    def guard(self, call: Call) -> Call:
        """`call`, for as long as this life of the gateway lasts."""

        def guarded() -> None:
            if not self.stopped:
                call()

        return guarded

    def stop(self) -> None:
        self.stopped = True
