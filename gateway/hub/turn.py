"""The turn of the loop: what was touched in it, the commit being filled, the deadlines.

Everything runs on one thread. Within a turn the flows put what must become durable into `commit` and name the
sessions and connections that they touched; at the turn's end each touched session is worked once, each touched
connection is written once, and the commit is submitted unless one is under way: then it goes on filling (group
commit). Of very many a turn takes the first; the rest has the next.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from gateway.commit import Change, Commit
from gateway.engine.deadlines import Deadlines
from gateway.engine.session import Session
from gateway.engine.states import NEVER
from gateway.ports import Connection, Handle, Scheduler, Store

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


def first_of(many: dict[Any, None]) -> dict[Any, None]:
    """Take the first of them out, as many as a turn has time for."""
    some = dict.fromkeys(islice(many, TOUCHED_A_TURN))
    for each in some:
        del many[each]
    return some


class Turn:
    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self.store = store
        self.scheduler = scheduler
        self.now = scheduler.now
        self.deadlines = Deadlines()
        self.conns: set[Connection] = set()
        self.down = "starting"
        self.draining = False
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
        self.finish: Callable[[Commit, Exception | None], None]
        self.fire: Callable[[object, int], None]

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

    def note_due(self, when: int) -> None:
        if when:
            self.deadlines.set("due", when)

    def change(self, change: Change) -> None:
        self.commit.ops.append(change)
        self.wake()

    def forget(self) -> None:
        """Drop what is being filled, touched and due."""
        self.commit = Commit()
        self._touched.clear()
        self.deadlines.clear()
