"""The properties of MQTT 5 (2.2.2): what stands where, read and written."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.transports.mqtt.codec.fields import (
    binary,
    check_topic,
    nul,
    number,
    read_binary,
    read_text,
    read_varint,
    short,
    text,
    varint,
)
from gateway.transports.mqtt.codec.types import Kind, Malformed, P, Props, Reason

# Data types; a subscription id is a Variable Byte Integer, of which there is one or there are many. UNKNOWN must be 0,
# what the tables hold for ids that they do not name.
_UNKNOWN, _FLAG, _U16, _U32, _ID, _IDS, _TEXT, _TOPIC, _BINARY, _PAIRS, _FOREIGN = range(11)

# Will properties (3.1.3.2) have a table of their own; no packet is of type 0.
WILL: Final = 0

_ACKS: Final = (Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP)
_ANSWERS: Final = (Kind.CONNACK, *_ACKS, Kind.SUBACK, Kind.UNSUBACK, Kind.DISCONNECT, Kind.AUTH)
_MESSAGE: Final = (Kind.PUBLISH, WILL)
_AUTHENTICATION: Final = (Kind.CONNECT, Kind.CONNACK, Kind.AUTH)
_LIMITS: Final = (Kind.CONNECT, Kind.CONNACK)

# Table 2-4
_PROPERTIES: Final[Mapping[int, tuple[int, tuple[int, ...]]]] = {
    P.PAYLOAD_FORMAT: (_FLAG, _MESSAGE),
    P.MESSAGE_EXPIRY: (_U32, _MESSAGE),
    P.CONTENT_TYPE: (_TEXT, _MESSAGE),
    P.RESPONSE_TOPIC: (_TOPIC, _MESSAGE),
    P.CORRELATION: (_BINARY, _MESSAGE),
    P.SUBSCRIPTION_ID: (_IDS, (Kind.PUBLISH, Kind.SUBSCRIBE)),
    P.SESSION_EXPIRY: (_U32, (Kind.CONNECT, Kind.CONNACK, Kind.DISCONNECT)),
    P.ASSIGNED_CLIENT_ID: (_TEXT, (Kind.CONNACK,)),
    P.SERVER_KEEP_ALIVE: (_U16, (Kind.CONNACK,)),
    P.AUTH_METHOD: (_TEXT, _AUTHENTICATION),
    P.AUTH_DATA: (_BINARY, _AUTHENTICATION),
    P.REQUEST_PROBLEM: (_FLAG, (Kind.CONNECT,)),
    P.WILL_DELAY: (_U32, (WILL,)),
    P.REQUEST_RESPONSE: (_FLAG, (Kind.CONNECT,)),
    P.RESPONSE_INFO: (_TEXT, (Kind.CONNACK,)),
    P.SERVER_REFERENCE: (_TEXT, (Kind.CONNACK, Kind.DISCONNECT)),
    P.REASON: (_TEXT, _ANSWERS),
    P.RECEIVE_MAXIMUM: (_U16, _LIMITS),
    P.TOPIC_ALIAS_MAXIMUM: (_U16, _LIMITS),
    P.TOPIC_ALIAS: (_U16, (Kind.PUBLISH,)),
    P.MAXIMUM_QOS: (_FLAG, (Kind.CONNACK,)),
    P.RETAIN_AVAILABLE: (_FLAG, (Kind.CONNACK,)),
    P.USER: (_PAIRS, (*_ANSWERS, *_MESSAGE, Kind.CONNECT, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE)),
    P.MAXIMUM_PACKET_SIZE: (_U32, _LIMITS),
    P.WILDCARDS_AVAILABLE: (_FLAG, (Kind.CONNACK,)),
    P.SUBSCRIPTION_IDS_AVAILABLE: (_FLAG, (Kind.CONNACK,)),
    P.SHARED_AVAILABLE: (_FLAG, (Kind.CONNACK,)),
}

# What must not be 0, and the code that says so.
_NOT_ZERO: Final[Mapping[int, Reason]] = {
    P.SUBSCRIPTION_ID: Reason.PROTOCOL_ERROR,
    P.RECEIVE_MAXIMUM: Reason.PROTOCOL_ERROR,
    P.TOPIC_ALIAS: Reason.TOPIC_ALIAS_INVALID,
    P.MAXIMUM_PACKET_SIZE: Reason.PROTOCOL_ERROR,
}

# P.USER reads slowly from an enum; it is asked for once a property.
_USER: Final = 38


def _table(place: int, server: bool) -> bytes:
    """Property id -> data type, as `place` may have them where `server` says who reads."""
    table = bytearray(256)
    for ident, (kind, places) in _PROPERTIES.items():
        if place in places:
            table[ident] = kind
    if place == Kind.SUBSCRIBE:
        table[P.SUBSCRIPTION_ID] = _ID
    elif place == Kind.PUBLISH and server:
        table[P.SUBSCRIPTION_ID] = _FOREIGN  # 3.3.4
    elif place == Kind.DISCONNECT:
        table[P.SERVER_REFERENCE if server else P.SESSION_EXPIRY] = _FOREIGN  # 3.14.2.2
    return bytes(table)


# What the server reads, and what a client reads: place -> property id -> data type.
FROM_CLIENT: Final = {place: _table(place, server=True) for place in (WILL, *Kind)}
FROM_SERVER: Final = {place: _table(place, server=False) for place in (WILL, *Kind)}


def _read_byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise short()
    return data[at], at + 1


def _read_u16(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 2 > end:
        raise short()
    return data[at] << 8 | data[at + 1], at + 2


def _read_u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 4 > end:
        raise short()
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def _read_topic(data: bytes, at: int, end: int) -> tuple[str, int]:
    topic, at = read_binary(data, at, end)
    check_topic(topic)
    return topic.decode(), at


_READERS: Final[Mapping[int, Callable[[bytes, int, int], tuple[Any, int]]]] = {
    _FLAG: _read_byte,
    _U16: _read_u16,
    _U32: _read_u32,
    _ID: read_varint,
    _IDS: read_varint,
    _TEXT: read_text,
    _TOPIC: _read_topic,
    _BINARY: read_binary,
}


def read_props(data: bytes, at: int, stop: int, table: bytes) -> Props:
    """The properties between two offsets, both within one packet. Raises as the readers of fields do."""
    props: Props = {}
    pairs: list[tuple[str, str]] = []
    while at < stop:
        ident = data[at]
        kind = table[ident]
        at += 1
        if kind == _PAIRS:
            # written out: of these alone there may be many in a packet
            name_at = at + 2
            value_len = name_at + (data[at] << 8 | data[at + 1])
            value_at = value_len + 2
            at = value_at + (data[value_len] << 8 | data[value_len + 1])
            if at > stop:
                raise short()
            name = data[name_at:value_len].decode()
            value = data[value_at:at].decode()
            if "\0" in name or "\0" in value:
                raise nul()
            pairs.append((name, value))
            continue
        if kind == _UNKNOWN:
            raise Malformed(Reason.MALFORMED_PACKET, f"property {ident} does not belong into this packet")
        if kind == _FOREIGN:
            raise Malformed(Reason.PROTOCOL_ERROR, f"{P(ident).name} is for the other side to send")
        item, at = _READERS[kind](data, at, stop)
        if (kind == _FLAG and item > 1) or (not item and ident in _NOT_ZERO):
            raise Malformed(_NOT_ZERO.get(ident, Reason.PROTOCOL_ERROR), f"{P(ident).name} is {item}")
        if kind == _IDS:
            props.setdefault(ident, []).append(item)
        elif ident in props:
            raise Malformed(Reason.PROTOCOL_ERROR, f"{P(ident).name} twice")
        else:
            props[ident] = [item] if kind == _ID else item
    if pairs:
        props[_USER] = pairs
    return props


_WRITERS: Final[Mapping[int, Callable[[bytes, Any], bytes]]] = {
    _FLAG: lambda key, value: key + number(value, 1),
    _U16: lambda key, value: key + number(value, 2),
    _U32: lambda key, value: key + number(value, 4),
    _IDS: lambda key, values: b"".join([key + varint(value) for value in values]),
    _TEXT: lambda key, value: key + text(value),
    _TOPIC: lambda key, value: key + text(value),
    _BINARY: lambda key, value: key + binary(value),
    _PAIRS: lambda key, pairs: b"".join([key + text(name) + text(value) for name, value in pairs]),
}
# property id -> the byte that it is written as, and how its value is
_ENCODE: Final = {int(ident): (bytes((ident,)), _WRITERS[kind]) for ident, (kind, _) in _PROPERTIES.items()}


def encode_prop(ident: int, value: Any) -> bytes:
    """One property, or all of its kind for the two whose values are lists. Raises ValueError."""
    key, write = _ENCODE[ident]
    return write(key, value)


def encode_props(props: Props | None) -> bytes:
    """A block of properties with its length before it. Whether they belong into the packet is the caller's to know.

    Raises ValueError for a value that has no form in MQTT.
    """
    if not props:
        return b"\0"
    block = b"".join([encode_prop(ident, value) for ident, value in props.items()])
    return varint(len(block)) + block
