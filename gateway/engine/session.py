"""The session of one client, as a state machine.

A session is what the gateway remembers of a client between connections. It outlives them: a connection is only
where the session currently writes to. The driver feeds what happened (`published`, `acked`, `lost` …), with the
time in ms, and then pulls what is to be done (`take`, `pull`, `next_deadline`); nothing here does I/O or reads
a clock.

States:

    NEW      nobody with this id was ever welcomed; messages for it wait, each on its own offline deadline
    JOINING  a `hello` was taken and what it changes is being committed; nothing is bound meanwhile
    LIVE     welcomed: what is bound goes out, what waits is bound as the window opens
    AWAY     no connection: the offline clock runs, then what has a chain is handed over
    EXPIRED  away for longer than its epoch is kept and the offline deadline: the next hello begins another epoch

            hello        welcomed      lost       expire
    NEW     JOINING      -             -          -
    JOINING JOINING      LIVE          AWAY       -
    LIVE    JOINING      -             AWAY       -
    AWAY    JOINING      -             -          EXPIRED
    EXPIRED JOINING      -             -          -

Durability is the driver's half of the contract. It commits before it calls: `bound` after the store has given
the seqs, `welcomed` after the row with the new resume token is on disk. So `next` is always the first seq that
is not bound on disk.
"""

from hmac import compare_digest
from typing import Any

from gateway.engine.backoff import ack_wait
from gateway.engine.queue import Queue
from gateway.engine.states import NEVER, TRANSITIONS, Half, Impossible, Input, Rules, State
from gateway.engine.window import Window
from gateway.errors import Invalid
from gateway.model import SEQ_SPAN, Hold, Item, Kind, SessionRow, Status, Sub

# members of enums read slowly: what is asked for each message has them at hand
_LIVE = State.LIVE
_BOUND, _CLAIMED, _NONE = int(Hold.BOUND), int(Hold.CLAIMED), int(Hold.NONE)
_MESSAGE, _GAP = int(Kind.MESSAGE), int(Kind.GAP)
_ACCEPTED = int(Status.PROVIDER_ACCEPTED)


class Session:
    __slots__ = (
        "_expires_at", "ack_from", "attached", "binding", "client", "conn", "eno", "epoch", "first_wait", "handed",
        "incoming", "jitter", "keep", "limit", "next", "offline_at", "over", "plain", "pulled", "queue", "row", "rules",
        "state", "waiting", "window",
    )  # fmt: skip

    def __init__(self, client: str, rules: Rules, row: SessionRow | None = None) -> None:
        self.client = client
        self.rules = rules
        self.state = State.NEW if row is None else State.AWAY
        self.row = row
        self.epoch = row.epoch if row else ""  # "": over, the next hello begins another
        self.eno = row.eno if row else 0
        self.next = row.next if row else 1
        self.conn: Any = None  # the driver's: where a live session is written to
        self.attached: Any = None  # a device that has unsubscribed: it may still ack what it was written
        self.plain = False  # its connection takes messages only: no frames for gaps and statuses
        self.keep = row.keep if row else -1  # ms that the epoch outlives its connection; -1: as configured
        self.over = False  # the epoch has ended with its connection, as soon as nothing is being bound in it
        self.window = Window()
        self.queue = Queue(rules.heads, rules.heads_bytes)
        self.limit = rules.window
        self.binding = 0  # seqs that commits under way will bind
        self.pulled = False  # some of them to what waited
        self.incoming = 0  # publishes to this client that are not committed yet
        self.waiting = 0  # its rows WAITING or LATER in the store
        self.ack_from = 0  # when the ack timer of the lowest unsettled seq started
        self.jitter = Half()
        self.first_wait = 0  # how long a first ack may take, on this connection
        self.offline_at = 0  # when the offline deadline passes; 0 = it does not run
        self.handed = False  # it has passed: what has a chain is handed over at once
        self._expires_at = 0

    # -- states ----------------------------------------------------------------------------------------------------

    def feed(self, what: Input) -> None:
        """Go where the table says. Raises Impossible for an input that the state does not have."""
        state = TRANSITIONS.get((self.state, what))
        if state is None:
            raise Impossible(f"{what.name} in {self.state.name}")
        self.state = state
        if state == State.JOINING:
            self.handed = False  # what comes meanwhile waits for the welcome

    @property
    def live(self) -> bool:
        return self.state is _LIVE

    def resume(self, token: bytes | None, epoch: str | None, ack: int | None) -> str:
        """Whether a hello resumes this session: "" for yes, else why not (`welcome.why`). `token` is a digest."""
        row = self.row
        if row is None:
            return "new"
        if not self.epoch or self.over:
            return "expired"
        if token is None and epoch is None:
            return "clean"
        known = [t for t in (row.token_presented, row.token_issued) if t is not None]
        if token is None or not any(compare_digest(token, t) for t in known):
            return "unknown"
        if epoch != self.epoch or (ack is not None and ack >= self.next):
            return "epoch"
        return ""

    def continues(self, clean: bool) -> str:
        """The same for a plain device, which needs no token."""
        if self.row is None:
            return "new"
        if not self.epoch or self.over:
            return "expired"
        return "clean" if clean else ""

    def holds(self, now: int) -> int:
        """The MQTT subscription (a model.Sub) that the epoch holds."""
        if self.row is None or not self.epoch or self.over:
            return int(Sub.NONE)
        if self.expired(now):
            return int(Sub.NONE)
        return int(Sub.PLAIN) if self.row.sub == Sub.PLAIN_0 else self.row.sub

    def begin_epoch(self, epoch: str, eno: int) -> None:
        """A new epoch: seqs start at 1, the window is empty. What was bound waits again, in the store."""
        self.end_epoch()
        self.epoch, self.eno, self.next = epoch, eno, 1

    def end_epoch(self) -> None:
        """The epoch is over: what was bound waits again, in the store."""
        self.epoch = ""
        self.over = False
        self.window = Window()

    def welcomed(
        self, now: int, limit: int, jitter: float, *, plain: bool = False, again: bool = False
    ) -> None:
        """The new connection may be written to: everything unsettled goes out first, then what waits.

        `again`: it is the same connection, subscribed once more: nothing that it was written is written to it again.
        """
        self.feed(Input.WELCOMED)
        self.limit = limit
        self.plain = plain
        self.attached = None
        self.offline_at = 0
        self.jitter.value = jitter
        self.first_wait = self._ack_wait(0)
        if again:
            self.window.back()
        else:
            self.window.reconnected()
        self.queue = Queue(self.rules.heads, self.rules.heads_bytes)
        if self.waiting:
            self.queue.behind()
        self.ack_from = now

    def lost(self, now: int, offline: int) -> None:
        """The connection is gone; the offline deadline passes `offline` ms from now.

        One that was never welcomed does not count: the offline clock goes on, and what its hello may have brought back
        is handed over again if it has run out.
        """
        self.feed(Input.LOST)
        if not self.offline_at:
            self.offline_at = now + offline
        self._expires_at = now + self._kept()
        self.window.drop_bodies()
        self.queue = Queue(self.rules.heads, self.rules.heads_bytes)

    def released(self, now: int) -> None:
        """The connection that had unsubscribed is gone: the epoch is kept from now."""
        self._expires_at = now + self._kept()

    def expired(self, now: int) -> bool:
        """Whether its client was away for longer than the epoch is kept."""
        return self.state == State.AWAY and self.attached is None and self._expires_at <= now

    def found_away(self, now: int, offline: int, away_since: int) -> None:
        """After a start of the gateway: the offline clock starts at its readiness, the expiry where it stood."""
        self.offline_at = now + offline
        self._expires_at = (away_since or now) + self._kept()
        if self._expires_at <= now:
            self.epoch = ""

    def _kept(self) -> int:
        expiry = self.rules.expiry
        return expiry if self.keep < 0 else min(self.keep, expiry)

    @property
    def expires_at(self) -> int:
        """When the epoch of an absent client is over. Not before the offline deadline was seen to: an expired session
        has no such clock any more, and what has a chain would wait for its client for good.
        """
        return self._expires_at if self.handed else NEVER

    def expire(self) -> None:
        """Away for too long: the epoch is over."""
        self.feed(Input.EXPIRE)
        self.end_epoch()

    # -- deliveries ------------------------------------------------------------------------------------------------

    def may_bind_now(self, writable: bool) -> bool:
        """Whether a message that arrives now gets its seq on the insert: the window is open and nothing waits, neither
        in the queue nor in a commit under way, where it would be overtaken: what has left the queue gets its seq after
        what is inserted with one, and what is inserted without one is not in the queue yet.
        """
        binding, window, queue = self.binding, self.window, self.queue
        items = window.items
        return (
            self.state is _LIVE
            and writable
            and self.incoming == binding
            and window.open + binding < self.limit
            and not queue.count
            and True not in queue.more
            and not (self.pulled and binding)
            # the lowest item is nearly always unsettled, and far from the end of the span
            and (
                not items
                or items[0].seq + SEQ_SPAN > self.next + binding
                or window.span_left(self.next + binding) > 0
            )
        )

    def bound(self, item: Item, now: int) -> None:
        """The store has bound `item` to the next seq."""
        self.binding = binding = self.binding - 1
        if not binding:
            self.pulled = False
        self.next = item.seq + 1
        window = self.window
        items = window.items
        # nearly always the lowest is one that the session owns
        if not items or (items[0].hold != _BOUND and window.lowest_owned() is None):
            self.ack_from = now
        window.add(item)

    def sends(self, item: Item, now: int) -> bool:
        """`bound` and `take` in one step, for a session whose peer takes more: an ordinary message is bound and to be
        written at once, since nothing else is. False: it is not that, and nothing has happened.
        """
        window = self.window
        if window.unwritten or window.flight >= self.limit or item.leaving or item.kind != _MESSAGE:
            return False
        self.binding = binding = self.binding - 1
        if not binding:
            self.pulled = False
        self.next = item.seq + 1
        items = window.items
        if not items or (items[0].hold != _BOUND and window.lowest_owned() is None):
            self.ack_from = now
        items.append(item)
        window.open += 1
        window.flight += 1
        item.written = True
        return True

    def pull(self, now: int) -> tuple[list[Item], list[Item]]:
        """What leaves the queue to be bound, and what was found expired there."""
        room = min(
            self.limit - self.window.open - self.binding, self.window.span_left(self.next + self.binding)
        )
        out: list[Item] = []
        dead: list[Item] = []
        while room > 0:
            item = self.queue.pop()
            if item is None:
                break
            if item.expire <= now:
                dead.append(item)
                continue
            out.append(item)
            room -= 1
        if out:
            self.binding += len(out)
            self.pulled = True
        return out, dead

    def take(self, now: int) -> list[Item]:
        """What is to be written now, in order. The ack timer starts when its seq is written."""
        low = self.window.lowest_owned()
        unwritten = low is not None and not low.written
        out = self.window.take(self.limit)
        if unwritten and low is not None and low.written:
            self.ack_from = now
        return out

    # -- answers ---------------------------------------------------------------------------------------------------

    def _check(self, seq: int) -> None:
        if seq >= self.next:
            raise Invalid(f"seq {seq} was never sent: next is {self.next}", code="seq_unknown", field="$.seq")

    def acked_to(self, seq: int, now: int) -> tuple[list[Item], list[Item]]:
        """Cumulative ack: what it settles, owned and claimed. Raises Invalid at or above `next`."""
        self._check(seq)
        timed = self.window.lowest_owned()
        owned, claimed = self.window.settle_to(seq)
        if timed is not None and timed.hold == Hold.NONE:
            self.ack_from = now
        return owned, claimed

    def acked_lowest(self, seq: int, now: int) -> Item | None:
        """The same for one seq in one step, as nearly all acks are: of the lowest in flight, an ordinary message that
        is the session's own. None: it is not that, and nothing has happened.
        """
        window = self.window
        items = window.items
        if not items:
            return None
        item = items[0]
        if (
            item.seq != seq
            or item.hold != _BOUND
            or item.x is not None
            or item.leaving
            or item.kind != _MESSAGE
            or item.status >= _ACCEPTED
        ):
            return None
        items.popleft()
        window.open -= 1
        if item.written:
            window.flight -= 1
        item.hold = _NONE
        item.body = None
        self.ack_from = now
        if items and items[0].hold == _NONE:
            window.lowest()
        return item

    def acked_each(self, seqs: list[int], now: int) -> tuple[list[Item], list[Item], int]:
        """Single seqs: what they settle, owned and claimed, and the first of them that is at or above `next`, where it
        stops (0: none). What was settled already is passed over.
        """
        window, end = self.window, self.next
        items = window.items
        owned: list[Item] = []
        claimed: list[Item] = []
        for seq in seqs:
            if seq >= end:
                return owned, claimed, seq
            if items and items[0].seq == seq and items[0].hold == _BOUND:
                # as nearly always: the lowest, and the session's own
                item = items.popleft()
                window.count_out(item)
                item.hold = _NONE
                item.body = None
                owned.append(item)
                self.ack_from = now
                continue
            found = window.find(seq)
            if found is None:
                continue
            (claimed if found.hold == _CLAIMED else owned).append(found)
            if found is window.lowest_owned():
                self.ack_from = now
            window.settle(found)
        window.lowest()
        return owned, claimed, 0

    def unsettled(self, seq: int) -> Item | None:
        """The item that a nack, reject or working names, None where it is settled. Raises Invalid at or above
        `next`.
        """
        self._check(seq)
        return self.window.find(seq)

    def working(self, seq: int, now: int) -> None:
        """Its ack timer starts afresh, if it is the lowest unsettled."""
        item = self.unsettled(seq)
        if item is not None and item is self.window.lowest_owned():
            self.ack_from = now

    # -- time ------------------------------------------------------------------------------------------------------

    def ack_due(self) -> int:
        """When the ack timer of the lowest unsettled seq ends; 0 = it does not run."""
        if self.state is not _LIVE:
            return 0
        low = self.window.lowest_owned()
        if low is None or not low.written:
            return 0
        tries = low.tries if low.kind == _MESSAGE else low.marks
        return self.ack_from + (self._ack_wait(tries) if tries else self.first_wait)

    def _ack_wait(self, tries: int) -> int:
        return ack_wait(self.jitter, self.rules.ack_wait, self.rules.ack_wait_max, tries)

    def next_deadline(self) -> int:
        """The earliest time at which this session must be looked at; 0 = none."""
        if self.state is _LIVE:
            return self.ack_due()
        if self.state != State.AWAY:
            return 0
        times = [] if self.handed else [self.offline_at]
        if self.handed and not self.over and self.attached is None:
            times.append(self.expires_at)
        times.extend(i.expire for i in self.window.items if i.hold == Hold.BOUND and i.kind != Kind.GAP)
        return min(times, default=0)

    def expired_while_away(self, now: int) -> list[Item]:
        """Bound items whose ttl has run out; a bound message expires only between connections."""
        if self.state != State.AWAY:
            return []
        return [
            i for i in self.window.items if i.hold == Hold.BOUND and i.kind != Kind.GAP and i.expire <= now
        ]
