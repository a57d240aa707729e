"""MQTT over WebSocket: `/mqtt` of the WebSocket listener (MQTT 5, 6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connack, Disconnect, P, Reader, Suback
from gateway.transports.websocket import WebSocketServer
from tests.transports.mqtt.endpoint import CONFIG, LONG, Device, Endpoint, endpoint
from tests.transports.rig import client_frame, request

VERSIONS = pytest.mark.parametrize("version", [4, 5])


@asynccontextmanager
async def outer(**websocket: Any) -> AsyncIterator[tuple[Endpoint, WebSocketServer]]:
    """An endpoint, and the WebSocket listener beside it."""
    async with endpoint() as e:
        table = replace(CONFIG.websocket, listen="127.0.0.1:0", **websocket)
        server = await WebSocketServer.start(e.hub, e.tokens, replace(CONFIG, websocket=table), e.server)
        try:
            yield e, server
        finally:
            for device in e.devices:
                device.cut()
            await asyncio.gather(server.stop(), e.server.stop())


class Browser(Device):
    """A device whose bytes travel in frames; `cut` into pieces of so many bytes, 0: as they are given."""

    ws: ClientConnection
    pieces = 0

    async def over(self, server: WebSocketServer, **options: Any) -> "Browser":
        self.ws = await connect(
            f"ws://127.0.0.1:{server.port}/mqtt", subprotocols=[Subprotocol("mqtt")], **options
        )
        assert self.ws.subprotocol == "mqtt"
        return self

    async def give(self, *packets: bytes) -> None:
        data = b"".join(packets)
        size = self.pieces or len(data)
        for i in range(0, len(data), size):
            await self.ws.send(data[i : i + size])

    async def packet(self) -> Any:
        async with asyncio.timeout(LONG):
            while not self.packets:
                try:
                    data = await self.ws.recv()
                except ConnectionClosed:
                    return None
                assert isinstance(data, bytes)
                self.packets += self.read.feed(data)
        return self.packets.pop(0)


@VERSIONS
@pytest.mark.parametrize("pieces", [0, 1, 7])
@pytest.mark.parametrize("compression", [False, True])
async def test_a_conversation(version: int, pieces: int, compression: bool) -> None:
    async with outer(compression=compression) as (e, server):
        browser = await Browser(e, "alice", version).over(server)
        assert bool(browser.ws.protocol.extensions) is compression
        browser.pieces = pieces
        # several packets in one frame, or one packet in several
        await browser.give(browser.hello(), codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        assert (await browser.next(Connack)).code == 0
        assert (await browser.next(Suback)).codes == [1]
        await e.publish("alice", "x" * 3000)
        (message,) = await browser.messages(1)
        assert len(message.payload) == 3000
        await browser.give(
            codec.puback(version, 1), codec.publish(version, b"gw/v1/to/bob", b"7", qos=1, pid=9)
        )
        assert await browser.packet() == 9
        await e.until(lambda: not e.hub.figures()["in_flight"])
        await browser.give(codec.disconnect(version))
        assert await browser.packet() is None
        assert browser.ws.close_code == 1000
        await e.until(lambda: not e.server.figures()["sockets"])
        assert await e.to("bob") == [7]
        assert e.figure("disconnects", "client 0x00") == 1


async def test_one_packet_in_fragments() -> None:
    async with outer() as (e, server):
        browser = await Browser(e, "alice", 5).over(server)
        hello = browser.hello()
        await browser.ws.send([hello[:5], hello[5:9], hello[9:]])
        assert (await browser.next(Connack)).code == 0
        await browser.ws.ping()
        await browser.ws.close()
        await e.until(lambda: not e.server.figures()["sockets"])
        assert e.figure("disconnects", "client lost") == 1


@VERSIONS
async def test_a_session_goes_on_over_tcp_and_back(version: int) -> None:
    async with outer() as (e, server):
        kept: dict[str, Any] = {"clean": False}
        if version == 5:
            kept["props"] = {P.SESSION_EXPIRY: 60}
        device = await e.subscribed("alice", version, **kept)
        await e.publish("alice", 1)
        await device.messages(1)
        browser = await Browser(e, "alice", version).over(server)
        await browser.give(browser.hello(**kept))
        assert (await browser.next(Connack)).session_present
        assert await device.end() == (0x8E if version == 5 else None)
        (message,) = await browser.messages(1)
        assert (message.pid, message.dup) == (1, True)
        again = await e.connect("alice", version, **kept)
        if version == 5:
            assert int((await browser.next(Disconnect)).code) == 0x8E
        assert await browser.packet() is None
        (message,) = await again.messages(1)
        again.ack(1)
        await again.leave()


async def test_text_is_refused() -> None:
    async with outer() as (e, server):
        browser = await Browser(e, "alice", 5).over(server)
        await browser.give(browser.hello())
        await browser.next(Connack)
        await browser.ws.send("text")
        assert await browser.packet() is None
        assert browser.ws.close_code == 1003
        await e.until(lambda: not e.server.figures()["sockets"])
        assert e.figure("disconnects", "client lost") == 1


async def test_a_frame_has_a_size() -> None:
    async with outer() as (e, server):
        browser = await Browser(e, "alice", 5).over(server)
        await browser.give(browser.hello())
        await browser.next(Connack)
        await browser.ws.send(b"\xc0\0" * 10_000)
        assert await browser.packet() is None
        assert browser.ws.close_code == 1009
        await e.until(lambda: not e.server.figures()["sockets"])


async def test_refusals_come_in_frames() -> None:
    async with outer() as (e, server):
        browser = await Browser(e, "alice", 5).over(server)
        await browser.give(browser.hello(token="expired"))
        assert int((await browser.next(Connack)).code) == 0x86
        assert await browser.packet() is None
        assert browser.ws.close_code == 1000
        await e.until(lambda: not e.server.figures()["sockets"])


async def test_the_handshake() -> None:
    async with outer(origins=("https://app.example",)) as (e, server):
        url = f"ws://127.0.0.1:{server.port}/mqtt"
        for options, status in (
            ({}, 400),
            ({"subprotocols": ["botgw.v1.json"]}, 400),
            ({"subprotocols": ["mqtt"], "origin": "https://elsewhere.example"}, 403),
        ):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, **options)
            assert caught.value.response.status_code == status
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{server.port}/ws", subprotocols=[Subprotocol("mqtt")])
        assert caught.value.response.status_code == 400
        server.mqtt = None
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, subprotocols=[Subprotocol("mqtt")])
        assert caught.value.response.status_code == 404
        assert not e.server.figures()["sockets"]


async def test_connect_rate_counts_the_address_behind_the_proxy() -> None:
    async with outer(trusted_proxies=("127.0.0.0/8",)) as (e, server):
        browser = await Browser(e, "alice", 5).over(
            server, additional_headers={"X-Forwarded-For": "192.0.2.7"}
        )
        await browser.give(browser.hello())
        await browser.next(Connack)
        (conn,) = e.hub.core.conns
        assert conn.peer == "192.0.2.7"  # type: ignore[attr-defined]
        await browser.give(codec.disconnect(5))
        assert await browser.packet() is None


async def test_a_client_may_be_ahead_of_the_handshake() -> None:
    async with outer() as (e, server):
        device = e.device("alice", 5)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = request("/mqtt", subprotocol="mqtt")
        writer.write(head + client_frame(2, device.hello()) + client_frame(2, codec.pingreq()))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        parser = Reader(5, server=False, max_packet=1000)
        got: list[Any] = []
        async with asyncio.timeout(LONG):
            while len(got) < 2:
                first, size = await reader.readexactly(2)
                assert first == 0x82
                got += parser.feed(await reader.readexactly(size))
        assert [type(p) for p in got] == [Connack, codec.Pong]
        writer.transport.abort()
        await e.until(lambda: not e.server.figures()["sockets"])


async def test_who_never_answers_the_close_is_cut() -> None:
    async with outer() as (e, server):
        device = e.device("alice", 5)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("/mqtt", subprotocol="mqtt") + client_frame(2, device.hello(token="expired")))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await e.until(lambda: e.figure("connacks", "0x86"))
        assert e.server.figures()["sockets"] == 1
        await e.advance(4.0)
        await e.until(lambda: not e.server.figures()["sockets"])
        async with asyncio.timeout(LONG):
            assert (await reader.read()).endswith(b"\x88\x02\x03\xe8")
        writer.close()


@VERSIONS
async def test_a_browser_that_does_not_read(version: int) -> None:
    async with outer() as (e, server):
        browser = await Browser(e, "alice", version).over(server)
        await browser.give(browser.hello(), codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        await browser.next(Connack)
        await browser.next(Suback)
        (conn,) = e.hub.core.conns
        browser.ws.transport.pause_reading()
        limits = e.server.pile_limit
        while conn.writable:
            for _ in range(8):
                await e.publish("alice", "x" * 4000)
            await e.turn()
            conn.items = None  # type: ignore[attr-defined]
            session = e.hub.core.sessions["alice"]
            e.hub.ack(conn, session.next - 1, None)
        assert conn.transport.get_write_buffer_size() < 2 * limits  # type: ignore[attr-defined]
        await e.advance(13.0)
        assert e.figure("disconnects", "server 0x97") == 1
        browser.ws.transport.abort()
