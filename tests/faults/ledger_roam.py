"""The ledger for clients that change their way: now over WebSocket, now over plain MQTT, in the same epoch.

`python -m tests.faults.ledger_roam --url mqtt://… --ws ws://… --api http://… --key … --secret …`: two roamers, one with
MQTT 5 and one with 3.1.1. Each leg takes some messages, acks most of them, and ends by a goodbye, by a cut, or by the
next leg's taking over. Meanwhile one publisher is on WebSocket, one on HTTP and one on MQTT. `handovers` says how often
a client went on by the other way: `client ws>mqtt`; the rest is as in ledger_mqtt.py.
"""

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.faults.ledger import BATCH, RETRY, Peer, Publisher, arguments, keep
from tests.faults.ledger_mqtt import LAZY, Device, MqttLedger
from tests.support.device import RawDevice

DECODE = msgspec.json.decode
ENCODE = msgspec.json.encode
ROAMERS = 2
# messages that a leg takes, at the most
LEG = 40
# published and not arrived, of one publisher
AHEAD = 200


class RoamLedger(MqttLedger):
    def __init__(self) -> None:
        super().__init__()
        self.handovers: dict[str, int] = {}

    def figures(self) -> dict[str, Any]:
        return super().figures() | {"handovers": self.handovers}

    def ahead(self, publisher: str, published: int) -> bool:
        """Whether more than enough is under way."""
        return published - len(self.arrived.get(publisher, ())) > AHEAD


class Roamer(Device):
    """One client over both ways. `acked`: every seq up to it is processed."""

    ledger: RoamLedger

    def __init__(self, ledger: RoamLedger, url: str, ws: str, secret: str, name: str, version: int) -> None:
        super().__init__(ledger, url, secret, name, version, ROAMERS, 0)
        self.peer = Peer(ws, secret, name)

    async def run(self) -> None:
        older: RawDevice | ClientConnection | None = None
        before = ""
        while True:
            way = "mqtt" if before == "ws" else "ws"
            leg = await (self.join() if way == "mqtt" else self.join_ws())
            if older is not None:
                await self.outlive(older)
                older = None
            if leg is None:
                await asyncio.sleep(RETRY)  # nobody tells when a gateway is back
                continue
            if before:
                step = f"{self.name} {before}>{way}"
                self.ledger.handovers[step] = self.ledger.handovers.get(step, 0) + 1
            before = way
            share = self.rng.randint(1, LEG)
            if isinstance(leg, RawDevice):
                await self.use(leg, share)
            else:
                await self.use_ws(leg, share)
            older = await self.end_leg(leg)

    async def end_leg(self, leg: RawDevice | ClientConnection) -> RawDevice | ClientConnection | None:
        """Goodbye, cut, or leave it as it is: then it is returned."""
        how = self.rng.choice(("bye", "cut", "stay"))
        if how == "stay":
            return leg
        if isinstance(leg, RawDevice):
            with suppress(OSError):
                if how == "bye":
                    await leg.leave()
                await leg.drop()
        elif how == "bye":
            with suppress(ConnectionClosed):
                await leg.send('{"t":"bye"}')
                while True:
                    await leg.recv()
        else:
            leg.transport.abort()
        return None

    async def outlive(self, older: RawDevice | ClientConnection) -> None:
        """What an older connection was still sent, and how it ended: all that came before what the newer one gets."""
        if isinstance(older, ClientConnection):
            try:
                while True:
                    self.take_ws(DECODE(await older.recv()))
            except ConnectionClosed as closed:
                self.note_end(closed.rcvd.code if closed.rcvd is not None else 0)
        elif not older.writer.is_closing():
            await self.read(older)

    # -- over WebSocket --------------------------------------------------------------------------------------------

    async def join_ws(self) -> ClientConnection | None:
        self.peer.acked = min(self.inbox.unacked, default=self.inbox.top + 1) - 1
        joined = await self.peer.join()
        if joined is None:
            return None
        conn, first = joined
        self.ledger.welcomes["resumed" if first["resumed"] else "new"] += 1
        self.note_epoch(first["epoch"])
        return conn

    async def use_ws(self, conn: ClientConnection, share: int) -> None:
        # its hello has acked them, even if the older connection brought them once more meanwhile
        self.inbox.acked([seq for seq in self.inbox.unacked if seq <= self.peer.acked])
        self.inbox.begin()
        taken = 0
        try:
            while taken < share:
                try:
                    async with asyncio.timeout(LAZY):
                        frame = DECODE(await conn.recv())
                except TimeoutError:
                    await self.ack_ws(conn)
                    continue
                taken += self.take_ws(frame)
                if self.rng.random() < 0.8:
                    await self.ack_ws(conn)
        except ConnectionClosed:
            return

    def take_ws(self, frame: dict[str, Any]) -> int:
        """How many messages were in it."""
        if frame["t"] == "gap":
            self.ledger.holes.append(f"{self.name}: {frame}")
        if frame["t"] != "msg":
            return 0
        for entry in frame["m"]:
            marked = entry.get("redelivered", 0) > 0
            self.inbox.note(entry["seq"], entry["body"], marked, entry["id"], entry.get("possible_dup", ""))
        return len(frame["m"])

    async def ack_ws(self, conn: ClientConnection) -> None:
        """Everything on this connection came in order: what came last acks all before it."""
        seqs = [seq for seq in self.inbox.unacked if seq <= self.inbox.last]
        if seqs:
            # even where this fails, it may have come through
            self.inbox.acked(seqs)
            await conn.send(ENCODE({"t": "ack", "seq": self.inbox.last}).decode())


class OnWebSocket(Publisher):
    ledger: RoamLedger

    def message(self, n: int) -> dict[str, Any]:
        return super().message(n) | {"to": f"dev-{n % self.clients}"}

    def room(self) -> bool:
        return super().room() and not self.ledger.ahead(self.name, self.next)


class OnMqtt(Device):
    ledger: RoamLedger

    def room(self) -> bool:
        return super().room() and not self.ledger.ahead(self.name, self.next)


class OnHttp:
    """Arrays over HTTP, one after the other; one that was not answered is sent again with the same keys."""

    def __init__(self, ledger: RoamLedger, api: str, key: str) -> None:
        self.ledger = ledger
        self.api = api
        self.headers = {"Authorization": f"Bearer {key}"}
        self.name = "http"
        self.next = 0
        self.unanswered: list[int] = []
        self.stop = False

    def message(self, n: int) -> dict[str, Any]:
        return {"to": f"dev-{n % ROAMERS}", "body": {"p": self.name, "n": n}, "key": f"http-{n}"}

    async def run(self) -> None:
        async with aiohttp.ClientSession(self.api, headers=self.headers) as http:
            while True:
                if not self.unanswered:
                    if self.stop or self.ledger.ahead(self.name, self.next):
                        await asyncio.sleep(0.002)  # others' arrivals make room
                        continue
                    self.unanswered = list(range(self.next, self.next + BATCH))
                    self.next += BATCH
                try:
                    async with http.post(
                        "/v1/messages", json=[self.message(n) for n in self.unanswered]
                    ) as answer:
                        results = await answer.json()
                except (aiohttp.ClientError, OSError):
                    results = []
                self.answered(results)
                if self.unanswered:
                    await asyncio.sleep(RETRY)  # nobody tells when a gateway is back

    def answered(self, results: Any) -> None:
        if not isinstance(results, list):
            return
        for n, result in zip(list(self.unanswered), results, strict=False):
            if "id" in result:
                self.unanswered.remove(n)
                self.ledger.ok(self.name, n)
            else:
                code = result["code"]
                self.ledger.refusals[code] = self.ledger.refusals.get(code, 0) + 1


async def main() -> None:
    parser = arguments()
    parser.add_argument("--ws", required=True)
    parser.add_argument("--api", required=True)
    parser.add_argument("--key", required=True)
    args = parser.parse_args()
    ledger = RoamLedger()
    device = OnMqtt(ledger, args.url, args.secret, "pub-mqtt", 5, ROAMERS, args.size)
    device.stop = False
    publishers: list[OnWebSocket | OnHttp | OnMqtt] = [
        OnWebSocket(ledger, args.ws, args.secret, "pub-ws", ROAMERS, args.size),
        OnHttp(ledger, args.api, args.key),
        device,
    ]
    roamers = [
        Roamer(ledger, args.url, args.ws, args.secret, f"dev-{i}", 4 if i % 2 else 5) for i in range(ROAMERS)
    ]
    work = [*(p.run() for p in publishers), *(r.run() for r in roamers)]
    await keep(ledger, publishers, work, args.patience)


if __name__ == "__main__":
    asyncio.run(main())
