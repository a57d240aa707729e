"""The writing half of a connection: what the hub hands over, in which order it leaves, how much of it at a time.

The hub hands over messages and answers during a turn of the loop; at the turn's end `flush` lays out all of it in one
write: first the welcome, then errors and answers, then messages, statuses and gaps in seq order.

Whether the peer reads is told by the transport: either its buffer is empty, or what the socket did not take waits there
(`paused`). While something waits, no message is laid out: messages are kept as the items that the hub holds anyway, so
a peer that does not read costs one slice of them and the answers to its own publishes, never its whole window.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.protocol import OPEN, Protocol

from gateway import wire
from gateway.auth import Principal
from gateway.model import Item, Kind, Sub
from gateway.transports.conversation import CLOSING, JOINING, Conversation
from gateway.transports.websocket.frames import Codec, header

if TYPE_CHECKING:
    from gateway.transports.websocket.server import WebSocketServer

_MESSAGE: Final = int(Kind.MESSAGE)
# answers in one `ok` frame: at about 110 bytes each at most, a frame stays below 256 KiB
OKS_A_FRAME: Final = 2048


class Writer(Conversation, asyncio.Protocol):
    """A conversation as far as something is to be written; the rest is left to the classes below."""

    __slots__ = ("core", "paused", "piled", "stall_left", "transport")

    via = "ws"
    door = "websocket"
    sub = int(Sub.NONE)
    server: "WebSocketServer"
    codec: Codec

    def __init__(
        self,
        server: "WebSocketServer",
        transport: asyncio.Transport,
        codec: Codec,
        core: Protocol,
        principal: Principal | None,
    ) -> None:
        super().__init__(server, codec, principal)
        self.transport = transport
        self.core = core
        self.paused = False  # bytes wait in the transport
        self.piled = 0  # bytes of answers that were written and that the peer has not taken all
        self.stall_left = 0  # bytes that the peer has yet to take, as last seen

    def welcome(self, fields: dict[str, Any]) -> None:
        """The hub has joined it to its session: `fields` of the frame, without `t`."""
        if self.phase != JOINING:
            return
        frame = wire.any_frame({"t": "welcome", **fields})
        self.heads = [frame] if self.heads is None else [frame, *self.heads]
        self.touch()
        self.welcomed()

    def welcomed(self) -> None:
        """The welcome is buffered: go live."""
        raise NotImplementedError

    # -- writing ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is buffered, in one write unless it is over a slice."""
        self.dirty = False
        if self.phase < CLOSING:
            self.write_out()

    def write_out(self) -> None:
        """Lay out what is buffered and write it, messages only as far as the peer takes them."""
        items = self.items
        if items is not None and len(items) == 1 and self._lay_one(items[0]):
            return
        pieces: list[bytes] = []
        answers = 0
        if self.core.state is OPEN:
            if self.heads is not None or self.oks is not None:
                self._lay_answers(pieces)
                answers = sum(map(len, pieces))
            while self.items is not None and not self.paused and self._lay_slice(pieces):
                self.write(pieces, answers)
                pieces = []
                answers = 0
        if self.core.writes:
            of_core = self.core.data_to_send()
            answers += sum(map(len, of_core))
            pieces += of_core
        if pieces:
            self.write(pieces, answers)

    def _lay_one(self, item: Item) -> bool:
        """One message alone, as each of many clients gets them. False: there is more to it."""
        core = self.core
        if (
            self.heads is not None
            or self.oks is not None
            or self.paused
            or item.body is None
            or item.kind != _MESSAGE
            or core.state is not OPEN
            or core.extensions
            or core.writes
        ):
            return False
        server, codec = self.server, self.codec
        payload = codec.encode(wire.frame(_MESSAGE, (wire.entry(item, server.hub.trace_root),)))
        self.items = item.body = None
        server.frames_out += 1
        data = header(codec.first_byte, len(payload)) + payload
        server.bytes_out += len(data)
        self.transport.write(data)
        return True

    def write(self, pieces: list[bytes], answers: int) -> None:
        """`answers`: how many of the bytes are no messages."""
        data = b"".join(pieces)
        self.server.bytes_out += len(data)
        if self.paused:
            self.stall_left += len(data)
        self.transport.write(data)
        if self.paused:
            self.piled += answers

    def _lay_answers(self, pieces: list[bytes]) -> None:
        heads, self.heads = self.heads, None
        oks, self.oks = self.oks, None
        if heads is not None:
            for frame in heads:
                self._lay(pieces, frame)
        if oks is not None:
            for i in range(0, len(oks), OKS_A_FRAME):
                self._lay(pieces, wire.ok_frame(oks[i : i + OKS_A_FRAME]))

    def _lay_slice(self, pieces: list[bytes]) -> bool:
        """Up to a slice of the messages, in frames of one kind each; a message larger than a slice goes alone.

        Whether there are more.
        """
        items = self.items
        assert items is not None
        room = self.server.slice_bytes
        root = self.server.hub.trace_root
        entries: list[bytes] = []
        kind = items[0].kind
        size = done = 0
        for item in items:
            body = item.body
            if body is None and item.kind != Kind.GAP:
                # settled or given back since it was handed over: it is no longer to be written
                done += 1
                continue
            if size and size + (len(body) if body is not None else 0) > room:
                break
            if item.kind != kind:
                if entries:
                    self._lay(pieces, wire.frame(kind, entries))
                    entries = []
                kind = item.kind
            entry = wire.entry(item, root)
            entries.append(entry)
            # the store keeps the body; should it have to be written again, the hub reads it there
            item.body = None
            size += len(entry)
            done += 1
        if entries:
            self._lay(pieces, wire.frame(kind, entries))
        if done < len(items):
            del items[:done]
            return True
        self.items = None
        return False

    def _lay(self, pieces: list[bytes], frame: bytes) -> None:
        """One frame, given as JSON, in the encoding of the connection."""
        codec, core = self.codec, self.core
        self.server.frames_out += 1
        payload = codec.encode(frame)
        if core.extensions:
            if codec.binary:
                core.send_binary(payload)
            else:
                core.send_text(payload)
            pieces += core.data_to_send()
        else:
            pieces.append(header(codec.first_byte, len(payload)))
            pieces.append(payload)
