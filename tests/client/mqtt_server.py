"""An MQTT 5 server whose connections the test takes one by one and plays by hand, packet by packet."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from zlib import crc32

from gateway.client import Client

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
NO_PROPERTIES = b"\x00"
UP = f"gw/v1/u/{crc32(b'alice') % 64:02}/alice"


def jwt(**claims: Any) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.s"


ALICE = jwt(sub="alice")


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes


class Connect(NamedTuple):
    """What a CONNECT says."""

    level: int
    clean: bool
    client: str
    will_topic: str
    will: dict[str, Any]
    will_qos: int
    username: str
    password: str | None


class Cursor:
    """Reads the body of a packet."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        part, self.data = self.data[:size], self.data[size:]
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> bytes:
        return self.take(self.number(2))

    def properties(self) -> bytes:
        size = self.number(1)
        assert size < 128
        return self.take(size)


def connect_of(body: bytes) -> Connect:
    read = Cursor(body)
    assert read.text() == b"MQTT"
    level, flags, _ = read.number(1), read.number(1), read.number(2)
    read.properties()
    client = read.text().decode()
    read.properties()  # the will's
    will_topic, will = read.text().decode(), json.loads(read.text())
    username = read.text().decode()
    password = read.text().decode() if flags & 0x40 else None
    return Connect(level, bool(flags & 2), client, will_topic, will, flags >> 3 & 3, username, password)


def packet(kind: int, flags: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([kind << 4 | flags]) + length + body


def reason_string(text: str) -> bytes:
    """The properties of a packet that says only this."""
    value = text.encode()
    return bytes([3 + len(value), 0x1F]) + len(value).to_bytes(2) + value


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.connect: Connect
        self.pids: list[int] = []  # of the publishes that came

    async def recv(self) -> Packet:
        async with asyncio.timeout(20):
            while True:
                first = (await self._reader.readexactly(1))[0]
                size = shift = 0
                while True:
                    byte = (await self._reader.readexactly(1))[0]
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = await self._reader.readexactly(size)
                if first >> 4 != PINGREQ:
                    return Packet(first >> 4, first & 15, body)
                self._writer.write(packet(13, 0, b""))

    async def expect(self, kind: int) -> Packet:
        got = await self.recv()
        assert got.kind == kind, got
        return got

    async def publish(self, *, ack: bool = True) -> tuple[str, dict[str, Any], bytes]:
        """The next PUBLISH: its topic, frame, and properties."""
        got = await self.expect(PUBLISH)
        assert got.flags == 2, "QoS 1, not retained"
        read = Cursor(got.body)
        topic = read.text().decode()
        self.pids.append(read.number(2))
        properties = read.properties()
        if ack:
            self.puback()
        return topic, json.loads(read.data), properties

    async def frame(self, t: str, *, ack: bool = True) -> dict[str, Any]:
        frame = (await self.publish(ack=ack))[1]
        assert frame["t"] == t, frame
        return frame

    def puback(self, code: int = 0, pid: int | None = None) -> None:
        pid = self.pids[-1] if pid is None else pid
        self.write(packet(4, 0, pid.to_bytes(2) + (bytes([code, 0]) if code else b"")))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def connack(self, code: int = 0, properties: bytes = NO_PROPERTIES) -> None:
        self.write(packet(2, 0, bytes([0, code]) + properties))

    def disconnect(self, code: int, why: str = "") -> None:
        self.write(packet(14, 0, bytes([code]) + (reason_string(why) if why else NO_PROPERTIES)))
        self.cut()

    async def suback(self, code: int = 0) -> tuple[str, int]:
        """Answer the SUBSCRIBE; its filter and options."""
        read = Cursor((await self.expect(SUBSCRIBE)).body)
        pid = read.take(2)
        read.properties()
        topic, options = read.text().decode(), read.number(1)
        self.write(packet(9, 0, pid + NO_PROPERTIES + bytes([code])))
        return topic, options

    def send(self, frame: dict[str, Any] | bytes) -> None:
        """A frame of the gateway, at QoS 0."""
        topic = f"gw/v1/d/{self.connect.client}".encode()
        payload = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        self.write(packet(3, 0, len(topic).to_bytes(2) + topic + NO_PROPERTIES + payload))

    async def greet(self, **fields: Any) -> dict[str, Any]:
        """Take everything up to the hello, and welcome it."""
        self.connack()
        await self.suback()
        hello = await self.frame("hello")
        self.send({"t": "welcome", "client": "alice", "epoch": "e1", "resume": "r1", "resumed": False, "why": "new",
                   "next": 1, "window": 64, "heartbeat": 25, "c": hello["c"]} | fields)  # fmt: skip
        return hello

    def cut(self) -> None:
        self._writer.close()

    async def gone(self) -> bytes:
        """What comes until the end of the connection."""
        async with asyncio.timeout(20):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


class ScriptedServer:
    def __init__(self) -> None:
        self.port = 0
        self.url = ""
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._peers.put_nowait(Peer(reader, writer))

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def connection(self) -> Peer:
        """The next connection, before it has said anything."""
        async with asyncio.timeout(20):
            return await self._peers.get()

    async def accept(self) -> Peer:
        """The next connection, with its CONNECT."""
        peer = await self.connection()
        peer.connect = connect_of((await peer.expect(CONNECT)).body)
        return peer


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    async with await asyncio.start_server(scripted.handle, "127.0.0.1", 0, ssl=context) as server:
        scripted.port = server.sockets[0].getsockname()[1]
        scripted.url = f"mqtt{'s' if context else ''}://127.0.0.1:{scripted.port}"
        try:
            yield scripted
        finally:
            await scripted.close()


@asynccontextmanager
async def joined(
    server: ScriptedServer, token: Any = ALICE, **options: Any
) -> AsyncIterator[tuple[Client, Peer]]:
    """A welcomed client and its first connection."""
    client = Client(server.url, token, **options)
    async with asyncio.TaskGroup() as group:
        entering = group.create_task(client.__aenter__())
        peer = await server.accept()
        await peer.greet()
    await entering
    try:
        yield client, peer
    finally:
        await client.close()
