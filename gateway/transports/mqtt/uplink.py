"""What a device publishes, as messages for the hub.

Most of it is a body for an address and nothing else: that goes in runs, as far as the hub takes it so.

A PUBLISH with DUP may be one that was accepted before: at the first of them the input is held until the store has told
which message each packet id stood for, and that is kept up to date from then on.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.auth import Principal
from gateway.errors import GatewayError
from gateway.model import Publish as Message
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.answers import UNFRAMED, Answers, body_of
from gateway.transports.mqtt.codec import P, Publish, Reason
from gateway.transports.mqtt.framed import FramedDesk
from gateway.transports.mqtt.plain import read_publish
from gateway.transports.mqtt.topics import OwnTopics, Refusal
from gateway.transports.mqtt.wills import NOTHING_RETAINED
from gateway.transports.mqtt.writer import CLOSING

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# Publishes at QoS 0 without an answer at which the socket is no longer read, and at which it is again
OWED_HIGH: Final = 1024
OWED_LOW: Final = 512

# why the input is held
JOIN: Final = 1  # the hub joins the device to its session
ROOM: Final = 2  # more publishes than its receive maximum wait for their answers
ANSWERS: Final = 3  # a repeated publish came: those before it are to be answered
LOOKUP: Final = 4  # the store looks for its first time
ENDING: Final = 5  # a publish was given up: the connection ends when its turn has come

NOBODY: Final[set[int]] = set()  # never added to
_RETAINED: Final = Refusal(Reason.RETAIN_NOT_SUPPORTED, NOTHING_RETAINED)
_BANNED: Final = "this client is banned for a while"


class Sent(NamedTuple):
    """A QoS 1 publish whose packet id may come again: its number, and the hash of its body."""

    number: int
    pid: int
    body: int


class Uplink(Answers):
    """A connection as far as it publishes. `held`: packets that wait until something is known, None: nothing waits."""

    __slots__ = ("aliases", "desk", "flying", "held", "hold", "own", "unread", "uses")

    def __init__(
        self,
        server: "MqttServer",
        transport: asyncio.Transport,
        version: int,
        principal: Principal,
        peer: str,
    ) -> None:
        super().__init__(server, transport, version, principal, peer)
        self.desk: FramedDesk | None = None  # of a framed device
        self.unread = False  # too many publishes in its frames wait for their answers
        self.held: list[Any] | None = None
        self.hold = 0
        self.own: OwnTopics | None = None
        self.aliases: dict[int, str | Refusal | None] | None = None
        # packet id -> the message that it last stood for: its id, and the hash of its body
        self.uses: dict[int, tuple[int, int]] | None = None
        self.flying: set[int] = NOBODY  # packet ids that wait for their answers, kept where `uses` is

    # -- a PUBLISH -------------------------------------------------------------------------------------------------

    def on_publish(self, packet: Publish) -> None:
        """Take it, hold it, or end the connection for it."""
        qos = packet.qos
        if qos:
            if qos == 2:
                self.end(Reason.QOS_NOT_SUPPORTED, "publish at QoS 0 or 1")
                return
            if self.taken - self.given >= self.server.receive_maximum:
                # MQTT.js does not keep to it: it is slowed down, like one with 3.1.1 that was never told
                self.hold_back(ROOM, packet)
                return
        if packet.retain and self.version == 5:
            self.end(_RETAINED.code, _RETAINED.why)
            return
        where = self._where(packet)
        if where is None:
            self._frame(packet)
        elif self.phase >= CLOSING:
            return
        elif packet.dup and isinstance(where, str) and (self.uses is None or packet.pid in self.flying):
            self.hold_back(ANSWERS, packet)
            self.seek()
        elif self.session is None and self.server.hub.banned(self.principal.name, self.server.now()):
            # the hub has nothing of it that it could have closed
            self.end(Reason.ADMINISTRATIVE_ACTION, _BANNED, clean=True)
        elif packet.retain:
            self.refuse_packet(packet, _RETAINED, where)
        elif isinstance(where, Refusal):
            self.refuse_packet(packet, where)
        else:
            self._publish(packet, where)

    def on_run(self, run: list[Publish]) -> int:
        """Publishes at QoS 1 with a body and nothing else, many at once: the short way in (hub/bare.py), and
        `on_publish` for what that leaves. Returns how many were taken before the input was held or the connection
        ended.
        """
        hub, principal = self.server.hub, self.principal
        own = self.own or self.find_own()
        uplink = own.uplink
        banned = self.session is None and hub.banned(principal.name, self.server.now())
        at, step = 0, len(run)
        while at < len(run):
            # what may be accepted under an id that was used before is looked up one by one
            room = self.server.receive_maximum - self.taken + self.given if self.uses is None else 0
            if banned:
                room = 0
            messages = []
            number = self.taken
            for packet in run[at : at + min(room, step)]:
                address = uplink(packet.topic)
                if type(address) is not str:
                    break
                number += 1
                pid = packet.pid
                messages.append((address, packet.payload, pid, number << 16 | pid))
            if messages:
                count = hub.publish_bare(principal, messages, self)
                self.taken += count
                at += count
                # where few are taken few are tried: what is laid out in vain stays below what is taken
                step = 2 * count + 1
                if count == len(messages):
                    continue
            self.on_publish(run[at])
            at += 1
            if self.phase >= CLOSING or self.held is not None:
                break
        return at

    def find_own(self) -> OwnTopics:
        """Its topics, made when it publishes for the first time."""
        own = self.own = self.server.topics.of(self.principal.name)
        return own

    def _where(self, packet: Publish) -> str | Refusal | None:
        """Where it goes, by its topic or alias (3.3.2.3.4)."""
        own = self.own or self.find_own()
        topic = packet.topic
        alias = 0 if packet.props is None else packet.props.get(P.TOPIC_ALIAS, 0)
        if not alias:
            return own.uplink(topic)
        if alias > self.server.alias_maximum:
            self.end(Reason.TOPIC_ALIAS_INVALID, f"topic aliases go up to {self.server.alias_maximum}")
            return UNFRAMED
        if self.aliases is None:
            self.aliases = {}
        if topic:
            # what it means is kept, not the topic: that can be long
            self.aliases[alias] = own.uplink(topic)
        elif alias not in self.aliases:
            self.end(Reason.PROTOCOL_ERROR, "a topic alias that stands for nothing yet")
            return UNFRAMED
        return self.aliases[alias]

    def _publish(self, packet: Publish, address: str) -> None:
        number = 0
        ref: Any = 0
        pid = packet.pid
        message: Message | None = None
        if pid:
            self.taken = number = self.taken + 1
            ref = number << 16 | pid
        else:
            self.loose += 1
        try:
            assert self.own is not None
            message = read_publish(packet, address, self.own.inbox)
            first = 0
            if pid and self.uses is not None:
                body = hash(bytes(message.body))  # type: ignore[arg-type]
                ref = Sent(number, pid, body)
                id, was = self.uses.get(pid, (0, 0))
                first = id if packet.dup and was == body else 0
            self.server.hub.publish(
                self.principal, message, self, ref, field="message", pid=pid, possible_dup=first
            )
            if self.uses is not None:
                self.flying.add(pid)
        except GatewayError as error:
            if not pid:
                self.loose -= 1
                self.server.dropped += 1
            elif self.version == 5:
                self.refuse(number, pid, error)
            else:
                self.bury(number, pid, address, body_of(packet, message), error)

    def _frame(self, packet: Publish) -> None:
        if self.desk is None:
            self.refuse_packet(packet, UNFRAMED)
            return
        if packet.pid:
            self.taken += 1
        self.desk.receive(packet.payload)
        if packet.pid:
            self.answer(self.taken, codec.puback(self.version, packet.pid))

    def answered(self) -> None:
        """Fewer publishes wait for their answers."""
        if self.phase >= CLOSING:
            if self.given == self.taken:
                self.server.answered(self)
        elif self.hold == ROOM:
            if self.taken - self.given <= self.server.receive_maximum // 2:
                self.hold = 0
                self.server.loop.call_soon(self.release)
        elif self.hold == ANSWERS:
            self.seek()
        elif self.stopped:
            self.pace()

    def stop_taking(self) -> None:
        self.hold_back(ENDING)

    # -- repeated ones ---------------------------------------------------------------------------------------------

    def seek(self) -> None:
        """Ask for what the packet ids stood for, as soon as nothing that this client published is unanswered."""
        if self.hold != ANSWERS or self.given != self.taken:
            return
        if self.uses is not None:
            self.hold = 0
            self.server.loop.call_soon(self.release)
        elif not self.server.owes(self):
            self.hold = LOOKUP
            self.server.look_up(self)

    def found(self, uses: dict[int, tuple[int, bytes]]) -> None:
        """The latest message under each packet id: (id, body)."""
        if self.hold == LOOKUP:
            self.uses = {pid: (id, hash(body)) for pid, (id, body) in uses.items()}
            self.flying = set()
            self.hold = 0
            self.release()

    def landed(self, pid: int, id: int = 0, body: int = 0) -> None:
        if self.uses is not None:
            self.flying.discard(pid)
            if id:
                self.uses[pid] = (id, body)

    # -- holding back ----------------------------------------------------------------------------------------------

    def hold_back(self, why: int, packet: Any = None) -> None:
        """Take nothing more until `release`; `packet` is to be taken again."""
        self.held = [] if packet is None else [packet]
        self.hold = why
        if why in {ANSWERS, LOOKUP, JOIN, ENDING}:
            self.wait_for_hub()
        self.pace()

    def release(self) -> None:
        """Take what was held, and read on."""
        raise NotImplementedError

    def pace(self) -> None:
        """Read the socket, or leave it alone for as long as too much is open."""
        stop = (
            self.held is not None
            or self.unread
            or self.loose + self.taken - self.given > (OWED_LOW if self.stopped else OWED_HIGH)
            or self.piled > self.server.pile_high
        )
        if stop is self.stopped or self.phase >= CLOSING:
            return
        self.stopped = stop
        if stop:
            self.transport.pause_reading()
        else:
            # bytes that wait in the kernel are heard only when they are read
            self.quiet_from = self.server.now()
            self.transport.resume_reading()

    def on_piled(self) -> None:
        super().on_piled()
        self.pace()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.pace()

    def closing(self) -> None:
        super().closing()
        self.server.ended(self)

    def let_go(self) -> None:
        super().let_go()
        self.held = self.aliases = self.uses = None
        self.flying = NOBODY
