"""What stands behind the fixed header of every packet but PUBLISH, from bytes to values.

Each reader takes the side that reads, the packet's type, all that was received, and the offsets at which the body
begins and ends, both within it. They raise what the readers of fields do.
"""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.transports.mqtt.codec import properties, reasons
from gateway.transports.mqtt.codec.fields import (
    check_topic,
    no_pid,
    read_binary,
    read_filter,
    read_text,
    read_varint,
    short,
)
from gateway.transports.mqtt.codec.properties import WILL, read_props
from gateway.transports.mqtt.codec.types import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Malformed,
    P,
    Packet,
    Ping,
    Pong,
    Props,
    Reason,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)

_PING: Final = Ping()
_PONG: Final = Pong()
# members of enums read slowly; these two are for every PUBACK that is not bare
_SUCCESS: Final = Reason.SUCCESS
_PUBACK: Final = int(Kind.PUBACK)


class Side:
    """What one side reads in one version: which packets (by first byte), which reason codes, which properties.

    Version 0 is that of a server which has not seen a CONNECT yet.
    """

    __slots__ = ("codes", "packets", "props", "server", "version")

    def __init__(self, version: int, *, server: bool) -> None:
        self.version = version
        self.server = server
        self.props = properties.FROM_CLIENT if server else properties.FROM_SERVER
        self.codes = dict(reasons.FROM_CLIENT if server else reasons.FROM_SERVER)
        if version == 4:
            self.codes[Kind.SUBACK] = reasons.SUBACK_311
        # first byte -> packet type, 0 where no packet may begin so
        packets = bytearray(256)
        for kind in self._kinds():
            for flags in _PUBLISH_FLAGS if kind == Kind.PUBLISH else (_flags(kind),):
                packets[kind << 4 | flags] = kind
        self.packets = bytes(packets)

    def _kinds(self) -> list[Kind]:
        if self.version == 0:
            return [Kind.CONNECT]
        only_server_reads = {Kind.CONNECT, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.PINGREQ}
        only_client_reads = {Kind.CONNACK, Kind.SUBACK, Kind.UNSUBACK, Kind.PINGRESP}
        foreign = only_client_reads if self.server else only_server_reads
        if self.version == 4:
            foreign = foreign | ({Kind.AUTH} if self.server else {Kind.AUTH, Kind.DISCONNECT})
        return [kind for kind in Kind if kind not in foreign]

    def refusal(self, first: int) -> Malformed:
        """Why no packet may begin with this byte."""
        kind = first >> 4
        if not kind or (kind == Kind.AUTH and self.version == 4):
            return Malformed(Reason.MALFORMED_PACKET, f"packet type {kind} is reserved")
        name = Kind(kind).name
        if kind == Kind.PUBLISH:
            if first & 6 == 6:
                return Malformed(Reason.MALFORMED_PACKET, "QoS 3")
            if first & 0xE == 8:
                return Malformed(Reason.PROTOCOL_ERROR, "DUP at QoS 0")
        elif first & 15 != _flags(kind):
            return Malformed(Reason.MALFORMED_PACKET, f"wrong flags in the header of {name}")
        if not self.version:
            return Malformed(Reason.PROTOCOL_ERROR, "the first packet must be CONNECT")
        return Malformed(Reason.PROTOCOL_ERROR, f"{name} is for the other side to send")


# 3.3.1: no QoS 3, no DUP at QoS 0
_PUBLISH_FLAGS: Final = [
    dup << 3 | qos << 1 | retain for qos in (0, 1, 2) for dup in (0, 1) for retain in (0, 1) if qos or not dup
]


def _flags(kind: int) -> int:
    """The fixed flags of a packet type that is not PUBLISH (2.1.3)."""
    return 2 if kind in {Kind.PUBREL, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE} else 0


def _ends(at: int, end: int) -> None:
    if at > end:
        raise short()
    if at < end:
        raise Malformed(Reason.MALFORMED_PACKET, "bytes behind the last field of the packet")


def _read_pid(data: bytes, at: int, end: int) -> tuple[int, int]:
    """2.2.1: never 0."""
    if at + 2 > end:
        raise short()
    pid = data[at] << 8 | data[at + 1]
    if not pid:
        raise no_pid()
    return pid, at + 2


def _read_props(side: Side, place: int, data: bytes, at: int, end: int) -> tuple[Props | None, int]:
    """The block of properties with its length before it; 3.1.1 has none."""
    if side.version == 4:
        return None, at
    size, at = read_varint(data, at, end)
    stop = at + size
    if stop > end:
        raise short()
    return (read_props(data, at, stop, side.props[place]) if size else None), stop


def _read_code(side: Side, kind: int, value: int) -> Reason:
    code = side.codes[kind].get(value)
    if code is None:
        raise Malformed(Reason.PROTOCOL_ERROR, f"{Kind(kind).name} with a reason code that is not for it")
    return code


def read_protocol(data: bytes, at: int, end: int) -> tuple[int, bool, int]:
    """The name and version with which a CONNECT begins (3.1.2.1, 3.1.2.2).

    Returns in which version the client can be answered (4, 5; 0: it does not speak MQTT), whether it is the version
    that it asked for, and the offset behind.
    """
    name, at = read_binary(data, at, end)
    if at >= end:
        raise short()
    level = data[at]
    if name == b"MQTT":
        # the top bit marks a bridge of Mosquitto's
        return (5 if level & 0x7F > 4 else 4), level in {4, 5}, at + 1
    return (4 if name == b"MQIsdp" else 0), False, at + 1


def read_connect(side: Side, data: bytes, at: int, end: int) -> Connect:
    """CONNECT (3.1) from its flags on."""
    if at + 3 > end:
        raise short()
    flags = data[at]
    keep_alive = data[at + 1] << 8 | data[at + 2]
    will_flags = flags & 0x38
    if flags & 1:
        raise Malformed(Reason.MALFORMED_PACKET, "the reserved flag of CONNECT")
    if will_flags and not flags & 4:
        raise Malformed(Reason.MALFORMED_PACKET, "will flags without a will")
    if will_flags & 0x18 == 0x18:
        raise Malformed(Reason.MALFORMED_PACKET, "will QoS 3")
    if side.version == 4 and flags & 0xC0 == 0x40:
        raise Malformed(Reason.MALFORMED_PACKET, "a password without a user name")
    props, at = _read_props(side, Kind.CONNECT, data, at + 3, end)
    if props and P.AUTH_DATA in props and P.AUTH_METHOD not in props:
        raise Malformed(Reason.PROTOCOL_ERROR, "AUTH_DATA without AUTH_METHOD")
    client_id, at = read_text(data, at, end)
    will = username = password = None
    if flags & 4:
        will, at = _read_will(side, will_flags, data, at, end)
    if flags & 0x80:
        username, at = read_text(data, at, end)
    if flags & 0x40:
        password, at = read_binary(data, at, end)
    _ends(at, end)
    return Connect(side.version, flags & 2 != 0, keep_alive, client_id, username, password, will, props)


def _read_will(side: Side, flags: int, data: bytes, at: int, end: int) -> tuple[Will, int]:
    props, at = _read_props(side, WILL, data, at, end)
    topic, at = read_binary(data, at, end)
    check_topic(topic)
    payload, at = read_binary(data, at, end)
    return Will(topic, payload, flags >> 3 & 3, flags & 0x20 != 0, props), at


def _read_connack(side: Side, kind: int, data: bytes, at: int, end: int) -> Connack:
    if at + 2 > end:
        raise short()
    flags = data[at]
    if flags > 1:
        raise Malformed(Reason.MALFORMED_PACKET, "reserved flags of CONNACK")
    if side.version == 4:
        returned = reasons.CONNACK_311.get(data[at + 1])
        if returned is None:
            raise Malformed(Reason.PROTOCOL_ERROR, "CONNACK with a reserved return code")
        code = returned
    else:
        code = _read_code(side, kind, data[at + 1])
    props, at = _read_props(side, kind, data, at + 2, end)
    _ends(at, end)
    if flags and code:
        raise Malformed(Reason.PROTOCOL_ERROR, "session present in a CONNACK that refuses")
    return Connack(flags == 1, code, props)


def _read_ack(side: Side, kind: int, data: bytes, at: int, end: int) -> Ack | int:
    """PUBACK, PUBREC, PUBREL, PUBCOMP; code and properties may be left out from behind (3.4.2.1)."""
    pid, at = _read_pid(data, at, end)
    code, props = _SUCCESS, None
    if at < end and side.version == 5:
        code = _read_code(side, kind, data[at])
        at += 1
        if at < end:
            props, at = _read_props(side, kind, data, at, end)
    _ends(at, end)
    if kind == _PUBACK and not code and props is None:
        return pid
    return Ack(Kind(kind), pid, code, props)


def _read_subscribe(side: Side, kind: int, data: bytes, at: int, end: int) -> Subscribe:
    pid, at = _read_pid(data, at, end)
    props, at = _read_props(side, kind, data, at, end)
    reserved = 0xC0 if side.version == 5 else 0xFC
    filters = []
    while at < end:
        topic_filter, at = read_filter(data, at, end)
        if at >= end:
            raise short()
        options = data[at]
        at += 1
        if options & reserved:
            raise Malformed(Reason.MALFORMED_PACKET, "reserved subscription options")
        if options & 3 == 3:
            raise Malformed(Reason.PROTOCOL_ERROR, "a subscription at QoS 3")
        if options & 0x30 == 0x30:
            raise Malformed(Reason.PROTOCOL_ERROR, "retain handling 3")
        filters.append((topic_filter, options))
    if not filters:
        raise Malformed(Reason.PROTOCOL_ERROR, "SUBSCRIBE without a topic filter")
    return Subscribe(pid, filters, props)


def _read_unsubscribe(side: Side, kind: int, data: bytes, at: int, end: int) -> Unsubscribe:
    pid, at = _read_pid(data, at, end)
    props, at = _read_props(side, kind, data, at, end)
    filters = []
    while at < end:
        topic_filter, at = read_filter(data, at, end)
        filters.append(topic_filter)
    if not filters:
        raise Malformed(Reason.PROTOCOL_ERROR, "UNSUBSCRIBE without a topic filter")
    return Unsubscribe(pid, filters, props)


def _read_codes(side: Side, kind: int, data: bytes, at: int, end: int) -> Suback | Unsuback:
    """SUBACK (3.9) and UNSUBACK (3.11); the UNSUBACK of 3.1.1 has no codes."""
    pid, at = _read_pid(data, at, end)
    props, at = _read_props(side, kind, data, at, end)
    if kind == Kind.UNSUBACK and side.version == 4:
        _ends(at, end)
        return Unsuback(pid, [])
    codes = [_read_code(side, kind, value) for value in data[at:end]]
    if not codes:
        raise Malformed(Reason.PROTOCOL_ERROR, f"{Kind(kind).name} without a reason code")
    return Suback(pid, codes, props) if kind == Kind.SUBACK else Unsuback(pid, codes, props)


def _read_ping(_side: Side, kind: int, _data: bytes, at: int, end: int) -> Ping | Pong:
    _ends(at, end)
    return _PING if kind == Kind.PINGREQ else _PONG


def _read_disconnect(side: Side, kind: int, data: bytes, at: int, end: int) -> Disconnect:
    """Code and properties may be left out from behind (3.14.2)."""
    if at == end:
        return Disconnect()
    props = None
    if side.version == 5:
        code = _read_code(side, kind, data[at])
        at += 1
        if at < end:
            props, at = _read_props(side, kind, data, at, end)
        _ends(at, end)
        return Disconnect(code, props)
    raise Malformed(Reason.MALFORMED_PACKET, "a DISCONNECT of 3.1.1 has no body")


def _read_auth(side: Side, kind: int, data: bytes, at: int, end: int) -> Auth:
    """All may be left out where it says success; else the method must be there (3.15.2)."""
    if at == end:
        return Auth(_read_code(side, kind, Reason.SUCCESS))
    code = _read_code(side, kind, data[at])
    props, at = _read_props(side, kind, data, at + 1, end)
    _ends(at, end)
    if props is None or P.AUTH_METHOD not in props:
        raise Malformed(Reason.PROTOCOL_ERROR, "AUTH without AUTH_METHOD")
    return Auth(code, props)


BodyReader = Callable[[Side, int, bytes, int, int], Packet]

# All that a Reader hands on: it reads CONNECT in two steps, and PUBLISH itself.
BODY_READERS: Final[Mapping[int, BodyReader]] = {
    Kind.CONNACK: _read_connack,
    Kind.PUBACK: _read_ack,
    Kind.PUBREC: _read_ack,
    Kind.PUBREL: _read_ack,
    Kind.PUBCOMP: _read_ack,
    Kind.SUBSCRIBE: _read_subscribe,
    Kind.SUBACK: _read_codes,
    Kind.UNSUBSCRIBE: _read_unsubscribe,
    Kind.UNSUBACK: _read_codes,
    Kind.PINGREQ: _read_ping,
    Kind.PINGRESP: _read_ping,
    Kind.DISCONNECT: _read_disconnect,
    Kind.AUTH: _read_auth,
}
