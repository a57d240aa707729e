"""Receipts: what providers report of attempts after they have accepted them, or before they have even answered.

Each becomes one line of its message's timeline, and is compared with those that are there: a repetition changes
nothing. What it means for the chain is the engine's (`receive`); the change compares where the chain stood, and one
that comes too late is looked at anew. Statuses only go forward.

    the attempt is …            a receipt
    under way                   is kept, and counts with its outcome (Outcomes.early)
    the latest, waited for      satisfies the step, or lets the chain go on
    the latest, ambiguous       settles it
    an earlier one              that satisfies its step stops what is left; a failure takes its channel's word back
    over, with its chain        raises what the message has ended as, if a provider had it

They are looked at in rounds, one at a time: the story of each message is read behind a commit, its changes are in the
next, and a call is answered when all of its receipts are on disk. In a round a message has one that changes something.
"""

import asyncio
from collections import deque
from itertools import islice
from typing import Any

from msgspec import Struct

from gateway.commit import Change, Event
from gateway.commit_people import PutSuppressions
from gateway.engine.handover import Verdict, receive
from gateway.errors import GatewayError, Unavailable
from gateway.hub.core import Core
from gateway.hub.outcomes import ANY_HOLD, REACHED, Done, Outcomes
from gateway.ids import decode_id
from gateway.model import Item, Kind, Phase, Status
from gateway.ports import Receipt, ref_of
from gateway.reads import ReadStories, Story

# receipts that wait for their round: 503 above it
MAX_WAITING = 20_000
# receipts that a round looks at
SLICE = 200
# lines of receipts in one timeline; what is above it is counted and dropped
MAX_LINES = 100
# how often a receipt is looked at anew because something else was faster; then it is in the timeline only
MAX_TRIES = 5
_ACCEPTED, _DELIVERED = int(Status.PROVIDER_ACCEPTED), int(Status.PROVIDER_DELIVERED)


class _Call:
    """One callback, and how many of its receipts are not on disk yet."""

    __slots__ = ("future", "left")

    def __init__(self, future: "asyncio.Future[None]", left: int) -> None:
        self.future = future
        self.left = left


class _One:
    """One receipt."""

    __slots__ = ("call", "channel", "id", "n", "receipt", "tries")

    def __init__(self, call: _Call, channel: str, id: int, n: int, receipt: Receipt) -> None:
        self.call = call
        self.channel = channel
        self.id = id
        self.n = n
        self.receipt = receipt
        self.tries = 0


class _Seen(Struct):
    """What the timeline says of the attempt that a receipt names, and of the others."""

    known: bool  # it was made, at this channel
    repeated: bool
    lines: int  # of receipts, of the message
    statuses: set[str]  # that were reported of it before
    word: str  # the channel whose acceptance stands, apart from this attempt's


class Receipts:
    def __init__(self, core: Core, outcomes: Outcomes) -> None:
        self.core = core
        self.outcomes = outcomes
        self._waiting: deque[_One] = deque()
        self._round: dict[_One, None] = {}  # being looked at, or written

    async def take(self, channel: str, receipts: list[Receipt]) -> None:
        """Returns once everything that these report is durable. Raises Unavailable, or what the commit failed with."""
        core = self.core
        if core.down:
            raise Unavailable(f"not ready: {core.down}", code="not_ready", retry_after=1.0)
        if len(self._waiting) > MAX_WAITING:
            raise Unavailable("too many receipts wait", code="receipts_waiting", retry_after=1.0)
        call = _Call(asyncio.get_running_loop().create_future(), 0)
        alone: list[asyncio.Future[Any]] = []
        for receipt in receipts:
            if not receipt.ref:
                # about an address alone
                if receipt.learnt and receipt.address:
                    alone.append(core.future())
                    self._learn(channel, receipt, "", alone[-1])
            elif (named := _named(receipt.ref)) is None:
                core.observer.receipt(channel, "unknown")
            else:
                self._waiting.append(_One(call, channel, *named, receipt))
                call.left += 1
        if call.left:
            self._begin()
            await call.future
        for future in alone:
            await future

    def reset(self, error: GatewayError) -> None:
        """The store failed: nobody knows what of it is on disk; providers call again."""
        ones = [*self._waiting, *self._round]
        self._waiting.clear()
        self._round.clear()
        for one in ones:
            if not one.call.future.done():
                one.call.future.set_exception(error)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._round or not self._waiting:
            return
        self._round = dict.fromkeys(islice(self._waiting, SLICE))
        for _ in self._round:
            self._waiting.popleft()
        self.core.commit.reads.append(
            ReadStories(list(dict.fromkeys(one.id for one in self._round)), self._came)
        )
        self.core.wake()

    def _came(self, read: ReadStories) -> None:
        changed: set[int] = set()
        left = []
        for one in list(self._round):
            story = read.found.get(one.id)
            if one.id in changed:
                # it must see what the one before it has changed
                left.append(one)
            elif story is None:
                self.core.observer.receipt(one.channel, "unknown")
                self._done(one)
            elif self._look(one, story):
                changed.add(one.id)
            else:
                self._done(one)
        self._back(left)

    def _back(self, ones: list[_One]) -> None:
        """They are looked at in the next round."""
        for one in reversed(ones):
            self._waiting.appendleft(one)
            del self._round[one]
        self._begin()

    def _done(self, one: _One) -> None:
        """It is on disk, or there is nothing to put there."""
        one.call.left -= 1
        if not one.call.left and not one.call.future.done():
            one.call.future.set_result(None)
        del self._round[one]
        self._begin()

    # -- one receipt -----------------------------------------------------------------------------------------------

    def _look(self, one: _One, story: Story) -> bool:
        """Whether it changes anything: then it is done when that is on disk."""
        seen = _seen(one, story)
        what = ""
        if story.item.kind != Kind.MESSAGE or not seen.known:
            what = "unknown"
        elif seen.repeated:
            what = "repeated"
        elif seen.lines >= MAX_LINES:
            what = "dropped"
        if what:
            self.core.observer.receipt(one.channel, what)
            return False
        event = Event(one.id, self.core.now(), "receipt", _line(one))
        if one.receipt.learnt and not one.tries:
            self._learn(one.channel, one.receipt, story.item.client)
        row = story.row
        if one.tries >= MAX_TRIES or (row is not None and row.phase == Phase.PARKED):
            self._note(one, event)
        elif row is None:
            self._after_the_end(one, story.item, event)
        elif row.phase == Phase.OPEN and row.total == one.n:
            self._early(one, row.stand, event)
        else:
            self._receive(one, story, seen, event)
        return True

    def _receive(self, one: _One, story: Story, seen: _Seen, event: Event) -> None:
        core, item, row = self.core, story.item, story.row
        assert row is not None
        stood, status = row.stand, one.receipt.status
        if (status == "accepted" and "failed" in seen.statuses) or (
            status == "failed" and not seen.statuses.isdisjoint(("delivered", "read"))
        ):
            # out of order: the later word stands
            status = ""
        verdict = receive(
            row, one.n, status, self.outcomes.policy(one.channel), core.now(), item.expire,
            late=self.outcomes.late(item.client),
        )  # fmt: skip
        word = item.via if item.status == _ACCEPTED else ""
        if status == "failed":
            word = seen.word
        done = Done(
            item, one.channel, stood, event, REACHED.get(status, 0), word,
            (one.receipt.reason or one.receipt.code or "failed")[:200],
            applied=lambda: self._counted(one), missed=lambda: self._anew(one),
        )  # fmt: skip
        self._tell_open(one.id, done)
        self.outcomes.go_on(row, Verdict.RESTS if verdict is None else verdict, done)

    def _tell_open(self, id: int, done: Done) -> None:
        """A later attempt of it is under way: what follows from its outcome depends on what is known of the others."""
        item = self.outcomes.open.get(id)
        if item is not None and item.status < _DELIVERED:
            item.status = max(item.status, done.reached)
            item.via = done.channel if done.reached else done.standing

    def _early(self, one: _One, stood: tuple[int, int, int], event: Event) -> None:
        """Its attempt has no outcome yet."""
        early, status = self.outcomes.early, one.receipt.status
        if one.id not in self.outcomes.open:
            # its outcome is on its way to the disk
            self._anew(one)
            return
        early.setdefault(one.id, []).append(status)

        def after(change: Change) -> None:
            if change.ok:
                self._counted(one)
                return
            if status in early.get(one.id, ()):
                early[one.id].remove(status)
            self._anew(one)

        self.core.change(Change(one.id, ANY_HOLD, {}, ended=True, stood=stood, event=event, then=after))

    def _after_the_end(self, one: _One, item: Item, event: Event) -> None:
        """Its chain is over: what its provider had accepted it may have delivered, and then a person read it."""
        core, channel = self.core, one.channel
        reached = REACHED.get(one.receipt.status, 0)
        if item.status not in (_ACCEPTED, _DELIVERED) or reached <= item.status:
            self._note(one, event)
            return
        now = core.now()
        report = core.report(item, reached, channel, now)

        def after(change: Change) -> None:
            if not change.ok:
                self._anew(one)
                return
            core.reported(report)
            core.told(item, reached, now, channel)
            self._counted(one)

        core.change(
            Change(
                item.id, ANY_HOLD, {"status": reached, "ended_at": now, "via": channel}, ended=True, was=item.status,
                event=event, report=report, then=after,
            )
        )  # fmt: skip

    def _note(self, one: _One, event: Event) -> None:
        """It is in the timeline, and changes nothing else."""
        self.core.change(
            Change(one.id, ANY_HOLD, {}, ended=True, event=event, then=lambda _: self._counted(one))
        )

    def _anew(self, one: _One) -> None:
        """Something else was faster."""
        one.tries += 1
        self._back([one])

    def _counted(self, one: _One) -> None:
        self.core.observer.receipt(one.channel, one.receipt.status or "other")
        self._done(one)

    def _learn(
        self, channel: str, receipt: Receipt, client: str, future: "asyncio.Future[Any] | None" = None
    ) -> None:
        """What it says of an address, in the commit of its timeline line; `future` is told when that is on disk."""
        self.core.observer.learnt(channel, receipt.learnt)

        def stored(op: PutSuppressions) -> None:
            if future is not None and not future.done():
                future.set_result(None)

        self.core.suppressions.learn(client, channel, receipt, stored)


def _named(ref: str) -> tuple[int, int] | None:
    """The message and the attempt."""
    named = ref_of(ref)
    if named is None:
        return None
    try:
        return decode_id(named[0]), named[1]
    except ValueError:
        return None


def _seen(one: _One, story: Story) -> _Seen:
    made: dict[int, str] = {}
    statuses: dict[int, set[str]] = {}
    accepted: list[int] = []
    lines, repeated = 0, False
    for event in story.events:
        data = event.data or {}
        n = data.get("n", 0)
        if event.kind == "attempt":
            made[n] = data["channel"]
        elif event.kind == "attempt_ended" and data["outcome"] == "accepted":
            accepted.append(n)
        elif event.kind == "receipt":
            lines += 1
            statuses.setdefault(n, set()).add(data.get("status", ""))
            same = (data.get("status", ""), data.get("code", "")) == (one.receipt.status, one.receipt.code)
            repeated = repeated or (n == one.n and same)
            if data.get("status") == "accepted":
                accepted.append(n)
    word = ""
    for n in sorted(set(accepted)):
        if n != one.n and "failed" not in statuses.get(n, ()):
            word = made.get(n, "")
    return _Seen(made.get(one.n) == one.channel, repeated, lines, statuses.get(one.n, set()), word)


def _line(one: _One) -> dict[str, object]:
    """One line of the timeline, the same for every provider."""
    receipt = one.receipt
    data: dict[str, object] = {"channel": one.channel, "n": one.n, "status": receipt.status}
    for name in ("reason", "code", "blame", "learnt", "address"):
        if value := getattr(receipt, name):
            data[name] = value[:200]
    if receipt.at:
        data["at"] = receipt.at
    return data


def early_of(story: Story) -> list[str]:
    """The receipts of the attempt that is under way, as its timeline has them."""
    row = story.row
    return [
        event.data.get("status", "")
        for event in story.events
        if row is not None and event.kind == "receipt" and event.data and event.data.get("n") == row.total
    ]
