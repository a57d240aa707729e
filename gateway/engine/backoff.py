"""How long to wait before the next try: full jitter for a fallback channel, a doubling timer for acks.

Both take their chance from outside, so that a simulation with the same seed waits the same. Everything is in ms.
"""

from typing import Protocol

# 2**32 times any base is beyond every cap; it keeps a huge count from making a huge integer
_MAX_DOUBLINGS = 32


class Chance(Protocol):
    """What is needed of a `random.Random`."""

    def random(self) -> float:
        """A number in [0, 1)."""


def full_jitter(rng: Chance, base_ms: int, cap_ms: int, attempt: int, floor_ms: int = 0) -> int:
    """The pause after failed attempt `attempt` (1 = the first): evenly in 0..min(cap, base * 2**(attempt - 1)).

    This is "full jitter" of AWS' "Exponential Backoff And Jitter". A `floor_ms` (a receiver's Retry-After) is
    never undercut, and is not itself capped: what was drawn below it becomes the floor plus up to a tenth of it
    (the base, if that is more), for else all who were told the same floor would come back in the same instant.
    """
    pause = _within(rng, 0, _doubled(base_ms, cap_ms, attempt - 1))
    if pause >= floor_ms:
        return pause
    return _within(rng, floor_ms, floor_ms + max(base_ms, floor_ms // 10))


def ack_wait(rng: Chance, base_ms: int, cap_ms: int, tries: int) -> int:
    """How long the lowest unsettled seq may wait for its ack after `tries` timeouts (PROTOCOL 3).

    0 = the first wait. Doubles from the base to the cap, 10 % either way, never above the cap.
    """
    wait = _doubled(base_ms, cap_ms, tries)
    tenth = wait // 10
    return _within(rng, wait - tenth, min(cap_ms, wait + tenth))


def _doubled(base_ms: int, cap_ms: int, times: int) -> int:
    return min(cap_ms, base_ms << min(max(times, 0), _MAX_DOUBLINGS))


def _within(rng: Chance, low: int, high: int) -> int:
    """An integer of low..high, both included, each as likely as the others."""
    return low + int(rng.random() * (high - low + 1))
