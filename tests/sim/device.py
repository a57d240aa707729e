"""A client on plain MQTT, as a stock device would be: it keeps its session or not, subscribes, acks by packet id (late,
in another order, not at all), says no, unsubscribes and comes back on the same connection, goes with or without a word.

It is the same client as over WebSocket: what it got by one way it knows on the other.
"""

from random import Random
from typing import TYPE_CHECKING, Any, Final

from gateway.ids import decode_id
from tests.sim.link import Link
from tests.sim.plain import SimDevice, packet_id
from tests.sim.seqs import Seqs

if TYPE_CHECKING:
    from tests.sim.client import Client
    from tests.sim.ledger import Draft

MESSAGE = "msg"
ANSWER_WAIT: Final = 8000
FOREVER: Final = 1 << 32  # of a session expiry
RECEIVE_MAXIMUM: Final = 65535


class Device:
    def __init__(self, client: "Client") -> None:
        self.client = client
        self.world = client.world
        self.name = client.name
        self.profile = client.profile
        self.rng = Random(f"{client.world.seed}/{client.name}/device")
        self.link: Link | None = None  # the last one
        # of the connection
        self.version = 5
        self.qos = 1
        self.clean = False
        self.keep = 0
        self.quota = RECEIVE_MAXIMUM
        self.subscribed = False
        self.joined = False  # it is in its session, or has been
        self.open: dict[int, int] = {}  # packet id -> seq of what it has not answered
        self.here: set[int] = set()  # seqs that came on this connection
        self.last = 0  # the last of them
        self.to_ack: list[int] = []
        self.acking = False
        self.pid = 0  # of its own publishes

    # -- connecting ------------------------------------------------------------------------------------------------

    def takes(self) -> bool:
        """Whether its client comes this way this time."""
        client = self.client
        if client.framed or self.calm:
            return not client.framed and (client.on_device or client.token is None)
        return self.rng.random() < self.profile.plain

    @property
    def calm(self) -> bool:
        """Nothing goes wrong, or nothing more."""
        return self.world.healed or not self.profile.act[1]

    def open_link(self) -> Link:
        self.link = Link(self.world, self, self.client.principal, SimDevice)
        return self.link

    def connect(self, link: Link) -> None:
        """CONNECT, with terms by the seed."""
        rng, client = self.rng, self.client
        calm = self.calm
        again = bool(client.publisher.again)
        self.version = 5 if again or rng.random() < 0.5 else 4
        clean = self.clean = not calm and rng.random() < 0.12
        self.keep = FOREVER
        self.quota = RECEIVE_MAXIMUM
        if self.version == 4:
            self.keep = 0 if clean else FOREVER
        else:
            if not calm:
                self.keep = rng.choice((0, 2000, 15_000, FOREVER, FOREVER, FOREVER))
            self.quota = rng.choice((RECEIVE_MAXIMUM, RECEIVE_MAXIMUM, 1, 2, 5))
        self.qos = 0 if rng.random() < 0.12 else 1
        self.subscribed = self.joined = False
        self.open, self.here, self.last, self.to_ack = {}, set(), 0, []
        link.send(
            {"t": "connect", "version": self.version, "clean": clean, "keep": self.keep, "window": self.quota}
        )
        if rng.random() < 0.1:
            link.send({"t": "subscribe", "qos": self.qos})
        client.keeps(0 if clean else self.keep)

    def received(self, link: Link, packet: dict[str, Any]) -> None:
        if link is not self.client.link:
            return
        getattr(self, f"_on_{packet['t']}")(link, packet)

    def closed(self, link: Link, code: int) -> None:
        self.client.closed(link, code)

    def _on_connack(self, link: Link, packet: dict[str, Any]) -> None:
        client = self.client
        client.welcomed = True
        client.publisher.welcomed(link)
        if packet["epoch"]:
            self._joined(packet["epoch"])
        if packet["present"]:
            self.subscribed = True
        elif self.clean and self.rng.random() < 0.4:
            # it only wanted its session gone
            link.send({"t": "disconnect"})
            return
        if not packet["present"] or self.rng.random() < 0.6:
            # most clients do so whether or not there is a session
            late = self.rng.random() < 0.1 and not self.world.healed
            self._subscribe_later(link, self.rng.randint(500, 4000) if late else 0)

    def _on_suback(self, link: Link, packet: dict[str, Any]) -> None:
        self.subscribed = True
        self._joined(packet["epoch"])

    def _on_unsuback(self, link: Link, packet: dict[str, Any]) -> None:
        """What is on its way was written before."""

    def _joined(self, epoch: str) -> None:
        """A device is not told the epoch: this is for what is checked."""
        self.joined = True
        client = self.client
        if client.seqs is None or client.seqs.epoch != epoch:
            client.seqs = Seqs(epoch)
            client.log.epochs += 1
            self.here, self.last = set(), 0

    def _subscribe_later(self, link: Link, wait: int) -> None:
        def now() -> None:
            if link is self.client.link and link.open:
                link.send({"t": "subscribe", "qos": self.qos})
                self.world.timeline.after(ANSWER_WAIT, lambda: self._no_answer(link))

        self.world.timeline.after(wait, now)

    def _no_answer(self, link: Link) -> None:
        if link is self.client.link and not self.subscribed:
            link.cut(0, self.rng.randint(0, 500))

    # -- messages --------------------------------------------------------------------------------------------------

    def _on_publish(self, link: Link, packet: dict[str, Any]) -> None:
        client, fail = self.client, self.world.ledger.fail
        seqs = client.seqs
        if seqs is None or seqs.epoch != packet["epoch"]:
            fail(f"{self.name} got a message of epoch {packet['epoch']}, it is in {seqs and seqs.epoch}")
            return
        seq, id, marks = packet["seq"], decode_id(packet["id"]), packet["redelivered"]
        if seq <= self.last:
            fail(f"{self.name} got seq {seq} after {self.last} on one connection")
        known = seqs.what.get(seq)
        if known is None:
            if seq <= seqs.top and seq not in seqs.holes:
                fail(f"{self.name} got seq {seq} after {seqs.top}")
            for hole in range(seqs.top + 1, seq):
                seqs.hole(hole, link)
            seqs.top = max(seqs.top, seq)
        elif known != (MESSAGE, id):
            fail(f"{self.name}: seq {seq} was {known}, now {(MESSAGE, id)}")
        elif not marks:
            fail(f"{self.name} got seq {seq} again without a mark")
        seqs.what[seq] = (MESSAGE, id)
        seqs.arrived(seq, link, self.here, plain=True)
        self.here.add(seq)
        self.last = seq
        pid = 0
        if packet["qos"]:
            pid = self._numbered(packet, seq)
        self.world.ledger.saw(self.name, id, marks, "")
        self._message(link, seqs, seq, id, pid, packet)

    def _numbered(self, packet: dict[str, Any], seq: int) -> int:
        """What a packet id promises."""
        fail, pid = self.world.ledger.fail, packet["pid"]
        if pid != packet_id(seq):
            fail(f"{self.name} got seq {seq} as packet {pid}")
        if pid in self.open:
            fail(f"{self.name} got packet {pid} while it had not answered the one before")
        if packet["redelivered"] and self.version == 4 and not packet["dup"]:
            fail(f"{self.name} got packet {pid} again without DUP")
        self.open[pid] = seq
        if len(self.open) > self.quota:
            fail(f"{self.name} has {len(self.open)} packets unanswered, and can take {self.quota}")
        return int(pid)

    def _message(self, link: Link, seqs: Seqs, seq: int, id: int, pid: int, packet: dict[str, Any]) -> None:
        """What becomes of one delivery; without a packet id there is nothing to be said about it."""
        p, rng = self.profile, self.rng
        roll = 1.0 if self.world.healed else rng.random()
        if id in self.client.log.processed:
            if roll >= p.lazy or not pid:
                self._done(link, seqs, seq, pid)
            return
        roll -= p.reject
        if roll < 0 and pid and self.version == 5:
            self.client.log.settled_otherwise.add(id)
            seqs.nacked(seq, link)
            self.open.pop(pid, None)
            link.send({"t": "puback", "pids": [pid], "code": 0x83})
            return
        roll -= p.lazy
        if roll < 0 and pid:
            return
        roll -= p.slow
        if roll < 0:
            self.world.timeline.after(
                rng.randint(100, 4000), lambda: self._process(link, seqs, seq, id, pid, packet, silent=False)
            )
            return
        self._process(
            link, seqs, seq, id, pid, packet, silent=roll < p.no_ack and bool(pid) and not self.world.healed
        )

    def _process(
        self, link: Link, seqs: Seqs, seq: int, id: int, pid: int, packet: dict[str, Any], *, silent: bool
    ) -> None:
        if id not in self.client.log.processed:
            self.world.ledger.processed(self.name, id, packet["body"])
        if not silent:
            self._done(link, seqs, seq, pid)

    def _done(self, link: Link, seqs: Seqs, seq: int, pid: int) -> None:
        """It may be acked, on the connection that brought it."""
        if seqs is self.client.seqs:
            seqs.finish(seq)
        if not pid or link is not self.client.link:
            return
        self.to_ack.append(pid)
        if not self.acking:
            self.acking = True
            late = self.rng.random() < 0.15 and not self.world.healed
            self.world.timeline.after(
                self.rng.randint(500, 3000) if late else self.rng.randint(0, 80), self._ack
            )

    def _ack(self) -> None:
        self.acking = False
        link = self.client.link
        if link is None or not self.client.welcomed or not self.to_ack or link.peer is not self:
            return
        pids, self.to_ack = self.to_ack, []
        if self.rng.random() < 0.3:
            self.rng.shuffle(pids)
        for pid in pids:
            self.open.pop(pid, None)
        link.send({"t": "puback", "pids": pids})

    # -- its own messages ------------------------------------------------------------------------------------------

    def publish(self, link: Link, drafts: list["Draft"]) -> None:
        """At QoS 1. MQTT 3.1.1 has nothing but address and body."""
        for draft in drafts:
            if self.version == 4:
                draft.fields = {name: draft.fields[name] for name in ("to", "body")}
            self.pid = self.pid % RECEIVE_MAXIMUM + 1
            link.send({"t": "publish", "ref": draft.index, "pid": self.pid, "m": draft.fields})

    def _on_puback(self, link: Link, packet: dict[str, Any]) -> None:
        """Which message it stands for only the ledger knows."""
        publisher = self.client.publisher
        if "code" in packet:
            publisher.refused(packet["ref"], packet["code"])
        else:
            publisher.stored(packet["ref"], decode_id(packet["id"]), dup=packet["dup"])

    # -- of its own accord -----------------------------------------------------------------------------------------

    def leave(self, link: Link) -> None:
        """DISCONNECT; with MQTT 5 it may say anew how long its session is to be kept."""
        packet: dict[str, Any] = {"t": "disconnect"}
        if self.version == 5 and self.keep and not self.world.healed and self.rng.random() < 0.5:
            packet["keep"] = self.rng.choice((0, 2000, FOREVER))
            self.client.keeps(packet["keep"])
        if self.rng.random() < 0.1:
            packet["fault"] = True
        link.send(packet)

    def act(self, link: Link, act: str) -> None:
        """What it does otherwise than over WebSocket."""
        if act == "bye" and self.client.welcomed:
            self.leave(link)
        elif act == "unsub" and self.subscribed:
            self._unsubscribe(link)

    def _unsubscribe(self, link: Link) -> None:
        """For a while; or only to subscribe at another QoS."""
        if self.rng.random() < 0.2:
            self.qos = 1 - self.qos
            link.send({"t": "subscribe", "qos": self.qos})
            return
        self.subscribed = False
        link.send({"t": "unsubscribe"})
        if self.rng.random() < 0.2:
            self.qos = 1 - self.qos
        wait = self.rng.choice((0, 0, 200, 1500, 5000, 12_000))
        self._subscribe_later(link, wait)
        fate = self.rng.random()
        if fate < 0.2:
            # lost while it is joined again
            self.world.timeline.after(wait + self.rng.randint(5, 80), lambda: link.cut(0, 0))
        elif fate < 0.5:
            self.world.timeline.after(self.rng.randint(0, 1000), lambda: self._elsewhere(link))

    def _elsewhere(self, link: Link) -> None:
        """Its client comes anew while this connection stands without a subscription."""
        if link is self.client.link and not self.world.healed:
            self.client.connect()

    def abandoned(self, link: Link) -> None:
        """Its client connects anew; this connection subscribes again all the same."""
        if not self.subscribed and not self.world.healed and self.rng.random() < 0.5:
            client = self.client
            client.haunted = min(client.haunted, client.kept)
            link.haunt({"t": "subscribe", "qos": self.qos}, self.rng.randint(50, 3000))

    @property
    def settled(self) -> bool:
        """Subscribed, and it has nothing more to say. (What it never answers ends its connection, or is settled without
        a word.)
        """
        return self.subscribed and self.client.welcomed and not self.to_ack
