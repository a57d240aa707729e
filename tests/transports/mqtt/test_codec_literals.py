"""Every packet type of both versions byte by byte, read and written; what the packets say of themselves."""

import pytest

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    P,
    Packet,
    Ping,
    Pong,
    Publish,
    Reader,
    Reason,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from tests.transports.mqtt.packets import read, write

# version, whether the server reads it, the bytes, what they are
LITERALS: list[tuple[int, bool, str, Packet]] = [
    # CONNECT: the example of 3.1.1, figure 3.6
    (
        4, True, "10 1a 0004 4d515454 04 ce 000a 0001 63 0001 77 0001 6d 0001 75 0002 00ff",
        Connect(4, True, 10, "c", "u", b"\0\xff", Will(b"w", b"m", 1)),
    ),
    (4, True, "10 0c 0004 4d515454 04 00 0000 0000", Connect(4, False, 0, "")),
    (
        4, True, "10 11 0004 4d515454 04 24 003c 0000 0001 77 0000",
        Connect(4, False, 60, "", None, None, Will(b"w", b"", 0, True)),
    ),
    # 5: the example of figure 3-6, session expiry 10
    (
        5, True, "10 20 0004 4d515454 05 ce 000a 05 11 0000000a 0001 63 00 0001 77 0001 6d 0001 75 0001 70",
        Connect(5, True, 10, "c", "u", b"p", Will(b"w", b"m", 1), {P.SESSION_EXPIRY: 10}),
    ),
    # a password without a user name is for 5 only; will properties
    (
        5, True, "10 1b 0004 4d515454 05 54 0000 00 0000 05 18 00000005 0001 77 0000 0001 70",
        Connect(5, False, 0, "", None, b"p", Will(b"w", b"", 2, False, {P.WILL_DELAY: 5})),
    ),
    # the UTF-8 example of 1.5.4
    (
        5, True, "10 12 0004 4d515454 05 02 0000 00 0005 41 f0aa9b94",
        Connect(5, True, 0, "A\U0002a6d4"),
    ),
    (4, False, "20 02 01 00", Connack(True, Reason.SUCCESS)),
    (4, False, "20 02 00 01", Connack(False, Reason.UNSUPPORTED_VERSION)),
    (4, False, "20 02 00 02", Connack(False, Reason.CLIENT_ID_INVALID)),
    (4, False, "20 02 00 03", Connack(False, Reason.SERVER_UNAVAILABLE)),
    (4, False, "20 02 00 04", Connack(False, Reason.BAD_CREDENTIALS)),
    (4, False, "20 02 00 05", Connack(False, Reason.NOT_AUTHORIZED)),
    (5, False, "20 03 01 00 00", Connack(True, Reason.SUCCESS)),
    (
        5, False, "20 0a 00 9c 07 1c 0004 68 3a 3138",
        Connack(False, Reason.USE_ANOTHER_SERVER, {P.SERVER_REFERENCE: "h:18"}),
    ),
    # PUBLISH: the example of 3.3.2, topic a/b, packet id 10
    (4, True, "32 07 0003 612f62 000a", Publish(b"a/b", b"", 1, pid=10)),
    (4, False, "30 05 0003 612f62", Publish(b"a/b", b"")),
    (4, False, "31 05 0001 61 6869", Publish(b"a", b"hi", retain=True)),
    (4, True, "3d 07 0001 61 ffff 00ff", Publish(b"a", b"\0\xff", 2, True, True, 65535)),
    (5, True, "32 08 0003 612f62 000a 00", Publish(b"a/b", b"", 1, pid=10)),
    (5, True, "3a 07 0001 61 0001 00 78", Publish(b"a", b"x", 1, dup=True, pid=1)),
    (5, True, "30 07 0000 03 23 0005 78", Publish(b"", b"x", props={P.TOPIC_ALIAS: 5})),
    (
        5, False, "34 13 0001 61 0007 0c 0b 01 0b 8001 02 00000002 01 01 7b",
        Publish(
            b"a", b"{", 2, pid=7,
            props={P.SUBSCRIPTION_ID: [1, 128], P.MESSAGE_EXPIRY: 2, P.PAYLOAD_FORMAT: 1},
        ),
    ),
    (
        5, True, "30 1f 0001 61 17 26 0001 61 0001 62 26 0001 61 0000 03 0002 742f 09 0002 00ff 6869 7878",
        Publish(
            b"a", b"hixx",
            props={P.USER: [("a", "b"), ("a", "")], P.CONTENT_TYPE: "t/", P.CORRELATION: b"\0\xff"},
        ),
    ),
    (4, True, "40 02 0001", 1),
    (5, True, "40 02 ffff", 65535),
    (5, False, "40 03 0001 10", Ack(Kind.PUBACK, 1, Reason.NO_MATCHING_SUBSCRIBERS)),
    (5, True, "40 03 0100 97", Ack(Kind.PUBACK, 256, Reason.QUOTA_EXCEEDED)),
    (
        5, True, "40 09 0001 00 05 1f 0002 6f6b",
        Ack(Kind.PUBACK, 1, Reason.SUCCESS, {P.REASON: "ok"}),
    ),
    (4, True, "50 02 0001", Ack(Kind.PUBREC, 1)),
    (5, True, "50 03 0001 80", Ack(Kind.PUBREC, 1, Reason.UNSPECIFIED)),
    (4, False, "62 02 0001", Ack(Kind.PUBREL, 1)),
    (5, True, "62 03 0001 92", Ack(Kind.PUBREL, 1, Reason.PACKET_ID_NOT_FOUND)),
    (4, False, "70 02 0001", Ack(Kind.PUBCOMP, 1)),
    (5, False, "70 03 0001 92", Ack(Kind.PUBCOMP, 1, Reason.PACKET_ID_NOT_FOUND)),
    # SUBSCRIBE: the example of 3.8.3, a/b at QoS 1, c/d at QoS 2
    (4, True, "82 0e 000a 0003 612f62 01 0003 632f64 02", Subscribe(10, [("a/b", 1), ("c/d", 2)])),
    (5, True, "82 0f 000a 00 0003 612f62 01 0003 632f64 02", Subscribe(10, [("a/b", 1), ("c/d", 2)])),
    (
        5, True, "82 0a 0001 03 0b ff7f 0001 23 2d",
        Subscribe(1, [("#", 0x2D)], {P.SUBSCRIPTION_ID: [16383]}),
    ),
    (
        4, False, "90 06 000a 00 01 02 80",
        Suback(10, [Reason.GRANTED_QOS_0, Reason.GRANTED_QOS_1, Reason.GRANTED_QOS_2, Reason.UNSPECIFIED]),
    ),
    (
        5, False, "90 05 000a 00 01 8f",
        Suback(10, [Reason.GRANTED_QOS_1, Reason.TOPIC_FILTER_INVALID]),
    ),
    (4, True, "a2 0c 000a 0003 612f62 0003 632f64", Unsubscribe(10, ["a/b", "c/d"])),
    (5, True, "a2 08 000a 00 0003 612f62", Unsubscribe(10, ["a/b"])),
    (4, False, "b0 02 000a", Unsuback(10, [])),
    (5, False, "b0 05 000a 00 00 11", Unsuback(10, [Reason.SUCCESS, Reason.NO_SUBSCRIPTION_EXISTED])),
    (4, True, "c0 00", Ping()),
    (5, True, "c0 00", Ping()),
    (4, False, "d0 00", Pong()),
    (5, False, "d0 00", Pong()),
    (4, True, "e0 00", Disconnect()),
    (5, True, "e0 00", Disconnect()),
    (5, False, "e0 01 8b", Disconnect(Reason.SERVER_SHUTTING_DOWN)),
    (5, True, "e0 07 00 05 11 00000000", Disconnect(props={P.SESSION_EXPIRY: 0})),
    (5, False, "f0 00", Auth()),
    (
        5, True, "f0 0b 18 09 15 0001 6d 16 0002 00ff",
        Auth(Reason.CONTINUE_AUTHENTICATION, {P.AUTH_METHOD: "m", P.AUTH_DATA: b"\0\xff"}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("version", "server", "data", "packet"), LITERALS)
def test_every_packet_byte_by_byte(version: int, server: bool, data: str, packet: Packet) -> None:
    raw = bytes.fromhex(data)
    assert read(version, raw, server=server) == ([packet], None)
    assert write(version, packet) == raw


def test_every_packet_type_is_there() -> None:
    seen = {(version, int(data[0], 16)) for version, _, data, _ in LITERALS}
    assert seen == {(4, kind) for kind in Kind if kind != Kind.AUTH} | {(5, kind) for kind in Kind}


@pytest.mark.parametrize(
    ("version", "server", "data", "packet"),
    [
        # what may be left out and is there
        (5, True, "40 03 0001 00", 1),
        (5, True, "40 04 0001 00 00", 1),
        (5, True, "40 04 0001 97 00", Ack(Kind.PUBACK, 1, Reason.QUOTA_EXCEEDED)),
        (5, True, "50 04 0001 00 00", Ack(Kind.PUBREC, 1)),
        (5, True, "e0 01 04", Disconnect(Reason.DISCONNECT_WITH_WILL)),
        (5, True, "e0 02 00 00", Disconnect()),
        # 3.1.1 does not ask for the shortest length
        (4, True, "c0 80 00", Ping()),
        (4, True, "40 82 80 80 00 0001", 1),
        (4, True, "30 83 00 0001 61", Publish(b"a", b"")),
        (4, True, "30 84 80 00 0001 61 78", Publish(b"a", b"x")),
        # U+FEFF is a character like any other (1.5.4), and stays
        (5, True, "30 06 0003 efbbbf 00", Publish(b"\xef\xbb\xbf", b"")),
    ],
)
def test_other_forms_of_the_same(version: int, server: bool, data: str, packet: Packet) -> None:
    assert read(version, bytes.fromhex(data), server=server) == ([packet], None)


@pytest.mark.parametrize("version", [4, 5])
def test_the_first_connect_names_the_version(version: int) -> None:
    reader = Reader(server=True, max_packet=1000)
    assert reader.version == 0
    connect = codec.connect(version, "alice", keep_alive=30)
    publish = codec.publish(version, b"t", b"x", qos=1, pid=3)
    packets = reader.feed(connect + publish + codec.puback(version, 9))
    assert packets == [Connect(version, True, 30, "alice"), Publish(b"t", b"x", 1, pid=3), 9]
    assert reader.version == version
    # another one is the caller's to refuse
    assert reader.feed(codec.connect(9 - version, "bob")) == [Connect(9 - version, True, 0, "bob")]
    assert (reader.version, reader.error) == (version, None)


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"),
        (2_097_151, "ffff7f"), (2_097_152, "80808001"), (268_435_455, "ffffff7f"),
    ],
)  # fmt: skip
def test_variable_byte_integers(length: int, encoded: str) -> None:
    assert codec.varint(length).hex() == encoded


@pytest.mark.parametrize("length", [120, 127, 128, 200, 16_383, 16_384, 70_000, 2_097_151, 2_097_152])
@pytest.mark.parametrize("version", [4, 5])
def test_publishes_of_every_length(version: int, length: int) -> None:
    overhead = 3 if version == 4 else 4
    payload = bytes(length - overhead)
    data = codec.publish(version, b"t", payload)
    assert data[1 : data.index(b"\0\1t")] == codec.varint(length)
    reader = Reader(version, server=True, max_packet=len(data))
    assert reader.feed(data) == [Publish(b"t", payload)]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in codec.RETURN_CODES])
def test_no_connack_where_3_1_1_has_no_return_code(reason: Reason) -> None:
    assert codec.connack(4, False, reason) == b""


@pytest.mark.parametrize(
    ("reason", "code"),
    [(0x84, 1), (0x85, 2), (0x88, 3), (0x89, 3), (0x97, 3), (0x9C, 3), (0x9F, 3), (0x86, 4), (0x87, 5), (0x8A, 5)],
)  # fmt: skip
def test_return_codes_of_3_1_1(reason: int, code: int) -> None:
    assert codec.connack(4, False, reason) == bytes((0x20, 2, 0, code))


def test_3_1_1_leaves_out_what_it_has_no_field_for() -> None:
    props = {P.USER: [("a", "b")]}
    assert codec.publish(4, b"t", b"", props=props) == codec.publish(4, b"t", b"")
    assert codec.puback(4, 1, 0x87, "no") == b"\x40\2\0\1"
    assert codec.ack(4, Kind.PUBREL, 1, 0x92, props) == b"\x62\2\0\1"
    assert codec.disconnect(4, 0x82, props) == b"\xe0\0"
    assert codec.suback(4, 1, [1, 0x87], props) == b"\x90\4\0\1\1\x80"
    assert codec.subscribe(4, 1, [("a", 1)], props) == b"\x82\6\0\1\0\1a\1"
    assert codec.unsubscribe(4, 1, ["a"], props) == b"\xa2\5\0\1\0\1a"
    assert codec.connack(4, True, 0, props) == b"\x20\2\1\0"


def test_a_puback_with_its_reason() -> None:
    assert codec.puback(5, 1, 0x87, "no") == b"\x40\x09\0\1\x87\5\x1f\0\2no"
    assert codec.puback(5, 1, 0x87) == b"\x40\3\0\1\x87"


def test_properties_encoded_once_for_many_packets() -> None:
    props = {P.USER: [("a", "b")], P.MESSAGE_EXPIRY: 9}
    encoded = codec.encode_props(props)
    assert encoded == b"\x0c\x26\0\1a\0\1b\x02\0\0\0\x09"
    assert encoded[1:] == b"".join(codec.encode_prop(ident, value) for ident, value in props.items())
    assert codec.publish(5, b"t", b"x", props=encoded) == codec.publish(5, b"t", b"x", props=props)
    assert codec.encode_props(None) == codec.encode_props({}) == b"\0"


@pytest.mark.parametrize(
    ("ident", "value"),
    [
        (P.REASON, "a\0b"),
        (P.REASON, "\ud800"),
        (P.REASON, "x" * 65536),
        (P.USER, [("n", "a\0")]),
        (P.USER, [("\udfff", "a")]),
        (P.CORRELATION, bytes(65536)),
        (P.MESSAGE_EXPIRY, -1),
        (P.MESSAGE_EXPIRY, 1 << 32),
        (P.RECEIVE_MAXIMUM, 65536),
        (P.SUBSCRIPTION_ID, [268_435_456]),
        (P.SUBSCRIPTION_ID, [-1]),
        (P.PAYLOAD_FORMAT, 256),
    ],
)
def test_what_has_no_form_in_mqtt_is_not_written(ident: P, value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 any ValueError is what is promised
        codec.encode_props({ident: value})


def test_nor_is_a_topic_too_long() -> None:
    assert len(codec.publish(5, b"t" * 65535, b"")) == 65542
    with pytest.raises(ValueError, match="65535"):
        codec.publish(5, b"t" * 65536, b"")


def test_packets_do_not_show_credentials_or_bodies() -> None:
    will = Will(b"topic-secret", b"will-secret", 1)
    connect = Connect(5, True, 30, "id-secret", "user-secret", b"pw-secret", will, {P.AUTH_DATA: b"secret"})
    assert repr(connect) == (
        "Connect(version=5, clean=True, keep_alive=30, client_id=<9>, username=<11>, password=<9>, "
        "will=Will(topic=<12>, payload=<11>, qos=1, retain=False, props=None), props=<1>)"
    )
    assert "secret" not in repr(Publish(b"secret", b"secret", props={P.USER: [("secret", "secret")]}))


def test_one_topic_is_one_object() -> None:
    reader = Reader(4, server=True, max_packet=100)
    packets = reader.feed(codec.publish(4, b"some/topic", b"1") * 2)
    first, second = packets
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert first.topic is second.topic
