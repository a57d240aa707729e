"""What plain clients publish through one link: messages, or dead letters of those that can never be one.

Nobody can be told of a refusal: the broker's PUBACK is long with the client.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.auth import Principal
from gateway.errors import GatewayError, Invalid, Limited, Unavailable
from gateway.model import Publish as Message
from gateway.transports.hub import HubSessions
from gateway.transports.mqtt.broker.receipts import Receipt, Receipts
from gateway.transports.mqtt.broker.repeats import Repeats, Use
from gateway.transports.mqtt.codec import Publish
from gateway.transports.mqtt.plain import read_body, read_publish
from gateway.transports.mqtt.topics import Topics

# what becomes of a publish, or the seconds after which it is to be tried again
TAKEN: Final = 0.0
ASK: Final = -1.0  # the store must be asked first: Repeats.ask
# s until what was refused for now is tried again, where the error does not say it
TRY_AGAIN: Final = 1.0


class Sent:
    """A publish that is with the hub. `body` is JSON; `receipt` None: at QoS 0; `mark`: see repeats.py."""

    __slots__ = ("address", "body", "buried", "mark", "principal", "receipt")

    def __init__(self, principal: Principal, address: str, mark: int) -> None:
        self.principal = principal
        self.address = address
        self.mark = mark
        self.body = b""
        self.receipt: Receipt | None = None
        self.buried = False


@lru_cache(maxsize=4096)
def principal_of(client: str) -> Principal:
    """Whom the broker has authenticated: it lets each client publish to its own topics only."""
    return Principal(kind="client", name=client)


class Uplink:
    """A commit.Sink. `fail` drops the connection, later in the loop, so that the broker sends again; `answered` is
    called after each answer.
    """

    __slots__ = (
        "_answered", "_fail", "_hub", "_receipts", "_repeats", "_topics", "dropped", "loose", "possible_dups",
        "refusals",
    )  # fmt: skip

    def __init__(
        self,
        hub: HubSessions,
        topics: Topics,
        receipts: Receipts,
        repeats: Repeats,
        fail: Callable[[str], None],
        answered: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._topics = topics
        self._receipts = receipts
        self._repeats = repeats
        self._fail = fail
        self._answered = answered
        self.loose = 0  # publishes at QoS 0 without an answer
        # figures
        self.possible_dups = 0
        self.dropped = 0  # publishes at QoS 0 that were refused
        self.refusals: dict[str, int] = {}  # by code

    # -- a publish -------------------------------------------------------------------------------------------------

    def take(self, packet: Publish, client: str, address: str) -> float:
        """TAKEN, ASK, or the seconds after which it may succeed."""
        pid, repeats = packet.pid, self._repeats
        again = packet.dup and pid
        if again and repeats.must_ask(pid, client):
            return ASK
        sent = Sent(principal_of(client), address, mark_of(packet) if pid else 0)
        use = repeats.known(pid, sent.mark) if again else None
        if use is not None and use.buried:
            self._receipts.finish(self._receipts.take(pid))
            return TAKEN
        try:
            message = read_publish(packet, address, self._topics.inbox(client))
            sent.body = bytes(message.body)  # type: ignore[arg-type]
            first = 0
            if again:
                first = use.ids.get("", 0) if use is not None else repeats.stored(pid, client, sent.body)
            self._publish(sent, message, pid, first)
        except GatewayError as error:
            return self._refused_at_once(packet, sent, error)
        self._taken(packet, sent)
        return TAKEN

    def _publish(self, sent: Sent, message: Message, pid: int, first: int) -> None:
        self._hub.publish(sent.principal, message, self, sent, field="message", pid=pid, possible_dup=first)
        if first:
            self.possible_dups += 1

    def _taken(self, packet: Publish, sent: Sent) -> None:
        """It is with the hub."""
        if packet.pid:
            sent.receipt = self._receipts.take(packet.pid)
            self._repeats.begins(packet.pid, dup=packet.dup)
        else:
            self.loose += 1
        self._receipts.opened()

    def _refused_at_once(self, packet: Publish, sent: Sent, error: GatewayError) -> float:
        if not packet.pid:
            self._count(error)
            self.dropped += 1
            return TAKEN
        if not may_wait(error):
            sent.body = sent.body or _body_of(packet)
            try:
                self._bury(sent, error)
            except GatewayError as worse:
                error = worse
            else:
                self._taken(packet, sent)
                return TAKEN
        return error.retry_after or TRY_AGAIN

    def _bury(self, sent: Sent, error: GatewayError) -> None:
        """A dead letter of its publisher. Raises GatewayError."""
        why = error.detail if error.field is None else f"{error.field}: {error.detail}"
        self._hub.refuse(sent.principal, sent.address, sent.body, error.code, why, self, sent)
        sent.buried = True
        self._count(error)

    def _count(self, error: GatewayError) -> None:
        self.refusals[error.code] = self.refusals.get(error.code, 0) + 1

    # -- answers of the hub ----------------------------------------------------------------------------------------

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """It is durable."""
        if ref.receipt is None:
            self.loose -= 1
        else:
            self._repeats.used(ref.receipt.pid, Use(ref.mark, {"": id}, buried=ref.buried))
            self._receipts.finish(ref.receipt)
        self._closed()

    def refused(self, ref: Any, error: GatewayError) -> None:
        """It was refused after all."""
        if ref.receipt is None:
            self.loose -= 1
            self.dropped += 1
            self._count(error)
        elif ref.buried or may_wait(error):
            self._send_again(error)
        else:
            try:
                self._bury(ref, error)
            except GatewayError as worse:
                self._send_again(worse)
            else:
                return
        self._closed()

    def _send_again(self, error: GatewayError) -> None:
        """A commit failed, of it or of its dead letter: the broker is to send it again, and all that came behind it."""
        if isinstance(error, Unavailable):
            self._repeats.doubt()
        self._fail(error.detail)

    def _closed(self) -> None:
        self._receipts.closed()
        self._answered()


def may_wait(error: GatewayError) -> bool:
    """Whether the same publish may be accepted soon, so that those behind it can wait for it. A queue may stay full for
    days: of that its publisher is to know, by a dead letter.
    """
    return isinstance(error, Unavailable) or (isinstance(error, Limited) and error.code == "rate_limited")


def mark_of(packet: Publish) -> int:
    """See repeats.py."""
    return hash((packet.topic, packet.payload))


def _body_of(packet: Publish) -> bytes:
    """A payload as JSON, for a dead letter."""
    try:
        return bytes(read_body(packet.payload)[0])
    except Invalid:
        return msgspec.json.encode(packet.payload.decode(errors="replace"))
