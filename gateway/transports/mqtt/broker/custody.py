"""Messages for plain clients behind the broker: each is published once, and its PUBACK is the broker's custody.

A client's messages go by the link of its part, so they reach the broker in order. Where a link is away, or the broker
refuses one, the hub is told and keeps it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from gateway.model import Item
from gateway.topics import part_of
from gateway.transports.mqtt.framing import payload_room
from gateway.transports.mqtt.plain import Plain
from gateway.transports.mqtt.topics import Topics

# messages that one link has given to the broker, and that are not acknowledged; less where its Receive Maximum is
MOST: Final = 1000
PACKET_ID: Final = 2  # its bytes

Done = Callable[[bool], None]


class Carrier(Protocol):
    """A link, as far as it publishes at QoS 1."""

    @property
    def up(self) -> bool: ...

    @property
    def receive_maximum(self) -> int:
        """The broker's."""

    @property
    def max_packet(self) -> int:
        """The broker's Maximum Packet Size, in bytes."""

    def publish_1(self, topic: str, payload: bytes, block: bytes) -> int:
        """The packet id; 0: it could not be sent."""


class Custody:
    """A ports.Custodian. `ready` tells the hub that there is room again; `soon`: later in the loop."""

    __slots__ = (
        "_flying", "_full", "_idle", "_links", "_ready", "_root", "_soon", "_topics", "_waiting", "lost_count",
        "published", "refused", "taken_over", "unsent",
    )  # fmt: skip

    def __init__(
        self,
        topics: Topics,
        trace_root: str,
        ready: Callable[[], None],
        soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._topics = topics
        self._root = trace_root
        self._ready = ready
        self._soon = soon
        self._links: Sequence[Carrier] = ()
        self._flying: list[dict[int, Done]] = []  # by link: packet id -> whom to tell
        self._waiting = 0  # of all links
        self._idle = asyncio.Event()
        self._idle.set()
        self._full = True
        # figures
        self.published = 0
        self.taken_over = 0
        self.refused = 0
        self.unsent = 0  # too long, or the link had just gone
        self.lost_count = 0  # their link was lost before their PUBACK

    def serve(self, links: Sequence[Carrier]) -> None:
        """By these, part p by number p modulo their count."""
        self._links = links
        self._flying = [{} for _ in links]

    def __len__(self) -> int:
        """Messages without a PUBACK."""
        return self._waiting

    # -- a ports.Custodian -----------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more it takes now; 0 while a link is away."""
        # all of them may be for clients of one link
        room = min(
            min(MOST, link.receive_maximum) - len(flying) if link.up else 0
            for link, flying in zip(self._links, self._flying, strict=True)
        )
        self._full = self._full or room <= 0
        return max(room, 0)

    def publish(self, item: Item, now: int, done: Done) -> None:
        """Publish once; `done` is called later in the loop."""
        client = item.client
        number = int(part_of(client)) % len(self._links)
        link = self._links[number]
        topic = self._topics.inbox(client)
        plain = Plain(5, topic, "", self._root, self._topics.own_to(client, ""))
        payload, block = plain.parts(item, now)
        # one that is too long for the broker would end the link
        fits = len(payload) + len(block) <= payload_room(link.max_packet, topic) - PACKET_ID
        pid = link.publish_1(topic.decode(), payload, block) if link.up and fits else 0
        if not pid:
            self.unsent += 1
            self._soon(lambda: done(False))
            return
        self.published += 1
        self._waiting += 1
        self._idle.clear()
        self._flying[number][pid] = done

    # -- what the links tell ---------------------------------------------------------------------------------------

    def taken(self, number: int, pid: int, ok: bool) -> None:
        """A PUBACK came over this link."""
        done = self._flying[number].pop(pid, None)
        if done is None:
            return
        if ok:
            self.taken_over += 1
        else:
            self.refused += 1
        self._tell([done], ok)
        self.look()

    def lost(self, number: int) -> None:
        """This link is away: whether the broker has what it was given last, nobody can tell."""
        flying, self._flying[number] = self._flying[number], {}
        self.lost_count += len(flying)
        self._tell(list(flying.values()), False)

    def _tell(self, whom: list[Done], ok: bool) -> None:
        self._waiting -= len(whom)
        if not self._waiting:
            self._idle.set()
        for done in whom:
            self._soon(lambda done=done: done(ok))  # type: ignore[misc]

    async def landed(self) -> None:
        """Until no message waits for its PUBACK."""
        await self._idle.wait()

    def look(self) -> None:
        """Tell the hub when there is room again, once there is some."""
        if self._full and self.room():
            self._full = False
            self._ready()
