"""TCP between devices and a gateway: what a network does to them."""

import asyncio
from collections.abc import Callable
from typing import Self

CHUNK = 65536
TIMEOUT = 30.0
CONNECT, CONNACK, PUBACK, PINGRESP = 0x10, 0x20, 0x40, 0xD0
PINGREQ = b"\xc0\x00"


class Packets:
    """The packets of MQTT in a stream that goes by. One that begins with another than `first` is something else."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._ours: bool | None = None  # not known yet
        self._rest = bytearray()  # of a packet that is not whole

    @property
    def between(self) -> bool:
        """Whether what went by ends with a whole packet."""
        return not self._rest

    def feed(self, data: bytes) -> list[int]:
        """The first bytes of the packets that are whole now."""
        kinds: list[int] = []
        if self._ours is None:
            self._ours = data[0] == self._first
        if not self._ours:
            return kinds
        self._rest += data
        while end := self._end():
            kinds.append(self._rest[0])
            del self._rest[:end]
        return kinds

    def _end(self) -> int:
        """Of the first packet; 0: it is not whole."""
        length = 0
        for at, byte in enumerate(self._rest[1:5]):
            length |= (byte & 127) << 7 * at
            if byte < 128:
                end = 2 + at + length
                return end if len(self._rest) >= end else 0
        return 0


class Proxy:
    """`async with Proxy(lambda: (host, port)) as proxy`: devices connect to `proxy.port`. Asked anew for each
    connection, so that a gateway may come back on another port.
    """

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self.port = 0
        self.present: list[bool] = []  # Session Present of each CONNACK that came by
        self._deaf = self._mute = False
        self._pubacks = self._pongs = 0  # of devices; to them
        # to the other side: what went by, and how
        self._newest: tuple[Packets, asyncio.StreamWriter] | None = None
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    def mute(self) -> None:
        """The gateway hears nothing more of the devices, until the next `cut`."""
        self._mute = True

    def deafen(self) -> None:
        """The devices hear nothing more of the gateway, until the next `cut`."""
        self._deaf = True

    def cut(self) -> None:
        """End every connection, both ways, without a word."""
        self._deaf = self._mute = False
        for writer in list(self._open):
            writer.transport.abort()

    async def acked(self, count: int) -> None:
        """The other side has taken so many PUBACKs, of all connections of one device: it answers to a ping that is put
        in behind them. The device hears the answer, too.
        """
        async with asyncio.timeout(TIMEOUT):
            while self._pubacks < count or self._newest is None or not self._newest[0].between:
                await self._anything()
            pongs = self._pongs
            self._newest[1].write(PINGREQ)
            while self._pongs == pongs:
                await self._anything()

    async def _anything(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection(*self._target())
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(back)
        try:
            await asyncio.gather(self._up(reader, back, writer), self._down(there, writer, back))
        finally:
            self._open -= {writer, back}

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        packets = Packets(CONNECT)
        self._newest = packets, writer
        while data := await _some(reader):
            if not self._mute:
                writer.write(data)
                self._pubacks += packets.feed(data).count(PUBACK)
                self._news.set()
        # a device that is killed is gone for the gateway too
        await _flush(writer)
        writer.transport.abort()
        other.transport.abort()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        first = True
        packets = Packets(CONNACK)
        while data := await _some(reader):
            if first and data[0] == CONNACK:
                # the flags, behind a length below 128
                self.present.append(bool(data[2] & 1))
            first = False
            if not self._deaf:
                writer.write(data)
            self._pongs += packets.feed(data).count(PINGRESP)
            self._news.set()
        await _flush(writer)
        writer.transport.abort()
        other.transport.abort()


async def _some(reader: asyncio.StreamReader) -> bytes:
    """b"" at the end, whatever it was."""
    try:
        return await reader.read(CHUNK)
    except OSError:
        return b""


async def _flush(writer: asyncio.StreamWriter) -> None:
    """What came before the end is passed on."""
    writer.transport.set_write_buffer_limits(0)
    try:
        await writer.drain()
    except OSError:
        return
