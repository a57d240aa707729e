"""The ledger behind an MQTT broker: framed and plain clients of the gateway that know the broker only (see ledger.py).

`python -m tests.faults.ledger_broker --url mqtt://… --secret …`: the even clients speak MQTT 5, the odd ones 3.1.1. The
first of them publish, to all in turn. Beside the rest of ledger_mqtt.py:

    byes        connections that the gateway ended by a `bye` of which they know nothing
    endings     `client code`: the `close` of an `err`, 0 where the broker hung up
    unknown     times that the gateway did not know a connection any more (`hello_first`)
    absent      CONNACKs without the session that was there before
    stale       connections that ended without a goodbye after another one had taken over
    half_open   those of them that fell silent, until the broker ended them
    custody     publishes of plain clients that the broker has taken
    adrift      those of them that have not arrived

Plain publishers (`--plain`) have the broker's word only, which counts as an acknowledgement where `--lasting` says that
the broker is never killed. `--lossy`: frames are lost between broker and gateway while connections of clients stand, so
what was to come again first may not (`forgotten`). `--rivals`: clients with two connections at a time, which also fall
silent. `--denied`: a client with 3.1.1 that publishes for another one, which the broker acknowledges and must not pass
on. `--pad`: what is beside the index in all bodies.
"""

import asyncio
from typing import Any

import msgspec

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Ack
from tests.faults.ledger import BATCH, RETRY, arguments, keep
from tests.faults.ledger_framed import BrokerLedger, Framed
from tests.faults.ledger_mqtt import Device
from tests.support.device import REFUSED, TOPICS, FramedDevice, RawDevice

ENCODE = msgspec.json.encode
TAKEN_OVER = 4302  # the `close` of an `err`
# frames that a rival takes on one connection, at the most
ROUND = 20
# s: of the connections of rivals, which the broker ends when nothing comes
KEEP_ALIVE = 1
LINGERING = 4  # of them, at the most, are left open at a time
SILENT = 0.5  # how often a rival that does so falls silent
SILENCE = 1.5  # s: more than 1.75 heartbeats
# publishes of a plain device without their PUBACK: below the broker's Receive Maximum
PLAIN_OUTSTANDING = 60
# of them, and those that the broker has, that have not arrived: more than it gives to the gateway at once
PLAIN_AHEAD = 200
DENIED = 200


class Rival(Framed):
    """Two connections at a time: under one MQTT client id, where the broker ends the older one, or under two. There the
    older one is then cut, or left open in silence until the broker ends it: its will comes when the newer hello was
    answered. Every second rival now and then keeps one and says nothing, until the gateway gives it up.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.restful = int(self.name[-1]) % 2 > 0
        self.lingering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        older: FramedDevice | None = None
        while True:
            silent = self.restful and not self.stop and self.rng.random() < SILENT
            name = self.rng.choice((self.name, f"{self.name}-too"))
            wire = await self.arrive(name, 60 if silent else KEEP_ALIVE)
            if wire is None:
                await asyncio.sleep(RETRY)  # nobody tells when a broker is back
                continue
            welcome = await self.greet(wire)
            if older is not None:
                await self.outlive(older, wire.c if welcome else "")
            older = wire if welcome else None
            if welcome:
                await self.use(wire, self.rng.randint(1, ROUND))
            if silent and not wire.writer.is_closing():
                await asyncio.sleep(SILENCE)  # what is waited for is that nothing is said
                await self.read(wire, ROUND)
            if wire.writer.is_closing():
                older = None

    async def outlive(self, older: FramedDevice, newer: str) -> None:
        """What the older connection was still sent: all that came before the welcome of the newer one."""
        if not newer:
            older.cut()
            return
        self.ledger.takeovers[self.name] = self.ledger.takeovers.get(self.name, 0) + 1
        while True:
            for frame in older.frames():
                if frame["t"] == "welcome" and frame["c"] == newer:
                    self.leave(older)
                    return
                if frame.get("close") == TAKEN_OVER and frame["c"] == older.c:
                    self.note_end(TAKEN_OVER)
                else:
                    self.hear(older, frame)
            if not await older.more():
                self.ended(older, 0)
                return

    def leave(self, older: FramedDevice) -> None:
        """Without a word."""
        self.ledger.stale += 1
        if self.rng.random() < 0.5 or len(self.lingering) >= LINGERING:
            older.cut()
            return
        task = asyncio.create_task(self.linger(older))
        self.lingering.add(task)
        task.add_done_callback(self.lingering.discard)

    async def linger(self, older: FramedDevice) -> None:
        while await older.more():
            older.packets.clear()
        self.ledger.half_open += 1
        older.cut()


class Plain(Device):
    """It only publishes."""

    ledger: BrokerLedger

    def __init__(
        self, ledger: BrokerLedger, url: str, name: str, version: int, devices: int, size: int
    ) -> None:
        super().__init__(ledger, url, "", name, version, devices, size)
        self.poses_as = name
        self.written_off = 0  # what may have been lost with an older connection
        ledger.plain.add(name)

    async def join(self) -> RawDevice | None:
        wire = RawDevice(self.name, self.version)
        try:
            connack = await wire.connect(self.url, "")
        except (OSError, TimeoutError):
            connack = None
        if connack is None or connack.code:
            wire.cut()
            return None
        self.written_off = self.next - len(self.ledger.arrived.get(self.name, ()))
        return wire

    def room(self) -> bool:
        under_way = self.next - self.written_off - len(self.ledger.arrived.get(self.name, ()))
        return len(self.unanswered) + BATCH <= PLAIN_OUTSTANDING and under_way <= PLAIN_AHEAD

    def publish(self, wire: RawDevice, pid: int, n: int, *, dup: bool = False) -> None:
        self.unanswered[pid] = n
        body = ENCODE({"p": self.name, "n": n, "pad": self.pad})
        topic = TOPICS.own_to(self.poses_as, f"dev-{n % self.devices}")
        if not wire.writer.is_closing():
            wire.write(codec.publish(self.version, topic, body, qos=1, pid=pid, dup=dup))

    def answered(self, pid: int) -> None:
        n = self.unanswered.pop(pid, None)
        if n is not None:
            self.took(n)

    def took(self, n: int) -> None:
        """The broker has it."""
        self.ledger.taken(self.name, n)

    def refused(self, packet: Ack) -> None:
        # below it says that nobody has subscribed
        if packet.code < REFUSED:
            self.answered(packet.pid)
        else:
            super().refused(packet)


class Denied(Plain):
    """What it publishes is another client's."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.poses_as = "dev-0"

    def room(self) -> bool:
        return self.next < DENIED and len(self.unanswered) + BATCH <= PLAIN_OUTSTANDING

    def took(self, n: int) -> None:
        self.ledger.refused.setdefault(self.name, set()).add(n)


async def main() -> None:
    parser = arguments()
    parser.add_argument("--plain", type=int, default=0)
    parser.add_argument("--rivals", type=int, default=0)
    parser.add_argument("--denied", action="store_true")
    parser.add_argument("--lasting", action="store_true")
    parser.add_argument("--lossy", action="store_true")
    parser.add_argument("--pad", default="")
    args = parser.parse_args()
    ledger = BrokerLedger(lasting=args.lasting, lossy=args.lossy)
    total = args.clients + args.rivals
    framed = [
        (Framed if i < args.clients else Rival)(
            ledger, args.url, f"dev-{i}", 4 if i % 2 else 5, total, args.size
        )
        for i in range(total)
    ]
    plain = [
        Plain(ledger, args.url, f"plain-{i}", 4 if i % 2 else 5, total, args.size) for i in range(args.plain)
    ]
    if args.denied:
        plain.append(Denied(ledger, args.url, "denied", 4, total, args.size))
    publishers = [*framed[: args.publishers], *framed[args.clients :], *plain]
    for publisher in publishers:
        publisher.stop = False
        publisher.pad = args.pad or publisher.pad
    await keep(ledger, publishers, [d.run() for d in [*framed, *plain]], args.patience)


if __name__ == "__main__":
    asyncio.run(main())
