"""Which reason code may stand in which packet from whom, and what 3.1.1 says instead.

A code that the section of its packet does not list, or lists for the other side only, is a protocol error.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.transports.mqtt.codec.types import Kind, Reason, ReturnCode

Codes = Mapping[int, Reason]


def _codes(values: Iterable[int]) -> Codes:
    return {value: Reason(value) for value in values}


# 3.4.2.1 and 3.5.2.1; the server alone may add that nobody subscribes
_PUBLISH: Final = (0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
# 3.6.2.1 and 3.7.2.1
_RELEASE: Final = (0x00, 0x92)
# 3.14.2.1: from either side, from the server only
_END: Final = (0x00, 0x80, 0x81, 0x82, 0x83, 0x90, *range(0x93, 0x9A))
_END_BY_SERVER: Final = (0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3))

FROM_CLIENT: Final[Mapping[int, Codes]] = {
    Kind.PUBACK: _codes(_PUBLISH),
    Kind.PUBREC: _codes(_PUBLISH),
    Kind.PUBREL: _codes(_RELEASE),
    Kind.PUBCOMP: _codes(_RELEASE),
    Kind.DISCONNECT: _codes((*_END, 0x04)),
    Kind.AUTH: _codes((0x18, 0x19)),
}
FROM_SERVER: Final[Mapping[int, Codes]] = {
    Kind.CONNACK: _codes((0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, *range(0x99, 0x9E), 0x9F)),
    Kind.PUBACK: _codes((*_PUBLISH, 0x10)),
    Kind.PUBREC: _codes((*_PUBLISH, 0x10)),
    Kind.PUBREL: _codes(_RELEASE),
    Kind.PUBCOMP: _codes(_RELEASE),
    Kind.SUBACK: _codes((0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)),
    Kind.UNSUBACK: _codes((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91)),
    Kind.DISCONNECT: _codes((*_END, *_END_BY_SERVER)),
    Kind.AUTH: _codes((0x00, 0x18)),
}

# The two packets of 3.1.1 that carry a code.
SUBACK_311: Final = _codes((0x00, 0x01, 0x02, 0x80))
CONNACK_311: Final[Mapping[int, Reason]] = {
    ReturnCode.ACCEPTED: Reason.SUCCESS,
    ReturnCode.UNACCEPTABLE_VERSION: Reason.UNSUPPORTED_VERSION,
    ReturnCode.CLIENT_ID_REJECTED: Reason.CLIENT_ID_INVALID,
    ReturnCode.SERVER_UNAVAILABLE: Reason.SERVER_UNAVAILABLE,
    ReturnCode.BAD_CREDENTIALS: Reason.BAD_CREDENTIALS,
    ReturnCode.NOT_AUTHORIZED: Reason.NOT_AUTHORIZED,
}

# The return code that tells a 3.1.1 client what a reason code says. For any other reason it has none, and its
# connection is closed without a CONNACK (3.1.1: 3.2.2.3).
RETURN_CODES: Final[Mapping[int, ReturnCode]] = {
    **{reason: ReturnCode(value) for value, reason in CONNACK_311.items()},
    Reason.SERVER_BUSY: ReturnCode.SERVER_UNAVAILABLE,
    Reason.QUOTA_EXCEEDED: ReturnCode.SERVER_UNAVAILABLE,
    Reason.USE_ANOTHER_SERVER: ReturnCode.SERVER_UNAVAILABLE,
    Reason.SERVER_MOVED: ReturnCode.SERVER_UNAVAILABLE,
    Reason.CONNECTION_RATE_EXCEEDED: ReturnCode.SERVER_UNAVAILABLE,
    Reason.BANNED: ReturnCode.NOT_AUTHORIZED,
    Reason.BAD_AUTHENTICATION_METHOD: ReturnCode.NOT_AUTHORIZED,
}
