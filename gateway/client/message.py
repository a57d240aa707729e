"""A message in the hands of the application."""

from enum import IntEnum
from typing import Any, Protocol

from gateway.client.frames import MsgEntry


class Stage(IntEnum):
    """How far a message is with this client."""

    WAITING = 0  # not handed to the application yet
    HANDED = 1
    ACKED = 2
    NACKED = 3
    REJECTED = 4
    WITHDRAWN = 5  # taken back before it was handed out


class Settler(Protocol):
    def ack(self, message: "Message") -> None: ...
    def nack(self, message: "Message", delay: float, why: str) -> None: ...
    def reject(self, message: "Message", why: str) -> None: ...
    def working(self, message: "Message") -> None: ...


class Message:
    """One message. `sender` is the frame's `from`, `at` Unix ms, `body` any JSON value.

    `redelivered` counts earlier deliveries; 0 means that nobody had it before. `possible_dup` is the id of a message
    that this one may repeat. `reply_to` is the client that an answer is addressed to, `correlation` what the answer
    repeats (base64). `seq` changes when the message comes again under another seq while it is in hand.

    Settle each message once, with `ack`, `nack` or `reject`; the same call again does nothing, a different one raises
    RuntimeError. All raise ClientClosed (or what stopped the client) once the client has ended: then the message comes
    again to the next one.
    """

    __slots__ = (
        "_settler", "at", "body", "correlation", "id", "meta", "possible_dup", "priority", "redelivered", "reply_to",
        "sender", "seq", "stage", "trace", "type", "via",
    )  # fmt: skip

    def __init__(self, entry: MsgEntry, settler: Settler) -> None:
        self._settler = settler
        self.stage = Stage.WAITING
        self.id = entry.id
        self.seq = entry.seq
        self.sender = entry.sender
        self.at = entry.at
        self.body: Any = entry.body
        self.type = entry.type
        self.priority = entry.priority
        self.redelivered = entry.redelivered
        self.trace = entry.trace
        self.meta = entry.meta
        self.via = entry.via
        self.possible_dup = entry.possible_dup
        self.reply_to = entry.reply_to
        self.correlation = entry.correlation

    async def ack(self) -> None:
        """It is processed. Acks given within `ack_delay` leave in one frame."""
        self._settler.ack(self)

    async def nack(self, *, delay: float = 0.0, why: str = "") -> None:
        """Not now: it comes again under a new seq, after `delay` seconds (0..86400). ValueError for another delay.

        `why` is for people and is cut at 256 characters.
        """
        self._settler.nack(self, delay, why)

    async def reject(self, *, why: str = "") -> None:
        """Never: it goes to the dead letters. `why` as for `nack`."""
        self._settler.reject(self, why)

    async def working(self) -> None:
        """Still at it: the gateway's `ack_wait` starts afresh."""
        self._settler.working(self)

    def __repr__(self) -> str:
        return f"<Message {self.id} seq {self.seq} from {self.sender} {self.stage.name.lower()}>"
