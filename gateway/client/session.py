"""The client's half of PROTOCOL 3, without sockets, clocks or chance: frames in, frames out.

The driver feeds what happened, with the time in seconds of any steady clock, and then pulls:

    connected ──> take() gives `hello` ──> receive(welcome) ──> take() gives what is to be said, as long as it stands
        ^                                                            │
        └──────── Plan: when and how to come back ──── ended(code) <─┘

    session.connected(token, now)          a transport is open
    session.receive(data, now)             one frame; then look at inbox.ready, inbox.notices, take_welcome()
    session.take(now)                      what to write now; the snapshot, where there is one, before the frames
    session.leave                          after writing: whether to close the connection, and how
    session.next_deadline()                when to call take() at the latest
    session.ended(code, reason, now)       the transport is gone: a Plan

`wake` is called when something new waits for take(). The session is the same over any transport that carries the frames
in order; MQTT's nonce and its repetition of `hello` would be added here.
"""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from random import Random
from typing import Any

from msgspec import Raw, Struct

from gateway.client.comeback import Comeback, Plan
from gateway.client.errors import ClientError
from gateway.client.frames import (
    BadFrame,
    Bye,
    Codec,
    Err,
    Gaps,
    Goaway,
    Hello,
    Msg,
    NewToken,
    Ok,
    Outbound,
    Ping,
    Read,
    Statuses,
    Welcome,
)
from gateway.client.inbox import Inbox
from gateway.client.outbox import Answer, Outbox, Publication
from gateway.client.state import Snapshot
from gateway.errors import Close
from gateway.wire import PubEntry

WELCOME_TIMEOUT = 10.0
# with no byte for this many heartbeats, ask; with none for that many, the gateway is gone
ASK_AFTER = 1.25
GONE_AFTER = 1.75
IDS_PER_FRAME = 1000
# no close frame, or one without a code
NO_CODE = frozenset((1005, 1006))


class Leave(IntEnum):
    """What the driver does with the connection once the frames are written."""

    NO = 0
    CLOSE = 1  # close it properly
    ABORT = 2  # nobody answers any more


class Info(Struct, frozen=True):
    """The last welcome. `why` is "resumed", or why a new epoch began: new, expired, epoch, unknown, clean.

    `missed` counts by reason what ended while away without ever having had a seq; `next` is the next seq to come;
    `heartbeat` in seconds, `max_payload` in bytes a message.
    """

    client: str
    epoch: str
    window: int
    resumed: bool
    why: str
    next: int
    missed: dict[str, int]
    heartbeat: float
    max_payload: int


class Output(Struct, frozen=True):
    """`snapshot`, with its serial number, is to be on disk before a byte of `frames` leaves."""

    frames: list[bytes]
    snapshot: Snapshot | None = None
    serial: int = 0


class Options(Struct, frozen=True):
    """`renewable`: new tokens can be had; `persist`: snapshots are wanted."""

    window: int = 64
    ack_delay: float = 0.005
    dedupe: int = 10_000
    publish_retries: int = 5
    renewable: bool = False
    persist: bool = False


class Reading:
    """Ids that a person has seen. `sent` is called with None when they are given to a connection, or with the end."""

    __slots__ = ("ids", "sent")

    def __init__(self, ids: list[str], sent: Callable[[ClientError | None], None]) -> None:
        self.ids = ids
        self.sent = sent


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
        self._hello: Hello | None = None
        self._open = False
        self._welcomed_at: float | None = None
        self._welcome_due = 0.0
        self._fresh_welcome: Info | None = None
        self._heard = 0.0
        self._asked = False
        self._new_token = ""
        self._error: Err | None = None
        self._bye: Bye | None = None

    # -- the connection --------------------------------------------------------------------------------------------

    def connected(self, token: str, now: float) -> None:
        """A transport is open: `hello` is due."""
        self._open = True
        self._welcomed_at = None
        self._welcome_due = now + WELCOME_TIMEOUT
        self._heard = now
        self._asked = False
        self._new_token = ""
        self._error = None
        self.leave = Leave.NO
        self.why = ""
        hello = Hello(token=token, window=self._options.window)
        if self._resume:
            hello.resume, hello.epoch = self._resume, self._epoch
            hello.ack = self.inbox.present() or None
        self._hello = hello

    def heard(self, at: float) -> None:
        """A byte of the gateway came at `at`."""
        if at > self._heard:
            self._heard = at
            self._asked = False

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
            if error.close is not None and code in NO_CODE:
                code = error.close
        if self._welcomed_at is not None:
            self._comeback.stood(now - self._welcomed_at)
        self._open = False
        self._hello = self._error = self._welcomed_at = None
        if code == Close.TOO_BIG:
            self._outbox.oversize()
        plan = self._comeback.closed(code, reason, retry_after, now)
        if plan.fresh:
            self._resume = ""
        return plan

    def refused(self, status: int, detail: str, retry_after: float | None, now: float) -> Plan:
        """The handshake was answered with an HTTP status that is not 101."""
        return self._comeback.refused(status, detail, retry_after, now)

    # -- what comes ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """One frame. Raises BadFrame: close the connection with 1002 then."""
        self.heard(now)
        frame = self._codec.decode(data)
        inbox = self.inbox
        if isinstance(frame, Msg):
            for message in frame.m:
                inbox.message(message)
        elif isinstance(frame, Ok):
            for entry in frame.m:
                self._outbox.accepted(entry)
        elif isinstance(frame, Welcome):
            self._welcome(frame, now)
        elif isinstance(frame, Gaps):
            for gap in frame.m:
                inbox.gap(gap)
        elif isinstance(frame, Statuses):
            for report in frame.m:
                inbox.status(report)
        elif isinstance(frame, Err):
            if frame.ref is None:
                self._error = frame
            else:
                self._outbox.refused(frame, now)
                self._wake()
        elif isinstance(frame, Goaway):
            self._comeback.goaway(frame.after, now)
            self._wake()

    def _welcome(self, frame: Welcome, now: float) -> None:
        if frame.heartbeat <= 0 or frame.window < 1:
            raise BadFrame("welcome: heartbeat and window must be above 0")
        if frame.resumed and frame.epoch == self._epoch:
            self.inbox.resumed(frame.window)
        else:
            self.inbox.restarted(frame.window)
        self._outbox.reconnected(frame.max_payload)
        self._client, self._epoch, self._resume = frame.client, frame.epoch, frame.resume
        self._token_changed = True
        self._welcomed_at = now
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
        if self._hello is not None:
            frames: list[Outbound] = [self._hello]
            self._hello = None
            return self._output(frames, save=self.inbox.changed or self._token_changed)
        if self._welcomed_at is None:
            if self._bye is not None:
                self._go(Leave.CLOSE, "closed")
            elif now >= self._welcome_due:
                self._go(Leave.ABORT, "no welcome")
            return Output([])
        goaway_at = self._comeback.goaway_at
        leaving = self._bye is not None or (goaway_at is not None and now >= goaway_at)
        said = self.inbox.take(now, at_once=leaving)
        frames = [NewToken(self._new_token)] if self._new_token else []
        self._new_token = ""
        frames += said
        frames += self._take_reads()
        frames += self._outbox.take(now)
        frames += self._heartbeat(now)
        if leaving:
            frames.append(self._bye or Bye())
            self._go(Leave.CLOSE, "closed" if self._bye is not None else "goaway")
        settled = self.inbox.changed and (leaving or bool(said))
        return self._output(frames, save=settled or self._token_changed)

    def _output(self, frames: list[Outbound], *, save: bool) -> Output:
        encoded = [self._codec.encode(frame) for frame in frames]
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

    def _heartbeat(self, now: float) -> list[Outbound]:
        assert self.info is not None
        silence = now - self._heard
        if silence >= GONE_AFTER * self.info.heartbeat:
            self._go(Leave.ABORT, "heartbeat lost")
        elif silence >= ASK_AFTER * self.info.heartbeat and not self._asked:
            self._asked = True
            return [Ping()]
        return []

    def _go(self, leave: Leave, why: str) -> None:
        self.leave = max(self.leave, leave)
        self.why = why

    @property
    def patience(self) -> float:
        """Seconds of silence after which the gateway counts as gone."""
        return GONE_AFTER * self.info.heartbeat if self.info is not None else WELCOME_TIMEOUT

    def next_deadline(self) -> float | None:
        """When take() must be called at the latest; None while there is no connection."""
        if not self._open:
            return None
        if self._welcomed_at is None:
            return self._welcome_due
        assert self.info is not None
        factor = GONE_AFTER if self._asked else ASK_AFTER
        times = [self._heard + factor * self.info.heartbeat]
        times += [t for t in (self.inbox.due, self._outbox.due(), self._comeback.goaway_at) if t is not None]
        return min(times)
