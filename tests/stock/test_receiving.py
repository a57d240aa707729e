"""A stock client gets its messages: in order, acked, and the rest once when it comes back."""

from typing import Any

import pytest

from tests.stock.door import Door, Endpoint, body, fresh, inbox, uplink, user
from tests.stock.programs import Message, Program, Script, all_of, subscriber

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = pytest.mark.parametrize("program", ["paho", "mqttjs"])

FIRST, HELD, LATE, FLOOD = 10, 20, 5, 200


def told_of(messages: list[dict[str, Any]], name: str) -> list[str | None]:
    return [user(m).get(name) for m in messages]


async def test_a_device_killed_comes_back_for_exactly_the_rest(
    door: Door, program: Program, version: int
) -> None:
    client = await door.device("device")
    async with door.proxy() as proxy:
        options = door.subscribed(version, client, port=proxy.port)
        async with subscriber(program, options) as device:
            assert (await device.event("subscribed"))["codes"] == [1]
            await door.presence(client, "online")
            acked = await door.numbered(client, range(FIRST))
            got = await all_of(device, "message", FIRST)
            await door.delivered(acked)
            await proxy.acked(FIRST)

            proxy.mute()
            held = await door.numbered(client, range(FIRST, FIRST + HELD))
            got += await all_of(device, "message", HELD)
        proxy.cut()
        await door.presence(client, "offline")

        assert [body(m) for m in got] == list(range(FIRST + HELD))
        assert [m["mid"] for m in got] == list(range(1, FIRST + HELD + 1))
        assert {(m["topic"], m["qos"], m["dup"], m["retain"]) for m in got} == {
            (inbox(client), 1, False, False)
        }

        late = await door.numbered(client, range(FIRST + HELD, FIRST + HELD + LATE))
        async with subscriber(program, options) as device:
            back = await all_of(device, "message", HELD + LATE)
            await door.delivered(held + late)
            # nothing comes twice: the next one is the next one
            flood = await door.numbered(client, range(FIRST + HELD + LATE, FIRST + HELD + LATE + FLOOD))
            rest = await all_of(device, "message", FLOOD)
            await door.delivered(flood)

    assert proxy.present == [False, True]
    assert [body(m) for m in back + rest] == list(range(FIRST, FIRST + HELD + LATE + FLOOD))
    assert [m["mid"] for m in back + rest] == list(range(FIRST + 1, FIRST + HELD + LATE + FLOOD + 1))
    assert [m["dup"] for m in back] == [True] * HELD + [False] * LATE
    assert not any(m["dup"] for m in rest)
    if version == 5:
        everything = got + back + rest
        assert told_of(everything, "id") == acked + held + held + late + flood
        assert [m["correlation"] for m in everything] == told_of(everything, "id")
        assert {m["content"] for m in everything} == {"application/json"}
        assert all(0 < m["expiry"] <= 86400 for m in everything)
        if isinstance(door, Endpoint):
            assert told_of(got + rest, "redelivered") == [None] * (FIRST + HELD + FLOOD)
            assert told_of(back, "redelivered") == ["1"] * HELD + [None] * LATE
            assert told_of(everything, "seq") == [str(m["mid"]) for m in everything]
            assert len(set(told_of(everything, "epoch"))) == 1
        else:
            # the gateway has published each once, and the session is the broker's
            assert not {"redelivered", "seq", "epoch"} & {name for m in everything for name in user(m)}


async def test_acks_by_hand_in_any_order(door: Door, version: int) -> None:
    """paho-mqtt: what was not acked comes again, whatever was acked behind it."""
    client = await door.device("device")
    kept = [1, 4, 5, 9]
    async with (
        door.proxy() as proxy,
        Script("paho", door.subscribed(version, client, port=proxy.port)) as device,
    ):
        await device.event("subscribed")
        await device.by_hand()
        ids = await door.numbered(client, range(10))
        got = await all_of(device, "message", 10)
        for n in reversed(range(10)):
            if n not in kept:
                device.ack(got[n]["mid"])
        await door.delivered([id for n, id in enumerate(ids) if n not in kept])
        await proxy.acked(6)
    async with Script("paho", door.subscribed(version, client)) as device:
        assert (await device.event("connected"))["present"] is True
        back = await all_of(device, "message", len(kept))
        ids += await door.numbered(client, range(10, 11))
        last = await device.event("message")
        await door.delivered(ids)
    assert [(body(m), m["mid"], m["dup"]) for m in back] == [(n, n + 1, True) for n in kept]
    assert (body(last), last["dup"]) == (10, False)


async def test_acks_by_hand_one_by_one(door: Door, version: int) -> None:
    """MQTT.js reads a message when the one before it is acked: the others wait in its socket."""
    client = await door.device("device")
    async with (
        door.proxy() as proxy,
        Script("mqttjs", door.subscribed(version, client, port=proxy.port)) as device,
    ):
        await device.event("subscribed")
        await device.by_hand()
        ids = await door.numbered(client, range(10))
        for n in range(4):
            message = await device.event("message")
            assert body(message) == n
            device.ack(message["mid"])
        assert body(await device.event("message")) == 4
        await door.delivered(ids[:4])
        await proxy.acked(4)
        assert not device.waiting("message")
    async with Script("mqttjs", door.subscribed(version, client)) as device:
        assert (await device.event("connected"))["present"] is True
        back = await all_of(device, "message", 6)
        await door.delivered(ids)
    assert [(body(m), m["mid"], m["dup"]) for m in back] == [(n, n + 1, True) for n in range(4, 10)]


async def test_a_puback_that_refuses(endpoint: Endpoint) -> None:
    """MQTT.js can say so in MQTT 5: the message is a dead letter, and the device goes on."""
    client = fresh("device")
    async with Script("mqttjs", endpoint.subscribed(5, client)) as device:
        await device.event("subscribed")
        await device.by_hand()
        bad, good = await endpoint.numbered(client, range(2))
        device.ack((await device.event("message"))["mid"], 0x99)
        assert "0x99" in str((await endpoint.message(bad, "dead"))["timeline"])
        device.ack((await device.event("message"))["mid"])
        await endpoint.delivered([good])
        assert not device.waiting("closed")


async def test_a_clean_start_gets_what_waited_and_what_was_unacked(
    endpoint: Endpoint, program: Program, version: int
) -> None:
    """How most devices connect: nothing is kept between connections, but messages are the client's."""
    client = fresh("device")
    async with endpoint.proxy() as proxy:
        options = endpoint.subscribed(version, client, port=proxy.port, clean=True, expiry=None)
        waiting = await endpoint.numbered(client, range(5))
        async with subscriber(program, options) as device:
            got = await all_of(device, "message", 5)
            await endpoint.delivered(waiting)
            proxy.mute()
            held = await endpoint.numbered(client, range(5, 8))
            got += await all_of(device, "message", 3)
        proxy.cut()
        await endpoint.presence(client, "offline")
        late = await endpoint.numbered(client, range(8, 10))
        async with subscriber(program, options) as device:
            back = await all_of(device, "message", 5)
            await endpoint.delivered(held + late)
    assert proxy.present == [False, False]
    assert [body(m) for m in got + back] == [*range(8), *range(5, 10)]
    assert not any(m["dup"] for m in got)
    # packet ids begin anew
    assert [m["mid"] for m in back] == [1, 2, 3, 4, 5]
    if version == 5:
        assert told_of(got, "redelivered") == [None] * 8
        assert told_of(back, "redelivered") == ["1"] * 3 + [None] * 2
        assert [told_of(got, "epoch")[0]] != [told_of(back, "epoch")[0]]
        # [MQTT-3.3.1-1]: no DUP in a session that is new
        assert not any(m["dup"] for m in back)
    else:
        assert [m["dup"] for m in back] == [True] * 3 + [False] * 2


async def test_qos_0_and_2(endpoint: Endpoint, program: Program, version: int) -> None:
    """At 0 a message is settled when it is written; 2 is granted 1."""
    client = fresh("device")
    async with subscriber(program, endpoint.subscribed(version, client, qos=0)) as device:
        assert (await device.event("subscribed"))["codes"] == [0]
        ids = await endpoint.numbered(client, range(3))
        got = await all_of(device, "message", 3)
        await endpoint.delivered(ids)
    assert [(body(m), m["qos"], m["dup"]) for m in got] == [(n, 0, False) for n in range(3)]
    timeline = (await endpoint.get(f"/v1/messages/{ids[0]}"))["timeline"]
    assert any("at_most_once" in str(step) for step in timeline), timeline

    client = fresh("device")
    async with subscriber(program, endpoint.subscribed(version, client, qos=2)) as device:
        assert (await device.event("subscribed"))["codes"] == [1]
        ids = await endpoint.numbered(client, range(3))
        assert [m["qos"] for m in await all_of(device, "message", 3)] == [1, 1, 1]
        await endpoint.delivered(ids)


async def test_every_kind_of_body(door: Door, program: Program, version: int) -> None:
    client = await door.device("device")
    bodies: list[tuple[Any, str]] = [
        ("on", "on"),
        ("grün ✓ 🚀 \u0001\ufffe", "grün ✓ 🚀 \u0001\ufffe"),
        ("", ""),
        (None, "null"),
        (21.5, "21.5"),
        ({"a": [True, "x"]}, '{"a": [true, "x"]}'),
        ("x" * 60_000, "x" * 60_000),
    ]
    odd = {"type": "a\u0001b", "meta": {"shop": "m\ufffd\ufffen", "id": "4711", "gr ün": ""}}
    async with subscriber(program, door.subscribed(version, client)) as device:
        await device.event("subscribed")
        ids = await door.post([{"to": client, "body": body, **odd} for body, _ in bodies])
        got = await all_of(device, "message", len(bodies))
        await door.delivered(ids)
        assert not device.waiting("closed"), device.told()
    assert [m["payload"] for m in got] == [payload for _, payload in bodies]
    if version == 5:
        text, data = "text/plain; charset=utf-8", "application/json"
        assert [m["content"] for m in got] == [text] * 3 + [data] * 3 + [text]
        found = [user(m) for m in got]
        assert {(u["type"], u["shop"], u["meta.id"], u["gr ün"]) for u in found} == {
            ("a\ufffdb", "m\ufffd\ufffdn", "4711", "")
        }
        assert {u["from"] for u in found} == {"api:backend"}


@SCRIPTS
async def test_what_a_device_can_take_bounds_what_it_gets(endpoint: Endpoint, program: Program) -> None:
    """Receive Maximum and Maximum Packet Size of MQTT 5."""
    client = fresh("device")
    options = endpoint.subscribed(5, client, receive_maximum=3, max_packet=4000)
    async with Script(program, options) as device:
        await device.event("subscribed")
        await device.by_hand()
        big = {"to": client, "body": "x" * 5000}
        ids = await endpoint.post([{"to": client, "body": {"n": 0}}, big])
        ids += await endpoint.numbered(client, range(1, 10))
        for n in range(10):
            message = await device.event("message")
            assert body(message) == n
            # paho has read all that was written
            assert device.waiting("message") <= 2
            device.ack(message["mid"])
        await endpoint.message(ids[1], "dead")
        await endpoint.delivered([ids[0], *ids[2:]])
        assert not device.waiting("closed"), device.told()


@SCRIPTS
async def test_unsubscribed_for_a_while(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    async with Script(program, endpoint.subscribed(version, client)) as device:
        await device.event("subscribed")
        await endpoint.numbered(client, range(2))
        got = await all_of(device, "message", 2)
        device.say({"do": "unsubscribe", "topic": inbox(client)})
        await device.event("unsubscribed")
        ids = await endpoint.numbered(client, range(2, 4))
        # it is still there
        sent = await device.publish(Message(topic=uplink(client, client), payload=b'{"n":4}'))
        assert sent["code"] == 0
        assert not device.waiting("message")
        device.say({"do": "subscribe", "topic": inbox(client), "qos": 1})
        got += await all_of(device, "message", 3)
        await endpoint.delivered(ids)
    assert [body(m) for m in got] == list(range(5))


async def test_the_session_is_the_clients_whatever_it_runs(door: Door) -> None:
    """Each leaves something unacked, and the next one goes on."""
    client = await door.device("device")
    runs: list[tuple[Program, int]] = [
        ("mosquitto", 4),
        ("paho", 5),
        ("mqttjs", 4),
        ("mosquitto", 5),
        ("paho", 4),
        ("mqttjs", 5),
        ("mosquitto", 4),
    ]
    async with door.proxy() as proxy:
        for turn, (program, version) in enumerate(runs):
            options = door.subscribed(version, client, port=proxy.port)
            async with subscriber(program, options) as device:
                await device.event("connected")
                got = await all_of(device, "message", 5 if turn else 0)
                assert [(body(m), m["mid"], m["dup"]) for m in got] == [
                    (n, n + 1, True) for n in range(turn * 5 - 5, turn * 5) if turn
                ]
                if not turn:
                    await device.event("subscribed")
                await door.presence(client, "online")
                await proxy.acked(turn * 5)
                proxy.mute()
                await door.numbered(client, range(turn * 5, turn * 5 + 5))
                fresh_ones = await all_of(device, "message", 5)
                assert [(body(m), m["dup"]) for m in fresh_ones] == [
                    (n, False) for n in range(turn * 5, turn * 5 + 5)
                ]
            proxy.cut()
            await door.presence(client, "offline")
    assert proxy.present == [False] + [True] * 6
