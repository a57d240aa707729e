"""The pipeline over MQTT at QoS 1, and its devices: the same for the gateway's endpoint and for any broker.

A device is one asyncio.Protocol over the codec, without tasks. What a call of `data_received` brings is answered with
one write. Sessions are persistent, so that a server has to keep what is not acknowledged.
"""

import asyncio
from collections.abc import Callable
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec

from bench.pipeline import Body, Mark, Pipeline
from bench.server import Server
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
_encode = msgspec.json.Encoder().encode


class Device(asyncio.Protocol):
    """A connection. `on_packets(packets)` gets what comes after the handshake; `on_lost(why)` its end."""

    def __init__(self, version: Version, name: str) -> None:
        self.version = version
        self.name = name
        self.transport: asyncio.Transport | None = None
        self.reader = Reader(version, server=False, max_packet=MAX_PACKET)
        self.answer: asyncio.Future[Packet] | None = None
        self.on_packets: Callable[[list[Packet]], None] = _nothing
        self.on_lost: Callable[[str], None] = _nothing

    @classmethod
    async def connect(cls, version: Version, server: Server, name: str) -> "Device":
        """CONNECT, and wait for the CONNACK. Raises ConnectionError, TimeoutError."""
        at = urlsplit(server.mqtt)
        assert at.hostname is not None
        assert at.port is not None
        _, device = await asyncio.get_running_loop().create_connection(
            lambda: cls(version, name), at.hostname, at.port
        )
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
        answer = await device._ask(hello)
        if not isinstance(answer, Connack) or answer.code:
            raise ConnectionError(f"{name}: {answer!r} to CONNECT")
        takes = (answer.props or {}).get(P.RECEIVE_MAXIMUM, PACKET_IDS)
        if takes < server.window:
            raise ConnectionError(f"{name}: the server takes {takes} unanswered publishes only")
        return device

    async def subscribe(self) -> None:
        """SUBSCRIBE to its own topic at QoS 1. Raises ConnectionError, TimeoutError."""
        answer = await self._ask(subscribe(self.version, 1, [(f"gw/v1/m/{self.name}", 1)]))
        if not isinstance(answer, Suback) or answer.codes != [1]:
            raise ConnectionError(f"{self.name}: {answer!r} to SUBSCRIBE")

    async def _ask(self, packet: bytes) -> Packet:
        self.answer = asyncio.get_running_loop().create_future()
        self.write(packet)
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await self.answer

    def write(self, packets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(packets)

    def abort(self) -> None:
        self.on_lost = _nothing
        assert self.transport is not None
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
        else:
            self.on_packets(packets)


def _nothing(_: object) -> None:
    """Before the run, after it, and for idle devices."""


class MqttPipeline(Pipeline):
    """Publishes of one turn are one write; so are a client's PUBACKs."""

    version: Version = 4

    async def connect(self) -> None:
        self.clients: list[Device] = []
        for i, name in enumerate(self.names):
            device = await Device.connect(self.version, self.server, name)
            device.on_packets = self._receiver(device, i)
            device.on_lost = self.fault
            self.clients.append(device)
            await device.subscribe()
        self.senders: list[Device] = []
        for i, name in enumerate(self.publishers):
            device = await Device.connect(self.version, self.server, name)
            device.on_packets = self._answers(i)
            device.on_lost = self.fault
            self.senders.append(device)
        self.topics = [self.server.topic_to(name) for name in self.names]
        # the publish of each publisher that was last written, and last answered: its packet id follows from it
        self.written = [0] * len(self.senders)
        self.settled = [0] * len(self.senders)

    def close(self) -> None:
        for device in [*self.clients, *self.senders]:
            device.abort()

    def send(self, publisher: int, batch: list[tuple[int, Body]]) -> None:
        version, topics, first = self.version, self.topics, self.written[publisher]
        self.written[publisher] = first + len(batch)
        packets = [
            publish(version, topics[client], _encode(body), qos=1, pid=n % PACKET_IDS + 1)
            for n, (client, body) in enumerate(batch, first)
        ]
        self.senders[publisher].write(b"".join(packets))

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

    def _receiver(self, device: Device, index: int) -> Callable[[list[Packet]], None]:
        version = self.version

        def on_packets(packets: list[Packet]) -> None:
            acks, marks, redelivered = [], [], 0
            for packet in packets:
                if type(packet) is not Publish:
                    self.fault(type(packet).__name__)
                    continue
                acks.append(puback(version, packet.pid))
                marks.append(_mark(packet.payload))
                redelivered += packet.dup
            device.write(b"".join(acks))
            self.received(index, marks, redelivered)

        return on_packets


class Mqtt5Pipeline(MqttPipeline):
    """The same with MQTT 5."""

    version: Version = 5


async def connect_idle(version: Version, server: Server, name: str) -> asyncio.BaseTransport:
    """A subscribed device that does nothing."""
    device = await Device.connect(version, server, name)
    await device.subscribe()
    assert device.transport is not None
    return device.transport
