"""A disk that fails to sync: no publish of a failed batch is acknowledged, nothing acknowledged is lost.

fdatasync is made to fail in the running process by libfiu (Debian fiu-utils). The gateway must refuse, reopen, and
answer again only when a checkpoint has gone through. With `synchronous=OFF` planted nothing syncs, so nothing fails, so
everything is acknowledged: the test must see that. Small commits are made on the loop's thread or on the writer's: both
are seen.
"""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.faults.harness import fixed_ports, ready
from tests.support.process import GatewayProcess

FAULTS = ("posix/io/sync/fdatasync", "posix/io/sync/fsync")


def fiu(folder: Path, pid: int, verb: str) -> None:
    """Switch the failing of syncs in a running process."""
    commands = [part for name in FAULTS for part in ("-c", f"{verb} name={name}")]
    subprocess.run(["fiu-ctrl", "-f", str(folder / "fiu"), *commands, str(pid)], check=True, timeout=20)


def wrapped(folder: Path, bug: str) -> GatewayProcess:
    assert shutil.which("fiu-run"), "fiu-utils is not installed: make test installs it"
    wrap = ("fiu-run", "-x", "-f", str(folder / "fiu"))
    return GatewayProcess(folder, env=fixed_ports(), wrap=wrap, bug=bug)


async def publish(http: aiohttp.ClientSession, n: int) -> tuple[int, str]:
    async with http.post("/v1/messages", json={"to": "alice", "body": {"n": n}, "key": f"k{n}"}) as answer:
        body = await answer.json()
        return answer.status, body.get("id") or body["code"]


async def answers_while_failing(folder: Path, where: str, bug: str = "") -> Counter[int]:
    """Publish while every sync fails; then heal, and check that the gateway comes back whole."""
    gateway = wrapped(folder, f"{where}+{bug}" if bug else where)
    async with gateway, gateway.http() as http:
        before = [await publish(http, n) for n in range(20)]
        assert {status for status, _ in before} == {202}
        fiu(folder, gateway_pid(gateway), "enable")
        answers: Counter[int] = Counter()
        for n in range(100, 130):
            status, what = await publish(http, n)
            answers[status] += 1
            assert status == 202 or what in ("commit_unknown", "store_unavailable", "not_ready"), what
        if not bug:
            await ready(http, 503)
        fiu(folder, gateway_pid(gateway), "disable")
        await ready(http, 200)
        # a repetition under the same key is accepted once, whether or not the first had reached the disk
        ids = {n: (await publish(http, n)) for n in range(100, 130)}
        assert {status for status, _ in ids.values()} == {202}
        assert {(await publish(http, n)) for n in range(100, 130)} == set(ids.values())
        for _, id in [*before, *ids.values()]:
            async with http.get(f"/v1/messages/{id}") as answer:
                assert answer.status == 200
        return answers


def gateway_pid(gateway: GatewayProcess) -> int:
    """fiu-run replaces itself by the gateway or waits for it as its child."""
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return int(children[0]) if children else gateway.pid


@pytest.mark.parametrize("where", ["on_loop", "on_writer"])
async def test_no_publish_of_a_failed_batch_is_acknowledged(tmp_path: Path, where: str) -> None:
    answers = await answers_while_failing(tmp_path, where)
    assert set(answers) == {503}


@pytest.mark.parametrize("where", ["on_loop", "on_writer"])
async def test_synchronous_off_would_acknowledge_them(tmp_path: Path, where: str) -> None:
    """Seen to fail: with `synchronous=OFF` planted, publishes are acknowledged that no disk has."""
    answers = await answers_while_failing(tmp_path, where, "synchronous_off")
    assert answers[202] > 0


@pytest.fixture(autouse=True)
def _fiu() -> None:
    if shutil.which("fiu-ctrl") is None:
        pytest.fail("fiu-utils is not installed: make test installs it")
