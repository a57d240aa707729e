"""The pipeline over Socket.IO 5 on Engine.IO 4, over WebSocket from the start (no long polling).

A packet is a text frame: `4` (Engine.IO message), then Socket.IO's type: `0` CONNECT, `2` EVENT, `3` ACK, the number
that the acknowledgement carries, and a JSON array.
"""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec

from bench.clients.ws import OnLost, ignore, masked
from bench.peers.socketio import SocketIo
from bench.pipeline import Body, Mark, Pipeline, Progress, spread
from bench.server import Server

ANSWER_TIMEOUT = 30.0
PING, PONG = b"2", b"3"
CONNECT, REFUSED, EVENT, ACK = b"40", b"44", b"42", b"43"
TEXT = 1

_event = msgspec.json.Decoder(tuple[str, Mark]).decode
_encode = msgspec.json.Encoder().encode


class Reader:
    """Bytes in, the payloads of text frames out, without I/O. The upgrade's answer is a payload of its own."""

    def __init__(self) -> None:
        self._rest = b""
        self._open = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are whole by now."""
        buffer = self._rest + data if self._rest else data
        payloads = []
        at = 0
        if not self._open:
            at = buffer.find(b"\r\n\r\n") + 4
            if at < 4:
                self._rest = buffer
                return []
            self._open = True
            payloads.append(buffer[:at])
        have = len(buffer)
        while have >= at + 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if have < start + size:
                break
            if buffer[at] & 15 == TEXT:
                payloads.append(buffer[start : start + size])
            at = start + size
        self._rest = buffer[at:]
        return payloads


class SocketIoClient(asyncio.Protocol):
    """A connection. `on_packets(packets)` gets what comes after CONNECT; `on_lost(why)` its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.transport: asyncio.Transport | None = None
        self.reader = Reader()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_packets: Callable[[list[bytes]], None] = ignore
        self.on_lost: OnLost = ignore
        self.hello = b""

    @classmethod
    async def connect(cls, server: SocketIo, name: str) -> "SocketIoClient":
        """Upgrade, and CONNECT to the default namespace. Raises ConnectionError, TimeoutError."""
        at = urlsplit(server.url)
        assert at.hostname is not None
        assert at.port is not None
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: cls(name), at.hostname, at.port
        )
        client.hello = CONNECT + _encode({"name": name, "token": server.token(name)})
        assert client.transport is not None
        key = base64.b64encode(os.urandom(16)).decode()
        client.transport.write(
            (
                f"GET {at.path}?EIO=4&transport=websocket HTTP/1.1\r\nHost: {at.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await client.opened
        return client

    def write(self, packets: list[bytes]) -> None:
        assert self.transport is not None
        self.transport.write(b"".join(map(masked, packets)))

    def abort(self) -> None:
        self.on_lost = ignore
        assert self.transport is not None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._refused("connection lost")
        self.on_lost("connection lost")

    def data_received(self, data: bytes) -> None:
        packets = self.reader.feed(data)
        if not self.opened.done():
            for packet in packets:
                self._handshake(packet)
            return
        if PING in packets:
            self.write([PONG])
            packets = [packet for packet in packets if packet != PING]
        if packets:
            self.on_packets(packets)

    def _handshake(self, packet: bytes) -> None:
        if packet.startswith(b"HTTP/"):
            if b" 101 " not in packet[:20]:
                self._refused(packet.decode(errors="replace"))
        elif packet.startswith(b"0"):
            self.write([self.hello])
        elif packet.startswith(CONNECT):
            self.opened.set_result(None)
        elif packet.startswith(REFUSED):
            self._refused(packet.decode())

    def _refused(self, why: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"{self.name}: {why}"))


class SocketIoPipeline(Pipeline):
    """Publishes of one turn are one write; so are a client's acknowledgements."""

    server: SocketIo

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Progress, *, disturbed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(server, publishers, clients, messages, size, progress, disturbed=disturbed)
        self.clients: list[SocketIoClient] = []
        self.senders: list[SocketIoClient] = []
        self.rooms = [_encode(name) for name in self.names]
        # the publishes that each publisher has written, and that were answered
        self.written = [0] * publishers
        self.settled = [0] * publishers

    async def connect(self) -> None:
        await spread(len(self.names), self._client)
        for i, name in enumerate(self.publishers):
            sender = await SocketIoClient.connect(self.server, name)
            sender.on_packets = self._answers(i)
            sender.on_lost = self.fault
            self.senders.append(sender)

    async def _client(self, index: int) -> None:
        client = await SocketIoClient.connect(self.server, self.names[index])
        client.on_packets = self._receiver(client, index)
        client.on_lost = self.fault
        self.clients.append(client)

    def close(self) -> None:
        for client in [*self.clients, *self.senders]:
            client.abort()

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        rooms, first = self.rooms, self.written[publisher]
        self.written[publisher] = first + len(batch)
        self.senders[publisher].write(
            [
                b'42%d["pub",%b,%b]' % (n, rooms[client], _encode(body))
                for n, (client, body) in enumerate(batch, first)
            ]
        )

    def _answers(self, publisher: int) -> Callable[[list[bytes]], None]:
        def on_packets(packets: list[bytes]) -> None:
            settled = self.settled[publisher]
            for packet in packets:
                if packet != b"43%d[]" % settled:
                    self.fault(f"{packet.decode()} is not the acknowledgement that was due")
                settled += 1
            self.settled[publisher] = settled
            self.answered(publisher, len(packets))

        return on_packets

    def _receiver(self, client: SocketIoClient, index: int) -> Callable[[list[bytes]], None]:
        def on_packets(packets: list[bytes]) -> None:
            acks, marks = [], []
            for packet in packets:
                start = packet.index(b"[")
                if packet[:2] != EVENT:
                    self.fault(packet[:start].decode())
                    continue
                acks.append(b"%b%b[]" % (ACK, packet[2:start]))
                marks.append(_event(packet[start:])[1])
            client.write(acks)
            # it marks no redeliveries
            self.received(index, marks, 0)

        return on_packets
