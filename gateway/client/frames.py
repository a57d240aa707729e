"""The frames of PROTOCOL 3 from the client's side, and the two encodings.

What the gateway sends is read with tolerance, as clients must for additions: unknown fields and unknown `t` are passed
over. What the client sends leaves out every field at its default. `c` is the nonce of a framed MQTT connection
(PROTOCOL 4): the session puts it into what it sends, and looks at it in what comes.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from gateway.wire import JSON, MSGPACK


class BadFrame(Exception):
    """The gateway sent what is no frame, or a known frame with wrong fields."""


# -- client to gateway ------------------------------------------------------------------------------------------------


class Hello(Struct, tag_field="t", tag="hello", omit_defaults=True):
    token: str | None = None
    resume: str | None = None
    epoch: str | None = None
    ack: int | None = None
    window: int | None = None


class Ack(Struct, tag_field="t", tag="ack", omit_defaults=True):
    """Either `seq`, which settles everything up to it, or single `seqs`."""

    seq: int | None = None
    seqs: list[int] | None = None


class Nack(Struct, tag_field="t", tag="nack", omit_defaults=True):
    seq: int
    delay: float | None = None
    why: str = ""


class Reject(Struct, tag_field="t", tag="reject", omit_defaults=True):
    seq: int
    why: str = ""


class Working(Struct, tag_field="t", tag="working"):
    seq: int


class Read(Struct, tag_field="t", tag="read"):
    ids: list[str]


class Pub(Struct, tag_field="t", tag="pub"):
    """`m`: the messages, encoded already."""

    m: list[Raw]


class NewToken(Struct, tag_field="t", tag="token"):
    token: str


class Ping(Struct, tag_field="t", tag="ping"):
    pass


class Bye(Struct, tag_field="t", tag="bye", omit_defaults=True):
    end: bool = False


Outbound = Hello | Ack | Nack | Reject | Working | Read | Pub | NewToken | Ping | Bye


# -- gateway to client ------------------------------------------------------------------------------------------------


class Welcome(Struct, tag_field="t", tag="welcome"):
    client: str
    epoch: str
    resume: str
    resumed: bool
    next: int
    window: int
    heartbeat: float
    max_payload: int = 65536
    missed: dict[str, int] = field(default_factory=dict)
    why: str | None = None
    c: str | None = None


class MsgEntry(Struct):
    seq: int
    id: str
    sender: str = field(name="from")
    at: int
    body: Any
    type: str | None = None
    priority: str = "normal"
    redelivered: int = 0
    trace: str | None = None
    meta: dict[str, str] | None = None
    via: str | None = None
    possible_dup: str | None = None
    reply_to: str | None = None
    correlation: str | None = None


class Msg(Struct, tag_field="t", tag="msg"):
    m: list[MsgEntry]
    c: str | None = None


class Gap(Struct):
    """A bound seq whose message can no longer be delivered. `why`: expired, superseded, dead."""

    seq: int
    id: str
    why: str
    via: str | None = None


class Gaps(Struct, tag_field="t", tag="gap"):
    m: list[Gap]
    c: str | None = None


class StatusReport(Struct):
    """What became of a message published with `notify`. `at`: Unix ms; `via`: ws, mqtt or a channel's name."""

    seq: int
    id: str
    status: str
    at: int
    via: str | None = None


class Statuses(Struct, tag_field="t", tag="status"):
    m: list[StatusReport]
    c: str | None = None


class OkEntry(Struct):
    id: str
    ref: str | int | None = None
    dup: bool = False


class Ok(Struct, tag_field="t", tag="ok"):
    m: list[OkEntry]
    c: str | None = None


class Err(Struct, tag_field="t", tag="err"):
    """With `ref`: the answer to one publish. Without: about the connection; `close` where no close code can follow."""

    code: str
    status: int
    detail: str = ""
    ref: str | int | None = None
    retry_after: float | None = None
    field: str | None = None
    close: int | None = None
    c: str | None = None


class Goaway(Struct, tag_field="t", tag="goaway"):
    after: tuple[float, float]
    why: str = ""
    c: str | None = None


class Pong(Struct, tag_field="t", tag="pong"):
    c: str | None = None


Inbound = Welcome | Msg | Gaps | Statuses | Ok | Err | Goaway | Pong
_KNOWN = frozenset(("welcome", "msg", "gap", "status", "ok", "err", "goaway", "pong"))


class _Tag(Struct):
    t: str


class Codec:
    """One of the two encodings. `subprotocol` is the WebSocket's, `text` the kind of its frames."""

    __slots__ = ("_decode", "_tag", "encode", "subprotocol", "text")

    def __init__(self, encoding: str) -> None:
        self.encode: Callable[[Any], bytes]
        self._decode: Callable[[bytes], Inbound]
        self._tag: Callable[[bytes], _Tag]
        if encoding == "json":
            self.encode = msgspec.json.Encoder().encode
            self._decode = msgspec.json.Decoder(Inbound).decode
            self._tag = msgspec.json.Decoder(_Tag).decode
        elif encoding == "msgpack":
            self.encode = msgspec.msgpack.Encoder().encode
            self._decode = msgspec.msgpack.Decoder(Inbound).decode
            self._tag = msgspec.msgpack.Decoder(_Tag).decode
        else:
            raise ValueError(f"unknown encoding {encoding!r}: json or msgpack")
        self.text = encoding == "json"
        self.subprotocol = JSON if self.text else MSGPACK

    def decode(self, data: bytes) -> Inbound | None:
        """The frame, or None for a kind this client does not know. Raises BadFrame."""
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            try:
                unknown = self._tag(data).t not in _KNOWN
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                unknown = False
            if unknown:
                return None
            raise BadFrame(f"not a frame: {e}") from None
