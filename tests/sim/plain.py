"""The gateway's end of a plain MQTT connection (PROTOCOL 4): what the endpoint owes a device and the hub, with packets
as dictionaries.

A packet to the device says more than MQTT would (`id`, `seq`, `epoch`): that is for the ledger, not for the device.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.errors import Close, GatewayError, Limited, Unavailable
from gateway.ids import encode_id
from gateway.model import Item, Publish, Sub
from gateway.ports import Attach
from tests.sim.link import CLOSING, JOINING, LIVE, NEW, End, Link

if TYPE_CHECKING:
    from tests.sim.world import Gateway

PACKET_IDS: Final = 65535

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_publish = msgspec.json.Decoder(Publish).decode


def packet_id(seq: int) -> int:
    return (seq - 1) % PACKET_IDS + 1


class SimDevice(End):
    """A ports.Connection that takes messages only."""

    via = "mqtt"
    door = "mqtt"

    def __init__(self, gateway: "Gateway", link: Link) -> None:
        super().__init__(gateway, link, 0)
        # of its CONNECT
        self.version = 0
        self.keep = 0
        self.quota = 0
        self.fresh = False  # it wants an epoch that this connection has yet to begin
        self.present = False
        # of its subscription
        self.qos = 1
        self.served = False
        self.epoch = ""
        self._pending = ""  # what is answered when the hub has joined it: connack | suback
        self._held: list[bytes] | None = None  # what came meanwhile
        self._heads: list[dict[str, Any]] = []
        self.outstanding = 0  # messages at QoS 1 without their PUBACK
        self.top = 0  # the highest seq that was written at QoS 1
        self.handed: set[tuple[int, int]] = set()  # epoch number and seq of all that it was to be written

    # -- what the hub asks -----------------------------------------------------------------------------------------

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        index, pid = ref
        self._head({"t": "puback", "pid": pid, "ref": index, "id": encode_id(id), "dup": dup})

    def refused(self, ref: Any, error: GatewayError) -> None:
        self._refuse(ref, error)

    def error(self, error: GatewayError) -> None:
        """A device is told by the end of its connection."""

    def goaway(self, low: float, high: float, why: str) -> None:
        """It is closed when its time has come."""

    def welcome(self, fields: dict[str, Any]) -> None:
        if self.phase >= CLOSING or not self._pending:
            return
        ledger = self.gateway.world.ledger
        ledger.epochs.welcomed(self, fields, clean=self.fresh)
        self.fresh = False
        if self.session is None:
            self._joined = False
            ledger.epochs.begun(self)
        else:
            ledger.epochs.subscribed(self, self.keep)
            if self._pending == "connack" and not fields["resumed"]:
                ledger.fail(f"{self.client} is served and has not subscribed: {fields}")
            self._subscribed(fields["epoch"])
        pending, self._pending = self._pending, ""
        if pending == "connack":
            self._accepted(present=fields["resumed"])
        else:
            self._head({"t": "suback", "epoch": self.epoch, "next": fields["next"]})
        self.gateway.time.soon(self._release)

    def _subscribed(self, epoch: str) -> None:
        self.served = True
        if epoch == self.epoch:
            return
        if self.outstanding:
            # their packet ids would mean other messages now
            self.gateway.time.soon(lambda: self._end(Close.DRAIN, clean=True))
        self.epoch = epoch
        self.top = 0

    def _accepted(self, *, present: bool) -> None:
        self.present = present
        self.phase = LIVE
        self._heads.insert(0, {"t": "connack", "present": present, "epoch": self.epoch})
        self.gateway.hub.touch(self)

    # -- writing ---------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        super()._drop()
        self._heads = []

    def _head(self, packet: dict[str, Any]) -> None:
        if self.phase < CLOSING:
            self._heads.append(packet)
            self.gateway.hub.touch(self)

    def _write(self, packet: dict[str, Any]) -> None:
        self.link.down(msgspec.json.encode(packet))

    def _write_out(self) -> None:
        heads, self._heads = self._heads, []
        for packet in heads:
            self._write(packet)
        if self.paused or not self.served:
            return
        settled: list[int] = []
        while self._items:
            item = self._items[0]
            if item.body is not None:
                if self.qos and self.outstanding >= self.quota:
                    break
                self._lay(item)
                if not self.qos:
                    settled.append(item.seq)
            self._items.pop(0)
        if settled:
            self.gateway.world.ledger.acked(self, None, settled)
            self.gateway.hub.written(self, settled)

    def _lay(self, item: Item) -> None:
        qos = self.qos
        marked = self.version == 4 or self.present
        packet: dict[str, Any] = {
            "t": "publish",
            "qos": qos,
            "dup": bool(qos and marked and item.marks),
            "body": msgspec.Raw(item.body or b""),
            "redelivered": item.marks,
            "id": encode_id(item.id),
            "seq": item.seq,
            "epoch": self.epoch,
        }
        if qos:
            packet["pid"] = packet_id(item.seq)
            self.outstanding += 1
            self.top = item.seq
        # the store keeps the body; should it have to be written again, the hub reads it there
        item.body = None
        self._write(packet)

    # -- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.phase >= CLOSING:
            return
        self.last_proof = self.gateway.time.now()
        if self._held is not None:
            self._held.append(data)
            return
        packet = _decode(data)
        getattr(self, f"_on_{packet['t']}")(packet)

    def _release(self) -> None:
        held, self._held = self._held, None
        for data in held or ():
            self.data_received(data)

    def _on_connect(self, packet: dict[str, Any]) -> None:
        gateway, client = self.gateway, self.client
        if self.phase != NEW:
            self._end(Close.PROTOCOL)
            return
        if gateway.hub.ready:
            self._end(Close.DRAIN)
            return
        self.version, self.fresh = packet["version"], packet["clean"]
        self.keep, self.quota = packet["keep"], packet["window"]
        older = gateway.devices.get(client)
        gateway.devices[client] = self
        if older is not None:
            older._end(Close.TAKEN_OVER)
        self.phase = JOINING
        kind = gateway.hub.subscription(client)
        gateway.world.ledger.epochs.connected(self, kind)
        if kind != Sub.PLAIN:
            self._accepted(present=False)
            return
        self._pending = "connack"
        self._attach(1, live=not self.fresh)

    def _attach(self, qos: int, *, live: bool = True) -> None:
        self._held = []
        self.qos = qos
        self.sub = int(Sub.PLAIN) if live else self.sub
        self._joined = True
        self.gateway.world.ledger.epochs.tries(self)
        wish = Attach(clean=self.fresh, window=self.quota, qos=qos, keep=self.keep, live=live)
        try:
            self.gateway.hub.attach(self, self.principal, wish)
        except GatewayError:
            self._joined = self.session is not None
            self._end(Close.DRAIN, clean=True)

    def _on_subscribe(self, packet: dict[str, Any]) -> None:
        if self.served:
            self.qos = packet["qos"]
            self._head({"t": "suback", "epoch": self.epoch})
            return
        if self.top and not self.gateway.hub.keeps(self):
            # others were written there since what is in flight here
            self._end(Close.DRAIN, clean=True)
            return
        self._pending = "suback"
        self._attach(packet["qos"])

    def _on_unsubscribe(self, packet: dict[str, Any]) -> None:
        if self.served:
            self._write_out()
            for item in self._items:
                # it was handed over, and will not be written
                item.written = False
                self.gateway.world.ledger.unwritten(self, item)
            self._items = []
            self.served = False
            self.sub = int(Sub.NONE)
            self.gateway.world.ledger.epochs.unsubscribed(self)
            self.gateway.hub.detach(self)
        self._head({"t": "unsuback"})

    def _seq_of(self, pid: int) -> int:
        if self.outstanding:
            self.outstanding -= 1
            if self._items:
                self.gateway.hub.touch(self)
        return max(0, self.top - (self.top - pid) % PACKET_IDS)

    def _on_puback(self, packet: dict[str, Any]) -> None:
        """One read of the socket: PUBACKs of several messages, or one that says no."""
        seqs = [seq for pid in packet["pids"] if (seq := self._seq_of(pid))]
        if packet.get("code", 0) >= 0x80:
            for seq in seqs:
                self.gateway.hub.reject(self, seq, "0x83")
        elif seqs:
            self.gateway.world.ledger.acked(self, None, seqs)
            if len(seqs) != 1 or not self.gateway.hub.ack_lowest(self, seqs[0]):
                self.gateway.hub.ack(self, None, seqs)

    def _on_disconnect(self, packet: dict[str, Any]) -> None:
        keep = packet.get("keep")
        self.clean = not packet.get("fault", False)
        if keep is not None:
            self.gateway.world.ledger.epochs.left(self, keep)
        self._closing()
        self._tell(keep)
        self.link.ended(int(Close.NORMAL))
        self.gateway.time.after(self.gateway.world.rng.randint(1, 50), self._gone)

    # -- what it publishes -----------------------------------------------------------------------------------------

    def _on_publish(self, packet: dict[str, Any]) -> None:
        ref = (packet["ref"], packet["pid"])
        pub = _publish(msgspec.json.encode(packet["m"]))
        try:
            self.gateway.hub.publish(self.principal, pub, self, ref, pid=packet["pid"])
        except GatewayError as error:
            self._refuse(ref, error)

    def _refuse(self, ref: tuple[int, int], error: GatewayError) -> None:
        """What may succeed later ends the connection, where nothing else says so: the device sends it again then."""
        if isinstance(error, Unavailable) or (self.version == 4 and isinstance(error, Limited)):
            self.gateway.time.soon(lambda: self._end(Close.DRAIN, clean=True))
            return
        self._head({"t": "puback", "pid": ref[1], "ref": ref[0], "code": error.code})

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end(self, code: Close, *, clean: bool = False) -> None:
        """From here: the hub does not know yet."""
        if self.phase >= CLOSING:
            return
        self.clean = self.clean or clean
        self._write_out()
        if self.phase >= CLOSING:
            return
        self._closing()
        self._tell()
        self.link.ended(int(code))
        self.gateway.time.after(self.gateway.world.rng.randint(1, 500), self._gone)

    def _closing(self) -> None:
        super()._closing()
        devices = self.gateway.devices
        if devices.get(self.client) is self:
            del devices[self.client]
