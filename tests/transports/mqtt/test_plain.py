"""A message as a PUBLISH and back, checked against another's codec."""

from base64 import b64decode, b64encode
from typing import Any

import mqtt5
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    CommitUnknown,
    Conflict,
    DiskFull,
    Forbidden,
    GatewayError,
    Invalid,
    Limited,
    NotFound,
    Unauthorized,
    Unavailable,
)
from gateway.ids import encode_id
from gateway.model import MAX_META, Extra, Item
from gateway.model import Publish as Message
from gateway.transports.mqtt.codec import P, Props, Publish, Reader, Reason, Will
from gateway.transports.mqtt.plain import (
    OCTETS,
    Plain,
    is_reserved,
    may_succeed_later,
    packet_id,
    read_body,
    read_publish,
    reason_of,
)
from gateway.wire import trace_of

NOW = 1_800_000_000_000
ROOT = "0123456789abcdef"
INBOX = b"gw/v1/m/alice"
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
FIVE = Plain(5, INBOX, "k3", ROOT, b"gw/v1/to/")
FOUR = Plain(4, INBOX, "k3", ROOT, b"gw/v1/to/")


def message(body: bytes = b"1", seq: int = 1, x: Extra | None = None, **fields: Any) -> Item:
    item = Item(seq + (1 << 60), "alice", "bob", 2, NOW, NOW + 60_000, body, x)
    item.seq = seq
    for name, value in fields.items():
        setattr(item, name, value)
    return item


def read(data: bytes) -> mqtt5.PublishPacket:
    reader = Reader(5, server=False, max_packet=len(data))
    assert [type(p) for p in reader.feed(data)] == [Publish]
    packet, size = mqtt5.read(memoryview(data))
    assert size == len(data)
    assert isinstance(packet, mqtt5.PublishPacket)
    return packet


def read_four(data: bytes) -> tuple[bytes, int, int, bool, bytes]:
    """Topic, QoS, packet id or 0, DUP and payload of a PUBLISH of 3.1.1."""
    (packet,) = Reader(4, server=False, max_packet=len(data)).feed(data)
    assert isinstance(packet, Publish)
    assert not packet.retain
    return packet.topic, packet.qos, packet.pid, packet.dup, packet.payload


def user(packet: mqtt5.PublishPacket) -> dict[str, str]:
    """The user properties, each given once."""
    found = dict(packet.user_properties)
    assert len(found) == len(packet.user_properties)
    return found


# -- to the client
# ---------------------------------------------------------------------------------------------------


def test_a_message_tells_what_it_is() -> None:
    item = message(b'{"n":1}', seq=7)
    packet = read(FIVE.publish(item, NOW, 1))
    assert (packet.topic, packet.payload) == (INBOX.decode(), b'{"n":1}')
    assert (packet.qos, packet.packet_id, packet.duplicate, packet.retain) == (1, 7, False, False)
    assert (packet.payload_format_indicator, packet.content_type) == (1, "application/json")
    assert packet.message_expiry_interval == 60
    assert packet.correlation_data == encode_id(item.id).encode()
    assert packet.response_topic is None
    assert user(packet) == {
        "id": encode_id(item.id),
        "seq": "7",
        "epoch": "k3",
        "from": "bob",
        "priority": "normal",
        "traceparent": trace_of(item, ROOT),
    }


def test_a_message_tells_all_that_it_carries() -> None:
    x = Extra(
        type="note ü",
        meta={"k": "ü", "id": "mine", "meta.k": "2"},
        trace=TRACE,
        reply_to="bob",
        correlation=b64encode(b"\0\xff").decode(),
        possible_dup="0000000000005",
        notify=["delivered"],
    )
    item = message(b'"hello \\u00fc\\n\\"you\\""', x=x, marks=2, via="sms", lane=0, sender="api:backend")
    packet = read(FIVE.publish(item, NOW, 1, dup=True))
    assert packet.payload == 'hello ü\n"you"'.encode()
    assert packet.content_type == "text/plain; charset=utf-8"
    assert packet.duplicate
    assert packet.correlation_data == b"\0\xff"
    assert packet.response_topic == "gw/v1/to/bob"
    assert user(packet) == {
        "id": encode_id(item.id),
        "seq": "1",
        "epoch": "k3",
        "from": "api:backend",
        "priority": "critical",
        "redelivered": "2",
        "via": "sms",
        "type": "note ü",
        "possible_dup": "0000000000005",
        "traceparent": TRACE,
        "k": "ü",
        "meta.id": "mine",
        "meta.meta.k": "2",
    }


def test_3_1_1_has_the_body_and_nothing_else() -> None:
    item = message(b'"\xc3\xbc"', seq=0x1234, x=Extra(type="note"), marks=1)
    assert read_four(FOUR.publish(item, NOW, 1, dup=True)) == (INBOX, 1, 0x1234, True, "ü".encode())
    assert read_four(FOUR.publish(item, NOW, 0)) == (INBOX, 0, 0, False, "ü".encode())
    assert FOUR.parts(item, NOW) == ("ü".encode(), b"")


@pytest.mark.parametrize("size", [0, 1, 90, 100, 130, 16_000, 16_384, 70_000, 2_097_152, 3_000_000])
def test_lengths_of_every_size(size: int) -> None:
    item = message(b'"%b"' % (b"x" * size))
    packet = read(FIVE.publish(item, NOW, 1))
    assert len(packet.payload or b"") == size
    assert read_four(FOUR.publish(item, NOW, 1))[4] == b"x" * size


def test_qos_0_has_no_packet_id() -> None:
    packet = read(FIVE.publish(message(), NOW, 0))
    assert (packet.qos, packet.packet_id, packet.payload) == (0, None, b"1")


@pytest.mark.parametrize(
    ("seq", "pid"), [(1, 1), (65534, 65534), (65535, 65535), (65536, 1), (131070, 65535), (131071, 1)]
)
def test_packet_ids_follow_the_seq(seq: int, pid: int) -> None:
    assert packet_id(seq) == pid
    packet = read(FIVE.publish(message(seq=seq), NOW, 1))
    assert (packet.packet_id, user(packet)["seq"]) == (pid, str(seq))


def test_behind_a_broker_there_is_no_seq_and_no_epoch() -> None:
    packet = read(Plain(5, INBOX, "", ROOT, b"gw/v1/u/01/alice/to/").publish(message(seq=0), NOW, 0))
    assert set(user(packet)) == {"id", "from", "priority", "traceparent"}


@pytest.mark.parametrize(
    ("left", "seconds"),
    [(60_000, 60), (59_001, 60), (1000, 1), (1001, 2), (1, 1), (0, 1), (-5000, 1), (1 << 60, 0xFFFFFFFF)],
)
def test_expiry_is_what_is_left_and_never_over_at_once(left: int, seconds: int) -> None:
    packet = read(FIVE.publish(message(expire=NOW + left), NOW, 1))
    assert packet.message_expiry_interval == seconds


def test_the_sender_of_each_message_is_its_own() -> None:
    senders = ["bob", "eve", "eve", "bob"]
    assert [user(read(FIVE.publish(message(sender=s), NOW, 1)))["from"] for s in senders] == senders


def test_what_no_mqtt_string_may_hold_is_replaced() -> None:
    bad = ["\0", "\n", "\x1f", "\x7f", "\x85", "\x9f", "\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001fffe"]
    good = " ~\xa0ü\ufdcf\ufdf0\ufffd\U0001fffd\U0001f600"
    meta = {f"k{n}{c}": f"a{c}b" for n, c in enumerate(bad)} | {"good": good}
    packet = read(FIVE.publish(message(x=Extra(type="a\0b", meta=meta)), NOW, 1))
    found = user(packet)
    assert found["type"] == "a\ufffdb"
    assert found["good"] == good
    assert [found[f"k{n}\ufffd"] for n in range(len(bad))] == ["a\ufffdb"] * len(bad)


def test_the_longest_type_and_meta_fit() -> None:
    x = Extra(type="\U0001f600" * 64, meta={"k": "v" * (MAX_META - 3), "": "w"})
    found = user(read(FIVE.publish(message(x=x), NOW, 1)))
    assert (found["type"], found["k"], found[""]) == (x.type, "v" * (MAX_META - 3), "w")


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=20)


@given(
    body=st.one_of(st.text(), st.integers(), st.lists(st.text(max_size=5)), st.none()),
    seq=st.integers(1, 1 << 53),
    dup=st.booleans(),
    marks=st.integers(0, 50),
    lane=st.integers(0, 3),
    type_=st.none() | TEXT,
    meta=st.none() | st.dictionaries(TEXT, TEXT, max_size=4),
    correlation=st.none() | st.binary(max_size=128),
)
def test_another_codec_reads_what_is_written(
    body: Any, seq: int, dup: bool, marks: int, lane: int, type_: str | None, meta: Any, correlation: Any
) -> None:
    data = b64encode(correlation).decode() if correlation is not None else None
    item = message(msgspec.json.encode(body), seq=seq, marks=marks, lane=lane)
    item.x = Extra(type=type_, meta=meta, correlation=data) if (type_, meta, data) != (None,) * 3 else None
    packet = read(FIVE.publish(item, NOW, 1, dup))
    assert packet.duplicate is dup
    if isinstance(body, str):
        assert (packet.payload or b"").decode() == body
    else:
        assert msgspec.json.decode(packet.payload) == body
    found = user(packet)
    assert found.get("redelivered") == (str(marks) if marks else None)
    assert found.get("type") == type_
    for name, value in (meta or {}).items():
        assert found[f"meta.{name}" if is_reserved(name) else name] == value
    if data is not None:
        assert packet.correlation_data == correlation
    assert read_four(FOUR.publish(item, NOW, 1, dup)) == (INBOX, 1, packet_id(seq), dup, packet.payload)


# -- from the client
# ---------------------------------------------------------------------------------------------------


def uplink(payload: bytes = b"1", **props: Any) -> Message:
    """What a device with MQTT 5 publishes; `user` as pairs."""
    named: Props = {P[name.upper()]: value for name, value in props.items()}
    return read_publish(Publish(b"gw/v1/to/bob", payload, 1, pid=5, props=named), "bob", INBOX)


def body_of(found: Message) -> bytes:
    assert isinstance(found.body, msgspec.Raw)
    return bytes(found.body)


def refused(payload: bytes = b"1", **props: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        uplink(payload, **props)
    return caught.value


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        (b'{"a": [1, 2.50]}', b'{"a": [1, 2.50]}'),
        (b" \r\n\t[1 ] \n", b"[1 ]"),
        (b"null", b"null"),
        (b'"text"', b'"text"'),
        (b"-1.5e3", b"-1.5e3"),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b"", b'""'),
        (b" ", b'" "'),
        (b"NaN", b'"NaN"'),
        (b"Infinity", b'"Infinity"'),
        (b"nul", b'"nul"'),
        (b"True", b'"True"'),
        (b"hello", b'"hello"'),
        (b"21.5 C", b'"21.5 C"'),
        (b"01", b'"01"'),
        (b"{a:1}", b'"{a:1}"'),
        (b"[1,]", b'"[1,]"'),
        (b'{"a":1} {"b":2}', b'"{\\"a\\":1} {\\"b\\":2}"'),
        (b'"\\ud800"', b'"\\"\\\\ud800\\""'),
        ("grüße".encode(), '"grüße"'.encode()),
        ('{"ü":1}'.encode(), '{"ü":1}'.encode()),
        (b"\xef\xbb\xbf1", '"\ufeff1"'.encode()),
        (b"a\0b", b'"a\\u0000b"'),
    ],
)
def test_a_payload_is_json_where_it_parses_and_text_otherwise(payload: bytes, body: bytes) -> None:
    choices: list[Props | None] = [None, {}, {P.PAYLOAD_FORMAT: 1}]
    for props in choices:
        found = read_publish(Publish(b"t", payload, props=props), "bob", INBOX)
        assert (found.to, body_of(found), found.type) == ("bob", body, None)


@pytest.mark.parametrize("payload", [b"\xff\xfe\x00\x01", b'"\xff"', b"abc\xc3", b"\xed\xa0\x80"])
def test_what_is_no_text_is_base64(payload: bytes) -> None:
    choices: list[Props | None] = [None, {}, {P.PAYLOAD_FORMAT: 0}, {P.MESSAGE_EXPIRY: 5}]
    for props in choices:
        found = read_publish(Publish(b"t", payload, props=props), "bob", INBOX)
        assert b64decode(msgspec.json.decode(body_of(found))) == payload
        assert found.type == OCTETS
    assert uplink(payload, user=[("type", "image/png")]).type == "image/png"
    error = refused(payload, payload_format=1)
    assert (error.field, reason_of(error)) == ("payload", Reason.PAYLOAD_FORMAT_INVALID)


def test_nesting_that_no_decoder_follows_is_refused() -> None:
    choices: list[Props | None] = [None, {}]
    for props in choices:
        with pytest.raises(Invalid) as caught:
            read_publish(Publish(b"t", b"[" * 5000 + b"]" * 5000, props=props), "bob", INBOX)
        assert reason_of(caught.value) is Reason.PAYLOAD_FORMAT_INVALID


@given(st.binary() | st.text().map(str.encode))
def test_any_payload_is_a_body(payload: bytes) -> None:
    raw, binary = read_body(payload)
    value = msgspec.json.decode(raw)
    if binary:
        assert b64decode(value) == payload
    else:
        assert value == payload.decode() or value == msgspec.json.decode(payload)


def test_user_properties_are_the_fields_of_a_message() -> None:
    found = uplink(
        b'{"n":1}',
        user=[
            ("priority", "high"),
            ("ttl", "1.5"),
            ("deadline", "60"),
            ("deliver_at", "1800000000000"),
            ("fallback", "sms, hook"),
            ("key", "k 1"),
            ("type", "note"),
            ("collapse", "c"),
            ("notify", "delivered,dead"),
            ("traceparent", TRACE),
            ("room", "7"),
            ("meta.key", "mine"),
            ("seq", "9"),
            ("", "empty"),
        ],
        content_type="text/html",
    )
    assert body_of(found) == b'{"n":1}'
    assert msgspec.structs.replace(found, body=msgspec.UNSET) == Message(
        to="bob",
        type="note",
        priority="high",
        ttl=1.5,
        deadline=60.0,
        deliver_at=1_800_000_000_000,
        fallback=["sms", "hook"],
        key="k 1",
        collapse="c",
        notify=["delivered", "dead"],
        meta={"room": "7", "key": "mine", "seq": "9", "": "empty"},
        trace=TRACE,
    )


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_list_names_nothing(text: str) -> None:
    found = uplink(user=[("fallback", text), ("notify", text)])
    assert (found.fallback, found.notify) == ([], [])


@pytest.mark.parametrize(
    ("expiry", "user_properties", "ttl"),
    [
        (None, [], 86400.0),
        (60, [], 60.0),
        (0, [], 1.0),
        (0xFFFFFFFF, [], 31_536_000.0),
        (60, [("ttl", "5")], 5.0),
    ],
)
def test_message_expiry_is_the_ttl(expiry: int | None, user_properties: Any, ttl: float) -> None:
    found = (
        uplink(user=user_properties)
        if expiry is None
        else uplink(user=user_properties, message_expiry=expiry)
    )
    assert found.ttl == ttl


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("priority", "urgent", "priority"),
        ("priority", "", "priority"),
        ("ttl", "soon", "ttl"),
        ("ttl", "", "ttl"),
        ("ttl", "0", "ttl"),
        ("ttl", "-1", "ttl"),
        ("ttl", "31536001", "ttl"),
        ("ttl", "NaN", "ttl"),
        ("ttl", "Infinity", "ttl"),
        ("ttl", "1e999", "ttl"),
        ("ttl", "1_0", "ttl"),
        ("ttl", "true", "ttl"),
        ("ttl", "null", "ttl"),
        ("deadline", "null", "deadline"),
        ("deadline", "9" * 5000, "deadline"),
        ("deliver_at", "1.5", "deliver_at"),
        ("deliver_at", "-1", "deliver_at"),
        ("fallback", "sms,,hook", "fallback[1]"),
        ("fallback", "SMS", "fallback[0]"),
        ("fallback", ",".join(["a"] * 9), "fallback"),
        ("notify", "delivered,lost", "notify[1]"),
        ("key", "", "key"),
        ("key", "k" * 129, "key"),
        ("type", "t" * 65, "type"),
        ("collapse", "c" * 129, "collapse"),
        ("traceparent", "00-x", "traceparent"),
    ],
)
def test_a_bad_user_property_is_named(name: str, value: str, field: str) -> None:
    error = refused(user=[("room", "7"), (name, value)])
    assert error.field == f"user property {field}"
    assert error.detail
    assert reason_of(error) is Reason.IMPLEMENTATION_SPECIFIC


@pytest.mark.parametrize(
    "pairs",
    [
        [("ttl", "5"), ("ttl", "5")],
        [("room", "1"), ("x", "2"), ("room", "1")],
        [("room", "1"), ("meta.room", "2")],
        [("traceparent", TRACE), ("traceparent", TRACE)],
    ],
)
def test_a_field_given_twice_is_refused(pairs: list[tuple[str, str]]) -> None:
    error = refused(user=pairs)
    assert error.field == f"user property {pairs[-1][0]}"


def test_a_reply_comes_back_to_the_one_who_asked() -> None:
    found = uplink(response_topic=INBOX.decode(), correlation=b"\0\x01")
    assert (found.reply_to, found.correlation) == ("alice", b64encode(b"\0\x01").decode())
    assert uplink(correlation=b"").correlation == ""
    assert uplink(correlation=b"x" * 128).correlation == b64encode(b"x" * 128).decode()
    assert refused(correlation=b"x" * 129).field == "correlation data"
    for topic in ("gw/v1/m/bob", "gw/v1/m/alice/x", "replies", ""):
        error = refused(response_topic=topic)
        assert (error.field, reason_of(error)) == ("response topic", Reason.TOPIC_NAME_INVALID)


def test_an_address_that_is_too_long_is_the_topic_s_fault() -> None:
    with pytest.raises(Invalid) as caught:
        read_publish(Publish(b"t", b"1", props={P.MESSAGE_EXPIRY: 5}), "b" * 81, INBOX)
    assert (caught.value.field, reason_of(caught.value)) == ("topic", Reason.TOPIC_NAME_INVALID)


def test_a_will_is_a_message_too() -> None:
    will = Will(b"gw/v1/to/bob", b"gone", 1, props={P.WILL_DELAY: 5, P.USER: [("type", "will")]})
    found = read_publish(will, "bob", INBOX)
    assert (body_of(found), found.type) == (b'"gone"', "will")


META = st.dictionaries(TEXT, TEXT, max_size=4)


@given(meta=META, type_=st.none() | TEXT)
def test_meta_and_type_come_through_both_ways(meta: dict[str, str], type_: str | None) -> None:
    """What a client forwards just as it got it has the same meta, beside what the gateway itself had said."""
    packet = read(FIVE.publish(message(x=Extra(type=type_, meta=meta)), NOW, 1))
    kept = [(k, v) for k, v in packet.user_properties if k not in {"id", "seq", "epoch", "from"}]
    found = uplink(user=kept)
    assert (found.type, found.meta or {}) == (type_, meta)


# -- answers
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "later"),
    [
        (Forbidden("x", code="address_forbidden"), 0x87, False),
        (Unauthorized("x"), 0x87, False),
        (Limited("x"), 0x97, True),
        (Limited("x", code="queue_full"), 0x97, True),
        (Invalid("x", code="too_large", http=413), 0x97, False),
        (Invalid("x", code="body_invalid"), 0x99, False),
        (Invalid("x", code="body_missing"), 0x99, False),
        (Invalid("x", code="too_deep"), 0x99, False),
        (Invalid("x", code="address_invalid"), 0x90, False),
        (Invalid("x", code="address_kind_unsupported"), 0x90, False),
        (Invalid("x", code="client_unknown"), 0x90, False),
        (Invalid("x", code="topic_invalid"), 0x90, False),
        (Invalid("x", code="meta_too_large"), 0x83, False),
        (Invalid("x"), 0x83, False),
        (Conflict("x", code="key_conflict"), 0x83, False),
        (NotFound("x"), 0x83, False),
        (Unavailable("x"), 0x83, True),
        (CommitUnknown("x"), 0x83, True),
        (DiskFull("x"), 0x83, True),
    ],
)
def test_reason_codes(error: GatewayError, code: int, later: bool) -> None:
    assert reason_of(error) is Reason(code)
    assert may_succeed_later(error) is later
