"""Reason codes of MQTT 5 as what they mean to a client: a close code of PROTOCOL 3, or a refusal that no retry changes.

The gateway tells a framed client why it closes in an `err` with `close` first, which counts more. What is here is for
brokers, and for an `err` that was lost.
"""

from gateway.client.transport import LinkClosed, LinkRefused
from gateway.errors import Close

BAD_USER = 0x86
NOT_AUTHORISED = 0x87
BANNED = 0x8A
PACKET_TOO_LARGE = 0x95
QUOTA = 0x97
# what passes, in CONNACK: unspecified, specific, unavailable, busy, quota, another server, moved, too fast
_PASSING = frozenset((0x80, 0x83, 0x88, 0x89, QUOTA, 0x9C, 0x9D, 0x9F))
# DISCONNECT; what is not here comes back like a lost connection
_CLOSES = {
    0x00: Close.NORMAL,
    0x81: Close.PROTOCOL,
    0x82: Close.PROTOCOL,
    0x89: Close.DRAIN,
    0x8B: Close.DRAIN,
    0x8D: Close.HEARTBEAT,
    0x8E: Close.TAKEN_OVER,
    PACKET_TOO_LARGE: Close.TOO_BIG,
    0x96: Close.RATE,
    QUOTA: Close.SLOW,
    # an administrator's, or new rights in a broker: if it is a ban, the next CONNECT or hello says so
    0x98: Close.DRAIN,
    0x9C: Close.DRAIN,
    0x9D: Close.DRAIN,
    0x9F: Close.RATE,
}
LOST = 1006


def at_connect(code: int, why: str, *, expired: bool) -> LinkClosed | LinkRefused:
    """CONNACK. `expired`: the password was a token past its `exp`."""
    if code in {BAD_USER, NOT_AUTHORISED}:
        return LinkClosed(Close.TOKEN_EXPIRED if expired else Close.NOT_AUTHORISED, why)
    if code == BANNED:
        return LinkClosed(Close.BANNED, why)
    return LinkClosed(Close.DRAIN, why) if code in _PASSING else LinkRefused(code, why)


def at_subscribe(code: int, why: str) -> LinkClosed | LinkRefused:
    """SUBACK."""
    if code == NOT_AUTHORISED:
        return LinkClosed(Close.NOT_AUTHORISED, why)
    return LinkClosed(Close.DRAIN, why) if code in {0x80, QUOTA} else LinkRefused(code, why)


def at_publish(code: int, why: str) -> LinkClosed:
    """PUBACK: the frame is lost, and with it the order of the stream."""
    return LinkClosed(Close.NOT_AUTHORISED if code == NOT_AUTHORISED else LOST, why)


def at_disconnect(code: int, why: str, *, token: bool) -> LinkClosed:
    """DISCONNECT. `token`: the password was a token, so that a fresh one may be what is wanted (at `exp`)."""
    if code == NOT_AUTHORISED:
        return LinkClosed(Close.TOKEN_EXPIRED if token else Close.NOT_AUTHORISED, why)
    return LinkClosed(_CLOSES.get(code, LOST), why)
