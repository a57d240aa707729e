"""An MQTT device that does only what it is told: packets in, packets out, the TCP connection cut at will.

Its session outlives its connections (clean start false), unless the test says otherwise.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from gateway.topics import TopicNames
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Ack, Connack, Disconnect, P, Props, Publish, Reader, Suback, Will

PACKET_IDS = 65535
CHUNK = 65536
REFUSED = 0x80  # reason codes from here on
TOPICS = TopicNames()
T = TypeVar("T")


def packet_id(seq: int) -> int:
    """The packet id of a seq (PROTOCOL 4)."""
    return (seq - 1) % PACKET_IDS + 1


def user(packet: Publish) -> dict[str, str]:
    """The user properties of a PUBLISH; 3.1.1 has none."""
    return dict((packet.props or {}).get(P.USER, ()))


class RawDevice:
    """One connection of a device with MQTT 3.1.1 (`version` 4) or 5."""

    def __init__(self, client: str, version: int = 5) -> None:
        self.client = client
        self.version = version
        self.connack: Connack | None = None
        self.packets: list[Any] = []  # read, not taken
        self._feed = Reader(version, server=False, max_packet=1 << 24)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._pid = PACKET_IDS

    # -- bytes -----------------------------------------------------------------------------------------------------

    async def open(self, url: str) -> None:
        """`url` as mqtt://host:port. Raises OSError."""
        parts = urlsplit(url)
        self._reader, self._writer = await asyncio.open_connection(parts.hostname, parts.port, limit=CHUNK)

    @property
    def writer(self) -> asyncio.StreamWriter:
        assert self._writer is not None
        return self._writer

    def write(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    async def more(self) -> bool:
        """Read some packets into `packets`; False at the end of the stream."""
        try:
            data = await self._reader.read(CHUNK)
        except OSError:
            data = b""
        self.packets += self._feed.feed(data)
        assert self._feed.error is None, self._feed.error
        return bool(data)

    async def packet(self, timeout: float = 20.0) -> Any:
        """The next packet; None at the end of the stream."""
        async with asyncio.timeout(timeout):
            while not self.packets:
                if not await self.more():
                    return None
        return self.packets.pop(0)

    async def first(self, kind: type[T], timeout: float = 20.0) -> T | None:
        """The first packet of this type, None where the stream ends without; others stay where they are."""
        seen = 0
        async with asyncio.timeout(timeout):
            while True:
                for i in range(seen, len(self.packets)):
                    if type(self.packets[i]) is kind:
                        found: T = self.packets.pop(i)
                        return found
                seen = len(self.packets)
                if not await self.more():
                    return None

    async def end(self) -> int | None:
        """The code of the DISCONNECT with which the stream ends, None without one; what comes before is dropped."""
        code = None
        while (packet := await self.packet()) is not None:
            code = int(packet.code) if type(packet) is Disconnect else None
        return code

    def cut(self) -> None:
        """It is gone without a word."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def drop(self) -> None:
        """The same, and the socket is gone."""
        self.cut()
        with suppress(OSError):
            await self.writer.wait_closed()

    # -- conversations ---------------------------------------------------------------------------------------------

    async def connect(
        self,
        url: str,
        token: str,
        **options: Any,
    ) -> Connack | None:
        """CONNECT (see hello); the CONNACK, None where the stream ends before it. Raises OSError."""
        await self.open(url)
        self.hello(token, **options)
        self.connack = await self.first(Connack)
        return self.connack

    def hello(
        self,
        token: str,
        *,
        clean: bool = False,
        keep_alive: int = 60,
        expiry: int = 3600,
        receive_maximum: int = 0,
    ) -> None:
        """CONNECT."""
        props: Props = {P.SESSION_EXPIRY: expiry}
        if receive_maximum:
            props[P.RECEIVE_MAXIMUM] = receive_maximum
        self.write(
            codec.connect(
                self.version, self.client, clean=clean, keep_alive=keep_alive, username=self.client,
                password=token.encode(), props=props if self.version == 5 else None,
            )
        )  # fmt: skip

    async def subscribe(self, qos: int = 1) -> Suback | None:
        """Subscribe to its inbox; None where the stream ends before the SUBACK."""
        self.write(codec.subscribe(self.version, self._pid, [(f"gw/v1/m/{self.client}", qos)]))
        return await self.first(Suback)

    async def join(self, url: str, token: str, **options: Any) -> bool:
        """Connect and subscribe, both accepted; whether the session was present."""
        connack = await self.connect(url, token, **options)
        assert connack is not None
        assert connack.code == 0, connack
        suback = await self.subscribe()
        assert suback is not None
        assert [int(code) for code in suback.codes] == [1]
        return connack.session_present

    def publish(self, to: str, body: bytes, pid: int, *, dup: bool = False) -> None:
        """PUBLISH at QoS 1."""
        topic = f"gw/v1/to/{to}".encode()
        self.write(codec.publish(self.version, topic, body, qos=1, pid=pid, dup=dup))

    def ack(self, *pids: int) -> None:
        self.write(*(codec.puback(self.version, pid) for pid in pids))

    async def ping(self) -> list[Any]:
        """PINGREQ; what came before its answer. Raises ConnectionResetError where the stream ends."""
        self.write(codec.pingreq())
        before: list[Any] = []
        while type(packet := await self.packet()) is not codec.Pong:
            if packet is None:
                raise ConnectionResetError("the stream has ended")
            before.append(packet)
        return before

    async def leave(self) -> None:
        """DISCONNECT, and the end of the stream."""
        self.write(codec.disconnect(self.version))
        await self.end()
        await self.drop()


class FramedDevice(RawDevice):
    """One connection, to a broker, of a client that speaks frames at QoS 1 under the nonce `c`. Its will is `bye`.

    `name` is its MQTT client id, where that is not the client's; `keep_alive` in seconds.
    """

    def __init__(
        self, client: str, c: str, version: int = 5, *, name: str = "", keep_alive: int = 60
    ) -> None:
        super().__init__(client, version)
        self.c = c
        self.name = name or client
        self.keep_alive = keep_alive
        self.refused: list[int] = []  # reason codes of PUBACKs
        self._up = TOPICS.frames_up(client)
        self._last = 0

    async def arrive(self, url: str) -> bool:
        """CONNECT and SUBSCRIBE; False where the broker refuses or hangs up. Raises OSError."""
        await self.open(url)
        props: Props | None = {P.SESSION_EXPIRY: 3600} if self.version == 5 else None
        bye = msgspec.json.encode({"t": "bye", "c": self.c})
        self.write(
            codec.connect(
                self.version, self.name, clean=False, keep_alive=self.keep_alive, username=self.client,
                will=Will(self._up, bye, 1), props=props,
            )
        )  # fmt: skip
        self.connack = await self.first(Connack)
        if self.connack is None or self.connack.code:
            return False
        down = TOPICS.frames_down(self.client).decode()
        self.write(codec.subscribe(self.version, self._pid, [(down, 0)]))
        suback = await self.first(Suback)
        return suback is not None and int(suback.codes[0]) == 0

    def say(self, frame: dict[str, Any]) -> None:
        """PUBLISH a frame; the nonce is put into it."""
        self._last = self._last % (PACKET_IDS - 1) + 1
        payload = msgspec.json.encode({**frame, "c": self.c})
        self.write(codec.publish(self.version, self._up, payload, qos=1, pid=self._last))

    def frames(self) -> Iterator[dict[str, Any]]:
        """Take the frames that were read, one by one."""
        while self.packets:
            packet = self.packets.pop(0)
            if type(packet) is Publish:
                yield msgspec.json.decode(packet.payload)
            elif type(packet) is Ack and packet.code >= REFUSED:
                self.refused.append(int(packet.code))
