"""What clients answer: ack, nack, reject, working, read. An ack settles in bulk; the rest is rare."""

from typing import Any

from gateway.commit import Change, Commit, Event, Note, SettleGaps
from gateway.engine.session import Session
from gateway.hub.core import Core, ms
from gateway.model import Chain, Hold, Item, Kind, Status
from gateway.ports import Connection
from gateway.reads import ReadItems

_NONE, _WAITING, _BOUND = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND)
_LATER, _CLAIMED = int(Hold.LATER), int(Hold.CLAIMED)
# members of enums read slowly: what is asked for each message has them at hand
_MESSAGE, _GAP = int(Kind.MESSAGE), int(Kind.GAP)
_DELIVERED = int(Status.DELIVERED)
# from here on a provider has it: what its client is given came late, by that client's wish
_ACCEPTED = int(Status.PROVIDER_ACCEPTED)


class Answers:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.handover: Any = None  # the chain flow, wired by the hub
        self.acked = 0

    def ack(self, conn: Connection, seq: int | None, seqs: list[int] | None) -> None:
        """Raises Invalid for a seq at or above `next`."""
        session = session_of(conn)
        if session is None:
            return
        now = self.core.now()
        if seq is not None:
            owned, claimed = session.acked_to(seq, now)
            self.settle(session, owned, claimed, conn.via, now)
        if seqs is not None:
            owned, claimed, unknown = session.acked_each(seqs, now)
            self.settle(session, owned, claimed, conn.via, now)
            if unknown:
                session.unsettled(unknown)
        self.core.acked(session)

    def ack_lowest(self, conn: Connection, seq: int) -> bool:
        """The same for one seq in one step, where it is the lowest in flight and nothing else is to be said of its
        message, as nearly always. False: `ack` has to look.
        """
        session: Session | None = conn.session
        if session is None or session.conn is not conn:
            return False
        core = self.core
        now = core.now()
        item = session.acked_lowest(seq, now)
        if item is None:
            return False
        commit, via = core.commit, conn.via
        settles, settled = commit.settles, commit.settled
        if settles and settles[-1][1] == now and settles[-1][2] == via:
            settles[-1][3].append(item.id)
        else:
            settles.append((_DELIVERED, now, via, [item.id]))
        if settled and settled[-1][0] == now and settled[-1][1] == via:
            settled[-1][2].append(item)
        else:
            settled.append((now, via, [item]))
        core.acked(session)
        return True

    def settle(self, session: Session, owned: list[Item], claimed: list[Item], via: str, now: int) -> None:
        """Commit what an ack has settled."""
        core = self.core
        commit = core.commit
        gaps: list[int] = []
        ids: list[int] = []
        acked: list[Item] = []
        for item in owned:
            if item.kind == _GAP:
                gaps.append(item.seq)
                continue
            if item.leaving:
                # the store knows which came first; a chain that was just given it ends
                core.end(item, (_BOUND, _CLAIMED, _NONE), Status.DELIVERED, "", via=via)
                continue
            ids.append(item.id)
            if item.kind == _MESSAGE and item.status >= _ACCEPTED:
                commit.ops.append(Note(Event(item.id, now, "acked", {"via": via})))
            elif item.kind == _MESSAGE:
                acked.append(item)
                if item.x is not None:
                    report = core.report(item, _DELIVERED, via, now)
                    if report is not None:
                        core.intake.add(commit, core.session(report.client), report, None, None)
        if ids:
            last = commit.settles[-1] if commit.settles else None
            if last is not None and last[1] == now and last[2] == via:
                last[3].extend(ids)
            else:
                commit.settles.append((_DELIVERED, now, via, ids))
        if acked:
            before = commit.settled[-1] if commit.settled else None
            if before is not None and before[0] == now and before[1] == via:
                before[2].extend(acked)
            else:
                commit.settled.append((now, via, acked))
        if gaps:
            commit.ops.append(SettleGaps(session.client, gaps))
        for item in claimed:
            core.end(item, (_CLAIMED,), Status.DELIVERED, "", via=via)
        core.wake()

    def settled(self, commit: Commit) -> None:
        """What acks have settled is on disk."""
        for at, via, items in commit.settled:
            self.acked += len(items)
            self.core.observer.acked([at - item.at for item in items])
            self.core.told_all(items, _DELIVERED, at, via)

    def written(self, conn: Connection, seqs: list[int]) -> None:
        """A device that subscribed at QoS 0 was just written these: that settles them."""
        session = session_of(conn)
        if session is None:
            return
        core = self.core
        now = core.now()
        owned: list[Item] = []
        for seq in seqs:
            item = session.unsettled(seq)
            if item is None:
                continue
            session.window.settle(item)
            owned.append(item)
            core.commit.ops.append(Note(Event(item.id, now, "at_most_once", {"seq": seq})))
        self.settle(session, owned, [], conn.via, now)
        core.touch_session(session)

    def nack(self, conn: Connection, seq: int, delay: float, why: str) -> None:
        """Not now: the seq is settled, the message comes again under a new one. Raises Invalid."""
        session = session_of(conn)
        item = session.unsettled(seq) if session is not None else None
        if session is None or item is None:
            return
        core = self.core
        now = core.now()
        lowest = session.window.lowest_owned() is item
        claimed = item.hold == _CLAIMED
        session.window.settle(item)
        if lowest:
            session.ack_from = now
        core.touch_session(session)
        if item.kind != Kind.MESSAGE:
            self.settle(session, [item], [], conn.via, now)
            return
        event = Event(item.id, now, "nacked", {"seq": seq, "delay": delay, "why": why})
        if claimed or item.leaving:
            core.change(Change(item.id, (_CLAIMED,), {"hold": _NONE, "tries": item.tries + 1}, event=event))
        if claimed:
            return
        item.tries += 1
        if item.tries >= core.rules.deliver_max:
            if item.chain == Chain.READY and item.status < _ACCEPTED:
                self.handover.claim(item, "deliver_max", event=event, settled=True)
            else:
                core.end(item, (_BOUND,), Status.DEAD, "unacked", event=event)
            return
        self._again_later(session, item, now, ms(delay), event)

    def _again_later(self, session: Session, item: Item, now: int, delay: int, event: Event) -> None:
        core = self.core
        # the item itself stays in the window as settled; the row comes back as another one
        hold = _LATER if delay else _WAITING
        due = core.next_look(item, session, now)
        if delay:
            due = min(due, now + delay)

        def after(change: Change) -> None:
            if not change.ok:
                return
            session.waiting += 1
            core.note_due(due)
            if not delay:
                core.flow.waits_again(session.client, item.lane)

        to: dict[str, int | str | None] = {
            "hold": hold,
            "due": due,
            "tries": item.tries,
            "marks": item.marks + 1,
        }
        late = item.status >= _ACCEPTED
        if not late:
            to["status"] = int(Status.QUEUED)
        core.change(Change(item.id, (_BOUND,), to, ended=late, event=event, then=after))

    def reject(self, conn: Connection, seq: int, why: str) -> None:
        """Never: settled, to the dead letters. Raises Invalid."""
        session = session_of(conn)
        item = session.unsettled(seq) if session is not None else None
        if session is None or item is None:
            return
        core = self.core
        now = core.now()
        if session.window.lowest_owned() is item:
            session.ack_from = now
        session.window.settle(item)
        core.touch_session(session)
        if item.kind != Kind.MESSAGE:
            self.settle(session, [item], [], conn.via, now)
            return
        event = Event(item.id, now, "rejected", {"seq": seq, "why": why})
        holds = (_BOUND, _CLAIMED, _NONE) if item.leaving else (_BOUND, _CLAIMED)
        core.end(item, holds, Status.DEAD, "rejected", event=event)

    def working(self, conn: Connection, seq: int) -> None:
        """Raises Invalid."""
        session = session_of(conn)
        if session is not None:
            session.working(seq, self.core.now())

    def read(self, conn: Connection, ids: list[int]) -> None:
        """A person has seen these. What is not this client's, or not delivered, is left alone."""
        session = session_of(conn)
        if session is None:
            return
        client = session.client
        self.core.commit.reads.append(ReadItems(ids, lambda found: self._seen(client, found)))
        self.core.wake()

    def _seen(self, client: str, found: ReadItems) -> None:
        core = self.core
        now = core.now()
        for item in found.items:
            if item.client == client and item.status == Status.DELIVERED:
                self._mark_read(item, now)

    def _mark_read(self, item: Item, now: int) -> None:
        core = self.core
        report = core.report(item, Status.READ, "", now)

        def after(change: Change) -> None:
            if change.ok:
                core.reported(report)
                core.told(item, Status.READ, now)

        core.change(
            Change(
                item.id, (_NONE,), {"status": int(Status.READ)}, ended=True, was=int(Status.DELIVERED),
                event=Event(item.id, now, "read"), report=report, then=after,
            )
        )  # fmt: skip


def session_of(conn: Connection) -> Session | None:
    """The session that this connection is written to, or was until it unsubscribed; None where another has taken it
    over.
    """
    session: Session | None = conn.session
    if session is None or (session.conn is not conn and session.attached is not conn):
        return None
    return session
