"""Order over a transport that may lose frames (MQTT): what comes after a hole waits until the hole is filled. Pure.

The gateway sends seqs in order and without holes, so a seq that is missing was lost on its way: at QoS 0 a broker may
drop a frame. What comes behind it is held back, at most a window of messages, and passed on when the hole is filled.
Holes are filled in one of these ways:

    it comes      the gateway redelivers its lowest unsettled seq when `ack_wait` ends
    a repetition  something held comes again: so that is the lowest unsettled seq, and nothing is missing below it
                  (another connection of this client, on plain MQTT perhaps, has settled it)
    a new hello   after HOLE_PATIENCE seconds the session starts over: everything unsettled then comes again, in order.
                  If the hole is still there, it is none: nothing is missing below what comes first

Nothing held back is acked. A seq that was passed over in error and comes later is passed on when it comes.
"""

from collections.abc import Callable

from gateway.client.frames import Gap, MsgEntry, StatusReport
from gateway.model import SEQ_SPAN

Entry = MsgEntry | Gap | StatusReport
# a hole is waited for this long, seconds: about twice the gateway's usual `ack_wait`
HOLE_PATIENCE = 20.0


class Order:
    """`settled` tells whether this client has settled a seq, so that it need not come."""

    __slots__ = ("_held", "_next", "_settled", "_since", "_start_over", "_trust")

    def __init__(self, settled: Callable[[int], bool]) -> None:
        self._settled = settled
        self._next = 1  # everything below was passed on, or passed over
        self._held: dict[int, Entry] = {}
        self._since: float | None = None
        self._start_over = False
        self._trust = False

    def resumed(self, low: int) -> None:
        """The epoch goes on, and everything unsettled comes again; `low`: settled up to here."""
        self._next = max(self._next, low + 1)
        self._trust = self._start_over
        self._forget()

    def restarted(self) -> None:
        """A new epoch: seqs start at 1."""
        self._next = 1
        self._trust = False
        self._forget()

    def _forget(self) -> None:
        self._start_over = False
        self._held.clear()
        self._since = None

    @property
    def due(self) -> float | None:
        """When a hole has been waited for long enough."""
        return None if self._since is None else self._since + HOLE_PATIENCE

    def overdue(self, now: float) -> bool:
        """Whether to start over with a new hello because of a hole."""
        self._start_over = self._since is not None and now >= self._since + HOLE_PATIENCE
        return self._start_over

    def arrived(self, entry: Entry, now: float) -> list[Entry]:
        """What is to be passed on now, in order."""
        seq = entry.seq
        if seq < self._next:
            return [entry]
        if self._trust:
            self._trust = False
            self._next = seq
        held = self._held.get(seq)
        self._held[seq] = entry
        # no seq is bound further above an unsettled one (PROTOCOL 1)
        below = seq if type(held) is type(entry) else max(self._next, seq - SEQ_SPAN)
        passed = (
            [self._held.pop(s) for s in sorted(s for s in self._held if s < below)]
            if below > self._next
            else []
        )
        self._next = below
        while True:
            ready = self._held.pop(self._next, None)
            if ready is not None:
                passed.append(ready)
            elif not self._settled(self._next):
                break
            self._next += 1
        if not self._held:
            self._since = None
        elif self._since is None:
            self._since = now
        return passed
