"""What comes for thousands of connections at the same moment, in slices.

A loop hands over all that is ready before it lets anything else run: ten thousand devices that come back at once are
ten thousand handshakes in one turn, and whoever is connected already waits more than a second for that. So what is
dear about coming and going asks here first. It is done at once while the turn has time for it, as nearly always; else
it waits for one of the next turns, each of which has all others in it, too.

Ends go before what comes in: they make room for it. Within a lane first come is first served. A socket waits at most
once for each of these, so no more wait than there are sockets; the work of one that has gone away meanwhile is to see
that, and is nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

# seconds of such work in a turn of the loop, but for the last piece of it
BUDGET: Final = 0.01

# lanes, the first goes first
ENDS: Final = 0  # a connection is lost
DOORS: Final = 1  # a handshake, a CONNECT, a hello

Work = Callable[[], None]


class Slices:
    """Of one listener."""

    __slots__ = ("_asked", "_lanes", "_loop", "_spent")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lanes: tuple[deque[Work], ...] = (deque(), deque())
        self._spent = 0.0  # in this turn
        self._asked = False

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return len(self._lanes[DOORS])

    def run(self, lane: int, work: Work) -> None:
        """Do it now, or in its turn."""
        self._ask()
        if self._spent < BUDGET and not any(self._lanes):
            self._do(work)
        else:
            self._lanes[lane].append(work)

    def _do(self, work: Work) -> None:
        start = perf_counter()
        try:
            work()
        finally:
            self._spent += perf_counter() - start

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Another turn of the loop: there is time again."""
        self._asked = False
        self._spent = 0.0
        try:
            while self._spent < BUDGET and (work := self._next()) is not None:
                self._do(work)
        finally:
            # an error ends the one whose work it was
            if any(self._lanes):
                self._ask()

    def _next(self) -> Work | None:
        for lane in self._lanes:
            if lane:
                return lane.popleft()
        return None
