"""What `/metrics` says. Counting is plain integers on the hot path; a collector reads them when somebody scrapes.

Names follow Prometheus: base units, `_total` for counters. No label carries a client id, a message id or an address.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.commit import Commit
from gateway.ids import encode_id
from gateway.model import STATUS_NAMES, Item, Status
from gateway.observe.log import get_logger
from gateway.wire import trace_of

LATENCY_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000, 600_000, 86_400_000)
# fine around what a user begins to feel
LAG_MS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000, 10_000, 60_000)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class Buckets:
    """A histogram of integers: one bisect and two additions an observation."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def add(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, values: list[int]) -> None:
        """The same for many."""
        bounds, counts = self.bounds, self.counts
        # there are few different ones
        for value, count in Counter(values).items():
            counts[bisect_left(bounds, value)] += count
        self.sum += sum(values)

    def family(self, name: str, text: str, unit: float) -> HistogramMetricFamily:
        """As Prometheus wants it, `unit` base units to one of ours."""
        return HistogramMetricFamily(name, text, buckets=self.cumulative(unit), sum_value=self.sum * unit)

    def cumulative(self, unit: float) -> list[tuple[str, float]]:
        """How many up to each bound, in base units."""
        out: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            total += count
            out.append((f"{bound * unit:g}", float(total)))
        out.append(("+Inf", float(total + self.counts[-1])))
        return out


class ChannelFigures(NamedTuple):
    """What metrics say of a channel beside its attempts, which the Watch counts."""

    took_ms: Buckets
    breaker: int  # 0 closed, 1 half open, 2 open
    in_flight: int
    paused_until: float  # Unix s; 0: it is not


class Watch:
    """The hub's Observer: counts, and a log line for what an operator looks for."""

    def __init__(self) -> None:
        self._log = get_logger("messages")
        self.statuses: dict[tuple[int, str], int] = {}
        self.attempts: dict[tuple[str, str], int] = {}
        self.receipts: dict[tuple[str, str], int] = {}
        self.addresses: dict[tuple[str, str], int] = {}
        self.ack_ms = Buckets(LATENCY_MS)
        self.commit_ms = Buckets(LATENCY_MS)
        self.commit_size = Buckets(SIZES)
        self.lag_ms = Buckets(LAG_MS)
        self.waiting: dict[
            str, int
        ] = {}  # rows that wait for an attempt, by channel, as the last scrape found them
        self.trace_root = ""

    def committed(self, commit: Commit, seconds: float) -> None:
        self.commit_ms.add(round(seconds * 1000))
        self.commit_size.add(
            len(commit.appends)
            + len(commit.ops)
            + sum(len(ids) for _, _, _, ids in commit.settles)
            + sum(len(items) for _, _, items in commit.binds)
        )

    def acked(self, elapsed: list[int]) -> None:
        self.ack_ms.add_all(elapsed)

    def attempt(self, channel: str, kind: str) -> None:
        key = (channel, kind)
        self.attempts[key] = self.attempts.get(key, 0) + 1

    def receipt(self, channel: str, what: str) -> None:
        key = (channel, what)
        self.receipts[key] = self.receipts.get(key, 0) + 1

    def learnt(self, channel: str, what: str) -> None:
        key = (channel, what)
        self.addresses[key] = self.addresses.get(key, 0) + 1

    def lag(self, elapsed: int) -> None:
        """The loop came `elapsed` ms late to a moment at which something was due."""
        self.lag_ms.add(elapsed)

    def on_their_way(self, items: list[Item], status: int, at: int, via: str) -> None:
        self._count(len(items), status, via)

    def _count(self, count: int, status: int, via: str) -> None:
        key = (status, via)
        self.statuses[key] = self.statuses.get(key, 0) + count

    def status(self, item: Item, status: int, at: int, via: str, why: str) -> None:
        self._count(1, status, via)
        if status in _TOLD:
            self._log.info(
                STATUS_NAMES[status],
                message=encode_id(item.id),
                trace=trace_of(item, self.trace_root).split("-")[1],
                client=item.client,
                via=via or None,
                why=why or None,
            )


# what is logged at `info`: what did not simply reach its client
_TOLD = {
    Status.HANDED_OVER,
    Status.PROVIDER_ACCEPTED,
    Status.PROVIDER_DELIVERED,
    Status.PROVIDER_READ,
    Status.EXPIRED,
    Status.CANCELLED,
    Status.DEAD,
}

# figure -> (metric, help, counter?, base units to one of ours)
_HUB = {
    "accepted": ("messages_accepted", "Messages accepted, status reports included.", True, 1),
    "refused": ("publishes_refused", "Publishes refused.", True, 1),
    "delivered": ("frames_delivered", "Messages, statuses and gaps written to connections.", True, 1),
    "acked": ("messages_acked", "Messages acked by their clients.", True, 1),
    "redelivered": ("messages_redelivered", "Redeliveries after an ack timeout.", True, 1),
    "handed_over": ("messages_handed_over", "Messages handed over to their fallback chain.", True, 1),
    "resumed": ("sessions_resumed", "Welcomes that resumed a session.", True, 1),
    "epochs": ("sessions_begun", "Welcomes that began an epoch.", True, 1),
    "reports_dropped": (
        "status_reports_dropped",
        "Status reports over the limit of their publisher.",
        True,
        1,
    ),
    "commits": ("commits", "Commits that reached the disk.", True, 1),
    "commit_failures": ("commit_failures", "Commits that failed.", True, 1),
    "purged": ("rows_purged", "Rows purged after their retention.", True, 1),
    "clock_steps": ("clock_steps", "Forward steps of the wall clock that were followed.", True, 1),
    "due_lateness_ms": ("due_lateness_seconds", "How late the last due row was looked at.", False, 0.001),
    "connections": ("connections", "Open connections.", False, 1),
    "joins_waiting": ("joins_waiting", "Hellos that wait for room in a commit.", False, 1),
    "queued": ("messages_queued", "Messages waiting for their clients.", False, 1),
    "queue_deepest": ("queue_deepest", "Messages waiting for the client with the most.", False, 1),
    "in_flight": ("messages_in_flight", "Messages bound to a seq and unsettled.", False, 1),
    "custody_in_flight": ("custody_in_flight", "Messages on their way to a broker's PUBACK.", False, 1),
    "custody_published": ("custody_published", "Messages published once, into a broker's custody.", True, 1),
    "custody_acked": ("custody_acked", "PUBACKs of a broker for these.", True, 1),
    "custody_unacked": ("custody_unacked", "Those that a broker refused, or left unanswered.", True, 1),
    "intake_bytes": ("intake_bytes", "Bodies waiting for a commit.", False, 1),
}


class _Collector(Collector):
    def __init__(
        self,
        watch: Watch,
        hub: Callable[[], Mapping[str, float]],
        ready: Callable[[], str],
        parts: Mapping[str, Callable[[], Mapping[str, object]]],
        channels: Callable[[], Mapping[str, ChannelFigures]],
    ) -> None:
        self._watch = watch
        self._hub = hub
        self._ready = ready
        self._parts = parts
        self._channels = channels

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("botgw_build", "The running version.", {"version": __version__})
        yield GaugeMetricFamily("botgw_ready", "1 where /readyz says ok.", 0 if self._ready() else 1)
        yield from self._of_hub()
        yield from self._of_watch()
        yield from self._of_channels()
        for part, figures in self._parts.items():
            yield from _flat(part, figures())

    def _of_hub(self) -> Iterable[Metric]:
        states = GaugeMetricFamily("botgw_sessions", "Known sessions by state.", labels=["state"])
        for key, value in self._hub().items():
            if key.startswith("sessions_"):
                states.add_metric([key.removeprefix("sessions_")], value)
                continue
            name, text, counter, unit = _HUB[key]
            family = CounterMetricFamily if counter else GaugeMetricFamily
            yield family(f"botgw_{name}", text, value * unit)
        yield states

    def _of_watch(self) -> Iterable[Metric]:
        watch = self._watch
        statuses = CounterMetricFamily(
            "botgw_statuses", "Status changes committed.", labels=["status", "via"]
        )
        for (status, via), count in watch.statuses.items():
            statuses.add_metric([STATUS_NAMES[status], via], count)
        yield statuses
        attempts = CounterMetricFamily(
            "botgw_attempts", "Attempts at fallback channels by outcome.", labels=["channel", "outcome"]
        )
        for (channel, kind), count in watch.attempts.items():
            attempts.add_metric([channel, kind], count)
        yield attempts
        receipts = CounterMetricFamily(
            "botgw_receipts", "What providers called back with.", labels=["channel", "what"]
        )
        for (channel, what), count in watch.receipts.items():
            receipts.add_metric([channel, what], count)
        yield receipts
        addresses = CounterMetricFamily(
            "botgw_addresses_learnt", "What providers told of addresses.", labels=["channel", "what"]
        )
        for (channel, what), count in watch.addresses.items():
            addresses.add_metric([channel, what], count)
        yield addresses
        yield watch.ack_ms.family("botgw_ack_seconds", "From acceptance to the client's ack.", 0.001)
        yield watch.commit_ms.family("botgw_commit_seconds", "From submission to durability.", 0.001)
        yield watch.commit_size.family("botgw_commit_operations", "Operations in a commit.", 1)
        yield watch.lag_ms.family("botgw_loop_lag_seconds", "How late the event loop is.", 0.001)

    def _of_channels(self) -> Iterable[Metric]:
        took = HistogramMetricFamily("botgw_attempt_seconds", "How long attempts took.", labels=["channel"])
        breaker, in_flight, paused, waiting = (
            GaugeMetricFamily(f"botgw_channel_{name}", text, labels=["channel"])
            for name, text in (
                ("breaker", "The circuit breaker: 0 closed, 1 half open, 2 open."),
                ("in_flight", "Attempts under way."),
                (
                    "paused_until_seconds",
                    "Until when the provider asked for a pause, Unix time; 0: it did not.",
                ),
                ("waiting", "Messages that wait for an attempt."),
            )
        )
        for name, figures in self._channels().items():
            took.add_metric([name], figures.took_ms.cumulative(0.001), figures.took_ms.sum * 0.001)
            breaker.add_metric([name], figures.breaker)
            in_flight.add_metric([name], figures.in_flight)
            paused.add_metric([name], figures.paused_until)
            waiting.add_metric([name], self._watch.waiting.get(name, 0))
        yield from (took, breaker, in_flight, paused, waiting)


def _flat(part: str, figures: Mapping[str, object]) -> Iterable[Metric]:
    """The figures of a part: numbers, or numbers by one label."""
    for key, value in figures.items():
        name = f"botgw_{part}_{key}"
        if isinstance(value, int | float):
            yield GaugeMetricFamily(name, f"{part}: {key.replace('_', ' ')}.", value)
        elif isinstance(value, Mapping):
            family = GaugeMetricFamily(name, f"{part}: {key.replace('_', ' ')}.", labels=["of"])
            for label, count in value.items():
                if isinstance(count, int | float):
                    family.add_metric([str(label)], count)
            yield family


def exposition(
    watch: Watch,
    hub: Callable[[], Mapping[str, float]],
    ready: Callable[[], str],
    parts: Mapping[str, Callable[[], Mapping[str, object]]],
    channels: Callable[[], Mapping[str, ChannelFigures]] = dict,
) -> Callable[[], bytes]:
    """The text of `/metrics`, made anew at each call. `parts`: figures of the store and the listeners."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(watch, hub, ready, parts, channels))
    return lambda: generate_latest(registry)
