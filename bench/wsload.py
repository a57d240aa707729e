"""The pipeline over WebSocket frames, and its client: one asyncio.Protocol, no tasks, nothing allocated that is not
needed.

It speaks the frames of PROTOCOL 3 as JSON. The mask key is zero, so that masking costs nothing here: what is
measured is the server, which unmasks like always.
"""

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from bench.pipeline import Body, Mark, Pipeline
from bench.server import Gateway

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def masked(payload: bytes) -> bytes:
    """A whole text frame from a client (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((0x80 | size,)) + b"\0\0\0\0" + payload
    if size < 65536:
        return b"\x81\xfe" + size.to_bytes(2, "big") + b"\0\0\0\0" + payload
    return b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + payload


class LoadClient(asyncio.Protocol):
    """`on_frame(client, frame)` gets each decoded frame, `on_lost()` the end; `send(frame)` writes one."""

    def __init__(
        self,
        name: str,
        on_frame: Callable[["LoadClient", dict[str, Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.name = name
        self.on_frame = on_frame
        self.on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.welcomed: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls,
        url: str,
        name: str,
        token: str,
        on_frame: Callable[["LoadClient", dict[str, Any]], None],
        window: int,
        on_lost: Callable[[], None] = lambda: None,
    ) -> "LoadClient":
        """Connect, say hello, wait for the welcome."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: cls(name, on_frame, on_lost), parts.hostname, parts.port
        )
        assert client.transport is not None
        key = base64.b64encode(os.urandom(16)).decode()
        client.transport.write(
            (
                f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: botgw.v1.json\r\n\r\n"
            ).encode()
        )
        await client.opened
        client.send({"t": "hello", "token": token, "window": window})
        await client.welcomed
        return client

    def send(self, frame: dict[str, Any]) -> None:
        assert self.transport is not None
        self.transport.write(masked(_encode(frame)))

    def send_raw(self, payload: bytes) -> None:
        assert self.transport is not None
        self.transport.write(masked(payload))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.welcomed):
            if not future.done():
                future.set_exception(ConnectionError(f"{self.name}: connection lost"))
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = 0
        if not self.open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = buffer
                return
            if b" 101 " not in buffer[:20]:
                self.opened.set_exception(ConnectionError(buffer[:end].decode(errors="replace")))
                return
            self.open = True
            self.opened.set_result(None)
            at = end + 4
        while True:
            frame_end = self._frame(buffer, at)
            if frame_end < 0:
                break
            at = frame_end
        self.buffer = buffer[at:]

    def _frame(self, buffer: bytes, at: int) -> int:
        """Handle the frame that starts at `at`; where it ends, or -1 where it is not whole."""
        have = len(buffer) - at
        if have < 2:
            return -1
        size = buffer[at + 1]
        start = at + 2
        if size == 126:
            if have < 4:
                return -1
            size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            if have < 10:
                return -1
            size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
        end = start + size
        if len(buffer) < end:
            return -1
        opcode = buffer[at] & 15
        if opcode == 1:
            frame = _decode(buffer[start:end])
            if frame["t"] == "welcome":
                self.welcomed.set_result(frame)
            else:
                self.on_frame(self, frame)
        elif opcode == 9:
            assert self.transport is not None
            self.transport.write(b"\x8a" + bytes((0x80 | size,)) + b"\0\0\0\0" + buffer[start:end])
        return end


class WebSocketPipeline(Pipeline):
    """Publishes of one turn are one frame; a client acks each frame that it gets, cumulatively."""

    server: Gateway

    async def connect(self) -> None:
        self.clients: list[LoadClient] = []
        for i, name in enumerate(self.names):
            self.clients.append(await self._open(name, self._receiver(i), self.server.window))
        self.senders: list[LoadClient] = []
        for i, name in enumerate(self.publishers):
            self.senders.append(await self._open(name, self._answers(i), 64))

    async def _open(
        self, name: str, on_frame: Callable[[LoadClient, dict[str, Any]], None], window: int
    ) -> LoadClient:
        return await LoadClient.connect(
            self.server.ws,
            name,
            self.server.token(name),
            on_frame,
            window,
            lambda: self.fault("connection lost"),
        )

    def close(self) -> None:
        for client in [*self.clients, *self.senders]:
            client.on_lost = lambda: None
            assert client.transport is not None
            client.transport.abort()

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        names = self.names
        messages = [{"ref": body.n, "to": names[client], "body": body} for client, body in batch]
        self.senders[publisher].send({"t": "pub", "m": messages})

    def _answers(self, publisher: int) -> Callable[[LoadClient, dict[str, Any]], None]:
        def on_frame(_: LoadClient, frame: dict[str, Any]) -> None:
            if frame["t"] == "ok":
                self.answered(publisher, len(frame["m"]))
            elif frame["t"] == "err":
                self.fault(frame["code"])

        return on_frame

    def _receiver(self, index: int) -> Callable[[LoadClient, dict[str, Any]], None]:
        def on_frame(client: LoadClient, frame: dict[str, Any]) -> None:
            if frame["t"] != "msg":
                return
            entries = frame["m"]
            client.send_raw(b'{"t":"ack","seq":%d}' % entries[-1]["seq"])
            bodies = [entry["body"] for entry in entries]
            self.received(
                index,
                [Mark(body["p"], body["n"], body["at"]) for body in bodies],
                sum(1 for entry in entries if "redelivered" in entry),
            )

        return on_frame


async def connect_idle(server: Gateway, name: str) -> asyncio.BaseTransport:
    """A session that does nothing."""
    client = await LoadClient.connect(server.ws, name, server.token(name), lambda *_: None, 64)
    assert client.transport is not None
    return client.transport
