"""One client, now over WebSocket, now over plain MQTT: its seqs go on in the same epoch, whichever way it comes."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.transports.mqtt.codec import Publish
from tests.faults.harness import LedgerProcess, assert_clean, fixed_ports
from tests.support.device import RawDevice, user
from tests.support.process import GatewayProcess
from tests.support.raw import RawClient

TIMES = 10
KILLS = 4
FIRST = 41


async def post(gateway: GatewayProcess, to: str, *ns: int) -> None:
    async with (
        gateway.http() as http,
        http.post("/v1/messages", json=[{"to": to, "body": {"n": n}} for n in ns]) as answer,
    ):
        assert answer.status == 202


async def over_mqtt(
    gateway: GatewayProcess, name: str, version: int, count: int, ack: int
) -> tuple[bool, list[Publish]]:
    """Come over MQTT, take `count` messages, PUBACK the first `ack`, leave. Session Present, and the messages."""
    device = RawDevice(name, version)
    present = await device.join(gateway.mqtt, gateway.token(name))
    got: list[Publish] = []
    while len(got) < count:
        packet = await device.packet()
        assert type(packet) is Publish, packet
        got.append(packet)
    device.ack(*(p.pid for p in got[:ack]))
    assert await device.ping() == []
    await device.leave()
    return present, got


async def over_ws(gateway: GatewayProcess, client: RawClient, count: int, ack: int) -> list[dict[str, Any]]:
    """Come over WebSocket, take `count` messages, ack up to seq `ack`, leave."""
    await client.connect(gateway.ws, gateway.token(client.client))
    before = len(client.sights)
    while len(client.sights) < before + count:
        await client.step()
    await client.ack(ack)
    await client.send({"t": "bye"})
    assert client.conn is not None
    await client.conn.wait_closed()
    return client.sights[before:]


@pytest.mark.parametrize("version", [4, 5])
async def test_seqs_go_on_where_the_other_way_left_them(tmp_path: Path, version: int) -> None:
    async with GatewayProcess(tmp_path) as gateway:
        alice = RawClient("alice")
        await post(gateway, "alice", *range(1, FIRST + 1))
        await over_ws(gateway, alice, FIRST, FIRST)
        epoch, top = alice.epoch, FIRST
        for turn in range(TIMES):
            # two come over MQTT, the second of them is left unacked
            await post(gateway, "alice", top + 1, top + 2)
            present, got = await over_mqtt(gateway, "alice", version, 2, 1)
            assert present is (turn > 0)
            assert [(p.pid, json.loads(p.payload)["n"], p.dup) for p in got] == [
                (top + 1, top + 1, False),
                (top + 2, top + 2, False),
            ]
            if version == 5:
                assert [(user(p)["seq"], user(p)["epoch"]) for p in got] == [
                    (str(top + 1), epoch),
                    (str(top + 2), epoch),
                ]
                assert all("redelivered" not in user(p) for p in got)

            # over WebSocket it comes again, under its seq and marked, and one more; that is left unacked
            await post(gateway, "alice", top + 3)
            alice.top = alice.acked = top + 1
            sights = await over_ws(gateway, alice, 2, top + 2)
            assert alice.welcome["resumed"] is True
            assert (alice.epoch, alice.welcome["next"]) == (epoch, top + 3)
            assert [(m["seq"], m["body"]["n"], m.get("redelivered", 0)) for m in sights] == [
                (top + 2, top + 2, 1),
                (top + 3, top + 3, 0),
            ]

            # and over MQTT that one
            present, (last,) = await over_mqtt(gateway, "alice", version, 1, 1)
            assert present
            assert (last.pid, json.loads(last.payload)["n"], last.dup) == (top + 3, top + 3, True)
            if version == 5:
                assert (user(last)["seq"], user(last)["redelivered"]) == (str(top + 3), "1")
            top += 3
            alice.top = alice.acked = top


async def run(folder: Path, times: int, kills: int = 0, bug: str = "") -> dict[str, Any]:
    """Clients change their way so often in both directions, under load from all sides; after each kill once more."""
    gateway = GatewayProcess(folder, env=fixed_ports(), bug=bug)
    patience = "2" if bug else "60"
    async with gateway, LedgerProcess(gateway, "--patience", patience, kind="roam") as ledger:

        def each(figures: dict[str, Any], wanted: int) -> bool:
            """Both clients, both directions; a planted bug may have come to light before."""
            done = figures["handovers"].values()
            wrong = bug and (figures["epochs"] or figures["forgotten"])
            return bool(wrong) or (len(done) == 4 and min(done) >= wanted)

        await ledger.until(lambda f: each(f, times))
        for _ in range(kills):
            await gateway.kill()
            await gateway.start()
            goal = min(ledger.figures["handovers"].values()) + 2
            await ledger.until(lambda f, goal=goal: each(f, goal))
        return await ledger.verdict()


async def test_hand_overs_under_load_and_over_kills(tmp_path: Path) -> None:
    verdict = await run(tmp_path, TIMES, KILLS)
    assert_clean(verdict)
    assert not verdict["refusals"], verdict
    assert all(times >= TIMES + KILLS for times in verdict["handovers"].values())
    assert len(verdict["handovers"]) == 4
    assert verdict["marked"] > 0
    # only what was never there before was new: the MQTT publisher, and each client once by each way
    assert verdict["welcomes"]["new"] == 5


@pytest.mark.parametrize(("bug", "finds"), [("own_epochs", "epochs"), ("never_again", "forgotten")])
async def test_a_planted_bug_is_found(tmp_path: Path, bug: str, finds: str) -> None:
    """Seen to fail: each way with an epoch of its own, and what the other way has written is not written again."""
    verdict = await run(tmp_path, TIMES, bug=bug)
    assert verdict[finds], verdict
