"""The story that the gateway exists for, told to the real process through public interfaces only.

A backend posts 1,000 messages of all priorities to alice, who loses her connection and whose gateway is killed in
mid-stream; bob never comes, and his messages go by webhook.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.hook import SECRET, Receiver
from tests.support.process import GatewayProcess
from tests.support.raw import RawClient

PRIORITIES = ("critical", "high", "normal", "low")
COUNT = 1000


async def post(http: aiohttp.ClientSession, messages: list[dict[str, Any]]) -> list[str]:
    async with http.post("/v1/messages", json=messages) as answer:
        results = await answer.json()
        assert answer.status == 202, results
    assert all("id" in r for r in results), results
    return [r["id"] for r in results]


async def publish_all(http: aiohttp.ClientSession, rng: random.Random) -> list[str]:
    """1,000 messages with their publisher's own index, some one by one, most in arrays."""
    messages = [{"to": "alice", "body": {"n": n}, "priority": rng.choice(PRIORITIES)} for n in range(COUNT)]
    ids: list[str] = []
    while len(ids) < COUNT:
        size = rng.choice((1, 5, 50))
        ids += await post(http, messages[len(ids) : len(ids) + size])
    return ids


async def take(alice: RawClient, count: int) -> None:
    """Read until `count` messages more are processed, acking now and then."""
    wanted = len(alice.processed) + count
    while len(alice.processed) < wanted:
        await alice.step()
        await alice.ack()


def unacked(alice: RawClient) -> dict[int, str]:
    """What alice was sent in this epoch and has not acked."""
    return {m["seq"]: m["id"] for m in alice.sights if m["seq"] > alice.acked}


async def test_alice_gets_each_message_once_whatever_happens(tmp_path: Path) -> None:
    rng = random.Random(7)
    async with GatewayProcess(tmp_path) as gateway:
        alice = RawClient("alice")
        first = await alice.connect(gateway.ws, gateway.token("alice"))
        assert (first["resumed"], first["why"], first["next"]) == (False, "new", 1)
        async with gateway.http() as http:
            ids = await publish_all(http, rng)

        # she acks some, then her TCP connection goes without a close
        await take(alice, 200)
        while alice.top == alice.acked:
            await alice.step()
        held = unacked(alice)
        assert held
        await alice.drop()

        again = await alice.connect(gateway.ws, gateway.token("alice"))
        assert again["resumed"] is True
        seen = len(alice.sights)
        while len(alice.sights) < seen + len(held):
            await alice.step()
        back = alice.sights[seen : seen + len(held)]
        assert {m["seq"]: m["id"] for m in back} == held
        assert all(m["redelivered"] >= 1 for m in back)
        await alice.ack()

        # the gateway is killed in mid-stream and comes back on the same folder
        await take(alice, 300)
        epoch, top = alice.epoch, alice.top
        await gateway.kill()
        await alice.drop()
        await gateway.start()
        third = await alice.connect(gateway.ws, gateway.token("alice"))
        assert third["resumed"] is True
        assert alice.epoch == epoch
        assert third["next"] > top
        while len(alice.processed) < COUNT:
            await alice.step()
            await alice.ack()

        # each once, in order within each priority
        assert sorted(alice.processed) == sorted(ids)
        for priority in PRIORITIES:
            order = [m["body"]["n"] for m in alice.processed.values() if m["priority"] == priority]
            assert order == sorted(order), priority

        # the API knows what became of each
        async with gateway.http() as http:
            await all_delivered(http, ids)
        await alice.drop()


async def all_delivered(http: aiohttp.ClientSession, ids: list[str]) -> None:
    """The last acks become durable a moment after they were sent: ask until each message says so."""
    statuses: Counter[str] = Counter()
    async with asyncio.timeout(30):
        for id in ids:
            while True:
                async with http.get(f"/v1/messages/{id}") as answer:
                    message = await answer.json()
                if message["status"] == "delivered":
                    break
            statuses[message["status"]] += 1
            steps = [step["event"] for step in message["timeline"]]
            assert steps[0] == "queued"
            assert "delivered" in steps
    assert statuses == {"delivered": COUNT}


CONFIG = """
[session]
offline_deadline = 0.5
[routes]
default = ["hook"]
[channels.hook]
kind = "webhook"
url = "{url}"
secret = "{secret}"
allow_private = true
backoff_base = 0.05
breaker_failures = 100
"""


async def test_bob_never_comes_and_his_messages_go_by_webhook(tmp_path: Path) -> None:
    refuse = True

    def answer(data: dict[str, Any], n: int) -> int:
        kind = data["body"]["kind"]
        if kind == "busy" and n <= 2:
            return 503
        if kind == "bad" and refuse:
            return 400
        return 204

    async with (
        Receiver(answer) as receiver,
        GatewayProcess(tmp_path, CONFIG.format(url=receiver.url, secret=SECRET)) as gateway,
        gateway.http() as http,
    ):
        kinds = ["fine", "busy", "bad"] * 10
        ids = await post(http, [{"to": "bob", "body": {"n": n, "kind": k}} for n, k in enumerate(kinds)])
        by_kind = {k: [i for i, kind in zip(ids, kinds, strict=True) if kind == k] for k in set(kinds)}

        for id in by_kind["fine"] + by_kind["busy"]:
            message = await until(http, id, "provider_delivered")
            assert message["via"] == "hook"
        for id in by_kind["bad"]:
            message = await until(http, id, "dead")
            assert "400" in message["why"]
        assert receiver.bad_signatures == 0
        assert all(receiver.attempts[i] == 1 for i in by_kind["fine"])
        assert all(receiver.attempts[i] == 3 for i in by_kind["busy"])

        # the dead letters tell why, and can be replayed
        async with http.get("/v1/dead-letters") as reply:
            letters = (await reply.json())["dead_letters"]
        assert {d["id"] for d in letters} == set(by_kind["bad"])
        refuse = False
        for id in by_kind["bad"]:
            async with http.post(f"/v1/dead-letters/{id}/replay", json={}) as reply:
                assert reply.status in (200, 201, 202), await reply.text()
                fresh = (await reply.json())["id"]
            await until(http, fresh, "provider_delivered")
            assert receiver.arrived[fresh]["body"]["kind"] == "bad"


async def until(http: aiohttp.ClientSession, id: str, status: str) -> dict[str, Any]:
    """Ask for a message until it stands at `status`."""
    message: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while message.get("status") != status:
            async with http.get(f"/v1/messages/{id}") as answer:
                message = await answer.json()
            await asyncio.sleep(0.02)  # there is no event to await over a polling API
    return message
