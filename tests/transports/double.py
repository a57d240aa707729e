"""A hub and an authenticator that do what a test tells them. What the transports ask of either is exactly what stands
here.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.auth import Authenticator, Principal
from gateway.clock import SystemClock
from gateway.commit import Sink
from gateway.errors import GatewayError, Unauthorized
from gateway.model import Publish
from gateway.ports import Connection, Handle
from gateway.wire import Hello

START = 1_800_000_000_000
FIRST_ID = 1 << 61


class ManualScheduler:
    """Time that stands still until a test moves it. The turn ends with the loop's."""

    def __init__(self) -> None:
        self.ms = START

    def now(self) -> int:
        return self.ms

    def wall(self) -> float:
        return self.ms / 1000

    def soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def at(self, when: int, call: Callable[[], None]) -> Handle:
        raise NotImplementedError


class LoopScheduler(ManualScheduler):
    """Real time."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    def now(self) -> int:
        return self._clock.now()

    def wall(self) -> float:
        return self._clock.wall()


class HubDouble:
    """Notes every call as (name, connection, …). Welcomes and stores at once, unless told otherwise."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.trace_root = "0123456789abcdef"
        self.calls: list[tuple[Any, ...]] = []
        self.published: list[tuple[Any, Publish, str, bool]] = []  # ref, message, field, msgpack
        self.welcomes = True  # answer a hello
        self.stores = True  # answer a publish
        self.raises: dict[str, GatewayError] = {}  # name of a call -> what it raises
        self.refuses: dict[str, GatewayError] = {}  # address -> why a publish to it is refused at once
        self.bans: set[str] = set()
        self.waiting: list[tuple[Sink, Any, int]] = []  # publishes without an answer
        self._next = FIRST_ID
        self._dirty: dict[Connection, None] = {}
        self._changed = asyncio.Event()

    # -- for tests -------------------------------------------------------------------------------------------------

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        """The calls of these names, without the connection."""
        return [(name, *rest) for name, _, *rest in self.calls if name in names]

    def connections(self) -> list[Any]:
        """The connections that were accepted, in order."""
        return [call[1] for call in self.calls if call[0] == "accept"]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something that was noted makes it true."""
        async with asyncio.timeout(20):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def welcome(self, conn: Any, **fields: Any) -> None:
        conn.session = object()
        conn.welcome(
            {"client": conn.principal.name, "epoch": "k1", "resume": "r1", "resumed": False, **fields}
        )
        self.touch(conn)

    def store_all(self) -> None:
        """Answer the publishes that wait."""
        waiting, self.waiting = self.waiting, []
        for sink, ref, id in waiting:
            sink.stored(ref, id, False, 0)

    # -- what the transports ask -----------------------------------------------------------------------------------

    def accept(self, conn: Connection, limit: int) -> None:
        self._note("accept", conn)

    def left(self, conn: Connection) -> None:
        self._note("left", conn)

    def banned(self, client: str, now_ms: int) -> bool:
        return client in self.bans

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        self._note("hello", conn, principal.name, hello)
        if self.welcomes:
            self.scheduler.soon(lambda: self.welcome(conn))

    def disconnected(self, conn: Connection, clean: bool, end: bool = False, keep: int | None = None) -> None:
        conn.session = None
        self._note("disconnected", conn, clean)

    def publish(
        self,
        principal: Principal,
        pub: Publish,
        sink: Sink,
        ref: Any,
        *,
        field: str = "$",
        msgpack: bool = False,
    ) -> None:
        if pub.to in self.refuses:
            raise self.refuses[pub.to]
        self.published.append((ref, pub, field, msgpack))
        self._next += 1
        self.waiting.append((sink, ref, self._next))
        if self.stores:
            self.scheduler.soon(self.store_all)
        self._note("publish", sink, principal.name, pub.to)

    def publish_bare(self, principal: Principal, messages: list[Any], sink: Sink) -> int:
        """All go the long way here."""
        return 0

    def ack(self, conn: Connection, seq: int | None, seqs: list[int] | None) -> None:
        self._note("ack", conn, seq, seqs)

    def ack_lowest(self, conn: Connection, seq: int) -> bool:
        """It is never that simple here: `ack` is told all."""
        return False

    def nack(self, conn: Connection, seq: int, delay: float, why: str) -> None:
        self._note("nack", conn, seq, delay, why)

    def unsendable(self, conn: Connection, seq: int, detail: str) -> None:
        self._note("unsendable", conn, seq, detail)

    def reject(self, conn: Connection, seq: int, why: str) -> None:
        self._note("reject", conn, seq, why)

    def working(self, conn: Connection, seq: int) -> None:
        self._note("working", conn, seq)

    def read(self, conn: Connection, ids: list[int]) -> None:
        self._note("read", conn, ids)

    def bye(self, conn: Connection, end: bool) -> None:
        self._note("bye", conn, end)

    def resumed_writing(self, conn: Connection) -> None:
        self._note("resumed_writing", conn)

    def touch(self, conn: Connection) -> None:
        if not self._dirty:
            self.scheduler.soon(self._flush)
        self._dirty[conn] = None

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for conn in dirty:
            conn.flush()

    def _note(self, name: str, *rest: Any) -> None:
        self.calls.append((name, *rest))
        self._changed.set()
        if name in self.raises:
            raise self.raises[name]


class Tokens(Authenticator):
    """`alice` is alice's token, `alice:1900000000` one with that `exp`, `expired` has expired, anything odd is invalid.

    `slow:…` is the same behind a key that has to be fetched: it waits for `fetched`.
    """

    def __init__(self) -> None:
        self.fetched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked: list[str] = []

    def try_token(self, token: str) -> Principal | None:
        if token.startswith("slow:"):
            return None
        if token == "expired":
            raise Unauthorized("the token has expired", code="token_expired")
        name, _, exp = token.partition(":")
        if not name.isalpha():
            raise Unauthorized("the token is not valid", code="token_invalid")
        return Principal(kind="client", name=name, exp=int(exp) if exp else None)

    async def authenticate_token(self, token: str) -> Principal:
        self.asked.append(token)
        await asyncio.shield(self.fetched)
        principal = self.try_token(token.removeprefix("slow:"))
        assert principal is not None
        return principal
