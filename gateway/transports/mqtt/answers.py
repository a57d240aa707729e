"""The answers to what a device publishes: a PUBACK for each QoS 1 publish when it is durable, in order of receipt
(4.6), or a refusal, as far as the device's version has one.

The hub answers in the order in which it was asked, but a publish that is refused at once is not asked about. So every
QoS 1 publish has a number, and an answer that comes before its turn waits in `early`.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.auth import Principal
from gateway.errors import GatewayError, Invalid, Limited, Unavailable
from gateway.model import Item
from gateway.model import Publish as Message
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Publish, Reason
from gateway.transports.mqtt.codes import fitted
from gateway.transports.mqtt.life import Life
from gateway.transports.mqtt.plain import may_succeed_later, read_body, reason_of
from gateway.transports.mqtt.topics import Refusal
from gateway.transports.mqtt.writer import CLOSING

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

UNFRAMED: Final = Refusal(Reason.IMPLEMENTATION_SPECIFIC, "subscribe to your frames first")


class Answers(Life):
    """A connection as far as it answers publishes."""

    __slots__ = ("early", "given", "last", "loose", "over", "taken")

    def __init__(
        self,
        server: "MqttServer",
        transport: asyncio.Transport,
        version: int,
        principal: Principal,
        peer: str,
    ) -> None:
        super().__init__(server, transport, version, principal, peer)
        self.taken = 0  # QoS 1 publishes, and how many of them were answered
        self.given = 0
        self.early: dict[int, bytes] | None = None
        self.loose = 0  # publishes at QoS 0 without an answer
        # how it ends when a publish that was given up has its turn
        self.last: tuple[Reason, str] | None = None
        self.over = False  # its turn has come

    # -- left to the class below -----------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Take nothing more: it ends when a publish that was given up has its turn."""
        raise NotImplementedError

    def landed(self, pid: int, id: int = 0, body: int = 0) -> None:
        """What was published under this packet id was answered; `id`: with this message, and the hash of its body."""
        raise NotImplementedError

    def answered(self) -> None:
        """Fewer publishes wait for their answers."""
        raise NotImplementedError

    # -- refusals --------------------------------------------------------------------------------------------------

    def refuse_packet(self, packet: Publish, why: Refusal, where: str | Refusal | None = None) -> None:
        """A publish that is not even a message; `where` it was to go."""
        if not packet.pid:
            self.server.dropped += 1
            return
        self.taken = number = self.taken + 1
        if self.version == 5:
            self._refuse_with(number, packet.pid, why.code, why.why)
        elif why is UNFRAMED:
            # nobody can be told, and a frame is no message
            self.server.count_refused(why.code)
            self.answer(number, codec.puback(4, packet.pid))
        else:
            code = "topic_forbidden" if why.code is Reason.NOT_AUTHORIZED else "publish_invalid"
            error = Invalid(why.why, code=code)
            to = where if isinstance(where, str) else packet.topic.decode()
            self.bury(number, packet.pid, to, body_of(packet, None), error, why.code)

    def refuse(self, number: int, pid: int, error: GatewayError) -> None:
        """MQTT 5: a PUBACK says why, unless the fault is the gateway's."""
        if isinstance(error, Unavailable):
            self.give_up(number, error)
            return
        why = error.detail if error.field is None else f"{error.field}: {error.detail}"
        self._refuse_with(number, pid, reason_of(error), why)

    def _refuse_with(self, number: int, pid: int, code: Reason, why: str) -> None:
        self.server.count_refused(code)
        packet = fitted(
            lambda props: codec.ack(5, codec.Kind.PUBACK, pid, code, props),
            {},
            why if self.problems else "",
            self.max_packet,
        )
        self.answer(number, packet)

    def bury(
        self, number: int, pid: int, to: str, body: bytes, error: GatewayError, code: Reason | None = None
    ) -> None:
        """MQTT 3.1.1 has no refusal: what can never succeed becomes a dead letter, which is as durable as a message;
        for what may succeed later the connection ends, and the device sends it again.
        """
        if may_succeed_later(error):
            self.give_up(number, error)
            return
        self.server.count_refused(code if code is not None else reason_of(error))
        why = error.detail if error.field is None else f"{error.field}: {error.detail}"
        try:
            self.server.hub.refuse(self.principal, to, body, error.code, why, self, number << 16 | pid)
        except GatewayError as worse:
            self.give_up(number, worse)

    def give_up(self, number: int, error: GatewayError) -> None:
        """End the connection, so that its device publishes this again; nothing behind it is answered any more.

        Not before its turn has come: what was accepted before it has its PUBACK then. Else its device would send that
        again, too, as often as it meets a limit, and each time it would be another message.
        """
        self.stop_taking()
        code = Reason.QUOTA_EXCEEDED if isinstance(error, Limited) else self.server.away()
        self.last = self.last or (code, error.detail)
        self.answer(number, b"")

    # -- answers of the hub ----------------------------------------------------------------------------------------

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """A publish of this connection is durable."""
        if type(ref) is int:
            if ref:
                self.answer(ref >> 16, codec.puback(self.version, ref & 0xFFFF))
            else:
                self.loose -= 1
                self.answered()
            return
        self.landed(ref.pid, id, ref.body)
        self.answer(ref.number, codec.puback(self.version, ref.pid))

    def stored_run(self, refs: list[int], items: list[Item]) -> None:
        """The same for many, whose numbers follow each other."""
        if refs[0] >> 16 != self.given + 1 or self.early is not None or self.over:
            for ref, item in zip(refs, items, strict=True):
                self.stored(ref, item.id, False, item.status)
            return
        self.given += len(refs)
        self.server.packets_out += len(refs) - 1
        self.head(codec.pubacks([ref & 0xFFFF for ref in refs]))
        self.answered()

    def refused(self, ref: Any, error: GatewayError) -> None:
        """A publish of this connection was refused after all."""
        if ref == 0:
            self.loose -= 1
            self.server.dropped += 1
            self.answered()
            return
        number, pid = (ref >> 16, ref & 0xFFFF) if type(ref) is int else (ref.number, ref.pid)
        self.landed(pid)
        if self.phase >= CLOSING:
            self.answer(number, b"")
        elif self.version == 5:
            self.refuse(number, pid, error)
        else:
            # a message without a key, or its dead letter: neither was stored
            self.give_up(number, error)

    def answer(self, number: int, packet: bytes) -> None:
        """Write the answer to a QoS 1 publish when its turn has come; b"": there is none."""
        if number != self.given + 1:
            if self.early is None:
                self.early = {}
            self.early[number] = packet
            return
        self._give(number, packet)
        if self.early is not None:
            while self.given + 1 in self.early:
                self._give(self.given + 1, self.early.pop(self.given + 1))
            if not self.early:
                self.early = None
        self.answered()

    def _give(self, number: int, packet: bytes) -> None:
        self.given = number
        if self.over:
            return
        if packet:
            self.head(packet)
        elif self.last is not None:
            self.over = True
            code, why = self.last
            # the hub may be in the middle of telling it
            self.server.loop.call_soon(lambda: self.end(code, why, clean=True))


def body_of(packet: Publish, message: Message | None) -> bytes:
    """A payload as JSON, for a dead letter."""
    if message is not None:
        return bytes(message.body)  # type: ignore[arg-type]
    try:
        return bytes(read_body(packet.payload)[0])
    except Invalid:
        return msgspec.json.encode(packet.payload.decode(errors="replace"))
