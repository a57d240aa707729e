"""The endpoint on a free port of this machine, with the real hub on the memory store and a clock that the test moves;
and its devices: real sockets, with the codec as their client.
"""

import asyncio
import heapq
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from gateway.auth import Principal
from gateway.commit import Commit
from gateway.config import Auth, Config, Limits, Mqtt, Session
from gateway.hub import Hub
from gateway.ids import encode_id
from gateway.model import Publish as Message
from gateway.ports import Outcome
from gateway.stores import MemoryStore
from gateway.transports.mqtt import MqttServer, codec
from gateway.transports.mqtt.codec import Connack, Disconnect, P, Props, Publish, Reader, Suback, Will
from tests.transports.double import Tokens

START = 1_800_000_000_000
BACKEND = Principal(kind="key", name="backend", scopes=frozenset({"publish", "read", "admin"}))
LONG = 10  # s that a test waits for what must come

CONFIG = Config(
    mqtt=Mqtt(
        listen="127.0.0.1:0",
        max_connections=50,
        receive_maximum=16,
        max_packet_bytes=16384,
        topic_alias_maximum=4,
        max_subscriptions=3,
        buffer_limit=65536,
    ),
    session=Session(ack_wait=10.0, window=8, expiry=3600.0),
    limits=Limits(max_payload=4096),
    auth=Auth(),
)

T = TypeVar("T")


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Clock:
    """ports.Scheduler: turns are the loop's, time is the test's."""

    def __init__(self) -> None:
        self.ms = START
        self._heap: list[tuple[int, int, Timer]] = []
        self._count = itertools.count()

    def now(self) -> int:
        return self.ms

    def wall(self) -> float:
        return self.ms / 1000

    def soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def at(self, when: int, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._heap, (when, next(self._count), timer))
        return timer

    def fire(self) -> None:
        while self._heap and self._heap[0][0] <= self.ms:
            _, _, timer = heapq.heappop(self._heap)
            if timer.call is not None:
                timer.call()


class Store(MemoryStore):
    """Commits complete with a later turn of the loop, unless the test holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.lookups: list[list[str]] = []

    def submit(self, commit: Commit, done: Callable[[Commit, Exception | None], None]) -> None:
        super().submit(commit, done)
        asyncio.get_running_loop().call_soon(self.go)

    def go(self) -> None:
        while not self.held and self.step():
            pass

    def let_go(self) -> None:
        self.held = False
        self.go()

    async def uplinks(
        self, clients: list[str], *args: Any, **kwargs: Any
    ) -> dict[str, dict[int, tuple[int, bytes]]]:
        self.lookups.append(list(clients))
        return await super().uplinks(clients, *args, **kwargs)


class Outbound:
    def room(self, channel: str) -> int:
        return 0

    def shut(self, channel: str) -> int:
        return 0

    def admit(self, channel: str, address: str) -> int:
        return 0

    def send(self, channel: str, item: Any, attempt: int, done: Callable[[Outcome], None]) -> None: ...


class Watch:
    def committed(self, commit: Any, seconds: float) -> None: ...
    def acked(self, elapsed: list[int]) -> None: ...
    def attempt(self, channel: str, kind: str) -> None: ...
    def receipt(self, channel: str, what: str) -> None: ...
    def learnt(self, channel: str, what: str) -> None: ...
    def on_their_way(self, items: list[Any], status: int, at: int, via: str) -> None: ...
    def status(self, item: Any, status: int, at: int, via: str, why: str) -> None: ...


class DeviceTokens(Tokens):
    """Those of the WebSocket tests; `carol` may publish to bob only."""

    def try_token(self, token: str) -> Principal | None:
        principal = super().try_token(token)
        if principal is not None and principal.name == "carol":
            return msgspec.structs.replace(principal, pub=("bob",))
        return principal


class Answer:
    """A gateway.commit.Sink for one publish."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        self.done.set_result(id)

    def refused(self, ref: Any, error: Exception) -> None:
        self.done.set_exception(error)


class Endpoint:
    """A gateway as far as MQTT devices see it."""

    def __init__(self, config: Config) -> None:
        self.clock = Clock()
        self.store = Store()
        self.tokens = DeviceTokens()
        names = itertools.count()
        self.hub = Hub(
            config,
            self.store,
            self.clock,
            Outbound(),
            Watch(),
            random.Random(1),
            lambda: f"{next(names):08d}token",
        )
        # time stands still: settles are committed at once
        self.hub.core.lazy = 0
        self.server: MqttServer
        self.devices: list[Device] = []

    async def turn(self, times: int = 8) -> None:
        """Let what is ready in the loop be done."""
        for _ in range(times):
            await asyncio.sleep(0)

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until the loop's work makes it true."""
        async with asyncio.timeout(LONG):
            while not true():  # noqa: ASYNC110 - anything may make it true
                await asyncio.sleep(0.002)

    async def advance(self, seconds: float, every: float = 1.0) -> None:
        """Time passes; the loop has its turns between the steps."""
        end = self.clock.ms + round(seconds * 1000)
        while self.clock.ms < end:
            self.clock.ms = min(end, self.clock.ms + round(every * 1000))
            self.clock.fire()
            self.server.turn()
            await self.turn()

    async def publish(self, to: str, body: Any = None, **fields: Any) -> int:
        """A message of the backend; its id, when it is durable."""
        sink = self.post(to, body, **fields)
        async with asyncio.timeout(LONG):
            return await sink.done

    def post(self, to: str, body: Any = None, **fields: Any) -> Answer:
        """A message of the backend on its way."""
        sink = Answer()
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.hub.publish(BACKEND, Message(to=to, body=Raw(raw), **fields), sink, 0)
        return sink

    async def view(self, id: int) -> Any:
        found = await self.store.message(id)
        assert found is not None
        return found

    async def events(self, id: int) -> list[str]:
        return [event.kind for event in (await self.view(id)).events]

    async def to(self, client: str) -> list[Any]:
        """The bodies of what is stored for a client, oldest first."""
        views = await self.store.messages(client, None, None, 1 << 62, 1000)
        whole = [await self.view(view.item.id) for view in reversed(views)]
        return [msgspec.json.decode(v.item.body) for v in whole]

    def figure(self, name: str, of: str) -> int:
        counts = self.server.figures()[name]
        assert isinstance(counts, dict)
        return counts.get(of, 0)

    def device(self, client: str = "alice", version: int = 5) -> "Device":
        device = Device(self, client, version)
        self.devices.append(device)
        return device

    async def connect(self, client: str = "alice", version: int = 5, **options: Any) -> "Device":
        """A device that is accepted."""
        device = self.device(client, version)
        connack = await device.connect(**options)
        assert connack.code == 0
        return device

    async def subscribed(
        self, client: str = "alice", version: int = 5, qos: int = 1, **options: Any
    ) -> "Device":
        """A plain device with its subscription."""
        device = await self.connect(client, version, **options)
        assert await device.subscribe(qos=qos) == [min(qos, 1)]
        return device


class Device:
    """One device: its socket, its reader."""

    def __init__(self, endpoint: Endpoint, client: str, version: int) -> None:
        self.endpoint = endpoint
        self.client = client
        self.version = version
        self.read = Reader(version, server=False, max_packet=1 << 24)
        self.packets: list[Any] = []
        self.connack: Connack | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._pid = 0

    # -- bytes -----------------------------------------------------------------------------------------------------

    async def open(self, **options: Any) -> "Device":
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self.endpoint.server.port, **options
        )
        return self

    async def open_narrow(self) -> "Device":
        """The same with small buffers on the device's side: what it does not read is the gateway's to keep."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.endpoint.server.port))
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=1024)
        return self

    @property
    def writer(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    def write(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    def cut(self) -> None:
        """The device is gone without a word."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def packet(self) -> Any:
        """The next packet; None at the end of the stream."""
        async with asyncio.timeout(LONG):
            while not self.packets:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    return None
                self.packets += self.read.feed(data)
                assert self.read.error is None, self.read.error
        return self.packets.pop(0)

    async def next(self, kind: type[T]) -> T:
        """The next packet, which is of this type."""
        packet = await self.packet()
        assert type(packet) is kind, packet
        return packet

    async def nothing(self) -> None:
        """Nothing came before the answer to a ping that is sent now."""
        self.write(codec.pingreq())
        assert type(await self.packet()) is codec.Pong

    async def end(self) -> int | None:
        """The code of the DISCONNECT with which the stream ends, None without one; then the socket is closed."""
        packet = await self.packet()
        if packet is not None:
            assert type(packet) is Disconnect, packet
            assert await self.packet() is None
        self.cut()
        return None if packet is None else int(packet.code)

    async def why(self) -> tuple[int, str]:
        """Code and reason string of the DISCONNECT with which the stream ends."""
        packet = await self.next(Disconnect)
        assert await self.packet() is None
        self.cut()
        return int(packet.code), (packet.props or {}).get(P.REASON, "")

    # -- conversations ---------------------------------------------------------------------------------------------

    def hello(
        self,
        *,
        token: str | None = None,
        username: str | None = None,
        clean: bool = True,
        keep_alive: int = 60,
        will: Will | None = None,
        props: Props | None = None,
    ) -> bytes:
        """Its CONNECT."""
        return codec.connect(
            self.version,
            self.client,
            clean=clean,
            keep_alive=keep_alive,
            username=self.client if username is None else username,
            password=(self.client if token is None else token).encode(),
            will=will,
            props=props,
        )

    async def connect(self, *behind: bytes, **options: Any) -> Connack:
        """CONNECT, and what is sent right behind it."""
        await self.open()
        self.write(self.hello(**options), *behind)
        self.connack = await self.next(Connack)
        return self.connack

    async def subscribe(self, *filters: str, qos: int = 1, props: Props | None = None) -> list[int]:
        """SUBSCRIBE, to its inbox unless something else is named; the codes of the SUBACK."""
        self._pid += 1
        names = filters or (f"gw/v1/m/{self.client}",)
        self.write(codec.subscribe(self.version, self._pid, [(name, qos) for name in names], props))
        suback = await self.next(Suback)
        assert suback.pid == self._pid
        return [int(code) for code in suback.codes]

    async def unsubscribe(self, *filters: str) -> list[int]:
        self._pid += 1
        self.write(codec.unsubscribe(self.version, self._pid, filters or (f"gw/v1/m/{self.client}",)))
        unsuback = await self.next(codec.Unsuback)
        assert unsuback.pid == self._pid
        return [int(code) for code in unsuback.codes]

    def send(
        self,
        to: str = "bob",
        body: bytes = b"1",
        *,
        qos: int = 1,
        pid: int = 1,
        topic: str | None = None,
        dup: bool = False,
        retain: bool = False,
        props: Props | None = None,
    ) -> None:
        """PUBLISH."""
        name = f"gw/v1/to/{to}" if topic is None else topic
        self.write(
            codec.publish(
                self.version,
                name.encode(),
                body,
                qos=qos,
                dup=dup,
                retain=retain,
                pid=pid if qos else 0,
                props=props,
            )
        )

    async def messages(self, count: int) -> list[Publish]:
        return [await self.next(Publish) for _ in range(count)]

    def ack(self, *pids: int) -> None:
        self.write(*(codec.puback(self.version, pid) for pid in pids))

    async def leave(self, code: int = 0, props: Props | None = None) -> None:
        """DISCONNECT, and the end of the stream."""
        self.write(codec.disconnect(self.version, code, props))
        assert await self.packet() is None
        self.cut()


def user(packet: Any) -> dict[str, str]:
    """The user properties of a PUBLISH."""
    return dict(packet.props[P.USER])


def id_of(packet: Any) -> str:
    return user(packet)["id"]


def text_of(id: int) -> str:
    return encode_id(id)


@asynccontextmanager
async def endpoint(config: Config = CONFIG, **mqtt: Any) -> AsyncIterator[Endpoint]:
    """A running endpoint; `mqtt` changes its table. At the end it is stopped, and nothing is left of it."""
    changed = replace(config, mqtt=replace(config.mqtt, **mqtt))
    found = Endpoint(changed)
    found.hub.start()
    found.server = await MqttServer.start(found.hub, found.tokens, changed)
    try:
        yield found
    finally:
        for device in found.devices:
            device.cut()
        found.store.let_go()
        with suppress(TimeoutError):
            await found.server.stop()
        await found.turn()
        found.hub.stop()
        found.store.close()
    assert found.server.figures()["sockets"] == 0
    assert not found.hub.core.conns
