"""Custody: what waits for a plain client behind a broker is published there, once (PROTOCOL 4).

A broker's PUBACK says that the broker has the message, not that its client has. So what is in custody gets no seq; it
goes on waiting, as `sent`, for a session of its client's own, its ttl, or its chain. It is committed as sent before
it is published: after a crash between the two it stays `sent`, and nothing is ever published twice.

It takes what was never sent in any way (status QUEUED, no marks), lane by lane, first in first out within one. What is
committed and being published is bounded by the custodian's room; clients take turns, each with one read under way.
"""

from gateway.commit import Change, Event, Note
from gateway.engine.queue import LANE_COUNT
from gateway.engine.session import Session
from gateway.hub.brokered import VIA, Brokered, Place
from gateway.hub.core import Core
from gateway.model import Hold, Item, Status
from gateway.ports import Custodian
from gateway.reads import ReadWaiting

_NONE, _WAITING = int(Hold.NONE), int(Hold.WAITING)
_QUEUED, _SENT = int(Status.QUEUED), int(Status.SENT)
SLICE = 64
ALL_LANES = (1 << LANE_COUNT) - 1


class Custody:
    def __init__(self, core: Core, brokered: Brokered) -> None:
        self.core = core
        self.brokered = brokered
        self._work: dict[str, Place] = {}  # who has something to be published, in the order of their turns
        self._pumping = False
        self._reserved = 0  # of the custodian's room, for reads under way
        self._committing = 0
        self._unanswered = 0
        self.published = 0
        self.acked = 0
        self.unacked = 0

    # -- what there may be to publish --------------------------------------------------------------------------------

    def use(self, custodian: Custodian | None) -> None:
        """A broker is there from now on, or none."""
        self.brokered.custodian = custodian
        for place in self.brokered.places.values():
            self._offer(place)

    def loaded(self) -> None:
        """The store is open: everything here follows from what it has."""
        self.reset()
        for client in self.core.clients:
            self.record(client)

    def record(self, client: str) -> None:
        """A client's record was read, written or deleted."""
        place = self.brokered.record(client)
        if place is None:
            self._work.pop(client, None)
        else:
            self._offer(place)

    def left(self, session: Session, live: bool) -> None:
        """A session of this client is gone; `live`: it had been welcomed."""
        place = self.brokered.places.get(session.client)
        if place is not None:
            self.brokered.left(place, session, live)
            self._offer(place)

    def due(self, place: Place, now: int) -> None:
        """Its offline deadline has come, or the end of its ban."""
        if self.brokered.places.get(place.client) is place:
            self.brokered.due(place, now)
            if place.lanes:
                self._queue(place)

    def waits(self, client: str, lane: int, id: int = 0) -> None:
        """A row of this client was committed as WAITING. Without an `id` it may be older than what was looked at."""
        place = self.brokered.places.get(client)
        if place is not None:
            place.lanes |= 1 << lane
            place.after[lane] = min(place.after[lane], max(id - 1, 0))
            self._queue(place)

    def _offer(self, place: Place) -> None:
        """Anything may wait for it."""
        session = self.core.sessions.get(place.client)
        if session is not None and session.waiting:
            place.lanes = ALL_LANES
            place.after = [0] * LANE_COUNT
            self._queue(place)

    def _queue(self, place: Place) -> None:
        if not place.reading and self.brokered.custodian is not None:
            self._work[place.client] = place
            self.ready()

    # -- reading it, as far as there is room -------------------------------------------------------------------------

    def ready(self) -> None:
        """The custodian may have room: see to it at the end of the turn."""
        if self._work and not self._pumping:
            self._pumping = True
            self.core.scheduler.soon(self._pump)

    def _pump(self) -> None:
        """A slice for each client in turn."""
        self._pumping = False
        core, custodian = self.core, self.brokered.custodian
        if custodian is None or core.down or core.draining:
            return
        left = custodian.room() - self._committing - self._reserved
        while left > 0 and self._work:
            share = max(1, left // len(self._work))
            place = self._work.pop(next(iter(self._work)))
            if self._may_publish(place):
                limit = min(SLICE, share)
                left -= limit
                self._read(place, limit)

    def _may_publish(self, place: Place) -> bool:
        """Not where its session gets everything (it is asked again when that has left), nor to who is banned."""
        core, client = self.core, place.client
        if not self.brokered.rules(client) or client in core.forgetting:
            return False
        banned = core.clients[client].banned_until
        if banned > core.now():
            core.deadlines.set(place, banned)
            core.wake()
            return False
        return True

    def _read(self, place: Place, limit: int) -> None:
        """The first lane that may have something; what comes meanwhile sets its bit again."""
        bit = place.lanes & -place.lanes
        lane = bit.bit_length() - 1
        place.lanes ^= bit
        place.reading = True
        self._reserved += limit
        after = place.after[lane]
        self.core.commit.reads.append(
            ReadWaiting(place.client, lane, limit, lambda r: self._came(place, r), fresh=True, after=after)
        )
        self.core.wake()

    def _came(self, place: Place, read: ReadWaiting) -> None:
        self._reserved -= read.limit
        place.reading = False
        lane, items = read.lane, read.items
        if self.brokered.places.get(place.client) is not place:
            return
        if not self._may_publish(place) or place.after[lane] != read.after:
            # it is its session's now, or an older row has come to wait meanwhile
            place.lanes |= 1 << lane
        elif items:
            place.after[lane] = items[-1].id
            if len(items) == read.limit:
                place.lanes |= 1 << lane
            now = self.core.now()
            for item in items:
                if item.expire > now:
                    self._take(item, now)
        if place.lanes:
            self._queue(place)
        self.ready()

    # -- a message goes into custody ---------------------------------------------------------------------------------

    def _take(self, item: Item, now: int) -> None:
        """Commit that it is sent; published after that."""
        core = self.core
        self._committing += 1
        report = core.report(item, _SENT, VIA, now)
        due = self.brokered.look(item, core.sessions.get(item.client))

        def after(change: Change) -> None:
            self._committing -= 1
            if change.ok:
                core.reported(report)
                core.note_due(due)
                self._publish(item, now)
            self.ready()

        core.change(
            Change(
                item.id, (_WAITING,), {"status": _SENT, "marks": 1, "sent_at": now, "due": due}, was=_QUEUED,
                event=Event(item.id, now, "custody", {"via": VIA}), report=report, then=after,
            )
        )  # fmt: skip

    def _publish(self, item: Item, sent_at: int) -> None:
        """It is committed as sent. What has certainly not left is put back: for its session, which is here now, or
        until the broker is back.
        """
        core, custodian = self.core, self.brokered.custodian
        if custodian is None or not self.brokered.rules(item.client) or custodian.room() <= 0:
            self._put_back(item)
            return
        core.told(item, _SENT, sent_at, VIA)
        self.published += 1
        self._unanswered += 1
        custodian.publish(item, core.now(), lambda ok: self._answered(item, ok))

    def _put_back(self, item: Item) -> None:
        core = self.core

        def after(change: Change) -> None:
            if change.ok:
                core.flow.waits_again(item.client, item.lane)

        core.change(
            Change(
                item.id, (_WAITING,), {"status": _QUEUED, "marks": 0, "sent_at": 0}, was=_SENT,
                event=Event(item.id, core.now(), "custody_undone"), then=after,
            )
        )  # fmt: skip

    def _answered(self, item: Item, ok: bool) -> None:
        """The broker has it; or has refused it, or went away before it said so."""
        core = self.core
        self._unanswered -= 1
        self.ready()
        if ok:
            self.acked += 1
        else:
            self.unacked += 1
        if core.down:
            return
        core.commit.ops.append(Note(Event(item.id, core.now(), "broker_ack" if ok else "broker_unacked")))
        core.wake()
        row = core.clients.get(item.client)
        if ok and row is not None and row.record.broker_ack_is_delivery:
            self._delivered(item)

    def _delivered(self, item: Item) -> None:
        """The record says that the broker's PUBACK is the message's ack. It ends a chain that was given it meanwhile; a
        session that has bound it meanwhile waits for its client's own ack.
        """
        core = self.core

        def after(ok: bool) -> None:
            if ok:
                session = core.session(item.client)
                session.waiting -= 1
                session.queue.remove(item.id)
            else:
                core.end(item, (_NONE,), Status.DELIVERED, "", via=VIA)

        core.end(item, (_WAITING,), Status.DELIVERED, "", via=VIA, then=after)

    # -- telling -----------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        return {
            "custody_in_flight": self._committing + self._unanswered,
            "custody_published": self.published,
            "custody_acked": self.acked,
            "custody_unacked": self.unacked,
        }

    def reset(self) -> None:
        """The store failed: what is at the broker stays there, nothing else here is true."""
        self.brokered.places.clear()
        self._work.clear()
        self._reserved = self._committing = 0
