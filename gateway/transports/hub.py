"""What the transports ask of the hub; gateway/hub says what each call does.

Everything runs on the loop's thread. A connection is handed over with `accept`, joins a session with `hello`, and is
taken back with `disconnected` (if it had joined) and `left`.
"""

from typing import Any, Protocol

from gateway.auth import Principal
from gateway.commit import Sink
from gateway.model import Publish
from gateway.ports import Connection, Scheduler
from gateway.wire import Hello


class HubSessions(Protocol):
    """The part of the hub that connections talk to."""

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def trace_root(self) -> str: ...

    def accept(self, conn: Connection) -> None:
        """Count a new connection. Raises GatewayError where there must not be another."""

    def left(self, conn: Connection) -> None:
        """The socket of a counted connection is gone."""

    def banned(self, client: str, now_ms: int) -> bool: ...

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        """Join the client's session; `conn.welcome` or `conn.close` follows. Raises GatewayError for a bad hello."""

    def disconnected(self, conn: Connection, clean: bool) -> None:
        """A connection that had said hello has ended; `clean`: it may not be blamed on what was delivered."""

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
        """Queue a message for the next commit; `sink` is told. Raises GatewayError where it is refused at once."""

    def ack(self, conn: Connection, seq: int | None, seqs: list[int] | None) -> None: ...

    def nack(self, conn: Connection, seq: int, delay: float, why: str) -> None: ...

    def reject(self, conn: Connection, seq: int, why: str) -> None: ...

    def working(self, conn: Connection, seq: int) -> None: ...

    def read(self, conn: Connection, ids: list[int]) -> None: ...

    def bye(self, conn: Connection, end: bool) -> None: ...

    def resumed_writing(self, conn: Connection) -> None: ...

    def touch(self, conn: Connection) -> None:
        """Call `conn.flush()` at the end of this turn."""
