"""The frames of PROTOCOL 3, shared by the transports.

Client to gateway they are Structs told apart by `t`; gateway to client they are written straight into bytes,
since there the hot path is. Both encodings have the same structures: msgpack frames are made from the JSON
ones, except for acks and publishes on their way in, which msgspec reads as they are.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.errors import GatewayError, Invalid
from gateway.ids import encode_id, id_text
from gateway.model import MAX_DEPTH, PRIORITIES, Item, Kind, Publish

JSON = "botgw.v1.json"
MSGPACK = "botgw.v1.msgpack"

Seq = Annotated[int, Meta(ge=0, le=1 << 53)]
Why = Annotated[str, Meta(max_length=256)]
Token = Annotated[str, Meta(max_length=8192)]
# the nonce of a framed MQTT connection (PROTOCOL 4); a WebSocket has no use for it
Nonce = Annotated[str, Meta(max_length=64)] | None


class Hello(Struct, tag_field="t", tag="hello", forbid_unknown_fields=True):
    token: Token | None = None
    resume: Annotated[str, Meta(max_length=128)] | None = None
    epoch: Annotated[str, Meta(max_length=64)] | None = None
    ack: Seq | None = None
    window: Annotated[int, Meta(ge=1, le=65535)] | None = None
    pools: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=64)] | None = None
    c: Nonce = None


class Ack(Struct, tag_field="t", tag="ack", forbid_unknown_fields=True, gc=False):
    seq: Seq | None = None
    seqs: Annotated[list[Seq], Meta(max_length=65535)] | None = None
    c: Nonce = None


class Nack(Struct, tag_field="t", tag="nack", forbid_unknown_fields=True):
    seq: Seq
    delay: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    why: Why = ""
    c: Nonce = None


class Reject(Struct, tag_field="t", tag="reject", forbid_unknown_fields=True):
    seq: Seq
    why: Why = ""
    c: Nonce = None


class Working(Struct, tag_field="t", tag="working", forbid_unknown_fields=True):
    seq: Seq
    c: Nonce = None


class ReadFrame(Struct, tag_field="t", tag="read", forbid_unknown_fields=True):
    ids: Annotated[list[Annotated[str, Meta(max_length=13)]], Meta(max_length=1000)]
    c: Nonce = None


Ref = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=0, le=1 << 53)] | None


class PubEntry(Publish, forbid_unknown_fields=True, kw_only=True):
    """One message of a `pub` frame; `ref` comes back in its `ok` or `err`."""

    ref: Ref = None


class Pub(Struct, tag_field="t", tag="pub", forbid_unknown_fields=True):
    m: list[PubEntry]
    c: Nonce = None


class Bare(Struct, forbid_unknown_fields=True, gc=False):
    """A message that has a body and nothing else, as most have: read with less effort than a Publish."""

    to: Annotated[str, Meta(max_length=80)]
    body: Raw


class BareEntry(Bare, forbid_unknown_fields=True, gc=False):
    """The same in a `pub` frame."""

    ref: Ref = None


class BarePub(Struct, tag_field="t", tag="pub", forbid_unknown_fields=True):
    """The same frame where all its messages are such."""

    m: list[BareEntry]
    c: Nonce = None


class LoosePub(Struct, tag_field="t", tag="pub", forbid_unknown_fields=True):
    """The same frame with its messages unread: where one of them is bad, the others still count."""

    m: list[Raw]
    c: Nonce = None


class LooseEntry(Struct):
    ref: Any = None


class NewToken(Struct, tag_field="t", tag="token", forbid_unknown_fields=True):
    token: Token
    c: Nonce = None


class Ping(Struct, tag_field="t", tag="ping", forbid_unknown_fields=True):
    c: Nonce = None


class Bye(Struct, tag_field="t", tag="bye", forbid_unknown_fields=True):
    end: bool = False
    c: Nonce = None


Inbound = Hello | Ack | Nack | Reject | Working | ReadFrame | Pub | NewToken | Ping | Bye

_SPACE, _BACKSLASH = 0x20, 0x5C
# no integer of fewer digits is too large for a double
_SHORT = 300
_json_any = msgspec.json.Decoder()
_json_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode
_msgpack_any = msgspec.msgpack.Decoder()
_msgpack_encode = msgspec.msgpack.Encoder().encode


_place = re.compile(r"(.*?)(?: - at (?:`\w+` in )?`(\$.*)`)?", re.DOTALL).fullmatch
_named = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL).fullmatch


def blame(text: str) -> tuple[str, str]:
    """What msgspec complains of, and the path of the field, from `$` on: the name of an unknown or missing one too."""
    found = _place(text)
    why, path = (found[1], found[2] or "$") if found is not None else (text, "$")
    named = _named(why)
    return why, f"{path}.{named[1]}" if named is not None else path


def _depth(value: Any, left: int) -> bool:
    """Whether at most `left` containers stand in each other."""
    if isinstance(value, dict):
        return left > 0 and all(_depth(v, left - 1) for v in value.values())
    if isinstance(value, list):
        return left > 0 and all(_depth(v, left - 1) for v in value)
    return True


def check_body(raw: bytes, field: str = "$.body") -> None:
    """Raises Invalid unless `raw` (syntactically valid JSON) can be read by every client: nesting, numbers,
    surrogates.
    """
    try:
        value = _json_any.decode(raw)
        _pack(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError) as e:
        raise Invalid(
            f"not a JSON value every client can read: {e}", code="body_invalid", field=field
        ) from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and not _depth(value, MAX_DEPTH):
        raise Invalid(f"nesting over {MAX_DEPTH}", code="too_deep", field=field)


def fits_every_client(raw: bytes) -> bool:
    """Whether these bytes are JSON that passes `check_body`, without anything around it. What is nested deeply is left
    to that.
    """
    try:
        if not raw.isascii():
            raw.decode()
        value = _json_any.decode(raw)
        if len(raw) > _SHORT or _BACKSLASH in raw:
            _msgpack_encode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError):
        return False
    return raw[0] > _SPACE < raw[-1] and (
        # what is nested has two ends
        len(raw) <= 2 * MAX_DEPTH or raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH
    )


def body_from_msgpack(raw: bytes, field: str = "$.body") -> bytes:
    """A msgpack body as JSON. Raises Invalid for what JSON cannot say."""
    try:
        value = _msgpack_any.decode(raw)
        if not _depth(value, MAX_DEPTH):
            raise Invalid(f"nesting over {MAX_DEPTH}", code="too_deep", field=field)
        return _json_encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, UnicodeDecodeError) as e:
        raise Invalid(f"a body must be what JSON can say: {e}", code="body_invalid", field=field) from None


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, for hashing."""
    return _canonical(value)


def read_json(raw: bytes) -> Any:
    return _json_any.decode(raw)


# -- gateway to client, JSON
# ------------------------------------------------------------------------------------------

_MESSAGE = int(Kind.MESSAGE)
_TAIL = tuple(f',"priority":"{p}"'.encode() for p in PRIORITIES)


def trace_of(item: Item, root: str) -> str:
    """The message's traceparent: its publisher's, or one made from the id, which needs no storing."""
    if item.x is not None and item.x.trace is not None:
        return item.x.trace
    return f"00-{root}{item.id:016x}-{item.id:016x}-01"


def entry(item: Item, root: str) -> bytes:
    """One element of the list `m` of a `msg`, `gap` or `status` frame."""
    if item.kind == _MESSAGE:
        id, body, x = item.id, item.body, item.x
        assert body is not None, "the body of a message is read before it is written"
        head = b'{"seq":%d,"id":"%b","from":"%b","at":%d,"body":%b%b' % (
            item.seq,
            id_text(id),
            item.sender.encode(),
            item.at,
            body,
            _TAIL[item.lane],
        )
        if item.marks:
            head += b',"redelivered":%d' % item.marks
        if item.via:
            head += b',"via":' + _json_encode(item.via)
        if x is None:
            return b'%b,"trace":"00-%b%016x-%016x-01"}' % (head, root.encode(), id, id)
        if x.type is not None:
            head += b',"type":' + _json_encode(x.type)
        if x.meta is not None:
            head += b',"meta":' + _json_encode(x.meta)
        if x.reply_to is not None:
            head += b',"reply_to":' + _json_encode(x.reply_to)
        if x.correlation is not None:
            head += b',"correlation":' + _json_encode(x.correlation)
        if x.possible_dup is not None:
            head += b',"possible_dup":' + _json_encode(x.possible_dup)
        return head + b',"trace":"%b"}' % trace_of(item, root).encode()
    if item.kind == Kind.STATUS:
        # its body is the JSON object of the report; the seq goes in front
        return b'{"seq":%d,%b' % (item.seq, (item.body or b"{}")[1:])
    via = b',"via":' + _json_encode(item.via) if item.via else b""
    return b'{"seq":%d,"id":"%b","why":"%b"%b}' % (
        item.seq,
        id_text(item.id),
        item.why.encode(),
        via,
    )


def status_body(id: int, status: str, at: int, via: str, why: str) -> bytes:
    """The body of a status report: its entry in a `status` frame but for the seq."""
    out: dict[str, Any] = {"id": encode_id(id), "status": status, "at": at}
    if via:
        out["via"] = via
    if why:
        out["why"] = why
    return _json_encode(out)


_NAMES = (b"msg", b"status", b"gap")


def frame(kind: int, entries: Sequence[bytes]) -> bytes:
    """A `msg`, `status` or `gap` frame of these elements."""
    return b'{"t":"%b","m":[%b]}' % (_NAMES[kind], b",".join(entries))


def ok_entry(ref: Any, id: int, dup: bool) -> bytes:
    if type(ref) is int and not dup:
        return b'{"id":"%b","ref":%d}' % (id_text(id), ref)
    head = b'{"id":"%b"' % id_text(id)
    if ref is not None:
        head += b',"ref":' + _json_encode(ref)
    return head + (b',"dup":true}' if dup else b"}")


def ok_frame(entries: Sequence[bytes]) -> bytes:
    return b'{"t":"ok","m":[%b]}' % b",".join(entries)


def err_frame(error: GatewayError, ref: Any = None, close: int = 0) -> bytes:
    """An `err` frame. `ref` None: about the connection."""
    out: dict[str, Any] = {"t": "err", "code": error.code, "status": error.http, "detail": error.detail}
    if ref is not None:
        out["ref"] = ref
    if error.field is not None:
        out["field"] = error.field
    if error.retry_after is not None:
        out["retry_after"] = round(error.retry_after, 3)
    if close:
        out["close"] = close
    return _json_encode(out)


def any_frame(fields: dict[str, Any]) -> bytes:
    return _json_encode(fields)


PONG = b'{"t":"pong"}'


def to_msgpack(json_frame: bytes) -> bytes:
    """The same frame for a msgpack client."""
    return _pack(_json_any.decode(json_frame))


def _pack(value: Any) -> bytes:
    """Raises OverflowError for an integer that no double holds."""
    try:
        return _msgpack_encode(value)
    except (msgspec.MsgspecError, OverflowError):
        # integers beyond 64 bits are valid JSON; msgpack has floats for them
        return _msgpack_encode(_widen(value))


def _widen(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _widen(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_widen(v) for v in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value)
    return value
