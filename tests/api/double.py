"""A hub that does what it is told: it checks and keeps messages as the real one does for a publisher's eyes, answers on
the loop, and can be told to answer late, to refuse, to fail. What the API asks of the hub is exactly what stands here.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from msgspec import UNSET

from gateway.auth import Principal
from gateway.clock import SystemClock
from gateway.commit import Commit, Event, MessageView, Sink
from gateway.commit_people import PutTemplate
from gateway.config import Config
from gateway.errors import Conflict, Forbidden, GatewayError, Invalid, NotFound, Unavailable
from gateway.hub.events import EventRing
from gateway.hub.texts import Texts
from gateway.ids import IdMaker, encode_id
from gateway.model import LANES, Extra, Hold, Item, Kind, Publish, Status, check_address
from gateway.ports import Handle, Outcome
from gateway.records import AuditEntry, ClientRecord, ClientRow, Suppression
from gateway.templates import TemplateRow, Variant
from gateway.wire import check_body

CHANNELS = ("hook",)


class LoopScheduler:
    """The loop's time; `ahead` seconds can be added to what tokens go by."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.ahead = 0.0

    def now(self) -> int:
        return self._clock.now()

    def wall(self) -> float:
        return self._clock.wall() + self.ahead

    def soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def at(self, when: int, call: Callable[[], None]) -> Handle:
        return asyncio.get_running_loop().call_later((when - self.now()) / 1000, call)


class StoreDouble:
    """The queries of the store. `broken`: what each of them raises."""

    name = "double"

    def __init__(self) -> None:
        self.views: dict[int, MessageView] = {}
        self.broken: Exception | None = None
        self.suppressed: dict[tuple[str, str, str], Suppression] = {}
        self.entries: list[AuditEntry] = []

    def open(self) -> Any:
        raise AssertionError("the API does not open the store")

    def submit(self, commit: Any, done: Any) -> None:
        raise AssertionError("the API does not write to the store")

    def close(self) -> None:
        raise AssertionError("the API does not close the store")

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def message(self, id: int) -> MessageView | None:
        self._check()
        return self.views.get(id)

    async def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> list[MessageView]:
        self._check()
        return [
            view
            for id, view in sorted(self.views.items(), reverse=True)
            if id < before
            and to in {None, view.item.client}
            and sender in {None, view.item.sender}
            and (statuses is None or view.item.status in statuses)
        ][:limit]

    async def dead_letters(
        self, to: str | None, why: str | None, before: int, limit: int, replayed: bool
    ) -> list[MessageView]:
        found = await self.messages(to, None, (Status.DEAD,), before, len(self.views))
        return [v for v in found if why in {None, v.item.why} and (replayed or not v.replayed)][:limit]

    async def suppressions(self, after: tuple[str, str, str], limit: int) -> list[Suppression]:
        self._check()
        return [row for key, row in sorted(self.suppressed.items()) if key > after][:limit]

    async def suppressions_of(self, address: str) -> list[Suppression]:
        self._check()
        return [row for key, row in sorted(self.suppressed.items()) if key[0] == address]

    async def audit(self, before: int, limit: int) -> list[AuditEntry]:
        self._check()
        return [entry for entry in reversed(self.entries) if entry.id < before][:limit]

    async def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        raise AssertionError("the API does not look for keys")

    async def waiting(self) -> dict[str, int]:
        self._check()
        return {"hook": 3}

    def figures(self) -> dict[str, float]:
        return {}


class SuppressionsDouble:
    """Those of the store, written at once."""

    def __init__(self, store: StoreDouble) -> None:
        self._rows = store.suppressed

    async def put(self, rows: Sequence[Suppression], by: str) -> None:
        self._rows.update((row.key, row) for row in rows)

    async def drop(self, address: str, channel: str, category: str, by: str) -> int:
        gone = [k for k in self._rows if k[0] == address and channel in {"", k[1]} and category in {"", k[2]}]
        for key in gone:
            del self._rows[key]
        return len(gone)


class HubDouble:
    """`script`: what the next publishes are answered with, in order (None: accepted).

    `held`: answers wait for `release`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.scheduler = LoopScheduler()
        self.store = StoreDouble()
        self.suppressions = SuppressionsDouble(self.store)
        self.events = EventRing(config.limits.sse_ring, config.limits.sse_clients, self.scheduler.now())
        self.trace_root = "00112233445566ff"
        self.commit = Commit()
        self.texts = Texts(
            cast(
                "Any",
                SimpleNamespace(
                    config=config, clients={}, commit=self.commit, now=self.scheduler.now, wake=lambda: None
                ),
            )
        )
        self.ready = ""
        self.script: list[GatewayError | None] = []
        self.broken: Exception | None = None
        self.held = False
        self.published: list[tuple[Principal, Publish]] = []
        self.online: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, ClientRow] = {}
        self.bans: dict[str, float] = {}
        self.unreplayable = 0
        self.tested: list[tuple[str, str, bytes, str]] = []
        self._ids = IdMaker()
        self._keys: dict[tuple[str, str], tuple[int, Publish]] = {}
        self._waiting: list[Callable[[], None]] = []
        self._more = asyncio.Event()

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish_bare(self, principal: Principal, messages: list[Any], sink: Any) -> int:
        """All go the long way here."""
        return 0

    def publish(self, principal: Principal, pub: Publish, sink: Sink, ref: Any, *, field: str = "$") -> None:
        if self.broken is not None:
            raise self.broken
        self._check(principal, pub, field)
        self.published.append((principal, pub))
        later = self.script.pop(0) if self.script else None
        if later is not None:
            self._answer(lambda: sink.refused(ref, later))
            return
        if pub.key is not None:
            known = self._keys.get((principal.publisher, pub.key))
            if known is not None:
                self._repeat(known, pub, sink, ref)
                return
        view = self.keep(pub, principal.publisher)
        if pub.key is not None:
            self._keys[principal.publisher, pub.key] = (view.item.id, pub)
        self._answer(lambda: sink.stored(ref, view.item.id, False, Status.QUEUED))

    def _repeat(self, known: tuple[int, Publish], pub: Publish, sink: Sink, ref: Any) -> None:
        id, first = known
        if bytes(first.body or b"") != bytes(pub.body or b""):
            conflict = Conflict("another message has this key", code="key_conflict", field="$.key")
            self._answer(lambda: sink.refused(ref, conflict))
            return
        status = self.store.views[id].item.status
        self._answer(lambda: sink.stored(ref, id, True, status))

    def _check(self, principal: Principal, pub: Publish, field: str) -> None:
        if self.ready:
            raise Unavailable("the gateway is draining", code="draining", retry_after=1.0)
        check_address(pub.to, field + ".to")
        if not principal.may_publish_to(pub.to):
            raise Forbidden("may not publish there", code="address_forbidden", field=field + ".to")
        if pub.template is not None:
            self.texts.body(pub, field)
            return
        if pub.body is UNSET:
            raise Invalid("a message has a body", code="body_missing", field=field + ".body")
        if len(bytes(pub.body)) > self.config.limits.max_payload:
            raise Invalid("too large", code="too_large", field=field + ".body", http=413)
        check_body(bytes(pub.body), field + ".body")
        for i, name in enumerate(pub.fallback or ()):
            if name not in CHANNELS:
                raise Invalid("no such channel", code="channel_unknown", field=f"{field}.fallback[{i}]")

    def _answer(self, call: Callable[[], None]) -> None:
        if self.held:
            self._waiting.append(call)
            self._more.set()
        else:
            asyncio.get_running_loop().call_soon(call)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def until(self, waiting: int) -> None:
        """Until so many answers wait."""
        while len(self._waiting) < waiting:
            self._more.clear()
            await self._more.wait()

    def release(self, *order: int) -> None:
        """Answer what waits, those of `order` (places among the waiting) first."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for i in (*order, *(i for i in range(len(waiting)) if i not in order)):
            waiting[i]()

    def keep(self, pub: Publish, sender: str, **row: Any) -> MessageView:
        """Put a message into the store; `row` are columns of its Item."""
        now = self.scheduler.now()
        x = Extra(
            type=pub.type, meta=pub.meta, trace=pub.trace, notify=None, fallback=pub.fallback, reply_to=pub.reply_to,
            correlation=pub.correlation,
        )  # fmt: skip
        body = bytes(pub.body) if pub.body is not UNSET else b"null"
        item = Item(
            self._ids.next(now), pub.to, sender, LANES[pub.priority], now, now + int(pub.ttl * 1000), body, x
        )
        for name, value in row.items():
            setattr(item, name, value)
        view = MessageView(item, 0, now if Status(item.status).ended else 0, 0, [])
        self.store.views[item.id] = view
        self.events.publish([item], item.status, now, item.via, item.why)
        return view

    def report(self, pub: Publish, sender: str) -> MessageView:
        """Put a status report into the store: a row, but no message."""
        return self.keep(pub, sender, kind=int(Kind.STATUS))

    async def explain(self, principal: Principal, pub: Publish) -> dict[str, Any]:
        self._check(principal, pub, "$")
        return {"to": pub.to, "path": "queue", "why": ["the client is offline: the message waits for it"]}

    # -- administration --------------------------------------------------------------------------------------------

    async def cancel(self, id: int) -> None:
        view = self.store.views.get(id)
        if view is None:
            raise NotFound("no such message")
        item = view.item
        if item.hold not in {Hold.WAITING, Hold.LATER}:
            raise Conflict("too late", code="too_late")
        item.hold, item.status, view.ended_at = Hold.NONE, Status.CANCELLED, self.scheduler.now()
        view.events.append(Event(id, view.ended_at, "cancelled"))

    def presence(self, client: str) -> dict[str, Any]:
        known = self.online.get(client)
        if known is None:
            raise KeyError(client)
        return {"client": client, "status": "online", "via": "ws", "queued": 0, **known}

    def clients(self, after: str, limit: int) -> list[str]:
        return [name for name in sorted({*self.online, *self.rows}) if name > after][:limit]

    def client_row(self, client: str) -> ClientRow | None:
        return self.rows.get(client)

    async def audit(self, who: str, act: str, data: dict[str, Any]) -> None:
        self.store.entries.append(
            AuditEntry(self.scheduler.now(), who, act, data, len(self.store.entries) + 1)
        )

    async def test_channel(self, channel: str, address: str, body: bytes, by: str) -> Outcome:
        if channel not in CHANNELS:
            raise NotFound("no such channel")
        self.tested.append((channel, address, body, by))
        return Outcome("refused", "HTTP 410", blame="recipient", status=410)

    async def put_template(
        self, name: str, variants: list[Variant], by: str, expected: int | None
    ) -> TemplateRow:
        written: list[TemplateRow] = []
        self.texts.put(name, variants, by, expected, written.append)
        op = self.commit.ops.pop()
        assert isinstance(op, PutTemplate)
        assert op.then is not None
        op.then(op)
        return written[0]

    async def put_client(self, client: str, record: ClientRecord, by: str = "") -> ClientRow:
        for i, name in enumerate(record.fallback or ()):
            if name not in CHANNELS:
                raise Invalid("no such channel", code="channel_unknown", field=f"$.fallback[{i}]")
        row = self.rows[client] = ClientRow(client, record)
        return row

    async def forget(self, client: str, by: str = "") -> None:
        self.rows.pop(client, None)
        self.online.pop(client, None)

    async def disconnect(self, client: str, ban: float | None, by: str = "") -> bool:
        if ban is not None:
            self.bans[client] = ban
        return self.online.pop(client, None) is not None

    async def replay(self, id: int, channel: str | None, principal: Principal) -> int:
        if channel is not None and channel not in CHANNELS:
            raise Invalid("no such channel", code="channel_unknown", field="$.channel")
        view = self.store.views.get(id)
        if view is None or view.item.status != Status.DEAD:
            raise NotFound("no such dead letter")
        if view.replayed or id == self.unreplayable:
            raise Conflict("it was replayed already", code="already_replayed")
        item = view.item
        fresh = self.keep(Publish(to=item.client), item.sender, body=item.body)
        extra = fresh.item.x
        assert extra is not None
        extra.replay_of = encode_id(id)
        view.replayed = fresh.item.id
        return fresh.item.id

    async def drop_dead(self, ids: list[int] | None, by: str = "") -> int:
        views = self.store.views
        dead = [id for id, v in views.items() if v.item.status == Status.DEAD and (ids is None or id in ids)]
        for id in dead:
            del views[id]
        return len(dead)

    def banned(self, client: str, now: int) -> bool:
        return client in self.bans
