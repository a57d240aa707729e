"""A stream of bytes read into packets, strictly.

PUBLISH and the bare PUBACK are nearly all of the traffic, so they are read here, in place and without a call a field;
bodies.py reads the rest. Where a field's length leads behind the end of its packet, what is read there belongs to the
next one or to nothing: every reader compares offsets with the end before it says anything about a value, and an
IndexError means the same as such a comparison. So what is returned does not depend on how the stream was cut.
"""

from typing import Final

from gateway.transports.mqtt.codec.bodies import BODY_READERS, Side, read_connect, read_protocol
from gateway.transports.mqtt.codec.fields import (
    check_topic,
    no_pid,
    not_utf8,
    overlong,
    padded,
    read_varint,
    short,
)
from gateway.transports.mqtt.codec.properties import read_props
from gateway.transports.mqtt.codec.types import Connect, Kind, Malformed, P, Packet, Publish, Reason

_SERVER: Final = {version: Side(version, server=True) for version in (0, 4, 5)}
_CLIENT: Final = {version: Side(version, server=False) for version in (4, 5)}

# members of enums read slowly; these are compared once a packet
_CONNECT: Final = int(Kind.CONNECT)
_PUBLISH: Final = int(Kind.PUBLISH)
_PUBACK: Final = int(Kind.PUBACK)
_BARE_PUBACK: Final = _PUBACK << 4

# Good topics, so that each is looked at once; the same object has its hash ready for the caller's tables, too.
_KNOWN: Final[dict[bytes, bytes]] = {}
_MOST_KNOWN: Final = 16_384
_LONGEST_KNOWN: Final = 128

# flags of a PUBLISH -> qos, retain, dup (3.3.1)
_FLAGS: Final = tuple((flags >> 1 & 3, flags & 1 != 0, flags & 8 != 0) for flags in range(16))


def _refused(error: Exception) -> Malformed:
    """What the readers of fields raise, in one form; without its traceback, which would keep all that was received."""
    if isinstance(error, Malformed):
        return error.with_traceback(None)
    return short() if isinstance(error, IndexError) else not_utf8()


def _remember(topic: bytes) -> None:
    if len(topic) <= _LONGEST_KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[topic] = topic


class Reader:
    """One direction of one connection.

    version       0 until a CONNECT has named it, then 4 or 5. After a CONNECT that was refused: the version in which
                  its client can be answered, 0 where it cannot.
    server        True: reads what clients send
    max_packet    bytes of the longest packet, header included. Longer ones end the stream as soon as their header is
                  known; nothing beyond this is ever kept.
    max_connect   the same for the CONNECT, which comes from anybody; 0: as max_packet
    """

    __slots__ = ("_kept", "_limit", "_max_packet", "_need", "_short", "_side", "error")

    def __init__(self, version: int = 0, *, server: bool, max_packet: int, max_connect: int = 0) -> None:
        self._side = (_SERVER if server else _CLIENT)[version]
        self._max_packet = max_packet
        self._set_limit(max_packet if version or not max_connect else min(max_connect, max_packet))
        # an incomplete packet, and how many bytes of it must be there before another look is worth it
        self._kept: bytearray | None = None
        self._need = 0
        # why the stream cannot be read further; what is fed from then on is dropped
        self.error: Malformed | None = None

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        # a length up to this is of one byte, and that of a packet within the limit
        self._short = min(limit - 2, 0x7F)

    @property
    def version(self) -> int:
        """The protocol level in use."""
        return self._side.version

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that end within `data`, in order. Raises nothing: look at `error` after it."""
        packets: list[Packet] = []
        if self._kept is not None:
            if len(self._kept) + len(data) < self._need:
                self._kept += data
                return packets
            data = b"".join((self._kept, data))
            self._kept = None
        elif self.error is not None:
            return packets
        kinds = self._side.packets
        short_length = self._short
        size = len(data)
        last = size - 1
        need = 2
        pos = 0
        try:
            while pos < last:
                kind = kinds[data[pos]]
                length = data[pos + 1]
                at = pos + 2
                if length > short_length or not kind:
                    at, length = self._header(kind, length, data, pos)
                    if not at:
                        need = size - pos + 1
                        break
                end = at + length
                if end > size:
                    need = end - pos
                    break
                if kind == _PUBLISH:
                    packets.append(self._publish(data, at, end, data[pos] & 15))
                elif kind == _PUBACK and length == 2:
                    pid = data[at] << 8 | data[at + 1]
                    if not pid:
                        raise no_pid()
                    packets.append(pid)
                elif kind == _CONNECT:
                    packets.append(self._connect(data, at, end))
                    kinds = self._side.packets
                else:
                    packets.append(BODY_READERS[kind](self._side, kind, data, at, end))
                pos = end
        except (Malformed, IndexError, UnicodeDecodeError) as error:
            self.error = _refused(error)
        else:
            if pos < size:
                self._kept = bytearray(data[pos:])
                self._need = need
        return packets

    def lone_puback(self, data: bytes) -> int:
        """The packet id, where `data` is one bare PUBACK (3.4) that stands at the beginning of a packet. 0: it is not
        that, `feed` has to look.
        """
        if (
            len(data) != 4
            or data[0] != _BARE_PUBACK
            or data[1] != 2
            or self._kept is not None
            or self.error is not None
        ):
            return 0
        return data[2] << 8 | data[3]

    def _header(self, kind: int, length: int, data: bytes, pos: int) -> tuple[int, int]:
        """A fixed header that is not the shortest and good: the offset behind it, and the length of what follows.

        The offset is 0 while the length is not all there.
        """
        at = pos + 2
        if length > 0x7F and kind and at < len(data) and 0 < data[at] < 0x80:
            # a length of two bytes, which most packets have that have not one of one
            length += (data[at] << 7) - 0x80
            at += 1
        else:
            at, length = self._rare_header(data, pos)
        if at - pos + length > self._limit:
            raise Malformed(Reason.PACKET_TOO_LARGE, f"a packet of more than {self._limit} bytes")
        return at, length

    def _rare_header(self, data: bytes, pos: int) -> tuple[int, int]:
        """Any other fixed header (2.1). 3.1.1 does not ask for the shortest form of the length."""
        side = self._side
        if not side.packets[data[pos]]:
            raise side.refusal(data[pos])
        length = shift = 0
        for at, byte in enumerate(data[pos + 1 : pos + 5], pos + 2):
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte and side.version == 5:
                    raise padded()
                return at, length
            shift += 7
        if shift < 28:
            return 0, 0
        raise overlong()

    def _publish(self, data: bytes, at: int, end: int, flags: int) -> Publish:
        split = start = at + 2 + (data[at] << 8 | data[at + 1])
        pid = 0
        qos, retain, dup = _FLAGS[flags]
        if qos:
            pid = data[split] << 8 | data[split + 1]
            start += 2
        props = None
        side = self._side
        if side.version == 5:
            size = data[start]
            start += 1
            if size:
                if size > 0x7F:
                    size, start = read_varint(data, start - 1, end)
                stop = start + size
                if stop > end:
                    raise short()
                props = read_props(data, start, stop, side.props[_PUBLISH])
                start = stop
        if start > end:
            raise short()
        if qos and not pid:
            raise no_pid()
        topic = data[at + 2 : split]
        known = _KNOWN.get(topic)
        if known is not None:
            topic = known
        elif topic:
            check_topic(topic)
            _remember(topic)
        elif props is None or P.TOPIC_ALIAS not in props:
            raise Malformed(Reason.PROTOCOL_ERROR, "an empty topic name without a topic alias")
        return Publish(topic, data[start:end], qos, retain, dup, pid, props)

    def _connect(self, data: bytes, at: int, end: int) -> Connect:
        """CONNECT: the first one decides the version; whether there may be another is the caller's to know."""
        version, supported, behind = read_protocol(data, at, end)
        if not self._side.version and version:
            self._side = _SERVER[version]
            self._set_limit(self._max_packet)
        if not supported:
            raise Malformed(Reason.UNSUPPORTED_VERSION, "not a version of MQTT that is spoken here")
        if version == 5 and not data[at - 1]:
            raise padded()
        return read_connect(_SERVER[version], data, behind, end)
