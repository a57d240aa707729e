"""Status changes as they become durable: a bounded ring, and readers who may resume within it (`GET
/v1/events`).

An event's number is its place since the ring was made, added to the start time, so that numbers of an earlier
process are told apart: what cannot be resumed is answered by `reset`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import Any

from gateway.errors import Unavailable
from gateway.ids import encode_id
from gateway.model import STATUS_NAMES, Item

RESET = "reset"
# events that are read at once
_PAGE = 256

_names = attrgetter("id", "client", "sender")
# the number of the first, (id, client, sender) of each; then what they have in common: status, at, via, why
_Run = tuple[int, list[tuple[int, str, str]], int, int, str, str]


class EventRing:
    """The last `size` status changes, in runs as they came. `publish` is on the hot path."""

    def __init__(self, size: int, readers: int, start: int) -> None:
        self._runs: deque[_Run] = deque()
        self._size = size
        self._first = self._next = start  # the number of the oldest that is here, and of the next one
        self._readers = readers
        self._subscriptions: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def publish(self, items: list[Item], status: int, at: int, via: str, why: str) -> None:
        """These messages came to stand at `status`."""
        runs = self._runs
        runs.append((self._next, list(map(_names, items)), status, at, via, why))
        self._next += len(items)
        oldest = self._next - self._size
        if oldest > self._first:
            self._first = oldest
            while runs[0][0] + len(runs[0][1]) <= oldest:
                runs.popleft()
        for subscription in self._subscriptions:
            subscription.wake()

    def subscribe(self, last_id: int | None) -> "Subscription":
        """Read on after event `last_id`, or from now. Raises Unavailable over the limit of readers."""
        if len(self._subscriptions) >= self._readers:
            raise Unavailable("as many readers as are allowed", code="too_many_readers", retry_after=5.0)
        subscription = Subscription(self, last_id)
        self._subscriptions.add(subscription)
        return subscription

    def _forget(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)

    def _after(self, position: int) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
        """Events after `position` (at most 256), and whether that position is no longer (or was never) in the
        ring.
        """
        wanted = position + 1
        if wanted < self._first or wanted > self._next:
            return [], True
        out: list[tuple[int, dict[str, Any]]] = []
        for first, named, status, at, via, why in self._runs:
            if first + len(named) <= wanted:
                continue
            skipped = max(wanted - first, 0)
            for number, (id, client, sender) in enumerate(named[skipped:], first + skipped):
                fields: dict[str, Any] = {
                    "id": encode_id(id),
                    "to": client,
                    "from": sender,
                    "status": STATUS_NAMES[status],
                    "at": at,
                }
                if via:
                    fields["via"] = via
                if why:
                    fields["why"] = why
                out.append((number, fields))
                if len(out) == _PAGE:
                    return out, False
        return out, False


class Subscription:
    """One reader: an asynchronous iterator of (number, fields), or (number, "reset") where events were missed."""

    def __init__(self, ring: EventRing, last_id: int | None) -> None:
        self._ring = ring
        self._position = ring._next - 1 if last_id is None else last_id
        self._awake = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        self._awake.set()

    def close(self) -> None:
        self._closed = True
        self._ring._forget(self)
        self._awake.set()

    def __aiter__(self) -> AsyncIterator[tuple[int, dict[str, Any] | str]]:
        return self._read()

    async def _read(self) -> AsyncIterator[tuple[int, dict[str, Any] | str]]:
        while not self._closed:
            self._awake.clear()
            events, lost = self._ring._after(self._position)
            if lost:
                self._position = self._ring._next - 1
                yield self._position, RESET
                continue
            for number, fields in events:
                self._position = number
                yield number, fields
            if not events:
                await self._awake.wait()
