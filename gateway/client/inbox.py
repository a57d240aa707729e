"""What came under which seq, what the application made of it, and what is still to be said to the gateway. Pure.

A seq goes one way:

    comes ──> open ──────────────> settled ──────────> at or below `low`
              message: in hand     said to the gateway  everything up to here is settled: one cumulative ack
              notice: being told   with ack, nack, reject

`low` moves only over an unbroken run, so a cumulative ack never covers a seq that this client has not been told about:
what stands behind a hole, or behind a message still in hand, is acked singly.

Nothing answers an ack. An ack that was lost is simply repeated when its seq comes again. A nack or reject is different:
a cumulative ack that covers its seq would turn it into an ack, and the message would be gone. Therefore
 - inside a connection it always leaves before any ack that covers it;
 - `hello.ack` stays below it, and it is repeated first thing in the next connection, until it is certain that it is on
   the gateway's disk. That is so when a seq more than a window higher than all that was known when it was sent comes:
   the gateway can have bound that one only after it had settled this one, and it commits in order.

Dedupe is by message id: what this client has acked is acked again under whatever seq it comes, and what is still in
hand only changes its seq.
"""

from collections import OrderedDict, deque
from collections.abc import Callable

from msgspec import Struct

from gateway.client.errors import ClientError
from gateway.client.frames import Ack, BadFrame, Gap, MsgEntry, Nack, Outbound, Reject, StatusReport, Working
from gateway.client.message import Message, Stage
from gateway.model import SEQ_SPAN

MAX_WHY = 256
MAX_DELAY = 86400.0
SEQS_PER_FRAME = 1000


class Refusal(Struct, omit_defaults=True):
    """A nack (`delay` in seconds) or a reject (`delay` None) that may not be on the gateway's disk yet.

    `proof`: a seq above it proves that it is; 0 = not sent on this connection.
    """

    seq: int
    delay: float | None = None
    why: str = ""
    proof: int = 0

    def frame(self) -> Outbound:
        if self.delay is None:
            return Reject(self.seq, self.why)
        return Nack(self.seq, self.delay or None, self.why)


class Notice:
    """A gap or a status that the application is told about before it is acked."""

    __slots__ = ("epoch", "what")

    def __init__(self, what: Gap | StatusReport, epoch: int) -> None:
        self.what = what
        self.epoch = epoch


class Inbox:
    __slots__ = (
        "_ack_delay", "_done", "_due", "_ended", "_epoch", "_hand", "_high", "_ids", "_keep", "_low", "_open",
        "_refused", "_repeat", "_said", "_singles", "_span", "_to_refuse", "_unsaid", "_wake", "_working", "changed",
        "notices", "ready",
    )  # fmt: skip

    def __init__(self, window: int, dedupe: int, ack_delay: float, wake: Callable[[], None]) -> None:
        self.ready: deque[Message] = deque()  # not handed to the application yet
        self.notices: deque[Notice] = deque()
        self.changed = False  # something that a snapshot holds
        self._keep = dedupe
        self._ack_delay = ack_delay
        self._wake = wake
        self._ended: ClientError | None = None
        self._span = window
        self._epoch = 0  # counts epochs, so that a notice of an older one settles nothing
        self._low = 0
        self._high = 0
        self._done: set[int] = set()  # settled above low
        self._open: dict[int, Message | Notice] = {}
        # waiting or handed, by message id, whether or not the seq still stands
        self._hand: dict[str, Message] = {}
        self._ids: OrderedDict[str, None] = OrderedDict()  # acked, oldest first
        self._refused: dict[int, Refusal] = {}
        self._to_refuse: list[Refusal] = []
        self._working: dict[int, None] = {}
        self._singles: set[int] = set()
        self._said = 0  # the highest cumulative ack of this connection
        self._repeat = False  # an ack was lost: say `low` again
        self._unsaid = 0
        self._due: float | None = None

    # -- the connection --------------------------------------------------------------------------------------------

    def present(self) -> int:
        """The cumulative ack for `hello`; the rest is said after the welcome."""
        self._said = min([self._low, *(seq - 1 for seq in self._refused)])
        return self._said

    def resumed(self, window: int) -> None:
        """The same epoch goes on: everything that the last connection may have lost is said again."""
        self._span = max(self._span, window)
        self._working.clear()
        self._to_refuse = list(self._refused.values())
        for refusal in self._to_refuse:
            refusal.proof = 0
        self._singles = self._done.difference(self._refused)
        self._repeat = False
        self._unsaid = len(self._singles)
        self._due = None

    def restarted(self, window: int) -> None:
        """A new epoch: seqs start at 1. What was not handed out comes again, what is in hand waits for its new seq."""
        self._epoch += 1
        self._span = window
        self._low = self._high = self._said = self._unsaid = 0
        for message in self.ready:
            message.stage = Stage.WITHDRAWN
            self._hand.pop(message.id, None)
        self.ready.clear()
        # statuses are kept for their publisher and come again; a gap of the old epoch does not
        self.notices = deque(n for n in self.notices if isinstance(n.what, Gap))
        self._open.clear()
        self._done.clear()
        self._refused.clear()
        self._to_refuse.clear()
        self._working.clear()
        self._singles.clear()
        self._repeat = False
        self._due = None
        self.changed = True

    def end(self, error: ClientError) -> None:
        """The client has ended; whoever settles from now on gets `error`."""
        self._ended = error

    # -- what comes ------------------------------------------------------------------------------------------------

    def message(self, entry: MsgEntry) -> None:
        seq = entry.seq
        self._see(seq)
        refusal = self._refused.get(seq)
        if refusal is not None:
            self._refuse_again(refusal)
            return
        if self.settled(seq):
            self._ack_again(seq)
            return
        held = self._open.get(seq)
        if held is not None:
            if isinstance(held, Message):
                held.redelivered = entry.redelivered
            return
        if entry.id in self._ids:
            self._settle(seq)
            return
        message = self._hand.get(entry.id)
        if message is not None:
            if self._open.get(message.seq) is message:
                del self._open[message.seq]
            message.seq = seq
            message.redelivered = entry.redelivered
        else:
            message = Message(entry, self)
            self.ready.append(message)
            self._hand[message.id] = message
            if len(self._hand) > self._keep + SEQ_SPAN:
                del self._hand[next(iter(self._hand))]
        self._open[seq] = message

    def gap(self, gap: Gap) -> None:
        seq = gap.seq
        self._see(seq)
        held = self._open.get(seq)
        if seq in self._refused:
            del self._refused[seq]
            self._to_refuse = [r for r in self._to_refuse if r.seq != seq]
            self.changed = True
        elif self.settled(seq):
            self._ack_again(seq)
            return
        elif isinstance(held, Notice) and isinstance(held.what, Gap):
            return
        if isinstance(held, Message) and held.stage == Stage.WAITING:
            held.stage = Stage.WITHDRAWN
            self.ready.remove(held)
            self._hand.pop(held.id, None)
        self._tell(gap)

    def status(self, report: StatusReport) -> None:
        self._see(report.seq)
        if self.settled(report.seq):
            self._ack_again(report.seq)
        elif report.seq not in self._open:
            self._tell(report)

    def _tell(self, what: Gap | StatusReport) -> None:
        notice = Notice(what, self._epoch)
        self._open[what.seq] = notice
        self.notices.append(notice)

    def _see(self, seq: int) -> None:
        if len(self._open) > SEQ_SPAN or len(self.notices) > 2 * SEQ_SPAN:
            raise BadFrame(f"over {SEQ_SPAN} unsettled seqs")
        self._high = max(self._high, seq)
        while self._refused:
            oldest = next(iter(self._refused.values()))
            if not 0 < oldest.proof < seq:
                break
            del self._refused[oldest.seq]
            self.changed = True
        floor = seq - SEQ_SPAN
        if floor > self._low:
            # no seq is bound so far above an unsettled one (PROTOCOL 1): what is missing below was settled long ago
            self._low = floor
            self._done = {s for s in self._done if s > floor}
            self._refused = {s: r for s, r in self._refused.items() if s > floor}
            self._advance()

    # -- what the application does ---------------------------------------------------------------------------------

    def next(self) -> Message | None:
        """The next message for the application."""
        if not self.ready:
            return None
        message = self.ready.popleft()
        message.stage = Stage.HANDED
        return message

    def ack(self, message: Message) -> None:
        if not self._finish(message, Stage.ACKED):
            return
        self._ids[message.id] = None
        if len(self._ids) > self._keep:
            self._ids.popitem(last=False)
        self.changed = True
        if self._open.get(message.seq) is message:
            self._settle(message.seq)

    def nack(self, message: Message, delay: float, why: str) -> None:
        if not 0 <= delay <= MAX_DELAY:
            raise ValueError(f"delay must be within 0..{MAX_DELAY:.0f} seconds")
        self._refuse(message, Stage.NACKED, delay, why)

    def reject(self, message: Message, why: str) -> None:
        self._refuse(message, Stage.REJECTED, None, why)

    def working(self, message: Message) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        if self._open.get(message.seq) is message:
            self._working[message.seq] = None
            self._wake()

    def told(self, notice: Notice) -> None:
        """The application knows of a gap or a status."""
        seq = notice.what.seq
        if notice.epoch != self._epoch:
            return
        if self.settled(seq):
            self._open.pop(seq, None)
            self._ack_again(seq)
        else:
            self._settle(seq)

    def _finish(self, message: Message, stage: Stage) -> bool:
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        if message.stage == stage:
            return False
        if message.stage > Stage.HANDED:
            raise RuntimeError(f"message {message.id} is settled already: {message.stage.name.lower()}")
        message.stage = stage
        self._hand.pop(message.id, None)
        return True

    def _refuse(self, message: Message, stage: Stage, delay: float | None, why: str) -> None:
        if not self._finish(message, stage) or self._open.get(message.seq) is not message:
            return
        why = why[:MAX_WHY].encode("utf-8", "replace").decode()
        refusal = Refusal(message.seq, delay, why)
        self._refused[message.seq] = refusal
        self._to_refuse.append(refusal)
        self._mark(message.seq)
        self._wake()

    # -- settling --------------------------------------------------------------------------------------------------

    @property
    def low(self) -> int:
        """Everything up to it is settled."""
        return self._low

    def settled(self, seq: int) -> bool:
        """Whether nothing is to be done about `seq` any more, for all this client knows."""
        return seq <= self._low or seq in self._done

    def _mark(self, seq: int) -> None:
        self._open.pop(seq, None)
        self._working.pop(seq, None)
        if seq > self._low:
            self._done.add(seq)
            self._advance()
        self.changed = True

    def _advance(self) -> None:
        while self._low + 1 in self._done:
            self._low += 1
            self._done.remove(self._low)

    def _settle(self, seq: int) -> None:
        self._mark(seq)
        if seq > self._low:
            self._singles.add(seq)
        self._count()

    def _ack_again(self, seq: int) -> None:
        if seq <= self._low:
            self._repeat = True
        else:
            self._singles.add(seq)
        self._count()

    def _refuse_again(self, refusal: Refusal) -> None:
        if refusal.proof:
            refusal.proof = 0
            self._to_refuse.append(refusal)
            self._wake()

    def _count(self) -> None:
        self._unsaid += 1
        if self._unsaid == 1 or self._unsaid >= self._enough:
            self._wake()

    # -- what leaves -----------------------------------------------------------------------------------------------

    @property
    def _enough(self) -> int:
        # half a window of acks does not wait: the other half keeps the gateway sending meanwhile
        return max(1, self._span // 2)

    @property
    def due(self) -> float | None:
        """When the acks that wait must leave."""
        return self._due

    def take(self, now: float, *, at_once: bool = False) -> list[Outbound]:
        """The frames to send now, in this order. `at_once`: acks do not wait for `ack_delay`."""
        frames: list[Outbound] = []
        for refusal in self._to_refuse:
            refusal.proof = self._high + self._span
            frames.append(refusal.frame())
        self._to_refuse.clear()
        frames.extend(Working(seq) for seq in self._working)
        self._working.clear()
        if self._acks_due(now, at_once):
            frames.extend(self._acks())
        return frames

    def _acks_due(self, now: float, at_once: bool) -> bool:
        if not self._unsaid and self._low == self._said:
            return False
        if self._due is None:
            self._due = now + self._ack_delay
        return at_once or now >= self._due or self._unsaid >= self._enough

    def _acks(self) -> list[Outbound]:
        frames: list[Outbound] = []
        if self._low > self._said or self._repeat:
            frames.append(Ack(seq=self._low))
        singles = sorted(seq for seq in self._singles if seq > self._low)
        frames += (Ack(seqs=singles[i : i + SEQS_PER_FRAME]) for i in range(0, len(singles), SEQS_PER_FRAME))
        self._said = self._low
        self._singles.clear()
        self._repeat = False
        self._unsaid = 0
        self._due = None
        return frames

    # -- the state file --------------------------------------------------------------------------------------------

    def dump(self) -> tuple[int, list[int], list[Refusal], list[str]]:
        """For a snapshot: low, settled above it, refusals that are not certain, acked ids (oldest first)."""
        refused = [Refusal(r.seq, r.delay, r.why) for r in self._refused.values()]
        return self._low, sorted(self._done), refused, list(self._ids)

    def load(self, low: int, done: list[int], refused: list[Refusal], ids: list[str]) -> None:
        """What `dump` gave."""
        self._low = low
        self._done = {seq for seq in done if seq > low}
        self._refused = {r.seq: Refusal(r.seq, r.delay, r.why) for r in refused}
        self._high = max([low, *self._done, *self._refused])
        self._ids = OrderedDict.fromkeys(ids[-self._keep :] if self._keep else [])
