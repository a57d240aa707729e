"""A framed client behind an MQTT broker, and the ledger of such (see ledger_broker.py).

`ok` alone acknowledges: what has none is sent again, with its key, in order. What came behind a hole waits until that
is filled; what was acked is told again by the next `hello`, which has another nonce on each connection.
"""

import asyncio
from typing import Any

from tests.faults.ledger import BATCH, RETRY
from tests.faults.ledger_mqtt import LAZY, Device, MqttLedger
from tests.support.device import FramedDevice

WINDOW = 256
# s: a hello is said again, and so are publishes without an answer; between signs of life; a hole is waited for
HELLO_AGAIN = 0.25
PUB_AGAIN = 1.0
PING = 0.25
HOLE = 1.0
# published and not arrived, of one client: with few nothing waits at the gateway, with many there is a queue
AHEAD = (60, 300)
BYE = 1000  # the `close` of an `err`


class BrokerLedger(MqttLedger):
    def __init__(self, *, lasting: bool, lossy: bool) -> None:
        super().__init__()
        self.lasting = lasting
        self.lossy = lossy
        self.custody: dict[str, set[int]] = {}  # what the broker has taken of plain clients
        self.plain: set[str] = set()
        self.byes: list[str] = []
        self.unknown_count = 0
        self.absent = 0
        self.stale = 0
        self.half_open = 0

    def taken(self, publisher: str, n: int) -> None:
        """The broker has a plain publish."""
        self.custody.setdefault(publisher, set()).add(n)
        if self.lasting:
            self.ok(publisher, n)

    def unsure(self, what: tuple[str, int], id: str, first: str, copies: list[str]) -> bool:
        """A broker that was killed passes a repetition on without DUP."""
        return what[0] in self.plain and what in self.resent

    def figures(self) -> dict[str, Any]:
        return super().figures() | {
            "byes": self.byes[:5],
            "unknown": self.unknown_count,
            "absent": self.absent,
            "stale": self.stale,
            "half_open": self.half_open,
            "denied": len(self.refused.get("denied", ())),
            "custody": sum(len(taken) for taken in self.custody.values()),
            "adrift": sum(len(taken - self.arrived.get(p, set())) for p, taken in self.custody.items()),
        }


class Framed(Device):
    """One client, coming back whenever it is cut, with another nonce."""

    ledger: BrokerLedger

    def __init__(
        self, ledger: BrokerLedger, url: str, name: str, version: int, devices: int, size: int
    ) -> None:
        super().__init__(ledger, url, "", name, version, devices, size)
        self.resume: str | None = None
        self.acked = 0
        self.beyond: dict[int, dict[str, Any]] = {}  # what came behind a hole
        self.hole_since = 0.0
        self.pinged = 0.0
        self.serial = 0
        self.known: set[str] = set()  # MQTT client ids that the broker has a session of
        self.loop = asyncio.get_running_loop()

    async def run(self) -> None:
        wire: FramedDevice | None = None
        while True:
            wire = wire or await self.arrive()
            if wire is None:
                await asyncio.sleep(RETRY)  # nobody tells when a broker is back
                continue
            if await self.greet(wire):
                await self.use(wire)
            if wire.writer.is_closing():
                wire = None

    async def arrive(self, name: str = "", keep_alive: int = 60) -> FramedDevice | None:
        """Connected and subscribed under a fresh nonce; None where that does not work now."""
        self.serial += 1
        c = f"{self.name}-{self.serial}"
        wire = FramedDevice(self.name, c, self.version, name=name, keep_alive=keep_alive)
        try:
            if not await wire.arrive(self.url):
                wire.cut()
                return None
        except (OSError, TimeoutError):
            wire.cut()
            return None
        assert wire.connack is not None
        self.ledger.absent += wire.name in self.known and not wire.connack.session_present
        self.known.add(wire.name)
        return wire

    async def greet(self, wire: FramedDevice) -> bool:
        """Say hello until it is answered; False where the stream ends, or it is refused: then the connection is cut."""
        hello: dict[str, Any] = {"t": "hello", "window": WINDOW}
        if self.resume is not None:
            hello |= {"resume": self.resume, "epoch": self.epoch, "ack": self.acked}
        while True:
            wire.say(hello)
            try:
                async with asyncio.timeout(HELLO_AGAIN):
                    while (answer := self.answer(wire)) is None:
                        if not await wire.more():
                            wire.cut()
                            return False
            except TimeoutError:
                continue
            if answer["t"] == "welcome":
                self.welcomed(answer)
                return True
            self.ended(wire, answer["close"])
            return False

    def answer(self, wire: FramedDevice) -> dict[str, Any] | None:
        """That to its hello, if it is there. What comes before it is for an older connection."""
        for frame in wire.frames():
            if frame.get("c") == wire.c and (frame["t"] == "welcome" or "close" in frame):
                return frame
        return None

    def welcomed(self, welcome: dict[str, Any]) -> None:
        ledger = self.ledger
        ledger.welcomes["resumed" if welcome["resumed"] else "new"] += 1
        if self.resume is not None and not welcome["resumed"]:
            ledger.epochs.append(f"{self.name} is not resumed, at {self.inbox.top}: {welcome['why']}")
        self.note_epoch(welcome["epoch"])
        self.resume = welcome["resume"]
        if welcome["next"] <= self.inbox.top:
            ledger.ids.append(f"{self.name} is welcomed to {welcome['next']}, at {self.inbox.top}")
        self.inbox.acked([seq for seq in self.inbox.unacked if seq <= self.acked])

    # -- what it is sent -------------------------------------------------------------------------------------------

    async def read(self, wire: Any, share: int = 0) -> None:
        """Until the stream or the connection ends, the gateway wants a hello, or `share` frames are taken."""
        taken = 0
        if self.ledger.lossy:
            self.inbox.owed.clear()
        while not share or taken < share:
            try:
                async with asyncio.timeout(LAZY):
                    if not wire.packets and not await wire.more():
                        self.ended(wire, 0)
                        return
            except TimeoutError:
                self.ack(wire)
            for frame in wire.frames():
                taken += 1
                if not self.hear(wire, frame):
                    return
            while wire.refused:
                self.refusal(f"{wire.refused.pop():#x}")
            if self.rng.random() < 0.8:
                self.ack(wire)
            now = self.loop.time()
            if now > self.pinged + PING:
                self.pinged = now
                wire.say({"t": "ping"})
            if self.beyond and now > self.hole_since + HOLE:
                wire.cut()
                return

    def hear(self, wire: FramedDevice, frame: dict[str, Any]) -> bool:
        """Whether the connection goes on."""
        match frame["t"]:
            case "msg":
                for entry in frame["m"]:
                    self.entry(entry)
            case "ok":
                for entry in frame["m"]:
                    self.answered(entry["ref"])
            case "gap" | "status":
                self.ledger.holes.append(f"{self.name}: {frame}")
            case "err" if "ref" in frame:
                self.refusal(frame["code"])
            case "err" if frame.get("c") == wire.c:
                return self.trouble(wire, frame)
        return True

    def refusal(self, code: str) -> None:
        self.ledger.refusals[code] = self.ledger.refusals.get(code, 0) + 1

    def trouble(self, wire: FramedDevice, err: dict[str, Any]) -> bool:
        if "close" in err:
            self.ended(wire, err["close"])
            if err["close"] == BYE:
                self.ledger.byes.append(f"{wire.c}, at {self.inbox.top}")
        elif err["code"] == "hello_first":
            self.ledger.unknown_count += 1
        else:
            self.ledger.answers.append(f"{wire.c}: {err}")
        return False

    def entry(self, entry: dict[str, Any]) -> None:
        inbox, seq = self.inbox, entry["seq"]
        if seq > inbox.top + 1:
            if seq in self.beyond and not entry.get("redelivered"):
                self.ledger.duplicates.append(f"{self.name} {seq} behind a hole")
            self.hole_since = self.hole_since if self.beyond else self.loop.time()
            self.beyond[seq] = entry
            return
        self.note(entry)
        while (held := self.beyond.pop(inbox.top + 1, None)) is not None:
            self.note(held)

    def note(self, entry: dict[str, Any]) -> None:
        marked, first = entry.get("redelivered", 0) > 0, entry.get("possible_dup", "")
        self.inbox.note(entry["seq"], entry["body"], marked, entry["id"], first)

    def ack(self, wire: Any) -> None:
        top = self.inbox.top
        if self.acked < top:
            self.acked = top
            self.inbox.acked([seq for seq in self.inbox.unacked if seq <= top])
            wire.say({"t": "ack", "seq": top})

    # -- what it publishes -----------------------------------------------------------------------------------------

    async def send(self, wire: Any) -> None:
        again = self.repetition()
        self.ahead = self.rng.choice(AHEAD)
        while True:
            if again:
                batch, again = again[:BATCH], again[BATCH:]
            elif self.unanswered and self.loop.time() > self.answered_at + PUB_AGAIN:
                again = self.repetition()
                continue
            elif not self.stop and self.room():
                batch = list(range(self.next, self.next + BATCH))
                self.next += BATCH
                self.unanswered.update({n: n for n in batch})
            else:
                await asyncio.sleep(0.002)  # answers, arrivals and the clock may each make it go on
                continue
            wire.say({"t": "pub", "m": [self.message(n) for n in batch]})
            await wire.writer.drain()

    def repetition(self) -> list[int]:
        """All that has no answer, in order."""
        self.answered_at = self.loop.time()
        self.ledger.resent.update((self.name, n) for n in self.unanswered)
        return sorted(self.unanswered)

    def message(self, n: int) -> dict[str, Any]:
        body = {"p": self.name, "n": n, "pad": self.pad}
        return {"ref": n, "to": f"dev-{n % self.devices}", "body": body, "key": f"{self.name}-{n}"}

    def answered(self, ref: int) -> None:
        self.answered_at = self.loop.time()
        if self.unanswered.pop(ref, None) is not None:
            self.ledger.ok(self.name, ref)
