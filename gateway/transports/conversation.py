"""One client's conversation in frames (PROTOCOL 3), whatever carries them.

    NEW ── hello ──> JOINING ── welcome ──> LIVE
     └────────────────┴───────────────────────┴── close, loss, error ──> CLOSING ── carrier gone ──> GONE

Frames in become calls of the hub. What the hub hands over during a turn of the loop is kept until `flush` lays it out:
first what goes before the messages, then messages, statuses and gaps in seq order. How frames are written, and how a
conversation begins and ends, is the transport's.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from gateway import wire
from gateway.auth import Principal
from gateway.errors import Close, GatewayError, Invalid
from gateway.ids import decode_id
from gateway.model import Item
from gateway.transports.frames import BadEntry, Codec, read_entry
from gateway.transports.hub import HubSessions

# phases, in order
NEW: Final = 0  # hello is awaited
JOINING: Final = 1  # its token is being checked, or the hub's welcome is awaited
LIVE: Final = 2  # welcomed
CLOSING: Final = 3  # its end is written, nothing else will be
GONE: Final = 4  # so is what carried it

# Publishes of one client without an answer at which no more is read of it, and at which it is again. A few commits'
# worth of one busy publisher: it is slowed down to the store's pace, not stopped.
OWED_HIGH: Final = 1024
OWED_LOW: Final = 512
# ms from hello to welcome: what a store may take on its worst day
WELCOME_WAIT: Final = 60_000
INTERNAL: Final = 1011  # RFC 6455 7.4.1

# Ends that the gateway or the client chose for reasons of their own: no message that was delivered is to blame (poison)
BLAMELESS: Final = frozenset((
    Close.NORMAL, Close.DRAIN, Close.RATE, Close.EXPIRED, Close.TOKEN_EXPIRED, Close.NOT_AUTHORISED, Close.TAKEN_OVER,
    Close.BANNED,
))  # fmt: skip


class Server(Protocol):
    """What all conversations of a transport share."""

    @property
    def hub(self) -> HubSessions: ...

    @property
    def batch(self) -> int:
        """Messages in one `pub` frame, at most."""


class Conversation:
    """A ports.Connection but for what depends on the carrier."""

    __slots__ = (
        "clean", "codec", "dirty", "heads", "items", "joined", "oks", "owed", "phase", "principal", "server",
        "session", "writable",
    )  # fmt: skip

    via: str
    door: str
    sub: int

    @property
    def client(self) -> str:
        """Who it is; "" until that is known."""
        return self.principal.name if self.principal is not None else ""

    def __init__(self, server: Server, codec: Codec, principal: Principal | None) -> None:
        self.server = server
        self.codec = codec
        self.principal = principal  # of the latest token
        self.phase = NEW
        self.session: Any = None
        self.writable = True
        self.dirty = False  # a flush is asked for
        self.joined = False  # the hub must be told of the end
        self.clean = False
        # lists are made when they are needed: most connections are idle
        self.heads: list[bytes] | None = None  # frames that go before the messages
        self.oks: list[bytes] | None = None
        self.items: list[Item] | None = None
        self.owed = 0  # publishes without an answer

    # -- left to the transport -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is buffered, as much of it as the peer takes."""
        raise NotImplementedError

    def write_out(self) -> None:
        """Lay out what is buffered and write it."""
        raise NotImplementedError

    def welcome(self, fields: dict[str, Any]) -> None:
        """The hub has joined it to its session: `fields` of the frame, without `t`."""
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        """Write what is buffered, then the end. `code` as in errors.Close."""
        raise NotImplementedError

    def throttle(self) -> None:
        """Read from the peer, or leave it alone for as long as too much is open."""
        raise NotImplementedError

    def answered(self) -> None:
        """A publish has its answer."""
        raise NotImplementedError

    # -- what the hub hands over -----------------------------------------------------------------------------------

    def deliver(self, items: list[Item]) -> None:
        """Messages, gaps and statuses in seq order."""
        if self.phase != LIVE:
            return
        if self.items is None:
            self.items = items
        else:
            self.items += items
        if not self.dirty:
            self.dirty = True
            self.server.hub.touch(self)

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """A publish of this connection is durable."""
        if self.phase >= CLOSING:
            return
        entry = wire.ok_entry(ref, id, dup)
        if self.oks is None:
            self.oks = [entry]
        else:
            self.oks.append(entry)
        self.touch()
        self.answered()

    def refused(self, ref: Any, error: GatewayError) -> None:
        """A publish of this connection was refused after all."""
        self.head(wire.err_frame(error, ref))
        self.answered()

    def error(self, error: GatewayError) -> None:
        """An `err` about the connection."""
        self.head(wire.err_frame(error))

    def goaway(self, low: float, high: float, why: str) -> None:
        """Ask the client to come back after a random time in this range, in seconds."""
        self.head(wire.any_frame({"t": "goaway", "after": [low, high], "why": why}))
        # who is asked to leave is not blamed for going
        self.clean = True

    def head(self, frame: bytes) -> None:
        """A frame that goes before the messages."""
        if self.phase >= CLOSING:
            return
        if self.heads is None:
            self.heads = [frame]
        else:
            self.heads.append(frame)
        self.touch()

    def touch(self) -> None:
        """Ask for a flush at the end of this turn."""
        if not self.dirty:
            self.dirty = True
            self.server.hub.touch(self)

    def drop_buffers(self) -> None:
        """Nothing more will be written."""
        self.heads = self.oks = self.items = None

    # -- frames of the client --------------------------------------------------------------------------------------

    def on_ack(self, frame: wire.Ack) -> None:
        if frame.seqs is None and frame.seq is not None and self.server.hub.ack_lowest(self, frame.seq):
            return
        if frame.seq is None and frame.seqs is None:
            raise Invalid("an ack needs `seq` or `seqs`", field="$.seq")
        self.server.hub.ack(self, frame.seq, frame.seqs)

    def on_nack(self, frame: wire.Nack) -> None:
        self.server.hub.nack(self, frame.seq, frame.delay, frame.why)

    def on_reject(self, frame: wire.Reject) -> None:
        self.server.hub.reject(self, frame.seq, frame.why)

    def on_working(self, frame: wire.Working) -> None:
        self.server.hub.working(self, frame.seq)

    def on_read(self, frame: wire.ReadFrame) -> None:
        ids: list[int] = []
        for i, text in enumerate(frame.ids):
            try:
                ids.append(decode_id(text))
            except ValueError as error:
                raise Invalid(str(error), field=f"$.ids[{i}]") from None
        self.server.hub.read(self, ids)

    def on_ping(self, _: wire.Ping) -> None:
        self.head(wire.PONG)

    def on_bye(self, frame: wire.Bye) -> None:
        # the hub lets the bodies go when it hears of it
        self.write_out()
        self.server.hub.bye(self, frame.end)
        self.end(Close.NORMAL, "bye")

    def on_pub(self, frame: wire.Pub) -> None:
        self.check_batch(len(frame.m))
        for i, entry in enumerate(frame.m):
            self.publish(entry, f"$.m[{i}]")
        self.throttle()

    def on_bare_pub(self, frame: wire.BarePub) -> None:
        """All messages have a body and nothing else."""
        self.check_batch(len(frame.m))
        for i, entry in enumerate(frame.m):
            self.publish(wire.PubEntry(to=entry.to, body=entry.body, ref=entry.ref), f"$.m[{i}]")
        self.throttle()

    def on_loose_pub(self, frame: wire.LoosePub) -> None:
        """Some of the messages are bad: each is answered by itself."""
        self.check_batch(len(frame.m))
        for i, raw in enumerate(frame.m):
            at = f"$.m[{i}]"
            entry = read_entry(self.codec, raw, at)
            if isinstance(entry, BadEntry):
                self.head(wire.err_frame(entry.error, entry.ref))
            else:
                self.publish(entry, at)
        self.throttle()

    def check_batch(self, count: int) -> None:
        limit = self.server.batch
        if count > limit:
            raise Invalid(
                f"over {limit} messages in one frame", code="batch_too_large", field="$.m", http=413
            )

    def publish(self, entry: wire.PubEntry, at: str) -> None:
        """One message of a `pub` frame, `at` its place in there; a refusal is an `err` of its own."""
        assert self.principal is not None
        self.owed += 1
        try:
            self.server.hub.publish(
                self.principal, entry, self, entry.ref, field=at, msgpack=self.codec.binary
            )
        except GatewayError as error:
            self.owed -= 1
            self.head(wire.err_frame(error, entry.ref))

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, code: int, reason: str) -> None:
        """Close from here: the hub does not know yet."""
        self.close(code, reason)
        self.tell_hub()

    def tell_hub(self) -> None:
        """The hub is told of the end once."""
        if self.joined:
            self.joined = False
            self.server.hub.disconnected(self, self.clean)


Handler = Callable[[Any, Any], None]
# what every transport does with a frame of these kinds; `hello` and `token` are its own
HANDLERS: Final[Mapping[type, Handler]] = {
    wire.Ack: Conversation.on_ack,
    wire.Nack: Conversation.on_nack,
    wire.Reject: Conversation.on_reject,
    wire.Working: Conversation.on_working,
    wire.ReadFrame: Conversation.on_read,
    wire.Pub: Conversation.on_pub,
    wire.BarePub: Conversation.on_bare_pub,
    wire.LoosePub: Conversation.on_loose_pub,
    wire.Ping: Conversation.on_ping,
    wire.Bye: Conversation.on_bye,
}
