"""A message's way through its fallback chain, as a state machine.

    claimed ──▶ WAIT ──(due, room)──▶ OPEN ──taken, step satisfied──▶ ended: provider_accepted, _delivered, _read
                 ▲                     │ └──taken, a receipt will come──▶ RECEIPT
                 ├──── retry ──────────┤  same step, later: full jitter, the provider's wait as a floor
                 ├──── next step ──────┤  refused, its attempts or its time are used up
                 │                     └──▶ ended, dead: the last step failed, or the channel says `stop`
                 ├──── PARKED ◀── given back to its client (never once an attempt was ambiguous or accepted)
                 │
                 └──── next step ──── RECEIPT ──satisfied, or nothing came and nothing follows──▶ ended: as what was
                                         │                                                          reached
                                         └──failed, and nothing follows──▶ ended, dead

What satisfies a step is its channel's `satisfied_by`:

    the attempt was …                 accepted             accepted, and will report         delivered
    satisfied_by accepted             ended                RECEIPT for 72 h: rests           ended
                 delivered            next step            RECEIPT for receipt_timeout       ended
                 read                 next step            RECEIPT for receipt_timeout       RECEIPT, or next step

In RECEIPT a receipt that says failed leads to the next step, whatever satisfies this one. When the time is over, a row
that rests has ended as accepted; the others go to the next step, and on the last one they have ended as what was
reached: dead is only what failed.

An attempt is committed as OPEN before its first byte. One found OPEN at a start of the gateway, or whose answer
was lost, is ambiguous: the channel's `on_ambiguous` says whether it is made again, skipped, or the end. `burnt`
remembers it; a receipt settles it.

Each function takes what happened and changes the row; the driver commits what it says. Times in ms.
"""

from collections.abc import Collection
from enum import IntEnum

from msgspec import Struct

from gateway.engine.backoff import Chance, full_jitter
from gateway.model import ChainRow, Phase

# How long a message that was accepted, with nothing else asked for, may still be reported as failed. Mail servers try
# for three days, and nobody tries longer; after that no word is taken for a good word.
REST = 72 * 3_600_000

PROOFS = {"accepted": 1, "delivered": 2, "read": 3}


class Policy(Struct, frozen=True):
    """What a channel's configuration says about attempts. Times in ms."""

    max_attempts: int = 8
    base: int = 1000
    cap: int = 300_000
    on_ambiguous: str = "retry"  # retry | next | stop
    satisfied_by: str = "accepted"  # accepted | delivered | read
    receipt_timeout: int = 30_000
    step_timeout: int = 0  # 0: none

    def satisfied(self, kind: str) -> bool:
        """Whether this (an outcome, or the status of a receipt) is what ends the chain."""
        return PROOFS.get(kind, 0) >= PROOFS[self.satisfied_by]


class Verdict(IntEnum):
    SATISFIED = 0  # the chain has ended, the message as what was reached
    AGAIN = 1  # the row waits for `due`, at the same step or the next
    EXHAUSTED = 2  # no step is left
    RESTS = 3  # the row waits for a receipt until `due`


def decide(
    row: ChainRow,
    kind: str,
    retry_after: float,
    policy: Policy,
    now: int,
    expire: int,
    rng: Chance,
    *,
    receipt: bool = False,
    late: bool = False,
) -> Verdict:
    """What becomes of the row after an attempt ended with outcome `kind`. `expire`: the message's end of life.
    `receipt`: the provider will report. `late`: its client gets the message all the same, as soon as the chain has
    ended, so it does not rest for long.

    A retry that could only start after `expire` is not waited for: the chain is exhausted.
    """
    if kind in PROOFS:
        return _taken(row, kind, policy, now, receipt=receipt, late=late)
    if kind == "failed":
        # its provider had it
        row.burnt = True
    if kind == "ambiguous":
        row.burnt = True
        kind = policy.on_ambiguous
        if kind == "stop":
            return Verdict.EXHAUSTED
    if kind == "retry" and row.attempt < policy.max_attempts:
        due = now + full_jitter(rng, policy.base, policy.cap, row.attempt, int(retry_after * 1000))
        if due < expire and due <= _step_ends(row, policy, due):
            row.phase, row.due = int(Phase.WAIT), due
            return Verdict.AGAIN
    return next_step(row, now)


def _taken(row: ChainRow, kind: str, policy: Policy, now: int, *, receipt: bool, late: bool) -> Verdict:
    """A provider has it."""
    if policy.satisfied(kind):
        if kind != "accepted" or not receipt:
            return Verdict.SATISFIED
        row.due = now + (policy.receipt_timeout if late else REST)
    elif receipt:
        row.due = now + policy.receipt_timeout
        row.due = max(min(row.due, _step_ends(row, policy, row.due)), now)
    else:
        return _unsatisfied(row, now)
    row.phase = int(Phase.RECEIPT)
    return Verdict.RESTS


def _unsatisfied(row: ChainRow, now: int) -> Verdict:
    """The step has not brought what it should have, but nothing failed."""
    verdict = next_step(row, now)
    return Verdict.SATISFIED if verdict == Verdict.EXHAUSTED else verdict


def next_step(row: ChainRow, now: int) -> Verdict:
    """On to the chain's next channel."""
    if row.step + 1 >= len(row.channels):
        return Verdict.EXHAUSTED
    row.step += 1
    row.attempt = 0
    row.phase, row.due, row.since = int(Phase.WAIT), now, now
    return Verdict.AGAIN


def _step_ends(row: ChainRow, policy: Policy, otherwise: int) -> int:
    """When the row's time at this step is over, `otherwise` where it has no such limit."""
    if not policy.step_timeout or not row.since or row.step + 1 >= len(row.channels):
        return otherwise
    return row.since + policy.step_timeout


def overdue(row: ChainRow, policy: Policy, now: int) -> bool:
    """Whether a waiting row has been at this step for too long, and another follows."""
    return now > _step_ends(row, policy, now)


def receive(
    row: ChainRow, n: int, status: str, policy: Policy, now: int, expire: int, *, late: bool = False
) -> Verdict | None:
    """What becomes of the row after a receipt of its attempt `n`, which was made at a channel with this policy. None:
    it stays as it is. A row whose attempt is under way takes only what ends its chain: the rest counts with the
    outcome.
    """
    if policy.satisfied(status) and status != "accepted":
        return Verdict.SATISFIED
    if row.phase in (Phase.OPEN, Phase.PARKED) or n != row.total:
        return None
    if status == "failed":
        return _failed(row, now, expire)
    if status not in PROOFS or row.phase == Phase.RECEIPT:
        return None
    # nobody knew whether it had arrived; now its provider has it
    if row.attempt or policy.satisfied(status):
        return _taken(row, status, policy, now, receipt=True, late=late)
    return None


def _failed(row: ChainRow, now: int, expire: int) -> Verdict | None:
    if not row.attempt:
        # the chain had gone on before, and came to rest on the word of an earlier step
        if row.phase == Phase.WAIT:
            return None
        row.phase, row.due, row.since = int(Phase.WAIT), now, now
        return Verdict.AGAIN if now < expire else Verdict.EXHAUSTED
    return next_step(row, now) if now < expire else Verdict.EXHAUSTED


def rested(row: ChainRow, policy: Policy, now: int, expire: int) -> Verdict:
    """No receipt came in time. `policy` is that of the row's channel."""
    if policy.satisfied_by == "accepted" or not row.attempt or now >= expire:
        return Verdict.SATISFIED
    return _unsatisfied(row, now)


def known(kind: str, receipts: Collection[str]) -> str:
    """The outcome of an attempt of which receipts told before its answer did: they prove more."""
    for proof in ("read", "delivered", "failed", "accepted"):
        if proof in receipts:
            return proof
    return kind
