"""The client over MQTT at the gateway's own endpoint: a conversation, kills, and from one way to the other."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.client import Client, Message
from tests.faults.harness import fixed_ports
from tests.faults.planted import HELD
from tests.support.process import GatewayProcess

PATIENCE = 30.0
COUNT = 400
KILLS = 3


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is repeated is repeated soon, and who is cut comes back soon."""
    monkeypatch.setattr("gateway.client.greeting.AGAIN", 0.3)
    monkeypatch.setattr("gateway.client.outbox.REPEAT_AFTER", 0.3)
    monkeypatch.setattr("gateway.client.comeback.CAP", 0.3)


def over_mqtt(gateway: GatewayProcess, name: str, **options: Any) -> Client:
    return Client(gateway.mqtt, gateway.token(name), **({"ack_delay": 0} | options))


def over_ws(gateway: GatewayProcess, name: str, **options: Any) -> Client:
    return Client(gateway.ws, gateway.token(name), **({"ack_delay": 0} | options))


async def take(client: Client, count: int) -> list[Message]:
    messages = client.messages()
    async with asyncio.timeout(PATIENCE):
        return [await anext(messages) for _ in range(count)]


async def status(gateway: GatewayProcess, id: str, wanted: str) -> dict[str, Any]:
    """The message as the API shows it, when it stands at `wanted`."""
    async with gateway.http() as http, asyncio.timeout(PATIENCE):
        while True:
            async with http.get(f"/v1/messages/{id}") as answer:
                found: dict[str, Any] = await answer.json()
            if found["status"] == wanted:
                return found
            await asyncio.sleep(0.02)  # the API is polled: that is its interface


async def received(gateway: GatewayProcess, frames: int) -> None:
    """The gateway has taken so many frames of MQTT clients."""
    async with gateway.http() as http, asyncio.timeout(PATIENCE):
        while True:
            async with http.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
            (count,) = [line.split()[-1] for line in lines if line.startswith('botgw_mqtt_frames{of="in"}')]
            if float(count) >= frames:
                return
            await asyncio.sleep(0.01)  # counters are polled: that is their interface


async def test_a_conversation(tmp_path: Path) -> None:
    """Publish, receive, ack, nack, reject; statuses come back."""
    told: list[tuple[str, str]] = []
    delivered = asyncio.Event()

    def on_status(report: Any) -> None:
        told.append((report.id, report.status))
        delivered.set()

    async with (
        GatewayProcess(tmp_path) as gateway,
        over_mqtt(gateway, "alice") as alice,
        over_mqtt(gateway, "bob", on_status=on_status) as bob,
    ):
        receipts = [
            await bob.publish("alice", {"n": n}, notify=["delivered"] if n == 0 else None, meta={"k": "v"})
            for n in range(3)
        ]
        one, two, three = await take(alice, 3)
        assert [(m.id, m.seq, m.body["n"]) for m in (one, two, three)] == [
            (receipt.id, seq, seq - 1) for seq, receipt in enumerate(receipts, 1)
        ]
        assert {(m.sender, m.redelivered, m.meta["k"]) for m in (one, two, three)} == {("bob", 0, "v")}
        await one.ack()
        await two.nack(why="not now")
        await three.reject(why="never")
        (again,) = await take(alice, 1)
        assert (again.id, again.seq, again.redelivered) == (two.id, 4, 1)
        await again.ack()
        assert (await status(gateway, one.id, "delivered"))["via"] == "mqtt"
        await status(gateway, two.id, "delivered")
        assert (await status(gateway, three.id, "dead"))["why"] == "rejected"
        async with asyncio.timeout(PATIENCE):
            await delivered.wait()
        assert told == [(one.id, "delivered")]
        # an answer by the other way
        async with over_ws(gateway, "carol") as carol:
            await alice.publish("carol", "hello")
            (m,) = await take(carol, 1)
            assert (m.sender, m.body) == ("alice", "hello")


async def test_the_gateway_is_killed_again_and_again(tmp_path: Path) -> None:
    """Each message once and in order; each publish has its receipt."""
    whys: list[str] = []
    at = {COUNT * kill // (KILLS + 1) for kill in range(1, KILLS + 1)}
    async with (
        GatewayProcess(tmp_path, env=fixed_ports()) as gateway,
        over_mqtt(gateway, "alice", on_welcome=whys.append) as alice,
        over_mqtt(gateway, "bob") as bob,
    ):
        publishing = asyncio.ensure_future(
            asyncio.gather(*(bob.publish("alice", {"n": n}) for n in range(COUNT)))
        )
        got: list[Message] = []
        for n in range(COUNT):
            if n in at:
                await gateway.kill()
                await gateway.start()
            (m,) = await take(alice, 1)
            got.append(m)
            await m.ack()
        async with asyncio.timeout(PATIENCE):
            receipts = await publishing
        assert [m.body["n"] for m in got] == list(range(COUNT))
        assert [m.id for m in got] == [r.id for r in receipts]
        assert whys == ["new"] + ["resumed"] * KILLS
        # nothing comes behind
        await bob.publish("alice", {"n": COUNT})
        (last,) = await take(alice, 1)
        assert last.body["n"] == COUNT


@pytest.mark.parametrize("bug", ["", "acked_before_commit"])
async def test_a_publish_that_was_received_and_not_committed(tmp_path: Path, bug: str) -> None:
    """The client repeats it until it has its receipt; seen to fail where that comes before the commit."""
    env = fixed_ports()
    async with GatewayProcess(tmp_path, env=env, bug="+".join(filter(None, (bug, "held_commit")))) as gateway:
        client = over_mqtt(gateway, "bob")
        async with client:
            publishing = asyncio.ensure_future(client.publish("alice", {"pad": HELD}))
            await received(gateway, 2)
            if bug:
                receipt = await publishing
            await gateway.kill()
            async with GatewayProcess(tmp_path, env=env) as healthy, healthy.http() as http:
                if not bug:
                    async with asyncio.timeout(PATIENCE):
                        receipt = await publishing
                async with http.get(f"/v1/messages/{receipt.id}") as answer:
                    assert answer.status == (404 if bug else 200)


async def test_from_one_way_to_the_other_with_a_state_file(tmp_path: Path) -> None:
    """ws://, then mqtt://, then ws:// again, each a program of its own that has nothing but the file."""
    path = tmp_path / "alice.state"
    async with GatewayProcess(tmp_path) as gateway, over_mqtt(gateway, "bob") as bob:
        for n in range(3):
            await bob.publish("alice", n)
        async with over_ws(gateway, "alice", state=path) as alice:
            epoch = alice.info.epoch
            assert alice.info.why == "new"
            one, _, _ = await take(alice, 3)
            await one.ack()
        for turn in range(4):
            top = 3 + turn
            await bob.publish("alice", top)
            way = over_ws if turn % 2 else over_mqtt
            async with way(gateway, "alice", state=path) as alice:
                assert (alice.info.why, alice.info.epoch, alice.info.next) == ("resumed", epoch, top + 1)
                # two were left in hand, and one is new; the first of them is acked
                first, second, fresh = await take(alice, 3)
                assert [(m.seq, m.body) for m in (first, second, fresh)] == [
                    (seq, seq - 1) for seq in range(top - 1, top + 2)
                ]
                assert first.redelivered > 0
                assert second.redelivered > 0
                assert fresh.redelivered == 0
                await first.ack()
