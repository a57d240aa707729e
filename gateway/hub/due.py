"""What the store's clock brings up: deliver_at, ttl, own deadlines, messages for clients that were never here;
the sweep.
"""

from typing import Any

from gateway.commit import Change, Sweep
from gateway.engine.states import State
from gateway.hub.core import Core, ms
from gateway.model import Chain, Hold, Item, Status
from gateway.reads import ReadDue

_WAITING, _BOUND, _LATER = int(Hold.WAITING), int(Hold.BOUND), int(Hold.LATER)
SLICE = 100
# ms between a slice that was not full and the next: what comes due meanwhile is seen to together
PAUSE = 20
SWEEP_ROWS = 500
SWEEP_PAUSE = 1000  # ms between slices while there is something to purge
SWEEP_IDLE = 60_000


class Due:
    def __init__(self, core: Core, delivery: Any, handover: Any) -> None:
        self.core = core
        self.delivery = delivery
        self.handover = handover
        self._reading = False
        self._sweeping = False
        self.lateness = 0  # ms by which the last slice was late
        self.purged = 0

    # -- rows whose time has come ----------------------------------------------------------------------------------

    def rows(self, now: int) -> None:
        """Ask the store for what is due."""
        if self._reading:
            return
        self._reading = True
        self.core.commit.reads.append(ReadDue(now, SLICE, self._came))
        self.core.wake()

    def _came(self, read: ReadDue) -> None:
        self._reading = False
        core = self.core
        now = core.now()
        if read.items:
            self.lateness = now - read.items[0].due
        for item in read.items:
            self._look(item, now)
        if read.next_due:
            # behind this slice's changes, which take its rows out of the index
            pause = PAUSE if 0 < len(read.items) < read.limit else 0
            core.deadlines.set("due", max(read.next_due, now + pause))

    def _look(self, item: Item, now: int) -> None:
        core = self.core
        if item.hold == _BOUND:
            self._look_bound(item, now)
        elif item.expire <= now:
            self._expire(item)
        elif why := self._starts(item, now):
            self.handover.claim(item, why, otherwise=self._moved_on)
        elif item.hold == _LATER:
            self._release(item, now)
        else:
            look = core.next_look(item, core.sessions.get(item.client), now)
            self._seen(item, look if look > now else item.expire)

    def _starts(self, item: Item, now: int) -> str:
        """Why its chain starts now; "" if it does not."""
        core = self.core
        if item.chain != Chain.READY or item.status >= Status.PROVIDER_ACCEPTED or not core.chain_of(item):
            return ""
        if item.x is not None and item.x.deadline is not None:
            return "deadline" if item.x.deadline <= now else ""
        passes = core.offline_due(item, core.sessions.get(item.client))
        return "offline" if item.hold == _WAITING and 0 < passes <= now else ""

    def _moved_on(self) -> None:
        """Something was faster, as its way into its client's window: look at the row as it stands now."""
        self.core.note_due(self.core.now())

    def _seen(self, item: Item, due: int) -> None:
        """Look at this row again at `due`."""
        core = self.core

        def after(change: Change) -> None:
            if change.ok:
                core.note_due(due)
            else:
                self._moved_on()

        core.change(Change(item.id, (item.hold,), {"due": due}, ended=True, then=after))

    def _look_bound(self, item: Item, now: int) -> None:
        """A bound message: only its own deadline matters. Its ttl does between connections, and the session
        sees to that.
        """
        deadline = item.x.deadline if item.x is not None and item.x.deadline is not None else 0
        if self._starts(item, now):
            self.handover.claim(item, "deadline", otherwise=self._moved_on)
        else:
            self._seen(item, deadline if deadline > now else 0)

    def _expire(self, item: Item) -> None:
        core = self.core
        session = core.session(item.client)

        def after(ok: bool) -> None:
            if ok:
                session.waiting -= 1
                session.queue.remove(item.id)

        core.end(item, (_WAITING, _LATER), Status.EXPIRED, "ttl", tell="expired", then=after)

    def _release(self, item: Item, now: int) -> None:
        """Its deliver_at, or the delay of its nack, has come."""
        core = self.core
        session = core.session(item.client)
        # still LATER: acceptance counts from deliver_at
        due = core.next_look(item, session, now)
        item.hold, item.due = _WAITING, due

        def after(change: Change) -> None:
            if not change.ok:
                return
            core.note_due(due)
            if session.live:
                self.delivery.waits_again(item.client, item.lane)
            else:
                self.handover.offer(session, item)
                core.custody.waits(item.client, item.lane)

        core.change(Change(item.id, (_LATER,), {"hold": _WAITING, "due": due}, ended=True, then=after))

    # -- the sweep -------------------------------------------------------------------------------------------------

    def sweep(self, now: int) -> None:
        """Purge a slice of what has outlived its retention."""
        if self._sweeping:
            return
        self._sweeping = True
        store = self.core.config.store
        self.core.commit.ops.append(
            Sweep(
                now - ms(store.retention),
                now - ms(store.dead_letter_retention),
                now - ms(self.core.config.dedup.window),
                store.max_rows,
                SWEEP_ROWS,
                self._swept,
            )
        )
        self.core.wake()

    def _swept(self, sweep: Sweep) -> None:
        self._sweeping = False
        self.purged += sweep.purged
        if not sweep.more:
            self._drop_strangers()
        pause = SWEEP_PAUSE if sweep.more else SWEEP_IDLE
        if sweep.purged == sweep.limit:
            pause = SWEEP_PAUSE // 20
        self.core.deadlines.set("sweep", self.core.now() + pause)

    def _drop_strangers(self) -> None:
        """Forget whom nobody ever met and for whom nothing is kept any more: `clients.max` is for the others."""
        core = self.core
        strangers = [
            name
            for name, s in core.sessions.items()
            if s.row is None and s.state == State.NEW and not (s.waiting or s.incoming or s.binding)
        ]
        for name in strangers:
            del core.sessions[name]

    def reset(self) -> None:
        """The store failed: nothing is under way."""
        self._reading = self._sweeping = False
