"""The writing half of a connection: what the hub hands over, in which order it leaves, how much of it at a time.

The hub hands over messages and answers during a turn of the loop; at the turn's end `flush` lays out all of it in one
write: first answers, then messages in seq order.

Messages are kept as the items that the hub holds anyway, and laid out only as far as the device takes them: neither
while something waits in the transport (`paused`), nor beyond its Receive Maximum.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import GatewayError
from gateway.model import Item, Sub
from gateway.observe.log import get_logger
from gateway.transports.mqtt.plain import Plain

_log = get_logger("mqtt")

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# phases of a connection, in order
JOINING: Final = 0  # its CONNACK waits for the hub
LIVE: Final = 1  # accepted
CLOSING: Final = 2  # the last packet is written, nothing else will be
GONE: Final = 3  # so is the socket

# packet ids come again after this many seqs (PROTOCOL 4)
_IDS: Final = 65535


class Writer(asyncio.Protocol):
    """A ports.Connection as far as something is to be written; the rest is left to the classes below."""

    __slots__ = (
        "acks", "dirty", "heads", "items", "max_packet", "outstanding", "paused", "phase", "piled", "plain", "present",
        "qos", "quota", "server", "session", "stall_left", "sub", "top", "transport", "version", "writable",
    )  # fmt: skip

    via = "mqtt"
    door = "mqtt"

    def __init__(self, server: "MqttServer", transport: asyncio.Transport, version: int) -> None:
        self.server = server
        self.transport = transport
        self.version = version  # 4: MQTT 3.1.1, or 5
        self.phase = JOINING
        self.session: Any = None
        self.sub = int(Sub.NONE)
        self.writable = True
        self.paused = False  # bytes wait in the transport
        self.dirty = False  # a flush is asked for
        # what the device can take: bytes of a packet, QoS 1 messages without their PUBACK
        self.max_packet = 0
        self.quota = _IDS
        # its plain subscription
        self.plain: Plain | None = None
        self.qos = 1
        self.present = False  # the CONNACK said that there is a session
        self.outstanding = 0  # messages at QoS 1 without their PUBACK
        self.top = 0  # the highest seq that was written at QoS 1
        self.acks: list[int] | None = None  # seqs whose PUBACK was read, for the hub
        # lists are made when they are needed: most connections are idle
        self.heads: list[bytes] | None = None  # packets that go before the messages
        self.items: list[Item] | None = None
        self.piled = 0  # bytes of answers that were written and that the peer has not taken all
        self.stall_left = 0  # bytes that the peer has yet to take, as last seen

    # -- what the hub hands over -----------------------------------------------------------------------------------

    def deliver(self, items: list[Item]) -> None:
        """Messages in seq order."""
        if self.phase != LIVE:
            return
        if self.items is None:
            self.items = items
        else:
            self.items += items
        if not self.dirty:
            self.dirty = True
            self.server.hub.touch(self)

    # those left to the classes below

    def welcome(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        raise NotImplementedError

    def refused(self, ref: Any, error: GatewayError) -> None:
        raise NotImplementedError

    @property
    def client(self) -> str:
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    def on_piled(self) -> None:
        """Answers wait for a peer that does not read."""
        raise NotImplementedError

    def broken(self) -> None:
        """Something could not be laid out: end it."""
        raise NotImplementedError

    def error(self, error: GatewayError) -> None:
        """A plain device is told of an error by the end of its connection."""

    def goaway(self, low: float, high: float, why: str) -> None:
        """Nor can it be asked to leave: it is closed when its time has come."""

    # -- for the classes below -------------------------------------------------------------------------------------

    def head(self, packet: bytes) -> None:
        """A packet that goes before the messages."""
        if self.phase >= CLOSING:
            return
        if self.heads is None:
            self.heads = [packet]
        else:
            self.heads.append(packet)
        self.touch()

    def touch(self) -> None:
        """Ask for a flush at the end of this turn."""
        if not self.dirty:
            self.dirty = True
            self.server.hub.touch(self)

    # -- writing ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is buffered, in one write unless it is over a slice."""
        self.dirty = False
        if self.phase < CLOSING:
            self.write_out()
            if self.piled:
                self.on_piled()

    def write_out(self) -> None:
        """Lay out what is buffered and write it."""
        items = self.items
        try:
            if items is None or self.heads is not None or len(items) > 1 or not self._lay_one(items[0]):
                self._lay_out()
        except (ValueError, TypeError, OverflowError) as error:
            # One message that cannot be laid out must not end the turn of all others. The end counts as unclean: a
            # message that does this again and again is dead at last (poison).
            _log.error("a packet could not be written", client=self.client, error=type(error).__name__)
            self.drop_buffers()
            self.broken()

    def _lay_out(self) -> None:
        """Messages only as far as the peer takes them."""
        pieces: list[bytes] = []
        answers = 0
        if self.heads is not None:
            pieces, self.heads = self.heads, None
            self.server.packets_out += len(pieces)
            answers = sum(map(len, pieces))
        more = self.items is not None
        while more and not self.paused:
            settled: list[int] = []
            more = self._lay_slice(pieces, settled)
            if pieces:
                self.write(pieces, answers)
                pieces = []
                answers = 0
            if settled:
                self.server.hub.written(self, settled)
        if pieces:
            self.write(pieces, answers)

    def _lay_one(self, item: Item) -> bool:
        """One message alone, as each of many devices gets them. False: it has to be looked at as one of several."""
        plain = self.plain
        if (
            plain is None
            or item.body is None
            or self.paused
            or not self.qos
            or self.outstanding >= self.quota
        ):
            return False
        server, old = self.server, self.version == 4
        # 3.1.1 is not told how long a message is good
        now = 0 if old else server.now()
        packet = plain.publish(item, now, 1, bool(item.marks and (old or self.present)))
        if len(packet) > self.max_packet:
            return False
        self.items = item.body = None
        self.outstanding += 1
        self.top = item.seq
        server.packets_out += 1
        server.bytes_out += len(packet)
        self.transport.write(packet)
        return True

    def write(self, pieces: list[bytes], answers: int) -> None:
        """`answers`: how many of the bytes are no messages."""
        data = b"".join(pieces)
        self.server.bytes_out += len(data)
        if self.paused:
            self.stall_left += len(data)
        self.transport.write(data)
        if self.paused:
            self.piled += answers

    def drop_buffers(self) -> None:
        """Nothing more will be written."""
        self.heads = self.items = None

    def _lay_slice(self, pieces: list[bytes], settled: list[int]) -> bool:
        """Up to a slice of the messages; whether there are more that the peer may be sent. `settled` gets the seqs of
        those at QoS 0.
        """
        items, plain = self.items, self.plain
        assert items is not None
        if plain is None:
            self.items = None
            return False
        server = self.server
        now, room = server.now(), server.slice_bytes
        qos, marked = self.qos, self.version == 4 or self.present
        done = laid = 0
        for item in items:
            if item.body is None:
                # settled or given back since it was handed over: it is no longer to be written
                done += 1
                continue
            if room <= 0 or (qos and self.outstanding >= self.quota):
                break
            packet = plain.publish(item, now, qos, bool(qos and marked and item.marks))
            # the store keeps the body; should it have to be written again, the hub reads it there
            item.body = None
            done += 1
            if len(packet) > self.max_packet:
                # [MQTT-3.1.2-24]
                server.hub.unsendable(self, item.seq, "over the device's Maximum Packet Size")
                continue
            pieces.append(packet)
            laid += 1
            room -= len(packet)
            if qos:
                self.outstanding += 1
                self.top = item.seq
            else:
                settled.append(item.seq)
        server.packets_out += laid
        if done == len(items):
            self.items = None
            return False
        del items[:done]
        return room <= 0

    # -- PUBACK ----------------------------------------------------------------------------------------------------

    def on_pubacks(self, packets: list[Any], at: int) -> int:
        """PUBACKs that say success and no more, from there on: how many follow each other. Their seqs are for the hub
        (see `seq_of`).
        """
        top, acks = self.top, self.acks
        if acks is None:
            acks = self.acks = []
        count = 0
        for pid in packets[at:] if at else packets:
            if type(pid) is not int:
                break
            count += 1
            seq = top - (top - pid) % _IDS
            if seq > 0:
                acks.append(seq)
        if self.outstanding:
            self.outstanding = max(0, self.outstanding - count)
            if self.items is not None:
                self.touch()
        return count

    def on_lone_puback(self, pid: int) -> bool:
        """A PUBACK by itself. False: it is not that of the lowest message in flight, and nothing has happened."""
        top = self.top
        seq = top - (top - pid) % _IDS
        if seq <= 0 or not self.server.hub.ack_lowest(self, seq):
            return False
        if self.outstanding:
            self.outstanding -= 1
            if self.items is not None:
                self.touch()
        return True

    def seq_of(self, pid: int) -> int:
        """The seq of a message that the device answers, by its packet id; 0: there is none. Its place in the quota is
        free again.
        """
        if self.outstanding:
            self.outstanding -= 1
            if self.items is not None:
                self.touch()
        seq = self.top - (self.top - pid) % _IDS
        return max(seq, 0)
