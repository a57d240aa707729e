"""Publishers: what they send, in an order of their own that stands in the body (`p`, `i`), and how they take the
answers. After an unknown outcome what has a key is sent again, with the same key, until the answer is known.
"""

import itertools
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.auth.principal import Principal
from gateway.errors import GatewayError
from gateway.model import Item, Publish
from tests.sim.ledger import Draft

if TYPE_CHECKING:
    from tests.sim.client import Client
    from tests.sim.link import Link
    from tests.sim.world import World

_publish = msgspec.json.Decoder(Publish).decode
NOTIFY = (
    "queued",
    "sent",
    "handed_over",
    "provider_accepted",
    "provider_delivered",
    "provider_read",
    "delivered",
    "read",
    "expired",
    "cancelled",
    "dead",
)


class Publisher:
    """What the two kinds share: drafts, answers, sending again."""

    def __init__(self, world: "World", name: str, rng: Random) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.index = 0
        self.open: dict[int, Draft] = {}  # sent and not answered, by ref
        self.again: list[Draft] = []  # to be sent again
        self._plan()

    def _plan(self) -> None:
        low, high = self.world.profile.pause
        self.world.timeline.after(self.rng.randint(low, high), self._turn)

    def _turn(self) -> None:
        if self.world.over and not self.again and not self.open:
            return
        self._plan()
        if not self.ready():
            return
        drafts, self.again = self.again, []
        if not self.world.over:
            drafts += [self.draft() for _ in range(self.rng.randint(1, self.world.profile.burst))]
        if drafts:
            for draft in drafts:
                self.open[draft.index] = draft
            self.send(drafts)

    def ready(self) -> bool:
        raise NotImplementedError

    def send(self, drafts: list[Draft]) -> None:
        raise NotImplementedError

    # -- what is sent ----------------------------------------------------------------------------------------------

    def draft(self) -> Draft:
        rng, p = self.rng, self.world.profile
        index, self.index = self.index, self.index + 1
        fields: dict[str, Any] = {
            "to": rng.choice(self.world.names),
            "body": {"p": self.name, "i": index},
        }
        if rng.random() < 0.25:
            return self._drafted(index, fields)
        if rng.random() < 0.6:
            fields["priority"] = rng.choice(("critical", "high", "normal", "low"))
        if rng.random() < p.keyed:
            fields["key"] = f"{self.name}/{index}"
        if rng.random() < p.timed:
            self._timed(fields)
        if rng.random() < p.chained:
            fields["fallback"] = rng.choice((["hook"], ["hook", "sms"], ["sms", "stop"], ["stop"], []))
            if rng.random() < 0.25:
                fields["deadline"] = rng.choice((0.3, 2, 6))
        if rng.random() < p.collapse:
            fields["collapse"] = rng.choice("ab")
        if rng.random() < 0.3:
            fields["notify"] = rng.sample(NOTIFY, rng.randint(1, len(NOTIFY)))
        if rng.random() < 0.1:
            fields |= {"type": "t/ü", "meta": {"a": "b"}}
        return self._drafted(index, fields)

    def _drafted(self, index: int, fields: dict[str, Any]) -> Draft:
        draft = Draft(self.name, index, fields)
        self.world.ledger.drafts[self.name, index] = draft
        return draft

    def _timed(self, fields: dict[str, Any]) -> None:
        what = self.rng.choice(("ttl", "deliver_at"))
        calm = not self.world.profile.act[1]
        if what == "ttl":
            fields["ttl"] = 300 if calm else self.rng.choice((1.5, 6, 20))
        else:
            fields["deliver_at"] = self.world.clock() + self.rng.choice((-500, 700, 4000))

    # -- answers ---------------------------------------------------------------------------------------------------

    def stored(self, ref: int, id: int, *, dup: bool) -> None:
        draft = self.open.pop(ref, None)
        if draft is None:
            self.world.ledger.fail(f"{self.name} got a second answer for {ref}")
            return
        self.world.ledger.stored(draft, id, dup=dup)
        if self.rng.random() < self.world.profile.cancel:
            self.world.timeline.after(self.rng.randint(0, 1500), lambda: self.world.cancel(draft))

    def refused(self, ref: int, code: str) -> None:
        draft = self.open.pop(ref, None)
        if draft is None:
            self.world.ledger.fail(f"{self.name} got a second answer for {ref}")
            return
        self.world.ledger.refused(draft, code)
        self._maybe_again(draft)

    def unknown(self) -> None:
        """No answer will come to what is open."""
        drafts, self.open = list(self.open.values()), {}
        for draft in drafts:
            draft.state = "unknown"
            self._maybe_again(draft)

    def _maybe_again(self, draft: Draft) -> None:
        if draft.state == "unknown" and "key" in draft.fields:
            draft.retried = True
            self.again.append(draft)


class ClientPublisher(Publisher):
    """Publishes over its client's connection."""

    def __init__(self, world: "World", client: "Client", rng: Random) -> None:
        self._client = client
        self._link: Link | None = None
        super().__init__(world, client.name, rng)

    def ready(self) -> bool:
        return self._link is not None and self._link.open

    def welcomed(self, link: "Link") -> None:
        self._link = link

    def lost(self) -> None:
        self._link = None
        self.unknown()

    def send(self, drafts: list[Draft]) -> None:
        assert self._link is not None
        device = self._client.device
        if device is not None and self._link.peer is device:
            device.publish(self._link, drafts)
            return
        self._link.send({"t": "pub", "m": [{"ref": d.index, **d.fields} for d in drafts]})


class KeyPublisher(Publisher):
    """Publishes with an API key, as the API does: by a call, answered through a sink."""

    def __init__(self, world: "World", name: str, rng: Random) -> None:
        self.principal = Principal(kind="key", name=name, scopes=frozenset({"publish"}))
        super().__init__(world, self.principal.publisher, rng)

    def ready(self) -> bool:
        return self.world.gateway is not None

    def send(self, drafts: list[Draft]) -> None:
        gateway = self.world.gateway
        assert gateway is not None
        sink = _Sink(self)
        gateway.sinks.append(sink)
        self.world.trace(self.name, "publish", [d.fields for d in drafts])
        at = 0
        while at < len(drafts):
            # those that are a body and no more go together, as far as the hub takes them so
            bare = [
                (d.fields["to"], msgspec.json.encode(d.fields["body"]), 0, d.index)
                for d in itertools.takewhile(lambda d: len(d.fields) == 2, drafts[at:])
            ]
            at += gateway.hub.publish_bare(self.principal, bare, sink) if bare else 0
            if at == len(drafts):
                break
            draft = drafts[at]
            at += 1
            pub = _publish(msgspec.json.encode(draft.fields))
            try:
                gateway.hub.publish(self.principal, pub, sink, draft.index)
            except GatewayError as error:
                self.refused(draft.index, error.code)


class _Sink:
    """The answers of one life of the gateway."""

    def __init__(self, publisher: KeyPublisher) -> None:
        self._publisher = publisher

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        self._publisher.world.trace(self._publisher.name, "stored", [ref, id, dup, status])
        self._publisher.stored(ref, id, dup=dup)

    def stored_run(self, refs: list[int], items: list[Item]) -> None:
        for ref, item in zip(refs, items, strict=True):
            self.stored(ref, item.id, False, item.status)

    def refused(self, ref: Any, error: GatewayError) -> None:
        self._publisher.world.trace(self._publisher.name, "refused", [ref, error.code])
        self._publisher.refused(ref, error.code)

    def died(self) -> None:
        self._publisher.unknown()
