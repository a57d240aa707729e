"""What one link writes: PUBACKs first, then frames, once a turn of the loop.

What the broker does not take waits here, up to `limit` bytes; above it the clients of the link are told to wait, so
that messages stay in the store. What comes all the same are answers: twice the limit of them, and no more.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.transports.mqtt import codec

# bytes that are given to the connection at once
CHUNK: Final = 256 * 1024


class Writer(Protocol):
    """A connection, as far as it writes."""

    @property
    def writing(self) -> bool: ...

    def write(self, packets: bytes) -> None: ...


class Outbound:
    """`congest` is told True when clients must wait, and False when they may go on. `soon`: at the end of this turn."""

    __slots__ = (
        "_acks", "_congest", "_congested", "_conn", "_due", "_empty", "_limit", "_open", "_pile", "_soon", "dropped",
        "piled", "published",
    )  # fmt: skip

    def __init__(
        self, limit: int, congest: Callable[[bool], None], soon: Callable[[Callable[[], None]], Any]
    ) -> None:
        self._limit = limit
        self._congest = congest
        self._soon = soon
        self._conn: Writer | None = None
        self._acks: list[bytes] = []
        self._pile: deque[bytes] = deque()
        self._due = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = False
        self._congested = True
        self.piled = 0  # bytes
        # figures
        self.published = 0
        self.dropped = 0

    def begin(self, conn: Writer) -> None:
        """There is a connection. Nothing of an older one is left."""
        self._conn = conn

    def open(self) -> None:
        """The broker has accepted it: clients may be sent to."""
        self._open = True
        self._relieve()

    def end(self) -> None:
        """There is none. What waits is let go: it was said to clients that may have heard none of it."""
        self._conn = None
        self._open = False
        self._acks.clear()
        self._pile.clear()
        self._empty.set()
        self.piled = 0
        if not self._congested:
            self._congested = True
            self._congest(True)

    # -- what is to be written -------------------------------------------------------------------------------------

    def ack(self, pid: int) -> None:
        """PUBACK."""
        self._acks.append(codec.puback(5, pid))
        self._ask()

    def publish(self, topic: bytes, payload: bytes) -> None:
        """PUBLISH at QoS 0."""
        if self._conn is None or self.piled > 2 * self._limit:
            self.dropped += 1
            return
        packet = codec.publish(5, topic, payload)
        self.published += 1
        self.piled += len(packet)
        self._pile.append(packet)
        self._ask()
        if self.piled > self._limit and not self._congested:
            self._congested = True
            self._congest(True)

    def _ask(self) -> None:
        self._empty.clear()
        if not self._due:
            self._due = True
            self._soon(self.flush)

    def flush(self) -> None:
        """Write, as long as the connection takes it."""
        self._due = False
        conn = self._conn
        if conn is None or conn.writing:
            return
        chunk, self._acks = self._acks, []
        size = 0
        while self._pile and size < CHUNK:
            packet = self._pile.popleft()
            size += len(packet)
            chunk.append(packet)
        self.piled -= size
        if chunk:
            conn.write(b"".join(chunk))
        if not self._pile:
            self._empty.set()

    async def emptied(self) -> None:
        """Until the connection was given everything."""
        await self._empty.wait()

    def drained(self) -> None:
        """The connection has taken all that it was given."""
        self.flush()
        if self.piled <= self._limit // 2:
            self._relieve()

    def _relieve(self) -> None:
        if self._congested and self._open:
            self._congested = False
            self._congest(False)
