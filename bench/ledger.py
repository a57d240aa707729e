"""What was published, acknowledged and seen; a run that loses anything has failed, however fast it was."""

from collections import Counter
from typing import Any


class Ledger:
    """A message's number is its publisher's own, for each client that it publishes to, counted from 0.

    disturbed   connections are cut or the server is killed on purpose: then a message may come again, if it says so
    """

    def __init__(self, publishers: int, *, disturbed: bool = False) -> None:
        self.disturbed = disturbed
        # of each publisher, by client: the next number to send, and to see
        self._sent: list[dict[int, int]] = [{} for _ in range(publishers)]
        self._expected: list[dict[int, int]] = [{} for _ in range(publishers)]
        self.published = self.acked = self.seen = 0
        self.duplicates = self.disorder = 0
        # messages that came as redeliveries, and those of them that had come before
        self.marked = self.repeated = 0
        # what must not happen at all, and how often it did: refused publishes by code, lost connections
        self.faults: Counter[str] = Counter()

    def number(self, publisher: int, client: int) -> int:
        """The number of the publisher's next message to the client."""
        sent = self._sent[publisher]
        n = sent.get(client, 0)
        sent[client] = n + 1
        self.published += 1
        return n

    def sight(self, publisher: int, client: int, n: int, *, marked: bool = False) -> None:
        """A message reached its client; `marked`: as a redelivery."""
        expected = self._expected[publisher]
        due = expected.get(client, 0)
        if n < due:
            if marked:
                self.repeated += 1
            else:
                self.duplicates += 1
            return
        if n > due:
            self.disorder += 1
        expected[client] = n + 1
        self.seen += 1

    def figures(self) -> dict[str, Any]:
        """`clean`: everything published was acknowledged and seen, in order, and what came twice was marked; where
        nothing was disturbed, nothing is marked.
        """
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
            "repeated": self.repeated,
            "faults": dict(self.faults),
            "clean": not (
                lost
                or unanswered
                or self.duplicates
                or self.disorder
                or (self.marked and not self.disturbed)
                or self.faults
            ),
        }
