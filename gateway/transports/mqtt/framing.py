"""Framed MQTT: what carries frames, what all framed peers of a transport share, and how an end is told."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from gateway import wire
from gateway.auth import Principal
from gateway.config import Config
from gateway.errors import Close, Forbidden, GatewayError
from gateway.transports.hub import HubSessions
from gateway.transports.wheel import Wheel

if TYPE_CHECKING:
    from gateway.transports.mqtt.framed import FramedDesk

# bytes of messages in one frame, unless it is a single one
MAX_SLICE: Final = 256 * 1024
# heartbeats of silence until a peer is lost (PROTOCOL 3)
SILENCE: Final = 1.75

# how a token is proved: the answer comes once, at once or later in the loop
Authenticate = Callable[[str, Callable[[Principal | GatewayError], None]], None]

_CLOSE_CODES: Final[dict[int, str]] = {
    Close.NORMAL: "bye",
    Close.DRAIN: "draining",
    Close.SLOW: "slow_consumer",
    Close.HEARTBEAT: "heartbeat_lost",
    Close.RATE: "rate_limited",
    Close.EXPIRED: "session_expired",
    Close.TOKEN_EXPIRED: "token_expired",
    Close.NOT_AUTHORISED: "unauthorized",
    Close.TAKEN_OVER: "taken_over",
    Close.BANNED: "banned",
}
_STATUS: Final[dict[int, int]] = {
    Close.NORMAL: 200,
    Close.DRAIN: 503,
    Close.SLOW: 429,
    Close.HEARTBEAT: 408,
    Close.RATE: 429,
    Close.EXPIRED: 409,
    Close.TOKEN_EXPIRED: 401,
    Close.NOT_AUTHORISED: 401,
    Close.TAKEN_OVER: 409,
    Close.BANNED: 403,
}
_as_json: Final = msgspec.json.Encoder().encode


def payload_room(max_packet: int, topic: bytes) -> int:
    """How long a payload may be at QoS 0 in a packet without properties of at most `max_packet` bytes."""
    return max_packet - 8 - len(topic)


class Link(Protocol):
    """What carries the frames of desks. What it calls of a desk is said there."""

    def send(self, desk: "FramedDesk", payload: bytes) -> None:
        """Publish a frame to the client, QoS 0. It may call `desk.pause`, and also end the desk."""

    def throttle(self, desk: "FramedDesk", stop: bool) -> None:
        """Too many publishes of the client wait for their answers, or no longer so: where that can be, leave it
        unread meanwhile.
        """

    def ended(self, desk: "FramedDesk", code: int) -> None:
        """The client has no peer any more, and was told so; `code` as in errors.Close."""


class Framing:
    """What all framed peers of one transport share.

    `door` and `limit` are what `hub.accept` is told of each, `sub` what its session's row is to hold. `awake_since` is
    kept by the owner of the wheel: the Unix ms at which the loop was last found held up: no silence before it counts.
    """

    __slots__ = (
        "awake_since", "batch", "closes", "door", "dropped", "frames_in", "frames_out", "hub", "limit", "now",
        "silence_ms", "sub", "wheel",
    )  # fmt: skip

    def __init__(
        self, hub: HubSessions, config: Config, wheel: Wheel, *, door: str, sub: int, limit: int = 0
    ) -> None:
        self.hub = hub
        self.wheel = wheel
        self.door = door
        self.sub = sub
        self.limit = limit
        self.now = hub.scheduler.now
        self.batch = config.limits.batch
        self.silence_ms = round(config.session.heartbeat * SILENCE * 1000)
        self.awake_since = 0
        # figures
        self.frames_in = self.frames_out = 0
        self.dropped = 0  # answers that no packet of their device holds
        self.closes: dict[int, int] = {}

    def count_close(self, code: int) -> None:
        self.closes[code] = self.closes.get(code, 0) + 1


def err_frame(error: GatewayError, c: str | None, close: int = 0) -> bytes:
    """An `err` about a connection, which is known by its nonce."""
    frame = wire.err_frame(error, close=int(close))
    return frame if c is None else b'%b,"c":%b}' % (frame[:-1], _as_json(c))


def banned() -> Forbidden:
    return Forbidden("this client is banned for a while", code="banned")


def closing_error(code: int, reason: str) -> GatewayError:
    """What is said where a WebSocket has a close frame only."""
    return GatewayError(reason, code=_CLOSE_CODES.get(code, "internal"), http=_STATUS.get(code, 500))
