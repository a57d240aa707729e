"""Packets as bytes, for both sides.

`version` is 4 (3.1.1) or 5. What 3.1.1 has no field for (properties, most reason codes) is left out there, so one call
serves both. Topics, filters, packet ids, flags and codes are the caller's own and taken as they are. Text, binary data
and properties may be somebody else's: what has no form in MQTT raises ValueError.
"""

import struct
from collections.abc import Iterable
from typing import Final

from gateway.transports.mqtt.codec.fields import binary, number, text, varint
from gateway.transports.mqtt.codec.properties import encode_props
from gateway.transports.mqtt.codec.reasons import RETURN_CODES
from gateway.transports.mqtt.codec.types import Kind, P, Props, Will

_u16 = struct.Struct("!H").pack
_puback = struct.Struct("!HH").pack
_PUBACK: Final = 0x4002
_plain_ack = struct.Struct("!BBH").pack
# first byte, remaining length of one or two bytes, length of the topic
_head_1 = struct.Struct("!BBH").pack
_head_2 = struct.Struct("!BBBH").pack

_PINGREQ: Final = b"\xc0\0"
_PINGRESP: Final = b"\xd0\0"


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + varint(len(body)) + body


def _props(version: int, props: Props | None) -> bytes:
    return b"" if version == 4 else encode_props(props)


def connect(
    version: int,
    client_id: str,
    *,
    clean: bool = True,
    keep_alive: int = 0,
    username: str | None = None,
    password: bytes | None = None,
    will: Will | None = None,
    props: Props | None = None,
) -> bytes:
    """CONNECT. `keep_alive` in seconds."""
    flags = clean << 1 | (username is not None) << 7 | (password is not None) << 6
    rest = [_props(version, props), text(client_id)]
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
        rest += [_props(version, will.props), binary(will.topic), binary(will.payload)]
    if username is not None:
        rest.append(text(username))
    if password is not None:
        rest.append(binary(password))
    return _packet(0x10, b"\0\4MQTT", bytes((version, flags)), number(keep_alive, 2), *rest)


def connack(version: int, session_present: bool, code: int = 0, props: Props | None = None) -> bytes:
    """CONNACK. Nothing where 3.1.1 has no return code for that reason: close without one (3.1.1: 3.2.2.3)."""
    if version == 5:
        return _packet(0x20, bytes((session_present, code)), encode_props(props))
    returned = RETURN_CODES.get(code)
    return b"" if returned is None else bytes((0x20, 2, session_present, returned))


def publish(
    version: int,
    topic: bytes,
    payload: bytes,
    *,
    qos: int = 0,
    dup: bool = False,
    retain: bool = False,
    pid: int = 0,
    props: Props | bytes | None = None,
) -> bytes:
    """PUBLISH. `props` may be what `encode_props` made of them, once for many packets."""
    if version == 4:
        block = b""
    elif not props:
        block = b"\0"
    else:
        block = props if isinstance(props, bytes) else encode_props(props)
    first = 0x30 | dup << 3 | qos << 1 | retain
    return publish_packet(first, topic, pid if qos else 0, block, payload)


def publish_packet(first: int, topic: bytes, pid: int, block: bytes, payload: bytes) -> bytes:
    """PUBLISH of ready parts: its first byte, packet id (0: none, at QoS 0), the properties with their length."""
    size = len(topic)
    rest = size + len(block) + len(payload) + (4 if pid else 2)
    if size > 0xFFFF:
        raise ValueError("a topic has at most 65535 bytes")
    if rest < 0x80:
        head = _head_1(first, rest, size)
    elif rest < 0x4000:
        head = _head_2(first, rest & 0x7F | 0x80, rest >> 7, size)
    else:
        head = bytes((first,)) + varint(rest) + _u16(size)
    if pid:
        return b"".join((head, topic, _u16(pid), block, payload))
    return b"".join((head, topic, block, payload))


def puback(version: int, pid: int, code: int = 0, reason: str = "") -> bytes:
    """PUBACK, with a reason string where that is not empty. 3.1.1 cannot refuse: there it always says success."""
    if version == 4 or not (code or reason):
        return _plain_ack(0x40, 2, pid)
    return ack(version, Kind.PUBACK, pid, code, {P.REASON: reason} if reason else None)


def pubacks(pids: list[int]) -> bytes:
    """PUBACKs that say success, in both versions."""
    return b"".join([_puback(_PUBACK, pid) for pid in pids])


def ack(version: int, kind: Kind, pid: int, code: int = 0, props: Props | None = None) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; in 3.1.1 they always say success."""
    first = kind << 4 | (2 if kind == Kind.PUBREL else 0)
    if version == 4 or not (code or props):
        return _plain_ack(first, 2, pid)
    return _packet(first, _u16(pid), bytes((code,)), encode_props(props) if props else b"")


def subscribe(
    version: int, pid: int, filters: Iterable[tuple[str, int]], props: Props | None = None
) -> bytes:
    """SUBSCRIBE: filters, each with its QoS or, in 5, its options byte."""
    pairs = [text(topic_filter) + bytes((options,)) for topic_filter, options in filters]
    return _packet(0x82, _u16(pid), _props(version, props), *pairs)


def suback(version: int, pid: int, codes: Iterable[int], props: Props | None = None) -> bytes:
    """SUBACK: one code for each filter. 3.1.1 knows one refusal, 0x80: any other is written so."""
    granted = bytes(codes) if version == 5 else bytes([min(code, 0x80) for code in codes])
    return _packet(0x90, _u16(pid), _props(version, props), granted)


def unsubscribe(version: int, pid: int, filters: Iterable[str], props: Props | None = None) -> bytes:
    """UNSUBSCRIBE."""
    return _packet(0xA2, _u16(pid), _props(version, props), *map(text, filters))


def unsuback(version: int, pid: int, codes: Iterable[int], props: Props | None = None) -> bytes:
    """UNSUBACK: one code for each filter; none in 3.1.1."""
    return _packet(0xB0, _u16(pid), _props(version, props), b"" if version == 4 else bytes(codes))


def pingreq() -> bytes:
    """PINGREQ."""
    return _PINGREQ


def pingresp() -> bytes:
    """PINGRESP."""
    return _PINGRESP


def disconnect(version: int, code: int = 0, props: Props | None = None) -> bytes:
    """DISCONNECT. In 3.1.1 it is the client's alone, and says no more than that it ends well."""
    if version == 4 or not (code or props):
        return b"\xe0\0"
    return _packet(0xE0, bytes((code,)), encode_props(props) if props else b"")


def auth(code: int = 0, props: Props | None = None) -> bytes:
    """AUTH, MQTT 5 only."""
    return _packet(0xF0, bytes((code,)), encode_props(props)) if code or props else b"\xf0\0"
