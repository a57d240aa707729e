"""The simulation in CI: some hundred seeds over the profiles, the same seed gives the same trace, every planted bug is
found.
"""

import os
import subprocess
import sys

import pytest

from gateway.errors import Close
from gateway.hub import hub, joining, turn
from gateway.model import Status
from tests.sim.bugs import PLANTED, planted
from tests.sim.profiles import PROFILES
from tests.sim.world import Broken, run

# per profile; together with those of the other tests well over 300
SEEDS = {
    "calm": 30,
    "receipts": 60,
    "links": 60,
    "crashes": 50,
    "store": 50,
    "stubborn": 40,
    "everything": 80,
    "devices": 50,
    "mixed": 20,
}
CHUNK = 10
SLICED = 6
# a planted bug shows within so many
LOOK = 60


@pytest.mark.parametrize(
    ("profile", "start"),
    [(name, start) for name, count in SEEDS.items() for start in range(0, count, CHUNK)],
)
def test_promises_hold(profile: str, start: int) -> None:
    for seed in range(start, start + CHUNK):
        world = run(PROFILES[profile], seed)
        assert world.ledger.drafts, "nobody published anything"


@pytest.mark.parametrize("profile", PROFILES)
def test_promises_hold_in_small_slices(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join a commit, a session and a connection a turn, one at a time asked to leave: what only a storm of thousands
    would meet. Seen to fail where what is over a slice is forgotten.
    """
    monkeypatch.setattr(joining, "JOINS_A_COMMIT", 1)
    monkeypatch.setattr(turn, "TOUCHED_A_TURN", 1)
    monkeypatch.setattr(hub, "LEAVES_A_TURN", 1)
    for seed in range(SLICED):
        run(PROFILES[profile], seed)


@pytest.mark.parametrize("profile", PROFILES)
def test_same_seed_same_trace(profile: str) -> None:
    first = run(PROFILES[profile], 7)
    run(PROFILES["everything"], 8)
    assert run(PROFILES[profile], 7).digest() == first.digest()
    assert run(PROFILES[profile], 9).digest() != first.digest()


def test_same_trace_in_another_process() -> None:
    """Nothing hangs on the order of sets or on addresses."""

    def digests(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.sim.run", "--seeds", "2", "--start", "20", "--digest"]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert digests("1") == digests("2")


def test_faults_happen() -> None:
    """What a profile promises to go wrong does, and what is to be exercised is."""
    happened = {what for seed in range(6) for _, _, what, _ in run(PROFILES["everything"], seed).lines}
    assert {"crash", "drain", "fails", "clock", "cut", "attempt", "cancel", "boot"} <= happened
    assert {"held", "rests", "opens"} <= happened
    acts = {
        data for seed in range(6) for _, _, what, data in run(PROFILES["links"], seed).lines if what == "act"
    }
    assert {"bye", "cut", "duel", "forget", "stale", "stall", "rude"} <= acts


def test_devices_do_what_devices_do() -> None:
    """Sessions go from one transport to the other and back, in every way that PROTOCOL 4 knows. That a device is told
    of its take-over is rare: it has nearly always hung up before.
    """
    sent: set[str] = set()
    ends: set[int] = set()
    vias: set[str] = set()
    present: set[bool] = set()
    qos: set[int] = set()
    reports = 0
    for seed in range(LOOK):
        if seed >= 8 and Close.TAKEN_OVER in ends:
            break
        world = run(PROFILES["devices"], seed)
        for _, _, what, data in world.lines:
            match what, data:
                case "send", {"t": kind}:
                    sent.add(kind)
                case "got", {"t": "connack", "present": known}:
                    present.add(known)
                case "got", {"t": "publish", "qos": granted}:
                    qos.add(granted)
                case "closed", int(code):
                    ends.add(code)
                case _:
                    pass
        vias |= {row.via for row in world.disk.rows() if row.status == Status.DELIVERED}
        reports += sum(len(log.reports) for log in world.ledger.clients.values())
    assert {"hello", "bye", "connect", "subscribe", "unsubscribe", "puback", "disconnect", "publish"} <= sent
    assert {Close.ACK_TIMEOUT, Close.TAKEN_OVER} <= ends
    assert {"ws", "mqtt"} <= vias
    assert present == {True, False}
    assert qos == {0, 1}
    assert reports


def seen(profile: str, bug: str) -> int:
    """The first seed that shows a bug."""
    for seed in range(LOOK):
        try:
            with planted(bug):
                run(PROFILES[profile], seed)
        except Broken:
            return seed
    pytest.fail(f"{LOOK} seeds do not show it")


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(bug: str) -> None:
    profile = PLANTED[bug][1]
    seed = seen(profile, bug)
    run(PROFILES[profile], seed)
