"""The endpoint under asyncio and uvloop, with and without TLS."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from gateway.errors import ConfigError
from gateway.transports.mqtt import MqttServer, codec
from tests.transports.mqtt.endpoint import CONFIG, Device, Endpoint, endpoint
from tests.transports.test_ws_tls import certificate

Run = Callable[[Coroutine[Any, Any, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
VERSIONS = pytest.mark.parametrize("version", [4, 5])

__all__ = ["certificate"]  # a fixture


async def conversation(e: Endpoint, device: Device) -> None:
    """A whole life of an open socket: CONNECT, a subscription, messages both ways, and its end by the gateway."""
    device.write(device.hello(clean=False))
    assert (await device.next(codec.Connack)).code == 0
    assert await device.subscribe() == [1]
    ids = [await e.publish("alice", i) for i in range(3)]
    big = await e.publish("alice", "x" * 4000)
    messages = await device.messages(4)
    assert [len(m.payload) for m in messages] == [1, 1, 1, 4000]
    device.ack(*(m.pid for m in messages))
    device.send("bob", b'{"n":1}', pid=9)
    assert await device.packet() == 9
    await e.until(lambda: not e.hub.figures()["in_flight"])
    assert [(await e.view(i)).item.status for i in (*ids, big)] == [4] * 4
    # what it still sends does not keep it from reading why it ends
    device.write(device.hello(), codec.pingreq() * 5000)
    assert await device.end() == (0x82 if device.version == 5 else None)
    await e.until(lambda: not e.server.figures()["sockets"])


@LOOPS
@VERSIONS
def test_a_conversation(run: Run, version: int) -> None:
    async def scenario() -> None:
        async with endpoint() as e:
            await conversation(e, await e.device("alice", version).open())

    run(scenario())


@LOOPS
@VERSIONS
def test_a_conversation_over_tls(run: Run, version: int, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(cert))
        context.set_alpn_protocols(["mqtt"])
        async with endpoint(tls_cert=str(cert), tls_key=str(key)) as e:
            device = await e.device("alice", version).open(ssl=context)
            assert device.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "mqtt"
            device.write(device.hello(clean=False))
            assert (await device.next(codec.Connack)).code == 0
            assert await device.subscribe() == [1]
            await e.publish("alice", "x" * 4000)
            (message,) = await device.messages(1)
            device.ack(message.pid)
            await e.until(lambda: not e.hub.figures()["in_flight"])
            device.write(device.hello())
            assert await device.end() == (0x82 if version == 5 else None)
            await e.until(lambda: not e.server.figures()["sockets"])

    run(scenario())


def test_a_tls_handshake_takes_no_longer_than_a_connect(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    async def scenario() -> None:
        async with endpoint(tls_cert=str(cert), tls_key=str(key), connect_timeout=0.2) as e:
            reader, writer = await asyncio.open_connection("127.0.0.1", e.server.port)
            assert await reader.read() == b""
            writer.close()
            assert not e.server.figures()["sockets"]

    asyncio.run(scenario())


async def test_a_certificate_that_cannot_be_used_names_its_key(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    async with endpoint() as e:
        for name in ("bad.pem", "missing.pem"):
            bad = replace(CONFIG.mqtt, tls_cert=str(tmp_path / name), tls_key=str(tmp_path / name))
            with pytest.raises(ConfigError) as caught:
                await MqttServer.start(e.hub, e.tokens, replace(CONFIG, mqtt=bad))
            assert caught.value.field == "mqtt.tls_cert"


@LOOPS
@VERSIONS
def test_a_device_that_does_not_read(run: Run, version: int) -> None:
    long = replace(CONFIG.session, window=64, ack_wait=3600.0, ack_wait_max=3600.0)

    async def scenario() -> None:
        async with endpoint(replace(CONFIG, session=long), buffer_limit=16384) as e:
            device = await e.device("alice", version).open_narrow()
            device.write(device.hello(), codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
            assert type(await device.packet()) is codec.Connack
            assert type(await device.packet()) is codec.Suback
            for _ in range(64):
                await e.publish("alice", "x" * 4000)
            await e.until(lambda: e.server.figures()["unwritable"])
            await e.advance(13.0)
            assert e.figure("disconnects", "server 0x97") == 1
            await e.until(lambda: not e.server.figures()["sockets"])
            device.cut()

    run(scenario())


@LOOPS
def test_a_reset_nobody_noticed(run: Run) -> None:
    async def scenario() -> None:
        async with endpoint() as e:
            device = await e.connect("alice")
            e.store.held = True
            device.write(codec.subscribe(5, 1, [("gw/v1/m/alice", 1)]))
            await e.until(lambda: e.server.figures()["unread"] == 1)
            device.cut()
            await e.advance(61.0, 10.0)
            await e.until(lambda: not e.server.figures()["sockets"])

    run(scenario())


async def test_stopping_waits_for_nobody_for_long() -> None:
    async with endpoint() as e:
        await e.connect("alice")
        half = await e.device("bob").open()
        half.write(half.hello()[:5])
        await e.until(lambda: e.server.figures()["sockets"] == 2)
        await e.server.stop()
        assert not e.server.figures()["sockets"]
