"""Frames over topics at the endpoint: the same session, the same frames, PUBACKs beside them."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.model import Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import P, Publish
from tests.transports.mqtt.endpoint import CONFIG, START, Device, Endpoint, endpoint

VERSIONS = pytest.mark.parametrize("version", [4, 5])
KEPT: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "props": {P.SESSION_EXPIRY: 600}},
}


def say(device: Device, frame: dict[str, Any], qos: int = 0, pid: int = 1) -> None:
    """A frame of the client."""
    topic = device.endpoint.server.topics.frames_up(device.client).decode()
    device.send(topic=topic, body=msgspec.json.encode(frame), qos=qos, pid=pid)


async def hear(device: Device) -> Any:
    """A frame of the gateway."""
    message = await device.next(Publish)
    assert message.topic == f"gw/v1/d/{device.client}".encode()
    assert (message.qos, message.pid, message.dup, message.retain) == (0, 0, False, False)
    return msgspec.json.decode(message.payload)


async def framed(
    e: Endpoint, client: str = "alice", version: int = 5, *, qos: int = 0, **options: Any
) -> Device:
    device = await e.connect(client, version, **options)
    assert await device.subscribe(f"gw/v1/d/{client}", qos=qos) == [min(qos, 1)]
    return device


async def welcomed(e: Endpoint, client: str = "alice", version: int = 5, **options: Any) -> Device:
    device = await framed(e, client, version, **options)
    say(device, {"t": "hello", "c": "n1"})
    welcome = await hear(device)
    assert (welcome["t"], welcome["c"]) == ("welcome", "n1")
    return device


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_conversation(version: int, qos: int) -> None:
    async with endpoint() as e:
        device = await framed(e, "alice", version, qos=qos)
        up = min(qos, 1)
        say(device, {"t": "hello", "c": "n1"}, up, 1)
        if up:
            assert await device.packet() == 1
        assert (await hear(device))["t"] == "welcome"
        id = await e.publish("alice", {"n": 1})
        frame = await hear(device)
        assert [(m["seq"], m["body"]) for m in frame["m"]] == [(1, {"n": 1})]
        say(device, {"t": "ack", "seq": 1, "c": "n1"}, up, 2)
        if up:
            assert await device.packet() == 2
        await e.until(lambda: not e.hub.figures()["in_flight"])
        assert (await e.view(id)).item.status == 4
        say(device, {"t": "pub", "m": [{"ref": "a", "to": "bob", "body": 7}], "c": "n1"})
        ok = await hear(device)
        assert (ok["t"], ok["m"][0]["ref"]) == ("ok", "a")
        assert await e.to("bob") == [7]
        say(device, {"t": "ping", "c": "n1"})
        assert (await hear(device))["t"] == "pong"
        say(device, {"t": "bye", "c": "n1"})
        assert (await hear(device))["close"] == 1000
        # the connection stands, and may begin again
        say(device, {"t": "hello", "c": "n2"})
        assert (await hear(device))["c"] == "n2"
        await device.leave()


@VERSIONS
async def test_frames_before_the_subscription(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        say(device, {"t": "hello", "c": "n1"}, 0)
        say(device, {"t": "hello", "c": "n1"}, 1, 5)
        if version == 5:
            ack = await device.next(codec.Ack)
            assert (ack.pid, int(ack.code)) == (5, 0x83)
        else:
            assert await device.packet() == 5
        assert (e.server.figures()["dropped"], e.figure("refused", "0x83")) == (1, 1)
        assert e.hub.core.sessions.get("alice") is None
        await device.leave()


@VERSIONS
async def test_plain_publishes_of_a_framed_device(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version)
        e.store.held = True
        device.send("bob", b"1", pid=1)
        say(device, {"t": "ping", "c": "n1"}, 1, 2)
        assert (await hear(device))["t"] == "pong"
        await device.nothing()
        e.store.let_go()
        # the answer to the second waits for that to the first
        assert [await device.packet(), await device.packet()] == [1, 2]
        await device.leave()


@VERSIONS
async def test_the_session_is_present_and_takes_frames_at_once(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version, **KEPT[version])
        assert e.hub.subscription("alice") == Sub.FRAMED
        await device.leave()
        await e.until(lambda: not e.server.figures()["connections"])
        assert e.hub.presence("alice")["status"] != "online"
        again = e.device("alice", version)
        connack = await again.connect(**KEPT[version])
        assert connack.session_present
        say(again, {"t": "hello", "c": "n2"})
        assert (await hear(again))["t"] == "welcome"
        no = 0x83 if version == 5 else 0x80
        assert await again.subscribe("gw/v1/m/alice") == [no]
        await again.leave()


@VERSIONS
async def test_a_clean_start_forgets_the_subscription_and_not_the_epoch(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version, **KEPT[version])
        epoch = e.hub.presence("alice")["epoch"]
        await device.leave()
        again = await e.connect("alice", version, clean=True)
        assert again.connack is not None
        assert not again.connack.session_present
        assert e.hub.subscription("alice") == Sub.NONE
        assert e.hub.presence("alice")["epoch"] == epoch
        await again.leave()


@VERSIONS
async def test_unsubscribe_ends_the_peer(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version, **KEPT[version])
        assert await device.unsubscribe("gw/v1/d/alice") in ([0], [])
        assert e.hub.subscription("alice") == Sub.NONE
        assert e.hub.presence("alice")["status"] != "online"
        say(device, {"t": "ping", "c": "n1"}, 0)
        await device.nothing()
        assert await device.subscribe("gw/v1/m/alice") == [1]
        await e.publish("alice", 1)
        await device.messages(1)
        await device.leave()


@VERSIONS
@pytest.mark.parametrize(("clean", "crashes"), [(True, 0), (False, 1)])
async def test_how_a_connection_ends_is_how_its_peer_does(version: int, clean: bool, crashes: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version, **KEPT[version])
        id = await e.publish("alice", 1)
        await hear(device)
        if clean:
            await device.leave()
        else:
            device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        assert (await e.view(id)).item.crashes == crashes
        assert not e.hub.core.conns


@VERSIONS
async def test_a_take_over_by_another_connection(version: int) -> None:
    async with endpoint() as e:
        first = await welcomed(e, "alice", version, **KEPT[version])
        second = await e.connect("alice", version, **KEPT[version])
        frame = await hear(first)
        assert (frame["code"], frame["close"], frame["c"]) == ("taken_over", 4302, "n1")
        assert await first.end() == (0x8E if version == 5 else None)
        say(second, {"t": "hello", "c": "n2"})
        assert (await hear(second))["t"] == "welcome"
        await second.leave()


async def test_a_token_in_a_frame_lasts_longer() -> None:
    async with endpoint() as e:
        device = await welcomed(e, token=f"alice:{START // 1000 + 30}", keep_alive=0)
        for token in (f"alice:{START // 1000 + 60}", f"slow:alice:{START // 1000 + 90}"):
            say(device, {"t": "token", "token": token, "c": "n1"})
            await device.nothing()
        e.tokens.fetched.set_result(None)
        await e.turn()
        for _ in range(8):
            await e.advance(10.0)
            await device.nothing()
        await e.advance(11.0)
        frame = await hear(device)
        assert (frame["code"], frame["close"]) == ("token_expired", 4200)
        assert await device.end() == 0x87


async def test_a_token_that_is_no_good_ends_the_peer() -> None:
    async with endpoint() as e:
        device = await welcomed(e)
        say(device, {"t": "token", "token": "expired", "c": "n1"})
        assert (await hear(device))["close"] == 4200
        # that of the CONNECT is still good
        say(device, {"t": "hello", "c": "n2"})
        assert (await hear(device))["t"] == "welcome"
        say(device, {"t": "token", "token": "bob", "c": "n2"})
        assert (await hear(device))["close"] == 4300
        assert await device.end() == 0x87


@VERSIONS
@pytest.mark.parametrize(("ban", "close"), [(None, 4000), (60.0, 4304)])
async def test_an_administrator_ends_the_connection(version: int, ban: float | None, close: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version)
        await e.hub.disconnect("alice", ban)
        assert (await hear(device))["close"] == close
        assert await device.end() == (0x98 if version == 5 else None)


@VERSIONS
async def test_a_drain(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version)
        e.hub.drain()
        await e.turn()
        assert (await hear(device))["t"] == "goaway"
        await e.advance(11.0)
        packets = []
        while (packet := await device.packet()) is not None:
            packets.append(packet)
        if version == 5:
            assert int(packets[-1].code) == 0x8B
        device.cut()


STALLING = replace(
    CONFIG, session=replace(CONFIG.session, window=64, ack_wait=3600.0, ack_wait_max=3600.0, heartbeat=3600.0)
)


@VERSIONS
async def test_a_framed_device_that_does_not_read(version: int) -> None:
    async with endpoint(STALLING, buffer_limit=16384, stall_timeout=10.0) as e:
        device = await welcomed(e, "alice", version, **KEPT[version])
        device.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (conn,) = [c for c in e.hub.core.conns if c.door == "mqtt"]
        sent = 0
        while not e.server.figures()["unwritable"]:
            await e.publish("alice", "x" * 4000)
            say(device, {"t": "ack", "seq": (sent := sent + 1), "c": "n1"})
            await e.turn()
        for _ in range(30):
            await e.publish("alice", "x" * 4000)
        (peer,) = [c for c in e.hub.core.conns if c.door != "mqtt"]
        assert not peer.writable
        assert conn.transport.get_write_buffer_size() < 4 * 16384  # type: ignore[attr-defined]
        await e.advance(13.0)
        assert e.figure("disconnects", "server 0x97") == 1
        await e.turn()
        assert not e.hub.core.conns
        device.cut()


@VERSIONS
async def test_frames_are_published_faster_than_they_are_stored(version: int) -> None:
    async with endpoint() as e:
        device = await welcomed(e, "alice", version)
        e.store.held = True
        many = [{"to": "bob", "body": i} for i in range(300)]
        for _ in range(4):
            say(device, {"t": "pub", "m": many, "c": "n1"})
        await e.until(lambda: e.server.figures()["unread"] == 1)
        e.store.let_go()
        got = 0
        while got < 1200:
            got += len((await hear(device))["m"])
        assert e.server.figures()["unread"] == 0
        await device.leave()
