"""The ledger for plain MQTT: devices at the gateway's own endpoint, in a process of their own (see ledger.py).

`python -m tests.faults.ledger_mqtt --url mqtt://… --secret …`: the even devices speak MQTT 5, the odd ones 3.1.1, all
at QoS 1 with sessions that outlive their connections. The first of them publish, to all in turn. What was not answered
when a connection ended is sent again on the next one: the same packet id, the same order, with DUP.

A device knows what it was sent by its seq, which MQTT 5 tells and which 3.1.1 has in its packet id. Beside what the
ledger finds everywhere:

    ids         a packet id that is not that of its seq, or a seq that means another message than before
    twice       a second message of one publish that does not name the first one (`possible_dup`). 3.1.1 is not told
                ids: there every second message is counted whose publish was not sent again
    forgotten   what was not acked, and did not come again before something new did
    epochs      an epoch other than the first one, no Session Present after a SUBACK
    answers     a PUBACK out of turn, or for nothing
    endings     how connections ended: `device code`, code 0 without a DISCONNECT

With `--duel` two more devices, one of each version, have a second connection before their first one has ended, again
and again.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import jwt
import msgspec

from gateway.transports.mqtt.codec import Ack, Disconnect, Publish
from tests.faults.ledger import BATCH, RETRY, Ledger, arguments, keep
from tests.support.device import PACKET_IDS, RawDevice, packet_id, user

DECODE = msgspec.json.decode
ENCODE = msgspec.json.encode
# publishes of a device without their PUBACK: below the gateway's Receive Maximum (256)
OUTSTANDING = 200
# of them, and those answered, that have not arrived: with few nothing waits at the gateway, with many there is a queue
AHEAD = (100, 1500)
# messages that a duellist takes on one connection, at the most
ROUND = 60
# how often it is gone before it is answered
STILLBORN = 0.2
# a device that skipped its PUBACKs makes up for it when nothing has come for so long
LAZY = 0.05


class MqttLedger(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.resent: set[tuple[str, int]] = set()  # publishes that were sent more than once
        self.ids: list[str] = []
        self.twice: list[str] = []
        self.forgotten: list[str] = []
        self.epochs: list[str] = []
        self.answers: list[str] = []
        self.copies = 0  # second messages of one publish
        self.endings: dict[str, int] = {}
        self.connacks: dict[str, int] = {}  # those that refuse: version and code
        self.takeovers: dict[str, int] = {}  # of each duellist
        self.marked_of: dict[str, int] = {}

    def unsure(self, what: tuple[str, int], id: str, first: str, copies: list[str]) -> bool:
        """Whether this further message of a publish need not name an earlier one: what came over 3.1.1 came without its
        id, and without that of the first.
        """
        return what in self.resent and (not id or (bool(first) and "" in copies))

    def figures(self) -> dict[str, Any]:
        return super().figures() | {
            "resent": len(self.resent),
            "ids": self.ids[:5],
            "twice": self.twice[:5],
            "forgotten": self.forgotten[:5],
            "epochs": self.epochs[:5],
            "answers": self.answers[:5],
            "copies": self.copies,
            "endings": self.endings,
            "connacks": self.connacks,
            "takeovers": self.takeovers,
            "marked_of": self.marked_of,
        }


class Inbox:
    """What one client was sent, over all its connections, in one epoch."""

    def __init__(self, ledger: MqttLedger, client: str) -> None:
        self.ledger = ledger
        self.client = client
        self.top = 0  # the highest seq that came
        self.last = 0  # the one that came last
        self.by_seq: dict[int, tuple[str, int]] = {}
        self.copies: dict[tuple[str, int], list[str]] = {}  # ids of the messages of one publish

        self.unacked: set[int] = set()
        self.owed: set[int] = set()  # of them, what this connection has yet to bring

    def begin(self) -> None:
        """A new connection is read from now on."""
        self.owed = set(self.unacked)

    def acked(self, seqs: Iterable[int]) -> None:
        self.unacked.difference_update(seqs)

    def packet(self, packet: Publish, version: int, present: bool) -> None:
        """A PUBLISH; `present`: its connection began with Session Present, so that repeated ones have DUP."""
        props = user(packet)
        if version == 5:
            seq = int(props["seq"])
            marked = "redelivered" in props
            if packet.dup != (marked and present):
                self.ledger.ids.append(f"{self.client} {seq}: dup {packet.dup}, redelivered {marked}")
        else:
            fresh = packet.pid == packet_id(self.top + 1)
            seq = self.top + 1 if fresh else self.top - (self.top - packet.pid) % PACKET_IDS
            marked = packet.dup
        if packet.pid != packet_id(seq):
            self.ledger.ids.append(f"{self.client} {seq} under {packet.pid}")
        self.note(seq, DECODE(packet.payload), marked, props.get("id", ""), props.get("possible_dup", ""))

    def note(self, seq: int, body: dict[str, Any], marked: bool, id: str, first: str) -> None:
        """A message came. `id` where it is known; `first`: whose repetition it may be."""
        ledger = self.ledger
        what = (body["p"], body["n"])
        told = f"{self.client} {seq}: {what[0]}/{what[1]}"
        if marked:
            ledger.marked += 1
            ledger.marked_of[self.client] = ledger.marked_of.get(self.client, 0) + 1
        self.last = seq
        self.unacked.add(seq)
        self.owed.discard(seq)
        if seq <= self.top:
            if self.by_seq.get(seq) != what:
                ledger.ids.append(f"{told}, once {self.by_seq.get(seq)}")
            elif not marked:
                ledger.duplicates.append(told)
            return
        if seq > self.top + 1:
            ledger.holes.append(f"{told} after {self.top}")
        if self.owed:
            ledger.forgotten.append(f"{told} before {sorted(self.owed)[:5]}")
        self.top = seq
        self.by_seq[seq] = what
        copies = self.copies.setdefault(what, [])
        if copies:
            ledger.copies += 1
            named = bool(first) and first in copies
            if not named and not ledger.unsure(what, id, first, copies):
                ledger.twice.append(f"{told} is {id} after {copies}, names {first}")
        elif first:
            ledger.twice.append(f"{told} names {first}, which never came")
        else:
            self._first(what, told)
        copies.append(id)

    def _first(self, what: tuple[str, int], told: str) -> None:
        publisher, n = what
        ledger = self.ledger
        ledger.arrived.setdefault(publisher, set()).add(n)
        last = ledger.seen.get((publisher, self.client), -1)
        if n < last:
            ledger.disorder.append(f"{told} after {last}")
        ledger.seen[publisher, self.client] = max(last, n)


class Device:
    """One device, coming back whenever it is cut."""

    def __init__(
        self, ledger: MqttLedger, url: str, secret: str, name: str, version: int, devices: int, size: int
    ) -> None:
        self.ledger = ledger
        self.url = url
        self.secret = secret
        self.name = name
        self.version = version
        self.devices = devices
        self.pad = "x" * size
        self.rng = random.Random(name)
        self.inbox = Inbox(ledger, name)
        self.epoch = ""
        self.subscribed = False
        self.waiting: list[int] = []  # seqs that were read on this connection and not acked
        self.unanswered: dict[int, int] = {}  # packet id -> index, in the order in which they were sent
        self.next = 0
        self.ahead = 0
        self.pid = 0
        self.stop = True  # it publishes nothing

    async def run(self) -> None:
        while True:
            wire = await self.join()
            if wire is None:
                await asyncio.sleep(RETRY)  # nobody tells when a gateway is back
                continue
            await self.use(wire)

    def token(self) -> str:
        return jwt.encode({"sub": self.name, "exp": int(time.time()) + 3600}, self.secret, "HS256")

    async def join(self) -> RawDevice | None:
        """Connected and subscribed; None where that does not work now."""
        wire = RawDevice(self.name, self.version)
        try:
            connack = await wire.connect(self.url, self.token(), receive_maximum=64)
            if connack is None or connack.code:
                if connack is not None:
                    key = f"{self.version} {int(connack.code)}"
                    self.ledger.connacks[key] = self.ledger.connacks.get(key, 0) + 1
                await wire.drop()
                return None
            self.ledger.welcomes["resumed" if connack.session_present else "new"] += 1
            if self.subscribed and not connack.session_present:
                self.ledger.epochs.append(f"{self.name} has no session any more, at {self.inbox.top}")
            # a stock client of 3.1.1 subscribes each time, one that looks at Session Present where it has to
            if not connack.session_present or self.version == 4:
                if await wire.subscribe() is None:
                    await wire.drop()
                    return None
                self.subscribed = True
        except (OSError, TimeoutError):
            wire.cut()
            return None
        return wire

    async def use(self, wire: RawDevice, share: int = 0) -> None:
        """Publish and take messages until the connection ends, or `share` packets are taken."""
        self.waiting.clear()
        self.inbox.begin()
        reading = asyncio.create_task(self.read(wire, share))
        sending = asyncio.create_task(self.send(wire))
        try:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, sending):
                task.cancel()
            results = await asyncio.gather(reading, sending, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, OSError):
                    raise result

    # -- what it is sent -------------------------------------------------------------------------------------------

    async def read(self, wire: RawDevice, share: int = 0) -> None:
        taken = 0
        while not share or taken < share:
            if not wire.packets:
                try:
                    async with asyncio.timeout(LAZY):
                        going = await wire.more()
                except TimeoutError:
                    self.ack(wire)
                    continue
                if not going:
                    self.ended(wire, 0)
                    return
            while wire.packets:
                packet = wire.packets.pop(0)
                taken += 1
                if type(packet) is Disconnect:
                    self.ended(wire, int(packet.code))
                    return
                self.take(wire, packet)
            if self.rng.random() < 0.8:
                self.ack(wire)

    def take(self, wire: RawDevice, packet: Any) -> None:
        if type(packet) is Publish:
            assert wire.connack is not None
            self.inbox.packet(packet, self.version, wire.connack.session_present)
            if self.version == 5:
                self.note_epoch(user(packet)["epoch"])
            self.waiting.append(self.inbox.last)
        elif type(packet) is int:
            self.answered(packet)
        elif type(packet) is Ack:
            self.refused(packet)

    def note_epoch(self, epoch: str) -> None:
        self.epoch = self.epoch or epoch
        if epoch != self.epoch:
            self.ledger.epochs.append(f"{self.name} {epoch} after {self.epoch}, at {self.inbox.top}")

    def ack(self, wire: RawDevice) -> None:
        if self.waiting:
            wire.ack(*map(packet_id, self.waiting))
            self.inbox.acked(self.waiting)
            self.waiting.clear()

    def ended(self, wire: RawDevice, code: int) -> None:
        wire.cut()
        self.note_end(code)

    def note_end(self, code: int) -> None:
        key = f"{self.name} {code}"
        self.ledger.endings[key] = self.ledger.endings.get(key, 0) + 1

    # -- what it publishes -----------------------------------------------------------------------------------------

    async def send(self, wire: RawDevice) -> None:
        again = list(self.unanswered.items())
        self.ledger.resent.update((self.name, n) for _, n in again)
        for at in range(0, len(again), BATCH):
            for pid, n in again[at : at + BATCH]:
                self.publish(wire, pid, n, dup=True)
            await wire.writer.drain()
        self.ahead = self.rng.choice(AHEAD)
        while True:
            if self.stop or not self.room():
                await asyncio.sleep(0.002)  # answers and arrivals may each make room
                continue
            for n in range(self.next, self.next + BATCH):
                self.publish(wire, self.take_pid(), n)
            self.next += BATCH
            self.ledger.outstanding += BATCH
            await wire.writer.drain()

    def room(self) -> bool:
        """Whether it may publish more."""
        arrived = self.ledger.arrived.get(self.name, ())
        return len(self.unanswered) + BATCH <= OUTSTANDING and self.next - len(arrived) <= self.ahead

    def take_pid(self) -> int:
        self.pid = self.pid % (PACKET_IDS - 1) + 1
        return self.pid

    def publish(self, wire: RawDevice, pid: int, n: int, *, dup: bool = False) -> None:
        self.unanswered[pid] = n
        body = ENCODE({"p": self.name, "n": n, "pad": self.pad})
        wire.publish(f"dev-{n % self.devices}", body, pid, dup=dup)

    def answered(self, pid: int) -> None:
        turn = next(iter(self.unanswered), 0)
        if pid != turn:
            self.ledger.answers.append(f"{self.name} {pid} where {turn} was next")
        n = self.unanswered.pop(pid, None)
        if n is not None:
            self.ledger.ok(self.name, n)

    def refused(self, packet: Ack) -> None:
        n = self.unanswered.pop(packet.pid, -1)
        code = f"{int(packet.code):#x}"
        self.ledger.refusals[code] = self.ledger.refusals.get(code, 0) + 1
        self.ledger.refused.setdefault(self.name, set()).add(n)


class Duellist(Device):
    """It connects again while its connection stands, as a device does whose network was away for a moment; now and then
    it is gone again before it was answered.
    """

    async def run(self) -> None:
        older: RawDevice | None = None
        while True:
            if self.rng.random() < STILLBORN:
                await self.knock()
            wire = await self.join()
            if older is not None:
                await self.outlive(older)
            older = wire
            if wire is None:
                await asyncio.sleep(RETRY)  # nobody tells when a gateway is back
                continue
            await self.use(wire, self.rng.randint(1, ROUND))

    async def knock(self) -> None:
        """CONNECT, and away."""
        wire = RawDevice(self.name, self.version)
        with suppress(OSError):
            await wire.open(self.url)
            wire.hello(self.token())
            await wire.writer.drain()
        wire.cut()

    async def outlive(self, older: RawDevice) -> None:
        """What the older connection was still sent, and how it ended: all that came before what the newer one gets."""
        if older.writer.is_closing():
            return
        self.ledger.takeovers[self.name] = self.ledger.takeovers.get(self.name, 0) + 1
        while (packet := await older.packet()) is not None:
            if type(packet) is Disconnect:
                self.ended(older, int(packet.code))
                return
            self.take(older, packet)
        self.ended(older, 0)


async def main() -> None:
    parser = arguments()
    parser.add_argument("--duel", action="store_true")
    args = parser.parse_args()
    ledger = MqttLedger()
    total = args.clients + (2 if args.duel else 0)
    devices = [
        (Duellist if i >= args.clients else Device)(
            ledger, args.url, args.secret, f"dev-{i}", 4 if i % 2 else 5, total, args.size
        )
        for i in range(total)
    ]
    publishers = [*devices[: args.publishers], *devices[args.clients :]]
    for device in publishers:
        device.stop = False
    await keep(ledger, publishers, [d.run() for d in devices], args.patience)


if __name__ == "__main__":
    asyncio.run(main())
