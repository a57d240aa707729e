"""The ledger: publishers and subscribers in a process of their own, which knows what the gateway acknowledged.

`python -m tests.faults.ledger --url ws://… --secret …` talks to a gateway that may be killed at any moment. Each line
on stdout is a JSON object with what stands so far. On the line `pause` on stdin it publishes no more; on the line
`stop` it also waits until everything acknowledged has arrived, and prints the verdict as its last line.

    lost            acknowledged to its publisher, never seen by its client
    duplicates      seen twice without a mark
    disorder        first seen after a later one of the same publisher (by the publisher's own index, never by seq)
    holes           a seq that skips one in its epoch
    false_acks      a publish refused for good that arrived all the same

Publishers send again what was not answered, with the same key and in the same order.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Coroutine, Iterable, Sequence, Sized
from typing import Any, Protocol

import jwt
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

ENCODE = msgspec.json.encode
DECODE = msgspec.json.decode
OUTSTANDING = 400
BATCH = 20
RETRY = 0.05
# a subscriber that skipped an ack makes up for it when nothing has come for so long
LAZY = 0.3


class Ledger:
    """What was acknowledged and what was seen."""

    def __init__(self) -> None:
        self.acked: dict[str, set[int]] = {}  # publisher -> its indexes answered with ok
        self.refused: dict[str, set[int]] = {}  # refused for good
        self.unknown: set[tuple[str, int]] = set()  # told that nobody knows
        self.seen: dict[tuple[str, str], int] = {}  # (publisher, client) -> highest index seen
        self.arrived: dict[str, set[int]] = {}
        self.duplicates: list[str] = []
        self.disorder: list[str] = []
        self.holes: list[str] = []
        self.marked = 0
        self.outstanding = 0
        self.refusals: dict[str, int] = {}
        self.welcomes = {"resumed": 0, "new": 0}

    def ok(self, publisher: str, n: int) -> None:
        self.acked.setdefault(publisher, set()).add(n)

    def total(self) -> int:
        return sum(len(s) for s in self.acked.values())

    def sight(self, client: str, entry: dict[str, Any], known: set[str]) -> None:
        publisher, n = entry["body"]["p"], entry["body"]["n"]
        marks = entry.get("redelivered", 0)
        self.marked += 1 if marks else 0
        if entry["id"] in known:
            if not marks:
                self.duplicates.append(f"{client} {publisher}/{n}")
            return
        known.add(entry["id"])
        self.arrived.setdefault(publisher, set()).add(n)
        last = self.seen.get((publisher, client), -1)
        if n < last:
            self.disorder.append(f"{client} {publisher}/{n} after {last}")
        self.seen[publisher, client] = max(last, n)

    def lost(self) -> list[str]:
        return [
            f"{p}/{n}" for p, done in self.acked.items() for n in sorted(done - self.arrived.get(p, set()))
        ]

    def false_acks(self) -> list[str]:
        """Refused for good, and not accepted by a later try, yet there."""
        return [
            f"{p}/{n}"
            for p, gone in self.refused.items()
            for n in sorted((gone - self.acked.get(p, set())) & self.arrived.get(p, set()))
        ]

    def figures(self) -> dict[str, Any]:
        return {
            "acked": self.total(),
            "arrived": sum(len(s) for s in self.arrived.values()),
            "outstanding": self.outstanding,
            "marked": self.marked,
            "duplicates": self.duplicates[:5],
            "disorder": self.disorder[:5],
            "holes": self.holes[:5],
            "refusals": self.refusals,
            "welcomes": self.welcomes,
        }


class Peer:
    """One client of the gateway, coming back whenever it is cut."""

    def __init__(self, url: str, secret: str, name: str) -> None:
        self.url = url
        self.secret = secret
        self.name = name
        self.resume: str | None = None
        self.epoch: str | None = None
        self.acked = 0

    async def join(self) -> tuple[ClientConnection, dict[str, Any]] | None:
        """Connect and be welcomed; None where that does not work now."""
        token = jwt.encode({"sub": self.name, "exp": int(time.time()) + 3600}, self.secret, "HS256")
        try:
            conn = await connect(
                self.url, subprotocols=["botgw.v1.json"], compression=None, max_size=None,  # type: ignore[list-item]
                ping_interval=None, open_timeout=5, close_timeout=0.1,
            )  # fmt: skip
            hello: dict[str, Any] = {"t": "hello", "token": token, "window": 256}
            if self.resume is not None:
                hello |= {"resume": self.resume, "epoch": self.epoch, "ack": self.acked}
            await conn.send(ENCODE(hello).decode())
            async with asyncio.timeout(10):
                first = DECODE(await conn.recv())
        except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
            return None
        if first["t"] != "welcome":
            return None
        self.resume, self.epoch = first["resume"], first["epoch"]
        return conn, first


class Subscriber(Peer):
    """Takes everything, acks cumulatively, remembers what it saw."""

    def __init__(self, ledger: Ledger, url: str, secret: str, name: str, rng: random.Random) -> None:
        super().__init__(url, secret, name)
        self.ledger = ledger
        self.rng = rng
        self.known: set[str] = set()
        self.top = 0
        self.at_epoch: str | None = None

    async def run(self) -> None:
        while True:
            joined = await self.join()
            if joined is None:
                await asyncio.sleep(RETRY)  # nobody tells when a gateway is back
                continue
            conn, first = joined
            self.ledger.welcomes["resumed" if first["resumed"] else "new"] += 1
            if self.epoch != self.at_epoch:
                self.at_epoch, self.top, self.acked = self.epoch, 0, 0
            try:
                await self.read(conn)
            except ConnectionClosed:
                continue

    async def read(self, conn: ClientConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(LAZY):
                    data = await conn.recv()
            except TimeoutError:
                await self.ack(conn)
                continue
            frame = DECODE(data)
            if frame["t"] not in ("msg", "gap", "status"):
                continue
            for entry in frame["m"]:
                if entry["seq"] > self.top + 1:
                    self.ledger.holes.append(f"{self.name} {entry['seq']} after {self.top}")
                self.top = max(self.top, entry["seq"])
                if frame["t"] == "msg":
                    self.ledger.sight(self.name, entry, self.known)
            if self.rng.random() < 0.8:
                await self.ack(conn)

    async def ack(self, conn: ClientConnection) -> None:
        if self.acked < self.top:
            self.acked = self.top
            await conn.send(ENCODE({"t": "ack", "seq": self.acked}).decode())


class Publisher(Peer):
    """Sends its own index in the body, at most OUTSTANDING unanswered, and again what was not answered."""

    def __init__(self, ledger: Ledger, url: str, secret: str, name: str, clients: int, size: int) -> None:
        super().__init__(url, secret, name)
        self.ledger = ledger
        self.clients = clients
        self.pad = "x" * size
        self.next = 0
        self.unanswered: dict[int, None] = {}
        self.stop = False
        self.resend = False

    def message(self, n: int) -> dict[str, Any]:
        return {
            "ref": n,
            "to": f"sub-{n % self.clients}",
            "body": {"p": self.name, "n": n, "pad": self.pad},
            "key": f"{self.name}-{n}",
        }

    def room(self) -> bool:
        """Whether it may publish more."""
        return len(self.unanswered) < OUTSTANDING

    async def run(self) -> None:
        while True:
            joined = await self.join()
            if joined is None:
                await asyncio.sleep(RETRY)  # nobody tells when a gateway is back
                continue
            conn, _ = joined
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.answers(conn))
                    tasks.create_task(self.send(conn))
            except* ConnectionClosed:
                pass

    async def send(self, conn: ClientConnection) -> None:
        again = list(self.unanswered)
        while True:
            if again:
                batch, again = again[:BATCH], again[BATCH:]
            elif self.resend:
                # something was refused for now: everything unanswered goes again, in order
                self.resend = False
                await asyncio.sleep(0.2)  # a refusal tells no time
                again = sorted(self.unanswered)
                continue
            elif not self.stop and self.room():
                batch = list(range(self.next, self.next + BATCH))
                self.next += BATCH
                self.unanswered.update(dict.fromkeys(batch))
            else:
                await asyncio.sleep(0.002)  # answers, the line `stop` and a refusal may each make it go on
                continue
            self.ledger.outstanding += len(batch)
            await conn.send(ENCODE({"t": "pub", "m": [self.message(n) for n in batch]}).decode())

    async def answers(self, conn: ClientConnection) -> None:
        async for data in conn:
            frame = DECODE(data)
            if frame["t"] == "ok":
                for entry in frame["m"]:
                    self.unanswered.pop(entry["ref"], None)
                    self.ledger.ok(self.name, entry["ref"])
            elif frame["t"] == "err" and "ref" in frame:
                self.ledger.refusals[frame["code"]] = self.ledger.refusals.get(frame["code"], 0) + 1
                if frame["code"] != "commit_unknown":
                    self.ledger.refused.setdefault(self.name, set()).add(frame["ref"])
                self.resend = True
        raise ConnectionClosed(None, None)


def tell(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


class Sender(Protocol):
    """Who publishes, as far as the end needs it."""

    stop: bool

    @property
    def unanswered(self) -> Sized: ...


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--patience", type=float, default=60.0)
    return parser


async def keep(
    ledger: Ledger, publishers: Sequence[Sender], work: Iterable[Coroutine[Any, Any, None]], patience: float
) -> None:
    """Tell the figures until the line `stop` comes, and then the verdict."""
    tasks = [asyncio.create_task(one) for one in work]
    said = "pause"
    while said == "pause":
        line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        while not line.done():
            ledger.outstanding = sum(len(p.unanswered) for p in publishers)
            tell(ledger.figures())
            await asyncio.wait({line, *tasks}, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        said = line.result().strip()
        for publisher in publishers:
            publisher.stop = True
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and (any(p.unanswered for p in publishers) or ledger.lost()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # answers and arrivals of all of them
    lost = ledger.lost()
    verdict = ledger.figures() | {
        "verdict": True,
        "lost": len(lost),
        "which": lost[:5],
        "losers": sorted({one.split("/")[0] for one in lost}),
        "false_acks": ledger.false_acks()[:5],
        "unanswered": sum(len(p.unanswered) for p in publishers),
    }
    tell(verdict)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def main() -> None:
    args = arguments().parse_args()
    ledger = Ledger()
    publishers = [
        Publisher(ledger, args.url, args.secret, f"pub-{i}", args.clients, args.size)
        for i in range(args.publishers)
    ]
    subscribers = [
        Subscriber(ledger, args.url, args.secret, f"sub-{i}", random.Random(i)) for i in range(args.clients)
    ]
    work = [*(p.run() for p in publishers), *(s.run() for s in subscribers)]
    await keep(ledger, publishers, work, args.patience)


if __name__ == "__main__":
    asyncio.run(main())
