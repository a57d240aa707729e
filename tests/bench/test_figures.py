"""What figures mean: percentiles, the schedule of a fixed rate, the gateway's histograms, the ledger, targets."""

import asyncio
import os
from typing import Any

import pytest

from bench.figures import Histogram, between
from bench.harness import Deployment, Plan
from bench.ledger import Ledger
from bench.pipeline import Body, Pipeline
from bench.scenarios import SCENARIOS
from bench.server import Gateway, Remote, read_metrics
from bench.summary import rows


def test_percentiles_are_within_a_bucket() -> None:
    histogram = Histogram()
    histogram.add(ms / 1000 for ms in range(1, 1001))
    for share, ms in ((0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999)):
        assert ms <= histogram.at(share) <= ms * 1.023
    assert sum(count for _, count in histogram.figures()["histogram"]) == 1000
    assert Histogram().figures()["p99_ms"] == 0


class Silent(Pipeline):
    """A server that answers when it is told to."""

    def __init__(self, window: int) -> None:
        super().__init__(Remote(window, [], "", [], "", ""), 1, 2, 20, 0, lambda *_: None)
        self.sent: list[Body] = []

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        self.sent += [body for _, body in batch]


async def test_at_a_fixed_rate_latency_counts_from_when_a_message_was_due() -> None:
    load = Silent(window=3)
    await load.pace(1000.0, 20)
    assert len(load.sent) == 3, "the window is full, and the server stands still"
    for _ in range(20):
        load.answered(0, 1)
    assert len(load.sent) == 20
    # sent late, together; due one by one
    gaps = [b.at - a.at for a, b in zip(load.sent, load.sent[1:], strict=False)]
    assert gaps == [pytest.approx(0.001)] * 19


async def test_as_fast_as_it_goes_keeps_the_window_full() -> None:
    load = Silent(window=5)
    load.push(12)
    assert len(load.sent) == 5
    load.answered(0, 2)
    assert len(load.sent) == 7
    load.answered(0, 5)
    assert len(load.sent) == 12
    load.answered(0, 5)
    await load.settle(arriving=False)
    assert load.ledger.figures()["unanswered"] == 0
    assert load.ledger.figures()["lost"] == 12


def test_histograms_of_the_gateway_over_a_stretch() -> None:
    def told(*counts: int) -> dict[str, float]:
        bounds = ("0.001", "0.1", "+Inf")
        lines = [
            f'botgw_loop_lag_seconds_bucket{{le="{bound}"}} {count}.0'
            for bound, count in zip(bounds, counts, strict=True)
        ]
        return read_metrics("# HELP x\n" + "\n".join(lines) + "\n")

    # what was before does not count
    assert between(told(5, 50, 50), told(105, 150, 150)) == {"lag_p99_ms": 1.0, "lag_max_ms": 1.0}
    assert between(told(0, 0, 0), told(90, 100, 100)) == {"lag_p99_ms": 100.0, "lag_max_ms": 100.0}
    assert between(told(0, 0, 0), told(0, 0, 9))["lag_max_ms"] == 100.0
    assert between({}, {}) == {}


def sights(ledger: Ledger, *numbers: int, marked: bool = False) -> dict[str, Any]:
    for _ in range(3):
        ledger.number(0, 7)
    ledger.acked = 3
    for n in numbers:
        ledger.sight(0, 7, n, marked=marked)
    return ledger.figures()


def test_the_ledger_tells_loss_repetition_and_disorder() -> None:
    assert sights(Ledger(1), 0, 1, 2)["clean"]
    assert sights(Ledger(1), 0, 1)["lost"] == 1
    assert sights(Ledger(1), 0, 1, 1, 2)["duplicated"] == 1
    assert sights(Ledger(1), 0, 2, 1)["out_of_order"] == 1
    again = sights(Ledger(1, disturbed=True), 0, 1, 1, 2, marked=True)
    assert again["clean"]
    assert again["repeated"] == 1
    disturbed = Ledger(1, disturbed=True)
    disturbed.marked = 1
    assert sights(disturbed, 0, 1, 2)["clean"]
    calm = Ledger(1)
    calm.marked = 1
    assert not sights(calm, 0, 1, 2)["clean"]


def result(disk: float = 1.0, **figures: dict[str, list[float]]) -> dict[str, Any]:
    """Runs of `pipeline` with 10 clients: leg -> figure -> its values."""
    runs: list[dict[str, Any]] = []
    for leg, values in figures.items():
        for i in range(len(next(iter(values.values())))):
            run = {key: column[i] for key, column in values.items()}
            head = {"scenario": "pipeline", "leg": leg, "parameters": {"clients": 10}, "run": i}
            runs.append(head | run | {"ledger": {"clean": i != 3}})
    return {"runs": runs, "machine": {"fdatasync_p99_ms": disk}}


def test_rows_are_medians_with_their_spread() -> None:
    [row] = rows(result(mqtt={"cpu_us": [9.0, 7.0, 8.0]}))
    assert row.figures["cpu_us"] == 8.0
    assert row.spread["cpu_us"] == (7.0, 9.0)
    assert (row.runs, row.clean, row.targets[0].hit) == (3, True, None)
    [row] = rows(result(mqtt={"cpu_us": [9.0, 7.0, 8.0, 8.0]}))
    assert not row.clean


def test_targets_are_shares_of_the_peer_or_plain_bounds() -> None:
    half = {"half_p99_ms": [12.0]}
    own, _ = rows(result(mqtt={"cpu_us": [12.0]} | half, mosquitto={"cpu_us": [25.0]}))
    verdicts = {verdict.target.figure: verdict for verdict in own.targets}
    assert (verdicts["cpu_us"].hit, verdicts["cpu_us"].value) == (True, 0.48)
    assert (verdicts["half_p99_ms"].hit, verdicts["half_p99_ms"].bound) == (False, 10.0)
    # a slow disk: three times its fdatasync
    own, _ = rows(result(5.0, mqtt={"cpu_us": [13.0]} | half, mosquitto={"cpu_us": [25.0]}))
    verdicts = {verdict.target.figure: verdict for verdict in own.targets}
    assert (verdicts["half_p99_ms"].hit, verdicts["half_p99_ms"].bound) == (True, 15.0)
    assert not verdicts["cpu_us"].hit


def grown(**cpu: float) -> dict[str, Any]:
    """A run of `stored` for each: a leg and how much was stored, the cost."""
    runs = []
    for name, value in cpu.items():
        leg, _, stored = name.partition("_")
        head = {"scenario": "stored", "leg": leg, "parameters": {"stored": int(stored), "size": 64}, "run": 0}
        runs.append(head | {"cpu_us": value, "ledger": {"clean": True}})
    return {"runs": runs, "machine": {}}


def test_flat_is_told_of_the_largest_and_the_smallest_of_one_leg() -> None:
    found = rows(grown(mqtt_1000=8.0, websocket_1000=4.0, mqtt_10=9.0, mqtt_100=10.0))
    verdicts = {(row.leg, row.parameters["stored"]): row.targets for row in found}
    # it stands where the most is stored, wherever that was run
    [verdict] = verdicts["mqtt", 1000]
    assert (verdict.value, verdict.hit) == (1.25, True)
    assert not verdicts["mqtt", 10] + verdicts["mqtt", 100]
    # of one case nothing can be told
    [verdict] = verdicts["websocket", 1000]
    assert verdict.hit is None
    assert "one case" in verdict.text()
    steeper = rows(grown(mqtt_10=10.1, mqtt_100=8.0))
    assert [verdict.hit for row in steeper for verdict in row.targets] == [False]


async def test_a_server_has_its_core_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned after its start (so it was), it was started with all cores."""
    spawn, seen = asyncio.create_subprocess_exec, []

    async def spawning(*args: Any, **named: Any) -> asyncio.subprocess.Process:
        seen.append(os.sched_getaffinity(0))
        return await spawn(*args, **named)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawning)
    before = os.sched_getaffinity(0)
    core = min(before)
    stub = Gateway(64, core)
    try:
        stderr = await stub.spawn("/bin/sh", "-c", "exit 0")
        assert await stderr.read() == b""
    finally:
        await stub.stop()
    assert seen == [before if stub.core is None else {core}]
    assert os.sched_getaffinity(0) == before


def test_options_take_the_place_of_a_sweep() -> None:
    plan = Plan(["pipeline"], options={"pipeline": {"clients": (5, 6), "window": (64,)}})
    cases = plan.cases(SCENARIOS["pipeline"])
    assert [(case.clients, case.window) for case in cases] == [(5, 64), (6, 64)]  # type: ignore[attr-defined]


def test_a_deployment_is_asked_for_no_more_than_is_allowed() -> None:
    plan = Plan(["pipeline"], deployment=Deployment(["wss://gw.example"], "s", max_clients=50))
    cases = plan.cases(SCENARIOS["pipeline"])
    assert [(case.clients, case.rate, case.half) for case in cases] == [(10, 1000, 0), (50, 1000, 0)]  # type: ignore[attr-defined]
    assert [leg.name for leg in plan.legs_of(SCENARIOS["pipeline"])] == ["websocket"]
    assert plan.legs_of(SCENARIOS["crash"]) == []


async def test_the_cpu_of_a_server_that_has_ended_is_an_error() -> None:
    gateway = Gateway(64)
    with pytest.raises(RuntimeError):
        gateway.cpu()
    await gateway.stop()
