"""What RFC 6455 adds to the frames of PROTOCOL 3: the header of each."""

import struct
from typing import Final

from gateway.transports import frames

_FIN_TEXT: Final = 0x81
_FIN_BINARY: Final = 0x82
_short = struct.Struct("!BB").pack
_medium = struct.Struct("!BBH").pack
_long = struct.Struct("!BBQ").pack


class Codec(frames.Codec):
    """One of the two encodings, chosen at the handshake."""

    __slots__ = ("first_byte",)

    def __init__(self, *, binary: bool) -> None:
        super().__init__(binary=binary)
        self.first_byte = _FIN_BINARY if binary else _FIN_TEXT


JSON_CODEC: Final = Codec(binary=False)
MSGPACK_CODEC: Final = Codec(binary=True)


def header(first_byte: int, length: int) -> bytes:
    """The header of a whole, unmasked frame (RFC 6455 5.2).

    The library's own way makes a Frame, checks it, and copies header and payload into a new buffer; here both go into
    the one `join` of a flush. Allowed where the library's state says OPEN, no message of ours is in fragments (none
    ever is) and no extension changes the payload.
    """
    if length < 126:
        return _short(first_byte, length)
    if length < 65536:
        return _medium(first_byte, 126, length)
    return _long(first_byte, 127, length)
