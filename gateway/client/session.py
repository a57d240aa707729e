"""The client's half of PROTOCOL 3 and 4, without sockets, clocks or chance: frames in, frames out.

The driver feeds what happened, with the time in seconds of any steady clock, and then pulls:

    connected ──> take() gives `hello` ──> receive(welcome) ──> take() gives what is to be said, as long as it stands
        ^                                                            │
        └──────── Plan: when and how to come back ──── ended(code) <─┘

    session.connected(token, now, nonce)   a transport is open
    session.receive(data, now)             one frame; then look at inbox.ready, inbox.notices, take_welcome()
    session.take(now)                      what to write now; the snapshot, where there is one, before the frames
    session.leave                          after writing: whether to close the connection, and how
    session.next_deadline()                when to call take() at the latest
    session.ended(code, reason, now)       the transport is gone: a Plan

`wake` is called when something new waits for take().

Over WebSocket a connection is one ordered stream that loses nothing. Over MQTT (PROTOCOL 4, framed) there may be a
broker in between. So a connection there has a `nonce`, and with one
 - `hello` carries no token (CONNECT has shown it), and is repeated until it is answered, as publishes are;
 - every frame carries the nonce as `c`; what comes with another one, or before the welcome, is from an older connection
   and is passed over;
 - `err hello_first` says that the gateway does not know this connection (it was restarted): the session says hello
   again, with the same nonce, and resumes;
 - `err` with `close` is what a close code is over WebSocket;
 - frames may be lost on their way here: `Order` holds back what comes after a hole.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from msgspec import Raw

from gateway.client.comeback import STABLE, Comeback, Plan
from gateway.client.errors import ClientError
from gateway.client.frames import (
    BadFrame,
    Bye,
    Codec,
    Err,
    Gap,
    Gaps,
    Goaway,
    Hello,
    Inbound,
    Msg,
    MsgEntry,
    NewToken,
    Ok,
    Outbound,
    Ping,
    Read,
    Statuses,
    Welcome,
)
from gateway.client.greeting import WELCOME_TIMEOUT, Greeting
from gateway.client.inbox import Inbox
from gateway.client.order import Entry, Order
from gateway.client.outbox import Answer, Outbox, Publication
from gateway.client.pulse import GONE_AFTER, Pulse, Sign
from gateway.client.state import Snapshot
from gateway.client.values import Info, Leave, Options, Output, Reading
from gateway.errors import Close
from gateway.wire import PubEntry

HELLO_FIRST = "hello_first"
IDS_PER_FRAME = 1000
# no close frame, or one without a code
NO_CODE = frozenset((1005, 1006))


class Session:
    def __init__(
        self,
        codec: Codec,
        options: Options,
        *,
        rng: Random,
        key_prefix: str,
        wake: Callable[[], None],
        snapshot: Snapshot | None = None,
    ) -> None:
        self.inbox = Inbox(options.window, options.dedupe, options.ack_delay, wake)
        self.info: Info | None = None
        self.leave = Leave.NO
        self.why = ""  # why the session itself leaves
        self._codec = codec
        self._options = options
        self._comeback = Comeback(rng, renewable=options.renewable)
        self._prefix = key_prefix
        self._wake = wake
        self._rng = rng
        self._order = Order(self.inbox.settled)
        self._outbox = Outbox(options.publish_retries, rng)
        self._count = 0
        self._reads: deque[Reading] = deque()
        self._client = self._epoch = self._resume = ""
        if snapshot is not None:
            self._client, self._epoch, self._resume = snapshot.client, snapshot.epoch, snapshot.resume
            self.inbox.load(snapshot.ack, snapshot.done, snapshot.refused, snapshot.ids)
        self._serial = 0
        self._token_changed = False
        # of the connection
        self._open = False
        self._nonce = ""
        self._greeting: Greeting | None = None  # until the welcome
        self._pulse: Pulse | None = None  # from then on
        self._welcomed_at: float | None = None
        self._fresh_welcome: Info | None = None
        self._new_token = ""
        self._error: Err | None = None
        self._bye: Bye | None = None

    # -- the connection --------------------------------------------------------------------------------------------

    def connected(self, token: str, now: float, nonce: str = "") -> None:
        """A transport is open: `hello` is due. `nonce`: of an MQTT connection, whose CONNECT has shown the token."""
        self._open = True
        self._nonce = nonce
        self._outbox.lossy = bool(nonce)
        self._new_token = ""
        self._error = None
        self.leave = Leave.NO
        self.why = ""
        self._begin(None if nonce else token, now)

    def _begin(self, token: str | None, now: float) -> None:
        hello = Hello(token=token, window=self._options.window)
        if self._resume:
            hello.resume, hello.epoch = self._resume, self._epoch
            hello.ack = self.inbox.present() or None
        self._greeting = Greeting(hello, now, self._rng if self._nonce else None)
        self._welcomed_at = self._pulse = None

    def heard(self, at: float) -> None:
        """A sign of life of the gateway came at `at`."""
        if self._pulse is not None:
            self._pulse.heard(at)

    def renew(self, token: str) -> None:
        """A fresh token for the connection there is; a later hello is given its own."""
        if self._open:
            self._new_token = token
            self._wake()

    def close(self, *, end: bool) -> None:
        """Say what waits and `bye`, then leave. `end`: the gateway need not wait for the offline deadline."""
        self._bye = Bye(end)
        self._wake()

    def end(self, error: ClientError) -> None:
        """The client has ended: whoever waits for something gets `error`."""
        self.inbox.end(error)
        self._outbox.end(error)
        while self._reads:
            self._reads.popleft().sent(error)

    def ended(self, code: int, reason: str, now: float) -> Plan:
        """The transport is gone, or none could be had (code 1006)."""
        error = self._error
        retry_after = None
        if error is not None:
            reason, retry_after = error.detail or reason, error.retry_after
            if error.close is not None and (self._nonce or code in NO_CODE):
                code = error.close
        if self._welcomed_at is not None:
            self._comeback.stood(now - self._welcomed_at)
        self._open = False
        self._error = self._welcomed_at = self._pulse = self._greeting = None
        if code == Close.TOO_BIG:
            self._outbox.oversize()
        plan = self._comeback.closed(code, reason, retry_after, now)
        if plan.fresh:
            self._resume = ""
        return plan

    def refused(self, status: int, detail: str, retry_after: float | None, now: float) -> Plan:
        """The handshake was refused: see `Comeback.refused`."""
        return self._comeback.refused(status, detail, retry_after, now)

    # -- what comes ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """One frame. Raises BadFrame: close the connection with 1002 then."""
        frame = self._codec.decode(data)
        if self._nonce and frame is not None and not self._ours(frame):
            return
        self.heard(now)
        if isinstance(frame, Msg | Gaps | Statuses):
            self._entries(frame.m, now)
        elif isinstance(frame, Ok):
            for entry in frame.m:
                self._outbox.accepted(entry)
        elif isinstance(frame, Welcome):
            self._welcome(frame, now)
        elif isinstance(frame, Err):
            self._err(frame, now)
        elif isinstance(frame, Goaway):
            self._comeback.goaway(frame.after, now)
            self._wake()

    def _ours(self, frame: Inbound) -> bool:
        """Whether a frame is of this MQTT connection, and not of an older one or said twice."""
        if frame.c is not None and frame.c != self._nonce:
            return False
        welcomed = self._welcomed_at is not None
        if isinstance(frame, Welcome):
            return frame.c is not None and not welcomed
        if isinstance(frame, Err) and not welcomed:
            # only a connection that was welcomed can be taken over
            return frame.ref is None and (frame.c is not None or frame.close != Close.TAKEN_OVER)
        return welcomed

    def _entries(self, entries: Sequence[Entry], now: float) -> None:
        inbox = self.inbox
        for each in entries:
            for entry in self._order.arrived(each, now) if self._nonce else (each,):
                if isinstance(entry, MsgEntry):
                    inbox.message(entry)
                elif isinstance(entry, Gap):
                    inbox.gap(entry)
                else:
                    inbox.status(entry)
        if self._order.due is not None:
            self._wake()

    def _err(self, frame: Err, now: float) -> None:
        if frame.ref is not None:
            self._outbox.refused(frame, now)
        elif self._nonce and frame.code == HELLO_FIRST:
            self._unknown(now)
        else:
            self._error = frame
            if self._nonce and frame.close is not None:
                self._go(Leave.CLOSE, frame.detail or frame.code)
        self._wake()

    def _unknown(self, now: float) -> None:
        """The gateway does not know this connection. A hello that is on its way already will tell it."""
        if self._welcomed_at is None:
            return
        stood = now - self._welcomed_at
        self._comeback.stood(stood)
        if stood >= STABLE:
            self._begin(None, now)
        else:
            self._go(Leave.CLOSE, HELLO_FIRST)  # and come back after a while

    def _welcome(self, frame: Welcome, now: float) -> None:
        if frame.heartbeat <= 0 or frame.window < 1:
            raise BadFrame("welcome: heartbeat and window must be above 0")
        if frame.resumed and frame.epoch == self._epoch:
            self.inbox.resumed(frame.window)
            self._order.resumed(self.inbox.low)
        else:
            self.inbox.restarted(frame.window)
            self._order.restarted()
        self._outbox.reconnected(frame.max_payload)
        self._client, self._epoch, self._resume = frame.client, frame.epoch, frame.resume
        self._token_changed = True
        self._welcomed_at = now
        self._greeting = None
        # drawn, so that clients welcomed together do not all ping together
        first_ping = now + frame.heartbeat * self._rng.uniform(0.5, 1.0) if self._nonce else None
        self._pulse = Pulse(frame.heartbeat, now, first_ping)
        self.info = self._fresh_welcome = Info(
            client=frame.client,
            epoch=frame.epoch,
            window=frame.window,
            resumed=frame.resumed,
            why="resumed" if frame.resumed else frame.why or "new",
            next=frame.next,
            missed=frame.missed,
            heartbeat=frame.heartbeat,
            max_payload=frame.max_payload,
        )
        self._wake()

    def take_welcome(self) -> Info | None:
        """The welcome that has come since the last call."""
        info, self._fresh_welcome = self._fresh_welcome, None
        return info

    # -- what the application sends --------------------------------------------------------------------------------

    def publish(self, entry: PubEntry, body: Any, answer: Answer) -> Publication:
        """Queue a message. `entry` gets its ref, and a key where it has none.

        Raises TypeError, ValueError or OverflowError for a body that the encoding cannot say.
        """
        self._count += 1
        entry.ref = str(self._count)
        if entry.key is None:
            entry.key = f"{self._prefix}-{self._count}"
        encoded = self._codec.encode(body)
        entry.body = Raw(encoded)
        publication = Publication(entry.ref, entry.key, self._codec.encode(entry), len(encoded), answer)
        self._outbox.add(publication)
        self._wake()
        return publication

    def abandon(self, publication: Publication) -> bool:
        """Nobody waits for this publish any more. True: it never left and gets no answer."""
        return self._outbox.abandon(publication)

    def read(self, reading: Reading) -> None:
        """A person has seen these."""
        self._reads.append(reading)
        self._wake()

    def unread(self, reading: Reading) -> None:
        """Nobody waits for this any more: it is dropped unless it has left."""
        if reading in self._reads:
            self._reads.remove(reading)

    # -- what leaves -----------------------------------------------------------------------------------------------

    def take(self, now: float) -> Output:
        """What to write now. Also looks at the timers: see `leave` afterwards."""
        if not self._open or self.leave != Leave.NO:
            return Output([])
        if self._greeting is not None:
            return self._greet(self._greeting, now)
        assert self._pulse is not None
        why = self._departure(now)
        said = self.inbox.take(now, at_once=bool(why))
        frames: list[Outbound] = [NewToken(self._new_token)] if self._new_token else []
        self._new_token = ""
        frames += said
        frames += self._take_reads()
        frames += self._outbox.take(now)
        sign = self._pulse.look(now)
        if sign == Sign.ASK:
            frames.append(Ping())
        elif sign == Sign.GONE:
            self._go(Leave.ABORT, "heartbeat lost")
        if why:
            frames.append(self._bye or Bye())
            self._go(Leave.CLOSE, why)
        settled = self.inbox.changed and (bool(why) or bool(said))
        return self._output(frames, save=settled or self._token_changed)

    def _departure(self, now: float) -> str:
        """Why to leave of one's own accord now."""
        if self._bye is not None:
            return "closed"
        goaway_at = self._comeback.goaway_at
        if goaway_at is not None and now >= goaway_at:
            return "goaway"
        return "a frame was lost" if self._nonce and self._order.overdue(now) else ""

    def _greet(self, greeting: Greeting, now: float) -> Output:
        frames: list[Outbound] = []
        if self._bye is not None:
            if self._nonce and greeting.said:
                frames.append(self._bye)  # the hello may reach the gateway yet
            self._go(Leave.CLOSE, "closed")
        elif greeting.given_up(now):
            self._go(Leave.ABORT, "no welcome")
        else:
            frames += greeting.take(now)
        return self._output(frames, save=bool(frames) and self.unsaved)

    def _output(self, frames: list[Outbound], *, save: bool) -> Output:
        encoded = [self._codec.encode(frame) for frame in frames]
        if self._nonce:
            tail = b',"c":"%b"}' % self._nonce.encode()
            encoded = [frame[:-1] + tail for frame in encoded]
        if not (save and self._options.persist):
            return Output(encoded)
        snapshot, serial = self.snapshot()
        return Output(encoded, snapshot, serial)

    def snapshot(self) -> tuple[Snapshot, int]:
        """What the state file must hold now, with a serial number that grows."""
        self._token_changed = self.inbox.changed = False
        self._serial += 1
        low, done, refused, ids = self.inbox.dump()
        return Snapshot(self._client, self._epoch, self._resume, low, done, refused, ids), self._serial

    @property
    def unsaved(self) -> bool:
        """Something has changed since the last snapshot."""
        return self._token_changed or self.inbox.changed

    def _take_reads(self) -> list[Outbound]:
        frames: list[Outbound] = []
        while self._reads:
            reading = self._reads.popleft()
            ids = reading.ids
            frames += (Read(ids[i : i + IDS_PER_FRAME]) for i in range(0, len(ids), IDS_PER_FRAME))
            reading.sent(None)
        return frames

    def _go(self, leave: Leave, why: str) -> None:
        if leave > self.leave:
            self.leave, self.why = leave, why

    @property
    def patience(self) -> float:
        """Seconds of silence after which the gateway counts as gone."""
        return GONE_AFTER * self.info.heartbeat if self.info is not None else WELCOME_TIMEOUT

    def next_deadline(self) -> float | None:
        """When take() must be called at the latest; None while there is no connection."""
        if not self._open:
            return None
        if self._greeting is not None:
            return self._greeting.due
        assert self._pulse is not None
        times = (
            self._pulse.due,
            self.inbox.due,
            self._outbox.due(),
            self._comeback.goaway_at,
            self._order.due,
        )
        return min(at for at in times if at is not None)
