"""CONNECT: who is let in, and what the others are told."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.errors import ConfigError, StoreFailed, Unavailable
from gateway.transports.mqtt import MqttServer, codec
from gateway.transports.mqtt.codec import Connack, P, Pong, Props, Suback, Will
from gateway.transports.mqtt.life import CLOSE_WAIT
from tests.transports.mqtt.endpoint import CONFIG, Device, endpoint

VERSIONS = pytest.mark.parametrize("version", [4, 5])
# what 3.1.1 says by return code, as the codec reads it
AS_311 = {0x9F: 0x88, 0x97: 0x88, 0x8A: 0x87, 0x8C: 0x87, 0x9C: 0x88}


async def refused(device: Device, **options: Any) -> tuple[int, str, Props]:
    """Code, reason string and properties of the CONNACK that refuses; the stream ends after it."""
    connack = await device.connect(**options)
    assert not connack.session_present
    assert await device.packet() is None
    device.cut()
    props = connack.props or {}
    return int(connack.code), props.get(P.REASON, ""), props


async def check(device: Device, code: int, why: str = "", **options: Any) -> None:
    """It is refused with this code, and in MQTT 5 with these words."""
    got, told, _ = await refused(device, **options)
    if device.version == 5:
        assert got == code
        assert why in told
        assert told
    else:
        assert got == AS_311.get(code, code)
        assert not told
    assert device.endpoint.figure("connacks", f"0x{code:02x}") == 1


@VERSIONS
async def test_a_device_is_accepted(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        assert device.connack is not None
        assert not device.connack.session_present
        await device.nothing()
        assert e.server.figures()["connections"] == 1
        assert e.figure("connacks", "0x00") == 1
        await device.leave()


@VERSIONS
async def test_without_a_connect_in_time_the_socket_is_closed(version: int) -> None:
    async with endpoint(connect_timeout=5.0) as e:
        silent, slow = await e.device("alice", version).open(), await e.device("bob", version).open()
        slow.write(slow.hello()[:-1])
        await e.until(lambda: e.server.figures()["sockets"] == 2)
        await e.advance(4.0)
        assert e.server.figures()["sockets"] == 2
        await e.advance(2.0)
        assert await silent.packet() is None
        assert await slow.packet() is None
        assert e.figure("connacks", "timeout") == 2
        silent.cut()
        slow.cut()


@VERSIONS
async def test_connects_of_one_address_are_limited(version: int) -> None:
    async with endpoint(connect_burst=2, connects_per_second=1.0) as e:
        first = await e.connect("alice", version)
        second = await e.connect("bob", version)
        await check(e.device("carol", version), 0x9F, "too many connects")
        await e.advance(1.0)
        third = await e.connect("carol", version)
        for device in (first, second, third):
            await device.leave()


@VERSIONS
async def test_connections_are_limited(version: int) -> None:
    async with endpoint(max_connections=1) as e:
        first = await e.connect("alice", version)
        await check(e.device("bob", version), 0x97, "as many connections")
        await first.leave()
        await e.until(lambda: not e.server.figures()["connections"])
        await (await e.connect("bob", version)).leave()


async def test_sockets_without_a_connect_are_limited_too() -> None:
    async with endpoint() as e:
        e.server.max_sockets = 2
        idle = [await e.device().open() for _ in range(2)]
        await e.until(lambda: e.server.figures()["sockets"] == 2)
        third = await e.device().open()
        assert await third.packet() is None
        assert e.figure("connacks", "full") == 1
        for device in (*idle, third):
            device.cut()
        await e.until(lambda: not e.server.figures()["sockets"])


@VERSIONS
@pytest.mark.parametrize(
    ("client", "options", "code", "why"),
    [
        ("", {}, 0x85, "needed"),
        ("a/b", {}, 0x85, "not a client id"),
        ("-a", {}, 0x85, "not a client id"),
        ("x" * 65, {}, 0x85, "not a client id"),
        ("alice", {"username": "bob"}, 0x86, "user name"),
        ("alice", {"token": "not.a.token"}, 0x86, "not valid"),
        ("alice", {"token": ""}, 0x86, "not valid"),
        ("alice", {"token": "ü"}, 0x86, "password"),
        ("alice", {"token": "expired"}, 0x86, "expired"),
        ("alice", {"token": "bob"}, 0x87, "another client's"),
    ],
)
async def test_credentials(version: int, client: str, options: dict[str, Any], code: int, why: str) -> None:
    async with endpoint() as e:
        await check(e.device(client, version), code, why, **options)
        assert not e.hub.core.conns


@VERSIONS
async def test_without_a_user_name_nobody_is_let_in(version: int) -> None:
    async with endpoint() as e:
        for password in (None, b"alice"):
            if version == 4 and password:
                continue  # malformed in 3.1.1
            device = await e.device("alice", version).open()
            device.write(codec.connect(version, "alice", password=password))
            assert int((await device.next(Connack)).code) == 0x86
            device.cut()


@VERSIONS
async def test_a_token_whose_key_is_fetched(version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        device.write(device.hello(token="slow:alice"), codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.tokens.asked)
        e.tokens.fetched.set_result(None)
        assert (await device.next(Connack)).code == 0
        assert (await device.next(Suback)).codes == [1]
        await device.leave()


@VERSIONS
async def test_keys_that_are_away(version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        device.write(device.hello(token="slow:alice"))
        await e.until(lambda: e.tokens.asked)
        e.tokens.fetched.set_exception(Unavailable("no keys", code="keys_unavailable"))
        assert int((await device.next(Connack)).code) == 0x88
        assert await device.packet() is None
        device.cut()


@VERSIONS
async def test_keys_that_never_come(version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        device.write(device.hello(token="slow:alice"))
        await e.until(lambda: e.tokens.asked)
        await e.advance(6.0)
        assert int((await device.next(Connack)).code) == 0x88
        e.tokens.fetched.set_result(None)
        assert await device.packet() is None
        device.cut()
        await e.until(lambda: not e.server.figures()["sockets"])
        assert not e.hub.core.conns


@VERSIONS
async def test_a_device_that_goes_while_its_token_is_checked(version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        device.write(device.hello(token="slow:alice"))
        await e.until(lambda: e.tokens.asked)
        device.cut()
        e.tokens.fetched.set_result(None)
        await e.advance(6.0)
        await e.until(lambda: not e.server.figures()["sockets"])
        assert not e.hub.core.conns


@VERSIONS
async def test_a_banned_client(version: int) -> None:
    async with endpoint() as e:
        await e.hub.disconnect("alice", 60.0)
        await check(e.device("alice", version), 0x8A, "banned")


@VERSIONS
@pytest.mark.parametrize("reference", ["", "other.example:1883"])
async def test_a_gateway_that_drains(version: int, reference: str) -> None:
    async with endpoint(server_reference=reference) as e:
        e.hub.drain()
        code, _, props = await refused(e.device("alice", version))
        if version == 5:
            assert code == (0x9C if reference else 0x88)
            assert props.get(P.SERVER_REFERENCE, "") == reference
        else:
            assert code == 0x88


@VERSIONS
async def test_a_store_that_is_away(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        e.store.fail = lambda commit: StoreFailed("no disk", definite=True)
        with pytest.raises(Unavailable):
            await e.publish("alice", 1)
        assert await device.end() == (0x89 if version == 5 else None)
        await check(e.device("bob", version), 0x88, "not ready")
        e.store.fail = lambda commit: None
        await e.advance(1.0)
        await (await e.connect("bob", version)).leave()


async def test_an_authentication_method_is_refused() -> None:
    async with endpoint() as e:
        await check(e.device(), 0x8C, "user name and password", props={P.AUTH_METHOD: "SCRAM-SHA-1"})


@pytest.mark.parametrize(("name", "level", "version"), [(b"MQIsdp", 3, 4), (b"MQTT", 3, 4), (b"MQTT", 6, 5)])
async def test_versions_that_are_not_spoken(name: bytes, level: int, version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        rest = len(name).to_bytes(2) + name + bytes((level, 2, 0, 60)) + b"\0\0\5alice"
        device.write(bytes((0x10, len(rest))) + rest)
        connack = await device.next(Connack)
        assert int(connack.code) == 0x84
        assert await device.packet() is None
        device.cut()


@VERSIONS
@pytest.mark.parametrize(
    ("will", "code", "why"),
    [
        (Will(b"gw/v1/to/bob", b"x", qos=2), 0x9B, "QoS"),
        (Will(b"gw/v1/to/bob", b"x", retain=True), 0x9A, "retained"),
        (Will(b"elsewhere", b"x"), 0x90, "topic of the will"),
        (Will(b"gw/v1/to/", b"x"), 0x90, "topic of the will"),
        (Will(b"gw/v1/to/bob/x", b"x"), 0x90, "topic of the will"),
        (Will(b"gw/v1/u/00/bob/to/carol", b"x"), 0x87, "another client's"),
        (Will(b"gw/v1/to/bob", b"x" * 4097), 0x97, "at most 4096 bytes"),
        (Will(b"gw/v1/to/bob", b"[" * 2000), 0x99, "payload"),
        (Will(b"gw/v1/to/bob", b"1", props={P.USER: [("ttl", "-1")]}), 0x83, "ttl"),
    ],
)
async def test_wills_that_are_refused(version: int, will: Will, code: int, why: str) -> None:
    if version == 4 and (will.props or will.retain):
        # it has no properties; a retained one is a dead letter there
        return
    async with endpoint() as e:
        if version == 5:
            await check(e.device(), code, why, will=will)
        else:
            assert (await refused(e.device("alice", 4), will=will))[0] == 0x87
        assert not e.hub.core.conns


# -- what is agreed ------------------------------------------------------------------------------------------------


async def test_what_an_mqtt_5_device_is_told() -> None:
    async with endpoint() as e:
        device = await e.connect("alice", props={P.SESSION_EXPIRY: 60})
        assert device.connack is not None
        assert device.connack.props == {
            P.RECEIVE_MAXIMUM: 16,
            P.MAXIMUM_QOS: 1,
            P.RETAIN_AVAILABLE: 0,
            P.MAXIMUM_PACKET_SIZE: 16384,
            P.TOPIC_ALIAS_MAXIMUM: 4,
            P.WILDCARDS_AVAILABLE: 0,
            P.SUBSCRIPTION_IDS_AVAILABLE: 0,
            P.SHARED_AVAILABLE: 0,
        }
        await device.leave()


@pytest.mark.parametrize(
    ("keep_alive", "asked", "told"),
    [
        (60, {P.SESSION_EXPIRY: 3600}, {}),
        (60, {P.SESSION_EXPIRY: 3601}, {P.SESSION_EXPIRY: 3600}),
        (60, {P.SESSION_EXPIRY: 0xFFFFFFFF}, {P.SESSION_EXPIRY: 3600}),
        (0, {}, {P.SERVER_KEEP_ALIVE: 300}),
        (300, {}, {}),
        (301, {}, {P.SERVER_KEEP_ALIVE: 300}),
        (60, {P.REQUEST_RESPONSE: 1}, {P.RESPONSE_INFO: "gw/v1/m/alice"}),
        (60, {P.REQUEST_RESPONSE: 0}, {}),
    ],
)
async def test_where_a_device_does_not_get_what_it_asks_for(
    keep_alive: int, asked: Props, told: Props
) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", keep_alive=keep_alive, props=asked)
        assert device.connack is not None
        assert device.connack.props is not None
        granted = (P.SESSION_EXPIRY, P.SERVER_KEEP_ALIVE, P.RESPONSE_INFO)
        assert {k: v for k, v in device.connack.props.items() if k in granted} == told
        await device.leave()


async def test_a_device_that_wants_no_reasons_gets_none() -> None:
    async with endpoint() as e:
        _, why, _ = await refused(e.device("alice"), token="expired", props={P.REQUEST_PROBLEM: 0})
        assert not why
        device = await e.connect("alice", props={P.REQUEST_PROBLEM: 0})
        device.send("bob:", pid=1)
        ack = await device.next(codec.Ack)
        assert (int(ack.code), ack.props) == (0x90, None)
        device.write(device.hello())
        assert await device.why() == (0x82, "")


async def test_a_reason_is_left_out_where_the_packet_would_be_too_long() -> None:
    async with endpoint() as e:
        small = {P.MAXIMUM_PACKET_SIZE: 12}
        assert (await refused(e.device("alice"), token="expired", props=small))[:2] == (0x86, "")
        # a CONNACK that accepts is longer
        device = e.device("alice")
        will = Will(b"gw/v1/to/bob", b"x")
        assert (await refused(device, props=small, will=will))[:2] == (0x83, "")
        # and where nothing can be said, nothing is
        device = await e.device("alice").open()
        device.write(device.hello(props={P.MAXIMUM_PACKET_SIZE: 4}))
        assert await device.packet() is None
        device.cut()
        await e.until(lambda: not e.hub.core.conns)
        assert await e.to("bob") == []
        enough = await e.connect("alice", props={P.MAXIMUM_PACKET_SIZE: 60})
        enough.send("bob:", pid=1)
        ack = await enough.next(codec.Ack)
        assert (int(ack.code), ack.props) == (0x90, None)
        await enough.leave()


# -- what is no CONNECT --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        codec.pingreq(),
        codec.publish(5, b"gw/v1/to/bob", b"x"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x10\xff\xff\xff\x7f",
        codec.connect(4, "alice")[:-1] + b"\0" * 9,
        b"\x10\x0c\0\4MQTT\4\xc3\0\x3c\0\0",
    ],
)
async def test_a_first_packet_that_is_no_connect_closes_the_socket(data: bytes) -> None:
    async with endpoint() as e:
        device = await e.device("alice", 4).open()
        device.write(data)
        assert await device.packet() is None
        assert e.figure("connacks", "malformed") == 1
        device.cut()


async def test_a_malformed_connect_of_mqtt_5_is_told_so() -> None:
    async with endpoint() as e:
        device = await e.device().open()
        device.write(b"\x10\x0d\0\4MQTT\5\3\0\x3c\0\0\0")
        connack = await device.next(Connack)
        assert int(connack.code) == 0x81
        assert await device.packet() is None
        device.cut()


async def test_a_connect_has_a_size() -> None:
    async with endpoint(max_packet_bytes=1 << 20) as e:
        device = await e.device().open()
        will = Will(
            b"gw/v1/to/bob", b"x" * 60_000, props={P.USER: [("a", "x" * 60_000), ("b", "x" * 60_000)]}
        )
        device.write(device.hello(will=will))
        assert await device.packet() is None
        assert not e.hub.core.conns
        device.cut()


@VERSIONS
async def test_a_second_connect_is_a_protocol_error(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.write(device.hello())
        assert await device.end() == (0x82 if version == 5 else None)


@VERSIONS
async def test_a_device_may_be_ahead_of_its_connack(version: int) -> None:
    async with endpoint() as e:
        device = e.device("alice", version)
        await device.connect(
            codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]),
            codec.publish(version, b"gw/v1/to/alice", b"1", qos=1, pid=2),
            codec.pingreq(),
        )
        assert type(await device.packet()) is Suback
        rest = [await device.packet() for _ in range(3)]
        assert {type(p) for p in rest} == {Pong, int, codec.Publish}
        device.ack(1)
        await device.leave()


@VERSIONS
async def test_bytes_one_by_one(version: int) -> None:
    async with endpoint() as e:
        device = await e.device("alice", version).open()
        for byte in device.hello() + codec.pingreq():
            device.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await device.next(Connack)).code == 0
        assert type(await device.packet()) is Pong
        await device.leave()


async def test_a_refused_device_that_never_hangs_up_is_cut() -> None:
    async with endpoint() as e:
        device = e.device("alice")
        await device.connect(token="expired")
        await e.advance(CLOSE_WAIT / 1000 + 1.0)
        await e.until(lambda: not e.server.figures()["sockets"])
        device.cut()


# -- the listener --------------------------------------------------------------------------------------------------


async def test_an_address_that_is_taken_names_its_key() -> None:
    async with endpoint() as e:
        taken = replace(CONFIG, mqtt=replace(CONFIG.mqtt, listen=f"127.0.0.1:{e.server.port}"))
        with pytest.raises(ConfigError) as caught:
            await MqttServer.start(e.hub, e.tokens, taken)
        assert caught.value.field == "mqtt.listen"


@VERSIONS
async def test_stopping_sends_devices_away(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        half = await e.device("bob", version).open()
        await e.until(lambda: e.server.figures()["sockets"] == 2)
        async with asyncio.TaskGroup() as group:
            stop = group.create_task(e.server.stop())
            assert await device.end() == (0x8B if version == 5 else None)
            assert await half.packet() is None
            half.cut()
            await stop
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", e.server.port)
