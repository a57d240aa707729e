"""A server that listens on a free port of this machine, and its clients: that of `websockets`, and bytes by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import uvloop
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gateway.config import Config
from gateway.ids import encode_id
from gateway.transports.websocket import WebSocketServer
from gateway.wire import JSON, MSGPACK
from tests.transports.double import FIRST_ID, HubDouble, LoopScheduler, Tokens
from tests.transports.rig import client_frame, gap, message, request, status

Scenario = Coroutine[Any, Any, None]
Run = Callable[[Scenario], None]
HELLO = client_frame(1, b'{"t":"hello","token":"alice"}')
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@asynccontextmanager
async def serving(config: Config, **websocket: Any) -> AsyncIterator[tuple[WebSocketServer, HubDouble]]:
    """A server on a free port of this machine."""
    hub = HubDouble(LoopScheduler())
    changed = replace(config, websocket=replace(config.websocket, **websocket))
    server = await WebSocketServer.start(hub, Tokens(), changed)
    try:
        yield server, hub
    finally:
        await server.stop()
    assert server.figures()["sockets"] == 0
    assert len(hub.named("accept")) == len(hub.named("left"))


def client(server: WebSocketServer, subprotocol: str | None = JSON, **options: Any) -> connect:
    scheme = "wss" if "ssl" in options else "ws"
    offered = [Subprotocol(subprotocol)] if subprotocol else None
    return connect(f"{scheme}://127.0.0.1:{server.port}/ws", subprotocols=offered, **options)


class Talk:
    """A client's connection in one encoding."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.binary = ws.subprotocol == MSGPACK

    async def say(self, frame: dict[str, Any]) -> None:
        if self.binary:
            await self.ws.send(msgspec.msgpack.encode(frame))
        else:
            await self.ws.send(msgspec.json.encode(frame).decode())

    async def hear(self) -> Any:
        async with asyncio.timeout(20):
            data = await self.ws.recv()
        assert isinstance(data, bytes) is self.binary
        return msgspec.msgpack.decode(data) if isinstance(data, bytes) else msgspec.json.decode(data)

    async def join(self) -> None:
        await self.say({"t": "hello", "token": "alice"})
        assert (await self.hear())["t"] == "welcome"

    async def end(self) -> tuple[int, str]:
        """The close frame that comes."""
        with suppress(ConnectionClosed):
            while True:
                await self.hear()
        return self.ws.close_code or 0, self.ws.close_reason or ""


async def conversation(server: WebSocketServer, hub: HubDouble, ws: ClientConnection) -> None:
    """A whole life: hello, publishing, messages, acks, bye."""
    talk = Talk(ws)
    await talk.join()
    await talk.say(
        {"t": "pub", "m": [{"ref": "a", "to": "bob", "body": {"ü": [1, 2.5]}}, {"ref": "b", "to": 5}]}
    )
    answers = {frame["t"]: frame for frame in [await talk.hear(), await talk.hear()]}
    assert answers["ok"]["m"] == [{"ref": "a", "id": encode_id(FIRST_ID + 1)}]
    assert (answers["err"]["ref"], answers["err"]["field"]) == ("b", "$.m[1].to")
    (conn,) = hub.connections()
    conn.deliver([message(1, {"n": 1}), message(2, "x" * 200_000), gap(3), status(4)])
    assert [m["seq"] for m in (await talk.hear())["m"]] == [1]
    assert [len(m["body"]) for m in (await talk.hear())["m"]] == [200_000]
    assert [(await talk.hear())["t"], (await talk.hear())["t"]] == ["gap", "status"]
    await talk.say({"t": "ack", "seq": 4})
    await talk.say({"t": "ping"})
    assert await talk.hear() == {"t": "pong"}
    await (await ws.ping())
    await talk.say({"t": "bye"})
    assert await talk.end() == (1000, "bye")
    await hub.until(lambda: bool(hub.named("left")))
    assert hub.named("ack", "bye", "disconnected") == [
        ("ack", 4, None),
        ("bye", False),
        ("disconnected", True),
    ]
    assert server.figures()["closes"] == {"1000": 1}


class Wire:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def upgrade(self) -> None:
        self.writer.write(request())
        assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

    async def rest(self) -> bytes:
        """All until the end of the stream."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def end(self) -> int:
        """The code of the close frame that comes; then the stream is ended from here."""
        async with asyncio.timeout(20):
            while True:
                first, length = await self.reader.readexactly(2)
                size = length if length < 126 else int.from_bytes(await self.reader.readexactly(2))
                payload = await self.reader.readexactly(size)
                if first == 0x88:
                    self.writer.transport.abort()
                    return int.from_bytes(payload[:2])


@asynccontextmanager
async def wire(server: WebSocketServer, **options: Any) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, **options)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
