"""What the hub asks of the store behind a commit: each read is a question, with the place for its answer.

A read sees everything that was submitted before it; `then` is told on the loop, once its answer is filled in.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from gateway.model import ChainRow, Item
from gateway.records import Suppression


class Event(Struct, frozen=True):
    """One line of a message's timeline beyond what its row says. `data` is small and holds no body and no
    secret.
    """

    id: int
    at: int
    kind: str
    data: dict[str, Any] | None = None


class ReadWaiting:
    """The first `limit` WAITING rows of one lane of a client above id `after`, lowest id first, with bodies.

    `bare`: messages only, no status reports. `fresh`: messages only that were never sent in any way (status QUEUED, no
    marks).
    """

    __slots__ = ("after", "bare", "client", "fresh", "items", "lane", "limit", "then")

    def __init__(
        self,
        client: str,
        lane: int,
        limit: int,
        then: Callable[["ReadWaiting"], None],
        *,
        bare: bool = False,
        fresh: bool = False,
        after: int = 0,
    ) -> None:
        self.bare = bare
        self.fresh = fresh
        self.after = after
        self.client = client
        self.lane = lane
        self.limit = limit
        self.then = then
        self.items: list[Item] = []


class ReadChainable:
    """Up to `limit` WAITING or LATER rows of a client above id `after` with chain READY and no deadline of
    their own, not before their deliver_at, by id, without bodies.
    """

    __slots__ = ("after", "client", "items", "limit", "now", "then")

    def __init__(
        self, client: str, after: int, now: int, limit: int, then: Callable[["ReadChainable"], None]
    ) -> None:
        self.client = client
        self.after = after
        self.now = now
        self.limit = limit
        self.then = then
        self.items: list[Item] = []


class ReadItems:
    """The rows of these ids, with bodies (missing ones are left out)."""

    __slots__ = ("ids", "items", "then")

    def __init__(self, ids: list[int], then: Callable[["ReadItems"], None]) -> None:
        self.ids = ids
        self.then = then
        self.items: list[Item] = []


class ReadDue:
    """Up to `limit` rows whose `due` has come, earliest first, without bodies, and the earliest `due` after
    them (0 = none).
    """

    __slots__ = ("items", "limit", "next_due", "now", "then")

    def __init__(self, now: int, limit: int, then: Callable[["ReadDue"], None]) -> None:
        self.now = now
        self.limit = limit
        self.then = then
        self.items: list[Item] = []
        self.next_due = 0


class ReadChains:
    """Up to `limit` waiting chain rows of one channel whose `due` has come, by lane, within one earliest first, each
    with its message and body, and the earliest `due` of that channel among the others (0 = none).
    """

    __slots__ = ("channel", "limit", "next_due", "now", "rows", "then")

    def __init__(self, channel: str, now: int, limit: int, then: Callable[["ReadChains"], None]) -> None:
        self.channel = channel
        self.now = now
        self.limit = limit
        self.then = then
        self.rows: list[tuple[ChainRow, Item]] = []
        self.next_due = 0


class ReadResting:
    """Up to `limit` chain rows in phase RECEIPT whose `due` has come, earliest first, each with its message and body,
    and the earliest `due` after them (0 = none).
    """

    __slots__ = ("limit", "next_due", "now", "rows", "then")

    def __init__(self, now: int, limit: int, then: Callable[["ReadResting"], None]) -> None:
        self.now = now
        self.limit = limit
        self.then = then
        self.rows: list[tuple[ChainRow, Item]] = []
        self.next_due = 0


class Story(Struct, frozen=True):
    """A message, whole, with its chain row and the lines of its timeline in the order of their times."""

    item: Item
    row: ChainRow | None
    events: list[Event]


class ReadStories:
    """The stories of these messages, by id (missing ones are left out)."""

    __slots__ = ("found", "ids", "then")

    def __init__(self, ids: list[int], then: Callable[["ReadStories"], None]) -> None:
        self.ids = ids
        self.then = then
        self.found: dict[int, Story] = {}


class ReadChain:
    """The chain row of one message, with the message (body too), or None."""

    __slots__ = ("id", "item", "row", "then")

    def __init__(self, id: int, then: Callable[["ReadChain"], None]) -> None:
        self.id = id
        self.then = then
        self.row: ChainRow | None = None
        self.item: Item | None = None


class ReadSuppressed:
    """What is suppressed of these addresses."""

    __slots__ = ("addresses", "found", "then")

    def __init__(self, addresses: list[str], then: Callable[["ReadSuppressed"], None]) -> None:
        self.addresses = addresses
        self.then = then
        self.found: dict[str, list[Suppression]] = {}


Read = (
    ReadWaiting
    | ReadChainable
    | ReadItems
    | ReadDue
    | ReadChains
    | ReadResting
    | ReadStories
    | ReadChain
    | ReadSuppressed
)
