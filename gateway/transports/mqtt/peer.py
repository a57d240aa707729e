"""Framed MQTT: what follows one hello of a client, as the hub sees it: a connection like one over WebSocket.

There is no task and no timer here: the wheel of the transport calls `look` when something may be due.
"""

from typing import TYPE_CHECKING, Any, Final

from gateway import wire
from gateway.auth import Principal
from gateway.errors import Close, Conflict, GatewayError, Limited, Unauthorized, Unavailable
from gateway.model import Kind
from gateway.observe.log import get_logger
from gateway.transports.conversation import (
    BLAMELESS,
    CLOSING,
    GONE,
    HANDLERS,
    INTERNAL,
    JOINING,
    LIVE,
    OWED_HIGH,
    OWED_LOW,
    WELCOME_WAIT,
    Conversation,
    Handler,
)
from gateway.transports.frames import Codec, close_code
from gateway.transports.mqtt.framing import MAX_SLICE, Framing, banned, closing_error, err_frame

if TYPE_CHECKING:
    from gateway.transports.mqtt.framed import FramedDesk

JSON: Final = Codec(binary=False)
# publishes without an answer, of a client whose frames keep coming although no more is asked for
OWED_MAX: Final = 16_384
LOST: Final = 1006  # in figures only: what carried it is gone
TOO_LARGE: Final = "over the client's maximum packet size"

_log = get_logger("mqtt")
_BARE: Final = tuple(len(wire.frame(kind, [])) for kind in Kind)


class FramedPeer(Conversation):
    """A ports.Connection: what follows one hello of a client. `c` is its nonce, `last_proof` the Unix ms of its last
    frame.
    """

    __slots__ = (
        "c", "checking", "counted", "deadline", "desk", "door", "greeting", "last_proof", "peer", "quiet_from", "slot",
        "stopped", "sub", "token",
    )  # fmt: skip

    via = "mqtt"
    server: Framing

    def __init__(self, desk: "FramedDesk", c: str) -> None:
        framing = desk.framing
        super().__init__(framing, JSON, desk.principal)
        self.desk = desk
        self.c = c
        self.door = framing.door
        self.sub = framing.sub
        self.peer = desk.address
        self.writable = desk.writable
        self.slot = 0
        self.last_proof = self.quiet_from = framing.now()
        self.deadline = self.last_proof + WELCOME_WAIT
        self.greeting = b""  # the welcome as it was sent
        self.counted = False  # the hub has accepted it
        self.stopped = False  # the client is not to be read
        self.checking = False  # a token is being proved
        self.token: str | None = None  # the one to be proved next

    # -- the beginning ---------------------------------------------------------------------------------------------

    def join(self, hello: wire.Hello) -> None:
        """Raises GatewayError."""
        framing, principal = self.server, self.desk.principal
        hub = framing.hub
        if hub.banned(principal.name, self.last_proof):
            raise banned()
        hub.accept(self, framing.limit)
        self.counted = True
        self.phase = JOINING
        framing.wheel.put(self, self.deadline)
        self.joined = True
        try:
            hub.hello(self, principal, hello)
        except GatewayError:
            self.joined = False
            raise
        if hello.token is not None and self.desk.authenticate is not None:
            # CONNECT has authenticated; this one may last longer
            self._prove(hello.token)

    def welcome(self, fields: dict[str, Any]) -> None:
        """The hub has joined it to its session: `fields` of the frame, without `t` and `c`."""
        if self.phase != JOINING:
            return
        self.greeting = wire.any_frame({"t": "welcome", **fields, "c": self.c})
        self.heads = [self.greeting, *(self.heads or ())]
        self.phase = LIVE
        self.quiet_from = now = self.server.now()
        self.server.wheel.put(self, self._due(now))
        self.touch()

    def greet(self) -> None:
        """Its hello came again."""
        self.last_proof = self.server.now()
        if self.phase == LIVE:
            self.head(self.greeting)

    # -- frames of the client --------------------------------------------------------------------------------------

    def take(self, frame: wire.Inbound | wire.BarePub | wire.LoosePub) -> None:
        """A frame that carries its nonce."""
        self.last_proof = self.server.now()
        try:
            _HANDLERS[type(frame)](self, frame)
        except GatewayError as error:
            self.fail(error)

    def publish(self, entry: wire.PubEntry, at: str) -> None:
        """One message of a `pub` frame, as long as not too many wait."""
        if self.owed < OWED_MAX:
            super().publish(entry, at)
            return
        error = Limited(
            f"{OWED_MAX} publishes wait for their answers", code="too_many_unanswered", retry_after=1.0
        )
        self.head(wire.err_frame(error, entry.ref))

    def throttle(self) -> None:
        """Ask the link to leave the client unread for as long as too much is open."""
        stop = self.owed > (OWED_LOW if self.stopped else OWED_HIGH)
        if stop is self.stopped or self.phase >= CLOSING:
            return
        self.stopped = stop
        if not stop:
            self.quiet_from = self.server.now()
        self.desk.link.throttle(self.desk, stop)

    def answered(self) -> None:
        """A publish has its answer."""
        self.owed -= 1
        if self.stopped:
            self.throttle()

    def _on_token(self, frame: wire.NewToken) -> None:
        if self.desk.authenticate is None:
            self.error(Conflict("no token is asked for here", code="token_unexpected", field="$.token"))
        else:
            self._prove(frame.token)

    def _prove(self, token: str) -> None:
        """One at a time: of those that come meanwhile the latest counts."""
        if self.checking:
            self.token = token
            return
        assert self.desk.authenticate is not None
        self.checking = True
        self.desk.authenticate(token, self._proven)

    def _proven(self, found: Principal | GatewayError) -> None:
        self.checking = False
        if self.phase >= CLOSING:
            return
        if isinstance(found, GatewayError):
            self.fail(found)
            return
        if found.name != self.desk.client:
            self.fail(Unauthorized("the token is another client's", code="token_subject", field="$.token"))
            return
        now = self.server.now()
        if self.server.hub.banned(found.name, now):
            self.fail(banned())
            return
        self.principal = self.desk.principal = found
        # it may expire before the next look
        self.server.wheel.put(self, now)
        token, self.token = self.token, None
        if token is not None:
            self._prove(token)

    # -- writing ---------------------------------------------------------------------------------------------------

    def error(self, error: GatewayError) -> None:
        """An `err` about this peer."""
        self.head(err_frame(error, self.c))

    def resume(self) -> None:
        """The client takes what is sent."""
        self.writable = True
        self.flush()
        if self.writable and self.phase == LIVE:
            self.server.hub.resumed_writing(self)

    def flush(self) -> None:
        """Write what is buffered, messages only as far as the client takes them."""
        self.dirty = False
        if self.phase < CLOSING:
            self.write_out()

    def write_out(self) -> None:
        """Lay out what is buffered and send it."""
        try:
            self._lay_answers()
            while self.items is not None and self.writable:
                self._lay_frame()
        except (ValueError, TypeError, OverflowError) as error:
            # One message that cannot be laid out must not end the turn of all others. The end counts as unclean: a
            # message that does this again and again is dead at last (poison).
            _log.error("a frame could not be written", client=self.desk.client, error=type(error).__name__)
            self.drop_buffers()
            self.end(INTERNAL, "internal error")

    def _lay_answers(self) -> None:
        send = self.desk.send
        heads, self.heads = self.heads, None
        oks, self.oks = self.oks, None
        for frame in heads or ():
            send(frame)
            if self.phase >= CLOSING:
                return
        if oks is None:
            return
        room = self.desk.max_frame
        bare = size = len(wire.ok_frame([]))
        first = 0
        for i, entry in enumerate(oks):
            if size + len(entry) > room:
                send(wire.ok_frame(oks[first:i]))
                first, size = i, bare
            size += len(entry) + 1
        send(wire.ok_frame(oks[first:]))

    def _lay_frame(self) -> None:
        """One frame of the next messages, all of one kind: as many as it holds."""
        items = self.items
        assert items is not None
        root, max_frame = self.server.hub.trace_root, self.desk.max_frame
        room = min(MAX_SLICE, max_frame)
        entries: list[bytes] = []
        kind = size = done = 0
        for item in items:
            body = item.body
            if body is None and item.kind != Kind.GAP:
                # settled or given back since it was handed over: it is no longer to be written
                done += 1
                continue
            if entries and (item.kind != kind or size + len(body or b"") >= room):
                break
            entry = wire.entry(item, root)
            grown = size + len(entry) + 1 if entries else _BARE[item.kind] + len(entry)
            if entries and grown > room:
                break
            done += 1
            if grown > max_frame:
                # the hub makes a gap of it
                item.body = None
                self.server.hub.unsendable(self, item.seq, TOO_LARGE)
                continue
            kind, size = item.kind, grown
            entries.append(entry)
            # the store keeps the body; should it have to be written again, the hub reads it there
            item.body = None
        if done < len(items):
            del items[:done]
        else:
            self.items = None
        if entries:
            self.desk.send(wire.frame(kind, entries))

    # -- time ------------------------------------------------------------------------------------------------------

    def look(self, now: int) -> int:
        """Do what is due; when to look again (see wheel.py)."""
        if self.phase == LIVE:
            due = self._due(now)
            if due > now:
                return due
            if self._expires(now) <= now:
                self.fail(Unauthorized("the token has expired", code="token_expired"))
            else:
                self.end(Close.HEARTBEAT, "heartbeat lost")
        elif self.phase == JOINING:
            if now < self.deadline:
                return self.deadline
            self.fail(Unavailable("no welcome in time", code="not_ready"))
        return 0

    def _due(self, now: int) -> int:
        """When its silence, or its token, ends it."""
        heard = now if self.stopped else max(self.last_proof, self.quiet_from, self.server.awake_since)
        return min(heard + self.server.silence_ms, self._expires(now))

    def _expires(self, now: int) -> int:
        """When the token expires, on the hub's clock (`exp` is real time)."""
        exp = self.desk.principal.exp
        if exp is None:
            return now + self.server.silence_ms
        return now + max(0, int((exp - self.server.hub.scheduler.wall()) * 1000))

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Write what is buffered, then the `err` with `close`."""
        self._shut(code, closing_error(code, reason))

    def fail(self, error: GatewayError) -> None:
        """Say what is wrong, and that this is the end."""
        self._shut(close_code(error), error)
        self.tell_hub()

    def _shut(self, code: int, error: GatewayError) -> None:
        if self.phase >= CLOSING:
            return
        self.write_out()
        if self.phase >= CLOSING:
            return
        self.clean = self.clean or code in BLAMELESS
        self.phase = CLOSING
        self.desk.send(err_frame(error, self.c, int(code)))
        self._let_go(code)

    def lost(self, clean: bool) -> None:
        """Nothing can be said any more."""
        if self.phase < CLOSING:
            self.clean = self.clean or clean
            self.phase = CLOSING
            self._let_go(LOST)
            self.tell_hub()

    def abort(self) -> None:
        """End at once."""
        self.lost(False)

    def _let_go(self, code: int) -> None:
        framing = self.server
        self.drop_buffers()
        self.token = None
        framing.wheel.drop(self)
        framing.count_close(int(code))
        if self.stopped:
            self.stopped = False
            self.desk.link.throttle(self.desk, False)
        self.desk.ended(self, code)
        # the hub itself may be what closes it: it is told when it has done
        framing.hub.scheduler.soon(self._gone)

    def _gone(self) -> None:
        self.phase = GONE
        self.tell_hub()
        if self.counted:
            self.server.hub.left(self)


_HANDLERS: Final[dict[type, Handler]] = {**HANDLERS, wire.NewToken: FramedPeer._on_token}
