"""One connection with its two ends. The gateway's end is a ports.Connection that writes and reads what the wire has;
the client's end is handed frames in order, each after a delay of its own.

A cut loses what is in flight both ways; each side learns of it at a time of its own (half-open). Where the gateway
dies, its kernel may still deliver what was written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from gateway import wire
from gateway.auth.principal import Principal
from gateway.errors import Close, Forbidden, GatewayError, Invalid, Limited, Unauthorized, Unavailable
from gateway.ids import decode_id
from gateway.model import Item, Kind

if TYPE_CHECKING:
    from tests.sim.world import Gateway, World

LOST: Final = 1006
REFUSED: Final = 0  # nobody listens

_read_json = msgspec.json.Decoder(wire.Inbound).decode
_read_msgpack = msgspec.msgpack.Decoder(wire.Inbound).decode
# ends for which no message that was delivered is to blame (as in the transport)
_BLAMELESS = frozenset((
    Close.NORMAL, Close.DRAIN, Close.RATE, Close.EXPIRED, Close.TOKEN_EXPIRED, Close.NOT_AUTHORISED, Close.TAKEN_OVER,
    Close.BANNED,
))  # fmt: skip


class Peer(Protocol):
    """The client's side of a link."""

    name: str

    def received(self, link: "Link", frame: dict[str, Any]) -> None: ...

    def closed(self, link: "Link", code: int) -> None: ...


class Link:
    """The client's end, and the cable."""

    def __init__(self, world: "World", peer: Peer, principal: Principal, *, binary: bool) -> None:
        self.world = world
        self.peer = peer
        self.principal = principal
        self.binary = binary
        self.open = True  # as far as the client knows
        self.cut_off = False  # nothing passes any more
        self.conn: SimConnection | None = None
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
        self.conn = SimConnection(gateway, self)

    def send(self, frame: dict[str, Any]) -> None:
        """Hand a frame to the network."""
        if not self.open:
            return
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


class SimConnection:
    """The gateway's end: a ports.Connection, laid out as the WebSocket transport lays it out."""

    via = "ws"

    def __init__(self, gateway: "Gateway", link: Link) -> None:
        self.gateway = gateway
        self.link = link
        self.session: Any = None
        self.principal = link.principal
        self.peer = link.peer.name
        self.last_proof = gateway.time.now()
        self.writable = True
        self.phase = NEW
        self.paused = False  # the peer does not read
        self.clean = False
        self._joined = False
        self._held: list[bytes] | None = None
        self._heads: list[bytes] = []
        self._oks: list[bytes] = []
        self._items: list[Item] = []
        self._number = gateway.world.number()
        gateway.conns[self] = None
        gateway.hub.accept(self)

    def __hash__(self) -> int:
        """The hub keeps connections in a set: its order must not hang on addresses."""
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<connection of {self.peer}>"

    # -- what the hub asks -----------------------------------------------------------------------------------------

    def deliver(self, items: list[Item]) -> None:
        if self.phase != LIVE:
            return
        self.gateway.world.ledger.wrote(self, items)
        self._items += items
        self.gateway.hub.touch(self)

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        if self.phase < CLOSING:
            self._oks.append(wire.ok_entry(ref, id, dup))
            self.gateway.hub.touch(self)

    def refused(self, ref: Any, error: GatewayError) -> None:
        self._head(wire.err_frame(error, ref))

    def error(self, error: GatewayError) -> None:
        self._head(wire.err_frame(error))

    def welcome(self, fields: dict[str, Any]) -> None:
        if self.phase != JOINING:
            return
        self._heads.insert(0, wire.any_frame({"t": "welcome", **fields}))
        self.phase = LIVE
        self.gateway.time.soon(self._release)
        self.gateway.hub.touch(self)

    def goaway(self, low: float, high: float, why: str) -> None:
        self.clean = True
        self._head(wire.any_frame({"t": "goaway", "after": [low, high], "why": why}))

    def close(self, code: int, reason: str) -> None:
        """The hub, or this end, closes: what is buffered goes out, the socket is gone a little later."""
        if self.phase >= CLOSING:
            return
        self._write_out()
        self.phase = CLOSING
        self.clean = self.clean or code in _BLAMELESS
        self._items, self._heads, self._oks = [], [], []
        self.link.ended(int(code))
        self.gateway.time.after(self.gateway.world.rng.randint(1, 500), self._gone)

    def flush(self) -> None:
        if self.phase < CLOSING:
            self._write_out()

    # -- writing ---------------------------------------------------------------------------------------------------

    def _head(self, frame: bytes) -> None:
        if self.phase < CLOSING:
            self._heads.append(frame)
            self.gateway.hub.touch(self)

    def _write_out(self) -> None:
        for frame in self._heads:
            self._write(frame)
        self._heads = []
        if self._oks:
            self._write(wire.ok_frame(self._oks))
            self._oks = []
        if self.paused or not self._items:
            return
        root = self.gateway.hub.trace_root
        entries: list[bytes] = []
        kind = self._items[0].kind
        for item in self._items:
            if item.body is None and item.kind != Kind.GAP:
                continue
            if item.kind != kind:
                if entries:
                    self._write(wire.frame(kind, entries))
                entries, kind = [], item.kind
            entries.append(wire.entry(item, root))
        if entries:
            self._write(wire.frame(kind, entries))
        self._items = []

    def _write(self, frame: bytes) -> None:
        self.link.down(wire.to_msgpack(frame) if self.link.binary else frame)

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

    # -- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.phase >= CLOSING:
            return
        self.last_proof = self.gateway.time.now()
        if self._held is not None:
            self._held.append(data)
            return
        try:
            try:
                frame = (_read_msgpack if self.link.binary else _read_json)(data)
            except msgspec.MsgspecError as error:
                raise Invalid(str(error), code="malformed", http=400) from None
            self._frame(frame)
        except GatewayError as error:
            self._fail(error)

    def _release(self) -> None:
        held, self._held = self._held, None
        for data in held or ():
            self.data_received(data)

    def _frame(self, frame: wire.Inbound) -> None:
        hub = self.gateway.hub
        if self.phase == NEW and not isinstance(frame, wire.Hello):
            raise Invalid("the first frame must be hello", code="hello_first", http=400)
        match frame:
            case wire.Hello():
                self._hello(frame)
            case wire.Ack(seq=seq, seqs=seqs):
                self.gateway.world.ledger.acked(self, seq, seqs)
                hub.ack(self, seq, seqs)
            case wire.Nack(seq=seq, delay=delay, why=why):
                hub.nack(self, seq, delay, why)
            case wire.Reject(seq=seq, why=why):
                hub.reject(self, seq, why)
            case wire.Working(seq=seq):
                hub.working(self, seq)
            case wire.ReadFrame(ids=ids):
                hub.read(self, [decode_id(text) for text in ids])
            case wire.Pub(m=entries):
                for i, entry in enumerate(entries):
                    try:
                        hub.publish(
                            self.principal,
                            entry,
                            self,
                            entry.ref,
                            field=f"$.m[{i}]",
                            msgpack=self.link.binary,
                        )
                    except GatewayError as error:
                        self._head(wire.err_frame(error, entry.ref))
            case wire.Bye(end=end):
                self._write_out()
                self.clean = True
                hub.bye(self, end)
                self.close(Close.NORMAL, "bye")
                self._tell()
            case _:
                self._head(wire.PONG)

    def _hello(self, hello: wire.Hello) -> None:
        if self.phase != NEW:
            raise Invalid("this connection has had its hello", code="hello_again")
        self.phase = JOINING
        self._held = []
        self._joined = True
        try:
            self.gateway.hub.hello(self, self.principal, hello)
        except GatewayError:
            self._joined = False
            raise

    # -- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, error: GatewayError) -> None:
        code = _close_code(error)
        self._head(wire.err_frame(error, close=int(code)))
        self.close(code, error.code)
        self._tell()

    def _tell(self) -> None:
        if self._joined:
            self._joined = False
            self.gateway.hub.disconnected(self, self.clean)

    def lost(self) -> None:
        """The gateway learns that nobody is there any more."""
        if self.phase < CLOSING:
            self.phase = CLOSING
            self._items, self._heads, self._oks = [], [], []
            self._gone()

    def _gone(self) -> None:
        self._tell()
        if self in self.gateway.conns:
            del self.gateway.conns[self]
            self.gateway.hub.left(self)


def _close_code(error: GatewayError) -> Close:
    match error:
        case Unauthorized() | Forbidden():
            return Close.NOT_AUTHORISED
        case Limited():
            return Close.RATE
        case Unavailable():
            return Close.DRAIN
        case _:
            return Close.PROTOCOL
