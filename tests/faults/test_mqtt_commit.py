"""SIGKILL in the two worst moments of a device's publish: received and not committed, committed and not answered.

The disk is held there (planted.py), the gateway killed, and started again on the disk as it is. The devices repeat what
was not answered, with DUP. Not committed: it is one message, without a mark. Committed: it is two, and the second names
the first. So for what a device with 3.1.1 may not publish at all: that ends in the dead letters.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.transports.mqtt.codec import Publish
from tests.faults.planted import HELD
from tests.support.device import RawDevice, user
from tests.support.process import GatewayProcess

PID = 7


class Sender:
    """A device that may publish to bob only; what was answered before the kill, and after it."""

    def __init__(self, name: str, version: int, to: str = "bob") -> None:
        self.name = name
        self.version = version
        self.to = to
        self.body = json.dumps({"from": name, "n": 1, "pad": HELD}).encode()
        self.wire = RawDevice(name, version)
        self.before: list[Any] = []
        self.after: list[Any] = []

    async def join(self, gateway: GatewayProcess) -> bool:
        self.wire = RawDevice(self.name, self.version)
        return await self.wire.join(gateway.mqtt, gateway.token(self.name, pub=["bob"]))

    async def publish(self) -> None:
        """The answer to a ping comes behind what was answered."""
        self.wire.publish(self.to, self.body, PID)
        self.before = await self.wire.ping()

    async def repeat(self) -> None:
        """What was not answered, and one message more."""
        if PID not in self.before:
            self.wire.publish(self.to, self.body, PID, dup=True)
        self.wire.publish("bob", json.dumps({"from": self.name, "n": 2}).encode(), PID + 1)
        while PID + 1 not in self.after:
            self.after.append(await self.wire.packet())
        assert await self.wire.ping() == []


async def kept(gateway: GatewayProcess, path: str) -> list[dict[str, Any]]:
    async with gateway.http() as http, http.get(path) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        found: list[dict[str, Any]] = next(iter(v for v in body.values() if isinstance(v, list)))
        return found


async def until_kept(gateway: GatewayProcess) -> None:
    """The message for bob is in the store."""
    async with asyncio.timeout(20):
        while not await kept(gateway, "/v1/messages?to=bob"):  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # polling is the API's interface


async def bob_gets(gateway: GatewayProcess) -> dict[str, list[Publish]]:
    """Everything that is there for bob, by its publisher."""
    bob = RawDevice("bob", 5)
    await bob.join(gateway.mqtt, gateway.token("bob"))
    got: dict[str, list[Publish]] = {}
    wanted = len(await kept(gateway, "/v1/messages?to=bob"))
    while sum(map(len, got.values())) < wanted:
        packet = await bob.packet()
        assert type(packet) is Publish, packet
        got.setdefault(user(packet)["from"], []).append(packet)
        bob.ack(packet.pid)
    assert await bob.ping() == []
    await bob.leave()
    return got


def numbers(packets: list[Publish]) -> list[int]:
    return [json.loads(p.payload)["n"] for p in packets]


@asynccontextmanager
async def story(
    folder: Path, held: str, *senders: Sender, bug: str = "", later: str = ""
) -> AsyncIterator[GatewayProcess]:
    """All publish, with the disk held; kill; all come back. The gateway then: all is answered.

    `bug` is planted in the first gateway, `later` in the second.
    """
    async with GatewayProcess(folder, bug="+".join(filter(None, (bug, held)))) as gateway:
        for sender in senders:
            assert not await sender.join(gateway)
        for sender in senders:
            await sender.publish()
        if held == "held_answer":
            await until_kept(gateway)
            assert [await sender.wire.ping() for sender in senders] == [[]]
        await gateway.kill()
    for sender in senders:
        await sender.wire.drop()
    async with GatewayProcess(folder, bug=later) as gateway:
        for sender in senders:
            assert await sender.join(gateway)
            await sender.repeat()
            await sender.wire.leave()
        yield gateway


def devices() -> tuple[Sender, Sender, Sender]:
    """One of each version, and one with 3.1.1 that publishes to where it may not."""
    return Sender("new", 5), Sender("old", 4), Sender("denied", 4, to="carol")


async def test_killed_between_receive_and_commit(tmp_path: Path) -> None:
    senders = devices()
    async with story(tmp_path, "held_commit", *senders) as gateway:
        for sender in senders:
            # the connection of the denied one lives, too: what is behind it is taken
            assert (sender.before, sender.after) == ([], [PID, PID + 1])
        got = await bob_gets(gateway)
        assert {name: numbers(packets) for name, packets in got.items()} == {
            "new": [1, 2],
            "old": [1, 2],
            "denied": [2],
        }
        marks = {"possible_dup", "redelivered"}
        assert not any(marks & set(user(p)) for packets in got.values() for p in packets)

        (letter,) = await kept(gateway, "/v1/dead-letters")
        assert (letter["from"], letter["to"], letter["why"]) == ("denied", "carol", "address_forbidden")
        assert letter["body"]["n"] == 1
        carol = RawDevice("carol", 4)
        await carol.join(gateway.mqtt, gateway.token("carol"))
        assert await carol.ping() == []
        await carol.leave()


async def test_a_puback_before_the_commit_is_found(tmp_path: Path) -> None:
    """Seen to fail: the devices have their PUBACKs and repeat nothing, so neither message nor dead letter is there."""
    senders = devices()
    async with story(tmp_path, "held_commit", *senders, bug="acked_before_commit") as gateway:
        for sender in senders:
            assert (sender.before, sender.after) == ([PID], [PID + 1])
        got = await bob_gets(gateway)
        assert {name: numbers(packets) for name, packets in got.items()} == {
            "new": [2],
            "old": [2],
            "denied": [2],
        }
        assert await kept(gateway, "/v1/dead-letters") == []


@pytest.mark.parametrize("version", [4, 5])
async def test_killed_between_commit_and_puback(tmp_path: Path, version: int) -> None:
    sender = Sender("alice", version)
    async with story(tmp_path, "held_answer", sender) as gateway:
        assert (sender.before, sender.after) == ([], [PID, PID + 1])
        packets = (await bob_gets(gateway))["alice"]
        assert numbers(packets) == [1, 1, 2]
        first, again, other = map(user, packets)
        assert again["possible_dup"] == first["id"]
        assert "possible_dup" not in first | other


async def test_a_repetition_that_is_not_looked_up_is_found(tmp_path: Path) -> None:
    """Seen to fail: the second message names nobody."""
    async with story(tmp_path, "held_answer", Sender("alice", 5), later="not_looked_up") as gateway:
        packets = (await bob_gets(gateway))["alice"]
        assert numbers(packets) == [1, 1, 2]
        assert not any("possible_dup" in user(p) for p in packets)
