"""A real Mosquitto on a free port of this machine, the gateway behind it, and devices that know nothing but MQTT.

The gateway is the real hub on the memory store; network and turns are the loop's, the clock is moved by the test.
"""

import asyncio
import itertools
import random
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from gateway.commit import Commit
from gateway.config import Broker as BrokerConfig
from gateway.config import Config, Limits, Session
from gateway.errors import StoreFailed
from gateway.hub import Hub
from gateway.model import Publish as Message
from gateway.topics import part_of
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.broker import BrokerLinks
from gateway.transports.mqtt.codec import Connack, P, Props, Publish, Reader, Suback, Will
from tests.transports.mqtt.endpoint import BACKEND, LONG, Answer, Clock, Outbound, Store, Watch

# ms between two connections of a link: `until` looks ten times meanwhile
PAUSE = 20


def mosquitto() -> str:
    path = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert path is not None, "install Debian's mosquitto"
    return path


class Broker:
    """Mosquitto on one port, however often it is started; its sessions are in `folder`, `lines` go into its file."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._conf = folder / "mosquitto.conf"
        settings = (
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            # as root it would change its user, who cannot write here
            "user root",
            "persistence true",
            f"persistence_location {folder}/",
            "max_inflight_messages 100",
            "log_dest stderr",
            "log_type notice",
            "log_type information",
            *lines,
        )
        self._conf.write_text("\n".join(settings) + "\n")
        self.sockets: list[asyncio.StreamWriter] = []  # of devices
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        """Returns when it listens."""
        process = self._process = await asyncio.create_subprocess_exec(
            mosquitto(), "-c", str(self._conf), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )  # fmt: skip
        assert process.stderr is not None
        said = []
        async with asyncio.timeout(LONG):
            async for line in process.stderr:
                said.append(line)
                if line.endswith(b" running\n"):
                    break
            else:
                raise AssertionError(b"".join(said).decode())
        self._drain = asyncio.create_task(process.stderr.read())

    async def end(self, by: signal.Signals) -> None:
        if self._process is None or self._drain is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(by)
        await self._process.wait()
        await self._drain
        self._process = None

    async def kill(self) -> None:
        """SIGKILL: what it has not written to disk is lost."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM: it writes its sessions to disk."""
        await self.end(signal.SIGTERM)


@asynccontextmanager
async def mosquitto_in(folder: Path, *lines: str) -> AsyncIterator[Broker]:
    broker = Broker(folder, *lines)
    await broker.start()
    try:
        yield broker
    finally:
        for writer in broker.sockets:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        await broker.kill()


class Gateway:
    """The gateway as far as its broker sees it. `crash` and `start` again: the same store, nothing else is left."""

    def __init__(self, broker: Broker, config: Config | None = None, **settings: Any) -> None:
        base = config or Config(session=Session(ack_wait=10.0, window=8), limits=Limits(max_payload=4096))
        settings = {"url": broker.url, "links": 1, "keep_alive": 2, **settings}
        self.config = replace(base, mqtt=replace(base.mqtt, broker=BrokerConfig(**settings)))
        self.broker = broker
        self.clock = Clock()
        self.store = Store()
        self._names = itertools.count()
        self.hub: Hub
        self.links: BrokerLinks

    def make_hub(self) -> Hub:
        hub = Hub(
            self.config, self.store, self.clock, Outbound(), Watch(), random.Random(1),
            lambda: f"{next(self._names):08d}token",
        )  # fmt: skip
        # time stands still: settles are committed at once
        hub.core.lazy = 0
        hub.start()
        return hub

    async def start(self) -> "Gateway":
        """Returns when all links are up."""
        self.hub = self.make_hub()
        self.links = await BrokerLinks.start(self.hub, self.config)
        await self.up()
        return self

    async def up(self) -> None:
        await self.until(lambda: not self.links.ready)

    async def down(self) -> None:
        await self.until(lambda: self.links.ready)

    async def stop(self) -> None:
        await self.links.stop()

    async def crash(self, reached: Callable[[Commit], bool] = lambda _: False) -> None:
        """What a SIGKILL leaves: a closed socket, and what of the commits under way had `reached` the disk."""
        self.store.held = False
        self.store.crash(reached)
        for task in self.links._tasks:
            task.cancel()
        await asyncio.gather(*self.links._tasks, return_exceptions=True)
        assert self.links._timer is not None
        self.links._timer.cancel()

    @property
    def every(self) -> list[Any]:
        """Its links."""
        return self.links._links

    @property
    def link(self) -> Any:
        (link,) = self.every
        return link

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until the loop's work makes it true."""
        async with asyncio.timeout(LONG):
            while not true():  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.002)

    async def settled(self) -> None:
        """Until nothing is being committed."""
        core = self.hub.core
        await self.until(lambda: not (core.busy or core.commit or self.store.pending))

    async def advance(self, seconds: float, every: float = 1.0) -> None:
        """Time passes; the loop has its turns between the steps."""
        end = self.clock.ms + round(seconds * 1000)
        while self.clock.ms < end:
            self.clock.ms = min(end, self.clock.ms + round(every * 1000))
            self.clock.fire()
            self.links.turn()
            for _ in range(8):
                await asyncio.sleep(0)

    def fail_commits(self, *, durable: bool = False, definite: bool = True) -> None:
        """From now on commits fail, until `heal`. `durable`: they had reached the disk all the same."""
        self.store.durable = lambda commit: durable
        self.store.fail = lambda commit: StoreFailed("broken", definite=definite)

    def heal(self) -> None:
        """The store can commit again, and is opened anew."""
        self.store.fail = lambda commit: None

    async def reopened(self) -> None:
        """Time passes until the hub has opened it."""
        await self.until(lambda: self.hub.ready)
        await self.advance(1.0)
        await self.until(lambda: not self.hub.ready)

    async def publish(self, to: str, body: Any = None, **fields: Any) -> int:
        """A message of the backend; its id, when it is durable."""
        sink = Answer()
        raw = msgspec.json.encode(body)
        self.hub.publish(BACKEND, Message(to=to, body=Raw(raw), **fields), sink, 0)
        async with asyncio.timeout(LONG):
            return await sink.done

    async def view(self, id: int) -> Any:
        found = await self.store.message(id)
        assert found is not None
        return found

    async def to(self, client: str, status: int | None = None) -> list[Any]:
        """What is stored for a client, oldest first: items, dead letters only where `status` says so."""
        statuses = None if status is None else (status,)
        views = await self.store.messages(client, None, statuses, 1 << 62, 10_000)
        return [(await self.view(view.item.id)).item for view in reversed(views)]

    async def bodies(self, client: str) -> list[Any]:
        return [msgspec.json.decode(item.body) for item in await self.to(client)]

    def figure(self, name: str, of: str | None = None) -> Any:
        found = self.links.figures()[name]
        if of is None:
            return found
        assert isinstance(found, dict)
        return found.get(of, 0)


@asynccontextmanager
async def gateway_behind(
    broker: Broker, config: Config | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    gateway = Gateway(broker, config, **settings)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


class Device:
    """A device and its socket to the broker, which knows it as `name`: its client id, unless that is another's."""

    def __init__(self, broker: Broker, client: str, version: int = 5, name: str = "") -> None:
        self.broker = broker
        self.client = client
        self.name = name or client
        self.version = version
        self.up = f"gw/v1/u/{part_of(client)}/{client}"
        self.packets: list[Any] = []
        self.session_present = False
        self._read = Reader(version, server=False, max_packet=1 << 24)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._pid = 0

    async def connect(
        self, *, clean: bool = True, will: Will | None = None, tls: ssl.SSLContext | None = None
    ) -> "Device":
        self._reader, self._writer = await asyncio.open_connection("localhost", self.broker.port, ssl=tls)
        self.broker.sockets.append(self._writer)
        self.write(codec.connect(self.version, self.name, clean=clean, keep_alive=60, will=will))
        connack = await self._next(Connack)
        assert connack.code == 0
        self.session_present = connack.session_present
        return self

    async def subscribe(self, topic: str, qos: int) -> None:
        self._pid += 1
        self.write(codec.subscribe(self.version, self._pid, [(topic, qos)]))
        assert [int(code) for code in (await self._next(Suback)).codes] == [qos]

    def write(self, *packets: bytes) -> None:
        self._writer.write(b"".join(packets))

    async def leave(self) -> None:
        """DISCONNECT."""
        self.write(codec.disconnect(self.version))
        while await self.packet() is not None:
            pass

    def cut(self) -> None:
        """Gone without a word."""
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
                self.packets += self._read.feed(data)
                assert self._read.error is None, self._read.error
        return self.packets.pop(0)

    async def _next(self, kind: Any) -> Any:
        packet = await self.packet()
        assert type(packet) is kind, packet
        return packet

    # -- plain -----------------------------------------------------------------------------------------------------

    async def publish(
        self,
        to: str,
        *bodies: bytes,
        qos: int = 1,
        retain: bool = False,
        props: Props | None = None,
        topic: str = "",
    ) -> None:
        """Plain publishes, each of which the broker has when this returns."""
        name = (topic or f"{self.up}/to/{to}").encode()
        for body in bodies:
            self._pid += 1
            self.write(
                codec.publish(
                    self.version, name, body, qos=qos, pid=self._pid if qos else 0, props=props, retain=retain
                )
            )
            if qos:
                puback = await self.packet()
                # 5 says where nobody has subscribed
                pid = puback if isinstance(puback, int) else puback.pid
                assert pid == self._pid

    async def message(self) -> Publish:
        """A message to its inbox, which it acknowledges to the broker."""
        packet: Publish = await self._next(Publish)
        if packet.qos:
            self.write(codec.puback(self.version, packet.pid))
        return packet

    async def inbox(self, qos: int = 1) -> "Device":
        await self.subscribe(f"gw/v1/m/{self.client}", qos)
        return self

    def user(self, packet: Publish) -> dict[str, str]:
        return dict((packet.props or {}).get(P.USER, ()))


class Framed(Device):
    """One that speaks frames, at QoS 1, under the nonce `c`. What it is sent is read by `hear`."""

    c = "n1"

    async def open(self, c: str = "n1", *, will: bool = True) -> "Framed":
        """Connected and subscribed; it has said nothing yet."""
        self.c = c
        bye = msgspec.json.encode({"t": "bye", "c": c})
        await self.connect(will=Will(self.up.encode(), bye, 1) if will else None)
        await self.subscribe(f"gw/v1/d/{self.client}", 0)
        return self

    def say(self, *frames: Any, qos: int = 1) -> None:
        """Frames, one PUBLISH each; its nonce is put into each that has none."""
        for frame in frames:
            self._pid = self._pid % 65535 + 1
            payload = frame if isinstance(frame, bytes) else msgspec.json.encode({"c": self.c, **frame})
            pid = self._pid if qos else 0
            self.write(codec.publish(self.version, self.up.encode(), payload, qos=qos, pid=pid))

    async def hear(self, t: str) -> Any:
        """The next frame of the gateway, which is of this kind."""
        while True:
            packet = await self.packet()
            assert packet is not None, "the broker hung up"
            if isinstance(packet, Publish):
                frame = msgspec.json.decode(packet.payload)
                assert frame["t"] == t, frame
                return frame

    async def hello(self, **fields: Any) -> Any:
        self.say({"t": "hello", **fields})
        return await self.hear("welcome")

    async def joined(self, c: str = "n1", **hello: Any) -> "Framed":
        await self.open(c)
        await self.hello(**hello)
        return self

    async def pub(self, *messages: Any) -> Any:
        """Publish in one frame; the answers."""
        self.say({"t": "pub", "m": list(messages)})
        return (await self.hear("ok"))["m"]

    async def nothing(self) -> None:
        """Nothing came before the answer to a ping that is sent now."""
        self.say({"t": "ping"})
        await self.hear("pong")
