"""What comes from the broker over one link: whose it is, and when it is acknowledged.

A PUBLISH is acknowledged when nothing more can come of it: a plain one when it is a message or a dead letter, durably;
a frame when each message that it publishes has its answer; anything else at once. What may succeed later is not: where
the hub says so at once the link holds its input and tries again; where a commit failed the connection is dropped, and
the broker sends again all that has no PUBACK.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.observe.log import get_logger
from gateway.transports.hub import HubSessions
from gateway.transports.mqtt.broker.desks import Batch, Desks
from gateway.transports.mqtt.broker.receipts import Receipts
from gateway.transports.mqtt.broker.repeats import Repeats, Use
from gateway.transports.mqtt.broker.uplink import ASK, TAKEN, TRY_AGAIN, Uplink, mark_of, principal_of
from gateway.transports.mqtt.codec import Publish
from gateway.transports.mqtt.topics import Refusal, Topics

# Publishes at QoS 0 without an answer, or packets held back above the receive maximum, at which no more is read
LOOSE_HIGH: Final = 1024
# s in which more of what the broker sends again is awaited before the store is asked, once for all of it
GATHER: Final = 0.05

_log = get_logger("mqtt")


class Carrier(Protocol):
    """A connection, as far as it is read."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Inbound:
    """`ack` writes a PUBACK; `fail` drops the connection, later in the loop. `held_bytes`: payloads that may be held
    back before no more is read.
    """

    __slots__ = (
        "_carrier", "_desks", "_gathering", "_held", "_held_bytes", "_hub", "_limit", "_listens", "_loop",
        "_receive_maximum", "_repeats", "_stopped", "_takes", "_task", "_timer", "_topics", "dropped",
        "possible_dups", "receipts", "received", "uplink",
    )  # fmt: skip

    def __init__(
        self,
        hub: HubSessions,
        topics: Topics,
        desks: Desks,
        *,
        receive_maximum: int,
        held_bytes: int,
        ack: Callable[[int], None],
        fail: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._topics = topics
        self._desks = desks
        self._receive_maximum = receive_maximum
        self._limit = held_bytes
        self._loop = asyncio.get_running_loop()
        self.receipts = Receipts(ack)
        self._repeats = Repeats(hub, receive_maximum)
        self.uplink = Uplink(hub, topics, self.receipts, self._repeats, fail, self._pace)
        self._carrier: Carrier | None = None
        self._listens = True
        self._takes = False
        self._stopped = False
        self._held: deque[Publish] = deque()  # in the order of receipt; the first one must wait
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._gathering = False
        self._task: asyncio.Task[None] | None = None  # asks the store
        # figures
        self.received = 0
        self.possible_dups = 0  # in frames
        self.dropped: dict[str, int] = {}

    @property
    def holds(self) -> bool:
        """Whether it takes nothing for now."""
        return bool(self._held)

    # -- the connection --------------------------------------------------------------------------------------------

    def begin(self, carrier: Carrier) -> None:
        """What comes from now on comes over this connection."""
        self._carrier = carrier
        self._listens = True
        self._takes = not self._stopped

    def shut(self) -> None:
        """Something must come again, and so must all behind it: take nothing more of this connection."""
        self._takes = False
        self._let_go()

    def end(self) -> None:
        """It is gone. What is with the hub goes its way; what is held comes again."""
        self._carrier = None
        self.receipts.drop()
        self._let_go()

    def stop(self) -> None:
        """Take nothing more, of any."""
        self._stopped = True
        self.shut()

    def _let_go(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        self._gathering = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    # -- a PUBLISH -------------------------------------------------------------------------------------------------

    def receive(self, packet: Publish) -> None:
        """The next one of the broker."""
        self.received += 1
        if not self._takes:
            return
        if self._held or not self._take(packet):
            self._held.append(packet)
            self._held_bytes += len(packet.payload)
            if self._gathering and packet.pid and not packet.dup:
                # what was sent again is all there
                self._ask()
        self._pace()

    def _take(self, packet: Publish) -> bool:
        """Whether it was taken; else it is to be held, and `_release` will be called."""
        try:
            wait = self._sort(packet)
        except Exception as error:  # noqa: BLE001 - a fault met by one publish must not hold up all behind it
            _log.error("a publish could not be handled", error=type(error).__name__)
            wait = self._drop(packet, "fault")
        if wait == TAKEN:
            return True
        self._gathering = wait == ASK
        if self._gathering:
            self._timer = self._loop.call_later(GATHER, self._ask)
        else:
            self._timer = self._loop.call_later(wait, self._release)
        return False

    def _sort(self, packet: Publish) -> float:
        """See Uplink.take."""
        try:
            where = self._topics.uplink(packet.topic)
        except UnicodeDecodeError:
            return self._drop(packet, "topic")
        if isinstance(where, Refusal):
            return self._drop(packet, "topic")
        if packet.retain:
            return self._drop(packet, "retained")
        client, address = where
        if address is None:
            return self._frame(packet, client)
        if self._hub.banned(client, self._hub.scheduler.now()):
            return self._drop(packet, "banned")
        return self.uplink.take(packet, client, address)

    def _drop(self, packet: Publish, why: str) -> float:
        """It is nothing that anybody waits for."""
        self.dropped[why] = self.dropped.get(why, 0) + 1
        if packet.pid:
            self.receipts.finish(self.receipts.take(packet.pid))
        return TAKEN

    def _frame(self, packet: Publish, client: str) -> float:
        pid, repeats, receipts = packet.pid, self._repeats, self.receipts
        mark = mark_of(packet) if pid else 0
        use = repeats.known(pid, mark) if packet.dup else None
        receipt = receipts.take(pid) if pid else None
        if pid:
            repeats.begins(pid, dup=packet.dup)
        receipts.opened()

        def answered(batch: Batch) -> None:
            if receipt is not None:
                if batch.ids:
                    repeats.used(pid, Use(mark, batch.ids))
                receipts.finish(receipt)
            receipts.closed()

        batch = Batch(answered)
        if use is not None:
            batch.earlier = use.ids
            self.possible_dups += len(use.ids)
        try:
            self._desks.receive(principal_of(client), packet.payload, batch, again=packet.dup)
        except Exception as error:  # noqa: BLE001 - see _take
            _log.error("a frame could not be handled", client=client, error=type(error).__name__)
            self.dropped["fault"] = self.dropped.get("fault", 0) + 1
        batch.close()
        return TAKEN

    # -- holding back ----------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """The store is to say what the packet ids stood for, of all that was sent again."""
        self._gathering = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        clients: dict[str, None] = {}
        for packet in self._held:
            if packet.dup and packet.pid:
                where = self._topics.uplink(packet.topic)
                if not isinstance(where, Refusal) and where[1] is not None:
                    clients[where[0]] = None
        self._task = self._loop.create_task(self._look_up(list(clients)))

    async def _look_up(self, clients: list[str]) -> None:
        try:
            await self._repeats.ask(clients)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is asked again
            if not isinstance(error, GatewayError):
                _log.error("earlier publishes could not be looked up", error=type(error).__name__)
            wait = error.retry_after if isinstance(error, GatewayError) else None
            self._timer = self._loop.call_later(wait or TRY_AGAIN, self._release)
        else:
            self._release()

    def _release(self) -> None:
        """Take what was held, in order."""
        self._timer = None
        held = self._held
        while held and self._take(held[0]):
            self._held_bytes -= len(held.popleft().payload)
        self._pace()

    def _pace(self) -> None:
        """Read on, or leave the broker alone for as long as too much is open."""
        if self._carrier is None:
            return
        listens = (
            self.uplink.loose < LOOSE_HIGH
            and len(self._held) < self._receive_maximum + LOOSE_HIGH
            and self._held_bytes < self._limit
        )
        if listens is self._listens:
            return
        self._listens = listens
        if listens:
            self._carrier.resume()
        else:
            self._carrier.pause()
