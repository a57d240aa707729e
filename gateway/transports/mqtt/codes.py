"""How the gateway's reasons to end a connection are said in MQTT (5: 2.4)."""

from collections.abc import Callable
from typing import Final

from gateway.errors import Close
from gateway.transports.mqtt.codec import P, Props, Reason

# Close code -> reason code of the DISCONNECT. DRAIN is one by an administrator here: where the gateway itself goes, or
# its store, what is said depends on the configuration.
CLOSES: Final[dict[int, Reason]] = {
    Close.NORMAL: Reason.NORMAL_DISCONNECTION,
    Close.TOO_BIG: Reason.PACKET_TOO_LARGE,
    Close.DRAIN: Reason.ADMINISTRATIVE_ACTION,
    Close.SLOW: Reason.QUOTA_EXCEEDED,
    Close.HEARTBEAT: Reason.KEEP_ALIVE_TIMEOUT,
    Close.RATE: Reason.MESSAGE_RATE_TOO_HIGH,
    Close.EXPIRED: Reason.ADMINISTRATIVE_ACTION,
    Close.TOKEN_EXPIRED: Reason.NOT_AUTHORIZED,
    Close.NOT_AUTHORISED: Reason.NOT_AUTHORIZED,
    Close.TAKEN_OVER: Reason.SESSION_TAKEN_OVER,
    Close.PROTOCOL: Reason.PROTOCOL_ERROR,
    Close.BANNED: Reason.ADMINISTRATIVE_ACTION,
    Close.ACK_TIMEOUT: Reason.IMPLEMENTATION_SPECIFIC,
}
# What a framed device is told in a frame before the DISCONNECT: where it makes a difference to what it does next
CLOSE_OF: Final[dict[Reason, Close]] = {
    Reason.NOT_AUTHORIZED: Close.TOKEN_EXPIRED,
    Reason.SERVER_BUSY: Close.DRAIN,
    Reason.SERVER_SHUTTING_DOWN: Close.DRAIN,
    Reason.SESSION_TAKEN_OVER: Close.TAKEN_OVER,
    Reason.ADMINISTRATIVE_ACTION: Close.BANNED,
    Reason.USE_ANOTHER_SERVER: Close.DRAIN,
}
# characters of a reason string
MAX_WHY: Final = 256
# what the hub says when an administrator ends a connection: it is not the gateway that goes away
BY_ADMINISTRATOR: Final = "disconnected"

# Ends that the gateway chose for reasons of its own: no message that was delivered is to blame (poison)
BLAMELESS: Final = frozenset((
    Close.NORMAL, Close.DRAIN, Close.RATE, Close.EXPIRED, Close.TOKEN_EXPIRED, Close.NOT_AUTHORISED, Close.TAKEN_OVER,
    Close.BANNED, Close.ACK_TIMEOUT,
))  # fmt: skip

# A CONNACK has codes of its own: what a connection is told that ends before it was accepted
_IN_CONNACK: Final[dict[Reason, Reason]] = {
    Reason.ADMINISTRATIVE_ACTION: Reason.BANNED,
    Reason.SERVER_SHUTTING_DOWN: Reason.SERVER_UNAVAILABLE,
    Reason.SERVER_BUSY: Reason.SERVER_UNAVAILABLE,
    Reason.SESSION_TAKEN_OVER: Reason.SERVER_UNAVAILABLE,
}
# An UNSUBACK has few codes: a filter that can never be subscribed to was not
_IN_UNSUBACK: Final[dict[Reason, Reason]] = {
    Reason.SHARED_NOT_SUPPORTED: Reason.NO_SUBSCRIPTION_EXISTED,
    Reason.WILDCARDS_NOT_SUPPORTED: Reason.NO_SUBSCRIPTION_EXISTED,
}


def in_connack(code: Reason) -> Reason:
    """What a CONNACK says for the reason code of a DISCONNECT."""
    return _IN_CONNACK.get(code, code)


def in_unsuback(code: Reason) -> Reason:
    """What an UNSUBACK says for a filter that a SUBACK would refuse with this."""
    return _IN_UNSUBACK.get(code, code)


def label(code: int) -> str:
    """A reason code in figures."""
    return f"0x{code:02x}"


def fitted(build: Callable[[Props], bytes], props: Props, why: str, limit: int) -> bytes:
    """A packet with a reason string, unless that makes it longer than `limit` [MQTT-3.2.2-19]; b"" where it is too long
    even without.
    """
    if why:
        told = why[:MAX_WHY]
        packet = build({**props, P.REASON: told if told.isprintable() else ascii(told)})
        if len(packet) <= limit:
            return packet
    packet = build(props)
    return packet if len(packet) <= limit else b""
