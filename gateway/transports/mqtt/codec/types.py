"""The packets of MQTT 3.1.1 and 5 as values, and the numbers that they are written with.

Section numbers are those of MQTT 5.0 (OASIS, 2019); `3.1.1:` marks those of MQTT 3.1.1 (OASIS, 2014).

A packet's `version` is its protocol level: 4 (3.1.1) or 5. Where 3.1.1 has no field for something, a packet that was
read has what the absence means: `props` None, `code` SUCCESS.
"""

from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgspec

# Property id -> value: flags and numbers as int, text as str, binary data as bytes. The two that may come more than
# once are lists: USER of (name, value), SUBSCRIPTION_ID of int. None: the packet has no properties.
Props: TypeAlias = dict[int, Any]

# the largest number that a Variable Byte Integer holds (1.5.5): no packet is longer than this plus its five-byte header
MAX_VARINT: Final = 268_435_455


class Kind(IntEnum):
    """Control packet types (2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class P(IntEnum):
    """Property identifiers (2.2.2.2)."""

    PAYLOAD_FORMAT = 1
    MESSAGE_EXPIRY = 2
    CONTENT_TYPE = 3
    RESPONSE_TOPIC = 8
    CORRELATION = 9
    SUBSCRIPTION_ID = 11
    SESSION_EXPIRY = 17
    ASSIGNED_CLIENT_ID = 18
    SERVER_KEEP_ALIVE = 19
    AUTH_METHOD = 21
    AUTH_DATA = 22
    REQUEST_PROBLEM = 23
    WILL_DELAY = 24
    REQUEST_RESPONSE = 25
    RESPONSE_INFO = 26
    SERVER_REFERENCE = 28
    REASON = 31
    RECEIVE_MAXIMUM = 33
    TOPIC_ALIAS_MAXIMUM = 34
    TOPIC_ALIAS = 35
    MAXIMUM_QOS = 36
    RETAIN_AVAILABLE = 37
    USER = 38
    MAXIMUM_PACKET_SIZE = 39
    WILDCARDS_AVAILABLE = 40
    SUBSCRIPTION_IDS_AVAILABLE = 41
    SHARED_AVAILABLE = 42


class Reason(IntEnum):
    """Reason codes (2.4, table 2-6). 0x80 and above say that it failed."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_INVALID = 0x85
    BAD_CREDENTIALS = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_IN_USE = 0x91
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1
    WILDCARDS_NOT_SUPPORTED = 0xA2


class ReturnCode(IntEnum):
    """What a CONNACK of 3.1.1 says (3.1.1: 3.2.2.3)."""

    ACCEPTED = 0
    UNACCEPTABLE_VERSION = 1
    CLIENT_ID_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORIZED = 5


class Malformed(Exception):
    """The peer sent what the protocol forbids. `code`: what MQTT 5 answers; `detail` never quotes what was sent."""

    def __init__(self, code: Reason, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def __repr__(self) -> str:
        return f"Malformed({self.code.name}, {self.detail!r})"


class _Packet(msgspec.Struct, gc=False):
    """The base of all packets. Nothing in them refers back, so the collector need not look at them."""

    def __repr__(self) -> str:
        """Numbers as they are, of the rest only how much: logs must hold neither credentials nor bodies."""
        fields = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            shown = value if value is None or isinstance(value, int | _Packet) else f"<{len(value)}>"
            fields.append(f"{name}={shown}")
        return f"{type(self).__name__}({', '.join(fields)})"


class Will(_Packet):
    """What the server publishes when the connection ends without a DISCONNECT (3.1.2.5). `topic` is UTF-8."""

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    props: Props | None = None


class Connect(_Packet):
    """CONNECT (3.1). `clean`: clean start (5) or clean session (3.1.1). `keep_alive` in seconds, 0 is none."""

    version: int
    clean: bool
    keep_alive: int
    client_id: str
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    props: Props | None = None


class Connack(_Packet):
    """CONNACK (3.2). What 3.1.1 says by return code is the reason code of the same meaning here."""

    session_present: bool
    code: Reason
    props: Props | None = None


class Publish(_Packet):
    """PUBLISH (3.3). `topic` is well-formed UTF-8 without NUL and wildcards, and empty only beside a topic alias.

    `pid` is 0 at QoS 0.
    """

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    pid: int = 0
    props: Props | None = None


class Ack(_Packet):
    """PUBREC, PUBREL, PUBCOMP, and a PUBACK that says more than success (3.4 to 3.7)."""

    kind: Kind
    pid: int
    code: Reason = Reason.SUCCESS
    props: Props | None = None


class Subscribe(_Packet):
    """SUBSCRIBE (3.8): topic filters, not empty but else unchecked, each with its options byte (3.8.3.1).

    Of the options 3.1.1 has the QoS only (bits 0 and 1).
    """

    pid: int
    filters: list[tuple[str, int]]
    props: Props | None = None


class Suback(_Packet):
    """SUBACK (3.9): one code for each filter."""

    pid: int
    codes: list[Reason]
    props: Props | None = None


class Unsubscribe(_Packet):
    """UNSUBSCRIBE (3.10): topic filters, not empty but else unchecked."""

    pid: int
    filters: list[str]
    props: Props | None = None


class Unsuback(_Packet):
    """UNSUBACK (3.11): one code for each filter; none in 3.1.1."""

    pid: int
    codes: list[Reason]
    props: Props | None = None


class Ping(_Packet):
    """PINGREQ (3.12)."""


class Pong(_Packet):
    """PINGRESP (3.13)."""


class Disconnect(_Packet):
    """DISCONNECT (3.14)."""

    code: Reason = Reason.NORMAL_DISCONNECTION
    props: Props | None = None


class Auth(_Packet):
    """AUTH (3.15), MQTT 5 only."""

    code: Reason = Reason.SUCCESS
    props: Props | None = None


# What a stream is read into. An int is the packet id of a PUBACK that says success and no more.
Packet: TypeAlias = (
    Connect | Connack | Publish | int | Ack | Subscribe | Suback | Unsubscribe | Unsuback
    | Ping | Pong | Disconnect | Auth
)  # fmt: skip
