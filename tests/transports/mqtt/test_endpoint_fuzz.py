"""Bytes of all sorts from many sockets while another device's session goes on undisturbed."""

import asyncio
import random
from typing import Any

import pytest

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Disconnect, P, Publish, Reader, Will
from tests.transports.mqtt.endpoint import LONG, Device, Endpoint, endpoint

MESSAGES = 40


def conversation(version: int, client: str) -> list[bytes]:
    """What a device may send, from CONNECT to DISCONNECT."""
    five = version == 5
    props: Any = {P.USER: [("a", "b")], P.MESSAGE_EXPIRY: 5} if five else None
    inbox, frames = f"gw/v1/m/{client}", f"gw/v1/d/{client}"
    return [
        codec.connect(
            version,
            client,
            username=client,
            password=client.encode(),
            clean=False,
            keep_alive=10,
            will=Will(b"gw/v1/to/zoe", b"gone", props={P.WILL_DELAY: 5} if five else None),
            props={P.SESSION_EXPIRY: 9, P.RECEIVE_MAXIMUM: 3} if five else None,
        ),
        codec.subscribe(version, 1, [(inbox, 1), (frames, 0), ("#", 2)]),
        codec.publish(version, f"gw/v1/to/{client}".encode(), b'{"n":1}', qos=1, pid=2, props=props),
        codec.publish(version, b"gw/v1/to/zoe", b"\xff", qos=0),
        codec.publish(version, b"gw/v1/to/zoe", b"x" * 300, qos=1, pid=3, dup=True),
        codec.puback(version, 1),
        codec.puback(version, 2, 0x83, "no"),
        codec.pingreq(),
        codec.unsubscribe(version, 4, [inbox]),
        codec.disconnect(version, 4 if five else 0),
    ]


def spoiled(rng: random.Random, version: int, client: str) -> bytes:
    """A conversation, damaged somehow."""
    packets = conversation(version, client)
    match rng.randrange(7):
        case 0:
            return rng.randbytes(rng.randrange(1, 400))
        case 1:
            return packets[0] + rng.randbytes(rng.randrange(1, 400))
        case 2:
            data = b"".join(packets)
            return data[: rng.randrange(1, len(data))]
        case 3:
            out = bytearray(b"".join(packets))
            for _ in range(rng.randrange(1, 6)):
                out[rng.randrange(len(out))] = rng.randrange(256)
            return bytes(out)
        case 4:
            rest = packets[1:]
            rng.shuffle(rest)
            return packets[0] + b"".join(rest)
        case 5:
            return packets[0] + codec.publish(version, b"gw/v1/to/zoe", b"x" * 17_000, qos=1, pid=1)
        case _:
            return b"".join(packets[0] + packet for packet in packets)


async def attack(e: Endpoint, rng: random.Random, number: int) -> None:
    """One socket: damaged bytes, in pieces of some size; whatever comes back is MQTT."""
    version = rng.choice((4, 5))
    data = spoiled(rng, version, f"evil{chr(97 + number % 26)}")
    device = await e.device("evil", version).open()
    size = rng.choice((1, 2, 7, 100, len(data)))
    try:
        for i in range(0, len(data), size):
            device.write(data[i : i + size])
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        await device.writer.drain()
        if rng.random() < 0.5:
            device.writer.write_eof()
            check(await device._reader.read(-1))
    except OSError:
        pass
    finally:
        device.cut()


def check(answer: bytes) -> None:
    """It is MQTT of the version that the damaged CONNECT named, and ends with a DISCONNECT where there is one."""
    for version in (4, 5):
        reader = Reader(version, server=False, max_packet=1 << 20)
        packets = reader.feed(answer)
        if reader.error is None and reader._kept is None:
            assert not any(type(p) is Disconnect for p in packets[:-1])
            return
    raise AssertionError(answer)


@pytest.mark.parametrize("seed", range(6))
async def test_another_devices_session_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with endpoint(max_connections=500, connect_burst=10_000) as e:
        device = await e.subscribed("alice", 4 + seed % 2)

        async def live() -> list[int]:
            got = []
            for i in range(MESSAGES):
                device.send("alice", b"%d" % i, pid=i + 1)
                answers: list[Any] = [await device.packet(), await device.packet()]
                (message,) = [p for p in answers if type(p) is Publish]
                assert i + 1 in answers
                got.append(int(message.payload))
                device.ack(message.pid)
                await asyncio.sleep(0)
            return got

        async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
            good = group.create_task(live())
            for number in range(60):
                group.create_task(attack(e, rng, number))
        assert good.result() == list(range(MESSAGES))
        await e.until(lambda: e.server.figures()["sockets"] == 1)
        await e.advance(30.0)
        await device.nothing()
        assert e.hub.presence("alice")["status"] == "online"
        await device.leave()
    assert not failures


@pytest.mark.parametrize("version", [4, 5])
async def test_every_cut_of_a_conversation(version: int) -> None:
    """The same conversation, cut at every byte: nothing escapes, nothing is left."""
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with endpoint(max_connections=5000, connect_burst=10_000) as e:
        data = b"".join(conversation(version, "cut"))
        for end in range(1, len(data), 3):
            device = await Device(e, "cut", version).open()
            device.write(data[:end])
            await device.writer.drain()
            if end % 2:
                device.writer.write_eof()
                await device._reader.read(100)
            device.cut()
        await e.until(lambda: not e.server.figures()["sockets"])
        await e.turn()
        assert not e.hub.core.conns
    assert not failures
