"""What a session may be and what may happen to it (session.py tells of both), and the numbers that it goes by."""

from enum import IntEnum

from msgspec import Struct


class State(IntEnum):
    NEW = 0
    JOINING = 1
    LIVE = 2
    AWAY = 3
    EXPIRED = 4


class Input(IntEnum):
    HELLO = 0
    WELCOMED = 1
    LOST = 2
    EXPIRE = 3


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.NEW, Input.HELLO): State.JOINING,
    (State.JOINING, Input.HELLO): State.JOINING,
    (State.LIVE, Input.HELLO): State.JOINING,
    (State.AWAY, Input.HELLO): State.JOINING,
    (State.EXPIRED, Input.HELLO): State.JOINING,
    (State.JOINING, Input.WELCOMED): State.LIVE,
    (State.JOINING, Input.LOST): State.AWAY,
    (State.LIVE, Input.LOST): State.AWAY,
    (State.AWAY, Input.EXPIRE): State.EXPIRED,
}


NEVER = 1 << 62


class Impossible(Exception):
    """An input that the table does not have: a bug in the driver."""


class Rules(Struct, frozen=True):
    """The configured numbers, in ms where they are times."""

    window: int = 64
    ack_wait: int = 10_000
    ack_wait_max: int = 60_000
    deliver_max: int = 5
    crash_max: int = 20
    offline: int = 30_000
    expiry: int = 604_800_000
    heads: int = 256
    heads_bytes: int = 1 << 20


class Half:
    """A chance that always says one half: the ack timer's jitter is the session's own, drawn once a connection."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def random(self) -> float:
        return self.value
