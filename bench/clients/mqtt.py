"""The pipeline over MQTT at QoS 1, and its devices: the same for the gateway's endpoint and for any broker; and framed
devices, which speak the gateway's frames through a broker.

A device is one asyncio.Protocol over the codec, without tasks. What a call of `data_received` brings is answered with
one write. Sessions are persistent, so that a server has to keep what is not acknowledged.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import msgspec

from bench.clients.ws import OnFrame, OnLost, Place, Talker, WebSocketPipeline, ignore, stall, write
from bench.pipeline import Body, Mark, Pipeline, Progress, spread
from bench.server import Server
from gateway.topics import TopicNames
from gateway.transports.mqtt.codec import (
    Ack,
    Connack,
    P,
    Packet,
    Props,
    Publish,
    Reader,
    Suback,
    connect,
    puback,
    publish,
    subscribe,
)

Version = Literal[4, 5]

ANSWER_TIMEOUT = 30.0
KEEP_ALIVE = 300
SESSION_EXPIRY = 3600
MAX_PACKET = 1 << 20
PACKET_IDS = 65535

_mark = msgspec.json.Decoder(Mark).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_topics = TopicNames()


class Device(asyncio.Protocol):
    """A connection. `on_packets(packets)` gets what comes after the handshake; `on_lost(why)` its end."""

    def __init__(self, version: Version, name: str) -> None:
        self.version = version
        self.name = name
        self.transport: asyncio.Transport | None = None
        self.reader = Reader(version, server=False, max_packet=MAX_PACKET)
        self.answer: asyncio.Future[Packet] | None = None
        self.on_packets: Callable[[list[Packet]], None] = ignore
        self.on_lost: OnLost = ignore
        # the server had the session of an earlier connection
        self.present = False

    async def connect(self, server: Server) -> None:
        """CONNECT, and wait for the CONNACK. Raises OSError, TimeoutError."""
        at = urlsplit(server.mqtt)
        port = at.port or (8883 if at.scheme == "mqtts" else 1883)
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await asyncio.get_running_loop().create_connection(
                lambda: self, at.hostname or "", port, ssl=server.tls(at.scheme)
            )
        try:
            await self._hello(server)
        except BaseException:
            self.abort()
            raise

    async def _hello(self, server: Server) -> None:
        version, name = self.version, self.name
        props: Props = {P.SESSION_EXPIRY: SESSION_EXPIRY, P.RECEIVE_MAXIMUM: server.window}
        hello = connect(
            version,
            name,
            clean=False,
            keep_alive=KEEP_ALIVE,
            username=name,
            password=server.token(name).encode(),
            props=props,
        )
        answer = await self._ask(hello)
        if not isinstance(answer, Connack) or answer.code:
            raise ConnectionError(f"{name}: {answer!r} to CONNECT")
        takes = (answer.props or {}).get(P.RECEIVE_MAXIMUM, PACKET_IDS)
        if takes < server.window:
            raise ConnectionError(f"{name}: the server takes {takes} unanswered publishes only")
        self.present = answer.session_present

    async def subscribe(self, topic: str = "", qos: int = 1) -> None:
        """SUBSCRIBE to its own topic, or another one. Raises ConnectionError, TimeoutError."""
        topic = topic or _topics.plain(self.name).subscribe
        answer = await self._ask(subscribe(self.version, 1, [(topic, qos)]))
        if not isinstance(answer, Suback) or answer.codes != [qos]:
            raise ConnectionError(f"{self.name}: {answer!r} to SUBSCRIBE")

    async def _ask(self, packet: bytes) -> Packet:
        self.answer = asyncio.get_running_loop().create_future()
        self.write(packet)
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await self.answer

    def write(self, packets: bytes) -> None:
        write(self.transport, packets)

    def stall(self) -> None:
        """Read nothing any more, and let the kernel take little instead."""
        stall(self.transport)

    def abort(self) -> None:
        self.on_lost = ignore
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"{self.name}: connection lost"))
        self.on_lost("connection lost")

    def data_received(self, data: bytes) -> None:
        packets = self.reader.feed(data)
        if self.reader.error is not None:
            self.on_lost(f"malformed: {self.reader.error.detail}")
            self.abort()
        elif self.answer is not None and not self.answer.done() and packets:
            self.answer.set_result(packets[0])
            # a server may send what the session has before anything else is asked
            if len(packets) > 1:
                self.on_packets(packets[1:])
        else:
            self.on_packets(packets)


class MqttPipeline(Pipeline):
    """Publishes of one turn are one write; so are a client's PUBACKs."""

    version: Version = 4

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, size: int,
        progress: Progress, *, disturbed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(server, publishers, clients, messages, size, progress, disturbed=disturbed)
        self.clients: list[Device | None] = [None] * clients
        self.senders: list[Device | None] = [None] * publishers
        self.topics = [server.topic_to(name) for name in self.names]
        # the publish of each publisher that was last written, and last answered: its packet id follows from it
        self.written = [0] * publishers
        self.settled = [0] * publishers

    async def connect(self) -> None:
        await spread(len(self.names), self.join)
        await spread(len(self.publishers), self._publisher)

    async def join(self, client: int) -> None:
        device = Device(self.version, self.names[client])
        # what the session has may come with the CONNACK
        device.on_packets = self._receiver(device, client)
        device.on_lost = self._lost
        await device.connect(self.server)
        self.clients[client] = device
        if not device.present:
            await device.subscribe()

    async def _publisher(self, publisher: int) -> None:
        device = Device(self.version, self.publishers[publisher])
        await device.connect(self.server)
        device.on_packets = self._answers(publisher)
        device.on_lost = self.fault
        self.senders[publisher] = device

    def cut(self, client: int) -> None:
        device, self.clients[client] = self.clients[client], None
        if device is not None:
            device.abort()

    def stall(self, client: int) -> None:
        """The client does not read any more."""
        device = self.clients[client]
        assert device is not None
        device.stall()

    def close(self) -> None:
        for device in [*self.clients, *self.senders]:
            if device is not None:
                device.abort()

    def _lost(self, why: str) -> None:
        if not self.ledger.disturbed:
            self.fault(why)

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        version, topics, first = self.version, self.topics, self.written[publisher]
        self.written[publisher] = first + len(batch)
        packets = [
            publish(version, topics[client], _encode(body), qos=1, pid=n % PACKET_IDS + 1)
            for n, (client, body) in enumerate(batch, first)
        ]
        device = self.senders[publisher]
        assert device is not None
        device.write(b"".join(packets))

    def _answers(self, publisher: int) -> Callable[[list[Packet]], None]:
        def on_packets(packets: list[Packet]) -> None:
            settled = self.settled[publisher]
            for packet in packets:
                if isinstance(packet, Ack):
                    self.fault(f"{packet.kind.name} {packet.code:#04x}")
                elif packet != settled % PACKET_IDS + 1:
                    self.fault("PUBACK out of order" if isinstance(packet, int) else type(packet).__name__)
                settled += 1
            self.settled[publisher] = settled
            self.answered(publisher, len(packets))

        return on_packets

    def _receiver(self, device: Device, client: int) -> Callable[[list[Packet]], None]:
        version = self.version

        def on_packets(packets: list[Packet]) -> None:
            acks: list[bytes] = []
            fresh: list[Mark] = []
            again: list[Mark] = []
            for packet in packets:
                if type(packet) is not Publish:
                    self._lost(type(packet).__name__)
                    continue
                acks.append(puback(version, packet.pid))
                (again if packet.dup else fresh).append(_mark(packet.payload))
            device.write(b"".join(acks))
            # what the session had in flight comes first after a connect, then what is new
            if again:
                self.received(client, again, len(again))
            if fresh:
                self.received(client, fresh, 0)

        return on_packets


class Mqtt5Pipeline(MqttPipeline):
    """The same with MQTT 5."""

    version: Version = 5


class FramedDevice:
    """A device that speaks frames through a broker, at QoS 1 up and 0 down; each frame carries its nonce."""

    def __init__(self, device: Device, on_frame: OnFrame) -> None:
        self.name = device.name
        self.device = device
        self.on_frame = on_frame
        self.welcomed: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._nonce = secrets.token_hex(4)
        self._tail = b',"c":"%b"}' % self._nonce.encode()
        self._topic = _topics.frames_up(device.name)
        self._sent = 0

    @classmethod
    async def connect(
        cls, server: Server, name: str, on_frame: OnFrame, window: int, on_lost: OnLost, place: Place
    ) -> "FramedDevice":
        """Connect and subscribe at the broker, then say hello to the gateway. Raises OSError, TimeoutError."""
        device = Device(4, name)
        await device.connect(server)
        await device.subscribe(_topics.framed(name).subscribe, 0)
        device.on_lost = on_lost
        framed = cls(device, on_frame)
        device.on_packets = framed._packets
        framed.send({"t": "hello", "window": window} | place.hello())
        async with asyncio.timeout(ANSWER_TIMEOUT):
            place.welcomed(await framed.welcomed)
        return framed

    def stall(self) -> None:
        self.device.stall()

    def send(self, frame: dict[str, Any]) -> None:
        self.send_raw(_encode(frame))

    def send_raw(self, payload: bytes) -> None:
        pid = self._sent % PACKET_IDS + 1
        self._sent += 1
        self.device.write(publish(4, self._topic, payload[:-1] + self._tail, qos=1, pid=pid))

    def abort(self) -> None:
        self.device.abort()

    def _packets(self, packets: list[Packet]) -> None:
        for packet in packets:
            if type(packet) is not Publish:
                continue  # the broker has a frame: only `ok` says more
            frame = _decode(packet.payload)
            if self.welcomed.done():
                self.on_frame(self, frame)
            elif frame["t"] == "welcome":
                self.welcomed.set_result(frame)


class FramedPipeline(WebSocketPipeline):
    """The frames of the WebSocket through a broker."""

    async def talk(
        self, name: str, on_frame: OnFrame, window: int, on_lost: OnLost, place: Place | None
    ) -> Talker:
        return await FramedDevice.connect(self.server, name, on_frame, window, on_lost, place or Place())


async def connect_idle(version: Version, server: Server, name: str) -> Device:
    """A subscribed device that does nothing."""
    device = Device(version, name)
    await device.connect(server)
    await device.subscribe()
    return device
