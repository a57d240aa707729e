"""SIGKILL under load: nothing acknowledged is lost, nothing comes twice unmarked, order holds.

A killed process loses nothing that it had handed to the kernel, so this cannot show a missing fsync (test_fsync.py
does); it shows an answer before its commit, a seq bound twice, a mark forgotten, a retry forgotten.
"""

from pathlib import Path

import pytest

from tests.faults.harness import LedgerProcess, assert_clean, fixed_ports, kill_again
from tests.support.process import GatewayProcess

KILLS = 20
NEW_ACKS = 1000


async def run(folder: Path, kills: int, bug: str = "", where: str = "") -> dict[str, object]:
    """Kill the gateway again and again, each time after 1,000 new acknowledgements and with publishes outstanding."""
    gateway = GatewayProcess(folder, env=fixed_ports(), bug=bug or where)
    # what a planted bug has lost is not worth waiting for
    patience = "8" if bug else "60"
    async with gateway, LedgerProcess(gateway, "--patience", patience) as ledger:
        await kill_again(gateway, ledger, kills, NEW_ACKS, hopeless=bool(bug))
        return await ledger.verdict()


@pytest.mark.timeout(280)
@pytest.mark.parametrize("where", ["on_loop", "on_writer"])
async def test_nothing_acknowledged_is_lost(tmp_path: Path, where: str) -> None:
    verdict = await run(tmp_path, KILLS, where=where)
    assert_clean(verdict)
    # the kills were noticed: sessions were resumed, never begun anew
    assert verdict["welcomes"]["resumed"] >= KILLS
    assert verdict["welcomes"]["new"] == 4


@pytest.mark.parametrize(("bug", "finds"), [("acked_before_commit", "lost"), ("unmarked", "duplicates")])
async def test_a_planted_bug_is_found(tmp_path: Path, bug: str, finds: str) -> None:
    """Seen to fail: with `ok` before the commit messages are lost, without marks duplicates come unmarked."""
    kills = 0
    verdict: dict[str, object] = {}
    while kills < 4 and not verdict.get(finds):
        kills += 1
        verdict = await run(tmp_path / str(kills), 3, bug)
    assert verdict[finds], verdict
