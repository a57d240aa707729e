"""MQTT devices in the transcripts of docs/mqtt.md: packets as the page tells them, and how they are sent and got.

Beside the steps of tests/docs/transcript.py:

    alice> CONNECT 5, session expiry 3600         her name and a valid token go with it
    alice> SUBSCRIBE gw/v1/m/alice                at QoS 1, else `SUBSCRIBE 0 …`
    alice> PUBLISH 7 gw/v1/to/bob, ttl 60: hi     packet id, topic, user properties, payload; no id: QoS 0
    alice< PUBLISH 2 dup, redelivered 1: two      what she gets is on her own topic
    alice> PUBACK 2
    alice< PUBACK 7 0x83: …                       reason code and reason string
    alice< DISCONNECT 0x8e: taken over            then the socket is closed
    alice> {"t":"ping"}                           who is connected by MQTT sends frames to her uplink

A packet is told as its name and words, then properties in any order (others may be there too), then behind a colon its
text: payload or reason string, of which the latter may be left out.
"""

import asyncio
import json
import re
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gateway.topics import TopicNames
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import (
    Ack,
    Connack,
    Disconnect,
    P,
    Pong,
    Props,
    Publish,
    Reader,
    Suback,
    Will,
)
from tests.docs.transcript import Player, fill, match, parse, singly

NAMES = TopicNames()
VERSIONS = {"3.1.1": 4, "5": 5}
# properties with a name of their own; all others are user properties
NAMED = {
    "session expiry": P.SESSION_EXPIRY,
    "receive maximum": P.RECEIVE_MAXIMUM,
    "maximum packet size": P.MAXIMUM_PACKET_SIZE,
    "server keep alive": P.SERVER_KEEP_ALIVE,
    "server reference": P.SERVER_REFERENCE,
    "message expiry": P.MESSAGE_EXPIRY,
    "response topic": P.RESPONSE_TOPIC,
    "correlation data": P.CORRELATION,
    "will delay": P.WILL_DELAY,
}
_packet = re.compile(r"([A-Z]+)((?: [^,:\s]+)*)((?:, [^,:]+ [^,\s]+?)*)(?:: (.*))?", re.DOTALL).fullmatch


class Told(NamedTuple):
    """A packet as a page tells it."""

    kind: str
    words: list[str]
    props: dict[str, str]
    text: str | None = None


def read(line: str) -> Told:
    """A packet that is to be sent, or got."""
    found = _packet(line)
    assert found is not None, f"not a packet: {line}"
    props = dict(pair.rsplit(" ", 1) for pair in found[3].split(", ")[1:])
    return Told(found[1], found[2].split(), props, found[4])


def told(packet: Any) -> Told:
    """What came, as a page would tell all of it."""
    if isinstance(packet, int):
        return Told("PUBACK", [str(packet)], {})
    if isinstance(packet, Publish):
        words = [str(packet.pid)] if packet.qos else []
        return Told("PUBLISH", words + ["dup"] * packet.dup, _pairs(packet.props), packet.payload.decode())
    kind, words = type(packet).__name__.upper(), []
    if isinstance(packet, Ack):
        kind, words = packet.kind.name, [str(packet.pid)]
    elif isinstance(packet, Connack) and packet.session_present:
        words = ["session", "present"]
    codes = getattr(packet, "codes", [getattr(packet, "code", 0)])
    words += [f"0x{c:02x}" if c >= 0x80 else str(int(c)) for c in codes if c or isinstance(packet, Suback)]
    props = getattr(packet, "props", None) or {}
    return Told(kind, words, _pairs(props), props.get(P.REASON))


def _props(pairs: dict[str, str]) -> Props | None:
    """What is told beside a packet that is sent."""
    props: Props = {}
    for name, value in pairs.items():
        if name not in NAMED:
            props.setdefault(P.USER, []).append((name, value))
        elif NAMED[name] is P.CORRELATION:
            props[P.CORRELATION] = value.encode()
        else:
            props[NAMED[name]] = int(value) if value.isdigit() else value
    return props or None


def _pairs(props: Props | None) -> dict[str, str]:
    """What came beside a packet."""
    props = props or {}
    out = dict(props.get(P.USER, ()))
    for name, key in NAMED.items():
        if key in props:
            value = props[key]
            out[name] = value.decode() if isinstance(value, bytes) else str(value)
    return out


class Device:
    """One MQTT connection of a client, from CONNECT on."""

    def __init__(self, client: str, connect: Told) -> None:
        self.client = client
        self._told = connect
        self._version = VERSIONS[connect.words[0]]
        self._reader = Reader(self._version, server=False, max_packet=1 << 24)
        self._packets: deque[Any] = deque()
        self._frames: deque[dict[str, Any]] = deque()
        self._pid = 0
        self._in: asyncio.StreamReader
        self._out: asyncio.StreamWriter

    async def connect(self, url: str, token: str) -> None:
        at = urlsplit(url)
        self._in, self._out = await asyncio.open_connection(at.hostname, at.port)
        _, words, pairs, text = self._told
        props = dict(pairs)
        password = props.pop("password", token)
        will = None
        if "will" in props:
            topic = props.pop("will").encode()
            delay = {name: props.pop(name) for name in ("will delay",) if name in props}
            will = Will(topic, (text or "").encode(), qos=1, props=_props(delay))
        self._out.write(
            codec.connect(
                self._version, self.client, clean="clean" in words, username=self.client, password=password.encode(),
                will=will, props=_props(props),
            )
        )  # fmt: skip

    def send(self, packet: Told) -> None:
        """Any packet but CONNECT."""
        kind, words, pairs, text = packet
        self._pid += 1
        version, props, payload = self._version, _props(pairs), (text or "").encode()
        if kind == "SUBSCRIBE":
            qos = int(words[0]) if len(words) > 1 else 1
            data = codec.subscribe(version, self._pid, [(words[-1], qos)])
        elif kind == "UNSUBSCRIBE":
            data = codec.unsubscribe(version, self._pid, words)
        elif kind == "PUBLISH":
            pid, dup = (int(words[0]), "dup" in words) if words[0].isdigit() else (0, False)
            topic = words[-1].encode()
            data = codec.publish(version, topic, payload, qos=int(pid > 0), pid=pid, dup=dup, props=props)
        elif kind == "PUBACK":
            data = codec.puback(version, int(words[0]), int(words[1], 16) if words[1:] else 0, text or "")
        elif kind == "PINGREQ":
            data = codec.pingreq()
        else:
            assert kind == "DISCONNECT", kind
            data = codec.disconnect(version, int(words[0], 16) if words else 0, props)
        self._out.write(data)

    def frame(self, frame: dict[str, Any]) -> None:
        """A frame on its uplink."""
        self._out.write(
            codec.publish(self._version, NAMES.frames_up(self.client), json.dumps(frame).encode())
        )

    async def next(self) -> Any:
        """The next packet; None: the socket is closed."""
        while not self._packets:
            data = await self._in.read(65536)
            if not data:
                return None
            self._packets += self._reader.feed(data)
            assert self._reader.error is None, repr(self._reader.error)
        return self._packets.popleft()

    async def next_frame(self) -> dict[str, Any]:
        """The next frame; each entry of a list `m` as a frame of its own."""
        while not self._frames:
            packet = await self.next()
            assert isinstance(packet, Publish), f"no frame, but: {packet}"
            assert packet.topic == NAMES.frames_down(self.client)
            self._frames.extend(singly(json.loads(packet.payload)))
        return self._frames.popleft()

    async def left(self) -> str:
        """What it has got and was not told to have got, after a moment that a PINGREQ takes."""
        self.send(Told("PINGREQ", [], {}))
        packet = await self.next()
        return str(list(self._frames) or "" if isinstance(packet, Pong) else told(packet))

    async def gone(self) -> None:
        self._out.close()
        with suppress(OSError):
            await self._out.wait_closed()

    async def cut(self) -> None:
        self._out.transport.abort()
        await self.gone()


class MqttPlayer(Player):
    """A Player some of whose clients are devices: those that have said CONNECT."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.devices: dict[str, Device] = {}

    async def close(self) -> None:
        await super().close()
        for who, device in self.devices.items():
            left = await device.left()
            assert not left, f"{who} also got: {left}"

    async def stop(self) -> None:
        await super().stop()
        for device in self.devices.values():
            await device.cut()
        self.devices.clear()

    async def _send(self, who: str, what: str) -> None:
        device = self.devices.get(who)
        if what.startswith("CONNECT "):
            assert device is None, f"{who} is connected"
            self.devices[who] = device = Device(who.partition("/")[0], read(self._filled(who, what)))
            await device.connect(self.gateway.mqtt, self._token(who))
        elif device is None:
            await super()._send(who, what)
        elif what == "cut":
            await self.devices.pop(who).cut()
        elif what.startswith("{"):
            device.frame(fill(parse(what), self.bound))
        else:
            device.send(read(self._filled(who, what)))
            if what.startswith("DISCONNECT"):
                await self.devices.pop(who).gone()

    async def _get(self, who: str, what: str) -> None:
        device = self.devices.get(who)
        if device is None:
            await super()._get(who, what)
        elif what.startswith("{"):
            for one in singly(parse(what)):
                match(one, await device.next_frame(), self.bound)
        else:
            await self._get_packet(who, device, read(what))

    async def _get_packet(self, who: str, device: Device, want: Told) -> None:
        packet = await device.next()
        assert packet is not None, "the socket is closed"
        got = told(packet)
        assert (want.kind, want.words) == (got.kind, got.words), f"got {got}"
        for name, value in want.props.items():
            assert name in got.props, f"it has no {name}: {got}"
            match(value, got.props[name], self.bound, name)
        if want.text is not None:
            match(want.text, got.text, self.bound, "text")
        if isinstance(packet, Disconnect) or (isinstance(packet, Connack) and packet.code):
            assert await device.next() is None
            await self.devices.pop(who).gone()
