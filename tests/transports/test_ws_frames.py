"""Frames by themselves: headers as the library writes them, errors that name the field, bad messages told apart."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from websockets.frames import Frame, Opcode

from gateway import wire
from gateway.errors import (
    Close,
    Conflict,
    Forbidden,
    GatewayError,
    Invalid,
    Limited,
    Unauthorized,
    Unavailable,
)
from gateway.transports.frames import MAX_TOLD, BadEntry, Codec, close_code, read_entry, read_frame
from gateway.transports.websocket.frames import JSON_CODEC, MSGPACK_CODEC, header

CODECS = pytest.mark.parametrize("codec", [JSON_CODEC, MSGPACK_CODEC], ids=["json", "msgpack"])


def packed(codec: Codec, value: Any) -> bytes:
    return msgspec.msgpack.encode(value) if codec.binary else msgspec.json.encode(value)


def complaint(codec: Codec, value: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read_frame(codec, value if isinstance(value, bytes) else packed(codec, value))
    return caught.value


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 300_000])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_headers_are_the_library_s(length: int, opcode: Opcode) -> None:
    payload = b"x" * length
    assert header(0x80 | opcode, length) + payload == Frame(opcode, payload).serialize(mask=False)


@CODECS
@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        ({"t": "nope"}, "invalid", "$.t"),
        ({}, "invalid", "$.t"),
        ([1], "invalid", "$"),
        ({"t": "ack", "seq": "1"}, "invalid", "$.seq"),
        ({"t": "ack", "seq": -1}, "invalid", "$.seq"),
        ({"t": "ack", "sq": 1}, "invalid", "$.sq"),
        ({"t": "nack"}, "invalid", "$.seq"),
        ({"t": "nack", "seq": 1, "delay": -1}, "invalid", "$.delay"),
        ({"t": "reject", "seq": 1, "why": "x" * 257}, "invalid", "$.why"),
        ({"t": "read", "ids": ["x", 5]}, "invalid", "$.ids[1]"),
        ({"t": "hello", "window": 0}, "invalid", "$.window"),
        ({"t": "pub", "m": {}}, "invalid", "$.m"),
        ({"t": "pub", "m": [], "extra": 1}, "invalid", "$.extra"),
        ({"t": "pub"}, "invalid", "$.m"),
        ({"t": "bye", "end": 1}, "invalid", "$.end"),
    ],
)
def test_a_bad_frame_is_refused_with_the_field(codec: Codec, value: Any, code: str, field: str) -> None:
    error = complaint(codec, value)
    assert (error.code, error.field, error.http) == (code, field, 422)


@pytest.mark.parametrize("data", [b"", b"{", b"nonsense", b'{"t":"ping"} x', b'{"t":"ping",}'])
def test_what_is_no_json_is_malformed(data: bytes) -> None:
    error = complaint(JSON_CODEC, data)
    assert (error.code, error.http) == ("malformed", 400)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x81\xa1t", b"\xdf\xff\xff\xff\xff", b"\x81\xa1t\xa2\xff\xff"]
)
def test_what_is_no_msgpack_is_malformed(data: bytes) -> None:
    error = complaint(MSGPACK_CODEC, data)
    assert (error.code, error.http) == ("malformed", 400)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (JSON_CODEC, b'{"t":"pub","m":[{"to":"bob","body":' + b"[" * 5000 + b"]" * 5000 + b"}]}"),
        (MSGPACK_CODEC, b"\x82\xa1t\xa3pub\xa1m\x91\x82\xa2to\xa3bob\xa4body" + b"\x91" * 5000 + b"\x01"),
    ],
    ids=["json", "msgpack"],
)
def test_nesting_that_no_decoder_follows_is_too_deep(codec: Codec, data: bytes) -> None:
    error = complaint(codec, data)
    assert (error.code, error.http) == ("too_deep", 422)


@CODECS
def test_what_is_told_is_short_whatever_was_sent(codec: Codec) -> None:
    error = complaint(codec, {"t": "x" * 10_000})
    assert len(error.detail) <= MAX_TOLD
    error = complaint(codec, {"t": "ping", "y" * 10_000: 1})
    assert len(error.detail) <= MAX_TOLD
    assert error.field is not None
    assert len(error.field) <= MAX_TOLD


@CODECS
@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"to": "bob", "body": 1, "ttl": -1}, "$.m[2].ttl"),
        ({"to": "bob", "body": 1, "wrong": 1}, "$.m[2].wrong"),
        ({"body": 1}, "$.m[2].to"),
        ({"to": "bob", "body": 1, "meta": {"a": 5}}, "$.m[2].meta[...]"),
        ({"to": "bob", "body": 1, "priority": "urgent"}, "$.m[2].priority"),
        ({"to": "bob", "body": 1, "notify": ["sent", "lost"]}, "$.m[2].notify[1]"),
        (5, "$.m[2]"),
    ],
)
def test_a_bad_message_among_good_ones_is_told_apart(codec: Codec, entry: Any, field: str) -> None:
    if isinstance(entry, dict):
        entry = {"ref": "a1", **entry}
    frame = read_frame(
        codec, packed(codec, {"t": "pub", "m": [{"to": "b", "body": 1}, {"to": "c", "body": 2}, entry]})
    )
    assert isinstance(frame, wire.LoosePub)
    first = read_entry(codec, frame.m[0], "$.m[0]")
    assert isinstance(first, wire.PubEntry)
    assert first.to == "b"
    bad = read_entry(codec, frame.m[2], "$.m[2]")
    assert isinstance(bad, BadEntry)
    assert bad.error.field == field
    assert bad.ref == ("a1" if isinstance(entry, dict) else None)


@CODECS
@pytest.mark.parametrize(
    ("ref", "readable"),
    [("a1", True), (7, True), ("x" * 64, True), ("x" * 65, False), (-1, False), (1 << 53, True), ((1 << 53) + 1, False),
     (True, False), (1.5, False), ([1], False), (None, False)],
)  # fmt: skip
def test_a_ref_comes_back_where_it_can_be_read(codec: Codec, ref: Any, readable: bool) -> None:
    bad = read_entry(codec, Raw(packed(codec, {"ref": ref, "to": 5})), "$.m[0]")
    assert isinstance(bad, BadEntry)
    assert bad.ref == (ref if readable else None)


def test_text_that_is_not_utf8_spoils_one_msgpack_message() -> None:
    frame = read_frame(
        MSGPACK_CODEC,
        b"\x82\xa1t\xa3pub\xa1m\x92\x82\xa2to\xa1\xff\xa4body\x01"
        + msgspec.msgpack.encode({"to": "b", "body": 1}),
    )
    assert isinstance(frame, wire.LoosePub)
    bad = read_entry(MSGPACK_CODEC, frame.m[0], "$.m[0]")
    assert isinstance(bad, BadEntry)
    assert bad.error.code == "malformed"
    assert isinstance(read_entry(MSGPACK_CODEC, frame.m[1], "$.m[1]"), wire.PubEntry)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthorized("x", code="token_expired"), Close.TOKEN_EXPIRED),
        (Unauthorized("x", code="token_revoked"), Close.TOKEN_EXPIRED),
        (Unauthorized("x", code="token_invalid"), Close.NOT_AUTHORISED),
        (Unauthorized("x"), Close.NOT_AUTHORISED),
        (Forbidden("x"), Close.NOT_AUTHORISED),
        (Limited("x"), Close.RATE),
        (Unavailable("x", code="keys_unavailable"), Close.DRAIN),
        (Invalid("x"), Close.PROTOCOL),
        (Conflict("x"), Close.PROTOCOL),
    ],
)
def test_close_codes_say_what_to_do_next(error: GatewayError, code: Close) -> None:
    assert close_code(error) is code


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_errors(data: bytes) -> None:
    for codec in (JSON_CODEC, MSGPACK_CODEC):
        try:
            frame = read_frame(codec, data)
        except GatewayError as error:
            wire.err_frame(error)
            continue
        if isinstance(frame, wire.LoosePub):
            for raw in frame.m:
                entry = read_entry(codec, raw, "$.m[0]")
                if isinstance(entry, BadEntry):
                    wire.err_frame(entry.error, entry.ref)
