"""A `hello` on its way to its `welcome`: take-over, resume or a new epoch, what chains give back, the next
token.

1. the session leaves LIVE (an older connection is closed), so that nothing more is bound on an insert
2. when the last commit with binds of it is through, everything that the hello changes goes into one commit; a commit
   has room for so many of them, the rest waits for the next, first come first served
3. after it: the bodies of the window are there, the session goes LIVE, `welcome` and the window go out
"""

import hashlib
from itertools import islice
from typing import Any

from gateway.auth.principal import Principal
from gateway.commit import PutSession, Reclaim, Unbind
from gateway.engine.session import Session
from gateway.engine.states import Input
from gateway.errors import Close, Invalid, Limited, Unavailable
from gateway.hub.core import Core
from gateway.model import Hold, Item, Kind, SessionRow, Status, Sub
from gateway.ports import Attach, Connection
from gateway.reads import ReadItems
from gateway.wire import Hello

NO_HELLO = Hello()
# What is done when a commit is through is done in one turn of the loop: ten thousand clients that come back at once
# must not be ten thousand welcomes in a row, for which all others wait.
JOINS_A_COMMIT = 128


class Join:
    """One hello under way, or (`attach`) one plain MQTT device."""

    __slots__ = ("attach", "conn", "hello", "missed", "reclaimed", "token", "why")

    def __init__(self, conn: Connection, hello: Hello, attach: Attach | None = None) -> None:
        self.conn = conn
        self.hello = hello
        self.attach = attach
        self.why = ""
        self.token = ""
        self.reclaimed: Reclaim | None = None
        self.missed: dict[str, int] = {}


def plain_at(qos: int) -> int:
    """What the row of a plain device's session holds."""
    return int(Sub.PLAIN if qos else Sub.PLAIN_0)


def token_digest(token: str) -> bytes:
    """Resume tokens are kept hashed."""
    return hashlib.sha256(token.encode()).digest()


class Joining:
    def __init__(self, core: Core, leave: Any, settle: Any, crashed: Any) -> None:
        self.core = core
        self._crashed = crashed
        self._leave = leave
        self._settle = settle
        self._joins: dict[str, Join] = {}  # the latest hello of each client that is not welcomed yet
        self._running: dict[str, Join] = {}  # whose commit is under way; perhaps an older one
        self._client_of: dict[Connection, str] = {}
        # who waits for room in a commit; where somebody does, one with joins is being filled or under way
        self._queue: dict[str, None] = {}
        self.resumed = 0
        self.begun = 0

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        """Begin. Raises Unavailable where the store is away, Invalid for pools, Limited over the limit of clients."""
        if hello.pools:
            raise Invalid("pools are not served yet", code="address_kind_unsupported", field="$.pools")
        self._begin(principal.name, Join(conn, hello))

    def attach(self, conn: Connection, principal: Principal, attach: Attach) -> None:
        """The same for a plain MQTT device."""
        self._begin(principal.name, Join(conn, NO_HELLO, attach))

    def _begin(self, client: str, join: Join) -> None:
        core = self.core
        conn = join.conn
        if core.draining:
            raise Unavailable("the gateway is draining", code="draining", retry_after=1.0)
        if core.down:
            raise Unavailable(f"not ready: {core.down}", code="not_ready", retry_after=1.0)
        if client in core.forgetting:
            raise Unavailable("this client is being deleted", code="not_ready", retry_after=1.0)
        if client not in core.sessions and len(core.sessions) >= core.config.clients.max:
            raise Limited("as many clients as are allowed", code="too_many_clients", retry_after=60.0)
        session = core.session(client)
        older = self._joins.get(client)
        session.over = session.over or session.expired(core.now())
        if session.attached is not conn:
            session.attached = None
        if older is not None:
            self._void(older, session)
            del self._client_of[older.conn]
            older.conn.close(Close.TAKEN_OVER, "taken over")
        elif session.conn is not None:
            taken, session.conn = session.conn, None
            taken.session = None
            # an epoch that was to end with its connection has ended
            session.over = session.over or (session.plain and session.keep == 0)
            # it did not say goodbye: what it carried may be what its client dies of
            self._crashed(session)
            taken.close(Close.TAKEN_OVER, "taken over")
        self._joins[client] = join
        self._client_of[conn] = client
        session.feed(Input.HELLO)
        self.proceed(session)

    def proceed(self, session: Session) -> None:
        """Go on with the join of a session, as soon as nothing is being bound, no older join is being committed, and
        those before it have gone on.
        """
        client = session.client
        if client not in self._joins or client in self._running or session.binding:
            return
        if self._queue or not self._room():
            self._queue[client] = None
        else:
            self._commit(session)

    @property
    def waiting(self) -> int:
        """Hellos that wait for room in a commit."""
        return len(self._queue)

    def _room(self) -> int:
        """How many more joins the commit takes that is being filled."""
        return JOINS_A_COMMIT - self.core.commit.joins

    def _next(self) -> None:
        """As many of those who wait as the commit that is being filled has room for."""
        while self._queue and (room := self._room()):
            for client in list(islice(self._queue, room)):
                del self._queue[client]
                session = self.core.sessions.get(client)
                # who is being bound, or committed, comes again when that is through
                if session is not None and client not in self._running and not session.binding:
                    self._commit(session)

    def _commit(self, session: Session) -> None:
        """Put into the commit what a join changes."""
        core = self.core
        core.commit.joins += 1
        join = self._running[session.client] = self._joins[session.client]
        now = core.now()
        proven = None
        if join.attach is None:
            row, proven = self._resume(session, join)
        else:
            row = self._continue(session, join, join.attach)
        session.row = row
        session.keep = row.keep
        join.reclaimed = Reclaim(session.client, now)
        put = PutSession(row, proven, then=lambda op: self._put(join, op))
        core.commit.ops += [join.reclaimed, put]
        ids = [i.id for i in session.window.items if i.hold != Hold.NONE and i.kind != Kind.GAP]
        core.commit.reads.append(ReadItems(ids, lambda read: self._ready(session, join, read)))
        core.wake()

    def _resume(self, session: Session, join: Join) -> tuple[SessionRow, bool]:
        """What a hello makes of the session, and whether the last welcome is known to have arrived."""
        core, hello, row = self.core, join.hello, session.row
        now = core.now()
        digest = token_digest(hello.resume) if hello.resume else None
        join.why = session.resume(digest, hello.epoch, hello.ack)
        if join.why:
            self._new_epoch(session)
        elif hello.ack is not None:
            owned, claimed = session.acked_to(hello.ack, now)
            self._settle(session, owned, claimed, join.conn.via, self.core.now())
        join.token = core.token()
        held = row.sub if row is not None and not join.why else int(Sub.NONE)
        put = SessionRow(
            client=session.client,
            epoch=session.epoch,
            eno=session.eno,
            next=session.next,
            token_presented=None if join.why else digest,
            token_issued=token_digest(join.token),
            created=row.created if row is not None else now,
            seen=now,
            sub=join.conn.sub or held,
        )
        return put, row is not None and digest is not None and digest == row.token_issued

    def _continue(self, session: Session, join: Join, attach: Attach) -> SessionRow:
        """What a plain device makes of it: the same epoch, unless that is over or to be left behind. The last resume
        token stays good, and what was missed is told to whoever says hello.
        """
        row = session.row
        now = self.core.now()
        join.why = session.continues(attach.clean)
        if join.why:
            self._new_epoch(session)
        return SessionRow(
            client=session.client,
            epoch=session.epoch,
            eno=session.eno,
            next=session.next,
            # in another epoch they resume nothing, but still tell which welcome has arrived
            token_presented=row.token_presented if row is not None else None,
            token_issued=row.token_issued if row is not None else None,
            created=row.created if row is not None else now,
            seen=now,
            sub=plain_at(attach.qos) if attach.live else int(Sub.NONE),
            keep=attach.keep if attach.live else -1,
        )

    def _new_epoch(self, session: Session) -> None:
        """Seqs start again at 1; what was bound waits again, marked."""
        core = self.core
        held = [i for i in session.window.items if i.hold != Hold.NONE and i.kind != Kind.GAP]
        session.waiting += sum(1 for i in held if i.hold == Hold.BOUND and not i.leaving)
        core.commit.ops.append(Unbind(session.client, [i.id for i in held]))
        session.begin_epoch(core.token()[:8], session.eno + 1)

    @staticmethod
    def _put(join: Join, op: PutSession) -> None:
        counts = {"expired": op.missed.expired, "superseded": op.missed.superseded, "dead": op.missed.dead}
        join.missed = {k: n for k, n in counts.items() if n}

    def _ready(self, session: Session, join: Join, read: ReadItems) -> None:
        """The commit is through: the session is what its row says."""
        self._next()
        core = self.core
        client = session.client
        del self._running[client]
        if core.sessions.get(client) is not session:
            # it was deleted in the same commit
            return
        self._apply(session, join, read)
        latest = self._joins.get(client)
        if latest is not join:
            if latest is not None:
                self.proceed(session)
            else:
                self._leave(session)
            return
        del self._joins[client]
        del self._client_of[join.conn]
        conn = join.conn
        if join.attach is not None and not join.attach.live:
            self._leave(session)
            self.begun += 1
            conn.welcome({"client": client, "epoch": session.epoch, "resumed": False, "why": join.why})
            return
        limit = self._go_live(session, join)
        session.conn = conn
        conn.session = session
        conn.welcome(self._fields(session, join, limit))
        core.touch_session(session)
        core.touch(conn)

    def _go_live(self, session: Session, join: Join) -> int:
        """The session is written to from now on. Returns its window."""
        core = self.core
        now, jitter = core.now(), core.rng.random()
        attach = join.attach
        if attach is not None:
            limit = min(attach.window, core.rules.window)
            again = session.attached is join.conn
            session.welcomed(now, limit, jitter, plain=True, again=again and not join.why)
            return limit
        wish = join.hello.window
        limit = min(wish, core.config.limits.max_window) if wish else core.rules.window
        session.welcomed(now, limit, jitter)
        return limit

    def _fields(self, session: Session, join: Join, limit: int) -> dict[str, Any]:
        """Those of `welcome`."""
        core = self.core
        fields: dict[str, Any] = {
            "client": session.client,
            "epoch": session.epoch,
            "resume": join.token,
            "resumed": not join.why,
            "next": session.next,
            "window": limit,
            "heartbeat": core.config.session.heartbeat,
            "max_payload": core.config.limits.max_payload,
        }
        if join.why:
            fields["why"] = join.why
            self.begun += 1
        else:
            self.resumed += 1
        if join.missed:
            fields["missed"] = join.missed
        return fields

    def _apply(self, session: Session, join: Join, read: ReadItems) -> None:
        """Bring the window up to what the commit made of it: bodies, what chains gave back, gaps."""
        window = session.window
        bodies = {i.id: i for i in read.items}
        if join.reclaimed is not None:
            session.waiting += join.reclaimed.waiting
            if join.why or join.reclaimed.waiting:
                # rows came to wait again: the store knows which of them is due first
                self.core.note_due(self.core.now())
            for id in join.reclaimed.back:
                item = window.find_id(id)
                if item is not None:
                    item.hold = int(Hold.BOUND)
            for gap in join.reclaimed.gaps:
                item = window.find(gap.seq)
                if item is not None:
                    window.to_gap(item, gap.why, gap.via)
            join.reclaimed = None
        lost: list[Item] = []
        for item in window.items:
            if item.hold == Hold.NONE or item.kind == Kind.GAP:
                continue
            found = bodies.get(item.id)
            if found is None or found.body is None:
                lost.append(item)
            else:
                item.body, item.x = found.body, found.x
        for item in lost:
            self._corrupt(session, item)

    def _corrupt(self, session: Session, item: Item) -> None:
        """The store has no readable body for a bound message: its client is told by a gap, the operator by the
        dead letters.
        """
        core = self.core
        core.end(
            item, (int(Hold.BOUND), int(Hold.CLAIMED)), Status.DEAD, "corrupt", gap="dead",
            then=lambda ok: core.became_gap(session.client, item.seq, "dead", "") if ok else None,
        )  # fmt: skip

    def _void(self, join: Join, session: Session) -> None:
        """A join that will not be welcomed. An epoch that was to be kept no longer than its connection is over."""
        attach = join.attach
        if (
            attach is not None
            and attach.live
            and not attach.keep
            and self._running.get(session.client) is join
        ):
            session.over = True

    def gone(self, conn: Connection) -> None:
        """A connection has ended; if it waited for its welcome, it waits no more."""
        client = self._client_of.pop(conn, None)
        if client is None:
            return
        self._queue.pop(client, None)
        self._void(self._joins.pop(client), self.core.session(client))
        if client not in self._running:
            self._leave(self.core.session(client))

    def end(self, client: str, code: Close, reason: str) -> bool:
        """Close the connection of a hello under way. Whether there was one."""
        join = self._joins.get(client)
        if join is None:
            return False
        join.conn.close(code, reason)
        self.gone(join.conn)
        return True

    def reset(self) -> None:
        """The store failed: every hello under way is void."""
        for join in self._joins.values():
            join.conn.close(Close.DRAIN, "the store is away")
        self._joins.clear()
        self._running.clear()
        self._client_of.clear()
        self._queue.clear()
