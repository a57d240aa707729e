"""What is refused is told as each version of MQTT can tell it, and stock clients understand it."""

import asyncio
from typing import Any

import pytest

from tests.stock.door import Door, Endpoint, fresh, inbox, uplink
from tests.stock.programs import (
    Message,
    Mosquitto,
    Program,
    Script,
    Will,
    mosquitto,
    publish,
    spoken,
    subscriber,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = pytest.mark.parametrize("program", ["paho", "mqttjs"])


# -- publishes ---------------------------------------------------------------------------------------------------------


def hopeless(sender: str) -> list[tuple[Message, int, str, str]]:
    """What can never be accepted: the reason code, part of the reason, and the code in a dead letter."""
    own = uplink(sender, "nobody")
    deep = b"[" * 70 + b"]" * 70
    return [
        (Message(topic=f"{own}:x", payload=b"1"), 0x90, "not a client id", "address_invalid"),
        (Message(topic="somewhere/else", payload=b"2"), 0x90, "not a topic", "publish_invalid"),
        (
            Message(topic=uplink("another", "nobody"), payload=b"3"),
            0x87,
            "another client's",
            "topic_forbidden",
        ),
        (
            Message(topic=uplink(sender, "other"), payload=b"4"),
            0x87,
            "may not publish to other",
            "address_forbidden",
        ),
        (Message(topic=own, payload=b"x" * 70_000), 0x97, "65536", "too_large"),
        (Message(topic=own, payload=deep), 0x99, "nesting over 64", "too_deep"),
    ]


async def test_mqtt_5_is_told_in_the_puback(endpoint: Endpoint, program: Program) -> None:
    sender = fresh("sender")
    wrong = hopeless(sender)
    own = uplink(sender, "nobody")
    wrong += [
        (Message(topic=own, payload=b"5", user=[("fallback", "hook")]), 0x87, "fallback", ""),
        (Message(topic=own, payload=b"6", user=[("ttl", "soon")]), 0x83, "user property ttl", ""),
        (Message(topic=own, payload=b"7", user=[("priority", "urgent")]), 0x83, "user property priority", ""),
    ]
    options = endpoint.options(5, sender, claims={"pub": ["nobody*"]})
    fine = Message(topic=own, payload=b"8")
    # on one connection, where the program can do that
    *answers, last = await publish(program, options, *[message for message, *_ in wrong], fine)
    for (message, code, why, _), answer in zip(wrong, answers, strict=True):
        assert (answer["code"], why in answer["why"]) == (code, True), (message, answer)
    assert last["code"] == 0
    assert await endpoint.letters(sender) == []


async def test_mqtt_3_1_1_gets_a_dead_letter_and_stays(endpoint: Endpoint, program: Program) -> None:
    sender = fresh("sender")
    wrong = hopeless(sender)
    options = endpoint.options(4, sender, claims={"pub": ["nobody*"]})
    answers = await publish(program, options, *[message for message, *_ in wrong])
    assert [a["code"] for a in answers] == [0] * len(wrong)
    letters = await endpoint.letters(sender)
    for (message, _, why, code), letter in zip(wrong, letters, strict=True):
        refused = next(step for step in letter["timeline"] if step["event"] == "refused")["data"]
        assert (letter["status"], letter["why"], refused["code"]) == ("dead", code, code)
        assert why in refused["detail"]
        assert refused["to"] in message.topic
        if len(message.payload) == 1:
            assert letter["body"] == int(message.payload)


async def test_a_retained_publish(endpoint: Endpoint, program: Program, version: int) -> None:
    """Nothing is retained: MQTT 5 knows from the CONNACK, and 3.1.1 gets a dead letter."""
    sender, address = fresh("sender"), fresh("nobody")
    options = endpoint.options(version, sender)
    message = Message(topic=uplink(sender, address), payload=b'"kept"', retain=True)
    if version == 4 or program == "mosquitto":
        assert (await publish(program, options, message))[0]["code"] == 0
    else:
        async with Script(program, options) as device:
            await device.event("connected")
            device.publish_soon(message)
            assert (await device.event("closed"))["code"] == 0x9A
        return
    letters = await endpoint.letters(sender)
    if version == 4:
        assert [(d["body"], d["why"]) for d in letters] == [("kept", "publish_invalid")]
    else:
        # mosquitto_pub sends it without the flag then
        assert letters == []
        assert len((await endpoint.get(f"/v1/messages?to={address}"))["messages"]) == 1


async def test_a_publish_at_qos_2(door: Door, program: Program, version: int) -> None:
    sender, address = await door.device("sender"), fresh("nobody")
    options = door.options(version, sender, reconnect=False)
    message = Message(topic=uplink(sender, address), payload=b"1", qos=2)
    if program == "mosquitto":
        async with Mosquitto(*mosquitto("mosquitto_pub", options, *spoken(message))) as pub:
            await pub.event("connected")
            status = await pub.ended()
        if version == 5:
            assert "QoS not supported" in pub.errors
        else:
            assert (status, pub.errors) == (7, "Error: The connection was lost.\n")
    else:
        async with Script(program, options) as device:
            await device.event("connected")
            device.publish_soon(message)
            assert (await device.event("closed"))["code"] == (0x9B if version == 5 else None)
    assert (await door.get(f"/v1/messages?to={address}"))["messages"] == []


@SCRIPTS
async def test_a_packet_over_the_limit(door: Door, program: Program, version: int) -> None:
    sender = await door.device("sender")
    async with Script(program, door.options(version, sender, reconnect=False)) as device:
        await device.event("connected")
        device.publish_soon(Message(topic=uplink(sender, "nobody"), payload=b"x" * (1 << 20)))
        assert (await device.event("closed"))["code"] == (0x95 if version == 5 else None)


# -- connects ----------------------------------------------------------------------------------------------------------


async def refusal(program: Program, options: Any) -> int:
    """The code of the CONNACK."""
    async with subscriber(program, options) as device:
        code = (await device.event("refused"))["code"]
        if program == "mosquitto":
            assert await device.ended() != 0
        return int(code)


async def test_connects(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    good = endpoint.subscribed(version, client, reconnect=False)
    other = fresh("other")
    foreign = endpoint.gateway.token(other)
    bad, denied = (0x86, 0x87) if version == 5 else (4, 5)
    wrong = [
        (good.but(password=good.password[:-4] + "AAAA"), bad),
        (good.but(username="root"), bad),
        (good.but(password=foreign), denied),
        (good.but(client="two words", username="two words"), 0x85 if version == 5 else 2),
        (good.but(will=Will(topic=uplink(other, client), payload="x")), denied),
    ]
    codes = await asyncio.gather(*[refusal(program, options) for options, _ in wrong])
    assert codes == [code for _, code in wrong]
    # nothing of it has touched the client
    async with subscriber(program, good) as device:
        assert (await device.event("subscribed"))["codes"] == [1]


async def test_mqtt_3_1_is_not_spoken(endpoint: Endpoint) -> None:
    options = endpoint.options(4, fresh("device"))
    line = list(mosquitto("mosquitto_sub", options, "-t", "x"))
    line[line.index("mqttv311")] = "mqttv31"
    async with Mosquitto(*line) as device:
        assert (await device.event("refused"))["code"] == 1


async def test_a_banned_client(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    options = endpoint.subscribed(version, client, reconnect=False)
    async with subscriber(program, options) as device:
        await device.event("subscribed")
        async with endpoint.http.post(f"/v1/clients/{client}/disconnect", json={"ban": 60}) as answer:
            assert answer.status == 200, await answer.text()
        if version == 5:
            assert (await device.event("closed"))["code"] == 0x98
    # the tokens that it had are void, and a new one does not help
    assert await refusal(program, options) == (0x86 if version == 5 else 4)
    async with endpoint.http.post(f"/v1/clients/{client}/token", json={}) as answer:
        token = (await answer.json())["token"]
    assert await refusal(program, options.but(password=token)) == (0x8A if version == 5 else 5)


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_subscriptions(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    expected = {
        inbox("another"): 0x87,
        "gw/v1/m/+": 0xA2,
        "gw/v1/#": 0xA2,
        "#": 0xA2,
        "$SYS/broker/uptime": 0x87,
        f"$share/group/{inbox(client)}": 0x9E,
    }
    options = endpoint.options(version, client, subscribe=tuple((topic, 1) for topic in expected))
    codes: list[int] = []
    async with subscriber(program, options) as device:
        while len(codes) < len(expected):
            # mosquitto_sub asks for all at once
            codes += (await device.event("subscribed"))["codes"]
    assert codes == [code if version == 5 else 0x80 for code in expected.values()]


@SCRIPTS
async def test_a_refused_subscription_harms_no_other(
    endpoint: Endpoint, program: Program, version: int
) -> None:
    client = fresh("device")
    async with Script(program, endpoint.subscribed(version, client)) as device:
        assert (await device.event("subscribed"))["codes"] == [1]
        device.say({"do": "subscribe", "topic": inbox("another"), "qos": 1})
        assert (await device.event("subscribed"))["codes"] == [0x87 if version == 5 else 0x80]
        device.say({"do": "subscribe", "topic": f"gw/v1/d/{client}", "qos": 1})
        assert (await device.event("subscribed"))["codes"] == [0x83 if version == 5 else 0x80]
        await endpoint.numbered(client, range(1))
        await device.event("message")
