"""Framed clients through a real Mosquitto: `hello` and its nonce, publishing, resuming, limits, silence."""

from typing import Any

import pytest

from gateway.config import Config, Limits, Session
from gateway.errors import Unavailable
from gateway.model import Status
from tests.transports.mqtt.broker.rig import Broker, Device, Framed, Gateway, gateway_behind

PUB = {"t": "pub", "m": [{"ref": "a", "to": "bob", "body": 1, "key": "k1"}]}


async def test_a_conversation(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").open()
    welcome = await alice.hello(window=4)
    assert (welcome["client"], welcome["c"], welcome["window"], welcome["resumed"]) == (
        "alice",
        "n1",
        4,
        False,
    )
    assert gateway.hub.presence("alice")["status"] == "online"
    (one, two) = await alice.pub({"ref": 1, "to": "bob", "body": "x"}, {"ref": 2, "to": "alice", "body": [1]})
    assert (one["ref"], two["ref"]) == (1, 2)
    (message,) = (await alice.hear("msg"))["m"]
    assert (message["seq"], message["from"], message["body"], message["id"]) == (1, "alice", [1], two["id"])
    alice.say({"t": "ack", "seq": 1})
    alice.say({"t": "bye"})
    assert (await alice.hear("err"))["close"] == 1000
    assert gateway.figure("desks") == 0
    await gateway.until(lambda: gateway.figure("acked") == 4)
    assert (gateway.figure("received"), gateway.figure("unacked")) == (4, 0)
    assert gateway.figure("frames", "in") == 4
    assert gateway.figure("frame_closes", "1000") == 1


async def test_hello_comes_first_and_its_nonce_is_kept_to(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").open()
    alice.say(PUB)
    err = await alice.hear("err")
    assert (err["code"], err["c"]) == ("hello_first", "n1")
    assert gateway.figure("desks") == 0
    welcome = await alice.hello()
    assert await alice.hello() == welcome
    alice.say({**PUB, "c": "n0"})
    assert (await alice.hear("err"))["code"] == "hello_first"
    (ok,) = await alice.pub(PUB["m"][0])
    (again,) = await alice.pub(PUB["m"][0])
    assert again == {**ok, "dup": True}
    assert await gateway.bodies("bob") == [1]


async def test_a_client_that_is_cut_resumes(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").open()
    welcome = await alice.hello()
    for n in range(3):
        await gateway.publish("alice", n)
    assert [m["body"] for n in range(3) for m in (await alice.hear("msg"))["m"]] == [0, 1, 2]
    alice.cut()
    # its will is a bye
    await gateway.until(lambda: gateway.hub.presence("alice")["status"] == "offline")
    await gateway.publish("alice", 3)
    alice = await Framed(broker, "alice").open("n2")
    again = await alice.hello(resume=welcome["resume"], epoch=welcome["epoch"], ack=1)
    assert (again["resumed"], again["epoch"], again["c"]) == (True, welcome["epoch"], "n2")
    found: list[Any] = []
    while len(found) < 3:
        found += (await alice.hear("msg"))["m"]
    assert [(m["seq"], m["body"], m.get("redelivered")) for m in found] == [
        (2, 1, 1),
        (3, 2, 1),
        (4, 3, None),
    ]


async def test_a_stale_will_is_ignored(broker: Broker, gateway: Gateway) -> None:
    first = await Framed(broker, "alice").joined("n1")
    second = await Framed(broker, "alice", name="other").open("n2")
    second.say({"t": "hello"})
    assert (await second.hear("err"))["code"] == "taken_over"
    assert (await second.hear("welcome"))["c"] == "n2"
    # the broker says so late
    first.cut()
    await gateway.until(lambda: gateway.figure("received") == 3)
    await second.nothing()
    assert gateway.hub.presence("alice")["status"] == "online"


async def test_a_duel_of_two_devices_with_one_id(broker: Broker, gateway: Gateway) -> None:
    one = await Framed(broker, "alice", name="one").joined("n1")
    two = await Framed(broker, "alice", name="two").open("n2")
    two.say({"t": "hello"})
    # both read the topic; the nonce says for whom it is
    for device in (one, two):
        err = await device.hear("err")
        assert (err["code"], err["close"], err["c"]) == ("taken_over", 4302, "n1")
        assert (await device.hear("welcome"))["c"] == "n2"
    one.say({"t": "hello"})
    assert (await one.hear("err"))["code"] == "taken_over"
    one.say({"t": "ping"})
    assert (await one.hear("err"))["code"] == "hello_first"
    assert gateway.figure("desks") == 1
    id = await gateway.publish("alice", "for two")
    assert [(await two.hear(t))["t"] for t in ("err", "err", "msg")]
    two.say({"t": "ack", "seq": 1})
    await gateway.until(lambda: gateway.hub.figures()["acked"] == 1)
    assert (await gateway.view(id)).item.status == Status.DELIVERED
    one.cut()


async def test_one_client_too_many(broker: Broker) -> None:
    async with gateway_behind(broker, max_clients=1) as gateway:
        alice = await Framed(broker, "alice").joined()
        bob = await Framed(broker, "bob").open("b1")
        bob.say({"t": "ping"})
        assert (await bob.hear("err"))["code"] == "hello_first"
        bob.say({"t": "hello"})
        err = await bob.hear("err")
        assert (err["code"], err["status"], err["close"], err["c"]) == ("too_many_clients", 429, 4000, "b1")
        assert err["retry_after"] > 0
        assert gateway.figure("desks") == 1
        alice.say({"t": "bye"})
        assert (await alice.hear("err"))["close"] == 1000
        assert (await bob.hello())["client"] == "bob"


async def test_a_banned_client(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").joined()
    assert await gateway.hub.disconnect("alice", 60.0)
    assert (await alice.hear("err"))["close"] == 4304
    alice.say({"t": "hello", "c": "n2"})
    err = await alice.hear("err")
    assert (err["code"], err["close"], err["c"]) == ("banned", 4304, "n2")
    assert gateway.figure("desks") == 0


async def test_silence_ends_a_client(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").joined()
    for _ in range(3):
        await gateway.advance(30)
        await alice.nothing()
    await gateway.advance(1.75 * 25 + 1)
    err = await alice.hear("err")
    assert (err["code"], err["close"]) == ("heartbeat_lost", 4002)
    assert gateway.hub.presence("alice")["status"] == "offline"
    assert gateway.figure("desks") == 0


@pytest.mark.parametrize("away", [False, True], ids=["silent", "unheard"])
async def test_only_a_silence_of_its_own_is_blamed_on_a_message(broker: Broker, away: bool) -> None:
    config = Config(session=Session(ack_wait=100.0, ack_wait_max=100.0))
    async with gateway_behind(broker, config) as gateway:
        await silence_of_its_own(gateway, away)


async def silence_of_its_own(gateway: Gateway, away: bool) -> None:
    broker = gateway.broker
    alice = await Framed(broker, "alice").joined()
    id = await gateway.publish("alice", 1)
    await alice.hear("msg")
    if away:
        await broker.kill()
        await gateway.down()
    await gateway.advance(1.75 * 25 + 1)
    await gateway.until(lambda: gateway.hub.presence("alice")["status"] == "offline")
    await gateway.settled()
    row = gateway.store._tables.messages.get(id)
    assert row is not None
    assert row.crashes == (0 if away else 1)
    alice.cut()


async def test_silence_while_the_link_was_away_does_not_count(gateway: Gateway) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    await gateway.advance(40)
    gateway.link._conn.drop("cut")
    await gateway.down()
    await gateway.up()
    await gateway.advance(40)
    await alice.nothing()
    assert gateway.hub.presence("alice")["status"] == "online"


async def test_silence_while_the_link_holds_its_input_does_not_count(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    bob = await Device(gateway.broker, "bob").connect()

    def later(*_: Any, **__: Any) -> None:
        raise Unavailable("not now", retry_after=0.05)

    with monkeypatch.context() as busy:
        busy.setattr(gateway.hub, "publish", later)
        await bob.publish("carol", b"1")
        await gateway.until(lambda: gateway.figure("held") == 1)
        alice.say({"t": "ping"})
        await gateway.advance(60)
        assert gateway.figure("desks") == 1
    await alice.hear("pong")
    assert await gateway.bodies("carol") == [1]


async def test_who_comes_while_the_broker_is_slow(gateway: Gateway) -> None:
    desks = gateway.link.desks
    desks.congest(True)
    alice = await Framed(gateway.broker, "alice").joined()
    await gateway.publish("alice", 1)
    await alice.nothing()
    desks.congest(False)
    assert (await alice.hear("msg"))["m"][0]["body"] == 1


async def test_a_broker_that_takes_less_than_before(gateway: Gateway) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    gateway.link.desks.up(3000)
    await gateway.publish("alice", "x" * 3500)
    await gateway.publish("alice", "y")
    (gap,) = (await alice.hear("gap"))["m"]
    assert (gap["seq"], gap["why"]) == (1, "dead")
    assert (await alice.hear("msg"))["m"][0]["body"] == "y"


async def test_what_the_batch_limit_refuses_is_acknowledged(broker: Broker) -> None:
    config = Config(session=Session(), limits=Limits(batch=2, publish_burst=2))
    async with gateway_behind(broker, config) as gateway:
        alice = await Framed(broker, "alice").joined()
        alice.say({"t": "pub", "m": [{"to": "bob", "body": n, "ref": n} for n in range(3)]})
        assert (await alice.hear("err"))["code"] == "batch_too_large"
        alice = await Framed(broker, "alice").joined("n2")
        assert [
            e["ref"] for e in await alice.pub(*({"to": "bob", "body": n, "ref": n} for n in range(2)))
        ] == [0, 1]
        alice.say({"t": "pub", "m": [{"to": "bob", "body": 2, "ref": 2}]})
        err = await alice.hear("err")
        assert (err["code"], err["ref"]) == ("rate_limited", 2)
        await gateway.until(lambda: gateway.figure("unacked") == 0)


async def test_garbage_in_a_frame(broker: Broker, gateway: Gateway) -> None:
    alice = await Framed(broker, "alice").joined()
    bob = await Framed(broker, "bob").joined()
    alice.say(b"\xff{", b"[]", b"")
    assert (await alice.hear("err"))["code"] == "malformed"
    for _ in range(2):
        assert (await alice.hear("err"))["close"] == 4303
    await bob.nothing()
    await gateway.until(lambda: gateway.figure("unacked") == 0)
    assert gateway.figure("dropped") == {"refused": 0, "unsent": 0}
