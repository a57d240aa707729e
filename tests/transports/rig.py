"""A server without sockets: transports of memory, a clock that the test moves, and the client's end as a Peer."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.config import Config
from gateway.ids import encode_id
from gateway.model import Item, Kind
from gateway.transports.websocket import WebSocketServer
from gateway.wire import JSON, MSGPACK
from tests.transports.double import HubDouble, Tokens

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x11\x22\x33\x44"
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """A frame as a client lays it out (RFC 6455 5.2), or as it must not."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    if not masked:
        return head + payload
    return head + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """(first byte, payload) of each whole frame of the gateway; the rest, if any, is an error."""
    frames = []
    while data:
        first, length = data[0], data[1]
        assert length < 128, "a server does not mask"
        at = 2
        if length == 126:
            (length,) = struct.unpack_from("!H", data, 2)
            at = 4
        elif length == 127:
            (length,) = struct.unpack_from("!Q", data, 2)
            at = 10
        assert len(data) >= at + length, "a frame is cut"
        frames.append((first, data[at : at + length]))
        data = data[at + length :]
    return frames


def request(
    path: str = "/ws", headers: dict[str, str] | None = None, *, subprotocol: str | None = JSON
) -> bytes:
    """A WebSocket handshake; a header given as "" is left out."""
    fields = {
        "Host": "gateway.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    if subprotocol is not None:
        fields["Sec-WebSocket-Protocol"] = subprotocol
    fields |= headers or {}
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class MemoryTransport(asyncio.Transport):
    """Keeps what is written. `takes`: how many more bytes the socket takes, None for any number."""

    def __init__(self, peername: Any = ("192.0.2.1", 40000), *, half_closes: bool = True) -> None:
        super().__init__({"peername": peername})
        self.protocol: Any = None
        self.taken = bytearray()
        self.buffer = bytearray()
        self.takes: int | None = None
        self.writes = 0
        # Any: what a test has seen once, it may see otherwise later
        self.reading: Any = True
        self.eof: Any = False
        self.closing: Any = False
        self.aborted: Any = False
        self.lost: Any = False
        self._half_closes = half_closes
        self._paused = False
        self._limits: tuple[int, int] = (65536, 16384)

    def write(self, data: Any) -> None:
        assert not self.closing, "written after the close"
        assert not self.eof, "written after the end"
        self.writes += 1
        self.buffer += data
        self._drain()
        if len(self.buffer) > self._limits[0] and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def take(self, count: int | None) -> None:
        """The peer reads `count` bytes more, or for ever."""
        self.takes = count
        self._drain()
        if self._paused and len(self.buffer) <= self._limits[1]:
            self._paused = False
            self.protocol.resume_writing()
        if self.closing and not self.buffer:
            self.lose()

    def _drain(self) -> None:
        count = len(self.buffer) if self.takes is None else min(self.takes, len(self.buffer))
        self.taken += self.buffer[:count]
        del self.buffer[:count]
        if self.takes is not None:
            self.takes -= count

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self._limits = (high, low)

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return self._half_closes

    def write_eof(self) -> None:
        assert self._half_closes
        self.eof = True

    def is_closing(self) -> bool:
        return bool(self.closing)

    def close(self) -> None:
        self.closing = True
        if not self.buffer:
            asyncio.get_running_loop().call_soon(self.lose)

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.buffer.clear()
        asyncio.get_running_loop().call_soon(self.lose)

    def lose(self, error: Exception | None = None) -> None:
        """The socket is gone."""
        if not self.lost:
            self.lost = self.closing = True
            self.protocol.connection_lost(error)


class Peer:
    """The client's end of one memory transport."""

    def __init__(self, rig: "Rig", transport: MemoryTransport) -> None:
        self.rig = rig
        self.transport = transport
        self.head = b""
        self.binary = False
        self._read = 0

    @property
    def conn(self) -> Any:
        return self.transport.protocol

    # -- sending ---------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes arrive."""
        self.transport.protocol.data_received(data)

    def send(self, *frames: Any) -> None:
        """Frames arrive together, each an object."""
        self.feed(b"".join(self.encode(frame) for frame in frames))

    def encode(self, frame: Any) -> bytes:
        if self.binary:
            return client_frame(BINARY, msgspec.msgpack.encode(frame))
        return client_frame(TEXT, msgspec.json.encode(frame))

    def end(self) -> None:
        """The client's half of the TCP connection ends."""
        if not self.transport.protocol.eof_received():
            self.transport.close()

    # -- what came -------------------------------------------------------------------------------------------------

    def raw(self) -> list[tuple[int, bytes]]:
        """Frames since the last look, pings included."""
        data = bytes(self.transport.taken[self._read :])
        self._read = len(self.transport.taken)
        return server_frames(data)

    def frames(self) -> list[Any]:
        """Data frames since the last look, decoded."""
        decode = msgspec.msgpack.decode if self.binary else msgspec.json.decode
        first = 0x82 if self.binary else 0x81
        return [decode(payload) for head, payload in self.raw() if head == first]

    def closed(self) -> tuple[int, str]:
        """Code and reason of the close frame that came last."""
        head, payload = server_frames(self._after_head())[-1]
        assert head == 0x88, "no close frame"
        return struct.unpack_from("!H", payload)[0], payload[2:].decode()

    def _after_head(self) -> bytes:
        return bytes(self.transport.taken[len(self.head) :])

    async def answer(self) -> list[Any]:
        """What comes of what was sent."""
        await self.rig.turn()
        return self.frames()


class Rig:
    """A server that listens nowhere, its hub, its clock and its peers."""

    def __init__(self, hub: HubDouble, tokens: Tokens, config: Config, **websocket: Any) -> None:
        self.hub = hub
        self.tokens = tokens
        self.chance = 0.5
        if websocket:
            config = replace(config, websocket=replace(config.websocket, **websocket))
        self.server = WebSocketServer(hub, tokens, config, lambda: self.chance)

    def socket(self, **options: Any) -> Peer:
        """A new TCP connection."""
        transport = MemoryTransport(**options)
        transport.protocol = self.server.protocol()
        transport.protocol.connection_made(transport)
        return Peer(self, transport)

    def open(self, headers: dict[str, str] | None = None, *, binary: bool = False, **options: Any) -> Peer:
        """A connection whose handshake is done."""
        peer = self.socket(**options)
        peer.feed(request(headers=headers, subprotocol=MSGPACK if binary else JSON))
        peer.head = bytes(peer.transport.taken)
        assert peer.head.startswith(b"HTTP/1.1 101 "), peer.head
        peer._read = len(peer.head)
        peer.binary = binary
        return peer

    async def join(self, token: str = "alice", **options: Any) -> Peer:
        """A connection that is welcomed."""
        peer = self.open(**options)
        peer.send({"t": "hello", "token": token})
        (welcome,) = await peer.answer()
        assert welcome["t"] == "welcome"
        return peer

    async def turn(self) -> None:
        """Let the loop end its turn, and the one after."""
        for _ in range(4):
            await asyncio.sleep(0)

    async def advance(self, seconds: float, every: Callable[[], None] | None = None) -> None:
        """Time passes, a tick at a time; `every`: what happens before each tick."""
        end = self.hub.scheduler.ms + round(seconds * 1000)
        while self.hub.scheduler.ms < end:
            self.hub.scheduler.ms = min(end, self.hub.scheduler.ms + self.server.tick_ms)
            if every is not None:
                every()
            self.server.turn()
            await self.turn()


def message(seq: int, body: Any = None, **fields: Any) -> Item:
    """A bound message to alice."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    item = Item(seq + (1 << 60), "alice", "bob", 2, 1_800_000_000_000, 1 << 60, raw, **fields)
    item.seq, item.eno, item.hold = seq, 1, 2
    return item


def gap(seq: int, why: str = "expired") -> Item:
    item = message(seq, kind=int(Kind.GAP))
    item.body, item.why = None, why
    return item


def status(seq: int, name: str = "delivered") -> Item:
    body = {"id": encode_id(5), "status": name, "at": 7}
    return message(seq, body, kind=int(Kind.STATUS))


async def refused(peer: Peer, code: int = 4303) -> dict[str, Any]:
    """The `err` of a connection that has just been ended with `code`, and nothing but that."""
    (err,) = await peer.answer()
    assert err["t"] == "err"
    assert err["close"] == code
    assert "ref" not in err
    assert peer.closed() == (code, err["code"])
    told: dict[str, Any] = err
    return told
