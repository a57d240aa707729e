"""What was published, acknowledged and seen; a run that loses anything has failed, however fast it was."""

from typing import Any


class Ledger:
    """Indexes are the publisher's own, per receiving client, counted from 0."""

    def __init__(self, clients: int) -> None:
        self.sent = [0] * clients
        self.acked = 0
        self.expected = [0] * clients
        self.seen = 0
        self.marked = self.duplicates = self.disorder = 0
        self.refused: dict[str, int] = {}

    def sight(self, client: int, n: int, marks: int) -> None:
        """A message reached its client."""
        if marks:
            self.marked += 1
        if n < self.expected[client]:
            self.duplicates += 1
            return
        if n > self.expected[client]:
            self.disorder += 1
        self.expected[client] = n + 1
        self.seen += 1

    def figures(self) -> dict[str, Any]:
        lost = self.acked - self.seen
        return {
            "published": sum(self.sent),
            "acknowledged": self.acked,
            "received": self.seen,
            "lost": lost,
            "duplicated": self.duplicates,
            "out_of_order": self.disorder,
            "marked": self.marked,
            "refused": self.refused,
            "clean": not (lost or self.duplicates or self.disorder or self.refused),
        }
