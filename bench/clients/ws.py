"""The pipeline over WebSocket frames, and its client: one asyncio.Protocol, no tasks, nothing allocated that is not
needed.

It speaks the frames of the WebSocket protocol as JSON. The mask key is zero, so that masking costs nothing here: what
is measured is the server, which unmasks like always.
"""

import asyncio
import base64
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import msgspec

from bench.pipeline import Body, Mark, Pipeline, Progress, spread
from bench.server import Server

# s: for the handshake and the welcome
CONNECT_TIMEOUT = 30.0
# unacked messages of a publisher, which gets none
PUBLISHER_WINDOW = 64
# bytes of a frame, below `limits.max_frame_bytes`; of a message without its padding, at the most
FRAME_BYTES = 900_000
AROUND_BYTES = 300
# bytes that the kernel keeps for a client that does not read
STALLED_BUFFER = 16_384

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Frame = dict[str, Any]


class Talker(Protocol):
    """A connection that carries frames, over whatever."""

    name: str

    def stall(self) -> None:
        """Read nothing any more, and let the kernel take little instead."""

    def send(self, frame: Frame) -> None: ...

    def send_raw(self, payload: bytes) -> None:
        """A frame that is JSON already."""

    def abort(self) -> None: ...


OnFrame = Callable[[Talker, Frame], None]
OnLost = Callable[[str], None]


class Place:
    """Where a client is in its session: what its next `hello` says."""

    __slots__ = ("ack", "epoch", "resume", "resumed")

    def __init__(self) -> None:
        self.resume = self.epoch = ""
        self.ack = 0
        # welcomes that went on with the session
        self.resumed = 0

    def hello(self) -> Frame:
        """Its part of the frame."""
        return {"resume": self.resume, "epoch": self.epoch, "ack": self.ack} if self.resume else {}

    def welcomed(self, welcome: Frame) -> None:
        self.resume, self.epoch = welcome["resume"], welcome["epoch"]
        if welcome["resumed"]:
            self.resumed += 1
        else:
            self.ack = 0


def ignore(*_: object) -> None:
    """For what nobody waits for."""


def stall(transport: asyncio.Transport | None) -> None:
    """Read nothing any more, and let the kernel take little instead."""
    assert transport is not None
    transport.pause_reading()
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER)


def write(transport: asyncio.Transport | None, data: bytes) -> None:
    """To a connection that is gone nothing is written; `on_lost` tells of it."""
    if transport is not None and not transport.is_closing():
        transport.write(data)


def masked(payload: bytes) -> bytes:
    """A whole text frame from a client (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((0x80 | size,)) + b"\0\0\0\0" + payload
    if size < 65536:
        return b"\x81\xfe" + size.to_bytes(2, "big") + b"\0\0\0\0" + payload
    return b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + payload


class LoadClient(asyncio.Protocol):
    """`on_frame(client, frame)` gets each decoded frame after the welcome, `on_lost(why)` the end."""

    def __init__(self, name: str, on_frame: OnFrame, on_lost: OnLost) -> None:
        self.name = name
        self.on_frame = on_frame
        self.on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.open = False
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.welcomed: asyncio.Future[Frame] = loop.create_future()

    @classmethod
    async def connect(
        cls, server: Server, name: str, on_frame: OnFrame, window: int, on_lost: OnLost = ignore,
        place: Place | None = None,
    ) -> "LoadClient":  # fmt: skip
        """Connect, say hello, wait for the welcome. Raises OSError, TimeoutError."""
        at = urlsplit(server.ws)
        port = at.port or (443 if at.scheme == "wss" else 80)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: cls(name, on_frame, on_lost), at.hostname or "", port, ssl=server.tls(at.scheme)
            )
            try:
                await client._greet(server, at.path or "/ws", at.netloc, window, place or Place())
            except BaseException:
                client.abort()
                raise
        return client

    async def _greet(self, server: Server, path: str, host: str, window: int, place: Place) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        assert self.transport is not None
        self.transport.write(
            (
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: botgw.v1.json\r\n\r\n"
            ).encode()
        )
        await self.opened
        self.send({"t": "hello", "token": server.token(self.name), "window": window} | place.hello())
        place.welcomed(await self.welcomed)

    def send(self, frame: Frame) -> None:
        self.send_raw(_encode(frame))

    def send_raw(self, payload: bytes) -> None:
        write(self.transport, masked(payload))

    def stall(self) -> None:
        stall(self.transport)

    def abort(self) -> None:
        self.on_lost = ignore
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.welcomed):
            if not future.done():
                future.set_exception(ConnectionError(f"{self.name}: connection lost"))
                # whoever waits sees it; where nobody does, it is no news
                future.exception()
        self.on_lost("connection lost")

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        at = 0
        if not self.open:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = buffer
                return
            if b" 101 " not in buffer[:20]:
                if not self.opened.done():
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
            if self.welcomed.done():
                self.on_frame(self, frame)
            elif frame["t"] == "welcome":
                self.welcomed.set_result(frame)
            else:
                self.welcomed.set_exception(ConnectionError(f"{self.name}: {frame} to hello"))
        elif opcode == 8:
            self.on_lost(f"closed with {int.from_bytes(buffer[start : start + 2], 'big')}")
            self.abort()
        elif opcode == 9:
            write(self.transport, b"\x8a" + bytes((0x80 | size,)) + b"\0\0\0\0" + buffer[start:end])
        return end


class WebSocketPipeline(Pipeline):
    """Publishes of one turn are one frame; a client acks each frame that it gets, cumulatively.

    Where connections are cut on purpose, publishes carry a key and are repeated by `come_back`, and what is marked as a
    redelivery is told apart.
    """

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Progress, *, disturbed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(server, publishers, clients, messages, size, progress, disturbed=disturbed)
        self.clients: list[Talker | None] = [None] * clients
        self.senders: list[Talker | None] = [None] * publishers
        self.places = [Place() for _ in range(clients)]
        self._receivers = [self._receiver(i) for i in range(clients)]
        # of each publisher, what has no answer yet, by ref; kept where it may have to be repeated
        self.open: list[dict[int, Frame]] = [{} for _ in range(publishers)]
        self._refs = 0

    async def connect(self) -> None:
        await spread(len(self.names), self.join)
        await self.connect_publishers()

    async def connect_publishers(self) -> None:
        """Those that publish, after the clients."""
        await spread(len(self.publishers), self.come_back)

    async def join(self, client: int) -> None:
        name, place = self.names[client], self.places[client]
        self.clients[client] = await self.talk(
            name, self._receivers[client], self.server.window, self._lost, place
        )

    async def come_back(self, publisher: int) -> None:
        """Connect a publisher, and repeat in order what it has no answer for."""
        name = self.publishers[publisher]
        sender = await self.talk(name, self._answers(publisher), PUBLISHER_WINDOW, self._lost, None)
        self.senders[publisher] = sender
        self._publish(sender, list(self.open[publisher].values()))

    async def talk(
        self, name: str, on_frame: OnFrame, window: int, on_lost: OnLost, place: Place | None
    ) -> Talker:
        """A connection that is welcomed."""
        return await LoadClient.connect(self.server, name, on_frame, window, on_lost, place)

    def cut(self, client: int) -> None:
        talker, self.clients[client] = self.clients[client], None
        if talker is not None:
            talker.abort()

    def cut_publisher(self, publisher: int) -> None:
        """Break the publisher's connection; what it publishes waits until it comes back."""
        talker, self.senders[publisher] = self.senders[publisher], None
        if talker is not None:
            talker.abort()

    def stall(self, client: int) -> None:
        """The client does not read any more."""
        talker = self.clients[client]
        assert talker is not None
        talker.stall()

    def close(self) -> None:
        for talker in [*self.clients, *self.senders]:
            if talker is not None:
                talker.abort()

    def _lost(self, why: str) -> None:
        if not self.ledger.disturbed:
            self.fault(why)

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        names = self.names
        first, self._refs = self._refs, self._refs + len(batch)
        messages: list[Frame] = [
            {"ref": ref, "to": names[client], "body": body} for ref, (client, body) in enumerate(batch, first)
        ]
        if self.ledger.disturbed:
            for message in messages:
                message["key"] = f"{publisher}-{message['ref']}"
                self.open[publisher][message["ref"]] = message
        sender = self.senders[publisher]
        if sender is not None:
            self._publish(sender, messages)

    def _publish(self, sender: Talker, messages: list[Frame]) -> None:
        """In one frame, or in several where it would be too large."""
        most = max(FRAME_BYTES // (len(self.pad) + AROUND_BYTES), 1)
        for at in range(0, len(messages), most):
            sender.send({"t": "pub", "m": messages[at : at + most]})

    def _answers(self, publisher: int) -> OnFrame:
        disturbed, open_ = self.ledger.disturbed, self.open[publisher]

        def on_frame(_: Talker, frame: Frame) -> None:
            kind = frame["t"]
            if kind == "ok":
                answers = frame["m"]
                if disturbed:
                    # a repetition may be answered beside the first
                    answers = [answer for answer in answers if open_.pop(answer["ref"], None) is not None]
                self.answered(publisher, len(answers))
            elif kind == "err":
                self.fault(frame["code"])

        return on_frame

    def _receiver(self, client: int) -> OnFrame:
        place = self.places[client]

        def on_frame(talker: Talker, frame: Frame) -> None:
            kind = frame["t"]
            if kind not in {"msg", "gap"}:
                if kind == "err":
                    self._lost(frame["code"])
                return
            entries = frame["m"]
            seq = entries[-1]["seq"]
            talker.send_raw(b'{"t":"ack","seq":%d}' % seq)
            place.ack = max(place.ack, seq)
            if kind == "gap":
                self.fault("gap")
                return
            fresh = [mark(entry) for entry in entries if "redelivered" not in entry]
            again = [mark(entry) for entry in entries if "redelivered" in entry]
            # what is bound and unsettled comes first after a welcome, then what is new
            if again:
                self.received(client, again, len(again))
            if fresh:
                self.received(client, fresh, 0)

        return on_frame


def mark(entry: Frame) -> Mark:
    """Of an entry of `msg`."""
    body = entry["body"]
    return Mark(body["p"], body["n"], body["at"])


async def connect_idle(server: Server, name: str) -> Talker:
    """A session that does nothing."""
    return await LoadClient.connect(server, name, ignore, PUBLISHER_WINDOW)
