"""A session without sockets, and a gateway that says exactly what a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from gateway.client import Client
from gateway.client.frames import Codec
from gateway.client.message import Message
from gateway.client.outbox import Receipt
from gateway.client.session import Session
from gateway.client.state import Snapshot
from gateway.client.values import Options
from gateway.wire import PubEntry
from tests.client.mqtt_server import ScriptedServer, serving

Frame = dict[str, Any]


def welcome_frame(**fields: Any) -> Frame:
    return {
        "t": "welcome",
        "client": "alice",
        "epoch": "e1",
        "resume": "r1",
        "resumed": False,
        "why": "new",
        "next": 1,
        "window": 64,
        "heartbeat": 25,
        "max_payload": 65536,
    } | fields


def entry(seq: int, **fields: Any) -> Frame:
    return {"seq": seq, "id": f"M{seq}", "from": "bob", "at": 1, "body": seq} | fields


class Talk:
    """A session, the clock it is told, and its frames as dicts. With a `nonce` it is one over MQTT."""

    def __init__(
        self, snapshot: Snapshot | None = None, seed: int = 1, nonce: str = "", **options: Any
    ) -> None:
        self.nonce = nonce
        self.now = 100.0
        self.woken = 0
        self.answers: list[Any] = []
        self.snapshots: list[Snapshot] = []
        self.session = Session(
            Codec("json"),
            Options(**({"ack_delay": 0.0, "persist": True} | options)),
            rng=Random(seed),
            key_prefix="k",
            wake=self._wake,
            snapshot=snapshot,
        )
        self.inbox = self.session.inbox

    def _wake(self) -> None:
        self.woken += 1

    def connect(self, token: str = "jwt") -> Frame:
        """A transport opens; what `hello` says."""
        self.session.connected(token, self.now, self.nonce)
        (hello,) = self.out()
        return hello

    def open(self, **fields: Any) -> Frame:
        """Connect and be welcomed; what `hello` said."""
        hello = self.connect()
        self.welcome(**fields)
        return hello

    def welcome(self, **fields: Any) -> None:
        nonce = {"c": self.nonce} if self.nonce else {}
        self.feed(welcome_frame(**(nonce | fields)))

    def drop(self, code: int = 1006, reason: str = "") -> Any:
        return self.session.ended(code, reason, self.now)

    def resume(self, **fields: Any) -> Frame:
        return self.open(**({"resumed": True, "resume": "r2"} | fields))

    def feed(self, frame: Frame) -> None:
        self.session.receive(json.dumps(frame).encode(), self.now)

    def msg(self, *entries: int | Frame) -> None:
        self.feed({"t": "msg", "m": [entry(e) if isinstance(e, int) else e for e in entries]})

    def out(self, after: float = 0.0) -> list[Frame]:
        """What leaves `after` seconds from now."""
        self.now += after
        out = self.session.take(self.now)
        if out.snapshot is not None:
            self.snapshots.append(out.snapshot)
        return [json.loads(frame) for frame in out.frames]

    def hand_out(self) -> list[Message]:
        return list(iter(self.inbox.next, None))

    def publish(self, body: Any = None, **fields: Any) -> Any:
        return self.session.publish(PubEntry(**({"to": "bob"} | fields)), body, self.answers.append)

    @property
    def receipts(self) -> list[Receipt]:
        return [a for a in self.answers if isinstance(a, Receipt)]


class Peer:
    """One connection at the scripted gateway."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.binary = connection.subprotocol == "botgw.v1.msgpack"

    async def recv(self) -> Frame:
        async with asyncio.timeout(20):
            data = await self.connection.recv()
        frame: Frame = msgspec.msgpack.decode(data) if isinstance(data, bytes) else json.loads(data)
        return frame

    async def expect(self, t: str) -> Frame:
        frame = await self.recv()
        assert frame["t"] == t, frame
        return frame

    async def send(self, frame: Frame) -> None:
        await self.connection.send(msgspec.msgpack.encode(frame) if self.binary else json.dumps(frame))

    async def msg(self, *entries: int | Frame) -> None:
        await self.send({"t": "msg", "m": [entry(e) if isinstance(e, int) else e for e in entries]})

    async def greet(self, **fields: Any) -> Frame:
        """Take the hello and welcome it."""
        hello = await self.expect("hello")
        await self.send(welcome_frame(**fields))
        return hello

    async def close(self, code: int, reason: str = "") -> None:
        await self.connection.close(code, reason)

    def cut(self) -> None:
        """The TCP connection is gone without a word."""
        self.connection.transport.abort()

    async def closed(self) -> int | None:
        async with asyncio.timeout(20):
            await self.connection.wait_closed()
        return self.connection.close_code


class ScriptedGateway:
    """A WebSocket server whose connections the test takes one by one and plays by hand."""

    def __init__(self) -> None:
        self.url = ""
        self.refusals: list[Callable[[ServerConnection], Response]] = []
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def handle(self, connection: ServerConnection) -> None:
        peer = Peer(connection)
        self._peers.put_nowait(peer)
        await connection.wait_closed()

    def process_request(self, connection: ServerConnection, _: Request) -> Response | None:
        return self.refusals.pop(0)(connection) if self.refusals else None

    async def accept(self) -> Peer:
        async with asyncio.timeout(20):
            return await self._peers.get()

    def refuse(self, status: int, **headers: str) -> asyncio.Event:
        """Answer the next handshake with `status`; the event is set when it was."""
        refused = asyncio.Event()

        def answer(connection: ServerConnection) -> Response:
            refused.set()
            response = connection.respond(status, "no\n")
            for name, value in headers.items():
                response.headers[name.replace("_", "-")] = value
            return response

        self.refusals.append(answer)
        return refused

    @asynccontextmanager
    async def joined(self, token: Any = "jwt", **options: Any) -> AsyncIterator[tuple[Client, Peer]]:
        """A welcomed client and its first connection."""
        client = Client(self.url, token, **options)
        async with asyncio.TaskGroup() as group:
            entering = group.create_task(client.__aenter__())
            peer = await self.accept()
            await peer.greet()
        await entering
        try:
            yield client, peer
        finally:
            await client.close()

    @staticmethod
    async def take(client: Client, count: int) -> list[Message]:
        """The next messages that the application gets."""
        messages = client.messages()
        async with asyncio.timeout(20):
            return [await anext(messages) for _ in range(count)]


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    async with serve(
        gateway.handle,
        "127.0.0.1",
        0,
        subprotocols=["botgw.v1.json", "botgw.v1.msgpack"],  # type: ignore[list-item]
        process_request=gateway.process_request,
        compression=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        gateway.url = f"ws://127.0.0.1:{port}/ws"
        yield gateway


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted() as one:
        yield one


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedServer]:
    """An MQTT server that is played by hand. It takes no `bye`, unless the test does: clients are quick to leave."""
    monkeypatch.setattr("gateway.client.mqtt.CLOSE_TIMEOUT", 0.05)
    async with serving() as one:
        yield one


@pytest.fixture(scope="session")
def new_talk() -> type[Talk]:
    return Talk


@pytest.fixture
def talk() -> Talk:
    """A session that was just welcomed into its first epoch."""
    one = Talk()
    one.open()
    return one
