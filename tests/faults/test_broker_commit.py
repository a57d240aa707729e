"""Behind a real Mosquitto: SIGKILL in the two worst moments of a publish: received and not committed, committed and not
answered.

The disk is held there (planted.py), the gateway killed, and started again on the disk as it is. The broker sends again
what had no PUBACK of the gateway, framed clients repeat what had no `ok`. Not committed: it is one message, without a
mark. Committed: it is two of a plain device, and the second names the first; it is one of a framed client.
"""

import asyncio
from pathlib import Path

from tests.faults.behind import HOPELESS, behind_a_broker
from tests.faults.planted import HELD

# which of the clients publish; the disk is held from the first publish on
HOLD = ("--pad", HELD)
FRAMED = HOLD
PLAIN = ("--plain", "2", "--lasting", "--publishers", "0", *HOLD)
BOTH = ("--plain", "2", "--lasting", *HOLD)


async def test_killed_between_receive_and_commit(tmp_path: Path) -> None:
    async with behind_a_broker(tmp_path, *BOTH, bug="held_commit") as scene:
        await scene.until_true(lambda: scene.broker_figure("unacked"))
        assert await scene.stored() == []
        await scene.kill_gateway()
        await scene.load()
        verdict = await scene.end()
    assert (verdict["copies"], verdict["marked"]) == (0, 0)


async def losers(folder: Path, bug: str, *args: str) -> set[str]:
    """Whose publishes are lost, which were acknowledged and never committed."""
    async with behind_a_broker(folder, *args, bug=f"held_commit+{bug}", patience=HOPELESS) as scene:
        await scene.ledger.until(lambda f: f["acked"])
        await scene.until_true(lambda: scene.broker_figure("acked"))
        await scene.kill_gateway()
        verdict = await scene.ledger.verdict()
    return set(verdict["losers"])


async def test_an_answer_before_the_commit_is_found(tmp_path: Path) -> None:
    """Seen to fail: by `ok` before the commit framed clients lose, by the link's PUBACK before it plain ones."""
    framed, plain = await asyncio.gather(
        losers(tmp_path / "framed", "ok_at_once", *FRAMED),
        losers(tmp_path / "plain", "acked_at_once", *PLAIN),
    )
    assert {name.split("-")[0] for name in framed} == {"dev"}
    assert {name.split("-")[0] for name in plain} == {"plain"}


async def test_killed_between_commit_and_puback(tmp_path: Path) -> None:
    async with behind_a_broker(tmp_path, *PLAIN, bug="held_answer") as scene:
        await scene.until_true(scene.stored)
        await scene.kill_gateway()
        await scene.load()
        verdict = await scene.end()
    assert verdict["copies"] > 0


async def test_a_repetition_that_is_not_looked_up_is_found(tmp_path: Path) -> None:
    """Seen to fail: the second message names nobody."""
    async with behind_a_broker(tmp_path, *PLAIN, bug="held_answer") as scene:
        await scene.until_true(scene.stored)
        await scene.kill_gateway(then="not_looked_up")
        await scene.ledger.until(lambda f: f["copies"])
    assert scene.ledger.figures["twice"]
