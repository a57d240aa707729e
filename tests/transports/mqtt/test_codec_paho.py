"""Against paho-mqtt, the client that most devices' code is written with: its tables, what it writes, what it reads."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet as paho_packet
from paho.mqtt.client import CallbackAPIVersion, Client
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

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
    Props,
    Publish,
    Reader,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    encode_props,
)
from tests.transports.mqtt.packets import (
    CODES_FROM_CLIENT,
    CODES_FROM_SERVER,
    MAX,
    SPECS,
    connects,
    packets,
    read,
    write,
)

PLACES = {kind.name: int(kind) for kind in Kind} | {"WILL": PacketTypes.WILLMESSAGE}
PROTOCOLS = {4: MQTTProtocolVersion.MQTTv311, 5: MQTTProtocolVersion.MQTTv5}


class Socket:
    """Takes what a client sends."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        pass


def client(version: int, **options: Any) -> tuple[Client, Socket]:
    c = Client(CallbackAPIVersion.VERSION2, protocol=PROTOCOLS[version], **options)
    socket = Socket()
    c._sock = socket
    return c, socket


def names_of(table: Properties) -> dict[int, str]:
    return {ident: name.replace(" ", "") for name, ident in table.names.items()}


def theirs(place: str, props: Props | None) -> Properties:
    """The same properties as theirs."""
    found = Properties(PLACES[place])
    names = names_of(found)
    for ident, value in (props or {}).items():
        setattr(found, names[ident], value)
    return found


def ours(found: Properties | None) -> Props | None:
    """Their properties as ours."""
    if found is None:
        return None
    return {i: getattr(found, name) for i, name in names_of(found).items() if hasattr(found, name)} or None


def fits(props: Props | None) -> bool:
    """It takes no packet size above 2^28 - 1, and refuses U+FEFF, which 1.5.4 lets through."""
    size = (props or {}).get(P.MAXIMUM_PACKET_SIZE, 1)
    return size <= 268_435_455 and "\\ufeff" not in repr(props)


# -- the tables


def test_the_properties_stand_in_the_same_packets() -> None:
    table = Properties(PacketTypes.PUBLISH)
    assert {spec.id for spec in SPECS} == set(table.properties)
    for spec in SPECS:
        here = {PLACES[place] for place in (spec.from_client + " " + spec.from_server).split()}
        assert here == set(table.properties[spec.id][1]), spec.id.name


@pytest.mark.parametrize("kind", CODES_FROM_SERVER)
def test_the_reason_codes_stand_in_the_same_packets(kind: Kind) -> None:
    here = CODES_FROM_SERVER[kind] | CODES_FROM_CLIENT.get(kind, set())
    there = {
        code for code, names in ReasonCode.names.items() if any(kind in places for places in names.values())
    }
    # of 3.2.2.2: payload format invalid, for that of the will
    missing = {Kind.CONNACK: {0x99}}.get(kind, set())
    assert here - there == missing
    assert there <= here


# -- what it writes


def writable_there(packet: Packet) -> bool:
    """It never refuses a PUBLISH, and does not authenticate by AUTH."""
    if isinstance(packet, Ack):
        return not packet.code and packet.props is None
    return isinstance(packet, int | Ping) or (not isinstance(packet, Auth) and fits(packet.props))


def send(version: int, packet: Packet) -> tuple[bytes, Packet]:
    """What paho writes for it, and what that must be read as: it chooses some packet ids itself."""
    c, socket = client(version)
    props = None if version == 4 or isinstance(packet, int | Ping) else packet.props
    match packet:
        case Publish(topic, payload, qos, retain, dup, pid):
            c._send_publish(
                pid,
                topic,
                payload,
                qos,
                retain,
                dup,
                info=_Info(),
                properties=props and theirs("PUBLISH", props),
            )
        case int(pid):
            c._send_puback(pid)
        case Subscribe(_, filters):
            wanted = [
                (name.encode(), _options(options) if version == 5 else options) for name, options in filters
            ]
            c._send_subscribe(False, wanted, props and theirs("SUBSCRIBE", props))
            packet.pid = 1
        case Unsubscribe(_, names):
            c._send_unsubscribe(
                False, [name.encode() for name in names], props and theirs("UNSUBSCRIBE", props)
            )
            packet.pid = 1
        case Ping():
            c._send_pingreq()
        case Disconnect(code):
            reason = ReasonCode(PacketTypes.DISCONNECT, identifier=code)
            c._send_disconnect(reason, props and theirs("DISCONNECT", props))
        case Ack(kind, pid):
            getattr(c, f"_send_{kind.name.lower()}")(pid)
    return bytes(socket.sent), packet


class _Info:
    def _set_as_published(self) -> None:
        pass


def _options(value: int) -> SubscribeOptions:
    return SubscribeOptions(value & 3, bool(value & 4), bool(value & 8), value >> 4)


@pytest.mark.parametrize("version", [4, 5])
def test_what_it_writes_is_read(version: int) -> None:
    @settings(max_examples=200)
    @given(packets(version, server=True).filter(writable_there))
    def check(packet: Packet) -> None:
        data, expected = send(version, packet)
        assert read(version, data, server=True) == ([expected], None)

    check()


@pytest.mark.parametrize("version", [4, 5])
def test_its_connects_are_read(version: int) -> None:
    def can_say(packet: Connect) -> bool:
        will_fits = packet.will is None or fits(packet.will.props)
        # it keeps a password back where there is no user name
        return fits(packet.props) and will_fits and (packet.username is not None or packet.password is None)

    @settings(max_examples=200)
    @given(connects(version).filter(can_say))
    def check(packet: Connect) -> None:
        if version == 5:
            c, socket = client(5, client_id=packet.client_id)
            c._clean_start = packet.clean
            c._connect_properties = packet.props and theirs("CONNECT", packet.props)
        else:
            # a name of its own for none is the library's; the field is what is sent
            c, socket = client(4, client_id="x", clean_session=packet.clean)
        c._client_id = packet.client_id.encode()
        # set as they are sent: username_pw_set and will_set refuse what is allowed
        c._username = None if packet.username is None else packet.username.encode()
        c._password = packet.password
        if packet.will is not None:
            c._will = True
            c._will_topic, c._will_payload = packet.will.topic, packet.will.payload
            c._will_qos, c._will_retain = packet.will.qos, packet.will.retain
            c._will_properties = packet.will.props and theirs("WILL", packet.will.props)
        c._send_connect(packet.keep_alive)
        r = Reader(server=True, max_packet=MAX)
        assert r.feed(bytes(socket.sent)) == [packet]
        assert (r.error, r.version) == (None, version)

    check()


# -- what it reads


def body(data: bytes) -> bytes:
    """Behind the fixed header."""
    at = 1
    while data[at] > 0x7F:
        at += 1
    return data[at + 1 :]


def decoded(version: int, packet: Packet, data: bytes) -> None:
    """Reads it as paho does, and compares."""
    first, rest, protocol = data[0], body(data), PROTOCOLS[version]
    pid: int
    match packet:
        case Publish():
            p = paho_packet.decode_publish(first, rest, protocol)
            assert (p.topic, p.payload, p.qos, p.retain, p.dup, p.mid, ours(p.properties)) == (
                packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.pid, packet.props,
            )  # fmt: skip
        case Connack(present, code, props):
            connack = paho_packet.decode_connack(first, rest, protocol)
            assert (connack.flags, connack.reason.value) == (present, code)
            assert ours(connack.properties) == props
        case int(pid):
            puback = paho_packet.decode_puback(first, rest, protocol)
            assert (puback.mid, puback.reason.value, ours(puback.properties)) == (pid, 0, None)
        case Ack(kind, pid, code, props):
            decode = getattr(paho_packet, f"decode_{kind.name.lower()}")
            ack = decode(first, rest, protocol)
            assert (ack.mid, ack.reason.value, ours(ack.properties)) == (pid, code, props)
        case Suback(pid, codes, props):
            suback = paho_packet.decode_suback(first, rest, protocol)
            assert (suback.mid, [c.value for c in suback.reason_codes]) == (pid, codes)
            assert ours(suback.properties) == props
        case Unsuback(pid, codes, props):
            unsuback = paho_packet.decode_unsuback(first, rest, protocol)
            assert (unsuback.mid, [c.value for c in unsuback.reason_codes]) == (pid, codes)
            assert ours(unsuback.properties) == props
        case Disconnect(code, props):
            end = paho_packet.decode_disconnect(first, rest, protocol)
            assert ((end.reason.value if end.reason else 0), ours(end.properties)) == (code, props)


def readable_there(packet: Packet) -> bool:
    if isinstance(packet, Connack) and packet.code == 0x99:
        return False
    return isinstance(packet, int | Pong) or fits(packet.props)


@pytest.mark.parametrize("version", [4, 5])
def test_what_is_written_it_reads(version: int) -> None:
    @settings(max_examples=200)
    @given(packets(version, server=False).filter(readable_there))
    def check(packet: Packet) -> None:
        decoded(version, packet, write(version, packet))

    check()


@settings(max_examples=200)
@given(st.sampled_from(sorted(PLACES)), st.data())
def test_blocks_of_properties(place: str, data: st.DataObject) -> None:
    allowed = [spec for spec in SPECS if place in (spec.from_client + " " + spec.from_server).split()]
    chosen = data.draw(st.lists(st.sampled_from(allowed), unique_by=lambda s: s.id)) if allowed else []
    props = {int(spec.id): data.draw(spec.values) for spec in chosen}
    if not fits(props):
        return
    block = encode_props(props)
    found, size = Properties(PLACES[place]).unpack(block)
    assert size == len(block)
    assert (ours(found) or {}) == props
    # the order is free, and paho has one of its own
    assert encode_props({i: props[i] for i in names_of(found) if i in props}) == theirs(place, props).pack()
