"""Publishing over the HTTP API, single and as NDJSON; the clients receive over WebSocket. And a receiver of webhooks.

Connections are asyncio.Protocols over a parser of just those answers that the gateway gives.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from bench.clients.ws import WebSocketPipeline, ignore, write
from bench.pipeline import Body, spread
from bench.server import Server

# of an NDJSON stream, before its response has begun; of a request
ANSWER_TIMEOUT = 30.0
ACCEPTED = 202
OK = 200

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

OnAnswer = Callable[[int, bytes], None]


class HttpConnection(asyncio.Protocol):
    """A kept connection, one request at a time.

    `on_answer(status, body)` gets each answer; of one that is chunked, each piece as it comes.
    """

    def __init__(self, host: str, key: str, on_answer: OnAnswer, on_lost: Callable[[str], None]) -> None:
        self.head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: ".encode()
        self.on_answer = on_answer
        self.on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        # of a chunked answer that has begun
        self.status = 0

    @classmethod
    async def connect(
        cls, server: Server, on_answer: OnAnswer, on_lost: Callable[[str], None] = ignore
    ) -> "HttpConnection":
        """Raises OSError, TimeoutError."""
        at = urlsplit(server.api)
        port = at.port or (443 if at.scheme == "https" else 80)
        async with asyncio.timeout(ANSWER_TIMEOUT):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: cls(at.netloc, server.key_of_api(), on_answer, on_lost),
                at.hostname or "",
                port,
                ssl=server.tls(at.scheme),
            )
        return connection

    def post(self, path: str, body: bytes) -> None:
        """A whole request with a JSON body."""
        self._write(
            b"POST %b HTTP/1.1\r\n%bapplication/json\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), self.head, len(body), body)
        )

    def stream(self, path: str) -> None:
        """Begin a request whose body are lines of JSON."""
        self._write(
            b"POST %b HTTP/1.1\r\n%bapplication/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            % (path.encode(), self.head)
        )

    def chunk(self, data: bytes) -> None:
        """Go on with it."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def abort(self) -> None:
        self.on_lost = ignore
        if self.transport is not None:
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        write(self.transport, data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_lost("connection lost")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self._answer():
            pass

    def _answer(self) -> bool:
        """Handle what is whole at the begin of the buffer; whether there was anything."""
        buffer = self.buffer
        if self.status:
            return self._chunk(buffer)
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = buffer[:end].lower()
        status = int(head[9:12])
        if b"transfer-encoding: chunked" in head:
            self.status, self.buffer = status, buffer[end + 4 :]
            return True
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(buffer) < end + 4 + size:
            return False
        self.buffer = buffer[end + 4 + size :]
        self.on_answer(status, buffer[end + 4 : end + 4 + size])
        return True

    def _chunk(self, buffer: bytes) -> bool:
        line = buffer.find(b"\r\n")
        if line < 0:
            return False
        size = int(buffer[:line], 16)
        end = line + 2 + size
        if len(buffer) < end + 2:
            return False
        self.buffer = buffer[end + 2 :]
        if not size:
            self.status = 0
            return True
        self.on_answer(self.status, buffer[line + 2 : end])
        return True


class HttpPipeline(WebSocketPipeline):
    """Each publisher is a connection that posts one message at a time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.window = 1
        self.connections: list[HttpConnection] = []

    async def connect_publishers(self) -> None:
        self.connections = [await self._open(i) for i in range(len(self.publishers))]

    async def _open(self, publisher: int) -> HttpConnection:
        return await HttpConnection.connect(self.server, self._on_answer(publisher), self.fault)

    def close(self) -> None:
        super().close()
        for connection in self.connections:
            connection.abort()

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        for client, body in batch:
            message = _encode({"to": self.names[client], "body": body})
            self.connections[publisher].post("/v1/messages", message)

    def _on_answer(self, publisher: int) -> OnAnswer:
        def on_answer(status: int, body: bytes) -> None:
            if status == ACCEPTED:
                self.answered(publisher, 1)
            else:
                self.fault(f"HTTP {status}")

        return on_answer


class NdjsonPipeline(HttpPipeline):
    """Each publisher is a stream of lines; those of one turn are one chunk."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.window = self.server.window
        # what a stream brought of its next answer
        self._rest = [b""] * len(self.publishers)

    async def connect_publishers(self) -> None:
        await super().connect_publishers()
        for connection in self.connections:
            connection.stream("/v1/messages")

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        lines = [_encode({"to": self.names[client], "body": body}) for client, body in batch]
        lines.append(b"")
        self.connections[publisher].chunk(b"\n".join(lines))

    def _on_answer(self, publisher: int) -> OnAnswer:
        def on_answer(status: int, piece: bytes) -> None:
            *lines, self._rest[publisher] = (self._rest[publisher] + piece).split(b"\n")
            taken = 0
            for line in lines:
                answer = _decode(line)
                if "id" in answer:
                    taken += 1
                else:
                    self.fault(answer["code"])
            if status != OK:
                self.fault(f"HTTP {status}")
            elif taken:
                self.answered(publisher, taken)

        return on_answer


async def post_all(
    server: Server, path: str, bodies: list[bytes], at_once: int = 2
) -> list[tuple[int, bytes]]:
    """POST these, and what each was answered: (status, body). Raises OSError, TimeoutError."""
    answers: list[tuple[int, bytes]] = [(0, b"")] * len(bodies)
    loop = asyncio.get_running_loop()
    free: list[HttpConnection] = []

    async def one(i: int) -> None:
        done: asyncio.Future[None] = loop.create_future()

        def on_answer(status: int, body: bytes) -> None:
            answers[i] = status, body
            done.set_result(None)

        connection = free.pop() if free else await HttpConnection.connect(server, on_answer)
        connection.on_answer = on_answer
        connection.post(path, bodies[i])
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await done
        free.append(connection)

    try:
        await spread(len(bodies), one, at_once)
    finally:
        for connection in free:
            connection.abort()
    return answers


class Hook(asyncio.Protocol):
    """A webhook that says 200 to everything: `on_body(body)` gets what each POST brings."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, on_body: Callable[[bytes], None]) -> None:
        self.on_body = on_body
        self.transport: asyncio.Transport | None = None
        self.buffer = b""

    @classmethod
    async def listen(cls, on_body: Callable[[bytes], None]) -> tuple[asyncio.Server, str]:
        """On a free port of this machine; its URL."""
        server = await asyncio.get_running_loop().create_server(lambda: cls(on_body), "127.0.0.1", 0)
        return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(buffer) < end + 4 + size:
                break
            assert self.transport is not None
            self.transport.write(self.ANSWER)
            self.on_body(buffer[end + 4 : end + 4 + size])
            buffer = buffer[end + 4 + size :]
        self.buffer = buffer
