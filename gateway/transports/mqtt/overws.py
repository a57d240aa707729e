"""MQTT over WebSocket (MQTT 5, 6): a socket whose bytes travel in binary frames.

To the TCP transport below, it is the protocol; to the MQTT connection above, it is the transport. The frames are no
border of anything: packets may share one or span several. The core of `websockets` answers pings and closes.
"""

import asyncio
from typing import Any, Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN, Protocol

from gateway.transports.sockets import end_stream

SUBPROTOCOL: Final = "mqtt"
_FIRST_BYTE: Final = 0x82  # a whole binary frame


class WebSocketPipe(asyncio.Transport, asyncio.Protocol):
    """`core` is that of a handshake which is done; `transport` is the socket's, and belongs to the pipe from now on."""

    __slots__ = ("_ending", "core", "transport", "upper")

    def __init__(self, transport: asyncio.Transport, core: Protocol) -> None:
        self.transport = transport
        self.core = core
        self.upper: asyncio.Protocol
        self._ending = False

    # -- from below ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        core = self.core
        core.receive_data(data)
        pieces: list[Any] = []
        for frame in cast(list[Frame], core.events_received()):
            if frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
                pieces.append(frame.data)
            elif frame.opcode is Opcode.TEXT:
                # [MQTT-6.0.0-1]
                core.fail(CloseCode.UNSUPPORTED_DATA, "MQTT is in binary frames")
                break
        if pieces and not self._ending:
            self.upper.data_received(b"".join(pieces))
        if core.writes:
            self._write(b"".join(core.data_to_send()))
        if core.state is not OPEN:
            self._core_ended()

    def eof_received(self) -> bool | None:
        return self.upper.eof_received()

    def pause_writing(self) -> None:
        self.upper.pause_writing()

    def resume_writing(self) -> None:
        self.upper.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        # the core and its parser would keep each other until a collection
        self.core.parser.close()
        self.upper.connection_lost(exc)

    def _core_ended(self) -> None:
        """A close frame came, or the stream is broken: what the core has to say is written."""
        if not self._ending:
            self._ending = True
            self.upper.eof_received()
        if not self.core.eof_sent or self.transport.is_closing():
            return
        if self.core.close_rcvd is not None or not self.transport.can_write_eof():
            self.transport.close()
            return
        # What the peer still sends is read and thrown away: closing over it would reset the connection, and the close
        # frame could be lost on its way (RFC 6455 7.1.1). The MQTT connection cuts the socket in a while.
        self.transport.resume_reading()
        end_stream(self.transport)

    def _write(self, data: bytes) -> None:
        if data and not self.transport.is_closing():
            self.transport.write(data)

    # -- from above ------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        core = self.core
        if core.state is not OPEN:
            return
        if core.extensions:
            core.send_binary(data)
            self._write(b"".join(core.data_to_send()))
            return
        size = len(data)
        if size < 126:
            head = bytes((_FIRST_BYTE, size))
        elif size < 65536:
            head = b"\x82\x7e" + size.to_bytes(2)
        else:
            head = b"\x82\x7f" + size.to_bytes(8)
        self._write(head + data)

    def close(self) -> None:
        """Say so; the peer answers, or the MQTT connection cuts the socket in a while."""
        if self._ending:
            return
        self._ending = True
        if self.core.state is OPEN:
            self.core.send_close(CloseCode.NORMAL_CLOSURE)
            self._write(b"".join(self.core.data_to_send()))
        # the peer's close frame is to be seen
        self.transport.resume_reading()

    def abort(self) -> None:
        self._ending = True
        self.transport.abort()

    def is_closing(self) -> bool:
        return self._ending or self.transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.upper = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.upper

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self.transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """An end of the stream is a close frame here, which ends both halves."""
        return False

    def is_reading(self) -> bool:
        return self.transport.is_reading()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()
