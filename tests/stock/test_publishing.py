"""What stock clients publish arrives at a bot on a WebSocket, with the fields that MQTT 5 properties carry."""

import asyncio
from base64 import b64encode
from typing import Any

import pytest

from tests.stock.bots import a_bot, take
from tests.stock.door import Door, Endpoint, fresh, uplink
from tests.stock.programs import Message, Program, Script, all_of, publish

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = pytest.mark.parametrize("program", ["paho", "mqttjs"])


async def test_payloads(door: Door, program: Program, version: int) -> None:
    payloads: list[tuple[bytes, Any]] = [
        (b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (b"on", "on"),
        (b"-17", -17),
        (b'"quoted"', "quoted"),
        ("grün ✓ 🚀".encode(), "grün ✓ 🚀"),
        (b"", ""),
        (b"{broken", "{broken"),
    ]
    if program != "mosquitto":
        # its arguments are text without NUL
        payloads += [(b"\xff\x00\xfe", b64encode(b"\xff\x00\xfe").decode()), (b"a\x00b", "a\x00b")]
    payloads.append((b"x" * 60_000, "x" * 60_000))
    sender = await door.device("sender")
    async with a_bot(door) as bot:
        topic = uplink(sender, bot.client)
        answers = await publish(
            program,
            door.options(version, sender),
            *[Message(topic=topic, payload=p) for p, _ in payloads],
        )
        got = await take(bot, len(payloads))
    assert [a["code"] for a in answers] == [0] * len(payloads)
    assert [m["body"] for m in got] == [body for _, body in payloads]
    assert {m["from"] for m in got} == {sender}
    octets = ["application/octet-stream" if p == b"\xff\x00\xfe" else None for p, _ in payloads]
    assert [m.get("type") for m in got] == octets


async def test_fields_as_user_properties(door: Door, program: Program) -> None:
    sender = await door.device("sender")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with a_bot(door) as bot:
        topic = uplink(sender, bot.client)
        plain = Message(topic=topic, payload=b'{"n":1}')
        full = Message(
            topic=topic,
            payload=b'{"n":2}',
            user=[
                ("priority", "high"),
                ("ttl", "120"),
                ("deadline", "90.5"),
                ("key", "order-7"),
                ("type", "order"),
                ("traceparent", trace),
                ("shop", "main"),
                ("meta.id", "4711"),
            ],
        )
        brief = Message(topic=topic, payload=b'{"n":3}', expiry=300)
        answers = await publish(program, door.options(5, sender), plain, full, full, brief)
        assert [a["code"] for a in answers] == [0] * 4
        got = await take(bot, 3)
        first, second, third = [await door.get(f"/v1/messages/{m['id']}") for m in got]
    # the second one with that key was the same message
    assert [m["body"]["n"] for m in got] == [1, 2, 3]
    message = got[1]
    assert (message["priority"], message["type"], message["trace"]) == ("high", "order", trace)
    assert message["meta"] == {"shop": "main", "id": "4711"}
    assert round((second["expires_at"] - second["at"]) / 1000) == 120
    assert round((second["deadline_at"] - second["at"]) / 1000, 1) == 90.5
    # less the time that it was in
    assert 295 < (third["expires_at"] - third["at"]) / 1000 <= 300
    assert (got[0]["priority"], got[0].get("type"), got[0].get("meta")) == ("normal", None, None)
    assert round((first["expires_at"] - first["at"]) / 1000) == 86400


@SCRIPTS
async def test_a_burst_keeps_its_order(door: Door, program: Program, version: int) -> None:
    """More at once than the receive maximum."""
    count = 1000
    sender = await door.device("sender")
    async with a_bot(door) as bot, Script(program, door.options(version, sender)) as device:
        await device.event("connected")
        topic = uplink(sender, bot.client)
        for n in range(count):
            device.publish_soon(Message(topic=topic, payload=b'{"n":%d}' % n))
        answers, got = await asyncio.gather(all_of(device, "puback", count), take(bot, count))
        assert {a["code"] for a in answers} == {0}
        assert not device.waiting("closed"), device.told()
    assert [m["body"]["n"] for m in got] == list(range(count))


async def test_what_is_published_again_without_its_puback_is_marked(endpoint: Endpoint, version: int) -> None:
    """paho-mqtt. MQTT.js 5.14 publishes again without DUP: nobody can tell, and a `key` is needed."""
    sender = fresh("sender")
    async with (
        a_bot(endpoint) as bot,
        endpoint.proxy() as proxy,
        Script("paho", endpoint.options(version, sender, port=proxy.port)) as device,
    ):
        await device.event("connected")
        proxy.deafen()
        device.publish_soon(Message(topic=uplink(sender, bot.client), payload=b'{"n":1}'))
        (first,) = await take(bot, 1)
        # it is committed; the PUBACK is lost with the connection
        await endpoint.message(first["id"], "delivered")
        proxy.cut()
        await device.event("connected")
        assert (await device.event("puback"))["code"] == 0
        (again,) = await take(bot, 1)
    assert (again["body"], again["possible_dup"]) == ({"n": 1}, first["id"])


@SCRIPTS
async def test_with_a_key_it_is_the_same_message(door: Door, program: Program) -> None:
    sender = await door.device("sender")
    async with (
        a_bot(door) as bot,
        door.proxy() as proxy,
        Script(program, door.options(5, sender, port=proxy.port)) as device,
    ):
        await device.event("connected")
        proxy.deafen()
        topic = uplink(sender, bot.client)
        device.publish_soon(Message(topic=topic, payload=b'{"n":1}', user=[("key", "k")]))
        await take(bot, 1)
        proxy.cut()
        await device.event("connected")
        assert (await device.event("puback"))["code"] == 0
        await device.publish(Message(topic=topic, payload=b'{"n":2}'))
        (after,) = await take(bot, 1)
    assert (after["body"], after.get("possible_dup")) == ({"n": 2}, None)


async def test_topic_aliases_of_mqttjs(endpoint: Endpoint) -> None:
    """It makes them up itself, for as many topics as the endpoint takes."""
    sender = fresh("sender")
    async with a_bot(endpoint) as bot:
        topics = [uplink(sender, bot.client), *(uplink(sender, f"{sender}.{n}") for n in range(25))]
        messages = [
            Message(topic=topic, payload=b'{"round":%d}' % turn) for turn in range(2) for topic in topics
        ]
        async with Script("mqttjs", endpoint.options(5, sender, aliases=True)) as device:
            await device.event("connected")
            for message in messages:
                device.publish_soon(message)
            answers = await all_of(device, "puback", len(messages))
            assert not device.waiting("closed"), device.told()
        assert {a["code"] for a in answers} == {0}
        got = await take(bot, 2)
        for n in range(25):
            found = await endpoint.get(f"/v1/messages?to={sender}.{n}")
            assert len(found["messages"]) == 2
    assert [m["body"]["round"] for m in got] == [0, 1]
