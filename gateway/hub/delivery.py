"""Sessions at work: what is written to them, what they answer, what happens when they go and when their time is
up.
"""

from typing import Any

from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.commit import Change, PutSession, SettleGaps, Unbind
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.errors import Close, Limited
from gateway.hub.answers import Answers
from gateway.hub.core import Core
from gateway.hub.joining import Joining, plain_at
from gateway.hub.redelivery import Redelivery
from gateway.model import Hold, Item, Kind, Status, Sub
from gateway.ports import Attach, Connection
from gateway.reads import ReadWaiting
from gateway.wire import Hello

_NONE, _WAITING, _BOUND = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND)
_LATER, _CLAIMED = int(Hold.LATER), int(Hold.CLAIMED)
# members of enums read slowly: what is asked for each message has them at hand
_MESSAGE, _LIVE = int(Kind.MESSAGE), State.LIVE
REFILL = 128
NEVER = 1 << 62


class Delivery:
    def __init__(self, core: Core, answers: Answers) -> None:
        self.core = core
        self.redelivery = Redelivery(core)
        self.joining = Joining(core, self.left, answers.settle, self.redelivery.crashed)
        self.handover: Any = None  # the chain flow, wired by the hub
        self._refills: dict[str, None] = {}

    # -- connections -----------------------------------------------------------------------------------------------

    def accept(self, conn: Connection, limit: int) -> None:
        """Count a new connection at its door. Raises Limited over the limit; 0: there is none."""
        conns, doors = self.core.conns, self.core.doors
        count = doors.get(conn.door, 0)
        if limit and count >= limit:
            raise Limited("as many connections as are allowed", code="too_many_connections", retry_after=5.0)
        if conn not in conns:
            conns.add(conn)
            doors[conn.door] = count + 1

    def gone(self, conn: Connection) -> None:
        """Its socket is gone."""
        core = self.core
        if conn in core.conns:
            core.conns.discard(conn)
            core.doors[conn.door] -= 1
        core.wake()

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        self.joining.hello(conn, principal, hello)

    def attach(self, conn: Connection, principal: Principal, attach: Attach) -> None:
        self.joining.attach(conn, principal, attach)

    def detach(self, conn: Connection) -> None:
        """A plain device has unsubscribed: it is away, but what it acks still counts."""
        session = conn.session
        if session is None or session.conn is not conn:
            return
        session.conn = None
        session.attached = conn
        self.left(session)
        self.unsubscribe(session.client)

    def keeps(self, conn: Connection) -> bool:
        """Whether nobody else was joined to the session since this device unsubscribed."""
        session = conn.session
        return session is not None and session.attached is conn

    def subscription(self, client: str) -> int:
        """The MQTT subscription (a model.Sub) that the client's epoch holds."""
        session = self.core.sessions.get(client)
        return session.holds(self.core.now()) if session is not None else int(Sub.NONE)

    def granted(self, client: str) -> int:
        """The QoS of its plain subscription."""
        session = self.core.sessions.get(client)
        row = session.row if session is not None else None
        return 0 if row is not None and row.sub == Sub.PLAIN_0 else 1

    def grant(self, conn: Connection, qos: int) -> None:
        """A plain device has subscribed again, at this QoS."""
        session = conn.session
        if session is not None and session.conn is conn and session.plain:
            self._put_sub(session, plain_at(qos))

    def unsubscribe(self, client: str) -> None:
        """Its epoch holds no MQTT subscription any more."""
        session = self.core.sessions.get(client)
        if session is not None:
            self._put_sub(session, int(Sub.NONE))

    def _put_sub(self, session: Session, sub: int) -> None:
        if session.row is None or session.row.sub == sub:
            return
        session.row = replace(session.row, sub=sub, next=session.next)
        self.core.commit.ops.append(PutSession(session.row))
        self.core.wake()

    def disconnected(self, conn: Connection, clean: bool, end: bool = False, keep: int | None = None) -> None:
        """A connection has ended. `clean`: it said goodbye, or the gateway ended it; `end`: its offline
        deadline counts as passed; `keep`: the ms that its epoch is to be kept, where it now says something else.
        """
        session = conn.session
        if session is not None and session.attached is conn:
            self._let_go(session, conn, clean, keep)
            self.joining.gone(conn)
            return
        if session is None or session.conn is not conn:
            self.joining.gone(conn)
            return
        conn.session = session.conn = None
        if keep is not None and session.plain:
            session.keep = keep
        if not clean:
            self.redelivery.crashed(session)
        self.left(session)
        if end:
            session.offline_at = self.core.now()
            self.core.deadlines.set(session, session.offline_at)

    def left(self, session: Session) -> None:
        """Nobody is there any more: the offline clock starts."""
        core = self.core
        now = core.now()
        live = session.live
        session.lost(now, core.offline_ms(session.client))
        if session.row is not None and session.client not in core.forgetting:
            session.row = replace(
                session.row, epoch=session.epoch, eno=session.eno, next=session.next, seen=now,
                away_since=now if session.attached is None else 0, keep=session.keep,
            )  # fmt: skip
            core.commit.ops.append(PutSession(session.row))
            core.deadlines.set(session, session.next_deadline())
            if session.over or (session.keep == 0 and session.attached is None):
                session.over = True
                self._end_epoch(session)
        core.custody.left(session, live)
        core.wake()

    def _let_go(self, session: Session, conn: Connection, clean: bool, keep: int | None) -> None:
        """A device that had unsubscribed is gone: its epoch is kept from now on."""
        core = self.core
        conn.session = session.attached = None
        if core.sessions.get(session.client) is not session or session.client in core.forgetting:
            return
        if session.state != State.AWAY:
            return
        if keep is not None:
            session.keep = keep
        if not clean:
            self.redelivery.crashed(session)
        session.released(core.now())
        if session.row is not None:
            session.row = replace(session.row, next=session.next, keep=session.keep, away_since=core.now())
            core.commit.ops.append(PutSession(session.row))
            core.deadlines.set(session, session.next_deadline())
            core.wake()
        if session.keep == 0 and session.epoch:
            session.over = True
            self._end_epoch(session)

    def _end_epoch(self, session: Session) -> None:
        """The epoch was to last no longer than its connection, or its client was away for too long. Not before what is
        being bound in it is bound.
        """
        if session.binding:
            return
        core = self.core
        held = [i for i in session.window.items if i.hold != _NONE and i.kind != Kind.GAP]
        session.waiting += sum(1 for i in held if i.hold == _BOUND and not i.leaving)
        session.end_epoch()
        ids = [i.id for i in held]
        core.commit.ops.append(Unbind(session.client, ids, lambda _: core.note_due(core.now())))
        if session.row is not None:
            # a later start of the gateway must not resume what is void
            session.row = replace(session.row, epoch="")
            core.commit.ops.append(PutSession(session.row))
        core.wake()

    def bye(self, conn: Connection, end: bool) -> None:
        self.disconnected(conn, True, end)

    # -- writing ---------------------------------------------------------------------------------------------------

    def work(self, session: Session) -> None:
        """Once a turn for each touched session: write what is bound, bind what waits, ask the store for more."""
        conn = session.conn
        if session.state is not _LIVE or conn is None:
            if session.state == State.JOINING:
                self.joining.proceed(session)
            elif session.over:
                self._end_epoch(session)
            return
        if not conn.writable:
            return
        core = self.core
        if session.window.unwritten:
            items = session.take(core.now())
            if items and session.plain:
                items = self._for_plain(session, items)
            if items:
                core.delivered += len(items)
                conn.deliver(items)
        queue = session.queue
        if not queue.count and True not in queue.more:
            return
        fresh, expired = session.pull(core.now())
        if fresh:
            core.commit.binds.append((session.client, session.eno, fresh))
            self._report_sent(fresh)
        for item in expired:
            self._expire_waiting(item)
        lane = session.queue.hungry()
        if lane >= 0 and session.client not in self._refills:
            self._refills[session.client] = None
            core.commit.reads.append(
                ReadWaiting(session.client, lane, REFILL, self._refilled, bare=session.plain)
            )

    def _for_plain(self, session: Session, items: list[Item]) -> list[Item]:
        """A plain device has no frame for gaps and statuses: a gap is settled silently, a status report is put back
        until its publisher comes with frames (PROTOCOL 4).
        """
        others = [item for item in items if item.kind != _MESSAGE]
        if not others:
            return items
        core = self.core
        for item in others:
            session.window.settle(item)
            if item.kind == Kind.GAP:
                core.commit.ops.append(SettleGaps(session.client, [item.seq]))
            else:
                self._put_back(session, item)
        core.touch_session(session)
        return [item for item in items if item.kind == Kind.MESSAGE]

    def _put_back(self, session: Session, item: Item) -> None:
        core = self.core

        def after(change: Change) -> None:
            if change.ok:
                session.waiting += 1
                core.note_due(item.expire)

        core.change(Change(item.id, (_BOUND,), {"hold": _WAITING, "due": item.expire}, then=after))

    def _refilled(self, read: ReadWaiting) -> None:
        core = self.core
        self._refills.pop(read.client, None)
        session = core.sessions.get(read.client)
        if session is None or not session.live:
            return
        session.queue.refill(read.lane, read.items, len(read.items) < read.limit)
        core.touch_session(session)

    def _report_sent(self, items: list[Item]) -> None:
        """With the commit that binds them."""
        core = self.core
        for item in items:
            report = core.report(item, Status.SENT, "", core.now())
            if report is not None:
                core.report_with(core.commit, item.id, (_BOUND,), report)

    def bound(self, client: str, items: list[Item]) -> None:
        """A run was bound by the store; what no longer waited was left out."""
        core = self.core
        session = core.session(client)
        now = core.now()
        for item in items:
            if item.hold == _BOUND:
                session.waiting -= 1
                session.bound(item, now)
                if item.status == Status.SENT:
                    core.told(item, Status.SENT, now)
                if not session.live:
                    item.body = None
                    self.handover.offer(session, item)
            else:
                session.binding -= 1
        core.touch_session(session)

    def waits_again(self, client: str, lane: int) -> None:
        """A row of this client came to wait in the store alone: its session must ask for it."""
        session = self.core.sessions.get(client)
        if session is not None and session.live:
            session.queue.more[lane] = True
            self.core.touch_session(session)
        else:
            self.core.custody.waits(client, lane)

    # -- time ------------------------------------------------------------------------------------------------------

    def due(self, session: Session, now: int) -> None:
        """A deadline of this session has come, or an earlier one that moved."""
        core = self.core
        if session.state == State.LIVE:
            due = session.ack_due()
            if due and due <= now:
                conn = session.conn
                self.redelivery.ack_timeout(session, now)
                core.touch_session(session)
                if session.plain:
                    # nothing is sent twice on a connection (MQTT 5 4.4)
                    conn.close(Close.ACK_TIMEOUT, "ack timeout")
                    self.disconnected(conn, True)
        elif session.state == State.AWAY:
            for item in session.expired_while_away(now):
                self._expire_bound(session, item)
            if session.expires_at <= now and session.attached is None:
                self._expire_session(session)
            elif not session.handed and session.offline_at <= now:
                session.handed = True
                self.handover.offline(session)
        when = session.next_deadline()
        if when:
            core.deadlines.set(session, when)

    def _expire_bound(self, session: Session, item: Item) -> None:
        core = self.core
        core.end(
            item, (_BOUND,), Status.EXPIRED, "ttl", gap="expired",
            then=lambda ok: core.became_gap(session.client, item.seq, "expired", "") if ok else None,
        )  # fmt: skip
        item.expire = NEVER  # its end is being committed: do not look at it again

    def _expire_waiting(self, item: Item) -> None:
        """Found at the head of a queue."""
        session = self.core.session(item.client)

        def after(ok: bool) -> None:
            if ok:
                session.waiting -= 1

        self.core.end(item, (_WAITING, _LATER), Status.EXPIRED, "ttl", tell="expired", then=after)

    def _expire_session(self, session: Session) -> None:
        """Away for too long: the epoch is over, as soon as nothing is being bound in it."""
        if session.binding:
            session.over = True
            return
        self._end_epoch(session)
        session.expire()

    def reset(self) -> None:
        """The store failed: nothing is being read."""
        self._refills.clear()
