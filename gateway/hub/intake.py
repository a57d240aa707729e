"""Publish → store: what a message must satisfy, and what its publisher is told once the commit is on disk."""

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from gateway.auth.limits import RateLimiter
from gateway.auth.principal import Principal
from gateway.commit import Commit, Event, KeyClaim, Sink
from gateway.engine.session import Session
from gateway.errors import (
    DiskFull,
    Forbidden,
    GatewayError,
    Invalid,
    Limited,
    StoreFailed,
    Unavailable,
)
from gateway.hub.core import Core, ms
from gateway.ids import encode_id
from gateway.model import (
    LANES,
    MAX_META,
    MAX_TTL,
    NORMAL,
    Chain,
    Extra,
    Hold,
    Item,
    Kind,
    Publish,
    Status,
    check_address,
    valid_client_id,
)
from gateway.wire import body_from_msgpack, canonical, check_body, read_json

_BOUND = int(Hold.BOUND)
_WAITING = int(Hold.WAITING)
NOTHING = (None,) * 10


class Intake:
    def __init__(self, core: Core) -> None:
        self.core = core
        limits = core.config.limits
        self.rate = RateLimiter(limits.publish_rate, limits.publish_burst)
        self.max_payload = limits.max_payload
        self.queue = limits.queue_per_client
        self._intake_bytes = limits.intake_bytes
        self.bytes = 0  # of bodies that wait for a commit
        self.accepted = 0
        self.refused = 0

    # -- a message comes in ----------------------------------------------------------------------------------------

    def publish(
        self,
        principal: Principal,
        pub: Publish,
        sink: Sink,
        ref: Any,
        *,
        field: str = "$",
        msgpack: bool = False,
        pid: int = 0,
        possible_dup: int = 0,
    ) -> None:
        """Queue a message for the next commit; `sink` is told once what became of it.

        Raises GatewayError where it is refused at once, naming the field below the prefix `field`. `pid` and
        `possible_dup` are those of an MQTT device (see HubSessions).
        """
        core = self.core
        if core.down or core.draining:
            raise self.unavailable()
        now = core.now()
        wait = self.rate.take(principal.publisher, 1, now)
        if wait:
            raise Limited("more messages than this publisher may send", retry_after=wait / 1000)
        try:
            if msgpack and pub.template is not None and pub.body is not UNSET:
                pub = replace(pub, body=Raw(body_from_msgpack(bytes(pub.body), field + ".body")))
            item = self.check(principal, pub, now, field, msgpack and pub.template is None)
            item.pid = pid
            if possible_dup:
                item.x = item.x if item.x is not None else Extra()
                item.x.possible_dup = encode_id(possible_dup)
            self._admit(principal, pub, item, sink, ref, now, field)
        except GatewayError:
            self.refused += 1
            raise

    def refuse(
        self, principal: Principal, to: str, body: bytes, why: str, detail: str, sink: Sink, ref: Any
    ) -> None:
        """A message that can never succeed, from a publisher that cannot be told so (MQTT 3.1.1): its dead letter.

        `to` where it is a client id, else the publisher's own. Raises Limited, Unavailable.
        """
        core = self.core
        if core.down or core.draining:
            raise self.unavailable()
        now = core.now()
        wait = self.rate.take(principal.publisher, 1, now)
        if wait:
            raise Limited("more messages than this publisher may send", retry_after=wait / 1000)
        if self.room() <= 0:
            raise Unavailable(
                "more bodies wait for the disk than are allowed", code="overloaded", retry_after=0.2
            )
        client = to if valid_client_id(to) else principal.name
        full = len(core.sessions) >= core.config.clients.max
        strange = core.config.clients.strict and client not in core.clients
        if client not in core.sessions and (full or strange):
            client = principal.name
        if full and client not in core.sessions:
            raise Limited("as many clients as are allowed", code="too_many_clients", retry_after=60.0)
        self.refused += 1
        item = Item(core.ids.next(now), client, principal.publisher, NORMAL, now, now + ms(MAX_TTL), body)
        # kept from its client until the change, which stands in the same commit
        item.hold = int(Hold.LATER)
        self.add(core.commit, core.session(client), item, sink, ref)
        event = Event(item.id, now, "refused", {"to": to[:80], "code": why, "detail": detail[:200]})
        core.end(
            item, (int(Hold.LATER),), Status.DEAD, why, event=event, then=lambda ok: self._buried(client, ok)
        )

    def _buried(self, client: str, ok: bool) -> None:
        if ok:
            self.core.session(client).waiting -= 1

    async def uplinks(self, clients: list[str], last: int) -> dict[str, dict[int, tuple[int, bytes]]]:
        """Of each client the latest message under each of its `last` packet ids, within `dedup.window`: packet id ->
        (id, body). Raises Unavailable.
        """
        core = self.core
        if core.down:
            raise self.unavailable()
        try:
            return await core.store.uplinks(clients, core.now() - ms(core.config.dedup.window), last)
        except StoreFailed as error:
            raise Unavailable(str(error), code="store_unavailable", retry_after=1.0) from None

    def unavailable(self) -> Unavailable:
        if self.core.draining:
            return Unavailable("the gateway is draining", code="draining", retry_after=1.0)
        if self.core.disk_full and self.core.down:
            return DiskFull("the disk is full", retry_after=5.0)
        return Unavailable(f"not ready: {self.core.down}", code="not_ready", retry_after=1.0)

    def check(
        self, principal: Principal, pub: Publish, now: int, field: str = "$", msgpack: bool = False
    ) -> Item:
        """The message as an Item, not yet admitted. Raises GatewayError."""
        core = self.core
        to = pub.to
        session = core.sessions.get(to)
        if session is None:
            check_address(to, field + ".to")
            self._check_unknown(to, field)
        if not principal.may_publish_to(to):
            raise Forbidden(f"may not publish to {to}", code="address_forbidden", field=field + ".to")
        template = ""
        if pub.template is not None:
            body, template = core.texts.body(pub, field)
        elif pub.body is UNSET:
            raise Invalid("a message has a body", code="body_missing", field=field + ".body")
        else:
            body = bytes(pub.body)
        if len(body) > self.max_payload:
            raise Invalid(
                f"a body has at most {self.max_payload} bytes, this one {len(body)}",
                code="too_large", field=field + ".body", http=413,
            )  # fmt: skip
        if msgpack:
            body = body_from_msgpack(body, field + ".body")
        else:
            check_body(body, field + ".body")
        self._check_rights(principal, pub, field)
        start = now
        later = pub.deliver_at is not None and pub.deliver_at > now
        if later:
            start = pub.deliver_at or now
        item = Item(
            0,
            to,
            principal.publisher,
            LANES[pub.priority],
            now,
            start + ms(pub.ttl),
            body,
            self._extra(pub, start, field),
        )
        if item.x is not None and template:
            item.x.template = template
        if (pub.fallback or pub.fallback is None) and core.chain_of(item):
            item.chain = int(Chain.READY)
        if later:
            item.hold = int(Hold.LATER)
            item.due = start
        return item

    def _check_unknown(self, to: str, field: str) -> None:
        """A client without a session: may it be addressed at all?"""
        core = self.core
        if core.config.clients.strict and to not in core.clients:
            raise Invalid(f"no client {to} is known", code="client_unknown", field=field + ".to")
        if len(core.sessions) >= core.config.clients.max:
            raise Limited("as many clients as are allowed", code="too_many_clients", retry_after=60.0)

    def _check_rights(self, principal: Principal, pub: Publish, field: str) -> None:
        if principal.kind == "client":
            if pub.fallback is not None and "fallback" not in principal.may:
                raise Forbidden("may not name channels", code="fallback_forbidden", field=field + ".fallback")
            if pub.priority == "critical" and "critical" not in principal.may:
                raise Forbidden(
                    "may not use this priority", code="critical_forbidden", field=field + ".priority"
                )
        if pub.fallback is not None:
            for i, name in enumerate(pub.fallback):
                if name not in self.core.config.channels:
                    raise Invalid(
                        f"no channel {name}", code="channel_unknown", field=f"{field}.fallback[{i}]"
                    )

    def _extra(self, pub: Publish, start: int, field: str) -> Extra | None:
        rare = (
            pub.type, pub.meta, pub.trace, pub.collapse, pub.notify, pub.fallback, pub.deadline, pub.reply_to,
            pub.correlation, pub.template,
        )  # fmt: skip
        if rare == NOTHING:
            return None
        if (
            pub.meta is not None
            and sum(len(k.encode()) + len(v.encode()) for k, v in pub.meta.items()) > MAX_META
        ):
            raise Invalid(f"meta has at most {MAX_META} bytes", code="meta_too_large", field=field + ".meta")
        if pub.reply_to is not None:
            check_address(pub.reply_to, field + ".reply_to")
        return Extra(
            type=pub.type,
            meta=pub.meta,
            trace=pub.trace,
            collapse=pub.collapse,
            notify=list(pub.notify) if pub.notify is not None else None,
            fallback=pub.fallback,
            deadline=start + ms(pub.deadline) if pub.deadline is not None else None,
            reply_to=pub.reply_to,
            correlation=pub.correlation,
        )

    def _admit(
        self, principal: Principal, pub: Publish, item: Item, sink: Sink, ref: Any, now: int, field: str
    ) -> None:
        """Quotas, then the commit. A repetition is recognised before quotas: it is let through to be looked up."""
        core = self.core
        session = core.sessions.get(item.client)
        full = session is not None and session.waiting + session.incoming + session.window.open >= self.queue
        if full and pub.key is None:
            raise self.full()
        if self.room() <= 0:
            raise Unavailable(
                "more bodies wait for the disk than are allowed", code="overloaded", retry_after=0.2
            )
        if session is None:
            session = core.session(item.client)
        commit = core.commit
        if pub.key is not None:
            window = core.config.dedup.window
            commit.keys[len(commit.appends)] = KeyClaim(
                principal.publisher,
                pub.key,
                digest(pub, item.body or b"") if pub.template is None else digest_of_values(pub),
                now,
                now - ms(window),
                full,
                field,
            )
        item.id = core.ids.next(now)
        self.add(commit, session, item, sink, ref)

    def add(self, commit: Commit, session: Session, item: Item, sink: Sink | None, ref: Any) -> None:
        """Put a new row into the commit: with a seq if its session is live and nothing waits before it."""
        core = self.core
        if item.hold == _WAITING:
            conn = session.conn
            report_for_plain = session.plain and item.kind == Kind.STATUS
            if conn is not None and not report_for_plain and session.may_bind_now(conn.writable):
                item.hold = _BOUND
                item.eno = session.eno
                item.status = int(Status.SENT)
                session.binding += 1
                own = item.x.deadline if item.x is not None and item.chain == Chain.READY else None
                item.due = own or 0
            else:
                item.due = core.next_look(item, session, item.at)
        session.incoming += 1
        self.took(len(item.body or b""))
        commit.appends.append(item)
        commit.sinks.append(sink)
        commit.refs.append(ref)
        report = core.report(item, item.status, "", item.at)
        if report is not None and len(commit.appends) - 1 in commit.keys:
            # only if it is no repetition
            core.report_with(commit, item.id, (item.hold,), report)
        elif report is not None:
            # a report of a report does not exist, so this does not recur
            self.add(commit, core.session(report.client), report, None, None)
        core.wake()

    def room(self) -> int:
        """Bytes of bodies that may still come in before the disk has taken some."""
        return self._intake_bytes - self.bytes

    def took(self, size: int) -> None:
        """So many bytes more wait for a commit."""
        self.bytes += size

    def full(self) -> Limited:
        """As many messages wait for a client as may."""
        return Limited(
            f"{self.queue} messages are pending for this client", code="queue_full", retry_after=5.0
        )


def digest_of_values(pub: Publish) -> bytes:
    """The same of a message that names a template: its values count, not the text of the day."""
    return digest(pub, b"null" if pub.body is UNSET else bytes(pub.body))


def digest(pub: Publish, body: bytes) -> bytes:
    """SHA-256 of the canonical message without `trace`: what tells a repetition from a conflict (PROTOCOL 2)."""
    fields = msgspec.to_builtins(pub, builtin_types=(msgspec.Raw,))
    fields.pop("trace", None)
    fields.pop("ref", None)
    fields["body"] = read_json(body)
    return hashlib.sha256(canonical(fields)).digest()
