"""What the transports ask of the hub; gateway/hub says what each call does.

Everything runs on the loop's thread. A connection is handed over with `accept`, joins a session with `hello`, and is
taken back with `disconnected` (if it had joined) and `left`.
"""

from typing import Any, Protocol

from gateway.auth import Principal
from gateway.commit import BareMessage, RunSink, Sink
from gateway.model import Publish
from gateway.ports import Attach, Connection, Scheduler
from gateway.wire import Hello


class HubSessions(Protocol):
    """The part of the hub that connections talk to."""

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def trace_root(self) -> str: ...

    def accept(self, conn: Connection, limit: int) -> None:
        """Count a new connection at its door. Raises Limited where there must not be another; `limit` 0: none."""

    def left(self, conn: Connection) -> None:
        """The socket of a counted connection is gone."""

    def banned(self, client: str, now_ms: int) -> bool: ...

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        """Join the client's session; `conn.welcome` or `conn.close` follows. Raises GatewayError for a bad hello."""

    def disconnected(self, conn: Connection, clean: bool, end: bool = False, keep: int | None = None) -> None:
        """A connection that had joined has ended. `clean`: it may not be blamed on what was delivered; `end`: its
        offline deadline counts as passed; `keep`: the ms that its epoch is to be kept, told anew in its DISCONNECT.
        """

    def publish(
        self,
        principal: Principal,
        pub: Publish,
        sink: Sink,
        ref: Any,
        *,
        field: str = "$",
        msgpack: bool = False,
        pid: int = 0,
        possible_dup: int = 0,
    ) -> None:
        """Queue a message for the next commit; `sink` is told. Raises GatewayError where it is refused at once.

        `pid`: the packet id of a QoS 1 PUBLISH; `possible_dup`: the id that a repeated one got at first, perhaps.
        """

    def publish_bare(self, principal: Principal, messages: list[BareMessage], sink: RunSink) -> int:
        """The same for many at once that have a body and nothing else: how many of the first were taken. What stops it
        goes to `publish`, which says what is wrong with it.
        """

    def refuse(
        self, principal: Principal, to: str, body: bytes, why: str, detail: str, sink: Sink, ref: Any
    ) -> None:
        """What an MQTT 3.1.1 device published and can never succeed: a dead letter of its publisher; `body` is JSON.

        `sink` is told when it is durable. Raises Limited, Unavailable.
        """

    async def uplinks(self, clients: list[str], last: int) -> dict[str, dict[int, tuple[int, bytes]]]:
        """Of each client the latest message under each of its `last` packet ids (those that it may not have seen
        answered): packet id -> (id, body). Raises Unavailable.
        """

    def attach(self, conn: Connection, principal: Principal, attach: Attach) -> None:
        """Join the client's session as a plain MQTT device; `conn.welcome` or `conn.close` follows. Raises GatewayError
        like `hello`.
        """

    def detach(self, conn: Connection) -> None:
        """UNSUBSCRIBE of a plain connection: its client is away from now on, the session holds no subscription. What
        it acks still counts, and nothing written on it is written on it again should it attach once more.
        """

    def keeps(self, conn: Connection) -> bool:
        """Whether nobody else was joined to its session since this device unsubscribed."""

    def subscription(self, client: str) -> int:
        """The model.Sub that the client's current epoch holds."""

    def granted(self, client: str) -> int:
        """The QoS at which it holds a plain one."""

    def grant(self, conn: Connection, qos: int) -> None:
        """A plain device has subscribed again, at this QoS."""

    def unsubscribe(self, client: str) -> None:
        """Drop it, where the client is not here as a plain device."""

    def written(self, conn: Connection, seqs: list[int]) -> None:
        """Plain at QoS 0: these were just written, which settles them."""

    def ack(self, conn: Connection, seq: int | None, seqs: list[int] | None) -> None: ...

    def ack_lowest(self, conn: Connection, seq: int) -> bool:
        """The same, if it is the lowest in flight and there is nothing else to it. False: it was not looked at."""

    def nack(self, conn: Connection, seq: int, delay: float, why: str) -> None: ...

    def reject(self, conn: Connection, seq: int, why: str) -> None: ...

    def unsendable(self, conn: Connection, seq: int, detail: str) -> None:
        """This is larger than what the client takes: to the dead letters, a gap in its place."""

    def write_again(self, conn: Connection) -> None:
        """What was written to it may be lost: all of that which is not settled comes once more, marked."""

    def working(self, conn: Connection, seq: int) -> None: ...

    def read(self, conn: Connection, ids: list[int]) -> None: ...

    def bye(self, conn: Connection, end: bool) -> None: ...

    def resumed_writing(self, conn: Connection) -> None: ...

    def touch(self, conn: Connection) -> None:
        """Call `conn.flush()` at the end of this turn."""
