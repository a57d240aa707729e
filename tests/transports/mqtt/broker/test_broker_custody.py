"""Messages for plain clients behind a real Mosquitto: published once, in the broker's custody."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.ids import encode_id
from gateway.model import Item, Status
from gateway.records import ClientRecord
from gateway.transports.mqtt.broker.custody import MOST, Custody
from gateway.transports.mqtt.codec import P, Props
from gateway.transports.mqtt.topics import Topics
from tests.transports.mqtt.broker.rig import Broker, Device, Gateway, gateway_behind, mosquitto_in
from tests.transports.mqtt.endpoint import BACKEND


async def plain(gateway: Gateway, client: str = "bob", **record: Any) -> None:
    await gateway.hub.put_client(client, ClientRecord(broker_plain=True, **record))


async def events(gateway: Gateway, id: int) -> list[str]:
    return [event.kind for event in (await gateway.view(id)).events]


async def test_a_message_is_published_once(gateway: Gateway) -> None:
    bob = await (await Device(gateway.broker, "bob").connect(clean=False)).inbox()
    await plain(gateway)
    id = await gateway.publish(
        "bob", {"a": 1}, type="greeting", priority="high", meta={"colour": "red"}, reply_to="alice", ttl=60.0
    )
    packet = await bob.message()
    assert (packet.topic, packet.payload, packet.qos) == (b"gw/v1/m/bob", b'{"a":1}', 1)
    assert packet.props is not None
    assert packet.props[P.CORRELATION].decode() == encode_id(id)
    assert packet.props[P.RESPONSE_TOPIC] == f"{bob.up}/to/alice"
    assert packet.props[P.CONTENT_TYPE] == "application/json"
    assert 0 < packet.props[P.MESSAGE_EXPIRY] <= 60
    told = bob.user(packet)
    traceparent = told.pop("traceparent")
    assert traceparent.startswith("00-")
    assert told == {
        "id": encode_id(id), "from": BACKEND.publisher, "priority": "high", "type": "greeting", "colour": "red"
    }  # fmt: skip
    await gateway.until(lambda: gateway.hub.custody.acked == 1)
    await gateway.settled()
    assert (await gateway.view(id)).item.status == Status.SENT
    assert await events(gateway, id) == ["custody", "broker_ack"]


async def test_an_answer_to_a_message_comes_back(gateway: Gateway) -> None:
    """What a stock client does with a response topic and correlation data."""
    bob = await (await Device(gateway.broker, "bob").connect()).inbox()
    await plain(gateway)
    await gateway.publish("bob", "?", reply_to="alice", correlation="AQI=")
    packet = await bob.message()
    assert packet.props is not None
    reply: Props = {P.CORRELATION: packet.props[P.CORRELATION]}
    await bob.publish("", b"!", topic=packet.props[P.RESPONSE_TOPIC], props=reply)
    await gateway.until(lambda: gateway.figure("acked") == 1)
    (item,) = await gateway.to("alice")
    assert (item.sender, item.body, item.x.correlation) == ("bob", b'"!"', "AQI=")


async def test_the_brokers_puback_may_be_the_delivery(gateway: Gateway) -> None:
    await (await Device(gateway.broker, "bob").connect()).inbox()
    await plain(gateway, broker_ack_is_delivery=True)
    id = await gateway.publish("bob", 1)
    await gateway.until(lambda: gateway.hub.custody.acked == 1)
    await gateway.settled()
    assert (await gateway.view(id)).item.status == Status.DELIVERED


async def test_a_puback_that_says_that_nobody_has_subscribed_is_none(gateway: Gateway) -> None:
    """0x10 of MQTT 5: the broker has thrown it away."""
    await plain(gateway, broker_ack_is_delivery=True)
    id = await gateway.publish("bob", 1)
    await gateway.until(lambda: gateway.hub.custody.unacked == 1)
    await gateway.settled()
    assert gateway.hub.custody.acked == 0
    assert (await gateway.view(id)).item.status == Status.SENT


async def test_many_in_order_by_their_links(broker: Broker) -> None:
    names = [f"device-{n}" for n in range(8)]
    async with gateway_behind(broker, links=4) as gateway:
        devices = [await (await Device(broker, name, 4).connect()).inbox() for name in names]
        for name in names:
            await plain(gateway, name)
        # more than the broker takes of a link at once
        for n in range(150):
            await asyncio.gather(*(gateway.publish(name, n) for name in names))
        for device in devices:
            found = [msgspec.json.decode((await device.message()).payload) for _ in range(150)]
            assert found == list(range(150))
        await gateway.until(lambda: gateway.figure("custody", "waiting") == 0)
        assert gateway.figure("custody", "taken") == gateway.figure("custody", "published") == 1200
        assert gateway.links.custody.room() > 0


async def test_while_the_broker_is_away_messages_wait(gateway: Gateway) -> None:
    broker = gateway.broker
    await plain(gateway)
    await broker.kill()
    await gateway.down()
    assert gateway.links.custody.room() == 0
    await gateway.publish("bob", 1)
    assert gateway.figure("custody", "published") == 0
    await broker.start()
    bob = await (await Device(broker, "bob").connect()).inbox()
    assert (await bob.message()).payload == b"1"


async def test_a_puback_that_is_lost_leaves_it_unknown(gateway: Gateway) -> None:
    await plain(gateway)
    process = gateway.broker._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    id = await gateway.publish("bob", 1)
    await gateway.until(lambda: gateway.figure("custody", "waiting") == 1)
    await gateway.broker.kill()
    await gateway.until(lambda: gateway.figure("custody", "lost") == 1)
    assert gateway.figure("custody", "waiting") == 0
    await gateway.until(lambda: gateway.hub.custody.unacked == 1)
    await gateway.settled()
    assert (await gateway.view(id)).item.status == Status.SENT
    assert await events(gateway, id) == ["custody", "broker_unacked"]


async def test_what_the_broker_refuses(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read gw/v1/u/#\ntopic write gw/v1/d/#\n")
    async with mosquitto_in(tmp_path, f"acl_file {rules}") as broker, gateway_behind(broker) as gateway:
        await plain(gateway)
        id = await gateway.publish("bob", 1)
        await gateway.until(lambda: gateway.figure("custody", "refused") == 1)
        await gateway.until(lambda: gateway.hub.custody.unacked == 1)
        await gateway.settled()
        assert await events(gateway, id) == ["custody", "broker_unacked"]


async def test_a_packet_as_long_as_the_broker_takes(tmp_path: Path) -> None:
    async with mosquitto_in(tmp_path, "max_packet_size 2000") as broker, gateway_behind(broker) as gateway:
        bob = await (await Device(broker, "bob").connect()).inbox()
        await plain(gateway)
        lengths = range(1700, 1900)
        for length in lengths:
            await gateway.publish("bob", "x" * length)
        await gateway.settled()
        await gateway.until(lambda: gateway.figure("custody", "waiting") == 0)
        taken, unsent = gateway.figure("custody", "taken"), gateway.figure("custody", "unsent")
        assert (taken + unsent, taken > 0, unsent > 0) == (len(lengths), True, True)
        assert [len((await bob.message()).payload) for _ in range(taken)] == [*lengths[:taken]]
        assert gateway.figure("reconnects") == 0


async def test_a_gateway_that_stops_hears_what_the_broker_says(broker: Broker) -> None:
    gateway = await Gateway(broker).start()
    await (await Device(broker, "bob").connect()).inbox()
    await plain(gateway)
    id = await gateway.publish("bob", 1)
    await gateway.until(lambda: gateway.figure("custody", "published") == 1)
    await gateway.stop()
    assert gateway.figure("custody", "taken") == 1
    await gateway.settled()
    assert await events(gateway, id) == ["custody", "broker_ack"]
    assert gateway.hub.custodian is None


# -- without a broker ----------------------------------------------------------------------------------------------


class Carrier:
    up = True
    receive_maximum = 2
    max_packet = 1000

    def __init__(self) -> None:
        self.sent = 0
        self.takes = True

    def publish_1(self, topic: str, payload: bytes, block: bytes) -> int:
        self.sent += 1
        return self.sent if self.takes else 0


class Rig:
    def __init__(self, links: int = 1) -> None:
        self.calls: list[Any] = []
        self.ready = 0
        self.done: list[bool] = []
        self.custody = Custody(Topics(), "0" * 16, self._ready, self.calls.append)
        self.links = [Carrier() for _ in range(links)]
        self.custody.serve(self.links)

    def _ready(self) -> None:
        self.ready += 1

    def publish(self, client: str = "bob") -> None:
        item = Item(1, client, "key:a", 2, 1_000, 61_000, b"1")
        self.custody.publish(item, 1_000, self.done.append)

    def settle(self) -> None:
        for call in self.calls:
            call()
        self.calls.clear()


async def test_room_is_what_any_link_takes() -> None:
    rig = Rig(2)
    custody = rig.custody
    assert custody.room() == 2
    rig.publish()
    assert custody.room() == 1
    rig.publish()
    assert (custody.room(), len(custody)) == (0, 2)
    custody.taken(0, 1, True)
    custody.taken(1, 1, True)
    assert (custody.room(), rig.ready, rig.done) == (1, 1, [])
    rig.settle()
    assert rig.done == [True]
    # nobody knows these
    custody.taken(0, 1, True)
    custody.taken(1, 9, False)
    assert (rig.ready, len(custody)) == (1, 1)


async def test_there_is_no_room_while_a_link_is_away() -> None:
    rig = Rig(2)
    rig.publish()
    rig.links[1].up = False
    assert rig.custody.room() == 0
    rig.custody.lost(0)
    rig.custody.lost(1)
    rig.settle()
    assert rig.done == [False]
    rig.custody.look()
    assert rig.ready == 0
    rig.links[1].up = True
    rig.custody.look()
    rig.custody.look()
    assert rig.ready == 1


@pytest.mark.parametrize("up", [True, False])
async def test_what_cannot_be_sent(up: bool) -> None:
    rig = Rig()
    rig.links[0].up = up
    rig.links[0].takes = False
    rig.publish()
    assert (rig.done, len(rig.custody)) == ([], 0)
    rig.settle()
    assert (rig.done, rig.custody.unsent) == ([False], 1)
    await rig.custody.landed()


async def test_what_is_too_long_for_the_broker() -> None:
    rig = Rig()
    for limit, sent in ((0, 0), (50, 0), (300, 1)):
        rig.links[0].max_packet = limit
        rig.publish()
        assert rig.links[0].sent == sent
    rig.settle()
    assert rig.done == [False, False]


async def test_a_link_has_so_many_at_most() -> None:
    rig = Rig()
    rig.links[0].receive_maximum = 65_535
    assert rig.custody.room() == MOST
