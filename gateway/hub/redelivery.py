"""What was written and is not acked: the ack timer and its redeliveries, what is written once more, what is dead."""

from typing import Any

from gateway.commit import Change, Event
from gateway.engine.session import Session
from gateway.hub.answers import session_of
from gateway.hub.core import Core
from gateway.model import Chain, Hold, Item, Kind, Status
from gateway.ports import Connection
from gateway.reads import ReadItems

_BOUND = int(Hold.BOUND)


class Redelivery:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.handover: Any = None  # the chain flow, wired by the hub
        self.redelivered = 0

    def ack_timeout(self, session: Session, now: int) -> None:
        """The ack timer of the lowest unsettled seq has ended."""
        item = session.window.lowest_owned()
        if item is None:
            return
        session.ack_from = now
        if item.kind != Kind.MESSAGE:
            self._once_more(session, item)
            return
        core = self.core
        item.tries += 1
        event = Event(item.id, now, "ack_timeout", {"seq": item.seq, "tries": item.tries})
        if item.tries >= core.rules.deliver_max:
            if item.chain == Chain.READY and item.status < Status.PROVIDER_ACCEPTED:
                self.handover.claim(item, "deliver_max", event=event)
            else:
                self.dead(session, item, "unacked", event)
            return
        conn = session.conn

        def after(change: Change) -> None:
            if change.ok and item.hold == _BOUND and session.conn is conn and not session.plain:
                self.redelivered += 1
                self._once_more(session, item)

        core.change(Change(item.id, (_BOUND,), {"tries": item.tries}, event=event, ended=True, then=after))

    def _once_more(self, session: Session, item: Item) -> None:
        """Write one item of this connection once more. Its body is in the store, unless it is a gap."""
        core = self.core
        if item.kind == Kind.GAP or item.body is not None:
            session.window.again(item)
            core.touch_session(session)
            return
        conn = session.conn

        def came(read: ReadItems) -> None:
            if read.items and item.hold == _BOUND and session.conn is conn:
                item.body = read.items[0].body
                session.window.again(item)
                core.touch_session(session)

        core.commit.reads.append(ReadItems([item.id], came))
        core.wake()

    def write_again(self, conn: Connection) -> None:
        """What was written to this connection may be lost, as behind a broker that was away: all of it that is not
        settled is written once more, marked. No attempt is counted.
        """
        session = session_of(conn)
        if session is None or not session.live or session.plain:
            return
        core = self.core
        items = [item for item in session.window.items if item.written and item.hold == _BOUND]
        if not items:
            return
        session.ack_from = core.now()

        def came(read: ReadItems) -> None:
            if session.conn is not conn:
                return
            found = {item.id: item.body for item in read.items}
            for item in reversed(items):
                if item.hold != _BOUND or not item.written:
                    continue
                if item.kind != Kind.GAP:
                    item.body = found.get(item.id)
                if item.kind == Kind.GAP or item.body is not None:
                    session.window.again(item)
            core.touch_session(session)

        core.commit.reads.append(ReadItems([i.id for i in items if i.kind != Kind.GAP], came))
        core.wake()

    def dead(self, session: Session, item: Item, why: str, event: Event | None = None) -> None:
        """A bound message of this session is dead: its seq becomes a gap."""
        core = self.core
        core.end(
            item, (_BOUND,), Status.DEAD, why, gap="dead", event=event,
            then=lambda ok: core.became_gap(session.client, item.seq, "dead", "") if ok else None,
        )  # fmt: skip

    def crashed(self, session: Session) -> None:
        """The connection ended uncleanly: what it carried as its lowest unsettled message may be what kills the
        client.
        """
        item = session.window.lowest_owned()
        if item is None or item.kind != Kind.MESSAGE or not item.written:
            return
        item.crashes += 1
        if item.crashes >= self.core.rules.crash_max:
            self.dead(session, item, "poison")
        else:
            self.core.change(Change(item.id, (_BOUND,), {"crashes": item.crashes}, ended=True))

    def unsendable(self, conn: Connection, seq: int, detail: str) -> None:
        """Its client cannot be sent this, ever: to the dead letters, and its seq becomes a gap."""
        session = session_of(conn)
        item = session.unsettled(seq) if session is not None else None
        if session is not None and item is not None and item.kind == Kind.MESSAGE:
            event = Event(item.id, self.core.now(), "unsendable", {"seq": seq, "detail": detail})
            self.dead(session, item, "unsendable", event)
