"""Behind a real Mosquitto, under load: the gateway killed, the broker killed under default persistence, the network
between them cut, connections that outlive their successors.

What `ok` named is there, once or marked, in its publisher's order. Of what plain devices published the gateway loses
nothing that it has fetched; what only the broker had may go with it. Each of these is seen to fail on a planted bug.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.behind import FRAMED, HOPELESS, LINKS, behind_a_broker

GATEWAY_KILLS = 5
BROKER_KILLS = 3
RIVALS = ("dev-4", "dev-5")
HEARTBEAT_LOST = 4002
PLAIN = ("--plain", "2")
DUEL = ("--rivals", str(len(RIVALS)))
# of rivals: less than their silence
HEARTBEAT = 0.6


def resumed(times: int) -> Callable[[dict[str, Any]], bool]:
    """Whether every session was resumed so often."""
    return lambda figures: figures["welcomes"]["resumed"] >= times * FRAMED


async def test_the_gateway_is_killed(tmp_path: Path) -> None:
    """The broker keeps what plain devices publish meanwhile, and sends again what was not committed."""
    async with behind_a_broker(tmp_path, *PLAIN, "--lasting") as scene:
        for n in range(GATEWAY_KILLS):
            await scene.load(resumed(n))
            await scene.kill_gateway()
        await scene.ledger.until(resumed(GATEWAY_KILLS))
        verdict = await scene.end()
    # no connection was known any more
    assert verdict["unknown"] >= GATEWAY_KILLS * FRAMED
    assert verdict["welcomes"]["new"] == FRAMED
    assert verdict["marked"] > 0
    assert verdict["resent"] > 0
    assert verdict["custody"] > 0
    assert (verdict["adrift"], verdict["endings"]) == (0, {})


async def test_the_broker_is_killed(tmp_path: Path) -> None:
    """It loses every session and all that is under way in it."""
    async with behind_a_broker(tmp_path, *PLAIN) as scene:
        for n in range(BROKER_KILLS):
            await scene.load(resumed(n))
            await scene.kill_broker()
        await scene.ledger.until(resumed(BROKER_KILLS))
        verdict = await scene.end()
        lost = scene.lost_sessions()
    assert lost == BROKER_KILLS * LINKS
    assert verdict["absent"] >= BROKER_KILLS * FRAMED
    assert verdict["welcomes"]["new"] == FRAMED
    assert verdict["marked"] > 0
    assert verdict["resent"] > 0
    # of plain publishes nobody has promised that they arrive: those that did not are counted
    assert 0 <= verdict["adrift"] < verdict["custody"]


def met(figures: dict[str, Any]) -> bool:
    """Whether rivals have met in every way, and the device that may not publish has tried."""
    took_over = all(figures["takeovers"].get(name, 0) for name in RIVALS)
    gone_silent = any(ending.endswith(f" {HEARTBEAT_LOST}") for ending in figures["endings"])
    return took_over and gone_silent and all(figures[key] for key in ("stale", "half_open", "denied"))


async def test_one_fault_after_the_other(tmp_path: Path) -> None:
    """With rivals for a client id, stale wills, silence, and a device that publishes what it may not."""
    async with behind_a_broker(tmp_path, *PLAIN, *DUEL, "--denied", "--lossy", heartbeat=HEARTBEAT) as scene:
        await scene.load()
        await scene.kill_gateway()
        await scene.load()
        scene.proxy.cut()
        await scene.load(met)
        await scene.kill_broker()
        await scene.load()
        verdict = await scene.end()
        lost = scene.lost_sessions()
    assert lost == LINKS
    assert verdict["unknown"] >= FRAMED
    assert verdict["absent"] >= FRAMED
    assert verdict["marked"] > 0


async def test_without_a_fault_nothing_is_marked(tmp_path: Path) -> None:
    async with behind_a_broker(tmp_path, *PLAIN, "--lasting") as scene:
        await scene.load()
        verdict = await scene.end()
    assert [verdict[k] for k in ("marked", "copies", "absent", "unknown", "adrift")] == [0] * 5
    assert verdict["endings"] == {}
    assert verdict["welcomes"] == {"new": FRAMED, "resumed": 0}


async def test_a_session_that_is_taken_for_granted_is_found(tmp_path: Path) -> None:
    """Seen to fail: Session Present is 0, and the link does not subscribe again."""
    async with behind_a_broker(tmp_path, bug="trusting", patience=HOPELESS) as scene:
        await scene.load()
        await scene.kill_broker()
        await scene.linked()
        verdict = await scene.ledger.verdict()
    assert verdict["unanswered"] > 0, verdict


async def test_a_stale_will_that_counts_is_found(tmp_path: Path) -> None:
    """Seen to fail: a `bye` with an older nonce ends the present connection."""
    async with behind_a_broker(tmp_path, *DUEL, bug="any_bye") as scene:
        figures = await scene.ledger.until(lambda f: f["byes"])
    assert figures["byes"]


async def test_a_rule_that_is_missing_is_found(tmp_path: Path) -> None:
    """Seen to fail: what a device publishes for another one arrives."""
    async with behind_a_broker(tmp_path, "--denied", "--publishers", "0", rules="") as scene:
        await scene.ledger.until(lambda f: f["arrived"])
        verdict = await scene.ledger.verdict()
    assert verdict["false_acks"], verdict


async def test_a_link_that_forgets_is_found(tmp_path: Path) -> None:
    """Seen to fail: what was not acknowledged when the link was cut is taken twice, and the second one names nobody."""
    async with behind_a_broker(tmp_path, *PLAIN, "--lasting", bug="forgets+slow_answer") as scene:
        while not scene.ledger.figures.get("twice"):
            await scene.load()
            await scene.until_true(lambda: scene.broker_figure("unacked"))
            scene.proxy.cut()
    assert all(" plain-" in found for found in scene.ledger.figures["twice"])
