"""What passes between the session, its driver and the program."""

from collections.abc import Callable
from enum import IntEnum

from msgspec import Struct

from gateway.client.errors import ClientError
from gateway.client.state import Snapshot


class Leave(IntEnum):
    """What the driver does with the connection once the frames are written."""

    NO = 0
    CLOSE = 1  # close it properly
    ABORT = 2  # nobody answers any more


class Info(Struct, frozen=True):
    """The last welcome. `why` is "resumed", or why a new epoch began: new, expired, epoch, unknown, clean.

    `missed` counts by reason what ended while away without ever having had a seq; `next` is the next seq to come;
    `heartbeat` in seconds, `max_payload` in bytes a message.
    """

    client: str
    epoch: str
    window: int
    resumed: bool
    why: str
    next: int
    missed: dict[str, int]
    heartbeat: float
    max_payload: int


class Output(Struct, frozen=True):
    """`snapshot`, with its serial number, is to be on disk before a byte of `frames` leaves."""

    frames: list[bytes]
    snapshot: Snapshot | None = None
    serial: int = 0


class Options(Struct, frozen=True):
    """`renewable`: new tokens can be had; `persist`: snapshots are wanted."""

    window: int = 64
    ack_delay: float = 0.005
    dedupe: int = 10_000
    publish_retries: int = 5
    renewable: bool = False
    persist: bool = False


class Reading:
    """Ids that a person has seen. `sent` is called with None when they are given to a connection, or with the end."""

    __slots__ = ("ids", "sent")

    def __init__(self, ids: list[str], sent: Callable[[ClientError | None], None]) -> None:
        self.ids = ids
        self.sent = sent
