"""A hub on the memory store with a clock that a test turns by hand: no loop, no sockets, no sleeping."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Raw

from gateway.auth import Principal
from gateway.commit import MessageView
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.hub import Hub
from gateway.model import Item, Publish
from gateway.ports import Attach, Outcome
from gateway.stores import MemoryStore
from gateway.wire import Hello

START = 1_800_000_000_000
KEY = Principal(kind="key", name="backend", scopes=frozenset({"publish", "read", "admin"}))


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Turns:
    """ports.Scheduler: `run(ms)` lets time pass."""

    def __init__(self) -> None:
        self.time = START
        self._heap: list[tuple[int, int, Timer]] = []
        self._soon: list[Callable[[], None]] = []
        self._n = itertools.count()

    def now(self) -> int:
        return self.time

    def wall(self) -> float:
        return self.time / 1000

    def soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def at(self, when: int, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._heap, (when, next(self._n), timer))
        return timer

    def settle(self) -> None:
        while self._soon:
            calls, self._soon = self._soon, []
            for call in calls:
                call()

    def run(self, ms: int = 0) -> None:
        """Let `ms` pass, everything due on the way in its order."""
        end = self.time + ms
        self.settle()
        while self._heap and self._heap[0][0] <= end:
            when, _, timer = heapq.heappop(self._heap)
            self.time = max(self.time, when)
            if timer.call is not None:
                timer.call()
            self.settle()
        self.time = end


class Conn:
    """ports.Connection that remembers what it was handed."""

    via = "ws"
    door = "websocket"
    sub = 0

    def __init__(self, rig: "Rig", client: str) -> None:
        self.rig = rig
        self.principal = Principal(kind="client", name=client)
        self.writable = True
        self.session: Any = None
        self.peer = "test"
        self.last_proof = rig.turns.now()
        self.items: list[tuple[int, int, int]] = []  # (seq, id, marks)
        self.kinds: list[int] = []
        self.welcomed: dict[str, Any] | None = None
        self.closed: int | None = None
        self.errors: list[str] = []
        self.results: dict[Any, Any] = {}

    @property
    def client(self) -> str:
        return self.principal.name

    def deliver(self, items: list[Item]) -> None:
        self.items += [(i.seq, i.id, i.marks) for i in items]
        self.kinds += [i.kind for i in items]

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        self.results[ref] = (id, dup)

    def refused(self, ref: Any, error: GatewayError) -> None:
        self.results[ref] = error.code

    def error(self, error: GatewayError) -> None:
        self.errors.append(error.code)

    def welcome(self, fields: dict[str, Any]) -> None:
        self.welcomed = fields

    def goaway(self, low: float, high: float, why: str) -> None:
        self.errors.append("goaway")

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self, code: int, reason: str) -> None:
        self.closed = code

    # -- what its client does --------------------------------------------------------------------------------------

    def hello(self, **fields: Any) -> "Conn":
        self.rig.hub.hello(self, self.principal, Hello(**fields))
        self.rig.turns.run()
        return self

    def attach(self, **fields: Any) -> "Conn":
        """Join as a plain MQTT device."""
        wish = {"clean": False, "window": 65535, "qos": 1, "keep": 60_000} | fields
        self.via = "mqtt"
        self.closed = None
        self.rig.hub.attach(self, self.principal, Attach(**wish))
        self.rig.turns.run(10)
        return self

    def again(self, **fields: Any) -> "Conn":
        """A new connection that resumes where this one was welcomed."""
        assert self.welcomed is not None
        fresh = Conn(self.rig, self.principal.name)
        return fresh.hello(resume=self.welcomed["resume"], epoch=self.welcomed["epoch"], **fields)

    def ack(self, seq: int) -> None:
        self.rig.hub.ack(self, seq, None)
        self.rig.turns.run()

    def drop(self, clean: bool = False) -> None:
        self.rig.hub.disconnected(self, clean)
        self.rig.turns.run()


class Sent:
    """ports.Outbound: attempts as they are made; the test says what becomes of them."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, int, Callable[[Outcome], None]]] = []
        self.rooms: dict[str, int] = {}  # of channels that have not 100
        self.open: dict[str, int] = {}  # how long breakers are open, ms
        self.waits: dict[str, int] = {}  # how long addresses must wait, ms
        self.bodies: list[bytes | None] = []

    def room(self, channel: str) -> int:
        return self.rooms.get(channel, 100)

    def shut(self, channel: str) -> int:
        return self.open.get(channel, 0)

    def admit(self, channel: str, address: str) -> int:
        return self.waits.get(address, 0)

    def send(
        self, channel: str, item: Item, attempt: int, address: str, done: Callable[[Outcome], None]
    ) -> None:
        self.attempts.append((channel, item.id, done))
        self.bodies.append(item.body)


class Watch:
    """ports.Observer that remembers what was told of messages, attempts apart: (id, status, via)."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []
        self.receipts: list[tuple[str, str]] = []
        self.addresses: list[tuple[str, str]] = []

    def committed(self, commit: Any, seconds: float) -> None: ...
    def acked(self, elapsed: list[int]) -> None: ...
    def attempt(self, channel: str, kind: str) -> None: ...
    def receipt(self, channel: str, what: str) -> None:
        self.receipts.append((channel, what))

    def learnt(self, channel: str, what: str) -> None:
        self.addresses.append((channel, what))

    def on_their_way(self, items: list[Item], status: int, at: int, via: str) -> None: ...
    def status(self, item: Item, status: int, at: int, via: str, why: str) -> None:
        self.told.append((item.id, status, via))


class Rig:
    def __init__(self, config: Config | None = None) -> None:
        self.turns = Turns()
        self.sent = Sent()
        self.watch = Watch()
        rng = random.Random(1)
        self.store = MemoryStore(auto=False)
        tokens = itertools.count()
        self.hub = Hub(
            config or Config(),
            self.store,
            self.turns,
            self.sent,
            self.watch,
            rng,
            lambda: f"{next(tokens):08d}token",
        )
        self.auto = True
        self.turns.soon(self._steps)
        self.hub.start()
        self._tick()

    def _tick(self) -> None:
        """Commits complete a millisecond after they were submitted, unless the test holds them (`auto`)."""
        self._steps()
        self.turns.at(self.turns.now() + 1, self._tick)

    def _steps(self) -> None:
        while self.auto and self.store.step():
            self.turns.settle()

    def pass_(self, seconds: float) -> None:
        self.turns.run(round(seconds * 1000))

    def conn(self, client: str, **hello: Any) -> Conn:
        conn = Conn(self, client)
        self.hub.accept(conn, self.hub.config.websocket.max_connections)
        conn.hello(**hello)
        self.pass_(0.01)
        return conn

    def device(self, client: str, **attach: Any) -> Conn:
        """A plain MQTT device."""
        conn = Conn(self, client)
        self.hub.accept(conn, 0)
        return conn.attach(**attach)

    def publish(self, to: str, body: bytes = b"1", sender: Principal = KEY, **fields: Any) -> Conn:
        """Publish; the sink that is told. Its ref is 0."""
        sink = Conn(self, "nobody")
        self.hub.publish(sender, Publish(to=to, body=Raw(body), **fields), sink, 0)
        self.pass_(0.01)
        return sink

    def run(self, work: Coroutine[Any, Any, Any], while_: Callable[[], None] | None = None) -> Any:
        """Run an administrator's call on a loop of its own, turning the clock until it is done."""

        async def main() -> Any:
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0)
            if while_ is not None:
                while_()
            while not task.done():
                self.turns.run(1)
                await asyncio.sleep(0)
            return task.result()

        return asyncio.run(main())

    def view(self, id: int) -> MessageView:
        view = asyncio.run(self.store.message(id))
        assert view is not None
        return view

    def status(self, id: int) -> int:
        return self.view(id).item.status
