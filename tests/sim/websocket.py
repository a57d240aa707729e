"""The gateway's end of a WebSocket, laid out as the transport lays it out."""

from typing import TYPE_CHECKING, Any

import msgspec

from gateway import wire
from gateway.errors import Close, Forbidden, GatewayError, Invalid, Limited, Unauthorized, Unavailable
from gateway.ids import decode_id
from gateway.model import Kind
from tests.sim.link import CLOSING, JOINING, LIVE, NEW, End, Link

if TYPE_CHECKING:
    from tests.sim.world import Gateway

_read_json = msgspec.json.Decoder(wire.Inbound).decode
_read_msgpack = msgspec.msgpack.Decoder(wire.Inbound).decode


class SimConnection(End):
    """A ports.Connection that speaks frames."""

    via = "ws"
    door = "websocket"

    def __init__(self, gateway: "Gateway", link: Link) -> None:
        super().__init__(gateway, link, gateway.hub.config.websocket.max_connections)
        self._held: list[bytes] | None = None
        self._heads: list[bytes] = []
        self._oks: list[bytes] = []
        self._tokenless = False

    # -- what the hub asks -----------------------------------------------------------------------------------------

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
        self.gateway.world.ledger.epochs.welcomed(self, fields, clean=self._tokenless)
        self._heads.insert(0, wire.any_frame({"t": "welcome", **fields}))
        self.phase = LIVE
        self.gateway.time.soon(self._release)
        self.gateway.hub.touch(self)

    def goaway(self, low: float, high: float, why: str) -> None:
        self.clean = True
        self._head(wire.any_frame({"t": "goaway", "after": [low, high], "why": why}))

    def _drop(self) -> None:
        super()._drop()
        self._heads, self._oks = [], []

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
                if seqs is not None or seq is None or not hub.ack_lowest(self, seq):
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
        self._tokenless = hello.resume is None and hello.epoch is None
        ledger = self.gateway.world.ledger
        ledger.epochs.tries(self)
        ledger.resumes(self, hello.ack)
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
