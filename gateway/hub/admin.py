"""What an administrator does: look at clients, ban, forget, cancel, replay. Each call returns once it is
durable.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.auth.principal import Principal
from gateway.commit import Change, DropDead, Event, Forget, MessageView
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.errors import Close, Conflict, GatewayError, Invalid, Limited, NotFound
from gateway.hub.core import Core, ms
from gateway.hub.person import checked
from gateway.ids import encode_id
from gateway.model import NORMAL, Chain, Extra, Hold, Item, Kind, Status
from gateway.ports import Outcome
from gateway.records import ClientRecord, ClientRow
from gateway.templates import TemplateRow, Variant

# ms that a test of a channel is worth something
TEST_TTL = 60_000
_NONE, _WAITING, _LATER = int(Hold.NONE), int(Hold.WAITING), int(Hold.LATER)


class _Replayed:
    """The sink of a replay: the new message goes straight to its chain where a channel was named."""

    def __init__(self, future: "asyncio.Future[int]", then: Callable[[], None] | None) -> None:
        self._future = future
        self._then = then

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        if self._then is not None:
            self._then()
        if not self._future.done():
            self._future.set_result(id)

    def refused(self, ref: Any, error: GatewayError) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class Admin:
    def __init__(self, core: Core, delivery: Any, intake: Any, handover: Any) -> None:
        self.core = core
        self.delivery = delivery
        self.intake = intake
        self.handover = handover
        self._replaying: set[int] = set()

    # -- clients ---------------------------------------------------------------------------------------------------

    def presence(self, client: str) -> dict[str, Any]:
        """Raises KeyError for a client that the gateway does not know."""
        core = self.core
        session = core.sessions.get(client)
        if session is None:
            if not self._has_record(client):
                raise KeyError(client)
            session = Session(client, core.rules)
        row = session.row
        conn = session.conn
        out: dict[str, Any] = {
            "client": client,
            "status": self._status(session),
            "state": session.state.name.lower(),
            "epoch": session.epoch or None,
            "next": session.next,
            "in_flight": session.window.open,
            "queued": session.waiting,
            "window": session.limit,
            "via": conn.via if conn is not None else None,
            "last_proof": conn.last_proof
            if conn is not None
            else (row.seen if row is not None and row.seen else None),
            "away_since": row.away_since if row is not None and conn is None and row.away_since else None,
            "offline_at": session.offline_at if session.state == State.AWAY else None,
            "handed_over": session.handed,
        }
        return out | core.brokered.presence(client)

    def _status(self, session: Session) -> str:
        if session.conn is None:
            return "offline"
        silence = self.core.now() - session.conn.last_proof
        # a ping goes out every heartbeat: a peer that answered none of it for longer is in doubt
        return "suspect" if silence > ms(self.core.config.session.heartbeat * 1.25) else "online"

    def clients(self, after: str, limit: int) -> list[str]:
        """Known client ids in order, those behind `after`."""
        records = {c for c in self.core.clients if self._has_record(c)}
        names = sorted(self.core.sessions.keys() | records)
        start = bisect_right(names, after)
        return names[start : start + limit]

    def client_row(self, client: str) -> ClientRow | None:
        return self.core.clients.get(client)

    def _has_record(self, client: str) -> bool:
        """Whether an administrator said something about it. What a deletion leaves behind is no record."""
        row = self.core.clients.get(client)
        return row is not None and (row.record != ClientRecord() or row.banned_until > self.core.now())

    def not_before(self, client: str) -> int:
        """Unix seconds: tokens issued earlier are refused; 0 = none."""
        row = self.core.clients.get(client)
        return row.not_before if row is not None else 0

    def banned(self, client: str, now: int) -> bool:
        row = self.core.clients.get(client)
        return row is not None and row.banned_until > now

    async def put_template(
        self, name: str, variants: list[Variant], by: str, expected: int | None
    ) -> TemplateRow:
        """Write a version, durably. Raises as Texts.put."""
        future = self.core.future()

        def stored(row: TemplateRow) -> None:
            if not future.done():
                future.set_result(row)

        self.core.texts.put(name, variants, by, expected, stored)
        self.core.audit(by, "template.put" if variants else "template.delete", {"template": name})
        result: TemplateRow = await future
        return result

    async def put_client(self, client: str, record: ClientRecord, by: str = "") -> ClientRow:
        """Raises Invalid for an unknown channel, Limited where no further client may be known."""
        core = self.core
        known = client in core.clients or client in core.sessions
        if not known and len(core.clients.keys() | core.sessions.keys()) >= core.config.clients.max:
            raise Limited("as many clients as are allowed", code="too_many_clients", retry_after=60.0)
        record = checked(record, core.config)
        old = core.record_of(client)
        before = core.offline_ms(client)
        core.audit(by, "client.put", {"client": client})
        row = await self._put(ClientRow(client, record, old.not_before, old.banned_until))
        session = core.sessions.get(client)
        if session is not None and session.state == State.AWAY and not session.handed:
            # the clock that runs is moved; what waits for a client never seen keeps the deadline it was accepted with
            session.offline_at += core.offline_ms(client) - before
            core.deadlines.set(session, session.next_deadline())
            core.wake()
        return row

    async def _put(self, row: ClientRow) -> ClientRow:
        future = self.core.future()
        self.core.put_record(row, lambda: None if future.done() else future.set_result(row))
        result: ClientRow = await future
        return result

    async def disconnect(self, client: str, ban: float | None, by: str = "") -> bool:
        """Close its connection; with `ban` (s) refuse it for so long. Whether there was a connection."""
        core = self.core
        if ban is not None:
            old = core.record_of(client)
            until = core.now() + ms(ban)
            core.audit(by, "client.ban", {"client": client, "until": until})
            await self._put(ClientRow(client, old.record, int(core.scheduler.wall()) + 1, until))
        else:
            await core.audited(by, "client.disconnect", {"client": client})
        return self._close(
            client,
            Close.BANNED if ban is not None else Close.DRAIN,
            "banned" if ban is not None else "disconnected",
        )

    def _close(self, client: str, code: Close, reason: str) -> bool:
        session = self.core.sessions.get(client)
        conn = session.conn if session is not None else None
        if conn is not None:
            conn.close(code, reason)
            self.delivery.disconnected(conn, True)
            ended = True
        else:
            ended = self.delivery.joining.end(client, code, reason)
        # those of MQTT devices that have not subscribed
        for other in [c for c in self.core.conns if c is not conn and c.client == client]:
            other.close(code, reason)
            ended = True
        return ended

    async def forget(self, client: str, by: str = "") -> None:
        """Everything about a client goes; tokens issued until now are refused."""
        core = self.core
        future = self.core.future()
        # its session is not written again, and no hello is taken, until it is gone
        core.forgetting.add(client)
        self._close(client, Close.NOT_AUTHORISED, "deleted")
        row = ClientRow(client, not_before=int(core.scheduler.wall()) + 1)
        core.intended[client] = row

        def done(op: Forget) -> None:
            core.forgetting.discard(client)
            old = core.sessions.pop(client, None)
            if old is not None and old.incoming:
                # accepted behind the deletion, and still being committed
                core.session(client).incoming = old.incoming
            core.settle_record(row)
            if not future.done():
                future.set_result(None)

        core.audit(by, "client.delete", {"client": client})
        core.commit.ops.append(Forget(client, core.now(), row.not_before, done))
        await future

    # -- messages --------------------------------------------------------------------------------------------------

    async def cancel(self, id: int) -> None:
        """Raises NotFound, or Conflict where it was ever bound, is handed over or has ended."""
        core = self.core
        view = await core.store.message(id)
        if view is None or view.item.kind != Kind.MESSAGE:
            raise NotFound("no such message")
        future = self.core.future()
        item = view.item
        now = core.now()
        report = core.report(item, Status.CANCELLED, "", now)

        def after(change: Change) -> None:
            if change.ok:
                session = core.session(item.client)
                session.waiting -= 1
                session.queue.remove(id)
                core.reported(report)
                core.told(item, Status.CANCELLED, now)
            if not future.done():
                future.set_result(change.ok)

        core.change(
            Change(
                id, (_WAITING, _LATER), {"hold": _NONE, "status": int(Status.CANCELLED), "ended_at": now, "due": 0},
                unbound=True, drop_chain=True, report=report, event=Event(id, now, "cancelled"), then=after,
            )
        )  # fmt: skip
        if not await future:
            raise Conflict("too late: it was sent, handed over, or has ended", code="too_late")

    async def replay(self, id: int, channel: str | None, principal: Principal) -> int:
        """A dead letter becomes a new message, to its client or (`channel`) straight to a channel. Returns the
        new id.

        Raises NotFound, Conflict where it was replayed already, Invalid for an unknown channel.
        """
        core = self.core
        if channel is not None and channel not in core.config.channels:
            raise Invalid(f"no channel {channel}", code="channel_unknown", field="$.channel")
        view = await core.store.message(id)
        if view is None or view.item.status != Status.DEAD or view.item.kind != Kind.MESSAGE:
            raise NotFound("no such dead letter")
        if view.replayed or id in self._replaying:
            raise Conflict("it was replayed already", code="already_replayed")
        if view.item.body is None:
            raise Conflict("its body cannot be read any more", code="body_lost")
        self._replaying.add(id)
        try:
            return await self._replay(view, channel, principal)
        finally:
            self._replaying.discard(id)

    async def _replay(self, view: MessageView, channel: str | None, principal: Principal) -> int:
        core = self.core
        future = self.core.future()
        old = view.item
        now = core.now()
        item = replayed(old, core.ids.next(now), now, channel)
        if core.chain_of(item):
            item.chain = int(Chain.READY)
        session = core.session(item.client)
        then = None
        if channel is not None:
            # kept from its session until the claim, which stands in the next commit; should the gateway stop
            # between
            # the two, it is released a second later and goes the usual way
            item.hold = _LATER
            item.due = now + 1000
            then = partial(self.handover.claim, item, "replay")
        self.intake.add(core.commit, session, item, _Replayed(future, then), None)
        event = Event(old.id, now, "replayed", {"as": encode_id(item.id), "by": principal.publisher})
        core.change(Change(old.id, (_NONE,), {"replayed": item.id}, ended=True, event=event))
        core.audit(
            principal.publisher, "dead-letters.replay", {"id": encode_id(old.id), "as": encode_id(item.id)}
        )
        id: int = await future
        return id

    async def test_channel(self, channel: str, address: str, body: bytes, by: str) -> Outcome:
        """One attempt at a channel, of a message that is nobody's: nothing is stored of it but who made it. Raises
        NotFound, Unavailable.
        """
        core = self.core
        if channel not in core.config.channels:
            raise NotFound("no such channel")
        await core.audited(by, "channel.test", {"channel": channel})
        now = core.now()
        item = Item(core.ids.next(now), "test", by, NORMAL, now, now + TEST_TTL, body, Extra(type="test"))
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.handover.attempts.outbound.send(
            channel, item, 1, address, lambda came: None if outcome.done() else outcome.set_result(came)
        )
        return await outcome

    async def drop_dead(self, ids: list[int] | None, by: str = "") -> int:
        """Delete dead letters, all where `ids` is None. How many."""
        future = self.core.future()

        def done(op: DropDead) -> None:
            if not future.done():
                future.set_result(op.count)

        some = [encode_id(id) for id in ids] if ids is not None else "all"
        self.core.audit(by, "dead-letters.delete", {"ids": some})
        self.core.commit.ops.append(DropDead(ids, done))
        count: int = await future
        return count


def replayed(old: Item, id: int, now: int, channel: str | None) -> Item:
    """A new message with the content of a dead one, and as long to live as that had."""
    x = Extra() if old.x is None else Extra(
        type=old.x.type, meta=old.x.meta, trace=old.x.trace, notify=old.x.notify, fallback=old.x.fallback,
        template=old.x.template,
    )  # fmt: skip
    if channel is not None:
        x.fallback = [channel]
    x.replay_of = encode_id(old.id)
    return Item(id, old.client, old.sender, old.lane, now, now + (old.expire - old.at), old.body, x)
