"""TCP between devices and a gateway: what a network does to them."""

import asyncio
from collections.abc import Callable
from typing import Self

CHUNK = 65536


class Proxy:
    """`async with Proxy(lambda: (host, port)) as proxy`: devices connect to `proxy.port`. Asked anew for each
    connection, so that a gateway may come back on another port.
    """

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self.port = 0
        self.present: list[bool] = []  # Session Present of each CONNACK that came by
        self._deaf = self._mute = False
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
        while data := await _some(reader):
            if not self._mute:
                writer.write(data)
        # a device that is killed is gone for the gateway too
        await _flush(writer)
        writer.transport.abort()
        other.transport.abort()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        first = True
        while data := await _some(reader):
            if first and data[0] == 0x20:
                self.present.append(bool(data[2] & 1))
            first = False
            if not self._deaf:
                writer.write(data)
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
