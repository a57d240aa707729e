"""What the specifications forbid, each with a packet byte by byte and the code that MQTT 5 has for it."""

import pytest

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Kind, P, Publish, Reader, Reason
from tests.transports.mqtt.packets import (
    ACKS,
    CODES_FROM_CLIENT,
    CODES_FROM_SERVER,
    SIDE_IDS,
    SIDES,
    SPECS,
    Spec,
    places,
    read,
    reader,
)

MALFORMED, PROTOCOL = 0x81, 0x82

# what is wrong, version, whether the server reads it, the bytes, the code
REFUSED: list[tuple[str, int, bool, str, int]] = [
    # -- fixed header
    ("type 0", 4, True, "00 00", MALFORMED),
    ("type 0", 5, False, "00 00", MALFORMED),
    ("type 15 is reserved in 3.1.1", 4, True, "f0 00", MALFORMED),
    ("type 15 is reserved in 3.1.1", 4, False, "f0 00", MALFORMED),
    ("QoS 3", 4, True, "36 06 0001 61 0001 78", MALFORMED),
    ("QoS 3", 5, True, "36 07 0001 61 0001 00 78", MALFORMED),
    ("DUP at QoS 0", 4, True, "38 04 0001 61 78", PROTOCOL),
    ("DUP at QoS 0", 5, False, "39 05 0001 61 00 78", PROTOCOL),
    ("flags of CONNECT", 5, True, "11 0d 0004 4d515454 05 02 0000 00 0000", MALFORMED),
    ("flags of PUBACK", 5, True, "42 02 0001", MALFORMED),
    ("flags of PUBREL", 5, True, "60 02 0001", MALFORMED),
    ("flags of SUBSCRIBE", 4, True, "80 06 0001 0001 61 00", MALFORMED),
    ("flags of UNSUBSCRIBE", 5, True, "a0 06 0001 00 0001 61", MALFORMED),
    ("flags of PINGREQ", 4, True, "c1 00", MALFORMED),
    ("flags of DISCONNECT", 5, True, "e8 00", MALFORMED),
    ("flags of AUTH", 5, True, "f1 00", MALFORMED),
    ("length of five bytes", 4, True, "30 80 80 80 80 01", MALFORMED),
    ("length of five bytes", 5, True, "30 ff ff ff ff 7f", MALFORMED),
    ("length in more bytes than it needs", 5, True, "c0 80 00", MALFORMED),
    ("length in more bytes than it needs", 5, True, "30 84 80 00 0001 61 00", MALFORMED),
    ("more than max_packet", 4, True, "30 ff ff ff 7f", 0x95),
    ("more than max_packet", 5, True, "10 fd ff 3f", 0x95),
    # -- direction
    ("CONNACK to the server", 5, True, "20 03 00 00 00", PROTOCOL),
    ("SUBACK to the server", 4, True, "90 03 0001 00", PROTOCOL),
    ("UNSUBACK to the server", 5, True, "b0 04 0001 00 00", PROTOCOL),
    ("PINGRESP to the server", 4, True, "d0 00", PROTOCOL),
    ("CONNECT to a client", 5, False, "10 0d 0004 4d515454 05 02 0000 00 0000", PROTOCOL),
    ("SUBSCRIBE to a client", 4, False, "82 06 0001 0001 61 00", PROTOCOL),
    ("UNSUBSCRIBE to a client", 5, False, "a2 06 0001 00 0001 61", PROTOCOL),
    ("PINGREQ to a client", 5, False, "c0 00", PROTOCOL),
    ("DISCONNECT to a client of 3.1.1", 4, False, "e0 00", PROTOCOL),
    # -- before the version is known
    ("PUBLISH first", 0, True, "30 04 0001 61 78", PROTOCOL),
    ("PINGREQ first", 0, True, "c0 00", PROTOCOL),
    ("TLS where plain text is spoken", 0, True, "16 03 01 02 00 01", MALFORMED),
    ("HTTP", 0, True, "47 45 54 20 2f", MALFORMED),
    # -- CONNECT
    ("MQIsdp, 3.1", 0, True, "10 0f 0006 4d5149736470 03 02 003c 0001 63", 0x84),
    ("level 3 under the new name", 0, True, "10 0c 0004 4d515454 03 02 003c 0000", 0x84),
    ("level 6", 0, True, "10 0d 0004 4d515454 06 02 003c 00 0000", 0x84),
    ("level 0", 0, True, "10 0c 0004 4d515454 00 02 003c 0000", 0x84),
    ("a bridge of Mosquitto's", 0, True, "10 0c 0004 4d515454 84 02 003c 0000", 0x84),
    ("another protocol", 0, True, "10 0c 0004 4d515458 05 02 003c 0000", 0x84),
    ("another protocol", 0, True, "10 0b 0003 485454 05 02 003c 0000", 0x84),
    ("nothing", 0, True, "10 00", MALFORMED),
    ("half a name", 0, True, "10 04 0004 4d51", MALFORMED),
    ("a name and no level", 0, True, "10 06 0004 4d515454", MALFORMED),
    ("no keep alive", 0, True, "10 09 0004 4d515454 04 02 00", MALFORMED),
    ("no client id", 0, True, "10 0a 0004 4d515454 04 02 003c", MALFORMED),
    ("length in more bytes than it needs", 0, True, "10 8d 00 0004 4d515454 05 02 0000 00 0000", MALFORMED),
    ("reserved flag", 4, True, "10 0c 0004 4d515454 04 03 003c 0000", MALFORMED),
    ("reserved flag", 5, True, "10 0d 0004 4d515454 05 03 003c 00 0000", MALFORMED),
    ("will QoS without a will", 4, True, "10 0c 0004 4d515454 04 0a 003c 0000", MALFORMED),
    ("will retain without a will", 5, True, "10 0d 0004 4d515454 05 22 003c 00 0000", MALFORMED),
    ("will QoS 3", 4, True, "10 11 0004 4d515454 04 1e 003c 0000 0001 77 0000", MALFORMED),
    ("will QoS 3", 5, True, "10 13 0004 4d515454 05 1e 003c 00 0000 00 0001 77 0000", MALFORMED),
    ("will without a topic", 4, True, "10 0c 0004 4d515454 04 06 003c 0000", MALFORMED),
    ("will without a payload", 4, True, "10 0f 0004 4d515454 04 06 003c 0000 0001 77", MALFORMED),
    ("empty will topic", 4, True, "10 10 0004 4d515454 04 06 003c 0000 0000 0000", PROTOCOL),
    ("wildcard in the will topic", 4, True, "10 11 0004 4d515454 04 06 003c 0000 0001 23 0000", PROTOCOL),
    ("NUL in the will topic", 5, True, "10 13 0004 4d515454 05 06 003c 00 0000 00 0001 00 0000", MALFORMED),
    ("will topic not UTF-8", 4, True, "10 11 0004 4d515454 04 06 003c 0000 0001 ff 0000", MALFORMED),
    ("password without a user name", 4, True, "10 0f 0004 4d515454 04 42 003c 0000 0001 70", MALFORMED),
    ("user name flag and none", 4, True, "10 0c 0004 4d515454 04 82 003c 0000", MALFORMED),
    ("password flag and none", 4, True, "10 0e 0004 4d515454 04 c2 003c 0000 0000", MALFORMED),
    ("user name and no flag", 5, True, "10 10 0004 4d515454 05 02 003c 00 0000 0001 75", MALFORMED),
    ("bytes behind", 4, True, "10 0d 0004 4d515454 04 02 003c 0000 00", MALFORMED),
    ("NUL in the client id", 4, True, "10 0e 0004 4d515454 04 02 003c 0002 6100", MALFORMED),
    ("surrogate in the client id", 4, True, "10 0f 0004 4d515454 04 02 003c 0003 eda080", MALFORMED),
    ("overlong form in the client id", 4, True, "10 0e 0004 4d515454 04 02 003c 0002 c1bf", MALFORMED),
    ("user name not UTF-8", 5, True, "10 10 0004 4d515454 05 82 003c 00 0000 0001 80", MALFORMED),
    ("NUL in the user name", 4, True, "10 0f 0004 4d515454 04 82 003c 0000 0001 00", MALFORMED),
    ("no properties", 5, True, "10 0a 0004 4d515454 05 02 003c", MALFORMED),
    ("no will properties", 5, True, "10 0d 0004 4d515454 05 06 003c 00 0000", MALFORMED),
    (
        "authentication data without a method", 5, True,
        "10 11 0004 4d515454 05 02 003c 04 16 0001 61 0000", PROTOCOL,
    ),
    # -- CONNACK
    ("one byte", 4, False, "20 01 00", MALFORMED),
    ("three bytes", 4, False, "20 03 00 00 00", MALFORMED),
    ("no properties", 5, False, "20 02 00 00", MALFORMED),
    ("bytes behind", 5, False, "20 04 00 00 00 00", MALFORMED),
    ("reserved flags", 4, False, "20 02 02 00", MALFORMED),
    ("reserved flags", 5, False, "20 03 81 00 00", MALFORMED),
    ("session present and refused", 4, False, "20 02 01 05", PROTOCOL),
    ("session present and refused", 5, False, "20 03 01 87 00", PROTOCOL),
    ("reserved return code", 4, False, "20 02 00 06", PROTOCOL),
    # -- PUBLISH
    ("nothing", 4, True, "30 00", MALFORMED),
    ("half a topic length", 4, True, "30 01 00", MALFORMED),
    ("topic longer than the packet", 4, True, "30 04 0005 6162", MALFORMED),
    ("no packet id", 4, True, "32 03 0001 61", MALFORMED),
    ("half a packet id", 5, True, "32 04 0001 61 00", MALFORMED),
    ("no properties", 5, True, "32 05 0001 61 0001", MALFORMED),
    ("no properties", 5, True, "30 03 0001 61", MALFORMED),
    ("properties longer than the packet", 5, True, "30 06 0001 61 05 01 01", MALFORMED),
    ("half a length of properties", 5, True, "30 04 0001 61 80", MALFORMED),
    ("length of properties of five bytes", 5, True, "30 08 0001 61 80 80 80 80 01", MALFORMED),
    ("length of properties in more bytes than it needs", 5, True, "30 05 0001 61 80 00", MALFORMED),
    ("packet id 0", 4, True, "32 06 0001 61 0000 78", PROTOCOL),
    ("packet id 0", 5, False, "34 07 0001 61 0000 00 78", PROTOCOL),
    ("empty topic", 4, True, "30 03 0000 78", PROTOCOL),
    ("empty topic without an alias", 5, True, "30 04 0000 00 78", PROTOCOL),
    ("empty topic without an alias", 5, True, "30 06 0000 02 01 01 78", PROTOCOL),
    ("+ in the topic", 4, True, "30 05 0003 612f2b", PROTOCOL),
    ("# in the topic", 5, True, "30 06 0003 612f23 00", PROTOCOL),
    ("+ behind other than ASCII", 4, True, "30 05 0003 c3a42b", PROTOCOL),
    ("NUL in the topic", 4, True, "30 05 0003 610062", MALFORMED),
    ("NUL behind other than ASCII", 5, True, "30 06 0003 c3a400 00", MALFORMED),
    ("topic not UTF-8", 4, True, "30 04 0002 c328", MALFORMED),
    ("surrogate in the topic", 5, True, "30 06 0003 eda080 00", MALFORMED),
    ("overlong form in the topic", 5, True, "30 05 0002 c0af 00", MALFORMED),
    ("beyond U+10FFFF in the topic", 4, True, "30 06 0004 f4908080", MALFORMED),
    ("a subscription id from a client", 5, True, "30 06 0001 61 02 0b 01", PROTOCOL),
    # -- PUBACK, PUBREC, PUBREL, PUBCOMP
    ("nothing", 4, True, "40 00", MALFORMED),
    ("one byte", 5, True, "40 01 00", MALFORMED),
    ("packet id 0", 4, True, "40 02 0000", PROTOCOL),
    ("packet id 0", 5, False, "40 03 0000 00", PROTOCOL),
    ("packet id 0", 4, False, "50 02 0000", PROTOCOL),
    ("packet id 0", 5, True, "62 02 0000", PROTOCOL),
    ("packet id 0", 5, True, "70 02 0000", PROTOCOL),
    ("a reason code in 3.1.1", 4, True, "40 03 0001 00", MALFORMED),
    ("a reason code in 3.1.1", 4, True, "62 03 0001 00", MALFORMED),
    ("bytes behind", 5, True, "40 05 0001 00 00 00", MALFORMED),
    ("properties longer than the packet", 5, True, "50 04 0001 00 01", MALFORMED),
    # -- SUBSCRIBE
    ("no packet id", 4, True, "82 00", MALFORMED),
    ("packet id 0", 4, True, "82 06 0000 0001 61 00", PROTOCOL),
    ("no filter", 4, True, "82 02 0001", PROTOCOL),
    ("no filter", 5, True, "82 03 0001 00", PROTOCOL),
    ("no properties", 5, True, "82 02 0001", MALFORMED),
    ("empty filter", 4, True, "82 05 0001 0000 00", PROTOCOL),
    ("filter longer than the packet", 4, True, "82 05 0001 0002 61", MALFORMED),
    ("no options", 4, True, "82 05 0001 0001 61", MALFORMED),
    ("half a second filter", 4, True, "82 07 0001 0001 61 00 00", MALFORMED),
    ("NUL in a filter", 5, True, "82 07 0001 00 0001 00 00", MALFORMED),
    ("filter not UTF-8", 4, True, "82 06 0001 0001 ff 00", MALFORMED),
    ("QoS 3", 4, True, "82 06 0001 0001 61 03", PROTOCOL),
    ("QoS 3", 5, True, "82 07 0001 00 0001 61 03", PROTOCOL),
    ("no local in 3.1.1", 4, True, "82 06 0001 0001 61 04", MALFORMED),
    ("reserved option", 5, True, "82 07 0001 00 0001 61 40", MALFORMED),
    ("reserved option", 5, True, "82 07 0001 00 0001 61 80", MALFORMED),
    ("retain handling 3", 5, True, "82 07 0001 00 0001 61 30", PROTOCOL),
    # -- SUBACK, UNSUBSCRIBE, UNSUBACK
    ("packet id 0", 4, False, "90 03 0000 00", PROTOCOL),
    ("no code", 4, False, "90 02 0001", PROTOCOL),
    ("no code", 5, False, "90 03 0001 00", PROTOCOL),
    ("a code of 5 in 3.1.1", 4, False, "90 03 0001 87", PROTOCOL),
    ("no packet id", 5, True, "a2 01 00", MALFORMED),
    ("packet id 0", 5, True, "a2 06 0000 00 0001 61", PROTOCOL),
    ("no filter", 4, True, "a2 02 0001", PROTOCOL),
    ("no filter", 5, True, "a2 03 0001 00", PROTOCOL),
    ("empty filter", 4, True, "a2 04 0001 0000", PROTOCOL),
    ("filter longer than the packet", 4, True, "a2 05 0001 0005 61", MALFORMED),
    ("NUL in a filter", 4, True, "a2 05 0001 0001 00", MALFORMED),
    ("packet id 0", 4, False, "b0 02 0000", PROTOCOL),
    ("a code in 3.1.1", 4, False, "b0 03 0001 00", MALFORMED),
    ("no code", 5, False, "b0 03 0001 00", PROTOCOL),
    ("no properties", 5, False, "b0 02 0001", MALFORMED),
    # -- PINGREQ, PINGRESP, DISCONNECT, AUTH
    ("a body", 4, True, "c0 01 00", MALFORMED),
    ("a body", 5, False, "d0 01 00", MALFORMED),
    ("a body in 3.1.1", 4, True, "e0 01 00", MALFORMED),
    ("bytes behind", 5, True, "e0 03 00 00 00", MALFORMED),
    ("properties longer than the packet", 5, True, "e0 02 00 05", MALFORMED),
    ("a server reference from a client", 5, True, "e0 06 00 04 1c 0001 61", PROTOCOL),
    ("a session expiry from the server", 5, False, "e0 07 00 05 11 00000000", PROTOCOL),
    ("success from a client", 5, True, "f0 00", PROTOCOL),
    ("no properties", 5, False, "f0 01 00", MALFORMED),
    ("no method", 5, True, "f0 02 18 00", PROTOCOL),
    ("no method", 5, False, "f0 02 00 00", PROTOCOL),
    ("authentication data without a method", 5, True, "f0 06 18 04 16 0001 61", PROTOCOL),
    ("bytes behind", 5, True, "f0 07 18 04 15 0001 6d 00", MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("what", "version", "server", "data", "code"), REFUSED)
def test_refused(what: str, version: int, server: bool, data: str, code: int) -> None:
    packets, error = read(version, bytes.fromhex(data), server=server)
    assert packets == []
    assert error is not None, what
    assert error[0] == code
    assert error[1]


@pytest.mark.parametrize(
    ("data", "version"),
    [
        ("10 0f 0006 4d5149736470 03 02 003c 0001 63", 4),  # 3.1 understands the CONNACK of 3.1.1
        ("10 0c 0004 4d515454 03 02 003c 0000", 4),
        ("10 0c 0004 4d515454 84 02 003c 0000", 4),
        ("10 0d 0004 4d515454 06 02 003c 00 0000", 5),
        ("10 0d 0004 4d515454 05 03 003c 00 0000", 5),  # refused for something else
        ("10 0c 0004 4d515454 04 03 003c 0000", 4),
        ("10 0c 0004 4d515458 05 02 003c 0000", 0),  # not MQTT
        ("10 04 0004 4d51", 0),
        ("30 04 0001 61 78", 0),
    ],
)
def test_a_refused_client_is_answered_in_a_version_that_it_reads(data: str, version: int) -> None:
    r = Reader(server=True, max_packet=1000)
    assert r.feed(bytes.fromhex(data)) == []
    assert r.error is not None
    assert r.version == version


@pytest.mark.parametrize(("version", "server"), SIDES, ids=SIDE_IDS)
def test_every_first_byte(version: int, server: bool) -> None:
    foreign = {2, 9, 11, 13} if server else {1, 8, 10, 12}
    for first in range(256):
        kind, flags = first >> 4, first & 15
        expected = None
        if not kind or (kind == 15 and version == 4) or (kind == 3 and flags & 6 == 6):
            expected = MALFORMED
        elif kind == 3:
            expected = PROTOCOL if flags & 14 == 8 else None
        elif flags != (2 if kind in {6, 8, 10} else 0):
            expected = MALFORMED
        elif kind in foreign or (kind == 14 and version == 4 and not server):
            expected = PROTOCOL
        # its body is not there yet, so nothing else can be said of it
        r = reader(version, server=server)
        assert r.feed(bytes((first, 2))) == []
        assert (r.error and r.error.code) == expected, hex(first)


def with_properties(place: str, block: bytes) -> bytes:
    """A packet of 5 that has nothing but these properties."""
    props = bytes((len(block),)) + block
    body = {
        "CONNECT": b"\0\4MQTT\5\2\0\0" + props + b"\0\0",
        "WILL": b"\0\4MQTT\5\6\0\0\0\0\0" + props + b"\0\1w\0\0",
        "CONNACK": b"\0\0" + props,
        "PUBLISH": b"\0\1t" + props + b"payload",
        "SUBSCRIBE": b"\0\1" + props + b"\0\1f\0",
        "SUBACK": b"\0\1" + props + b"\0",
        "UNSUBSCRIBE": b"\0\1" + props + b"\0\1f",
        "UNSUBACK": b"\0\1" + props + b"\0",
        "DISCONNECT": b"\0" + props,
        "AUTH": b"\x18" + props,
    }.get(place, b"\0\1\0" + props)
    first = {"WILL": 0x10, "PUBREL": 0x62, "SUBSCRIBE": 0x82, "UNSUBSCRIBE": 0xA2}
    return bytes((first.get(place) or Kind[place] << 4, len(body))) + body


FROM_CLIENT = ["CONNECT", "WILL", "PUBLISH", *ACKS.split(), "SUBSCRIBE", "UNSUBSCRIBE", "DISCONNECT", "AUTH"]
FROM_SERVER = ["CONNACK", "PUBLISH", *ACKS.split(), "SUBACK", "UNSUBACK", "DISCONNECT", "AUTH"]
PLACES = [(place, True) for place in FROM_CLIENT] + [(place, False) for place in FROM_SERVER]
# in the table of 2.2.2.2, and yet for one side only
FOREIGN = {
    (P.SUBSCRIPTION_ID, "PUBLISH", True),
    (P.SERVER_REFERENCE, "DISCONNECT", True),
    (P.SESSION_EXPIRY, "DISCONNECT", False),
}
METHOD = b"\x15\0\1m"


def beside(place: str, spec: Spec) -> bytes:
    """What must stand before the property for the packet to be whole."""
    if spec.id == P.AUTH_METHOD:
        return b""
    return METHOD if place == "AUTH" or spec.id == P.AUTH_DATA else b""


@pytest.mark.parametrize(("place", "server"), PLACES)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id.name)
def test_every_property_in_every_packet(spec: Spec, place: str, server: bool) -> None:
    one = bytes((spec.id,)) + spec.sample
    packets, error = read(5, with_properties(place, beside(place, spec) + one), server=server)
    if place not in places(spec, server=server):
        assert packets == []
        assert error is not None
        assert error[0] == (PROTOCOL if (spec.id, place, server) in FOREIGN else MALFORMED)
        return
    assert (len(packets), error) == (1, None)
    packets, error = read(5, with_properties(place, beside(place, spec) + one + one), server=server)
    if f"from {'client' if server else 'server'} {place}" in spec.repeats or (
        spec.id == P.USER and place in spec.repeats.split()
    ):
        assert (len(packets), error) == (1, None)
    else:
        assert packets == []
        assert error is not None
        assert error[0] == PROTOCOL
    for value, code in spec.bad:
        block = beside(place, spec) + bytes((spec.id,)) + value
        packets, error = read(5, with_properties(place, block), server=server)
        assert packets == []
        assert error is not None
        assert error[0] == code, value


@pytest.mark.parametrize(("place", "server"), PLACES)
def test_unknown_properties(place: str, server: bool) -> None:
    for ident in set(range(256)) - {spec.id for spec in SPECS}:
        packets, error = read(5, with_properties(place, bytes((ident, 0, 1, 97))), server=server)
        assert packets == []
        assert error is not None
        assert error[0] == MALFORMED


@pytest.mark.parametrize(
    ("kind", "server"),
    [(kind, True) for kind in CODES_FROM_CLIENT] + [(kind, False) for kind in CODES_FROM_SERVER],
)
def test_every_reason_code_in_every_packet(kind: Kind, server: bool) -> None:
    allowed = (CODES_FROM_CLIENT if server else CODES_FROM_SERVER)[kind]
    first = kind << 4 | (2 if kind == Kind.PUBREL else 0)
    for code in range(256):
        body = {
            Kind.CONNACK: bytes((0, code, 0)),
            Kind.SUBACK: bytes((0, 1, 0, code)),
            Kind.UNSUBACK: bytes((0, 1, 0, code)),
            Kind.DISCONNECT: bytes((code, 0)),
            Kind.AUTH: bytes((code, 4)) + METHOD,
        }.get(kind, bytes((0, 1, code, 0)))
        packets, error = read(5, bytes((first, len(body))) + body, server=server)
        if code in allowed:
            assert (len(packets), error) == (1, None)
            continue
        assert packets == []
        assert error is not None
        assert error[0] == PROTOCOL


def test_every_reason_code_is_in_the_tables() -> None:
    used = {
        code for table in (CODES_FROM_CLIENT, CODES_FROM_SERVER) for codes in table.values() for code in codes
    }
    assert used == set(Reason)


def test_what_came_before_is_returned_and_nothing_after() -> None:
    r = reader(4, server=True)
    good = codec.publish(4, b"t", b"1", qos=1, pid=1)
    assert r.feed(good + b"\x40\2\0\7" + b"\x82\2\0\1" + good) == [Publish(b"t", b"1", 1, pid=1), 7]
    assert r.error is not None
    assert r.error.code == Reason.PROTOCOL_ERROR
    assert r.error.__traceback__ is None
    before = r.error
    assert r.feed(good) == []
    assert r.error is before


@pytest.mark.parametrize(("version", "server"), SIDES, ids=SIDE_IDS)
@pytest.mark.parametrize("rest", [7, 126, 127, 128, 129, 998, 16_383, 16_384, 2_097_151, 2_097_152])
def test_the_limit_counts_the_whole_packet(version: int, server: bool, rest: int) -> None:
    header = b"\x30" + codec.varint(rest)
    whole = len(header) + rest
    just = reader(version, server=server, limit=whole)
    less = reader(version, server=server, limit=whole - 1)
    # the header is enough to know
    assert just.feed(header) == less.feed(header) == []
    assert just.error is None
    assert less.error is not None
    assert less.error.code == Reason.PACKET_TOO_LARGE
    assert len(just.feed(b"\0\1t\0\0\0\0".ljust(rest, b"\0"))) == 1


def test_the_connect_has_a_limit_of_its_own() -> None:
    def fresh() -> Reader:
        return Reader(server=True, max_packet=1000, max_connect=100)

    r = fresh()
    assert len(r.feed(codec.connect(4, "c", username="u", password=b"p" * 80))) == 1
    assert len(r.feed(codec.publish(4, b"t", bytes(900)))) == 1
    r.feed(codec.publish(4, b"t", bytes(1000)))
    assert r.error is not None
    assert r.error.code == Reason.PACKET_TOO_LARGE
    r = fresh()
    assert r.feed(codec.connect(4, "c", username="u", password=b"p" * 81)) == []
    assert r.error is not None
    assert r.error.code == Reason.PACKET_TOO_LARGE
    # one chunk may carry what follows the CONNECT
    r = fresh()
    assert len(r.feed(codec.connect(5, "c") + codec.publish(5, b"t", bytes(900)))) == 2
