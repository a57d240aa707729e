"""One run: the gateway on its store, its clients, publishers and channels, on virtual time, with faults by the seed.
When they have lasted long enough the world is healed, everything comes to its end, and the books are closed.
"""

import hashlib
from random import Random
from typing import Any, Final

import msgspec

from gateway.commit import Commit
from gateway.config.channels import Webhook
from gateway.config.schema import Config, Dedup, Limits, Routes, Session
from gateway.engine import handover
from gateway.errors import GatewayError, StoreFailed
from gateway.hub import Hub
from gateway.model import Item
from gateway.records import ClientRecord
from tests.sim import checks
from tests.sim.calls import Calls
from tests.sim.client import Client
from tests.sim.disk import Disk
from tests.sim.ledger import Draft, Ledger, Violation
from tests.sim.link import End, Link
from tests.sim.plain import SimDevice
from tests.sim.profiles import Profile
from tests.sim.provider import SimOutbound
from tests.sim.publisher import KeyPublisher
from tests.sim.scheduler import GatewayTime, Timeline

HEAL_LIMIT: Final = 20 * 60_000  # everything has come to its end by then
TAIL: Final = 60


def config_of(p: Profile) -> Config:
    def channel(on_ambiguous: Any, satisfied_by: Any) -> Webhook:
        return Webhook(
            url="http://hook.test", secret="whsec_x", max_attempts=3, backoff_base=0.5, backoff_max=4.0,
            on_ambiguous=on_ambiguous, satisfied_by=satisfied_by if p.reports else "accepted", receipt_timeout=3.0,
        )  # fmt: skip

    return Config(
        session=Session(
            window=p.window, ack_wait=p.ack_wait, ack_wait_max=p.ack_wait * 4, deliver_max=p.deliver_max,
            offline_deadline=p.offline, expiry=p.expiry, crash_max=p.crash_max,
        ),
        limits=Limits(head_messages=p.heads, queue_per_client=p.queue, max_window=32),
        dedup=Dedup(),
        routes=Routes(default=("hook",) if p.routed else ()),
        channels={
            "hook": channel("retry", "accepted"),
            "sms": channel("next", "delivered"),
            "stop": channel("stop", "read"),
        },
    )  # fmt: skip


class Gateway:
    """One life of the gateway's process."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.time = GatewayTime(world.timeline)
        self.conns: dict[End, None] = {}
        self.devices: dict[str, SimDevice] = {}  # the MQTT connection of each client
        self.sinks: list[Any] = []
        self.calls = Calls()
        rng = Random(f"{world.seed}/hub/{world.lives}")
        self.hub = Hub(
            world.config, world.disk, self.time, SimOutbound(self), world, rng, lambda: f"{rng.getrandbits(96):024x}",
            self._reanchor,
        )  # fmt: skip
        self.stopping = False
        self.era = (0, 0)
        self.steady = 0  # since when it runs undisturbed, on its own clock

    def _reanchor(self) -> int:
        step = self.time.reanchor()
        if step:
            self.steady = self.time.now()
        return step


class World:
    """Also the hub's Observer."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self.profile = profile
        self.seed = seed
        self.rng = Random(f"{seed}/world")
        self.timeline = Timeline(self.rng)
        self.lines: list[tuple[int, str, str, Any]] = []
        self.lives = 0
        self.healed = False  # nothing goes wrong any more
        self.over = False  # nobody publishes any more
        self.config = config_of(profile)
        self.ledger = Ledger(self)
        self.disk = Disk(self)
        self.gateway: Gateway | None = None
        self.links: list[Link] = []
        self._rude: set[str] = set()
        self._numbers = 0
        self.names = [f"bot-{i}" for i in range(profile.clients)]
        self.lates = {name for name in self.names if self.rng.random() < profile.late}
        self._devices = {name for name in self.names if profile.plain and self._has_device(name)}
        self.clients = [Client(self, name, Random(f"{seed}/{name}")) for name in self.names]
        self.keys = [KeyPublisher(self, f"key{i}", Random(f"{seed}/key{i}")) for i in range(profile.keys)]

    # -- looking on ------------------------------------------------------------------------------------------------

    def trace(self, who: str, what: str, data: Any) -> None:
        self.lines.append((self.timeline.mono, who, what, data))

    def tail(self, count: int = TAIL) -> str:
        return "\n".join(f"{at:>7} {who:>8} {what:<8} {data}" for at, who, what, data in self.lines[-count:])

    def digest(self) -> str:
        """Of the whole trace: the same for the same seed."""
        return hashlib.sha256(msgspec.json.encode(self.lines)).hexdigest()

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def clock(self) -> int:
        """The gateway's clock, or the wall's while it is down."""
        return self.gateway.time.now() if self.gateway is not None else self.timeline.wall()

    def late(self, client: str) -> bool:
        return client in self.lates

    @property
    def era(self) -> tuple[int, int]:
        """What the gateway's memory has lived through since this began is not lost."""
        generation = self.gateway.hub.core.generation if self.gateway is not None else 0
        return self.lives, generation

    def _has_device(self, name: str) -> bool:
        return Random(f"{self.seed}/{name}/kind").random() < self.profile.devices

    def is_device(self, client: str) -> bool:
        """Whether it comes by MQTT at times."""
        return client in self._devices

    def expect_rude(self, name: str) -> None:
        self._rude.add(name)

    def is_rude(self, name: str) -> bool:
        return name in self._rude

    # -- Observer --------------------------------------------------------------------------------------------------

    def committed(self, commit: Commit, seconds: float) -> None:
        pass

    def acked(self, elapsed: list[int]) -> None:
        pass

    def attempt(self, channel: str, kind: str) -> None:
        pass

    def receipt(self, channel: str, what: str) -> None:
        pass

    def learnt(self, channel: str, what: str) -> None:
        pass

    def on_their_way(self, items: list[Item], status: int, at: int, via: str) -> None:
        for item in items:
            self.status(item, status, at, via, "")

    def status(self, item: Item, status: int, at: int, via: str, why: str) -> None:
        self.trace("hub", "status", [item.id, status, via, why])
        self.ledger.status(item.id, status, why)

    # -- the gateway's lives ---------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.lives += 1
        gateway = Gateway(self)
        try:
            gateway.hub.start()
        except StoreFailed:
            gateway.time.stop()
            self.timeline.after(300, self.boot)
            return
        self.gateway = gateway
        self.ledger.epochs.booted()
        self.trace("world", "boot", self.lives)
        if self.lives == 1:
            for name in sorted(self.lates):
                self._put_late(gateway, name)

    def _put_late(self, gateway: Gateway, name: str) -> None:
        fallback = self.rng.choice((None, ["sms"], ["hook"]))
        record = ClientRecord(
            late="deliver", fallback=fallback, offline_deadline=self.rng.choice((None, 2.0))
        )

        def stored(_: Any, error: Exception | None) -> None:
            if error is not None and self.gateway is gateway:
                if self.timeline.mono < 5000:
                    self.timeline.after(700, lambda: self._put_late(gateway, name))
                else:
                    self.lates.discard(name)

        gateway.calls.start(gateway.hub.put_client(name, record), stored)

    def _plan_crash(self) -> None:
        low, high = self.profile.crash
        if high:
            self.timeline.after(self.rng.randint(low, high), self._crash)

    def _crash(self) -> None:
        if self.healed:
            return
        self._plan_crash()
        gateway = self.gateway
        if gateway is None or gateway.stopping:
            return
        if self.rng.random() < self.profile.graceful:
            gateway.stopping = True
            self.trace("world", "drain", None)
            gateway.hub.drain()
            gateway.time.after(self.rng.randint(0, 12_000), lambda: self._stop(gateway))
        else:
            self.kill()

    def _stop(self, gateway: Gateway) -> None:
        """The orderly end: no more connections, the last commit, then nothing."""
        for conn in list(gateway.conns):
            conn.close(4000, "stopping")

        def quiet() -> None:
            self.trace("world", "stop", None)
            gateway.hub.stop()
            self.disk.close()
            self._dead(gateway)

        gateway.hub.when_quiet(False, quiet)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.gateway is not None
        self.trace("world", "crash", None)
        self.disk.crash()
        self._dead(self.gateway)

    def _dead(self, gateway: Gateway) -> None:
        self.ledger.epochs.crashed()
        gateway.time.stop()
        self.gateway = None
        for link in self.links:
            if link.conn is not None:
                link.gateway_died()
        self.links = [link for link in self.links if link.open]
        gateway.calls.died()
        for sink in gateway.sinks[-1:]:
            sink.died()
        if self.rng.random() < self.profile.clock:
            self.step_clock()
        self.timeline.after(self.rng.randint(20, 2500), self.boot)

    def step_clock(self) -> None:
        """NTP has its say."""
        step = self.rng.choice((-4000, -300, 400, 2500, 30_000))
        self.trace("world", "clock", step)
        self.timeline.offset += step

    # -- what an administrator does --------------------------------------------------------------------------------

    def cancel(self, draft: Draft) -> None:
        gateway = self.gateway
        if gateway is None or gateway.hub.ready:
            return

        def told(_: Any, error: Exception | None) -> None:
            self.trace("admin", "cancel", [draft.id, type(error).__name__])
            if error is None:
                draft.cancelled = True
                checks.cancelled(self, draft)
            elif not isinstance(error, (GatewayError, ConnectionResetError)):
                raise error

        gateway.calls.start(gateway.hub.cancel(draft.id), told)

    # -- a run -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation. Three days of rest are a minute here."""
        rest, handover.REST = handover.REST, 60_000
        try:
            self._run()
        finally:
            handover.REST = rest

    def _run(self) -> None:
        self.boot()
        for client in self.clients:
            client.start()
        self._plan_crash()
        self.timeline.at(self.profile.length, self._publishers_stop)
        heal_at = self.profile.length + 2000
        audit_at = 0
        while self.timeline.mono < heal_at:
            self._turn()
            if self.timeline.mono >= audit_at:
                audit_at = self.timeline.mono + 500
                checks.audit(self)
        self._heal()
        self._settle(lambda: all(c.settled for c in self.clients))
        self._meet_again()
        checks.audit(self)
        checks.closing(self)
        self.kill()
        while self.gateway is None:
            self._turn()
        checks.audit(self)

    def _turn(self) -> None:
        self.timeline.turn()
        if self.gateway is not None:
            self.gateway.calls.poll()

    def _publishers_stop(self) -> None:
        self.over = True

    def _heal(self) -> None:
        self.trace("world", "healed", None)
        self.healed = True
        for link in self.links:
            if link.conn is not None:
                link.conn.resume()

    def _settle(self, done: Any) -> None:
        """Until nothing is open any more."""
        limit = self.timeline.mono + HEAL_LIMIT
        look_at = 0
        while True:
            self._turn()
            if self.timeline.mono < look_at:
                continue
            look_at = self.timeline.mono + 400
            checks.audit(self)
            what = self._open()
            if not what and done():
                return
            if self.timeline.mono > limit:
                waiting = [c.name for c in self.clients if not c.settled]
                raise Violation(f"never comes to rest: {what or waiting}")

    def _open(self) -> str:
        if self.gateway is None or self.gateway.stopping or self.gateway.hub.ready:
            return "the gateway"
        for publisher in (*self.keys, *(c.publisher for c in self.clients)):
            if publisher.open or publisher.again:
                return f"publishes of {publisher.name}: {publisher.open} {publisher.again}"
        return self.disk.pending({c.name for c in self.clients if c.on_device})

    def _meet_again(self) -> None:
        """Each client leaves and comes back once more, by WebSocket: now it has been told everything."""
        for client in self.clients:
            client.leave()
        self._settle(lambda: all(c.link is None for c in self.clients))
        for client in self.clients:
            client.wants = client.framed = True
            client.connect()
        self._settle(lambda: all(c.settled for c in self.clients))


class Broken(AssertionError):
    """A run did not go as it must: a Violation, or whatever else was raised."""

    def __init__(self, world: World, why: Exception) -> None:
        name = "" if isinstance(why, Violation) else f"{type(why).__name__}: "
        super().__init__(
            f"profile {world.profile.name}, seed {world.seed}, at {world.timeline.mono} ms: {name}{why}"
        )
        self.world = world


def run(profile: Profile, seed: int) -> World:
    """One run, whole. Raises Broken."""
    world = World(profile, seed)
    try:
        world.run()
    except Exception as error:
        raise Broken(world, error) from error
    return world
