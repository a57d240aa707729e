"""Whether, when and how a client comes back after a connection. Pure; the generator is handed in.

Close codes (PROTOCOL 3) say what to do:

    40xx, all others   come back and resume
    41xx               come back with a new session
    42xx               get a new token, then resume; stop where there is none to be had
    43xx               stop

The delay is full jitter, a uniform draw from 0 to a doubling range, which spreads the clients of a gateway that went
away over the whole of it. A `retry_after` is a floor under the draw. After `goaway` the delay leads to the moment drawn
from its range.
"""

from random import Random

from msgspec import Struct

from gateway.client.errors import HandshakeRefused, NotAuthorised, Stopped, TokenExpired, stopped

BASE = 0.2
CAP = 30.0
# no wait that a gateway asks for is longer
LONGEST = 3600.0
# a connection that stood this long in seconds ends a row of failures
STABLE = 5.0
# HTTP answers to a handshake after which it is worth coming back; 5xx as well
PASSING = frozenset((408, 425, 429))


def jitter(rng: Random, attempt: int) -> float:
    """Seconds before attempt `attempt` (0, 1, 2 …)."""
    return rng.uniform(0.0, min(CAP, BASE * 2.0 ** min(attempt, 16)))


def later(retry_after: float | None) -> float:
    """A `retry_after` in seconds as a floor: 0 where there is none, within LONGEST."""
    return min(max(retry_after or 0.0, 0.0), LONGEST)


class Plan(Struct, frozen=True):
    """How to go on: `stop`, or come back after `delay` seconds, with a new token or a new session where it says so.

    `code`: the close code that it follows; 0 after a refused handshake.
    """

    delay: float = 0.0
    code: int = 0
    renew: bool = False
    fresh: bool = False
    stop: Stopped | None = None


class Comeback:
    """`goaway_at`: when to leave of one's own accord, by the clock of the session."""

    __slots__ = ("_failures", "_renewable", "_rng", "goaway_at")

    def __init__(self, rng: Random, *, renewable: bool) -> None:
        self._rng = rng
        self._renewable = renewable
        self._failures = 0
        self.goaway_at: float | None = None

    def goaway(self, after: tuple[float, float], now: float) -> None:
        low, high = sorted(map(later, after))
        self.goaway_at = now + self._rng.uniform(low, high)

    def stood(self, seconds: float) -> None:
        """How long the connection that ended had been welcomed."""
        if seconds >= STABLE:
            self._failures = 0

    def closed(self, code: int, detail: str, retry_after: float | None, now: float) -> Plan:
        """After a close code; 1006 where there was none, or no connection."""
        family = code // 100
        if family == 43:
            return Plan(code=code, stop=stopped(code, detail))
        if family == 42 and not self._renewable:
            fixed = TokenExpired(code, "the token is a fixed string; give a callable to renew it")
            return Plan(code=code, stop=fixed)
        return Plan(self._delay(retry_after, now), code, renew=family == 42, fresh=family == 41)

    def refused(self, status: int, detail: str, retry_after: float | None, now: float) -> Plan:
        """After an HTTP status that is not 101, a reason code of MQTT that no retry can change, or 0 for neither."""
        if status in {401, 403}:
            return Plan(stop=NotAuthorised(status, detail))
        if status < 500 and status not in PASSING:
            return Plan(stop=HandshakeRefused(status, detail))
        return Plan(self._delay(retry_after, now))

    def _delay(self, retry_after: float | None, now: float) -> float:
        failures = self._failures
        self._failures += 1
        if self.goaway_at is None:
            return later(retry_after) + jitter(self._rng, failures)
        wait = max(0.0, self.goaway_at - now)
        self.goaway_at = None
        # sent away again and again without having stood: that is a failure like any other
        return wait + jitter(self._rng, failures) if failures else wait
