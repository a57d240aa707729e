"""What a channel's attempts came to: since the start, over the last hour, and why the last ones failed."""

from collections import Counter, deque
from typing import Any

from gateway.observe.metrics import LATENCY_MS, Buckets
from gateway.ports import Outcome

KINDS = ("accepted", "delivered", "retry", "refused", "ambiguous")
MINUTES = 60
FAILURES = 10  # that are remembered


class History:
    def __init__(self) -> None:
        self.ended = dict.fromkeys(KINDS, 0)
        self.took_ms = Buckets(LATENCY_MS)
        self._minutes: deque[tuple[int, Counter[str]]] = deque(maxlen=MINUTES)
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES)

    def add(self, outcome: Outcome, took: int, wall: float) -> None:
        """An attempt has ended after `took` ms, at `wall` (Unix s)."""
        kind = outcome.kind
        self.ended[kind] += 1
        self.took_ms.add(took)
        minute = int(wall // 60)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter()))
        self._minutes[-1][1][kind] += 1
        if kind not in {"accepted", "delivered"}:
            self._failures.append(
                {
                    "at": round(wall * 1000),
                    "outcome": kind,
                    "reason": outcome.reason,
                    "blame": outcome.blame,
                    "code": outcome.code,
                    "status": outcome.status,
                }
            )

    def last_hour(self, wall: float) -> dict[str, int]:
        """By kind, over the last 60 minutes by the clock."""
        total: Counter[str] = Counter()
        for minute, counts in self._minutes:
            if minute > wall // 60 - MINUTES:
                total += counts
        return {kind: total[kind] for kind in KINDS}

    def failures(self) -> list[dict[str, Any]]:
        """The last ones, newest first."""
        return list(reversed(self._failures))
