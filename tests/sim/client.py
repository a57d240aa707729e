"""A client as PROTOCOL 3 asks for: it resumes with its token, epoch and ack, dedupes on id, acks what it has processed
(cumulatively, singly, late, out of order, or not this time), nacks, rejects, goes away, comes back, duels with itself,
forgets. What it is shown is checked against what a session promises.
"""

from random import Random
from typing import TYPE_CHECKING, Any, Final

from gateway.auth.principal import Principal
from gateway.ids import decode_id
from tests.sim.device import Device
from tests.sim.link import Link
from tests.sim.publisher import ClientPublisher
from tests.sim.seqs import Seqs
from tests.sim.websocket import SimConnection

if TYPE_CHECKING:
    from tests.sim.world import World

MESSAGE, STATUS, GAP = "msg", "status", "gap"
WELCOME_WAIT: Final = 8000
FOREVER: Final = 1 << 62


class Client:
    def __init__(self, world: "World", name: str, rng: Random) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.profile = world.profile
        self.principal = Principal(kind="client", name=name, may=frozenset({"fallback", "critical"}))
        self.binary = rng.random() < 0.3
        self.window = rng.choice((None, 1, 3, 8))
        # what it would keep on its disk
        self.token: str | None = None
        self.token_epoch = ""
        # ms that its MQTT connections since its last welcome have asked for, at the least
        self.kept = FOREVER
        self.haunted = FOREVER  # the same of those that were heard once more when they had been left
        self.older: str | None = None  # the token it presented last
        self.crossed = False  # it said hello twice without waiting for the first welcome
        self.seqs: Seqs | None = None
        # of the connection
        self.link: Link | None = None
        self.welcomed = False
        self.limit = 0
        self.unacked: set[int] = set()  # got on this connection and not answered
        self.here: set[int] = set()  # seqs that came on this connection
        self.acked_to = 0  # on this connection
        self.to_ack: list[int] = []
        self.acking = False
        self.wants = True
        self.framed = False  # it only comes by WebSocket from now on
        self.left_at = 0
        self.publisher = ClientPublisher(world, self, rng)
        self.device = Device(self) if world.profile.plain and world.is_device(name) else None
        self.on_device = False

    @property
    def log(self) -> Any:
        return self.world.ledger.client(self.name)

    # -- connecting ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.world.timeline.after(self.rng.randint(0, 1500), self.connect)
        if self.profile.act[1]:
            self._plan()

    def connect(self) -> None:
        """Open a connection and say hello. An older one is left to its fate."""
        if not self.wants:
            return
        if self.link is not None:
            self.link.abandon()
            if self.device is not None and self.on_device:
                self.device.abandoned(self.link)
            self.publisher.lost()
            self._left()
            # an older hello may overtake this one, and what that is told the client never learns
            self.crossed = not self.welcomed
        self.welcomed = False
        if self.device is not None:
            self.on_device = self.device.takes()
        if self.device is not None and self.on_device:
            link = self.device.open_link()
        else:
            link = Link(self.world, self, self.principal, SimConnection, binary=self.binary)
        self.link = link
        if self.seqs is not None:
            if self.device is not None:
                self.seqs.doubted(self.device.link or link)
            self.seqs.reconnected()
        if self.device is not None and self.on_device:
            self.device.connect(link)
        else:
            link.send(self._hello())
        self.world.links.append(link)
        self.world.timeline.after(WELCOME_WAIT, lambda: self._no_welcome(link))

    def _hello(self) -> dict[str, Any]:
        hello: dict[str, Any] = {"t": "hello"}
        if self.token is not None and self.seqs is not None:
            hello |= {"resume": self.token, "epoch": self.token_epoch}
            if self.token_epoch == self.seqs.epoch and self.rng.random() < 0.8:
                hello["ack"] = self.seqs.low
        if self.window is not None:
            hello["window"] = self.window
        return hello

    def _left(self) -> None:
        """Its epoch is kept from now on, if it was in it."""
        if self.welcomed and (self.device is None or not self.on_device or self.device.joined):
            self.left_at = self.world.clock()

    def keeps(self, ms: int) -> None:
        """Its epoch is to be kept for so long: with 0 it may be over."""
        self.kept = min(self.kept, ms)

    def _no_welcome(self, link: Link) -> None:
        if link is self.link and not self.welcomed:
            self.world.trace(self.name, "no welcome", None)
            link.cut(0, self.rng.randint(0, 500))

    def closed(self, link: Link, code: int) -> None:
        if link is not self.link:
            return
        if code in {4303, 4300, 1000} and not self.world.is_rude(self.name) and self.wants and code != 1000:
            self.world.ledger.fail(f"{self.name} was closed with {code}")
        self.link = None
        self._left()
        self.welcomed = False
        self.publisher.lost()
        self.come_back()

    def come_back(self) -> None:
        """Connect again, soon or after a while."""
        rng = self.rng
        wait = rng.randint(20, 1200)
        if not self.world.healed and rng.random() < self.profile.away:
            wait = rng.randint(3000, 25_000)
            if rng.random() < 0.2:
                wait = rng.randint(35_000, 60_000)

        def now() -> None:
            if self.link is None:
                self.connect()

        self.world.timeline.after(wait, now)

    # -- frames ----------------------------------------------------------------------------------------------------

    def received(self, link: Link, frame: dict[str, Any]) -> None:
        if link is not self.link:
            return
        match frame["t"]:
            case "welcome":
                self._welcome(link, frame)
            case "msg" | "gap" | "status" as kind:
                for entry in frame["m"]:
                    self._entry(link, kind, entry)
                # what is on its way is within the window
                held = [s for s in self.unacked if self.seqs is not None and self.seqs.what[s][0] != GAP]
                if len(held) > self.limit:
                    self.world.ledger.fail(f"{self.name} has {len(held)} unacked, the window is {self.limit}")
            case "ok":
                for entry in frame["m"]:
                    self.publisher.stored(entry["ref"], decode_id(entry["id"]), dup=entry.get("dup", False))
            case "err":
                if "ref" in frame:
                    self.publisher.refused(frame["ref"], frame["code"])
            case _:
                pass

    def _welcome(self, link: Link, frame: dict[str, Any]) -> None:
        fail, log = self.world.ledger.fail, self.log
        if self.welcomed:
            fail(f"{self.name} was welcomed twice")
        if frame["client"] != self.name:
            fail(f"{self.name} was welcomed as {frame['client']}")
        seqs = self.seqs
        if frame["resumed"]:
            if seqs is None or self.token is None:
                fail(f"{self.name} resumed from nothing")
                return
            if frame["epoch"] != seqs.epoch:
                fail(f"{self.name} resumed epoch {frame['epoch']}, its own is {seqs.epoch}")
            if frame["next"] <= seqs.top:
                fail(f"{self.name} saw seq {seqs.top}, and next is {frame['next']}")
            if self.device is not None:
                # what was bound behind it while it came as a device
                for hole in range(seqs.top + 1, frame["next"]):
                    seqs.hole(hole, self.device.link or link)
                seqs.top = frame["next"] - 1
        else:
            self._started_over(frame)
            self.seqs = Seqs(frame["epoch"])
            log.epochs += 1
        for why, count in frame.get("missed", {}).items():
            log.missed[why] += count
        self.older, self.token, self.token_epoch = self.token, frame["resume"], frame["epoch"]
        self.kept = self.haunted
        self.welcomed = True
        self.limit = frame["window"]
        self.unacked, self.here, self.to_ack, self.acked_to = set(), set(), [], 0
        self.publisher.welcomed(link)

    def _started_over(self, frame: dict[str, Any]) -> None:
        """`resumed: false` is told why, and there must be a reason."""
        why, seqs = frame["why"], self.seqs
        fail = self.world.ledger.fail
        if frame["next"] != 1:
            fail(f"{self.name}: a new epoch begins at {frame['next']}")
        if seqs is not None and seqs.epoch == frame["epoch"]:
            fail(f"{self.name}: a new epoch has the old name")
        if self.token is None or seqs is None or seqs.epoch != self.token_epoch:
            return
        away = self.world.clock() - self.left_at
        # the gateway may have learnt of it before, and its clock may have gone forward meanwhile
        away += 4000 + (31_000 if self.profile.clock else 0)
        if away < min(self.kept, self.profile.expiry * 1000) and not (self.crossed and why == "unknown"):
            fail(f"{self.name} presented a valid token and did not resume: {why}")

    def _entry(self, link: Link, kind: str, entry: dict[str, Any]) -> None:
        seqs = self.seqs
        assert seqs is not None
        seq, id = entry["seq"], decode_id(entry["id"])
        fail = self.world.ledger.fail
        known = seqs.what.get(seq)
        if known is None:
            if seq != seqs.top + 1 and seq not in seqs.holes:
                fail(f"{self.name} got seq {seq} after {seqs.top}")
            seqs.top = max(seqs.top, seq)
        elif known[1] != id or (known[0] != kind and kind != GAP):
            fail(f"{self.name}: seq {seq} was {known}, now {(kind, id)}")
        elif kind == MESSAGE and not entry.get("redelivered"):
            fail(f"{self.name} got seq {seq} again without a mark")
        seqs.what[seq] = (kind, id)
        seqs.arrived(seq, link, self.here, plain=False)
        if seq not in self.here:
            # else it is a redelivery that may have crossed its ack
            self.here.add(seq)
            if seq > self.acked_to:
                self.unacked.add(seq)
        if kind == MESSAGE:
            self._message(link, seqs, seq, id, entry)
            return
        if kind == STATUS:
            self.world.ledger.reported(self.name, entry)
        else:
            self.log.gaps.add(id)
        self._done(seqs, seq)

    def _message(self, link: Link, seqs: Seqs, seq: int, id: int, entry: dict[str, Any]) -> None:
        """What becomes of one delivery."""
        log, p, rng = self.log, self.profile, self.rng
        self.world.ledger.saw(self.name, id, entry.get("redelivered", 0), entry.get("via", ""))
        roll = 1.0 if self.world.healed else rng.random()
        if id in log.processed:
            if roll >= p.lazy:
                self._done(seqs, seq)
            return
        roll -= p.nack
        if roll < 0:
            delay = rng.choice((0, 0, 0.4, 2.5))
            self._settle_otherwise(link, seqs, seq, id, {"t": "nack", "seq": seq, "delay": delay})
            return
        roll -= p.reject
        if roll < 0:
            self._settle_otherwise(link, seqs, seq, id, {"t": "reject", "seq": seq, "why": "no"})
            return
        roll -= p.lazy
        if roll < 0:
            return
        roll -= p.slow
        if roll < 0:
            self.world.timeline.after(
                rng.randint(100, 4000), lambda: self._process(seqs, seq, id, entry, silent=False)
            )
            if rng.random() < 0.4:
                link.send({"t": "working", "seq": seq})
            return
        self._process(seqs, seq, id, entry, silent=roll < p.no_ack and not self.world.healed)

    def _process(self, seqs: Seqs, seq: int, id: int, entry: dict[str, Any], *, silent: bool) -> None:
        if id not in self.log.processed:
            self.world.ledger.processed(self.name, id, entry["body"])
            if self.rng.random() < 0.05 and self.link is not None and self.welcomed and not self.on_device:
                self.link.send({"t": "read", "ids": [entry["id"]]})
        if not silent:
            self._done(seqs, seq)

    def _settle_otherwise(self, link: Link, seqs: Seqs, seq: int, id: int, frame: dict[str, Any]) -> None:
        self.log.settled_otherwise.add(id)
        seqs.nacked(seq, link)
        self.unacked.discard(seq)
        link.send(frame)

    def _done(self, seqs: Seqs, seq: int) -> None:
        """This seq may be acked."""
        if seqs is not self.seqs:
            return
        seqs.finish(seq)
        if seq in self.here:
            self.to_ack.append(seq)
        if not self.acking:
            self.acking = True
            late = self.rng.random() < 0.15 and not self.world.healed
            self.world.timeline.after(
                self.rng.randint(500, 3000) if late else self.rng.randint(0, 80), self._ack
            )

    def _ack(self) -> None:
        self.acking = False
        link, seqs = self.link, self.seqs
        if link is None or seqs is None or not self.welcomed or not self.to_ack or link.peer is not self:
            return
        ready = list(dict.fromkeys(self.to_ack))
        frame: dict[str, Any] = {"t": "ack"}
        way = self.rng.random()
        upto = min(seqs.low, seqs.top)
        if way < 0.6 and upto:
            frame["seq"] = self.acked_to = upto
            self.unacked = {s for s in self.unacked if s > upto}
            ready = [s for s in ready if s > upto]
        if "seq" not in frame or way < 0.3:
            self.rng.shuffle(ready)
            if ready:
                frame["seqs"] = ready
                self.unacked.difference_update(ready)
            ready = []
        self.to_ack = ready
        if len(frame) > 1:
            link.send(frame)

    # -- of its own accord -----------------------------------------------------------------------------------------

    def _plan(self) -> None:
        low, high = self.profile.act
        self.world.timeline.after(self.rng.randint(low, high), self._act)

    def _act(self) -> None:
        if self.world.healed:
            return
        self._plan()
        rng, p, link = self.rng, self.profile, self.link
        if rng.random() < p.clock:
            self.world.step_clock()
        if link is None:
            return
        acts = ("bye", "cut", "duel", "forget", "stale", "stall", "rude", "unsub")
        weights = [float(getattr(p, a)) for a in acts]
        act = rng.choices([*acts, ""], [*weights, max(0.0, 1 - sum(weights))])[0]
        self.world.trace(self.name, "act", act)
        device = self.device if self.on_device else None
        if act == "cut":
            link.cut(rng.choice((0, 5, 1500)), rng.choice((0, 20, 800, 3500)))
        elif act == "unsub" or (device is not None and act in {"bye", "rude"}):
            if device is not None:
                device.act(link, act)
        elif act == "bye" and self.welcomed:
            link.send({"t": "bye", "end": rng.random() < 0.3})
        elif act == "stall" and link.conn is not None:
            self._stall(link)
        elif act == "rude" and self.welcomed and self.seqs is not None:
            self.world.expect_rude(self.name)
            link.send({"t": "ack", "seq": self.seqs.top + 5000})
        elif act in {"duel", "forget", "stale"}:
            self._again(act)

    def _again(self, act: str) -> None:
        """Connect over the standing connection, with what it knows, or less."""
        if act == "forget":
            self.token = self.older = None
            if self.device is None:
                self.seqs = None
            self.log.recounted = True
        elif act == "stale" and self.older is not None and self.welcomed and self.log.epochs == 1:
            # with two epochs the older token may be of the older one, and worth nothing
            self.token, self.older = self.older, None
            self.log.recounted = True
        self.connect()

    def _stall(self, link: Link) -> None:
        conn = link.conn
        assert conn is not None
        conn.pause()
        conn.gateway.time.after(self.rng.randint(100, 3000), conn.resume)

    # -- the end of a run ------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Say goodbye and stay away."""
        self.wants = False
        if self.link is not None and self.device is not None and self.on_device:
            self.device.leave(self.link)
        elif self.link is not None:
            self.link.send({"t": "bye"})

    @property
    def settled(self) -> bool:
        """Welcomed, and everything that it got is done and acked."""
        seqs = self.seqs
        if self.device is not None and self.on_device:
            return self.device.settled
        if seqs is None or not self.welcomed or self.to_ack:
            return False
        return all(s in seqs.done or s in seqs.unsure for s in range(seqs.low + 1, seqs.top + 1))
