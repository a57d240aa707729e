"""The circuit breaker of an account, or of a proxy, as a state machine.

    CLOSED ──(so many failures in a row)──▶ OPEN ──(its pause is over)──▶ HALF_OPEN ──(one attempt: good)──▶ CLOSED
                                             ▲                               │
                                             └───────────── failed ──────────┘

A failure is one of the account, the credential or the way there. What was begun before it opened tells nothing about
what comes after: its end counts no more.

After it has closed the number of attempts at once grows from one: it doubles whenever as many were answered as may go
at once, so that whoever has just come back is not run over. Times in ms; `now` never steps back.
"""

from enum import IntEnum


class State(IntEnum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


# while an attempt tries it, others look again after so long
LOOK = 1000


class Breaker:
    """`failures` in a row open it for `pause`. `most`: attempts at once when nothing is wrong."""

    __slots__ = (
        "_answered", "_failed", "_failures", "_most", "_open", "_pause", "_trying", "_turn", "_width", "until",
    )  # fmt: skip

    def __init__(self, failures: int, pause: int, most: int) -> None:
        self._failures = failures
        self._pause = pause
        self._most = most
        self._failed = 0  # in a row
        self._open = False  # OPEN or HALF_OPEN
        self._trying = False
        self._turn = 0  # how often it has opened
        self._width = most  # attempts at once
        self._answered = 0  # since the width has grown
        self.until = 0  # end of its last pause

    def state(self, now: int) -> State:
        if not self._open:
            return State.CLOSED
        return State.OPEN if now < self.until else State.HALF_OPEN

    def shut(self, now: int) -> int:
        """For how long nobody else may go; 0: at least one may, or may as soon as one under way has ended."""
        if not self._open:
            return 0
        return self.until - now if now < self.until else LOOK if self._trying else 0

    def room(self, now: int, under_way: int) -> int:
        """How many more may go, where so many are under way."""
        if not self._open:
            return max(0, self._width - under_way)
        return 0 if self.shut(now) else 1

    def begin(self) -> int:
        """One goes; there is room for it. What `end` is to be told."""
        self._trying = self._open
        return self._turn

    def end(self, begun: int, good: bool | None, now: int) -> bool:
        """One has ended; None: it tells nothing about the way. Whether that has closed the breaker."""
        if begun != self._turn:
            return False
        was_open, self._trying = self._open, False
        if good:
            self._failed = 0
            self._open = False
            self._grow()
            return was_open
        if good is None:
            return False
        self._failed += 1
        if was_open or self._failed >= self._failures:
            self._failed = 0
            self._open = True
            self._turn += 1
            self.until = now + self._pause
        if self._open or self._width < self._most:
            self.slowly()
        return False

    def slowly(self) -> None:
        """Begin with one at once: it has rested."""
        self._width = 1
        self._answered = 0

    def _grow(self) -> None:
        if self._width < self._most:
            self._answered += 1
            if self._answered >= self._width:
                self._width = min(self._most, 2 * self._width)
                self._answered = 0
