"""The data types that packets are made of (1.5), read and written.

Readers take the whole of what was received, the offset of the field and the offset at which its packet (or its block
of properties) ends, and return the value and the offset behind it. They raise Malformed; besides, bytes that are not
UTF-8 raise UnicodeDecodeError, and a field that lies behind everything received raises IndexError. The Reader turns
those two into Malformed as well: asking first would cost more than the whole field.

Writers raise ValueError for what has no form in MQTT.
"""

from typing import Final

from gateway.transports.mqtt.codec.types import MAX_VARINT, Malformed, Reason

_PLUS: Final = ord("+")
_HASH: Final = ord("#")


def short() -> Malformed:
    """A field goes on behind the end of its packet."""
    return Malformed(Reason.MALFORMED_PACKET, "the packet ends within a field")


def not_utf8() -> Malformed:
    """1.5.4: surrogates and overlong forms are none either, and Python's decoder takes neither."""
    return Malformed(Reason.MALFORMED_PACKET, "a string is not UTF-8")


def nul() -> Malformed:
    """1.5.4."""
    return Malformed(Reason.MALFORMED_PACKET, "a string contains U+0000")


def padded() -> Malformed:
    """1.5.5."""
    return Malformed(Reason.MALFORMED_PACKET, "a length in more bytes than it needs")


def overlong() -> Malformed:
    """1.5.5."""
    return Malformed(Reason.MALFORMED_PACKET, "a length of more than four bytes")


def no_pid() -> Malformed:
    """2.2.1."""
    return Malformed(Reason.PROTOCOL_ERROR, "packet id 0")


def read_text(data: bytes, at: int, end: int) -> tuple[str, int]:
    """A UTF-8 Encoded String (1.5.4)."""
    start = at + 2
    stop = start + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise short()
    text = data[start:stop].decode()
    if "\0" in text:
        raise nul()
    return text, stop


def read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Binary Data (1.5.6)."""
    start = at + 2
    stop = start + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise short()
    return data[start:stop], stop


def read_filter(data: bytes, at: int, end: int) -> tuple[str, int]:
    """A topic filter: only that it is not empty is looked at (4.7.3)."""
    text, at = read_text(data, at, end)
    if not text:
        raise Malformed(Reason.PROTOCOL_ERROR, "an empty topic filter")
    return text, at


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A Variable Byte Integer (1.5.5): at most four bytes, and no more than its value needs."""
    value = 0
    for shift in (0, 7, 14, 21):
        if at >= end:
            raise short()
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift and not byte:
                raise padded()
            return value, at
    raise overlong()


def check_topic(topic: bytes) -> None:
    """A topic name: UTF-8, not empty, no NUL, no wildcards (4.7). Raises Malformed, UnicodeDecodeError."""
    if not topic.isascii():
        topic.decode()
    if not topic:
        raise Malformed(Reason.PROTOCOL_ERROR, "an empty topic name")
    if 0 in topic:
        raise nul()
    if _PLUS in topic or _HASH in topic:
        raise Malformed(Reason.PROTOCOL_ERROR, "a wildcard in a topic name")


def varint(value: int) -> bytes:
    """A Variable Byte Integer."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} is not within 0..{MAX_VARINT}")
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    return bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def number(value: int, size: int) -> bytes:
    """A number in `size` bytes."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise ValueError(f"{value} does not fit into {size} bytes") from None


def binary(value: bytes) -> bytes:
    """Binary Data."""
    if len(value) > 0xFFFF:
        raise ValueError("binary data has at most 65535 bytes")
    return len(value).to_bytes(2, "big") + value


def text(value: str) -> bytes:
    """A UTF-8 Encoded String; UnicodeEncodeError, which is a ValueError, for a lone surrogate."""
    encoded = value.encode()
    if len(encoded) > 0xFFFF or 0 in encoded:
        raise ValueError("a string has at most 65535 bytes and no U+0000")
    return len(encoded).to_bytes(2, "big") + encoded
