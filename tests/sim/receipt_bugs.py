"""Bugs of receipts, and of chains that wait for them, to plant; see bugs.py."""

from collections.abc import Callable
from typing import Any

import gateway.hub.outcomes as outcomes_module
from gateway.commit import Event, Recovered
from gateway.hub.hub import Hub
from gateway.hub.outcomes import Outcomes
from gateway.hub.receipts import Receipts
from gateway.ports import Receipt

Patch = tuple[Any, str, Any]


def answered_before_commit() -> Patch:
    """A callback is answered when its receipts are looked at, not when they are on disk."""
    come = Receipts._came

    def patched(self: Receipts, read: Any) -> None:
        ones = list(self._round)
        come(self, read)
        for one in ones:
            if not one.call.future.done():
                one.call.future.set_result(None)

    return Receipts, "_came", patched


def early_forgotten() -> Patch:
    """What comes before the attempt was answered is in the timeline, and counts for nothing."""

    def patched(self: Receipts, one: Any, stood: Any, event: Event) -> None:
        self._note(one, event)

    return Receipts, "_early", patched


def repeated_again() -> Patch:
    """A receipt that was reported before is taken for a new one."""
    look = Receipts._look

    def patched(self: Receipts, one: Any, story: Any) -> bool:
        if one.receipt.code:
            fresh = Receipt(ref=one.receipt.ref, status=one.receipt.status, code=f"{self.core.now()}")
            one.receipt = fresh
        return look(self, one, story)

    return Receipts, "_look", patched


def rest_forgotten() -> Patch:
    """What waits for a receipt is not looked at after a start."""
    load = Hub._load

    def patched(self: Hub, known: Recovered) -> None:
        known.next_rest = 0
        load(self, known)

    return Hub, "_load", patched


def accepted_goes_back() -> Patch:
    """A client that is here gets back what a provider has accepted, once the next step fails."""
    return outcomes_module, "_had", lambda done: False


def accepted_told_twice() -> Patch:
    """A second channel's acceptance is told like the first."""
    write = Outcomes._write

    def patched(self: Outcomes, row: Any, done: Any) -> None:
        done.item.status = min(done.item.status, 2)
        write(self, row, done)

    return Outcomes, "_write", patched


PLANTED_RECEIPTS: dict[str, tuple[Callable[[], Patch], str]] = {
    "answered_before_commit": (answered_before_commit, "receipts"),
    "early_forgotten": (early_forgotten, "receipts"),
    "repeated_again": (repeated_again, "receipts"),
    "rest_forgotten": (rest_forgotten, "receipts"),
    "accepted_goes_back": (accepted_goes_back, "receipts"),
    "accepted_told_twice": (accepted_told_twice, "receipts"),
}
