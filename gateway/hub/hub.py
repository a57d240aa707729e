"""The hub: one driver of all sessions, on one thread. It wires the flows, loads what the store knows, survives
its failures.

    intake    publish → commit                           bare        the same for many at once
    accepted  commit → publisher told, session given     delivery    sessions: writing, leaving, time
    joining   hello → welcome                            redelivery  written and not acked
    answers   ack, nack, reject, working, read           due         deliver_at, ttl, deadlines, sweep
    chain     hand-over                                  brokered    plain clients behind a broker
    attempts  what its channels are sent                 outcomes    what follows from it, giving back
    resting   accepted, and no receipt came              receipts    what providers report
    custody   what is published for them there           events      status changes for readers
    admin     what an administrator does                 explain     which way a message would go now
    suppressions  addresses to which nothing goes
    texts     templates                                  person      what a client's record allows its channels

A commit that fails voids everything that memory knows beyond the disk. So there is one way back, the same as at
a start: publishers are told, connections closed (4000, resume), sessions forgotten, the store is reopened until
it can commit again, and everything is loaded anew.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from gateway.auth.principal import Principal
from gateway.commit import Commit, Recovered
from gateway.config import Config
from gateway.engine.backoff import Chance
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.errors import Close, CommitUnknown, DiskFull, GatewayError, StoreFailed, Unavailable
from gateway.hub.accepted import Accepted
from gateway.hub.admin import Admin
from gateway.hub.answers import Answers
from gateway.hub.bare import Bare
from gateway.hub.brokered import Brokered, Place
from gateway.hub.chain import Handover
from gateway.hub.core import Core, ms
from gateway.hub.custody import Custody
from gateway.hub.delivery import Delivery
from gateway.hub.due import Due
from gateway.hub.explain import explain, steps
from gateway.hub.intake import Intake
from gateway.hub.person import Person
from gateway.hub.suppressions import Suppressions
from gateway.hub.texts import Texts
from gateway.model import ChainRow
from gateway.ports import Connection, Custodian, Observer, Outbound, Scheduler, Store
from gateway.reads import ReadStories

REOPEN_MS = 500
# the clock is compared with the wall this often
ANCHOR_MS = 1000
# connections that are asked to leave between which others have their turn
LEAVES_A_TURN = 200


class Hub:
    def __init__(
        self,
        config: Config,
        store: Store,
        scheduler: Scheduler,
        outbound: Outbound,
        observer: Observer,
        rng: Chance,
        token: Callable[[], str],
        reanchor: Callable[[], int] = lambda: 0,
    ) -> None:
        core = Core(config, store, scheduler, rng, token, observer)
        self.core = core
        self.config = config
        self.store = store
        self.scheduler = scheduler
        self.answers = Answers(core)
        self.delivery = Delivery(core, self.answers)
        self.intake = Intake(core)
        self.bare = Bare(core, self.intake)
        self.accepted = Accepted(core, self.intake)
        self.handover = Handover(core, outbound)
        self.brokered = core.brokered = Brokered(core, self.handover)
        self.custody = core.custody = Custody(core, self.brokered)
        self.due = Due(core, self.delivery, self.handover)
        self.texts = core.texts = Texts(core)
        core.person = Person(core)
        self.suppressions = core.suppressions = Suppressions(core)
        self.admin = Admin(core, self.delivery, self.intake, self.handover)
        self.accepted.handover = self.delivery.handover = self.answers.handover = self.handover
        self.delivery.redelivery.handover = self.handover
        core.flow = self.delivery
        core.intake = self.intake
        core.finish = self._finish
        core.fire = self._fire
        self.events = core.events
        self._reanchor = reanchor
        self.failures = 0
        self.commits = 0
        self.clock_steps = 0
        self._offer()

    def _offer(self) -> None:
        """The surface that transports and the API use."""
        self.publish = self.intake.publish
        self.publish_bare = self.bare.publish
        self.accept = self.delivery.accept
        self.left = self.delivery.gone
        self.hello = self.delivery.hello
        self.ack = self.answers.ack
        self.ack_lowest = self.answers.ack_lowest
        self.nack = self.answers.nack
        self.reject = self.answers.reject
        self.working = self.answers.working
        self.read = self.answers.read
        self.written = self.answers.written
        self.refuse = self.intake.refuse
        self.uplinks = self.intake.uplinks
        self.attach = self.delivery.attach
        self.detach = self.delivery.detach
        self.keeps = self.delivery.keeps
        self.subscription = self.delivery.subscription
        self.unsubscribe = self.delivery.unsubscribe
        self.granted = self.delivery.granted
        self.grant = self.delivery.grant
        self.unsendable = self.delivery.redelivery.unsendable
        self.write_again = self.delivery.redelivery.write_again
        self.seen = self.brokered.seen
        self.broker_ready = self.custody.ready
        self.channel_ready = self.handover.attempts.pump
        self.bye = self.delivery.bye
        self.receipts = self.handover.receipts.take
        self.disconnected = self.delivery.disconnected
        self.touch = self.core.touch
        self.cancel = self.admin.cancel
        self.presence = self.admin.presence
        self.clients = self.admin.clients
        self.client_row = self.admin.client_row
        self.put_client = self.admin.put_client
        self.put_template = self.admin.put_template
        self.test_channel = self.admin.test_channel
        self.audit = self.core.audited
        self.forget = self.admin.forget
        self.disconnect = self.admin.disconnect
        self.replay = self.admin.replay
        self.drop_dead = self.admin.drop_dead
        self.not_before = self.admin.not_before
        self.banned = self.admin.banned

    async def explain(self, principal: Principal, pub: Any) -> dict[str, Any]:
        """Which way a message would go now; see explain.py."""
        core = self.core
        told = explain(core, self.intake, principal, pub)
        told["steps"] = await steps(core, pub, told["fallback"])
        return told

    def resumed_writing(self, conn: Connection) -> None:
        """Its peer reads again."""
        if conn.session is not None:
            self.core.touch_session(conn.session)

    # -- the broker ------------------------------------------------------------------------------------------------

    @property
    def custodian(self) -> Custodian | None:
        """Who takes messages for plain clients behind a broker; set by the broker's link while it is there."""
        return self.brokered.custodian

    @custodian.setter
    def custodian(self, custodian: Custodian | None) -> None:
        self.custody.use(custodian)

    @property
    def presence_known(self) -> bool:
        """Whether something tells which clients are at the broker: then `seen` is called for them."""
        return self.brokered.presence_known

    @presence_known.setter
    def presence_known(self, known: bool) -> None:
        self.brokered.presence_known = known

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> str:
        """ "" when ready, else why not."""
        return self.core.down or ("draining" if self.core.draining else "")

    @property
    def draining(self) -> bool:
        return self.core.draining

    @property
    def trace_root(self) -> str:
        return self.core.trace_root

    def start(self) -> None:
        """Open the store and load what it knows. Blocks. Raises StoreFailed or ConfigError."""
        self._load(self.store.open())

    def _load(self, known: Recovered) -> None:
        """From here on everything that memory holds follows from what is on disk."""
        core = self.core
        core.reset()
        now = core.now()
        core.ids.raise_floor(known.highest_id)
        core.trace_root = known.trace_root
        self.texts.load(known.templates)
        self.suppressions.count = known.suppressions
        core.clients.update((row.client, row) for row in known.clients)
        for row in known.sessions:
            session = core.sessions[row.client] = Session(row.client, core.rules, row)
            session.found_away(now, core.offline_ms(row.client), row.away_since)
        for client, items in known.windows.items():
            session = core.session(client)
            for item in items:
                session.window.add(item)
            session.window.drop_bodies()
        for client, count in known.waiting.items():
            core.session(client).waiting = count
        for session in core.sessions.values():
            when = session.next_deadline()
            if when:
                core.deadlines.set(session, when)
        for channel, due in known.channels.items():
            core.deadlines.set(("chain", channel), max(due, now))
        if known.next_rest:
            core.deadlines.set("rest", max(known.next_rest, now))
        self.custody.loaded()
        core.note_due(known.next_due)
        core.deadlines.set("sweep", now + 1000)
        core.deadlines.set("anchor", now + ANCHOR_MS)
        core.down = ""
        self._found_open(known.open_chains)
        core.wake()

    def _found_open(self, rows: list[ChainRow]) -> None:
        if not rows:
            return

        def came(read: ReadStories) -> None:
            for row in rows:
                if row.id in read.found:
                    self.handover.attempts.found_open(read.found[row.id])

        self.core.commit.reads.append(ReadStories([r.id for r in rows], came))

    # -- commits ---------------------------------------------------------------------------------------------------

    def _finish(self, commit: Commit, error: Exception | None) -> None:
        """A commit is through, or void."""
        core = self.core
        core.busy = False
        if error is not None:
            self._failed(commit, error)
            return
        self.commits += 1
        core.begin_turn()
        try:
            self._tell(commit)
        finally:
            core.end_turn()

    def _tell(self, commit: Commit) -> None:
        """All whom the commit concerns."""
        core = self.core
        self.accepted.committed(commit)
        self.answers.settled(commit)
        for client, _, items in commit.binds:
            self.delivery.bound(client, items)
        for op in commit.ops:
            if op.then is not None:
                op.then(op)  # type: ignore[arg-type]
        for read in commit.reads:
            read.then(read)  # type: ignore[arg-type]
        core.observer.committed(commit, (core.now() - commit.at) / 1000)

    def _failed(self, commit: Commit, error: Exception) -> None:
        """Nothing of this commit is known to be on disk, and nothing that memory built on it is true."""
        core = self.core
        self.failures += 1
        behind = core.commit
        core.down = f"store: {error}"
        core.disk_full = isinstance(error, StoreFailed) and error.disk_full
        first, then = explain_failure(error)
        core.reset()
        self._refuse(commit, first)
        self._refuse(behind, then)
        self.intake.bytes = 0
        self.delivery.joining.reset()
        self.delivery.reset()
        self.handover.reset(then)
        self.custody.reset()
        self.due.reset()
        for conn in list(core.conns):
            conn.session = None
            conn.error(then)
            conn.close(Close.DRAIN, "the store cannot commit")
        core.end_turn()
        self.scheduler.at(core.now() + REOPEN_MS, self._reopen)

    def _refuse(self, commit: Commit, error: GatewayError) -> None:
        self.accepted.failed(commit, error)
        for failed in commit.failed:
            failed(error)

    def _reopen(self) -> None:
        """Try until the store can commit again."""
        try:
            known = self.store.open()
        except StoreFailed as error:
            self.core.down = f"store: {error}"
            self.core.disk_full = error.disk_full
            self.scheduler.at(self.core.now() + REOPEN_MS, self._reopen)
            return
        self._load(known)

    # -- time ------------------------------------------------------------------------------------------------------

    def _fire(self, key: object, now: int) -> None:
        core = self.core
        if isinstance(key, Session):
            self.delivery.due(key, now)
        elif isinstance(key, Place):
            self.custody.due(key, now)
        elif key == "due":
            self.due.rows(now)
        elif key == "sweep":
            self.due.sweep(now)
        elif key == "anchor":
            step = self._reanchor()
            self.clock_steps += 1 if step else 0
            core.deadlines.set("anchor", core.now() + ANCHOR_MS)
        elif key == "rest":
            self.handover.resting.look()
        elif isinstance(key, tuple):
            self.handover.attempts.pump(key[1])

    # -- leaving ---------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take nothing new; ask every client to come back elsewhere, spread over the configured range; close
        what is left then.
        """
        self.core.draining = True
        self._send_away(iter(list(self.core.conns)))

    def _send_away(self, conns: Iterator[Connection]) -> None:
        core = self.core
        low, high = core.config.drain.after
        some = list(islice(conns, LEAVES_A_TURN))
        for conn in some:
            if conn not in core.conns:
                continue
            conn.goaway(low, high, "drain")
            core.touch(conn)
            when = ms(low + core.rng.random() * max(core.config.drain.timeout - low, 0))
            core.scheduler.at(core.now() + when, lambda conn=conn: self._close(conn))  # type: ignore[misc]
        if some:
            core.scheduler.soon(lambda: self._send_away(conns))

    def _close(self, conn: Connection) -> None:
        if conn in self.core.conns:
            conn.close(Close.DRAIN, "drain")
            self.disconnected(conn, True)

    def when_quiet(self, connections: bool, call: Callable[[], None]) -> None:
        """Call once as soon as nothing is being committed and, with `connections`, nobody is connected any more."""
        self.core.quiet = (connections, call)
        self.core.wake()

    def stop(self) -> None:
        """Nothing more is accepted or begun."""
        self.core.draining = True
        self.core.down = "draining"

    # -- figures ---------------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Plain numbers for metrics."""
        core = self.core
        states = dict.fromkeys(State, 0)
        queued = in_flight = deepest = 0
        for session in core.sessions.values():
            states[session.state] += 1
            queued += session.waiting
            in_flight += session.window.open
            deepest = max(deepest, session.waiting)
        out: dict[str, float] = {
            "accepted": self.intake.accepted,
            "refused": self.intake.refused,
            "delivered": self.core.delivered,
            "acked": self.answers.acked,
            "redelivered": self.delivery.redelivery.redelivered,
            "handed_over": self.handover.claimed,
            "resumed": self.delivery.joining.resumed,
            "epochs": self.delivery.joining.begun,
            "reports_dropped": core.reports_dropped,
            "commits": self.commits,
            "commit_failures": self.failures,
            "purged": self.due.purged,
            "clock_steps": self.clock_steps,
            "due_lateness_ms": self.due.lateness,
            "connections": len(core.conns),
            "joins_waiting": self.delivery.joining.waiting,
            "queued": queued,
            "queue_deepest": deepest,
            "in_flight": in_flight,
            "intake_bytes": self.intake.bytes,
            **self.custody.figures(),
        }
        out.update({f"sessions_{state.name.lower()}": count for state, count in states.items()})
        return out


def explain_failure(error: Exception) -> tuple[GatewayError, GatewayError]:
    """What publishers are told: those of the failed commit, and those behind it."""
    if isinstance(error, StoreFailed):
        if error.disk_full and error.definite:
            full = DiskFull("the disk is full", retry_after=5.0)
            return full, full
        if error.definite:
            away: GatewayError = Unavailable(
                "the store cannot commit", code="store_unavailable", retry_after=1.0
            )
            return away, away
    unknown = CommitUnknown(
        "the commit failed and may yet have reached the disk: send again with the same key", retry_after=1.0
    )
    return unknown, Unavailable("the store cannot commit", code="store_unavailable", retry_after=1.0)
