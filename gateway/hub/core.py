"""What the flows of the hub share, on top of the turn (turn.py): the sessions and client records in memory, and what
many flows write: ends, reports, gaps.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gateway.commit import Change, Commit, Event, Gap, PutClient, SettleGaps, Sink
from gateway.commit_people import Audit
from gateway.config import Config
from gateway.engine.backoff import Chance
from gateway.engine.session import Session
from gateway.engine.states import Rules
from gateway.errors import GatewayError, Unavailable
from gateway.hub.events import EventRing
from gateway.hub.turn import Turn
from gateway.ids import IdMaker
from gateway.model import LANES, NORMAL, STATUS_NAMES, Chain, Hold, Item, Kind, Status, valid_client_id
from gateway.ports import Observer, Scheduler, Store
from gateway.records import AuditEntry, ClientRecord, ClientRow
from gateway.wire import status_body

if TYPE_CHECKING:
    from gateway.hub.brokered import Brokered
    from gateway.hub.custody import Custody
    from gateway.hub.person import Person
    from gateway.hub.suppressions import Suppressions
    from gateway.hub.texts import Texts


class Taker(Protocol):
    """What other flows ask of the intake."""

    def add(self, commit: Commit, session: Session, item: Item, sink: Sink | None, ref: object) -> None: ...


# what a chain has is held by its client's session like this, or not at all
_CHAINS_OWN = frozenset((int(Hold.NONE), int(Hold.CLAIMED)))


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


class Core(Turn):
    def __init__(
        self,
        config: Config,
        store: Store,
        scheduler: Scheduler,
        rng: Chance,
        token: Callable[[], str],
        observer: Observer,
    ) -> None:
        super().__init__(store, scheduler)
        self.config = config
        self.rules = rules_of(config)
        self._route = list(config.routes.default)
        # type, lane (None: any), chain
        self._rules = [
            (rule.type, LANES.get(rule.priority), list(rule.fallback)) for rule in config.routes.rules
        ]
        # whether a message may have a chain that it does not name
        self.routed = bool(self._route) or any(chain for _, _, chain in self._rules)
        self.rng = rng
        self.token = token
        self.observer = observer
        self.ids = IdMaker()
        self.events = EventRing(config.limits.sse_ring, config.limits.sse_clients, scheduler.now())
        self.sessions: dict[str, Session] = {}
        self.clients: dict[str, ClientRow] = {}
        self.intended: dict[
            str, ClientRow
        ] = {}  # records that are being committed: what comes next builds on them
        self.forgetting: set[str] = set()  # clients whose deletion is being committed
        self.doors: dict[str, int] = {}  # how many of them at each door
        self.trace_root = "0" * 16
        self.disk_full = False  # it is down because the disk is full
        self.generation = 0  # of what was loaded from the store; what belongs to an older one is void
        self.reports_dropped = 0
        self.delivered = 0  # messages that connections were given, redeliveries included
        # wired by the hub
        self.intake: Taker
        self.custody: Custody
        self.brokered: Brokered
        self.texts: Texts
        self.person: Person
        self.suppressions: Suppressions

    # -- sessions and clients -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was loaded: it is read anew from the store."""
        self.generation += 1
        self.forget()
        self.sessions.clear()
        self.clients.clear()
        self.intended.clear()
        self.forgetting.clear()

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
        names = own if own is not None else self.preferred(item)
        chain = [n for n in names if n in self.config.channels]
        row = self.clients.get(item.client)
        if row is not None and row.record.prefer is not None:
            first = {name: i for i, name in enumerate(row.record.prefer)}
            chain.sort(key=lambda name: first.get(name, len(first)))
        return chain

    def preferred(self, item: Item) -> list[str]:
        """Its chain where it names none."""
        row = self.clients.get(item.client)
        if row is not None and row.record.fallback is not None:
            return row.record.fallback
        rule = self.rule_of(item) if self._rules else -1
        return self._route if rule < 0 else self._rules[rule][2]

    def rule_of(self, item: Item) -> int:
        """The first of `routes.rules` that fits, -1: none."""
        type_ = (item.x.type or "") if item.x is not None else ""
        for n, (wanted, lane, _) in enumerate(self._rules):
            if wanted in ("", type_) and lane in (None, item.lane):
                return n
        return -1

    def address_of(self, client: str, channel: str) -> str:
        """The client's address at a channel; "" where its record has none, or the channel needs none."""
        row = self.clients.get(client)
        if row is None or not row.record.contacts:
            return ""
        contacts, settings = row.record.contacts, self.config.channels[channel]
        if settings.contact:
            return contacts.get(settings.contact, "")
        return contacts.get(channel) or contacts.get(settings.CONTACT, "")

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

    def record_of(self, client: str) -> ClientRow:
        """The client's record as it will stand; what is written next must build on it."""
        return self.intended.get(client) or self.clients.get(client) or ClientRow(client)

    def erased(self, item: Item) -> bool:
        """Whether its client was deleted after it had been accepted: then nothing is written of it any more."""
        row = self.record_of(item.client)
        gone = row.record == ClientRecord() and not row.banned_until and row.not_before * 1000 > item.at
        return gone or item.client in self.forgetting

    def put_record(self, row: ClientRow, then: Callable[[], None] | None = None) -> None:
        """Commit a record, made of `record_of`. Memory has it once it is durable."""
        self.intended[row.client] = row

        def stored(op: PutClient) -> None:
            self.settle_record(row)
            if then is not None:
                then()

        self.commit.ops.append(PutClient(row, stored))
        self.wake()

    def settle_record(self, row: ClientRow) -> None:
        """A record is durable."""
        self.clients[row.client] = row
        if self.intended.get(row.client) is row:
            del self.intended[row.client]
        self.custody.record(row.client)

    def future(self) -> "asyncio.Future[Any]":
        """Answered by an operation of the commit being filled, or failed with it. Raises Unavailable."""
        if self.down:
            raise Unavailable(f"not ready: {self.down}", code="not_ready", retry_after=1.0)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def failed(error: GatewayError) -> None:
            if not future.done():
                future.set_exception(error)

        self.commit.failed.append(failed)
        self.wake()
        return future

    def audit(
        self, who: str, act: str, data: dict[str, Any], then: Callable[[Audit], None] | None = None
    ) -> None:
        """A line of the audit log, in the commit of what it tells of. `data`: no body, no secret."""
        self.commit.ops.append(Audit(AuditEntry(self.now(), who, act, data), then))
        self.wake()

    async def audited(self, who: str, act: str, data: dict[str, Any]) -> None:
        """The same for an act that commits nothing itself. Raises Unavailable, or what the commit failed with."""
        future = self.future()
        self.audit(who, act, data, lambda _: None if future.done() else future.set_result(None))
        await future

    # -- what many flows write ----------------------------------------------------------------------------------------

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
        whether. Of a message that has ended before, and came late by its client's wish, only its delivery ends. Where
        a provider has accepted it meanwhile, that stands: the rest of its chain is stopped.
        """
        now = self.now()
        late = item.status >= Status.PROVIDER_ACCEPTED
        # what a chain has claimed is no late delivery
        chains = tuple(hold for hold in holds if hold in _CHAINS_OWN)
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
                tuple(hold for hold in holds if hold not in chains) if late else holds,
                to,
                ended=late,
                below=int(Status.PROVIDER_ACCEPTED),
                gap=note,
                event=event,
                drop_chain=True,
                missed=(item.client, "superseded" if late else tell) if tell else None,
                report=report,
                then=after,
            )
        )
        if chains and not gap:
            # or else, if a provider has accepted it by then: its client has answered
            to = {"hold": int(Hold.NONE), "due": 0, "ended_at": now}
            told = event or Event(item.id, now, "acked", {"via": via})
            was = int(Status.PROVIDER_ACCEPTED)
            self.change(Change(item.id, chains, to, was=was, drop_chain=True, event=told))

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
