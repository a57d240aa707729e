"""pipeline: publishers → gateway (durable) → clients, acked, over WebSocket frames, as fast as it goes.

Each publisher keeps `window` messages unanswered and sends to the clients in turn; each client acks each frame that it
gets, cumulatively. Latency is accepted → acked on the client's side of the wire: from the publish to its arrival at the
client, whose ack leaves in the same turn.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jwt

from bench.ledger import Ledger
from bench.server import Server
from bench.wsload import LoadClient


def token(secret: str, name: str) -> str:
    return jwt.encode({"sub": name, "exp": int(time.time()) + 86400}, secret, "HS256")


class Pipeline:
    """One run. `progress(done, total)` is called now and then."""

    def __init__(
        self, server: Server, publishers: int, clients: int, messages: int, window: int, size: int,
        progress: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self.server = server
        self.count = messages
        self.window = window
        self.pad = "x" * size
        self.progress = progress
        self.names = [f"client-{i}" for i in range(clients)]
        self.index = {name: i for i, name in enumerate(self.names)}
        self.publisher_count = publishers
        self.ledger = Ledger(clients)
        self.published = 0
        self.latency: list[float] = []
        self.done = asyncio.Event()
        self.unanswered: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        """Connect everybody, warm up for a tenth, measure the rest."""
        server = self.server
        receivers = [
            await LoadClient.connect(server.ws, name, token(server.secret, name), self._received, 256)
            for name in self.names
        ]
        senders = []
        for i in range(self.publisher_count):
            name = f"publisher-{i}"
            self.unanswered[name] = 0
            senders.append(
                await LoadClient.connect(server.ws, name, token(server.secret, name), self._answered, 64)
            )
        warm = self.count // 10
        await self._push(senders, warm)
        self.latency.clear()
        cpu, own, start = server.cpu(), time.process_time(), time.perf_counter()
        await self._push(senders, self.count)
        seconds = time.perf_counter() - start
        cpu = server.cpu() - cpu
        own = time.process_time() - own
        for client in [*receivers, *senders]:
            assert client.transport is not None
            client.transport.abort()
        return self._figures(self.count - warm, seconds, cpu, own)

    async def _push(self, senders: list[LoadClient], until: int) -> None:
        """Publish until `until` messages have arrived."""
        self.until = until
        self.done.clear()
        for sender in senders:
            self._fill(sender)
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await self.done.wait()
                    return
            except TimeoutError:
                self.progress(self.ledger.seen, self.count)

    def _fill(self, sender: LoadClient) -> None:
        room = min(self.window - self.unanswered[sender.name], self.until - self.published)
        if room <= 0:
            return
        now = time.perf_counter()
        messages = []
        for _ in range(room):
            client = self.published % len(self.names)
            self.published += 1
            n = self.ledger.sent[client]
            self.ledger.sent[client] += 1
            messages.append(
                {"ref": n, "to": self.names[client], "body": {"n": n, "at": now, "pad": self.pad}}
            )
        self.unanswered[sender.name] += room
        sender.send({"t": "pub", "m": messages})

    def _answered(self, sender: LoadClient, frame: dict[str, Any]) -> None:
        if frame["t"] == "ok":
            count = len(frame["m"])
            self.ledger.acked += count
            self.unanswered[sender.name] -= count
            self._fill(sender)
        elif frame["t"] == "err":
            self.ledger.refused[frame["code"]] = self.ledger.refused.get(frame["code"], 0) + 1

    def _received(self, client: LoadClient, frame: dict[str, Any]) -> None:
        if frame["t"] != "msg":
            return
        now = time.perf_counter()
        index = self.index[client.name]
        ledger, latency = self.ledger, self.latency
        entry: dict[str, Any] = {}
        for entry in frame["m"]:
            body = entry["body"]
            ledger.sight(index, body["n"], entry.get("redelivered", 0))
            latency.append(now - body["at"])
        client.send_raw(b'{"t":"ack","seq":%d}' % entry["seq"])
        if ledger.seen >= self.until:
            self.done.set()

    def _figures(self, count: int, seconds: float, cpu: float, own: float) -> dict[str, Any]:
        latency = sorted(self.latency)

        def at(share: float) -> float:
            return round(latency[min(int(len(latency) * share), len(latency) - 1)] * 1000, 3)

        return {
            "messages": count,
            "seconds": round(seconds, 3),
            "rate": round(count / seconds),
            "cpu_us": round(cpu / count * 1e6, 2),
            "server_busy": round(cpu / seconds, 2),
            "load_busy": round(own / seconds, 2),
            "p50_ms": at(0.5),
            "p90_ms": at(0.9),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "ledger": self.ledger.figures(),
        }


async def idle(server: Server, sessions: int, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Resident memory of the gateway for each connected session that does nothing."""
    first = await LoadClient.connect(server.ws, "first", token(server.secret, "first"), _ignore, 64)
    before = server.rss()
    clients = [first]
    for i in range(sessions):
        name = f"idle-{i}"
        clients.append(await LoadClient.connect(server.ws, name, token(server.secret, name), _ignore, 64))
        if i % 100 == 99:
            progress(i + 1, sessions)
    grown = server.rss() - before
    for client in clients:
        assert client.transport is not None
        client.transport.abort()
    return {"sessions": sessions, "rss_per_session": round(grown / sessions)}


def _ignore(client: LoadClient, frame: dict[str, Any]) -> None:
    """Nothing is sent to an idle client but pings."""
