"""Keep alive, tokens that expire, ends that nobody answers, malformed packets."""

import socket
from functools import partial
from typing import Any

import pytest

from gateway.model import Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import P
from tests.transports.mqtt.endpoint import START, endpoint

VERSIONS = pytest.mark.parametrize("version", [4, 5])
KEPT: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "props": {P.SESSION_EXPIRY: 600}},
}


@VERSIONS
async def test_a_keep_alive_is_lost_after_one_and_a_half(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, keep_alive=20, **KEPT[version])
        id = await e.publish("alice", 1)
        await device.messages(1)
        device.ack(1)
        await device.nothing()
        await e.advance(29.0)
        assert e.server.figures()["connections"] == 1
        await e.publish("alice", 2)
        await device.messages(1)
        await e.advance(3.0)
        assert await device.end() == (0x8D if version == 5 else None)
        await e.turn()
        assert (await e.view(id)).item.status == 4
        # what it carried is blamed: nobody knows what became of the device
        (_, second) = [v.item for v in await e.store.messages("alice", None, None, 1 << 62, 9)][::-1]
        assert (await e.view(second.id)).item.crashes == 1


@VERSIONS
async def test_any_byte_proves_life(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, keep_alive=20)
        for _ in range(4):
            await e.advance(20.0)
            await device.nothing()
        part = codec.subscribe(version, 1, [("gw/v1/m/alice", 1)])

        def more(than: int) -> bool:
            return e.server.bytes_in > than

        for byte in part[:-1]:
            device.write(bytes((byte,)))
            got = e.server.bytes_in
            await e.until(partial(more, got))
            await e.advance(20.0)
        assert e.server.figures()["connections"] == 1
        device.cut()


async def test_the_servers_keep_alive_counts_in_mqtt_5() -> None:
    async with endpoint(max_keep_alive=40) as e:
        device, other = await e.connect("alice", keep_alive=0), await e.connect("bob", keep_alive=1000)
        await e.advance(59.0)
        assert e.server.figures()["connections"] == 2
        await e.advance(3.0)
        assert await device.end() == await other.end() == 0x8D


async def test_in_3_1_1_a_keep_alive_is_as_asked_or_the_kernels() -> None:
    async with endpoint(max_keep_alive=40) as e:
        device, other = await e.connect("alice", 4, keep_alive=0), await e.connect("bob", 4, keep_alive=100)
        alice, bob = sorted(e.hub.core.conns, key=lambda c: str(c.principal.name))  # type: ignore[attr-defined]
        probed = [
            c.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)  # type: ignore[attr-defined]
            for c in (alice, bob)
        ]
        assert probed == [1, 0]
        sock = alice.transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 40
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        await e.advance(149.0)
        assert e.server.figures()["connections"] == 2
        await e.advance(3.0)
        assert await other.end() is None
        await e.advance(1000.0, 100.0)
        await device.nothing()
        await device.leave()


@VERSIONS
async def test_silence_does_not_count_while_the_loop_stood_still(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, keep_alive=20)
        await e.advance(25.0)
        await e.advance(60.0, 60.0)
        assert e.server.figures()["connections"] == 1
        await e.advance(29.0)
        await device.nothing()
        await device.leave()


@VERSIONS
async def test_silence_does_not_count_while_the_socket_is_not_read(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, keep_alive=10)
        e.store.held = True
        device.write(codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.advance(40.0)
        e.store.let_go()
        assert type(await device.packet()) is codec.Suback
        await e.advance(14.0)
        await device.nothing()
        await device.leave()


@VERSIONS
async def test_a_token_that_expires(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, token=f"alice:{START // 1000 + 8}", **KEPT[version])
        assert await device.subscribe() == [1]
        id = await e.publish("alice", 1)
        await device.messages(1)
        await e.advance(7.0, 0.5)
        assert e.server.figures()["connections"] == 1
        await e.advance(2.0, 0.5)
        if version == 5:
            assert await device.why() == (0x87, "the token has expired")
        else:
            assert await device.end() is None
        await e.turn()
        assert (await e.view(id)).item.crashes == 0
        assert e.hub.subscription("alice") == Sub.PLAIN


@VERSIONS
async def test_a_device_that_never_hangs_up_is_cut(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.write(device.hello())
        await e.until(lambda: not e.hub.core.conns or e.server.figures()["disconnects"])
        assert e.server.figures()["sockets"] == 1
        device.write(codec.publish(version, b"gw/v1/to/bob", b"1", qos=1, pid=1))
        await e.advance(4.0)
        await e.until(lambda: not e.server.figures()["sockets"])
        assert not e.hub.figures()["accepted"]
        device.cut()


@VERSIONS
async def test_the_end_of_the_stream_is_a_loss(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        device.writer.write_eof()
        assert await device.packet() is None
        await e.until(lambda: not e.hub.core.conns)
        assert e.figure("disconnects", "client lost") == 1


MALFORMED = {
    "reserved type": (b"\x00\x00", 0x81),
    "flags": (b"\xc1\x00", 0x81),
    "qos 3": (b"\x36\x05\x00\x01a\x00\x01", 0x81),
    "length": (b"\xc0\xff\xff\xff\xff\x01", 0x81),
    "ping with a body": (b"\xc0\x01\x00", 0x81),
    "no filter": (b"\x82\x02\x00\x01", None),
    "for a client": (b"\x20\x02\x00\x00", 0x82),
    "packet id 0": (b"\x40\x02\x00\x00", 0x82),
    "not UTF-8": (b"\x30\x05\x00\x02\xff\xfe\x00", 0x81),
    "wildcard": (b"\x30\x05\x00\x02a#\x00", 0x82),
    "huge": (b"\x30\xff\xff\xff\x7f", 0x95),
    "too large": (b"\x30\x81\x80\x01", 0x95),
}


@VERSIONS
@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_packets_end_their_connection_and_no_other(version: int, name: str) -> None:
    data, code = MALFORMED[name]
    async with endpoint() as e:
        other = await e.subscribed("bob", version)
        device = await e.subscribed("alice", version, **KEPT[version])
        # what came before it counts
        device.write(codec.publish(version, b"gw/v1/to/bob", b"1", qos=1, pid=1), data)
        end = [await device.packet() for _ in range(3)]
        while end and end[-1] is None:
            end.pop()
        device.cut()
        if version == 5:
            assert type(end[-1]) is codec.Disconnect
            assert code is None or int(end[-1].code) == code
        else:
            assert end in ([], [1])
        (message,) = await other.messages(1)
        assert message.payload == b"1"
        other.ack(1)
        await other.nothing()
        await other.leave()


async def test_auth_is_a_protocol_error() -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.write(codec.auth(0x19, {P.AUTH_METHOD: "x"}))
        assert (await device.why())[0] == 0x82
