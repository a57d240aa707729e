"""Time for many connections with one timer: a wheel of ticks.

Every connection stands in at most one slot, the tick at which it must be looked at next. A look does what is due and
says when the next one must be. What happens meanwhile (a byte that came in) moves nothing here: the look finds it.
"""

from typing import Final, Protocol

# looks between which others have their turn: a heartbeat that is due is a write
LOOKS: Final = 100


class Timed(Protocol):
    """Who can stand in the wheel. `slot` is the wheel's own; it starts as 0."""

    slot: int

    def look(self, now: int) -> int:
        """Do what is due at `now` (ms). When to look again, in ms; 0: not on this account."""

    def abort(self) -> None:
        """End at once."""


class Wheel:
    """A look is never early, and late by less than `tick` ms if `turn` is called every `tick` ms, and again at once
    where it says so.
    """

    __slots__ = ("_slots", "_tick")

    def __init__(self, tick: int) -> None:
        self._tick = tick
        self._slots: dict[int, set[Timed]] = {}

    def put(self, member: Timed, when: int) -> None:
        """Look at `member` at `when` (ms above 0), or earlier where an earlier look stands already."""
        slot = -(-when // self._tick)
        if member.slot:
            if member.slot <= slot:
                return
            self.drop(member)
        member.slot = slot
        self._slots.setdefault(slot, set()).add(member)

    def drop(self, member: Timed) -> None:
        """Look at it no more."""
        members = self._slots.get(member.slot)
        if members is not None:
            members.discard(member)
        member.slot = 0

    def turn(self, now: int) -> bool:
        """Look at those whose time has come, at so many; whether there are more. An error ends the one whose look it
        was; the others are seen next turn.
        """
        last = now // self._tick
        left = LOOKS
        for slot in sorted(s for s in self._slots if s <= last):
            members = self._slots[slot]
            while members:
                if not left:
                    return True
                left -= 1
                self._look(members.pop(), now)
            del self._slots[slot]
        return False

    def _look(self, member: Timed, now: int) -> None:
        member.slot = 0
        try:
            again = member.look(now)
        except BaseException:
            member.abort()
            raise
        if again:
            self.put(member, again)
