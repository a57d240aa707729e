"""What was published, acknowledged and seen; a run that loses anything has failed, however fast it was."""

from collections import Counter
from typing import Any


class Ledger:
    """A message's number is its publisher's own, for each client that it publishes to, counted from 0."""

    def __init__(self, publishers: int, clients: int) -> None:
        self._sent = [[0] * clients for _ in range(publishers)]
        self._expected = [[0] * clients for _ in range(publishers)]
        self.published = self.acked = self.seen = 0
        self.duplicates = self.disorder = 0
        # messages that came as redeliveries
        self.marked = 0
        # what must not happen at all, and how often it did: refused publishes by code, lost connections
        self.faults: Counter[str] = Counter()

    def number(self, publisher: int, client: int) -> int:
        """The number of the publisher's next message to the client."""
        sent = self._sent[publisher]
        n = sent[client]
        sent[client] = n + 1
        self.published += 1
        return n

    def sight(self, publisher: int, client: int, n: int) -> None:
        """A message reached its client."""
        expected = self._expected[publisher]
        if n < expected[client]:
            self.duplicates += 1
            return
        if n > expected[client]:
            self.disorder += 1
        expected[client] = n + 1
        self.seen += 1

    def figures(self) -> dict[str, Any]:
        """`clean`: everything published was acknowledged and seen once, in order; without a fault nothing is marked."""
        lost = self.acked - self.seen
        unanswered = self.published - self.acked
        return {
            "published": self.published,
            "acknowledged": self.acked,
            "received": self.seen,
            "lost": lost,
            "unanswered": unanswered,
            "duplicated": self.duplicates,
            "out_of_order": self.disorder,
            "marked": self.marked,
            "faults": dict(self.faults),
            "clean": not (
                lost or unanswered or self.duplicates or self.disorder or self.marked or self.faults
            ),
        }
