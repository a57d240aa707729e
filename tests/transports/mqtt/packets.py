"""For the tests of the codec: what the specification says of properties, written out by hand; any packet, by strategy;
and any packet written by the writer of its kind.
"""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Malformed,
    P,
    Packet,
    Ping,
    Pong,
    Props,
    Publish,
    Reader,
    Reason,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)

MAX = 1 << 20

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=12)
filters = st.sampled_from(["a/b", "#", "+/x", "$share/g/t"]) | names.filter(bool)
blobs = st.binary(max_size=12)
bits = st.integers(0, 1)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
positive = st.integers(1, 0xFFFF)
varints = st.sampled_from([1, 127, 128, 16383, 16384, 2097151, 2097152, 268435455]) | st.integers(
    1, 268435455
)

ACKS = " PUBACK PUBREC PUBREL PUBCOMP"


class Spec(NamedTuple):
    """A property as its section has it: who may put it where, a good value on the wire, bad ones with their code."""

    id: P
    values: st.SearchStrategy[Any]
    sample: bytes
    from_client: str = ""
    from_server: str = ""
    bad: tuple[tuple[bytes, int], ...] = ()
    repeats: str = ""


_BIT = ((b"\x02", 0x82), (b"\xff", 0x82))
_TEXTS = (
    (b"\0\2\xc3\x28", 0x81),
    (b"\0\3\xed\xa0\x80", 0x81),
    (b"\0\2\xc0\xaf", 0x81),
    (b"\0\1\0", 0x81),
    (b"\0\3a", 0x81),
    (b"\0", 0x81),
)
_TOPICS = (*_TEXTS, (b"\0\1+", 0x82), (b"\0\3a/#", 0x82), (b"\0\0", 0x82))
_TEXT = b"\0\1a"
_ALL = ACKS + " DISCONNECT AUTH "

# MQTT 5, 2.2.2.2 and the section of each property
SPECS = [
    Spec(P.PAYLOAD_FORMAT, bits, b"\1", "PUBLISH WILL", "PUBLISH", _BIT),
    Spec(P.MESSAGE_EXPIRY, u32, b"\0\0\0\0", "PUBLISH WILL", "PUBLISH", ((b"\0\0\0", 0x81),)),
    Spec(P.CONTENT_TYPE, names, _TEXT, "PUBLISH WILL", "PUBLISH", _TEXTS),
    Spec(P.RESPONSE_TOPIC, topics, _TEXT, "PUBLISH WILL", "PUBLISH", _TOPICS),
    Spec(P.CORRELATION, blobs, b"\0\2\0\xff", "PUBLISH WILL", "PUBLISH", ((b"\0\2a", 0x81),)),
    Spec(
        P.SUBSCRIPTION_ID,
        st.lists(varints, min_size=1, max_size=3),
        b"\xff\xff\xff\x7f",
        "SUBSCRIBE",
        "PUBLISH",
        ((b"\0", 0x82), (b"\x80\0", 0x81), (b"\xff\xff\xff\xff\1", 0x81), (b"\x80", 0x81)),
        "from server PUBLISH",
    ),
    Spec(P.SESSION_EXPIRY, u32, b"\0\0\0\0", "CONNECT DISCONNECT", "CONNACK", ((b"\0", 0x81),)),
    Spec(P.ASSIGNED_CLIENT_ID, names, _TEXT, "", "CONNACK", _TEXTS),
    Spec(P.SERVER_KEEP_ALIVE, u16, b"\0\0", "", "CONNACK", ((b"\0", 0x81),)),
    Spec(P.AUTH_METHOD, names, _TEXT, "CONNECT AUTH", "CONNACK AUTH", _TEXTS),
    Spec(P.AUTH_DATA, blobs, b"\0\0", "CONNECT AUTH", "CONNACK AUTH", ((b"\0\1", 0x81),)),
    Spec(P.REQUEST_PROBLEM, bits, b"\0", "CONNECT", "", _BIT),
    Spec(P.WILL_DELAY, u32, b"\xff\xff\xff\xff", "WILL", "", ((b"\0\0\0", 0x81),)),
    Spec(P.REQUEST_RESPONSE, bits, b"\1", "CONNECT", "", _BIT),
    Spec(P.RESPONSE_INFO, names, _TEXT, "", "CONNACK", _TEXTS),
    Spec(P.SERVER_REFERENCE, names, _TEXT, "", "CONNACK DISCONNECT", _TEXTS),
    Spec(P.REASON, names, _TEXT, _ALL, _ALL + "CONNACK SUBACK UNSUBACK", _TEXTS),
    Spec(P.RECEIVE_MAXIMUM, positive, b"\0\1", "CONNECT", "CONNACK", ((b"\0\0", 0x82),)),
    Spec(P.TOPIC_ALIAS_MAXIMUM, u16, b"\0\0", "CONNECT", "CONNACK", ((b"\0", 0x81),)),
    Spec(P.TOPIC_ALIAS, positive, b"\0\1", "PUBLISH", "PUBLISH", ((b"\0\0", 0x94),)),
    Spec(P.MAXIMUM_QOS, bits, b"\1", "", "CONNACK", _BIT),
    Spec(P.RETAIN_AVAILABLE, bits, b"\0", "", "CONNACK", _BIT),
    Spec(
        P.USER,
        st.lists(st.tuples(names, names), min_size=1, max_size=3),
        b"\0\1n\0\1v",
        _ALL + "CONNECT WILL PUBLISH SUBSCRIBE UNSUBSCRIBE",
        _ALL + "CONNACK PUBLISH SUBACK UNSUBACK",
        (*((b"\0\1n" + value, code) for value, code in _TEXTS), *((v + _TEXT, c) for v, c in _TEXTS[:4])),
        "from client PUBLISH from server PUBLISH" + _ALL + "CONNECT WILL SUBSCRIBE UNSUBSCRIBE CONNACK SUBACK UNSUBACK",
    ),
    Spec(
        P.MAXIMUM_PACKET_SIZE,
        st.integers(1, 0xFFFFFFFF),
        b"\0\0\0\1",
        "CONNECT",
        "CONNACK",
        ((b"\0\0\0\0", 0x82),),
    ),
    Spec(P.WILDCARDS_AVAILABLE, bits, b"\0", "", "CONNACK", _BIT),
    Spec(P.SUBSCRIPTION_IDS_AVAILABLE, bits, b"\0", "", "CONNACK", _BIT),
    Spec(P.SHARED_AVAILABLE, bits, b"\0", "", "CONNACK", _BIT),
]  # fmt: skip

# MQTT 5: 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1, 3.15.2.1
_PUB = {0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
_BOTH = {0, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99}
CODES_FROM_CLIENT = {
    Kind.PUBACK: _PUB,
    Kind.PUBREC: _PUB,
    Kind.PUBREL: {0, 0x92},
    Kind.PUBCOMP: {0, 0x92},
    Kind.DISCONNECT: {*_BOTH, 4},
    Kind.AUTH: {0x18, 0x19},
}
CODES_FROM_SERVER = {
    Kind.CONNACK: {0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F},
    Kind.PUBACK: {*_PUB, 0x10},
    Kind.PUBREC: {*_PUB, 0x10},
    Kind.PUBREL: {0, 0x92},
    Kind.PUBCOMP: {0, 0x92},
    Kind.SUBACK: {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
    Kind.UNSUBACK: {0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
    Kind.DISCONNECT: {*_BOTH, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3)},
    Kind.AUTH: {0, 0x18},
}


def places(spec: Spec, *, server: bool) -> list[str]:
    """Where the property may stand in what is read by the server, or by a client."""
    return (spec.from_client if server else spec.from_server).split()


def reader(version: int, *, server: bool, limit: int = MAX) -> Reader:
    return Reader(version, server=server, max_packet=limit)


def told(error: Malformed | None) -> tuple[int, str] | None:
    return None if error is None else (error.code, error.detail)


def read(version: int, data: bytes, *, server: bool) -> tuple[list[Packet], tuple[int, str] | None]:
    """All that one chunk is read into, and what is said of the rest."""
    r = reader(version, server=server)
    return r.feed(data), told(r.error)


def write(version: int, packet: Packet) -> bytes:  # noqa: PLR0911 one answer a packet type
    """A packet by the writer of its kind."""
    match packet:
        case Connect(level, clean, keep_alive, client_id, username, password, will, props):
            return codec.connect(
                level,
                client_id,
                clean=clean,
                keep_alive=keep_alive,
                username=username,
                password=password,
                will=will,
                props=props,
            )
        case Connack(present, code, props):
            return codec.connack(version, present, code, props)
        case Publish(topic, payload, qos, retain, dup, pid, props):
            return codec.publish(
                version, topic, payload, qos=qos, dup=dup, retain=retain, pid=pid, props=props
            )
        case int(pid):
            return codec.puback(version, pid)
        case Ack(kind, pid, code, props):
            return codec.ack(version, kind, pid, code, props)
        case Subscribe(pid, filters_, props):
            return codec.subscribe(version, pid, filters_, props)
        case Suback(pid, codes, props):
            return codec.suback(version, pid, codes, props)
        case Unsubscribe(pid, filters_, props):
            return codec.unsubscribe(version, pid, filters_, props)
        case Unsuback(pid, codes, props):
            return codec.unsuback(version, pid, codes, props)
        case Ping():
            return codec.pingreq()
        case Pong():
            return codec.pingresp()
        case Disconnect(code, props):
            return codec.disconnect(version, code, props)
        case Auth(code, props):
            return codec.auth(code, props)


@st.composite
def properties(draw: st.DrawFn, version: int, place: str, server: bool) -> Props | None:
    if version == 4 or draw(st.booleans()):
        return None
    allowed = [spec for spec in SPECS if place in places(spec, server=server)]
    chosen = draw(st.lists(st.sampled_from(allowed), max_size=5, unique_by=lambda spec: spec.id))
    props: Props = {int(spec.id): draw(spec.values) for spec in chosen}
    if place == "SUBSCRIBE" and P.SUBSCRIPTION_ID in props:
        props[P.SUBSCRIPTION_ID] = props[P.SUBSCRIPTION_ID][:1]
    if place == "CONNECT" and P.AUTH_METHOD not in props:
        props.pop(P.AUTH_DATA, None)
    if place == "AUTH":
        props.setdefault(P.AUTH_METHOD, draw(names))
    return props or None


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    will = None
    if draw(st.booleans()):
        will = Will(
            draw(topics).encode(),
            draw(blobs),
            draw(st.integers(0, 2)),
            draw(st.booleans()),
            draw(properties(version, "WILL", server=True)),
        )
    username = draw(st.none() | names)
    return Connect(
        version,
        draw(st.booleans()),
        draw(u16),
        draw(names),
        username,
        draw(st.none() | blobs) if version == 5 or username is not None else None,
        will,
        draw(properties(version, "CONNECT", server=True)),
    )


@st.composite
def connacks(draw: st.DrawFn, version: int) -> Connack:
    codes = CODES_FROM_SERVER[Kind.CONNACK] if version == 5 else {0, 0x84, 0x85, 0x86, 0x87, 0x88}
    code = Reason(draw(st.sampled_from(sorted(codes))))
    return Connack(not code and draw(st.booleans()), code, draw(properties(version, "CONNACK", server=False)))


@st.composite
def publishes(draw: st.DrawFn, version: int, server: bool) -> Publish:
    qos = draw(st.integers(0, 2))
    props = draw(properties(version, "PUBLISH", server=server))
    no_topic = props is not None and P.TOPIC_ALIAS in props and draw(st.booleans())
    return Publish(
        b"" if no_topic else draw(topics).encode(),
        draw(blobs | st.sampled_from([b"x" * 120, b"y" * 16384])),
        qos,
        draw(st.booleans()),
        qos > 0 and draw(st.booleans()),
        draw(positive) if qos else 0,
        props,
    )


@st.composite
def acks(draw: st.DrawFn, version: int, server: bool) -> Ack | int:
    kind = draw(st.sampled_from([Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP]))
    codes = (CODES_FROM_CLIENT if server else CODES_FROM_SERVER)[kind] if version == 5 else {0}
    code = Reason(draw(st.sampled_from(sorted(codes))))
    props = draw(properties(version, kind.name, server=server))
    pid = draw(positive)
    return pid if kind == Kind.PUBACK and not code and props is None else Ack(kind, pid, code, props)


def options(version: int) -> st.SearchStrategy[int]:
    qos = st.integers(0, 2)
    if version == 4:
        return qos
    return st.builds(lambda q, flags, retain: q | flags << 2 | retain << 4, qos, st.integers(0, 3), qos)


def coded(version: int, kind: type[Suback | Unsuback], name: str) -> st.SearchStrategy[Suback | Unsuback]:
    allowed = CODES_FROM_SERVER[Kind[name]] if version == 5 else {0, 1, 2, 0x80}
    codes = st.lists(st.sampled_from(sorted(allowed)).map(Reason), min_size=1, max_size=4)
    if version == 4 and kind is Unsuback:
        codes = st.just([])
    return st.builds(kind, positive, codes, properties(version, name, server=False))


def ends(version: int, server: bool) -> st.SearchStrategy[Disconnect]:
    codes = (CODES_FROM_CLIENT if server else CODES_FROM_SERVER)[Kind.DISCONNECT] if version == 5 else {0}
    props = properties(version, "DISCONNECT", server=server)
    return st.builds(Disconnect, st.sampled_from(sorted(codes)).map(Reason), props)


def auths(server: bool) -> st.SearchStrategy[Auth]:
    codes = sorted((CODES_FROM_CLIENT if server else CODES_FROM_SERVER)[Kind.AUTH])
    props = properties(5, "AUTH", server=server).filter(bool)
    whole = st.builds(Auth, st.sampled_from(codes).map(Reason), props)
    return whole if server else whole | st.just(Auth())


def packets(version: int, *, server: bool) -> st.SearchStrategy[Packet]:
    """Any packet that the server reads, or that a client does; no CONNECT."""
    either: list[st.SearchStrategy[Any]] = [publishes(version, server), acks(version, server)]
    if version == 5:
        either += [ends(5, server), auths(server)]
    elif server:
        either.append(ends(4, server))
    if not server:
        answers: list[st.SearchStrategy[Any]] = [
            connacks(version),
            coded(version, Suback, "SUBACK"),
            coded(version, Unsuback, "UNSUBACK"),
            st.just(Pong()),
        ]
        return st.one_of(either + answers)
    asked = st.lists(st.tuples(filters, options(version)), min_size=1, max_size=3)
    requests: list[st.SearchStrategy[Any]] = [
        st.builds(Subscribe, positive, asked, properties(version, "SUBSCRIBE", server=True)),
        st.builds(
            Unsubscribe,
            positive,
            st.lists(filters, min_size=1, max_size=3),
            properties(version, "UNSUBSCRIBE", server=True),
        ),
        st.just(Ping()),
    ]
    return st.one_of(either + requests)


SIDES = [(4, True), (4, False), (5, True), (5, False)]
SIDE_IDS = ["3.1.1 server", "3.1.1 client", "5 server", "5 client"]
