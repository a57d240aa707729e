"""A message's way through its fallback chain, as a state machine.

    claimed ──▶ WAIT ──(due, room)──▶ OPEN ──delivered──▶ ended, provider_delivered
                 ▲                     │
                 ├──── retry ──────────┤  same step, later: full jitter, the provider's wait as a floor
                 ├──── next step ──────┤  refused, or its attempts are used up
                 │                     └──▶ ended, dead: the last step failed, or the channel says `stop`
                 └──── PARKED ◀── given back to its client (never once an attempt was ambiguous)

An attempt is committed as OPEN before its first byte. One found OPEN at a start of the gateway, or whose answer
was lost, is ambiguous: the channel's `on_ambiguous` says whether it is made again, skipped, or the end. `burnt`
remembers it.

`decide` takes an outcome and changes the row; the driver commits what it says. Times in ms.
"""

from enum import IntEnum

from msgspec import Struct

from gateway.engine.backoff import Chance, full_jitter
from gateway.model import ChainRow, Phase


class Policy(Struct, frozen=True):
    """What a channel's configuration says about attempts. Times in ms."""

    max_attempts: int = 8
    base: int = 1000
    cap: int = 300_000
    on_ambiguous: str = "retry"  # retry | next | stop


class Verdict(IntEnum):
    DELIVERED = 0
    AGAIN = 1  # the row waits for `due`, at the same step or the next
    EXHAUSTED = 2  # no step is left


def decide(
    row: ChainRow, kind: str, retry_after: float, policy: Policy, now: int, expire: int, rng: Chance
) -> Verdict:
    """What becomes of the row after an attempt ended with outcome `kind`. `expire`: the message's end of life.

    A retry that could only start after `expire` is not waited for: the chain is exhausted.
    """
    if kind in ("delivered", "accepted"):
        return Verdict.DELIVERED
    if kind == "ambiguous":
        row.burnt = True
        kind = policy.on_ambiguous
        if kind == "stop":
            return Verdict.EXHAUSTED
    if kind == "retry" and row.attempt < policy.max_attempts:
        due = now + full_jitter(rng, policy.base, policy.cap, row.attempt, int(retry_after * 1000))
        if due < expire:
            row.phase, row.due = int(Phase.WAIT), due
            return Verdict.AGAIN
    return next_step(row, now)


def next_step(row: ChainRow, now: int) -> Verdict:
    """On to the chain's next channel."""
    if row.step + 1 >= len(row.channels):
        return Verdict.EXHAUSTED
    row.step += 1
    row.attempt = 0
    row.phase, row.due = int(Phase.WAIT), now
    return Verdict.AGAIN
