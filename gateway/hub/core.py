"""What the flows of the hub share: the sessions, the commit being filled, the turn of the loop, the deadlines.

Everything runs on one thread. Within a turn of the loop the flows put what must become durable into `commit`
and name the sessions and connections that they touched; at the turn's end each touched session is worked once,
each touched connection is written once, and the commit is submitted unless one is under way: then it goes on
filling (group commit). Of very many a turn takes the first; the rest has the next.
"""

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from gateway.commit import Change, Commit, Event, Gap, SettleGaps, Sink
from gateway.config import Config
from gateway.engine.backoff import Chance
from gateway.engine.deadlines import Deadlines
from gateway.engine.session import Session
from gateway.engine.states import NEVER, Rules
from gateway.hub.events import EventRing
from gateway.ids import IdMaker
from gateway.model import NORMAL, STATUS_NAMES, Chain, ClientRow, Hold, Item, Kind, Status, valid_client_id
from gateway.ports import Connection, Handle, Observer, Scheduler, Store
from gateway.wire import status_body

if TYPE_CHECKING:
    from gateway.hub.brokered import Brokered
    from gateway.hub.custody import Custody

# ms from the last commit for which settles alone wait for company: a commit of their own would cost as much as one that
# somebody waits for
LAZY = 5
# a turn handles at most this many due deadlines before others have their turn
DUE_A_TURN = 1000
# a turn works at most this many sessions, and writes at most this many connections, before others have their turn
TOUCHED_A_TURN = 1000


class Flow(Protocol):
    """What a turn asks of the flow that works sessions."""

    def work(self, session: Session) -> None: ...

    def waits_again(self, client: str, lane: int) -> None: ...


class Taker(Protocol):
    """What other flows ask of the intake."""

    def add(self, commit: Commit, session: Session, item: Item, sink: Sink | None, ref: object) -> None: ...


def first_of(many: dict[Any, None]) -> dict[Any, None]:
    """Take the first of them out, as many as a turn has time for."""
    some = dict.fromkeys(islice(many, TOUCHED_A_TURN))
    for each in some:
        del many[each]
    return some


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def rules_of(config: Config) -> Rules:
    """The engine's numbers, from the configuration."""
    s = config.session
    return Rules(
        window=s.window,
        ack_wait=ms(s.ack_wait),
        ack_wait_max=ms(s.ack_wait_max),
        deliver_max=s.deliver_max,
        crash_max=s.crash_max,
        offline=ms(s.offline_deadline),
        expiry=ms(s.expiry),
        heads=config.limits.head_messages,
        heads_bytes=config.limits.head_bytes,
    )


class Core:
    def __init__(
        self,
        config: Config,
        store: Store,
        scheduler: Scheduler,
        rng: Chance,
        token: Callable[[], str],
        observer: Observer,
    ) -> None:
        self.config = config
        self.rules = rules_of(config)
        self._route = list(config.routes.default)
        self.routed = bool(self._route)  # whether a message may have a chain that it does not name
        self.store = store
        self.scheduler = scheduler
        self.now = scheduler.now
        self.rng = rng
        self.token = token
        self.observer = observer
        self.ids = IdMaker()
        self.events = EventRing(config.limits.sse_ring, config.limits.sse_clients, scheduler.now())
        self.deadlines = Deadlines()
        self.sessions: dict[str, Session] = {}
        self.clients: dict[str, ClientRow] = {}
        self.forgetting: set[str] = set()  # clients whose deletion is being committed
        self.conns: set[Connection] = set()
        self.doors: dict[str, int] = {}  # how many of them at each door
        self.trace_root = "0" * 16
        self.down = "starting"
        self.disk_full = False  # it is down because the disk is full
        self.draining = False
        self.generation = 0  # of what was loaded from the store; what belongs to an older one is void
        self.reports_dropped = 0
        self.delivered = 0  # messages that connections were given, redeliveries included
        self.commit = Commit()
        self.busy = False
        self.quiet: tuple[bool, Callable[[], None]] | None = None
        self._touched: dict[Session, None] = {}  # a dict, not a set: the order must not depend on addresses
        self._dirty: dict[Connection, None] = {}
        self._turn = False
        self._handle: Handle | None = None
        self._handle_at = 0
        self.lazy = LAZY
        self._submitted_at = 0
        self._later: Handle | None = None  # settles alone wait
        # wired by the hub
        self.flow: Flow
        self.intake: Taker
        self.custody: Custody
        self.brokered: Brokered
        self.finish: Callable[[Commit, Exception | None], None]
        self.fire: Callable[[object, int], None]

    # -- the turn --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was put into the commit: see to it at the end of the turn."""
        if not self._turn:
            self._turn = True
            self.scheduler.soon(self.end_turn)

    def touch(self, conn: Connection) -> None:
        """Flush `conn` at the end of the turn."""
        self._dirty[conn] = None
        if not self._turn:
            self.wake()

    def touch_session(self, session: Session) -> None:
        """Work `session` at the end of the turn."""
        self._touched[session] = None
        self.wake()

    def touch_sessions(self, sessions: list[Session]) -> None:
        """The same for many."""
        if sessions:
            self._touched.update(dict.fromkeys(sessions))
            self.wake()

    def acked(self, session: Session) -> None:
        """An ack has settled something: there is work where anything waits, or must be looked at earlier than it is."""
        queue = session.queue
        if (
            queue.count
            or True in queue.more
            or session.window.unwritten
            or self.deadlines.known.get(session, NEVER) > session.ack_from + session.first_wait
        ):
            self._touched[session] = None
        if not self._turn:
            self.wake()

    def begin_turn(self) -> None:
        """`end_turn` is called at the end of what is being done."""
        self._turn = True

    def end_turn(self) -> None:
        self._turn = False
        if self._touched:
            touched = self._touched
            if len(touched) > TOUCHED_A_TURN:
                touched = first_of(touched)
            else:
                self._touched = {}
            deadlines, known = self.deadlines, self.deadlines.known
            work = self.flow.work
            for session in touched:
                work(session)
                # nearly always one is set that comes no later: it is looked at then
                if known.get(session, NEVER) > session.ack_from + session.first_wait or not session.live:
                    when = session.next_deadline()
                    if when:
                        deadlines.set(session, when)
        # the disk works while the connections are written
        self.submit()
        if self._dirty:
            dirty = self._dirty
            if len(dirty) > TOUCHED_A_TURN:
                dirty = first_of(dirty)
            else:
                self._dirty = {}
            for conn in dirty:
                conn.flush()
            self.submit()
        self.arm()
        if self._touched or self._dirty:
            self.wake()
        if self.quiet is not None:
            self._notice_quiet()

    def _notice_quiet(self) -> None:
        """Leaving: whoever waits for the last commit, or the last connection, is told."""
        if self.quiet is None:
            return
        connections, call = self.quiet
        busy = not self.down and (self.busy or bool(self.commit) or bool(self._touched))
        if not busy and not (connections and self.conns):
            self.quiet = None
            call()

    def submit(self) -> None:
        """Hand over the commit, unless one is under way or the store is away."""
        if self.busy or not self.commit or self.down:
            return
        when = self._submitted_at + self.lazy
        if self.now() < when and not (self.commit.awaited or self.draining):
            if self._later is None:
                self._later = self.scheduler.at(when, self._submit_later)
            return
        self._hand_over()

    def _submit_later(self) -> None:
        """Nobody came to keep the settles company."""
        self._later = None
        if not self.busy and self.commit and not self.down:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        commit, self.commit = self.commit, Commit()
        commit.at = self._submitted_at = self.now()
        self.busy = True
        self.store.submit(commit, self.finish)

    def arm(self) -> None:
        """One timer for the whole process, at the earliest deadline."""
        when = self.deadlines.next()
        if when == self._handle_at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle_at = when
        self._handle = self.scheduler.at(when, self._fire) if when else None

    def _fire(self) -> None:
        self._handle = None
        self._handle_at = 0
        now = self.now()
        for _ in range(DUE_A_TURN):
            key = self.deadlines.pop(now)
            if key is None:
                break
            self.fire(key, now)
        self.wake()

    def reset(self) -> None:
        """Forget what was loaded: it is read anew from the store."""
        self.generation += 1
        self.commit = Commit()
        self.sessions.clear()
        self.clients.clear()
        self.forgetting.clear()
        self._touched.clear()
        self.deadlines.clear()

    # -- sessions and clients -----------------------------------------------------------------------------------------

    def session(self, client: str) -> Session:
        """The session of a client; a new one where there is none."""
        session = self.sessions.get(client)
        if session is None:
            session = self.sessions[client] = Session(client, self.rules)
        return session

    def offline_ms(self, client: str) -> int:
        """The client's offline deadline: its record's, else the configured one."""
        row = self.clients.get(client)
        if row is not None and row.record.offline_deadline is not None:
            return ms(row.record.offline_deadline)
        return self.rules.offline

    def chain_of(self, item: Item) -> list[str]:
        """The channels of its chain: its own, else its client's preference, else the route's. Unknown ones are
        skipped.
        """
        own = item.x.fallback if item.x is not None else None
        names = own if own is not None else self.preferred(item.client)
        return [n for n in names if n in self.config.channels]

    def preferred(self, client: str) -> list[str]:
        row = self.clients.get(client)
        if row is not None and row.record.fallback is not None:
            return row.record.fallback
        return self._route

    def next_look(self, item: Item, session: Session | None, now: int) -> int:
        """When the store must show a row that waits: its end, its own deadline, or its client's if that was
        never here.
        """
        when = item.expire
        if item.chain == Chain.READY:
            if item.x is not None and item.x.deadline is not None:
                when = min(when, item.x.deadline)
            elif due := self.offline_due(item, session):
                when = min(when, due)
        return when

    def offline_due(self, item: Item, session: Session | None) -> int:
        """When the offline deadline passes that this counts from its own acceptance, as for a client that was never
        here; 0: it counts none.
        """
        since = self.brokered.counts_from(item.client, session)
        if since < 0:
            return 0
        start = max(item.at, item.due) if item.hold == Hold.LATER else item.at
        return max(start, since) + self.offline_ms(item.client)

    def note_due(self, when: int) -> None:
        if when:
            self.deadlines.set("due", when)

    # -- what many flows write ----------------------------------------------------------------------------------------

    def change(self, change: Change) -> None:
        self.commit.ops.append(change)
        self.wake()

    def report(self, item: Item, status: int, via: str, now: int, why: str = "") -> Item | None:
        """The status report that the publisher asked for, as a row of its own; None where it did not."""
        x = item.x
        if x is None or x.notify is None or item.kind != Kind.MESSAGE:
            return None
        name = STATUS_NAMES[status]
        if name not in x.notify or not valid_client_id(item.sender):
            return None
        session = self.sessions.get(item.sender)
        if session is not None and session.waiting >= self.config.limits.notify_entries:
            self.reports_dropped += 1
            return None
        row = Item(
            self.ids.next(now), item.sender, item.client, NORMAL, now, now + 86_400_000,
            status_body(item.id, name, now, via, why), kind=int(Kind.STATUS),
        )  # fmt: skip
        row.due = row.expire
        return row

    def report_with(self, commit: Commit, id: int, holds: tuple[int, ...], report: Item) -> None:
        """Append a report if the commit leaves its message with one of these holds."""
        commit.ops.append(
            Change(
                id, holds, {}, report=report, then=lambda change: self.reported(report) if change.ok else None
            )
        )

    def reported(self, report: Item | None) -> None:
        """A report became a waiting row."""
        if report is None:
            return
        session = self.session(report.client)
        session.waiting += 1
        if session.live:
            self.enqueue(session, report)
        self.note_due(report.due)

    def enqueue(self, session: Session, item: Item) -> None:
        """A row of a live session was committed as WAITING. For a peer that does not read, the store keeps it."""
        if session.plain and item.kind == Kind.STATUS:
            return
        if session.conn.writable:
            session.queue.push(item)
            self.touch_session(session)
        else:
            session.queue.more[item.lane] = True

    def end(
        self,
        item: Item,
        holds: tuple[int, ...],
        status: Status,
        why: str,
        *,
        gap: str = "",
        via: str = "",
        event: Event | None = None,
        tell: str = "",
        then: Callable[[bool], None] | None = None,
    ) -> None:
        """Commit the end of a message, if it has not ended and its hold is one of `holds`.

        `gap`: why its bound seq becomes one. `tell`: the count of `missed` where it has none. `then` is told
        whether. Of a message that has ended before, and came late by its client's wish, only its delivery ends.
        """
        now = self.now()
        late = item.status >= Status.DELIVERED
        note = Gap(item.client, item.eno, item.seq, item.id, gap, via) if gap else None
        report = None if late else self.report(item, status, via, now, why)
        item.leaving = True
        to: dict[str, int | str | None] = {"hold": int(Hold.NONE), "due": 0}
        if not late:
            to |= {"status": int(status), "ended_at": now, "why": why, "via": via}

        def after(change: Change) -> None:
            if not change.ok:
                self.stays(item)
            elif not late:
                self.reported(report)
                self.told(item, status, now, via, why)
            if then is not None:
                then(change.ok)

        self.change(
            Change(
                item.id,
                holds,
                to,
                ended=late,
                gap=note,
                event=event,
                drop_chain=True,
                missed=(item.client, "superseded" if late else tell) if tell else None,
                report=report,
                then=after,
            )
        )

    def stays(self, item: Item) -> None:
        """It was not taken from its session after all."""
        item.leaving = False
        session = self.sessions.get(item.client)
        if session is not None and session.live:
            self.touch_session(session)

    def told(self, item: Item, status: int, at: int, via: str = "", why: str = "") -> None:
        """A status became durable: for readers of events, metrics and the log."""
        if item.kind == Kind.MESSAGE:
            self.events.publish([item], status, at, via, why)
            self.observer.status(item, status, at, via, why)

    def told_all(self, items: list[Item], status: int, at: int, via: str = "") -> None:
        """The same for messages (no reports) that simply go their way to their clients: QUEUED, SENT, DELIVERED."""
        self.events.publish(items, status, at, via, "")
        self.observer.on_their_way(items, status, at, via)

    def became_gap(self, client: str, seq: int, why: str, via: str) -> None:
        """A gap of `client` was committed: it takes the place of what had the seq, and is written if the client
        is here.

        An ack that came while the gap was being committed is the gap's.
        """
        session = self.sessions.get(client)
        if session is None:
            return
        item = session.window.find(seq)
        if item is None:
            self.commit.ops.append(SettleGaps(client, [seq]))
            self.wake()
            return
        session.window.to_gap(item, why, via)
        if session.live:
            self.touch_session(session)
