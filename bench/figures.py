"""How a run is measured: latency in a histogram, CPU and time over a stretch, what the gateway says of itself.

Latency at a fixed rate counts from the moment at which a message was due by the schedule, not from when it was sent:
a server that stands still for a second delays all that were due in it, and each of them counts (no coordinated
omission).
"""

import math
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.server import Server

# buckets of an octave: each is 2.2 % wider than the one before
FINE = 32
SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
PROBES = 300
PROBE_BYTES = 4096


class Histogram:
    """Durations in logarithmic buckets, from a microsecond."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0

    def add(self, seconds: Iterable[float]) -> None:
        counts = self.counts
        for value in seconds:
            at = math.ceil(math.log2(value * 1e6) * FINE) if value > 1e-6 else 0
            counts[at] = counts.get(at, 0) + 1
            self.total += 1

    def at(self, share: float) -> float:
        """The upper bound, in ms, of the bucket in which this share of the values ends; 0 where there is none."""
        left = math.ceil(self.total * share)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return round(2 ** (bucket / FINE) / 1000, 3)
        return 0.0

    def figures(self) -> dict[str, Any]:
        """Percentiles in ms, and `histogram`: [upper bound in ms, count] of each bucket that is not empty."""
        buckets = [[round(2 ** (b / FINE) / 1000, 4), self.counts[b]] for b in sorted(self.counts)]
        return {name: self.at(share) for name, share in SHARES.items()} | {"histogram": buckets}


class Meter:
    """A stretch of a run: `begin`, what is measured, `end(messages)`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._told: dict[str, float] = {}
        self._cpu = self._own = self._start = 0.0

    async def begin(self) -> None:
        self._told = await self.server.told()
        self._cpu, self._own, self._start = self.server.cpu(), time.process_time(), time.perf_counter()

    async def end(self, count: int) -> dict[str, Any]:
        """Rate and CPU for `count` messages, of the server and of this process, and the gateway's own figures."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        cpu = self.server.cpu() - self._cpu
        own = time.process_time() - self._own
        each = max(count, 1)
        return {
            "messages": count,
            "seconds": round(seconds, 3),
            "rate": round(count / seconds),
            "cpu_us": round(cpu / each * 1e6, 2),
            "load_us": round(own / each * 1e6, 2),
            "server_busy": round(cpu / seconds, 2),
            "load_busy": round(own / seconds, 2),
            "rss_mib": round(self.server.rss() / (1 << 20), 1),
            **between(self._told, await self.server.told()),
        }


# figure -> its histogram in /metrics, the share, and how many of its units are one of the histogram's
_TOLD = {
    "lag_p99_ms": ("botgw_loop_lag_seconds", 0.99, 1000),
    "lag_max_ms": ("botgw_loop_lag_seconds", 1.0, 1000),
    "ack_p99_ms": ("botgw_ack_seconds", 0.99, 1000),
    "commit_p99_ms": ("botgw_commit_seconds", 0.99, 1000),
    "commit_p50_operations": ("botgw_commit_operations", 0.5, 1),
    "commit_p99_operations": ("botgw_commit_operations", 0.99, 1),
}


def between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The gateway's histograms over a stretch: upper bounds of its buckets. Empty for a server that tells nothing."""
    figures = {}
    for figure, (name, share, unit) in _TOLD.items():
        head = f'{name}_bucket{{le="'
        counts = [
            (float(key[len(head) : -2]), value - before.get(key, 0.0))
            for key, value in after.items()
            if key.startswith(head)
        ]
        total = max((count for _, count in counts), default=0.0)
        if total:
            reached = [bound for bound, count in counts if count >= total * share and math.isfinite(bound)]
            # beyond the last bucket: at least its bound
            bound = min(reached) if reached else max(bound for bound, _ in counts if math.isfinite(bound))
            figures[figure] = round(bound * unit, 3)
    return figures


def fdatasync_p99_ms(folder: Path) -> float:
    """What `fdatasync` after a small append takes on the disk of `folder`: the 99th percentile in ms."""
    path = folder / f"botgw-bench-{os.getpid()}.probe"
    times = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(PROBES):
                file.write(bytes(PROBE_BYTES))
                start = time.perf_counter()
                os.fdatasync(file.fileno())
                times.append((time.perf_counter() - start) * 1000)
    finally:
        path.unlink(missing_ok=True)
    return round(statistics.quantiles(times, n=100)[98], 3)
