"""Frames as values: how one is decoded, what is said of a bad one, what a connection is closed with after an error.

A frame that cannot be read ends the connection. Only `pub` is read twice: where the frame as a whole is sound but some
of its messages are not, each message is decoded by itself, so that the good ones count.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from gateway.errors import Close, Forbidden, GatewayError, Invalid, Limited, Unauthorized, Unavailable
from gateway.wire import BarePub, Inbound, LooseEntry, LoosePub, PubEntry, blame, to_msgpack

# what msgspec raises for bad input; RecursionError: nesting that it does not follow
# how most `pub` frames begin, as JSON
_PUB: Final = b'{"t":"pub",'
_BAD: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
# an error names what was wrong, it does not send it back whole
MAX_TOLD: Final = 200


class Codec:
    """One of the two encodings, shared by all connections that use it."""

    __slots__ = ("binary", "decode", "decode_bare", "decode_entry", "decode_loose", "decode_ref", "encode")

    def __init__(self, *, binary: bool) -> None:
        decoder: Any = msgspec.msgpack.Decoder if binary else msgspec.json.Decoder
        self.binary = binary
        self.decode: Callable[[bytes], Inbound] = decoder(Inbound).decode
        self.decode_bare: Callable[[bytes], BarePub] = decoder(BarePub).decode
        self.decode_loose: Callable[[bytes], LoosePub] = decoder(LoosePub).decode
        self.decode_entry: Callable[[Raw], PubEntry] = decoder(PubEntry).decode
        self.decode_ref: Callable[[Raw], LooseEntry] = decoder(LooseEntry).decode
        self.encode: Callable[[bytes], bytes] = to_msgpack if binary else bytes


class BadEntry(NamedTuple):
    """A message of a `pub` frame that cannot be read, and its `ref` where that can."""

    ref: str | int | None
    error: GatewayError


def read_frame(codec: Codec, data: bytes) -> Inbound | BarePub | LoosePub:
    """A frame of the client. BarePub: all its messages are a body and nothing else; LoosePub: some of them are bad.
    Raises Invalid: the connection must end.
    """
    if data.startswith(_PUB):
        try:
            return codec.decode_bare(data)
        except _BAD:
            # it has more, or is bad
            pass
    try:
        return codec.decode(data)
    except _BAD as error:
        try:
            return codec.decode_loose(data)
        except _BAD:
            raise complaint(error, "$") from None


def read_entry(codec: Codec, raw: Raw, at: str) -> PubEntry | BadEntry:
    """One message of a LoosePub; `at` is where it stands, such as `$.m[2]`."""
    try:
        return codec.decode_entry(raw)
    except _BAD as error:
        return BadEntry(_read_ref(codec, raw), complaint(error, at))


def _read_ref(codec: Codec, raw: Raw) -> str | int | None:
    try:
        ref = codec.decode_ref(raw).ref
    except _BAD:
        return None
    if isinstance(ref, str) and len(ref) <= 64:
        return ref
    if type(ref) is int and 0 <= ref <= 1 << 53:
        return ref
    return None


def complaint(error: Exception, at: str) -> Invalid:
    """What msgspec raised, as an error that names the field; `at` is where the decoded part stands in its frame."""
    if isinstance(error, RecursionError):
        return Invalid("nested too deeply", code="too_deep", field=at)
    if not isinstance(error, msgspec.ValidationError):
        why = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        return Invalid(why[:MAX_TOLD], code="malformed", field=at, http=400)
    why, path = blame(str(error))
    return Invalid(why[:MAX_TOLD], field=(at + path[1:])[:MAX_TOLD])


def close_code(error: GatewayError) -> Close:
    """What a connection that cannot go on after `error` is closed with (PROTOCOL 3)."""
    match error:
        case Unauthorized(code="token_expired" | "token_revoked"):
            return Close.TOKEN_EXPIRED
        case Forbidden(code="banned"):
            return Close.BANNED
        case Unauthorized() | Forbidden():
            return Close.NOT_AUTHORISED
        case Limited():
            return Close.RATE
        case Unavailable():
            return Close.DRAIN
        case _:
            return Close.PROTOCOL
