"""One durable session at the broker, and its connection: opened again and again until the gateway stops.

    AWAY ── CONNACK, SUBACK ──> UP
      ^                         │ lost, or dropped for what must be sent again
      └── pause, full jitter ───┘

While it is away its framed clients are told nothing: messages for them wait in the store, and a client whose silence
gets too long is away like any other. When it is back, what they were sent and have not acked comes again: nobody can
tell how much of it was lost. No connection begins before all that came over the last one has its answer, so that what a
packet id stood for is known when the broker sends again.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.config.checks import BrokerAddress
from gateway.engine.backoff import full_jitter
from gateway.observe.log import get_logger
from gateway.topics import PARTS
from gateway.transports.mqtt.broker.connection import Connection, Lost
from gateway.transports.mqtt.broker.desks import Desks
from gateway.transports.mqtt.broker.inbound import Inbound
from gateway.transports.mqtt.broker.outbound import Outbound
from gateway.transports.mqtt.codec import Publish, Reason
from gateway.transports.mqtt.codes import label

if TYPE_CHECKING:
    from gateway.transports.mqtt.broker.links import BrokerLinks

# ms between two connections: up to the first at first, doubling up to the second
PAUSE: Final = 500
PAUSE_MAX: Final = 30_000
# s after which a connection counts as good: the next pause is a short one
STEADY: Final = 10.0
# s in which what was written last can leave
FLUSH_WAIT: Final = 2.0

FAILED: Final = 0x80  # reason codes from here on

_SYS: Final = b"$SYS/"
_log = get_logger("mqtt")


class Link:
    """A connection.Listener and a custody.Carrier. It serves the parts p of which p modulo the links is `number`."""

    def __init__(self, links: "BrokerLinks", address: BrokerAddress, number: int, client_id: str) -> None:
        config = links.config
        broker = config.mqtt.broker
        self._links = links
        self._address = address
        self._number = number
        self._client_id = client_id
        self._loop = asyncio.get_running_loop()
        self._filters = [
            f"{config.mqtt.prefix}/u/{part:02}/#" for part in range(PARTS) if part % broker.links == number
        ]
        self._conn: Connection | None = None
        self._subscribed = False  # in this process; the session at the broker may be older
        self.outbound = Outbound(broker.buffer_limit, self._congest, self._loop.call_soon)
        self.desks = Desks(links.hub, config, links.wheel, links.topics, self.outbound, links.room)
        self.inbound = Inbound(
            links.hub,
            links.topics,
            self.desks,
            receive_maximum=broker.receive_maximum,
            held_bytes=broker.buffer_limit,
            ack=self.outbound.ack,
            fail=self._fail,
        )
        self._stopping = False
        self.up = False
        self.why = "connecting"  # it is not up
        # figures
        self.connects = 0
        self.sessions_lost = 0

    # -- the life of connections -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled."""
        tries = 0
        while True:
            conn = self._conn = Connection(
                self._links.config, self._address, self._links.tls, self._client_id, self
            )
            began = self._loop.time()
            try:
                why = await self._serve(conn)
            except Exception as error:  # noqa: BLE001 - a fault ends this connection, not the link
                _log.error(
                    "a link to the broker has failed", link=self._client_id, error=type(error).__name__
                )
                why = "internal error"
            finally:
                conn.drop("given up")
                self._end()
            if self.why != why and not self._stopping:
                # once, however often it is tried
                _log.warning(
                    "link to the broker away", link=self._client_id, broker=str(self._address), why=why
                )
            self.why = why
            await self.inbound.receipts.answered()
            tries = 1 if self._loop.time() - began > STEADY else tries + 1
            await asyncio.sleep(full_jitter(self._links.rng, PAUSE, PAUSE_MAX, tries) / 1000)

    async def _serve(self, conn: Connection) -> str:
        """From the socket to its end: why it ended."""
        # the broker may send as soon as it has accepted
        self.inbound.begin(conn)
        self.outbound.begin(conn)
        try:
            async with self._links.opening:
                await conn.open()
            self.connects += 1
            self.desks.up(conn.max_packet)
            self.outbound.open()
            await self._subscribe(conn)
        except Lost as error:
            return error.why
        if not conn.ended.done():
            self.up = True
            self.why = ""
            _log.info("link to the broker up", link=self._client_id, broker=str(self._address))
            self._links.custody.look()
        await asyncio.wait((conn.ended,))
        return conn.ended.result()

    def _end(self) -> None:
        self.up = False
        self._conn = None
        self.inbound.end()
        self.outbound.end()
        self.desks.down()
        self._links.custody.lost(self._number)

    async def _subscribe(self, conn: Connection) -> None:
        """Once in each session, and at first: an older session may have been another configuration's. Raises Lost."""
        if self._subscribed:
            if conn.session_present:
                return
            self.sessions_lost += 1
            _log.warning("the broker has lost the session of a link", link=self._client_id)
            self._subscribed = False
        for code in await conn.subscribe_to(self._filters, 1):
            if code != Reason.GRANTED_QOS_1:
                raise Lost(f"subscription not granted: {label(code)}")
        if self._number == 0:
            await self._listen(conn)
        self._subscribed = True

    async def _listen(self, conn: Connection) -> None:
        """To the source of presence."""
        presence = self._links.presence
        if not presence.filters:
            return
        codes = await conn.subscribe_to(presence.filters, 0)
        if any(code >= FAILED for code in codes):
            _log.error("the broker does not let the gateway read who is connected", topics=presence.filters)
            presence.end()
        else:
            presence.begin()

    def _fail(self, why: str) -> None:
        """What came last must be sent again."""
        conn = self._conn
        if conn is not None:
            self.inbound.shut()
            # the hub, or paho, may be in the middle of something
            self._loop.call_soon(conn.drop, why)

    async def close(self) -> None:
        """The gateway stops, nothing is taken any more: say so to the clients, and DISCONNECT."""
        self._stopping = True
        self.desks.stop()
        conn = self._conn
        if conn is None:
            return
        try:
            async with asyncio.timeout(FLUSH_WAIT):
                await self.outbound.emptied()
        except TimeoutError:
            _log.warning("the broker does not take what was written last", link=self._client_id)
        await conn.close()

    # -- what the connection tells ---------------------------------------------------------------------------------

    def received(self, packet: Publish) -> None:
        """A PUBLISH of the broker."""
        if packet.topic.startswith(_SYS) and not packet.pid:
            self._loop.call_soon(self._links.presence.take, packet.topic, packet.payload)
        else:
            self.inbound.receive(packet)

    def taken(self, pid: int, ok: bool) -> None:
        """A PUBACK of the broker."""
        self._links.custody.taken(self._number, pid, ok)

    def drained(self) -> None:
        """All that was written is with the socket."""
        self.outbound.drained()

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def receive_maximum(self) -> int:
        """How many publishes the broker takes at once."""
        return self._conn.receive_maximum if self._conn is not None else 0

    @property
    def max_packet(self) -> int:
        """Bytes of the longest packet that it takes."""
        return self._conn.max_packet if self._conn is not None else 0

    def publish_1(self, topic: str, payload: bytes, block: bytes) -> int:
        """PUBLISH at QoS 1: the packet id; 0: it could not be sent."""
        return self._conn.publish_1(topic, payload, block) if self._conn is not None else 0

    def _congest(self, congested: bool) -> None:
        self.desks.congest(congested)
