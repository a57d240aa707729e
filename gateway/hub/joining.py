"""A `hello` on its way to its `welcome`: take-over, resume or a new epoch, what chains give back, the next
token.

1. the session leaves LIVE (an older connection is closed), so that nothing more is bound on an insert
2. when the last commit with binds of it is through, everything that the hello changes goes into one commit
3. after it: the bodies of the window are there, the session goes LIVE, `welcome` and the window go out
"""

import hashlib
from typing import Any

from gateway.auth.principal import Principal
from gateway.commit import PutSession, ReadItems, Reclaim, Unbind
from gateway.engine.session import Input, Session
from gateway.errors import Close, Invalid, Limited, Unavailable
from gateway.hub.core import Core
from gateway.model import Hold, Item, Kind, SessionRow, Status
from gateway.ports import Connection
from gateway.wire import Hello


class Join:
    """One hello under way."""

    __slots__ = ("conn", "hello", "missed", "reclaimed", "token", "why")

    def __init__(self, conn: Connection, hello: Hello) -> None:
        self.conn = conn
        self.hello = hello
        self.why = ""
        self.token = ""
        self.reclaimed: Reclaim | None = None
        self.missed: dict[str, int] = {}


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
        self.resumed = 0
        self.begun = 0

    def hello(self, conn: Connection, principal: Principal, hello: Hello) -> None:
        """Begin. Raises Unavailable where the store is away, Invalid for pools, Limited over the limit of clients."""
        core = self.core
        if core.draining:
            raise Unavailable("the gateway is draining", code="draining", retry_after=1.0)
        if core.down:
            raise Unavailable(f"not ready: {core.down}", code="not_ready", retry_after=1.0)
        if hello.pools:
            raise Invalid("pools are not served yet", code="address_kind_unsupported", field="$.pools")
        client = principal.name
        if client in core.forgetting:
            raise Unavailable("this client is being deleted", code="not_ready", retry_after=1.0)
        if client not in core.sessions and len(core.sessions) >= core.config.clients.max:
            raise Limited("as many clients as are allowed", code="too_many_clients", retry_after=60.0)
        session = core.session(client)
        older = self._joins.get(client)
        if older is not None:
            del self._client_of[older.conn]
            older.conn.close(Close.TAKEN_OVER, "taken over")
        elif session.conn is not None:
            taken, session.conn = session.conn, None
            taken.session = None
            # it did not say goodbye: what it carried may be what its client dies of
            self._crashed(session)
            taken.close(Close.TAKEN_OVER, "taken over")
        self._joins[client] = Join(conn, hello)
        self._client_of[conn] = client
        session.feed(Input.HELLO)
        self.proceed(session)

    def proceed(self, session: Session) -> None:
        """Go on with the join of a session, as soon as nothing is being bound and no older join is being
        committed.
        """
        join = self._joins.get(session.client)
        if join is None or session.client in self._running or session.binding:
            return
        self._running[session.client] = join
        core = self.core
        hello = join.hello
        digest = token_digest(hello.resume) if hello.resume else None
        join.why = session.resume(digest, hello.epoch, hello.ack)
        row = session.row
        proven = row is not None and digest is not None and digest == row.token_issued
        if join.why:
            self._new_epoch(session)
        elif hello.ack is not None:
            owned, claimed = session.acked_to(hello.ack, core.now())
            self._settle(session, owned, claimed, join.conn.via)
        join.token = core.token()
        now = core.now()
        session.row = SessionRow(
            client=session.client,
            epoch=session.epoch,
            eno=session.eno,
            next=session.next,
            token_presented=None if join.why else digest,
            token_issued=token_digest(join.token),
            created=row.created if row is not None else now,
            seen=now,
        )
        join.reclaimed = Reclaim(session.client, now)
        put = PutSession(session.row, proven, then=lambda op: self._put(join, op))
        core.commit.ops += [join.reclaimed, put]
        ids = [i.id for i in session.window.items if i.hold != Hold.NONE and i.kind != Kind.GAP]
        core.commit.reads.append(ReadItems(ids, lambda read: self._ready(session, join, read)))
        core.wake()

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
        core = self.core
        client = session.client
        del self._running[client]
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
        now = core.now()
        wish = join.hello.window
        limit = min(wish, core.config.limits.max_window) if wish else core.rules.window
        session.welcomed(now, limit, core.rng.random())
        session.conn = conn
        conn.session = session
        fields: dict[str, Any] = {
            "client": client,
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
        conn.welcome(fields)
        core.touch_session(session)
        core.touch(conn)

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

    def gone(self, conn: Connection) -> None:
        """A connection has ended; if it waited for its welcome, it waits no more."""
        client = self._client_of.pop(conn, None)
        if client is None:
            return
        del self._joins[client]
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
