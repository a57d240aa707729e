"""A full disk, with plain MQTT devices publishing: they are sent away and not let in again until there is room, no
PUBACK says what is not so, and what they repeat then arrives.

The disk of test_disk_full.py. With the planted bug (a commit that found the disk full is taken for one that succeeded)
messages are missing that were PUBACKed, and the ledger says so.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.harness import LedgerProcess, assert_clean, fixed_ports, ready
from tests.faults.test_disk_full import small_disk
from tests.support.process import GatewayProcess

# bytes of a message
SIZE = 5000

__all__ = ["small_disk"]

SERVER_BUSY = 0x89
SERVER_UNAVAILABLE = 0x88


async def story(disk: Path, folder: Path, bug: str = "") -> dict[str, Any]:
    """Fill the disk with what devices publish, make space, wait until all has arrived; the gateway is killed meanwhile,
    so that only what is on the disk can.
    """
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (10 << 20))
    gateway = GatewayProcess(folder, f'data_dir = "{disk / "data"}"\n', env=fixed_ports(), bug=bug)
    patience = "2" if bug else "60"
    async with (
        gateway,
        LedgerProcess(gateway, "--size", str(SIZE), "--patience", patience, kind="mqtt") as ledger,
        gateway.http() as http,
    ):
        # devices have been sent away, and were refused when they came back: those of both versions, without the bug
        refusals = {f"{version} {SERVER_UNAVAILABLE}" for version in (4, 5)}
        if bug:
            # it may happen that none is ever refused: what is lost by then is enough
            with suppress(TimeoutError):
                await ledger.until(lambda f: bool(refusals & set(f["connacks"])), timeout=15.0)
        else:
            await ledger.until(lambda f: len(refusals & set(f["connacks"])) == 2)
        ledger.stop()
        ballast.unlink()
        if not bug:
            await ready(http, 200)
        await gateway.kill()
        await gateway.start()
        return await ledger.verdict()


async def test_sent_away_and_nothing_lost(small_disk: Path, tmp_path: Path) -> None:
    verdict = await story(small_disk, tmp_path / "run")
    assert_clean(verdict)
    assert not verdict["refusals"], verdict
    # 3.1.1 has no word for it
    assert {ending.rsplit(" ", 1)[1] for ending in verdict["endings"]} == {"0", str(SERVER_BUSY)}


async def test_taking_full_for_fine_would_lose_messages(small_disk: Path, tmp_path: Path) -> None:
    """Seen to fail: with the planted bug, messages that were PUBACKed never arrive."""
    verdict = await story(small_disk, tmp_path / "run", "full_is_fine")
    assert verdict["lost"], verdict
