"""Plain MQTT (PROTOCOL 4): a message as a PUBLISH for stock clients, and their PUBLISH as a message.

What a message has beside its body stands in MQTT 5 properties; 3.1.1 has none of it. A message's `meta` and the user
properties share their names, so a name with a meaning of its own is written as `meta.<name>`.

An MQTT string holds no control characters and no noncharacters (MQTT 5, 1.5.4): a client may hang up on one that does,
and it would get the message again and again. In a type or meta each is written as U+FFFD; a body is not concerned.
"""

import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.errors import Forbidden, GatewayError, Invalid, Limited, Unauthorized, Unavailable
from gateway.ids import id_text
from gateway.model import MAX_TTL, PRIORITIES, Extra, Item
from gateway.model import Publish as Message
from gateway.transports.mqtt.codec import P, Props, Publish, Reason, Will, publish_packet
from gateway.transports.mqtt.codec.fields import varint
from gateway.wire import blame, trace_of

MAX_CORRELATION_BYTES: Final = 128
OCTETS: Final = "application/octet-stream"
# a packet id comes again after this many seqs; 0 is none
PACKET_IDS: Final = 65535

_u16 = struct.Struct(">H").pack
_u32 = struct.Struct(">I").pack
_MAX_EXPIRY: Final = 0xFFFF_FFFF
_as_text = msgspec.json.Decoder(str).decode
_as_json = msgspec.json.Encoder().encode
_whole = msgspec.json.Decoder(Raw).decode
_nonchars: Final = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_unfit = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_nonchars}]").sub


# -- to the client
# ---------------------------------------------------------------------------------------------------


def packet_id(seq: int) -> int:
    """The packet id of a seq at QoS 1."""
    return (seq - 1) % PACKET_IDS + 1


def _length(number: int) -> bytes:
    """A Variable Byte Integer: nearly all are of two bytes."""
    if number < 128:
        return b"%c" % number
    if number < 16_384:
        return b"%c%c" % (number & 127 | 128, number >> 7)
    return varint(number)


def _text(value: bytes) -> bytes:
    return _u16(len(value)) + value


def _user(name: bytes, value: bytes) -> bytes:
    return b"\x26%b%b%b%b" % (_u16(len(name)), name, _u16(len(value)), value)


def _fit(text: str) -> bytes:
    """A string as MQTT takes it."""
    return _unfit("\ufffd", text).encode()


_JSON: Final = b"\x01\x01\x03" + _text(b"application/json")
_PLAIN: Final = b"\x01\x01\x03" + _text(b"text/plain; charset=utf-8")
_PRIORITY: Final = tuple(_user(b"priority", p.encode()) for p in PRIORITIES)


class Plain:
    """Writes the messages of one connection.

    `version` is 4 or 5, `topic` its inbox, `reply` the topic of a reply but for the address at its end. `epoch` is ""
    and a message's seq 0 behind a broker, which hands out packet ids of its own.
    """

    __slots__ = (
        "_from",
        "_json",
        "_plain",
        "_reply",
        "_root",
        "_root_bytes",
        "_sender",
        "_topic",
        "_version",
    )

    def __init__(self, version: int, topic: bytes, epoch: str, root: str, reply: bytes) -> None:
        self._version = version
        self._topic = topic
        of_epoch = _user(b"epoch", epoch.encode()) if epoch else b""
        self._json = _JSON + of_epoch
        self._plain = _PLAIN + of_epoch
        self._reply = reply
        self._root = root
        self._root_bytes = root.encode()
        self._sender = ""
        self._from = b""

    def publish(self, item: Item, now: int, qos: int, dup: bool = False) -> bytes:
        """The whole packet. Its body must be there; at QoS 1 its seq."""
        payload, props = self.parts(item, now)
        pid = (item.seq - 1) % PACKET_IDS + 1 if qos else 0
        return publish_packet(0x30 | dup << 3 | qos << 1, self._topic, pid, props, payload)

    def parts(self, item: Item, now: int) -> tuple[bytes, bytes]:
        """Payload, and the block of properties with its length; 3.1.1 has none."""
        body = item.body
        assert body is not None, "the body of a message is read before it is written"
        if body[0] == 0x22:
            payload = _as_text(body).encode() if b"\\" in body else body[1:-1]
            fixed = self._plain
        else:
            payload = body
            fixed = self._json
        if self._version != 5:
            return payload, b""
        if item.sender != self._sender:
            self._sender = item.sender
            self._from = _user(b"from", item.sender.encode())
        left = (item.expire - now + 999) // 1000
        if left < 1 or left > _MAX_EXPIRY:
            left = 1 if left < 1 else _MAX_EXPIRY
        id = id_text(item.id)
        digits = b"%d" % item.seq
        seq = b"\x26\x00\x03seq\x00%c%b" % (len(digits), digits) if item.seq else b""
        x = item.x
        if x is None:
            made = b"%016x" % item.id
            rest = b"\x09\x00\x0d%b\x26\x00\x0btraceparent\x00\x3700-%b%b-%b-01" % (
                id, self._root_bytes, made, made
            )  # fmt: skip
        else:
            rest = self._extra(x, id, trace_of(item, self._root))
        if item.marks:
            rest += _user(b"redelivered", b"%d" % item.marks)
        if item.via:
            rest += _user(b"via", item.via.encode())
        props = b"%b\x02%b\x26\x00\x02id\x00\x0d%b%b%b%b%b" % (
            fixed, _u32(left), id, seq, self._from, _PRIORITY[item.lane], rest
        )  # fmt: skip
        return payload, _length(len(props)) + props

    def _extra(self, x: Extra, id: bytes, trace: str) -> bytes:
        """What only some messages have, and what depends on it."""
        out = b"\x09" + _text(b64decode(x.correlation) if x.correlation is not None else id)
        if x.reply_to is not None:
            out += b"\x08" + _text(self._reply + x.reply_to.encode())
        if x.type is not None:
            out += _user(b"type", _fit(x.type))
        if x.possible_dup is not None:
            out += _user(b"possible_dup", x.possible_dup.encode())
        out += _user(b"traceparent", trace.encode())
        if x.meta is not None:
            for name, value in x.meta.items():
                out += _user(_fit(f"meta.{name}" if is_reserved(name) else name), _fit(value))
        return out


# -- from the client
# ------------------------------------------------------------------------------------------------------


def _number(name: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text, type=int | float)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise Invalid("not a number", field=f"user property {name}") from None


def _list(_: str, text: str) -> Any:
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _as_is(_: str, text: str) -> Any:
    return text


# user property -> field of the message, and how its text is read
_FIELDS: Final[dict[str, tuple[str, Callable[[str, str], Any]]]] = {
    "priority": ("priority", _as_is),
    "ttl": ("ttl", _number),
    "deadline": ("deadline", _number),
    "deliver_at": ("deliver_at", _number),
    "fallback": ("fallback", _list),
    "key": ("key", _as_is),
    "type": ("type", _as_is),
    "collapse": ("collapse", _as_is),
    "notify": ("notify", _list),
    "traceparent": ("trace", _as_is),
}
# those of a message to the client beside these
_DOWN: Final = frozenset(("id", "seq", "epoch", "from", "redelivered", "possible_dup", "via"))


def is_reserved(name: str) -> bool:
    """Whether a user property of this name is no entry of `meta`."""
    return name in _FIELDS or name in _DOWN or name.startswith("meta.")


def read_publish(packet: Publish | Will, address: str, own_inbox: bytes) -> Message:
    """A PUBLISH, or a will, to `address`, as the message that it means. `own_inbox` is that of its client.

    Raises Invalid, its `field` naming the property or the payload. The hub checks the address and all that needs to
    know more.
    """
    if packet.props is None:
        body, binary = read_body(packet.payload)
        return Message(to=address, body=body, type=OCTETS if binary else None)
    return _read_with(packet.props, packet.payload, address, own_inbox)


def read_body(payload: bytes) -> tuple[Raw, bool]:
    """A payload as JSON, and whether it is binary: JSON as it is, other text as a string, the rest in base64.

    What is JSON by its grammar and not what every client can read is refused later, as on every way in.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            return Raw(b'"%b"' % b64encode(payload)), True
    try:
        return _whole(payload), False
    except msgspec.DecodeError:
        return Raw(_as_json(payload.decode())), False
    except RecursionError:
        raise Invalid("nested too deeply", code="too_deep", field="payload") from None


def _read_with(props: Props, payload: bytes, address: str, own_inbox: bytes) -> Message:
    body, binary = read_body(payload)
    if binary and props.get(P.PAYLOAD_FORMAT) == 1:
        raise Invalid("not the UTF-8 that its format says", code="body_invalid", field="payload")
    fields = _read_user(props.get(P.USER, ()))
    fields["to"] = address
    expiry = props.get(P.MESSAGE_EXPIRY)
    if expiry is not None:
        fields.setdefault("ttl", min(max(expiry, 1), MAX_TTL))
    if binary:
        fields.setdefault("type", OCTETS)
    response = props.get(P.RESPONSE_TOPIC)
    if response is not None:
        if response.encode() != own_inbox:
            raise Invalid(
                f"replies go to your own inbox, {own_inbox.decode()}",
                code="topic_invalid",
                field="response topic",
            )
        fields["reply_to"] = response.rpartition("/")[2]
    correlation = props.get(P.CORRELATION)
    if correlation is not None:
        if len(correlation) > MAX_CORRELATION_BYTES:
            raise Invalid(f"over {MAX_CORRELATION_BYTES} bytes", field="correlation data")
        fields["correlation"] = b64encode(correlation).decode()
    try:
        message = msgspec.convert(fields, Message)
    except msgspec.ValidationError as error:
        raise _complaint(error) from None
    message.body = body
    return message


def _read_user(properties: list[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a message that its user properties name; what is no field is `meta`."""
    fields: dict[str, Any] = {}
    meta: dict[str, str] = {}
    for name, value in properties:
        found = _FIELDS.get(name)
        if found is None:
            entry = name.removeprefix("meta.")
            twice = entry in meta
            meta[entry] = value
        else:
            field, read = found
            twice = field in fields
            fields[field] = read(name, value)
        if twice:
            raise Invalid("given twice", field=f"user property {name}"[:200])
    if meta:
        fields["meta"] = meta
    return fields


def _complaint(error: msgspec.ValidationError) -> Invalid:
    why, path = blame(str(error))
    if path == "$.to":
        return Invalid(why, code="address_invalid", field="topic")
    name = path.removeprefix("$.")
    return Invalid(why, field="user property " + ("traceparent" if name == "trace" else name))


# -- answers
# ------------------------------------------------------------------------------------------------------


def reason_of(error: GatewayError) -> Reason:
    """What a refused publish is answered with: the reason code of its PUBACK (3.4.2.1)."""
    code = error.code
    if isinstance(error, Forbidden | Unauthorized):
        return Reason.NOT_AUTHORIZED
    if isinstance(error, Limited) or error.http == 413:
        return Reason.QUOTA_EXCEEDED
    if code.startswith("body_") or code == "too_deep":
        return Reason.PAYLOAD_FORMAT_INVALID
    if code.startswith("address_") or code in {"client_unknown", "topic_invalid"}:
        return Reason.TOPIC_NAME_INVALID
    return Reason.IMPLEMENTATION_SPECIFIC


def may_succeed_later(error: GatewayError) -> bool:
    """Whether the same publish may be accepted another time."""
    return isinstance(error, Unavailable | Limited)
