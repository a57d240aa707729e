"""Whether the gateway still lives: when to ask, and when it counts as gone. Pure.

With no sign of life for ASK_AFTER heartbeats the client asks, once; with none for GONE_AFTER the gateway is gone. Over
WebSocket the gateway pings, and any byte is a sign. Over MQTT the bytes may be a broker's: only frames are signs, the
gateway does not ping, and the client sends a `ping` every heartbeat besides, which proves its own life too.
"""

from enum import IntEnum

ASK_AFTER = 1.25
GONE_AFTER = 1.75


class Sign(IntEnum):
    """What to do about it."""

    FINE = 0
    ASK = 1
    GONE = 2


class Pulse:
    """Of one welcomed connection. Times in seconds."""

    __slots__ = ("_asked", "_every", "_heard", "_ping_at")

    def __init__(self, heartbeat: float, now: float, ping_at: float | None) -> None:
        """`ping_at`: when to send the first of the regular pings, None for none."""
        self._every = heartbeat
        self._heard = now
        self._asked = False
        self._ping_at = ping_at

    def heard(self, at: float) -> None:
        """A sign of life came at `at`."""
        if at > self._heard:
            self._heard = at
            self._asked = False

    @property
    def due(self) -> float:
        """When to look at the latest."""
        due = self._heard + (GONE_AFTER if self._asked else ASK_AFTER) * self._every
        return due if self._ping_at is None else min(due, self._ping_at)

    def look(self, now: float) -> Sign:
        silence = now - self._heard
        if silence >= GONE_AFTER * self._every:
            return Sign.GONE
        ask = silence >= ASK_AFTER * self._every and not self._asked
        if ask:
            self._asked = True
        if self._ping_at is not None and now >= self._ping_at:
            self._ping_at = now + self._every
            ask = True
        return Sign.ASK if ask else Sign.FINE
