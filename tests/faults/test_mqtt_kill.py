"""SIGKILL of the gateway under load, with plain MQTT devices of both versions as publishers and receivers.

What was PUBACKed is there; what comes again comes under its old packet id, with DUP; a publish that its device had to
repeat is one message, or two of which the second names the first. Each of these is seen to fail on its planted bug.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import LedgerProcess, assert_clean, fixed_ports, kill_again
from tests.support.process import GatewayProcess

KILLS = 20
NEW_ACKS = 800
DEVICES = 4


async def run(folder: Path, kills: int, bug: str = "") -> dict[str, Any]:
    """Kill the gateway again and again, each time after many new PUBACKs and with publishes outstanding."""
    gateway = GatewayProcess(folder, env=fixed_ports(), bug=bug)
    # what a planted bug has lost is not worth waiting for
    patience = "2" if bug else "60"
    async with gateway, LedgerProcess(gateway, "--patience", patience, kind="mqtt") as ledger:
        await kill_again(gateway, ledger, kills, NEW_ACKS, hopeless=bool(bug))
        return await ledger.verdict()


@pytest.mark.timeout(280)
async def test_nothing_that_was_pubacked_is_lost(tmp_path: Path) -> None:
    verdict = await run(tmp_path, KILLS)
    assert_clean(verdict)
    assert not verdict["refusals"], verdict
    # the kills were noticed: sessions were present, publishes were repeated, and some of them had been accepted
    assert verdict["welcomes"]["resumed"] >= KILLS * DEVICES
    assert verdict["welcomes"]["new"] == DEVICES
    assert verdict["marked"] > 0
    assert verdict["copies"] > 0


async def test_without_a_fault_nothing_is_marked(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path) as gateway, LedgerProcess(gateway, kind="mqtt") as ledger:
        await ledger.until(lambda f: f["acked"] >= NEW_ACKS)
        verdict = await ledger.verdict()
    assert_clean(verdict)
    assert (verdict["marked"], verdict["copies"], verdict["endings"]) == (0, 0, {})


@pytest.mark.parametrize(
    ("bug", "finds"),
    [
        ("acked_before_commit", "lost"),
        ("without_dup", "duplicates"),
        ("ids_anew", "ids"),
        ("not_looked_up", "twice"),
    ],
)
async def test_a_planted_bug_is_found(tmp_path: Path, bug: str, finds: str) -> None:
    """Seen to fail: PUBACK before the commit, no DUP, packet ids counted anew, repeated publishes not looked up."""
    kills = 0
    verdict: dict[str, Any] = {}
    while kills < 4 and not verdict.get(finds):
        kills += 1
        verdict = await run(tmp_path / str(kills), 2, bug)
    assert verdict[finds], verdict
