"""The pipeline over NATS JetStream, in the client protocol of NATS: lines of text, bodies by their length.

A client has a stream with a durable push consumer, acks each message by itself, and may have `window` unacked. A
publisher gets a PubAck for each message in an inbox of its own, in the order of each stream.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from bench.clients.ws import OnLost, ignore
from bench.peers.nats import Nats
from bench.pipeline import Body, Mark, Pipeline, Progress, spread
from bench.server import Server

ANSWER_TIMEOUT = 30.0

# subject, reply subject (empty where there is none), payload
Message = tuple[bytes, bytes, bytes]

_mark = msgspec.json.Decoder(Mark).decode
_encode = msgspec.json.Encoder().encode


class Reader:
    """Bytes in, messages and other lines out, without I/O."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[Message], list[bytes]]:
        """The messages that are whole by now, and the lines besides (INFO, PING, PONG, -ERR)."""
        buffer = self._rest + data if self._rest else data
        messages: list[Message] = []
        lines = []
        at = 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            line = buffer[at:end]
            start = end + 2
            if line.startswith(b"MSG "):
                # MSG <subject> <sid> [reply] <size>
                words = line.split(b" ")
                end = start + int(words[-1])
                if len(buffer) < end + 2:
                    break
                messages.append((words[1], words[3] if len(words) == 5 else b"", buffer[start:end]))
                start = end + 2
            else:
                lines.append(line)
            at = start
        self._rest = buffer[at:]
        return messages, lines


class NatsClient(asyncio.Protocol):
    """A connection. `on_messages(messages)` gets what comes to its subscription; `on_lost(why)` its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inbox = f"_INBOX.{name}"
        self.transport: asyncio.Transport | None = None
        self.reader = Reader()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer: asyncio.Future[bytes] | None = None
        self.on_messages: Callable[[list[Message]], None] = ignore
        self.on_lost: OnLost = ignore

    @classmethod
    async def connect(cls, server: Nats, name: str) -> "NatsClient":
        """CONNECT, subscribe to its inbox, and wait for the PONG. Raises ConnectionError, TimeoutError."""
        at = urlsplit(server.url)
        assert at.hostname is not None
        assert at.port is not None
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: cls(name), at.hostname, at.port
        )
        options = {"verbose": False, "pedantic": False, "name": name, "auth_token": server.token(name)}
        client.write(b"CONNECT %b\r\nSUB %b.* 1\r\nPING\r\n" % (_encode(options), client.inbox.encode()))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await client.opened
        return client

    async def receive(self, server: Nats) -> None:
        """Get what is published to it. Raises ConnectionError where the server does not want it, TimeoutError."""
        stream, consumer = server.stream(self.name), server.consumer(self.name)
        await self._ask(f"$JS.API.STREAM.CREATE.{stream['name']}", stream)
        self.write(b"SUB %b 2\r\n" % consumer["deliver_subject"].encode())
        await self._ask(
            f"$JS.API.CONSUMER.DURABLE.CREATE.{stream['name']}.{consumer['durable_name']}",
            {"stream_name": stream["name"], "config": consumer},
        )

    async def _ask(self, subject: str, request: dict[str, Any]) -> None:
        self.answer = asyncio.get_running_loop().create_future()
        body = _encode(request)
        self.write(b"PUB %b %b.0 %d\r\n%b\r\n" % (subject.encode(), self.inbox.encode(), len(body), body))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            answer = msgspec.json.decode(await self.answer)
        self.answer = None
        if "error" in answer:
            raise ConnectionError(f"{self.name}: {answer['error']} to {subject}")

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def abort(self) -> None:
        self.on_lost = ignore
        assert self.transport is not None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.answer):
            if future is not None and not future.done():
                future.set_exception(ConnectionError(f"{self.name}: connection lost"))
        self.on_lost("connection lost")

    def data_received(self, data: bytes) -> None:
        messages, lines = self.reader.feed(data)
        for line in lines:
            self._line(line)
        if self.answer is not None and not self.answer.done() and messages:
            self.answer.set_result(messages[0][2])
        elif messages:
            self.on_messages(messages)

    def _line(self, line: bytes) -> None:
        if line == b"PING":
            self.write(b"PONG\r\n")
        elif line == b"PONG" and not self.opened.done():
            self.opened.set_result(None)
        elif line.startswith(b"-ERR"):
            self.on_lost(line.decode())


class NatsPipeline(Pipeline):
    """Publishes of one turn are one write; so are a client's acks."""

    server: Nats

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Progress, *, disturbed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(server, publishers, clients, messages, size, progress, disturbed=disturbed)
        self.clients: list[NatsClient] = []
        self.senders: list[NatsClient] = []
        self.subjects = [server.topic_to(name) for name in self.names]
        # of each publisher: how many it has written, and the numbers of those that wait for their PubAck
        self.written = [0] * publishers
        self.waiting: list[set[int]] = [set() for _ in range(publishers)]

    async def connect(self) -> None:
        await spread(len(self.names), self._client)
        for i, name in enumerate(self.publishers):
            sender = await NatsClient.connect(self.server, name)
            sender.on_messages = self._answers(sender, i)
            sender.on_lost = self.fault
            self.senders.append(sender)

    async def _client(self, index: int) -> None:
        client = await NatsClient.connect(self.server, self.names[index])
        self.clients.append(client)
        await client.receive(self.server)
        client.on_messages = self._receiver(client, index)
        client.on_lost = self.fault

    def close(self) -> None:
        for client in [*self.clients, *self.senders]:
            client.abort()

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        sender, subjects, first = self.senders[publisher], self.subjects, self.written[publisher]
        self.written[publisher] = first + len(batch)
        self.waiting[publisher].update(range(first, first + len(batch)))
        inbox = sender.inbox.encode()
        packets = []
        for n, (client, body) in enumerate(batch, first):
            payload = _encode(body)
            packets.append(b"PUB %b %b.%d %d\r\n%b\r\n" % (subjects[client], inbox, n, len(payload), payload))
        sender.write(b"".join(packets))

    def _answers(self, sender: NatsClient, publisher: int) -> Callable[[list[Message]], None]:
        skip = len(sender.inbox) + 1

        def on_messages(messages: list[Message]) -> None:
            waiting = self.waiting[publisher]
            for subject, _, payload in messages:
                number = int(subject[skip:])
                if number in waiting:
                    waiting.remove(number)
                else:
                    self.fault(f"a PubAck for {number}, which waits for none")
                if b'"error"' in payload:
                    self.fault(payload.decode())
            self.answered(publisher, len(messages))

        return on_messages

    def _receiver(self, client: NatsClient, index: int) -> Callable[[list[Message]], None]:
        def on_messages(messages: list[Message]) -> None:
            acks, marks, redelivered = [], [], 0
            for _, reply, payload in messages:
                acks.append(b"PUB %b 0\r\n\r\n" % reply)
                marks.append(_mark(payload))
                # $JS.ACK.<stream>.<consumer>.<deliveries>…
                redelivered += reply.split(b".", 5)[4] != b"1"
            client.write(b"".join(acks))
            self.received(index, marks, redelivered)

        return on_messages
