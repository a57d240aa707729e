"""What devices publish: PUBACKs when it is durable, in order; refusals; repeated ones."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.errors import StoreFailed
from gateway.ids import encode_id
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Ack, Kind, P, Props
from tests.transports.mqtt.endpoint import CONFIG, Device, Endpoint, endpoint, user

VERSIONS = pytest.mark.parametrize("version", [4, 5])
DEAD = 10


async def refusal(device: Device, pid: int) -> tuple[int, str]:
    """Code and reason string of the PUBACK that comes next."""
    ack = await device.next(Ack)
    assert (ack.kind, ack.pid) == (Kind.PUBACK, pid)
    return int(ack.code), (ack.props or {}).get(P.REASON, "")


async def letters(e: Endpoint) -> list[Any]:
    """The dead letters, oldest first."""
    return list(reversed(await e.store.dead_letters(None, None, 1 << 62, 100, False)))


# -- accepted ------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("topic", ["gw/v1/to/bob", "gw/v1/u/{part}/alice/to/bob"], ids=["short", "long"])
async def test_a_message_of_a_device(version: int, topic: str) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        name = e.server.topics.own_to("alice", "bob").decode() if "part" in topic else topic
        device.send(topic=name, body=b'{"n":1}', pid=77)
        assert await device.packet() == 77
        assert await e.to("bob") == [{"n": 1}]
        found = await e.hub.uplinks(["alice"], 1)
        assert {pid: body for pid, (_, body) in found["alice"].items()} == {77: b'{"n":1}'}
        await device.leave()


@VERSIONS
async def test_a_puback_comes_after_the_commit(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.send(pid=1)
        device.send(pid=2)
        await device.nothing()
        e.store.let_go()
        assert [await device.packet(), await device.packet()] == [1, 2]
        await device.leave()


@VERSIONS
@pytest.mark.parametrize(
    ("payload", "body", "kind"),
    [
        (b'"x"', "x", None),
        (b"x y", "x y", None),
        (b"\xff\0", "/wA=", "application/octet-stream"),
        (b"", "", None),
    ],
)
async def test_payloads(version: int, payload: bytes, body: Any, kind: str | None) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.send(body=payload)
        assert await device.packet() == 1
        assert await e.to("bob") == [body]
        (view,) = await e.store.messages("bob", None, None, 1 << 62, 10)
        assert (view.item.x.type if view.item.x else None) == kind
        await device.leave()


@VERSIONS
async def test_at_qos_0_there_is_no_answer(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.send(qos=0)
        await e.until(lambda: e.hub.figures()["accepted"])
        await device.nothing()
        assert await e.to("bob") == [1]
        await device.leave()


async def test_fields_as_user_properties_and_a_reply() -> None:
    async with endpoint() as e:
        alice, bob = await e.subscribed("alice"), await e.subscribed("bob")
        props: Props = {
            P.USER: [("priority", "high"), ("type", "ask"), ("key", "k1"), ("colour", "red")],
            P.MESSAGE_EXPIRY: 60,
            P.RESPONSE_TOPIC: "gw/v1/m/alice",
            P.CORRELATION: b"\1\2",
        }
        for _ in range(2):
            alice.send("bob", b"42", props=props)
            assert await alice.packet() == 1
        (asked,) = await bob.messages(1)
        assert asked.props is not None
        assert asked.props[P.RESPONSE_TOPIC] == "gw/v1/to/alice"
        assert asked.props[P.CORRELATION] == b"\1\2"
        named = user(asked)
        assert (named["priority"], named["type"], named["colour"]) == ("high", "ask", "red")
        bob.send(topic=asked.props[P.RESPONSE_TOPIC], body=b"43", props={P.CORRELATION: b"\1\2"})
        bob.ack(asked.pid)
        assert await bob.packet() == 1
        (reply,) = await alice.messages(1)
        assert reply.props is not None
        assert (reply.payload, reply.props[P.CORRELATION]) == (b"43", b"\1\2")
        alice.ack(reply.pid)
        await bob.nothing()
        await alice.leave()
        await bob.leave()


async def test_topic_aliases() -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.send("bob", b"1", pid=1, props={P.TOPIC_ALIAS: 4})
        device.send(topic="", body=b"2", pid=2, props={P.TOPIC_ALIAS: 4})
        device.send("carol", b"3", pid=3, props={P.TOPIC_ALIAS: 4})
        device.send(topic="", body=b"4", pid=4, props={P.TOPIC_ALIAS: 4})
        device.send("a/b", b"5", pid=5, props={P.TOPIC_ALIAS: 1})
        device.send(topic="", body=b"6", pid=6, props={P.TOPIC_ALIAS: 1})
        assert [await device.packet() for _ in range(4)] == [1, 2, 3, 4]
        assert [(await refusal(device, pid))[0] for pid in (5, 6)] == [0x90, 0x90]
        assert (await e.to("bob"), await e.to("carol")) == ([1, 2], [3, 4])
        await device.leave()


@pytest.mark.parametrize(
    ("topic", "alias", "code"), [("gw/v1/to/bob", 5, 0x94), ("", 5, 0x94), ("", 1, 0x82)]
)
async def test_topic_aliases_that_cannot_be(topic: str, alias: int, code: int) -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.send(topic=topic, props={P.TOPIC_ALIAS: alias})
        assert (await device.why())[0] == code


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "options", "code", "why"),
    [
        ("carol", {"to": "alice"}, 0x87, "may not publish to alice"),
        ("alice", {"topic": "gw/v1/u/00/bob/to/carol"}, 0x87, "another client's"),
        ("alice", {"topic": "elsewhere"}, 0x90, "not a topic"),
        ("alice", {"topic": "gw/v1/to/"}, 0x90, "one address"),
        ("alice", {"to": "pool:x"}, 0x90, "pools"),
        ("alice", {"to": "-x"}, 0x90, "not a client id"),
        ("alice", {"body": b"x" * 5000}, 0x97, "at most 4096 bytes"),
        ("alice", {"body": b"[" * 100 + b"]" * 100}, 0x99, "nesting"),
        ("alice", {"body": b"\xff", "props": {P.PAYLOAD_FORMAT: 1}}, 0x99, "UTF-8"),
        ("alice", {"props": {P.USER: [("ttl", "soon")]}}, 0x83, "user property ttl"),
        ("alice", {"props": {P.USER: [("priority", "critical")]}}, 0x87, "priority"),
        ("alice", {"props": {P.USER: [("fallback", "hook")]}}, 0x87, "channels"),
        ("alice", {"props": {P.RESPONSE_TOPIC: "gw/v1/m/bob"}}, 0x90, "your own inbox"),
        ("alice", {"topic": "{frames}"}, 0x83, "subscribe"),
    ],
)
async def test_refusals_in_mqtt_5(client: str, options: dict[str, Any], code: int, why: str) -> None:
    async with endpoint() as e:
        device = await e.connect(client)
        if options.get("topic") == "{frames}":
            options = {"topic": e.server.topics.frames_up(client).decode()}
        device.send(**options, pid=9)
        got, told = await refusal(device, 9)
        assert got == code
        assert why in told
        assert e.figure("refused", f"0x{code:02x}") == 1
        # at QoS 0 it is dropped, and the connection stands
        device.send(**options, qos=0)
        await device.nothing()
        assert e.server.figures()["dropped"] == 1
        assert not await letters(e)
        await device.leave()


@pytest.mark.parametrize(
    ("client", "options", "to", "why"),
    [
        ("carol", {"to": "alice"}, "alice", "address_forbidden"),
        ("alice", {"topic": "gw/v1/u/00/bob/to/carol"}, "alice", "topic_forbidden"),
        ("alice", {"topic": "elsewhere"}, "elsewhere", "publish_invalid"),
        ("alice", {"to": "pool:x"}, "alice", "address_kind_unsupported"),
        ("alice", {"body": b"x" * 5000}, "bob", "too_large"),
        ("alice", {"body": b"[" * 100 + b"]" * 100}, "bob", "too_deep"),
        ("alice", {"body": b"[" * 2000 + b"]" * 2000}, "bob", "too_deep"),
        ("alice", {"retain": True}, "bob", "publish_invalid"),
    ],
)
async def test_what_can_never_succeed_in_3_1_1_is_a_dead_letter(
    client: str, options: dict[str, Any], to: str, why: str
) -> None:
    async with endpoint() as e:
        device = await e.connect(client, 4)
        e.store.held = True
        device.send(**{"to": "bob", **options}, pid=9)
        await device.nothing()
        e.store.let_go()
        assert await device.packet() == 9
        (letter,) = await letters(e)
        assert (letter.item.status, letter.item.why, letter.item.client) == (DEAD, why, to)
        assert letter.item.sender == client
        # at QoS 0 it is dropped
        device.send(**{"to": "bob", **options}, qos=0)
        await device.nothing()
        assert e.server.figures()["dropped"] == 1
        assert len(await letters(e)) == 1
        await device.leave()


async def test_a_frame_without_a_subscription_in_3_1_1_is_no_message() -> None:
    async with endpoint() as e:
        device = await e.connect("alice", 4)
        device.send(topic=e.server.topics.frames_up("alice").decode(), body=b'{"t":"ping"}', pid=3)
        assert await device.packet() == 3
        assert not await letters(e)
        assert e.figure("refused", "0x83") == 1
        await device.leave()


@VERSIONS
async def test_qos_2_ends_the_connection(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.send(qos=2)
        assert await device.end() == (0x9B if version == 5 else None)
        assert not e.hub.figures()["accepted"]


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_retained_publish_ends_a_connection_of_mqtt_5(qos: int) -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.send(qos=qos, retain=True)
        assert (await device.why())[0] == 0x9A


@VERSIONS
async def test_a_packet_that_is_too_large(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.send(body=b"x" * 20_000)
        assert await device.end() == (0x95 if version == 5 else None)


async def test_pubacks_keep_their_order_around_refusals() -> None:
    async with endpoint() as e:
        device = await e.connect()
        e.store.held = True
        for pid, to in enumerate(("bob", "-", "bob", "-", "-", "bob"), 1):
            device.send(to, pid=pid)
        await device.nothing()
        e.store.let_go()
        answers = [await device.packet() for _ in range(6)]
        assert [a if type(a) is int else a.pid for a in answers] == [1, 2, 3, 4, 5, 6]
        assert [type(a) is int for a in answers] == [True, False, True, False, False, True]
        await device.leave()


@VERSIONS
async def test_many_in_one_read(version: int) -> None:
    """Runs of bare publishes with others among them, over the receive maximum again and again: taken in their order,
    answered in their order, and not before the commit.
    """
    async with endpoint() as e:
        await e.publish("bob", "first")
        device = await e.connect("alice", version)
        e.store.held = True
        bodies = [b"%d" % n for n in range(100)]
        for n in range(0, 100, 7):
            bodies[n] = b"text %d" % n
        packets = []
        for pid, body in enumerate(bodies, 1):
            props = {P.USER: [("type", "t")]} if pid % 11 == 0 else None
            packets.append(codec.publish(version, b"gw/v1/to/bob", body, qos=1, pid=pid, props=props))
            if pid % 20 == 0:
                packets.append(codec.publish(version, b"gw/v1/to/-", b"1", qos=1, pid=1000 + pid))
        device.write(b"".join(packets))
        await e.until(lambda: e.server.figures()["unread"] == 1)
        (conn,) = e.hub.core.conns
        assert (conn.taken, conn.given) == (16, 0)  # type: ignore[attr-defined]
        e.store.let_go()
        answers = [await device.packet() for _ in range(105)]
        wanted = [n for pid in range(1, 101) for n in ([pid] if pid % 20 else [pid, 1000 + pid])]
        assert [a if type(a) is int else a.pid for a in answers] == wanted
        if version == 5:
            assert [type(a) is int for a in answers] == [pid < 1000 for pid in wanted]
        stored = await e.to("bob")
        assert [str(body) for body in stored] == ["first", *(body.decode() for body in bodies)]
        assert e.hub.figures()["accepted"] == (101 if version == 5 else 106)
        await device.leave()


async def test_a_refusal_after_the_commit() -> None:
    async with endpoint() as e:
        device = await e.connect()
        for pid, body in ((1, b"1"), (2, b"2")):
            device.send(body=body, pid=pid, props={P.USER: [("key", "k")]})
        assert await device.packet() == 1
        code, why = await refusal(device, 2)
        assert (code, "key" in why) == (0x83, True)
        await device.leave()


SLOW = replace(CONFIG, limits=replace(CONFIG.limits, publish_rate=1.0, publish_burst=2))


async def test_a_publish_rate_in_mqtt_5_is_a_puback() -> None:
    async with endpoint(SLOW) as e:
        device = await e.connect()
        for pid in (1, 2, 3):
            device.send(pid=pid)
        assert [await device.packet(), await device.packet()] == [1, 2]
        assert (await refusal(device, 3))[0] == 0x97
        await e.advance(1.0)
        device.send(pid=4)
        assert await device.packet() == 4
        await device.leave()


async def test_a_publish_rate_in_3_1_1_ends_the_connection() -> None:
    async with endpoint(SLOW) as e:
        device = await e.connect("alice", 4)
        for pid in (1, 2, 3, 4):
            device.send(pid=pid)
        assert await device.packet() in (1, None)
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        assert e.figure("disconnects", "server 0x97") == 1
        assert e.hub.figures()["accepted"] == 2


@VERSIONS
async def test_a_store_that_fails(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.send(pid=1)
        await device.nothing()
        e.store.fail = lambda commit: StoreFailed("no disk", definite=True)
        e.store.let_go()
        assert await device.end() == (0x89 if version == 5 else None)
        e.store.fail = lambda commit: None
        await e.advance(1.0)
        assert await e.to("bob") == []
        again = await e.connect("alice", version)
        again.send(pid=1, dup=True)
        assert await again.packet() == 1
        await again.leave()


@VERSIONS
async def test_publishing_to_a_gateway_that_drains(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.hub.drain()
        device.send(qos=0)
        await device.nothing()
        device.send(pid=1)
        assert await device.end() == (0x8B if version == 5 else None)
        assert not e.hub.figures()["accepted"]


# -- how much at a time --------------------------------------------------------------------------------------------


@VERSIONS
async def test_above_the_receive_maximum_the_socket_is_not_read_until_they_are_answered(version: int) -> None:
    """MQTT.js publishes more than it was told to, and one with 3.1.1 is told nothing."""
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        for pid in range(1, 41):
            device.send(pid=pid)
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.turn(20)
        assert len(e.store.pending) == 1
        (conn,) = e.hub.core.conns
        assert conn.taken - conn.given == 16  # type: ignore[attr-defined]
        e.store.let_go()
        assert [await device.packet() for _ in range(40)] == list(range(1, 41))
        assert e.server.figures()["unread"] == 0
        await device.leave()


@VERSIONS
async def test_publishes_at_qos_0_slow_the_device_down(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        for _ in range(1200):
            device.send(qos=0)
        await e.until(lambda: e.server.figures()["unread"] == 1)
        e.store.let_go()
        await e.until(lambda: e.hub.figures()["accepted"] == 1200)
        await e.until(lambda: e.server.figures()["unread"] == 0)
        await device.leave()


# -- repeated ------------------------------------------------------------------------------------------------------


def marks(e: Endpoint, views: list[Any]) -> list[str | None]:
    return [v.item.x.possible_dup if v.item.x else None for v in views]


async def stored(e: Endpoint, client: str = "bob") -> list[Any]:
    views = await e.store.messages(client, None, None, 1 << 62, 100)
    return [await e.view(v.item.id) for v in reversed(views)]


@VERSIONS
async def test_a_repeated_publish_is_accepted_and_marked(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.send(body=b'{"n":1}', pid=5)
        assert await device.packet() == 5
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        again = await e.connect("alice", version)
        again.send(body=b'{"n":1}', pid=5, dup=True)
        again.send(body=b'{"n":2}', pid=6, dup=True)  # never seen
        again.send(body=b'{"n":3}', pid=5, dup=True)  # something else
        again.send(body=b'{"n":3}', pid=5, dup=True)
        again.send(body=b'{"n":2}', pid=6)
        again.write(codec.pingreq())
        answers = [await again.packet() for _ in range(6)]
        assert [a for a in answers if type(a) is int] == [5, 6, 5, 5, 6]
        views = await stored(e)
        ids = [encode_id(v.item.id) for v in views]
        assert [m for m in marks(e, views) if m] == [ids[0], ids[3]]
        assert [m is not None for m in marks(e, views)] == [False, True, False, False, True, False]
        assert e.store.lookups == [["alice"]]
        await again.leave()


async def test_a_repeated_publish_that_is_refused() -> None:
    async with endpoint() as e:
        device = await e.connect()
        for _ in range(3):
            device.send("-", pid=5, dup=True)
            assert (await refusal(device, 5))[0] == 0x90
        device.send("bob", pid=5, dup=True)
        assert await device.packet() == 5
        assert marks(e, await stored(e)) == [None]
        await device.leave()


async def test_the_mark_reaches_the_client() -> None:
    async with endpoint() as e:
        bob, alice = await e.subscribed("bob"), await e.connect("alice")
        alice.send(pid=5)
        assert await alice.packet() == 5
        again = await e.connect("alice")
        assert await alice.end() == 0x8E
        again.send(pid=5, dup=True)
        assert await again.packet() == 5
        first, second = await bob.messages(2)
        assert "possible_dup" not in user(first)
        assert user(second)["possible_dup"] == user(first)["id"]
        await again.leave()
        await bob.leave()


@VERSIONS
async def test_what_is_still_being_committed_is_waited_for(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.send(pid=5)
        await device.nothing()
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        again = await e.connect("alice", version)
        again.send(pid=5, dup=True)
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.turn(20)
        assert not e.store.lookups
        e.store.let_go()
        assert await again.packet() == 5
        first, second = await stored(e)
        assert marks(e, [first, second]) == [None, encode_id(first.item.id)]
        await again.leave()


@VERSIONS
async def test_its_own_publishes_are_answered_before_a_repeated_one(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.send(body=b"1", pid=5)
        device.send(body=b"1", pid=5, dup=True)
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.turn(20)
        assert not e.store.lookups
        e.store.let_go()
        assert [await device.packet(), await device.packet()] == [5, 5]
        first, second = await stored(e)
        assert marks(e, [first, second]) == [None, encode_id(first.item.id)]
        await device.leave()


async def test_many_devices_that_repeat_are_looked_up_together() -> None:
    async with endpoint() as e:
        devices = [await e.connect(f"device{letter}") for letter in "abcdefgh"]
        for device in devices:
            device.send(pid=1, dup=True)
        for device in devices:
            assert await device.packet() == 1
        assert sum(map(len, e.store.lookups)) == len(devices)
        assert len(e.store.lookups) < len(devices)
        for device in devices:
            await device.leave()


@VERSIONS
async def test_a_lookup_that_fails(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)

        async def fails(*_: Any, **__: Any) -> dict[str, Any]:
            raise StoreFailed("no disk", definite=True)

        monkeypatch.setattr(e.store, "uplinks", fails)
        device.send(pid=1, dup=True)
        assert await device.end() == (0x89 if version == 5 else None)
        assert not e.hub.figures()["accepted"]


@VERSIONS
async def test_a_device_that_goes_while_it_is_looked_up(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        called = asyncio.Event()

        async def waits(*_: Any, **__: Any) -> dict[str, Any]:
            called.set()
            return await asked

        monkeypatch.setattr(e.store, "uplinks", waits)
        device.send(pid=1, dup=True)
        await called.wait()
        device.cut()
        await e.advance(61.0, 10.0)
        asked.set_result({})
        await e.until(lambda: not e.server.figures()["connections"])
        assert not e.hub.figures()["accepted"]


async def test_a_store_that_never_tells_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as e:
        device = await e.connect()
        asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        called = asyncio.Event()

        async def waits(*_: Any, **__: Any) -> dict[str, Any]:
            called.set()
            return await asked

        monkeypatch.setattr(e.store, "uplinks", waits)
        device.send(pid=1, dup=True)
        await called.wait()
        await e.advance(61.0, 10.0)
        assert (await device.why())[0] == 0x89
        asked.set_result({})
