"""All links to the broker: one clock, one count of framed clients, figures."""

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, Self

from gateway.config import Config
from gateway.config.checks import parse_broker
from gateway.errors import ConfigError
from gateway.observe.log import get_logger
from gateway.ports import Custodian
from gateway.transports.hub import HubSessions
from gateway.transports.mqtt.broker.custody import Custody
from gateway.transports.mqtt.broker.desks import Room
from gateway.transports.mqtt.broker.presence import Presence
from gateway.transports.mqtt.topics import Topics
from gateway.transports.wheel import Wheel

if TYPE_CHECKING:
    from gateway.transports.mqtt.broker.link import Link

# links that open their sockets at once: each takes a thread meanwhile
OPENING: Final = 2
# s in which what is with the hub, or with the broker, is answered before the gateway goes
STOP_WAIT: Final = 2.0
# ms between two looks of the clock
MAX_TICK: Final = 1000
MIN_TICK: Final = 10
# a turn that comes this many ticks late was held up: silence meanwhile proves nothing
LATE_TICKS: Final = 4

_log = get_logger("mqtt")


class BrokerHub(HubSessions, Protocol):
    """What the links ask of the hub."""

    custodian: Custodian | None
    presence_known: bool

    def broker_ready(self) -> None:
        """The custodian has room again."""

    def seen(self, client: str, online: bool) -> None:
        """The broker says that this client has connected, or is gone."""


class BrokerLinks:
    """The gateway at its broker. Made by `start`.

    What is public and not documented here belongs to the links.
    """

    def __init__(self, hub: BrokerHub, config: Config) -> None:
        broker = config.mqtt.broker
        self.hub = hub
        self.config = config
        self.topics = Topics(config.mqtt.prefix)
        self.tls: ssl.SSLContext | None = None
        self.rng = random.SystemRandom()
        self.opening = asyncio.Semaphore(OPENING)
        self.room = Room(broker.max_clients)
        self._loop = asyncio.get_running_loop()
        # the colon is in no client id of a device: no device's credentials can take a link over
        self._ids = [f"{broker.client_id}:{i:02}of{broker.links:02}" for i in range(broker.links)]
        self.presence = Presence(broker.presence, frozenset(self._ids), hub)
        self.custody = Custody(self.topics, hub.trace_root, hub.broker_ready, self._loop.call_soon)
        self._now = hub.scheduler.now
        self._tick_ms = max(MIN_TICK, min(MAX_TICK, round(config.session.heartbeat * 1000 / 8)))
        self.wheel = Wheel(self._tick_ms)
        self._turned = self._now()
        self._timer: asyncio.TimerHandle | None = None
        self._links: list[Link] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, hub: BrokerHub, config: Config) -> Self:
        """Connect to `config.mqtt.broker.url`, which is not empty, from now on. A broker that is away is waited for.

        Raises ConfigError for the url or the ca_file.
        """
        links = cls(hub, config)
        links.run()
        return links

    def run(self) -> None:
        """Begin. Raises ConfigError."""
        # who has no broker does without aiomqtt
        from gateway.transports.mqtt.broker.link import Link  # noqa: PLC0415

        broker = self.config.mqtt.broker
        try:
            address = parse_broker(broker.url)
        except ConfigError as error:
            field = "mqtt.broker.url"
            raise ConfigError(f"{field}: {error.detail}", field=field) from None
        if address.tls:
            self.tls = _tls(broker.ca_file)
        self._links = [Link(self, address, number, id) for number, id in enumerate(self._ids)]
        self.custody.serve(self._links)
        self.hub.custodian = self.custody
        self._tasks = [self._loop.create_task(link.run()) for link in self._links]
        self._tick()

    async def stop(self) -> None:
        """Take nothing more, let what was taken be answered, and DISCONNECT; the sessions at the broker stay."""
        self.hub.custodian = None
        self.presence.end()
        for link in self._links:
            link.inbound.stop()
        try:
            async with asyncio.timeout(STOP_WAIT):
                await self.custody.landed()
                for link in self._links:
                    await link.inbound.receipts.answered()
        except TimeoutError:
            _log.warning("stopped before all was answered", broker_owes=len(self.custody))
        await asyncio.gather(*(link.close() for link in self._links))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    @property
    def ready(self) -> str:
        """ "" when all links are up, else what is wrong."""
        away = [link for link in self._links if not link.up]
        if not away:
            return ""
        return f"broker: {len(away)} of {len(self._links)} links away: {away[0].why}"

    def figures(self) -> dict[str, float | dict[str, int]]:
        """Counters since the start and levels of now. `dropped`: publishes by why; `refused`: plain publishes by code,
        dead letters but for those at QoS 0; `custody`: messages for plain clients by what became of them.
        """
        links, custody, presence = self._links, self.custody, self.presence

        def total(of: Callable[["Link"], int]) -> int:
            return sum(of(link) for link in links)

        return {
            "links": len(links),
            "links_up": total(lambda link: link.up),
            "connects": total(lambda link: link.connects),
            "reconnects": total(lambda link: max(0, link.connects - 1)),
            "sessions_lost": total(lambda link: link.sessions_lost),
            "received": total(lambda link: link.inbound.received),
            "acked": total(lambda link: link.inbound.receipts.acked),
            "unacked": total(lambda link: len(link.inbound.receipts)),
            "held": total(lambda link: link.inbound.holds),
            "possible_duplicates": total(
                lambda link: link.inbound.possible_dups + link.inbound.uplink.possible_dups
            ),
            "published": total(lambda link: link.outbound.published) + custody.published,
            "buffered_bytes": total(lambda link: link.outbound.piled),
            "desks": self.room.taken,
            "dropped": _sum(
                [link.inbound.dropped for link in links]
                + [
                    {"refused": link.inbound.uplink.dropped, "unsent": link.outbound.dropped}
                    for link in links
                ]
            ),
            "refused": _sum([link.inbound.uplink.refusals for link in links]),
            "frames": {
                "in": total(lambda link: link.desks.framing.frames_in),
                "out": total(lambda link: link.desks.framing.frames_out),
                "dropped": total(lambda link: link.desks.framing.dropped),
            },
            "frame_closes": _sum(
                [{str(code): count for code, count in link.desks.framing.closes.items()} for link in links]
            ),
            "custody": {
                "published": custody.published,
                "taken": custody.taken_over,
                "refused": custody.refused,
                "unsent": custody.unsent,
                "lost": custody.lost_count,
                "waiting": len(custody),
            },
            "presence": {
                "told": presence.told,
                "unknown": presence.unknown,
            },
        }

    # -- time ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_ms / 1000, self._tick)
        self.turn()

    def turn(self) -> None:
        """Look at every framed client for which something may be due."""
        now = self._now()
        # the loop was held up, or the clock was put forward: nobody could be heard
        late = now - self._turned > LATE_TICKS * self._tick_ms + MAX_TICK
        for link in self._links:
            if late or link.inbound.holds:
                link.desks.framing.awake_since = now
        self._turned = now
        if self.wheel.turn(now):
            self._loop.call_soon(self.turn)


def _tls(ca_file: str) -> ssl.SSLContext:
    """Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        field = "mqtt.broker.ca_file"
        raise ConfigError(f"{field}: {error.strerror or error}", field=field) from None


def _sum(figures: list[dict[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for some in figures:
        for name, count in some.items():
            out[name] = out.get(name, 0) + count
    return out
