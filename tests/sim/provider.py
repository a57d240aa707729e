"""The channels' side: takes attempts, accepts, refuses, keeps silent. Whether a provider really has a message and what
the gateway learns of it are two things.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import GatewayError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome, Receipt
from tests.sim.ledger import Attempt

if TYPE_CHECKING:
    from tests.sim.world import Gateway, World

ROOM: Final = 3
TIMEOUT: Final = 4000
# what a provider says of one attempt in the end
STORIES: Final = (
    ("accepted", "delivered"),
    ("delivered",),
    ("accepted", "delivered", "read"),
    ("delivered", "read"),
    ("accepted", "failed"),
    ("failed",),
    ("accepted",),
    (),
)
KINDS: Final = ("delivered", "retry", "refused", "ambiguous", "silent")


class SimOutbound:
    """ports.Outbound of one life of the gateway."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self.world = gateway.world
        self._open: dict[str, int] = {}
        self._rests: dict[str, int] = {}  # channels that take nothing until then
        self._shut: dict[str, int] = {}  # and those whose breaker is open

    def room(self, channel: str) -> int:
        now = self.world.timeline.mono
        if max(self._rests.get(channel, 0), self._shut.get(channel, 0)) > now:
            return 0
        return ROOM - self._open.get(channel, 0)

    def shut(self, channel: str) -> int:
        return max(0, self._shut.get(channel, 0) - self.world.timeline.mono)

    def admit(self, channel: str, address: str) -> int:
        """Some address or other has to wait."""
        rng = self.world.rng
        return 0 if self.world.healed or rng.random() < 0.9 else rng.randint(1, 1500)

    def _weary(self, channel: str) -> None:
        """The channel may have to rest after this attempt: `channel_ready` tells its end."""
        rng, now = self.world.rng, self.world.timeline.mono
        if self.world.healed or rng.random() < 0.85:
            return
        length = rng.randint(50, 2500)
        which = rng.choice((self._rests, self._shut))
        which[channel] = now + length
        self.world.trace(channel, "rests" if which is self._rests else "opens", length)
        self.gateway.time.after(length, lambda: self.gateway.hub.channel_ready(channel))

    def send(
        self, channel: str, item: Item, attempt: int, address: str, done: Callable[[Outcome], None]
    ) -> None:
        world = self.world
        if self.room(channel) <= 0 or (not world.healed and world.rng.random() < 0.05):
            world.trace(channel, "held", encode_id(item.id))
            wait = world.rng.choice((0.0, 0.7))
            self.gateway.time.after(0, lambda: done(Outcome("held", "no room", retry_after=wait)))
            return
        body = item.body
        if body is None:
            world.ledger.fail(f"attempt of {encode_id(item.id)} without its body")
            return
        made = world.ledger.attempt(channel, item, attempt)
        world.trace(channel, "attempt", [encode_id(item.id), attempt])
        self._open[channel] = self._open.get(channel, 0) + 1
        rng = world.rng
        kind = "delivered" if world.healed else rng.choices(KINDS, world.profile.outcomes)[0]
        if kind == "delivered" or (kind in {"ambiguous", "silent"} and rng.random() < 0.5):
            # the request arrives whether or not the gateway lives to see it
            id, arrives = item.id, rng.randint(1, 60)
            world.timeline.after(arrives, lambda: world.ledger.taken(id, made, body))
            if world.profile.reports:
                self._report(id, made, arrives)
        delay = TIMEOUT if kind == "silent" else rng.randint(60, 800)
        outcome = self._outcome(kind)
        self.gateway.time.after(delay, lambda: self._done(channel, item.id, made, outcome, done))

    def _outcome(self, kind: str) -> Outcome:
        match kind:
            case "retry":
                return Outcome(
                    "retry", "503", retry_after=self.world.rng.choice((0.0, 0.0, 1.0, 3.0)), status=503
                )
            case "refused":
                return Outcome("refused", "400", blame="message", status=400)
            case "delivered" if self.world.profile.reports:
                return Outcome("accepted", "202", status=202, receipt=True)
            case "delivered":
                return Outcome("delivered", "204", status=204)
            case _:
                return Outcome("ambiguous", "no answer")

    def _report(self, id: int, made: Attempt, arrives: int) -> None:
        """What the provider will say of it: in some order, at some time, some of it twice."""
        world, rng = self.world, self.world.rng
        said = list(rng.choice(STORIES))
        if rng.random() < 0.3:
            rng.shuffle(said)
        if said and rng.random() < 0.3:
            said.append(rng.choice(said))
        at = arrives
        for status in said:
            at += rng.choice((1, rng.randint(1, 300), rng.randint(1, 6000)))
            receipt = Receipt(ref=f"{encode_id(id)}.{made.n}", status=status, code=status[:3], reason=status)
            world.timeline.after(at, partial(_call, world, made, receipt))

    def _done(
        self, channel: str, id: int, made: Attempt, outcome: Outcome, done: Callable[[Outcome], None]
    ) -> None:
        self._open[channel] -= 1
        self._weary(channel)
        if made.era == self.world.era:
            made.outcome = outcome
            made.outcome_at = self.gateway.time.now()
        self.world.trace(channel, outcome.kind, encode_id(id))
        done(outcome)


def _call(world: "World", made: Attempt, receipt: Receipt) -> None:
    """A callback. It is made until it is answered; what is answered is on disk."""
    gateway = world.gateway

    def again() -> None:
        world.timeline.after(world.rng.randint(100, 1500), partial(_call, world, made, receipt))

    if gateway is None or gateway.hub.ready:
        again()
        return

    def answered(_: Any, error: Exception | None) -> None:
        world.trace(made.channel, "answered", [receipt.ref, receipt.status, type(error).__name__])
        if error is None:
            world.ledger.receipt(made, receipt)
        elif isinstance(error, (GatewayError, ConnectionResetError)):
            again()
        else:
            raise error

    made.reported.add(receipt.status)
    world.trace(made.channel, "reports", [receipt.ref, receipt.status])
    gateway.calls.start(gateway.hub.receipts(made.channel, [receipt]), answered)
