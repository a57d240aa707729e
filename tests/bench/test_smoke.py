"""Every scenario, tiny: its ledger is clean. And a run that loses something fails."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.legs import GATEWAY, LEGS
from bench.report import page
from bench.scenarios import SCENARIOS
from bench.server import Gateway
from bench.summary import rows

ROOT = Path(__file__).parents[2]
# s: for what takes half a minute alone
TIMEOUT = 240.0


def bench(folder: Path, *args: str, module: tuple[str, ...] = ("bench",)) -> subprocess.CompletedProcess[str]:
    """Its servers have their folders in `folder`."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *module, *args], cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT,
        check=False,
    )  # fmt: skip


def test_every_scenario_loses_nothing(tmp_path: Path) -> None:
    done = bench(tmp_path, "--smoke", "--json", "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "folders of servers are left"
    result: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    driven = {(run["scenario"], run["leg"]) for run in result["runs"]}
    wanted = {(s.name, leg) for s in SCENARIOS.values() for leg in s.legs if leg in GATEWAY}
    assert driven == wanted - {pair for pair in wanted if LEGS[pair[1]].missing()}
    for run in result["runs"]:
        ledger = run["ledger"]
        assert ledger["clean"], run
        assert ledger["published"] == ledger["acknowledged"] == ledger["received"], run
        assert ledger["published"] > 0 or run["scenario"] == "idle", run
    # of the gateway's metrics, where there was anything to count in so short a time
    own = {"commit_p50_operations", "lag_p99_ms", "lag_max_ms"}
    for row in rows(result):
        assert set(SCENARIOS[row.scenario].columns) - own <= set(row.figures), row
    text = page([result], tmp_path / "page.md")
    titles = {line[3:] for line in text.splitlines() if line.startswith("## ")}
    assert titles >= set(SCENARIOS)
    assert "Not told (pipeline, stored, crowd): what they compare with is not in the same result." in text


@pytest.mark.parametrize(
    ("bug", "told"), [("loss", "'lost': 1"), ("duplicate", "'duplicated': 1"), ("order", "'out_of_order'")]
)
def test_a_planted_bug_makes_the_run_fail(tmp_path: Path, bug: str, told: str) -> None:
    # so that messages come several at a time
    few = ("--pipeline.clients", "2", "--pipeline.half", "0")
    done = bench(
        tmp_path, "pipeline", "--smoke", "--legs", "websocket", *few, module=("tests.bench.planted", bug)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT clean" in done.stdout
    # lines are as long as the terminal is wide
    assert told in " ".join(done.stdout.split())


async def test_a_deployment_is_driven_by_its_urls(tmp_path: Path) -> None:
    async with Gateway(64, core=None) as gateway:
        (tmp_path / "secret").write_text(gateway.secret + "\n")
        (tmp_path / "key").write_text(gateway.key)
        done = await asyncio.to_thread(
            bench, tmp_path, "pipeline", "trickle", "idle", "--runs", "1",
            *("--url", gateway.ws, "--url", gateway.mqtt, "--url", gateway.api),
            *("--jwt-secret-file", "secret", "--api-key-file", "key", "--max-clients", "4", "--max-rate", "500"),
            *("--pipeline.messages", "200", "--trickle.seconds", "0.2", "--idle.seconds", "0"),
            *("--json", "result.json"),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        left = await gateway.told()
    found = json.loads((tmp_path / "result.json").read_text())
    assert {(run["scenario"], run["leg"]) for run in found["runs"]} == {
        ("pipeline", "websocket"), ("pipeline", "mqtt"), ("pipeline", "http"), ("pipeline", "ndjson"),
        ("trickle", "websocket"), ("trickle", "mqtt"), ("idle", "websocket"), ("idle", "mqtt"),
    }  # fmt: skip
    for run in found["runs"]:
        parameters = run["parameters"]
        assert parameters.get("clients", 0) <= 4
        assert parameters.get("rate", 0) <= 500
        assert "cpu_us" not in run
    # what the run left was deleted
    assert sum(count for name, count in left.items() if name.startswith("botgw_sessions{")) == 0
