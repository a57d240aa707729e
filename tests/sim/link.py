"""One connection with its two ends. The gateway's end is a ports.Connection that writes and reads what the wire has
(websocket.py, plain.py); the client's end is handed frames in order, each after a delay of its own.

A cut loses what is in flight both ways; each side learns of it at a time of its own (half-open). Where the gateway
dies, its kernel may still deliver what was written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from gateway.auth.principal import Principal
from gateway.errors import Close, GatewayError
from gateway.model import Item

if TYPE_CHECKING:
    from tests.sim.world import Gateway, World

LOST: Final = 1006
REFUSED: Final = 0  # nobody listens

# ends for which no message that was delivered is to blame (as in the transports)
BLAMELESS = frozenset((
    Close.NORMAL, Close.DRAIN, Close.RATE, Close.EXPIRED, Close.TOKEN_EXPIRED, Close.NOT_AUTHORISED, Close.TAKEN_OVER,
    Close.BANNED, Close.ACK_TIMEOUT,
))  # fmt: skip


class Peer(Protocol):
    """The client's side of a link."""

    name: str

    def received(self, link: "Link", frame: dict[str, Any]) -> None: ...

    def closed(self, link: "Link", code: int) -> None: ...


class Link:
    """The client's end, and the cable."""

    def __init__(
        self,
        world: "World",
        peer: Peer,
        principal: Principal,
        end: Callable[["Gateway", "Link"], "End"],
        *,
        binary: bool = False,
    ) -> None:
        self.world = world
        self.peer = peer
        self.principal = principal
        self._end = end
        self.binary = binary
        self.open = True  # as far as the client knows
        self.cut_off = False  # nothing passes any more
        self.conn: End | None = None
        self._up_last = 0
        self._down_last = 0
        self._up(self._connected)

    def _delay(self, last: int) -> int:
        low, high = self.world.profile.delay
        return max(last, self.world.timeline.mono + self.world.rng.randint(low, high))

    # -- upwards ---------------------------------------------------------------------------------------------------

    def _up(self, call: Callable[[], None]) -> None:
        self._up_last = self._delay(self._up_last)

        def arrived() -> None:
            if not self.cut_off:
                call()

        self.world.timeline.at(self._up_last, arrived)

    def _connected(self) -> None:
        gateway = self.world.gateway
        if gateway is None:
            self.ended(REFUSED)
            return
        self.conn = self._end(gateway, self)

    def send(self, frame: dict[str, Any]) -> None:
        """Hand a frame to the network."""
        if self.open:
            self._send(frame)

    def _send(self, frame: dict[str, Any]) -> None:
        self.world.trace(self.peer.name, "send", frame)
        data = msgspec.msgpack.encode(frame) if self.binary else msgspec.json.encode(frame)

        def arrived() -> None:
            if self.conn is not None:
                self.conn.data_received(data)

        self._up(arrived)

    # -- downwards -------------------------------------------------------------------------------------------------

    def down(self, data: bytes) -> None:
        """What the gateway has written."""
        self._down(lambda: self._received(data))

    def _down(self, call: Callable[[], None]) -> None:
        self._down_last = self._delay(self._down_last)

        def arrived() -> None:
            if not self.cut_off and self.open:
                call()

        self.world.timeline.at(self._down_last, arrived)

    def _received(self, data: bytes) -> None:
        frame = msgspec.msgpack.decode(data) if self.binary else msgspec.json.decode(data)
        self.world.trace(self.peer.name, "got", frame)
        self.peer.received(self, frame)

    def ended(self, code: int) -> None:
        """The client learns, behind what is on its way, that the connection has ended."""
        self._down(lambda: self._closed(code))

    def _closed(self, code: int) -> None:
        if not self.open:
            return
        self.open = False
        self.world.trace(self.peer.name, "closed", code)
        self.peer.closed(self, code)

    # -- faults ----------------------------------------------------------------------------------------------------

    def cut(self, here: int, there: int) -> None:
        """Nothing passes from now on; the client knows after `here` ms, the gateway after `there`."""
        if self.cut_off:
            return
        self.cut_off = True
        self.world.trace(self.peer.name, "cut", [here, there])
        self.world.timeline.after(here, lambda: self._closed(LOST))
        conn = self.conn
        if conn is not None:
            conn.gateway.time.after(there, conn.lost)

    def abandon(self) -> None:
        """The client no longer listens; the gateway does not know."""
        self.open = False

    def haunt(self, frame: dict[str, Any], wait: int) -> None:
        """A client that no longer listens is heard once more."""
        self.world.timeline.after(wait, lambda: self._send(frame))

    def gateway_died(self) -> None:
        """The gateway's process is gone. What it had written may still come."""
        self.conn = None
        if self.world.rng.random() < 0.5:
            self.cut_off = True
            self.world.timeline.after(self.world.rng.randint(1, 1500), lambda: self._closed(LOST))
        else:
            self.ended(LOST)


NEW: Final = 0
JOINING: Final = 1
LIVE: Final = 2
CLOSING: Final = 3


class End:
    """The gateway's end: what both kinds of ports.Connection share."""

    via = ""
    door = ""
    sub = 0

    def __init__(self, gateway: "Gateway", link: Link, limit: int) -> None:
        self.gateway = gateway
        self.link = link
        self.session: Any = None
        self.principal = link.principal
        self.client = link.peer.name
        self.last_proof = gateway.time.now()
        self.writable = True
        self.phase = NEW
        self.paused = False  # the peer does not read
        self.clean = False
        self._joined = False  # the hub must be told of the end
        self._items: list[Item] = []
        self._number = gateway.world.number()
        gateway.conns[self] = None
        gateway.hub.accept(self, limit)

    def __hash__(self) -> int:
        """The hub keeps connections in a set: its order must not hang on addresses."""
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<{self.via} connection {self._number} of {self.client}>"

    # -- what the hub asks of both ---------------------------------------------------------------------------------

    def deliver(self, items: list[Item]) -> None:
        if self.phase != LIVE:
            return
        self.gateway.world.ledger.wrote(self, items)
        self._items += items
        self.gateway.hub.touch(self)

    def flush(self) -> None:
        if self.phase < CLOSING:
            self._write_out()

    def close(self, code: int, reason: str) -> None:
        """The hub, or this end, closes: what is buffered goes out, the socket is gone a little later."""
        if self.phase >= CLOSING:
            return
        self._write_out()
        self.clean = self.clean or code in BLAMELESS
        self._closing()
        self.link.ended(int(code))
        self.gateway.time.after(self.gateway.world.rng.randint(1, 500), self._gone)

    # -- what each kind does ---------------------------------------------------------------------------------------

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        raise NotImplementedError

    def refused(self, ref: Any, error: GatewayError) -> None:
        raise NotImplementedError

    def error(self, error: GatewayError) -> None:
        raise NotImplementedError

    def welcome(self, fields: dict[str, Any]) -> None:
        raise NotImplementedError

    def goaway(self, low: float, high: float, why: str) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def _write_out(self) -> None:
        raise NotImplementedError

    def _drop(self) -> None:
        """Forget what is buffered."""
        self._items = []

    # -- a peer that does not read ---------------------------------------------------------------------------------

    def pause(self) -> None:
        self.paused = True
        self.writable = False

    def resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        if self.phase >= CLOSING:
            return
        self.flush()
        self.writable = True
        if self.phase == LIVE:
            self.gateway.hub.resumed_writing(self)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _closing(self) -> None:
        self.phase = CLOSING
        self._drop()
        self.gateway.world.ledger.epochs.left(self)

    def _tell(self, keep: int | None = None) -> None:
        """The hub is told, once."""
        if self._joined:
            self._joined = False
            self.gateway.hub.disconnected(self, self.clean, keep=keep)

    def lost(self) -> None:
        """The gateway learns that nobody is there any more."""
        if self.phase < CLOSING:
            self._closing()
            self._gone()

    def _gone(self) -> None:
        self._tell()
        if self in self.gateway.conns:
            del self.gateway.conns[self]
            self.gateway.hub.left(self)
