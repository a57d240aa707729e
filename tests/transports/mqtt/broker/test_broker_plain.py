"""What plain clients publish through a real Mosquitto."""

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.config import Config, Limits, Session
from gateway.model import Status
from gateway.topics import part_of
from gateway.transports.mqtt.broker.inbound import LOOSE_HIGH
from gateway.transports.mqtt.codec import P, Publish
from tests.transports.mqtt.broker.rig import Broker, Device, Framed, Gateway, gateway_behind

WRONG = f"{(int(part_of('alice')) + 1) % 64:02}"


@pytest.mark.parametrize("version", [4, 5])
async def test_bodies(broker: Broker, gateway: Gateway, version: int) -> None:
    alice = await Device(broker, "alice", version).connect()
    await alice.publish("bob", b'{"a": [1]}', b"text", b"\xff\x00")
    await alice.publish("bob", b"at 0", qos=0)
    await gateway.until(lambda: gateway.hub.figures()["accepted"] == 4)
    assert await gateway.bodies("bob") == [{"a": [1]}, "text", "/wA=", "at 0"]
    items = await gateway.to("bob")
    assert [item.sender for item in items] == ["alice"] * 4
    assert items[2].x.type == "application/octet-stream"
    # under the broker's packet ids, by which what it sends again is known
    uses = (await gateway.store.uplinks(["alice"], 0, 100))["alice"]
    assert [uses[pid][0] for pid in sorted(uses)] == [item.id for item in items[:3]]
    await gateway.until(lambda: gateway.figure("acked") == 3)
    assert (gateway.figure("received"), gateway.figure("unacked")) == (4, 0)


async def test_fields_of_a_message_are_user_properties(broker: Broker, gateway: Gateway) -> None:
    alice = await Device(broker, "alice").connect()
    await alice.publish(
        "bob",
        b"1",
        props={
            P.USER: [("priority", "high"), ("ttl", "60"), ("key", "k"), ("colour", "red")],
            P.RESPONSE_TOPIC: "gw/v1/m/alice",
            P.CORRELATION: b"\x01",
        },
    )
    await gateway.until(lambda: gateway.hub.figures()["accepted"] == 1)
    (item,) = await gateway.to("bob")
    assert (item.lane, item.expire - item.at) == (1, 60_000)
    assert item.x == msgspec.structs.replace(
        item.x, meta={"colour": "red"}, reply_to="alice", correlation="AQ==", trace=None
    )


async def test_the_broker_keeps_it_until_it_is_durable(broker: Broker, gateway: Gateway) -> None:
    alice = await Device(broker, "alice").connect()
    gateway.store.held = True
    await alice.publish("bob", b"1", b"2")
    await gateway.until(lambda: gateway.figure("unacked") == 2)
    assert gateway.figure("acked") == 0
    gateway.store.let_go()
    await gateway.until(lambda: gateway.figure("acked") == 2)


async def test_more_than_the_receive_maximum_in_order(broker: Broker) -> None:
    async with gateway_behind(broker, receive_maximum=3) as gateway:
        gateway.store.held = True
        alice = await Device(broker, "alice").connect()
        bodies = [b"%d" % n for n in range(50)]
        await alice.publish("bob", *bodies)
        await gateway.until(lambda: gateway.figure("unacked") == 3)
        assert gateway.figure("received") == 3
        gateway.store.let_go()
        await gateway.until(lambda: gateway.figure("acked") == 50)
        assert await gateway.bodies("bob") == list(range(50))


async def test_every_client_has_its_link(broker: Broker) -> None:
    names = [f"device-{n}" for n in range(40)]
    async with gateway_behind(broker, links=4) as gateway:
        assert gateway.figure("links_up") == 4
        devices = [await Device(broker, name).connect() for name in names]
        for device in devices:
            await device.publish("hub", device.client.encode())
        await gateway.until(lambda: gateway.figure("acked") == 40)
        assert sorted(await gateway.bodies("hub")) == sorted(names)
        parts = [link.inbound.received for link in gateway.every]
        assert parts == [sum(int(part_of(name)) % 4 == n for name in names) for n in range(4)]


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        (f"gw/v1/u/{WRONG}/alice/to/bob", "topic"),
        (f"gw/v1/u/{part_of('alice')}/alice/to/bob/deeper", "topic"),
        (f"gw/v1/u/{part_of('alice')}/alice/to", "topic"),
        (f"gw/v1/u/{part_of('alice')}/alice/from/bob", "topic"),
        (f"gw/v1/u/{part_of('alice')}/al+ice/to/bob".replace("+", "$"), "topic"),
        (f"gw/v1/u/{part_of('alice')}", "topic"),
    ],
)
async def test_what_is_nobodys(broker: Broker, gateway: Gateway, topic: str, why: str) -> None:
    alice = await Device(broker, "alice").connect()
    await alice.publish("", b"1", topic=topic)
    await alice.publish("bob", b"2")
    await gateway.until(lambda: gateway.figure("acked") == 2)
    assert gateway.figure("dropped", why) == 1
    assert await gateway.bodies("bob") == [2]


async def test_what_is_retained_at_the_broker_is_not_published_again(
    broker: Broker, gateway: Gateway
) -> None:
    alice = await Device(broker, "alice").connect()
    await alice.publish("bob", b"1", retain=True)
    await gateway.until(lambda: gateway.figure("acked") == 1)
    await gateway.stop()
    await gateway.start()
    await alice.publish("bob", b"2")
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert await gateway.bodies("bob") == [1, 2]
    assert gateway.figure("received") == 1
    # of a broker that sends it all the same
    gateway.link.received(Publish(f"{alice.up}/to/bob".encode(), b"1", retain=True))
    assert gateway.figure("dropped", "retained") == 1


@pytest.mark.parametrize(
    ("to", "body", "props", "code"),
    [
        ("pool:x", b"1", None, "address_kind_unsupported"),
        ("bob", b"x" * 5000, None, "too_large"),
        ("bob", b"[" * 70 + b"]" * 70, None, "too_deep"),
        ("bob", b"1", {P.USER: [("priority", "none")]}, "invalid"),
        ("bob", b"1", {P.USER: [("fallback", "sms")]}, "fallback_forbidden"),
        ("bob", b"1", {P.RESPONSE_TOPIC: "gw/v1/m/bob"}, "topic_invalid"),
    ],
)
async def test_what_can_never_succeed_is_a_dead_letter(
    broker: Broker, gateway: Gateway, to: str, body: bytes, props: Any, code: str
) -> None:
    alice = await Device(broker, "alice").connect()
    await alice.publish(to, body, props=props)
    await gateway.until(lambda: gateway.figure("acked") == 1)
    (letter,) = await gateway.store.dead_letters(None, None, 1 << 62, 10, True)
    assert (letter.item.why, letter.item.sender) == (code, "alice")
    assert gateway.figure("refused") == {code: 1}
    assert gateway.figure("reconnects") == 0
    # at QoS 0 nobody keeps it
    await alice.publish(to, body, props=props, qos=0)
    await gateway.until(lambda: gateway.figure("dropped", "refused") == 1)
    assert len(await gateway.store.dead_letters(None, None, 1 << 62, 10, True)) == 1


async def test_a_full_queue_holds_up_nobody(broker: Broker) -> None:
    config = Config(session=Session(), limits=Limits(queue_per_client=1))
    async with gateway_behind(broker, config) as gateway:
        alice = await Device(broker, "alice").connect()
        await alice.publish("bob", b"1", b"2")
        # a repetition is looked for before the queue is, so this one is refused by the commit
        await alice.publish("bob", b"3", props={P.USER: [("key", "k")]})
        await alice.publish("carol", b"4")
        await gateway.until(lambda: gateway.figure("acked") == 4)
        assert await gateway.bodies("carol") == [4]
        letters = await gateway.store.dead_letters("bob", "queue_full", 1 << 62, 10, True)
        assert {letter.item.body for letter in letters} == {b"2", b"3"}
        assert gateway.figure("refused") == {"queue_full": 2}


async def test_who_publishes_too_fast_waits(broker: Broker) -> None:
    config = Config(session=Session(), limits=Limits(publish_rate=100, publish_burst=1, batch=1))
    async with gateway_behind(broker, config) as gateway:
        alice = await Device(broker, "alice").connect()
        await alice.publish("bob", b"0", b"1", b"2", b"3")
        await gateway.until(lambda: gateway.figure("held") == 1)
        assert gateway.figure("acked") == 1
        while gateway.figure("acked") < 4:
            await gateway.advance(0.01, 0.01)
            await asyncio.sleep(0.01)  # the figure that is waited for has no event
        assert await gateway.bodies("bob") == [0, 1, 2, 3]
        assert gateway.figure("refused") == {}
        assert gateway.figure("reconnects") == 0


async def test_more_at_qos_0_than_the_store_takes_is_left_unread(gateway: Gateway) -> None:
    gateway.store.held = True
    alice = await Device(gateway.broker, "alice").connect()
    await alice.publish("bob", *(b"%d" % n for n in range(LOOSE_HIGH + 500)), qos=0)
    await gateway.until(lambda: gateway.figure("received") == LOOSE_HIGH)
    await alice.publish("bob", b"last")
    assert gateway.figure("received") == LOOSE_HIGH
    gateway.store.let_go()
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert await gateway.bodies("bob") == [*range(LOOSE_HIGH + 500), "last"]


@pytest.mark.parametrize("what", ["topics", "frames"])
async def test_a_fault_met_by_one_publish(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    alice = await Device(gateway.broker, "alice").connect()

    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        if what == "topics":
            broken.setattr("gateway.transports.mqtt.topics.Topics.uplink", fail)
            await alice.publish("bob", b"1")
        else:
            broken.setattr("gateway.transports.mqtt.framed.FramedDesk.receive", fail)
            await alice.publish("", b"{}", topic=alice.up)
        await gateway.until(lambda: gateway.figure("acked") == 1)
    await alice.publish("bob", b"2")
    await gateway.until(lambda: gateway.figure("acked") == 2)
    assert gateway.figure("dropped", "fault") == 1
    assert await gateway.bodies("bob") == [2]
    assert gateway.figure("reconnects") == 0


async def test_a_banned_client_publishes_nothing(broker: Broker, gateway: Gateway) -> None:
    alice = await Device(broker, "alice").connect()
    await gateway.hub.disconnect("alice", 60.0)
    await alice.publish("bob", b"1")
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert gateway.figure("dropped", "banned") == 1
    assert await gateway.to("bob") == []


async def test_messages_reach_who_listens_with_frames(broker: Broker, gateway: Gateway) -> None:
    bob = await Framed(broker, "bob").joined()
    alice = await Device(broker, "alice", 4).connect()
    for n in range(20):
        await alice.publish("bob", b"%d" % n)
    found: list[Any] = []
    while len(found) < 20:
        found += [m["body"] for m in (await bob.hear("msg"))["m"]]
        bob.say({"t": "ack", "seq": len(found)})
    assert found == list(range(20))
    await gateway.until(lambda: gateway.hub.figures()["acked"] == 20)
    assert {item.status for item in await gateway.to("bob")} == {Status.DELIVERED}
