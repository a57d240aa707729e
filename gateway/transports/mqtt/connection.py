"""One MQTT connection after its CONNECT: packets in, calls to the hub out.

While the hub joins the device to its session, or something else has to be known first, the socket is not read, and what
had come already waits in `held`: so packets are taken in their order (MQTT 5, 4.6).
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.auth import Principal
from gateway.errors import GatewayError, Limited, Unavailable
from gateway.model import Sub
from gateway.ports import Attach
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.carrier import Carrier
from gateway.transports.mqtt.codec import (
    Ack,
    Auth,
    Connect,
    Disconnect,
    Kind,
    P,
    Packet,
    Ping,
    Props,
    Publish,
    Reader,
    Reason,
    Subscribe,
    Unsubscribe,
)
from gateway.transports.mqtt.codes import fitted, label
from gateway.transports.mqtt.plain import Plain
from gateway.transports.mqtt.subscribing import on_subscribe, on_unsubscribe
from gateway.transports.mqtt.uplink import ENDING, JOIN
from gateway.transports.mqtt.wills import Will
from gateway.transports.mqtt.writer import CLOSING, JOINING

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# characters of a device's reason for refusing a message
MAX_WHY: Final = 200


class Terms(NamedTuple):
    """What a CONNECT and its CONNACK agree on. Times in ms; `props` are the CONNACK's."""

    clean: bool
    keep: int
    silence: int
    receive_maximum: int
    max_packet: int
    problems: bool
    props: Props


class Joining(NamedTuple):
    """What is answered when the hub has joined the device to its session: a CONNACK, or (`pid`) a SUBACK."""

    pid: int = 0
    codes: tuple[Reason, ...] = ()
    why: str = ""
    props: Props | None = None
    will: Will | None = None
    live: bool = True


class Connection(Carrier):
    """A ports.Connection: of a plain device itself, of a framed one through its peer."""

    __slots__ = ("epoch", "fresh", "pending", "reader")

    def __init__(
        self,
        server: "MqttServer",
        transport: asyncio.Transport,
        reader: Reader,
        principal: Principal,
        peer: str,
        terms: Terms,
    ) -> None:
        super().__init__(server, transport, reader.version, principal, peer)
        self.reader = reader
        self.keep = terms.keep
        self.silence = terms.silence
        self.quota = terms.receive_maximum
        self.max_packet = terms.max_packet
        self.problems = terms.problems
        self.fresh = terms.clean  # the device wants an epoch that this connection has yet to begin
        self.epoch = ""  # that of what was written here
        self.pending: Joining | None = Joining(props=terms.props)

    # -- the session -----------------------------------------------------------------------------------------------

    def begin(self, will: Will | None, packets: list[Packet]) -> None:
        """Join the session, as far as it has a subscription of this device; then CONNACK, and what came behind it."""
        server, client = self.server, self.principal.name
        server.take_over(self, clean=self.fresh)
        self.held = list(packets)
        if packets:
            self.pace()
        holds = server.hub.subscription(client)
        assert self.pending is not None
        self.pending = self.pending._replace(will=will, live=not self.fresh)
        if holds == Sub.PLAIN:
            self.hold = JOIN
            self.wait_for_hub()
            self._attach(server.hub.granted(client), live=not self.fresh)
            return
        if holds == Sub.FRAMED and self.fresh:
            server.hub.unsubscribe(client)
        elif holds == Sub.FRAMED:
            self.frame_up()
        self._accepted(present=self.desk is not None)
        self.release()

    def join(self, pid: int, codes: tuple[Reason, ...], why: str, qos: int) -> None:
        """A SUBSCRIBE makes it plain: the SUBACK when it is in its session."""
        if self.top and not self.server.hub.keeps(self):
            # others were written there since what is in flight here: its packet ids are not to come again
            self.end(Reason.IMPLEMENTATION_SPECIFIC, "the session was elsewhere meanwhile", clean=True)
            return
        self.pending = Joining(pid, codes, why)
        self.hold_back(JOIN)
        self._attach(qos)

    def leave(self) -> None:
        """An UNSUBSCRIBE: it has no subscription any more."""
        self.sub = int(Sub.NONE)
        if self.desk is not None:
            self.desk.lost(clean=True)
            self.desk = None
            self.server.hub.unsubscribe(self.principal.name)
            return
        self.write_out()
        for item in self.items or ():
            # it was handed over, and will not be written
            item.written = False
        self.items = self.plain = None
        self.server.hub.detach(self)

    def _attach(self, qos: int, *, live: bool = True) -> None:
        """Ask the hub to join the device to its session as a plain one."""
        self.qos = qos
        if live:
            self.sub = int(Sub.PLAIN)
        self.joined = True
        try:
            self.server.hub.attach(
                self,
                self.principal,
                Attach(clean=self.fresh, window=self.quota, qos=qos, keep=self.keep, live=live),
            )
        except GatewayError as error:
            self.joined = self.session is not None
            self.sub = int(Sub.NONE)
            self._not_joined(error)

    def _not_joined(self, error: GatewayError) -> None:
        if isinstance(error, Unavailable):
            self.end(self.server.away(), error.detail, clean=True)
            return
        code = Reason.QUOTA_EXCEEDED if isinstance(error, Limited) else Reason.IMPLEMENTATION_SPECIFIC
        if self.phase == JOINING:
            self.end(code, error.detail, clean=True)
            return
        pending = self._pop_pending()
        codes = [given if given >= Reason.UNSPECIFIED else code for given in pending.codes]
        self.suback(pending.pid, codes, error.detail)
        self.server.loop.call_soon(self.release)

    def _pop_pending(self) -> Joining:
        pending, self.pending = self.pending, None
        assert pending is not None
        return pending

    def welcome(self, fields: dict[str, Any]) -> None:
        """The hub has joined it: `fields` as in the `welcome` of PROTOCOL 3."""
        if self.phase >= CLOSING or self.pending is None:
            return
        resumed = bool(fields["resumed"])
        self.fresh = False
        if self.session is not None:
            self._subscribed(str(fields["epoch"]))
        else:
            self.joined = False
        if self.phase == JOINING:
            self._accepted(present=resumed)
        else:
            pending = self._pop_pending()
            self.suback(pending.pid, list(pending.codes), pending.why)
        # what the device sent behind is taken when the hub has done with its call
        self.server.loop.call_soon(self.release)

    def _subscribed(self, epoch: str) -> None:
        server, client = self.server, self.principal.name
        if epoch != self.epoch:
            if self.outstanding:
                # their packet ids would mean other messages now
                server.loop.call_soon(
                    lambda: self.end(
                        Reason.IMPLEMENTATION_SPECIFIC, "the session has started over", clean=True
                    )
                )
            self.epoch = epoch
            self.top = 0
        self.plain = Plain(
            self.version, server.topics.inbox(client), epoch, server.hub.trace_root, server.topics.to("")
        )

    def _accepted(self, *, present: bool) -> None:
        pending = self._pop_pending()
        packet = codec.connack(self.version, present, 0, pending.props)
        if len(packet) > self.max_packet:
            self.end(Reason.IMPLEMENTATION_SPECIFIC, "a CONNACK is longer than that", clean=True)
            return
        self.will = pending.will
        self.present = present
        self.server.count_connack(Reason.SUCCESS)
        self.live()
        self.head(packet)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        server = self.server
        server.bytes_in += len(data)
        self.last_proof = now = server.now()
        if self.phase >= CLOSING:
            return
        if self.desk is not None:
            self.desk.heard(now)
        elif self.plain is not None and self.held is None and self.acks is None:
            # as most of what devices send: one PUBACK, of the message that is due
            pid = self.reader.lone_puback(data)
            if pid and self.on_lone_puback(pid):
                server.packets_in += 1
                return
        packets = self.reader.feed(data)
        server.packets_in += len(packets)
        if self.held is not None:
            self.held += packets
            # most devices wait for their CONNACK: the socket of one that does not is not read, either
            self.pace()
        else:
            self._take(packets)

    def _take(self, packets: list[Packet]) -> None:
        """Packets in order; the rest waits as soon as something has to be known first."""
        at, end = 0, len(packets)
        while at < end:
            packet = packets[at]
            kind = type(packet)
            if kind is int:
                at += self.on_pubacks(packets, at)
                continue
            if kind is Publish:
                run = bare_run(packets, at)
                if run:
                    at += self.on_run(run)
                else:
                    at += 1
                    self.on_publish(packet)  # type: ignore[arg-type]
            else:
                at += 1
                self.tell_acks()
                _HANDLERS[kind](self, packet)
            if self.phase >= CLOSING:
                return
            if self.held is not None:
                self.held += packets[at:]
                break
        if self.acks is not None:
            self.tell_acks()
        if self.reader.error is not None and self.held is None:
            self.malformed(self.reader.error)
        elif not self.stopped:
            self.pace()

    def release(self) -> None:
        if self.phase >= CLOSING or self.hold == ENDING:
            return
        held, self.held = self.held, None
        self.hold = self.deadline = 0
        self._take(held or [])
        self.pace()

    # -- packets ---------------------------------------------------------------------------------------------------

    def _on_ping(self, _: Ping) -> None:
        self.head(codec.pingresp())

    def _on_subscribe(self, packet: Subscribe) -> None:
        on_subscribe(self, packet)

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        on_unsubscribe(self, packet)

    def suback(self, pid: int, codes: list[Reason], why: str = "") -> None:
        """The answer to a SUBSCRIBE; `why`: of the first that is refused."""
        packet = fitted(
            lambda props: codec.suback(self.version, pid, codes, props),
            {},
            why if self.problems else "",
            self.max_packet,
        )
        if packet:
            self.head(packet)

    def _on_ack(self, packet: Ack) -> None:
        """A PUBACK that says more than success."""
        if packet.kind is not Kind.PUBACK:
            self.end(Reason.PROTOCOL_ERROR, f"{packet.kind.name}: nothing is sent at QoS 2 here")
            return
        seq = self.seq_of(packet.pid)
        if not seq:
            return
        if packet.code < Reason.UNSPECIFIED:
            self.acks = [seq]
            return
        why = (packet.props or {}).get(P.REASON, "")
        self.server.hub.reject(self, seq, f"{label(packet.code)} {why[:MAX_WHY]}".rstrip())

    def _on_disconnect(self, packet: Disconnect) -> None:
        """The device goes (3.14): 0x00 takes its will back, 0x04 does not; anything else blames what it was sent."""
        expiry = (packet.props or {}).get(P.SESSION_EXPIRY)
        keep = None
        if expiry is not None:
            if expiry and not self.keep:
                self.end(Reason.PROTOCOL_ERROR, "a session that was to end with its connection")
                return
            keep = self.keep = self.server.keep(expiry)
        code = packet.code
        self.clean = code in {Reason.NORMAL_DISCONNECTION, Reason.DISCONNECT_WITH_WILL}
        if code == Reason.NORMAL_DISCONNECTION and self.will is not None:
            self.will = None
            self.server.wills.cancel()
        self.server.count_end("client", label(code))
        self.closing()
        self.tell_hub(keep)
        self.give_will()
        self.transport.close()

    def _on_connect(self, _: Connect) -> None:
        self.end(Reason.PROTOCOL_ERROR, "a second CONNECT")

    def _on_auth(self, _: Auth) -> None:
        self.end(Reason.PROTOCOL_ERROR, "AUTH without an authentication method")


def bare_run(packets: list[Packet], at: int) -> list[Publish]:
    """The publishes from there on that are at QoS 1 and have a body and nothing else."""
    run: list[Publish] = []
    for packet in packets[at:] if at else packets:
        if type(packet) is not Publish or packet.qos != 1 or packet.props or packet.dup or packet.retain:
            break
        run.append(packet)
    return run


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    Ping: Connection._on_ping,
    Subscribe: Connection._on_subscribe,
    Unsubscribe: Connection._on_unsubscribe,
    Ack: Connection._on_ack,
    Disconnect: Connection._on_disconnect,
    Connect: Connection._on_connect,
    Auth: Connection._on_auth,
}
