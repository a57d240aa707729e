"""What is bound and not settled: the window of one session.

Items stand in seq order. A settled one that is not the lowest stays as a tombstone (hold NONE) until everything
below it is settled, so that seqs are nearly always contiguous and a single ack finds its item by subtraction.

    open      messages and statuses unsettled: these count against the window
    flight    those of them that this connection has been written
    unwritten bound and not yet written to this connection, in seq order (after a resume: everything)

Gaps are in the window too (their seq is unsettled) and count for neither. What is settled or became a gap has no body
any more: it is not to be written, even where a connection still holds it for a peer that does not read.
"""

from collections import deque

from gateway.model import SEQ_SPAN, Hold, Item, Kind

_NONE = int(Hold.NONE)
_CLAIMED = int(Hold.CLAIMED)
_GAP = int(Kind.GAP)


class Window:
    __slots__ = ("flight", "items", "open", "unwritten")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.unwritten: deque[Item] = deque()
        self.open = 0
        self.flight = 0

    def lowest(self) -> Item | None:
        """The lowest unsettled item, or None."""
        items = self.items
        while items:
            item = items[0]
            if item.hold != _NONE:
                return item
            items.popleft()
        return None

    def lowest_owned(self) -> Item | None:
        """The lowest unsettled item that the session itself owns: not one that its chain has claimed."""
        low = self.lowest()
        if low is None or low.hold != _CLAIMED:
            return low
        for item in self.items:
            if item.hold not in (_NONE, _CLAIMED):
                return item
        return None

    def span_left(self, next_seq: int) -> int:
        """How many seqs may be bound before one would stand 65535 above the lowest unsettled (PROTOCOL 1)."""
        low = self.lowest()
        return SEQ_SPAN if low is None else low.seq + SEQ_SPAN - next_seq

    def add(self, item: Item) -> None:
        """A freshly bound item, or one that the store remembers (then a gap too), above all others."""
        self.items.append(item)
        self.unwritten.append(item)
        if item.kind != _GAP:
            self.open += 1

    def find(self, seq: int) -> Item | None:
        """The unsettled item with this seq, or None."""
        items = self.items
        if not items:
            return None
        at = seq - items[0].seq
        if 0 <= at < len(items) and items[at].seq == seq:
            item = items[at]
            return item if item.hold != _NONE else None
        low, high = 0, len(items)
        while low < high:
            mid = (low + high) // 2
            if items[mid].seq < seq:
                low = mid + 1
            else:
                high = mid
        if low < len(items) and items[low].seq == seq and items[low].hold != _NONE:
            return items[low]
        return None

    def find_id(self, id: int) -> Item | None:
        """The unsettled message or status with this id, or None."""
        for item in self.items:
            if item.id == id and item.hold != _NONE and item.kind != _GAP:
                return item
        return None

    def count_out(self, item: Item) -> None:
        """It is about to be settled, or to become a gap."""
        if item.kind != _GAP:
            self.open -= 1
            if item.written:
                self.flight -= 1

    def settle_to(self, seq: int) -> tuple[list[Item], list[Item]]:
        """Settle everything up to `seq`: what the session owned, and what chains had claimed."""
        items = self.items
        owned: list[Item] = []
        claimed: list[Item] = []
        while items and items[0].seq <= seq:
            item = items.popleft()
            if item.hold != _NONE:
                self.count_out(item)
                (claimed if item.hold == _CLAIMED else owned).append(item)
                item.hold = _NONE
                item.body = None
        return owned, claimed

    def settle(self, item: Item) -> None:
        """Settle one item of the window; what held it (`item.hold`) becomes NONE."""
        self.count_out(item)
        item.hold = _NONE
        item.body = None
        self.lowest()

    def to_gap(self, item: Item, why: str, via: str) -> Item:
        """Replace an item by a gap of the same seq, to be written. Returns the gap; the item is no longer here.

        The gap is written before everything above it: a client that never acks past a hole would else wait for a gap
        that itself waits for room in the window.
        """
        gap = Item(item.id, item.client, "", item.lane, item.at, item.expire, None, kind=_GAP)
        gap.hold = int(Hold.BOUND)
        gap.seq, gap.eno, gap.why, gap.via = item.seq, item.eno, why, via
        self.items[self.items.index(item)] = gap
        self.count_out(item)
        item.hold = _NONE
        item.body = None
        at = 0
        for other in self.unwritten:
            if other.seq >= gap.seq:
                break
            at += 1
        self.unwritten.insert(at, gap)
        return gap

    def take(self, limit: int) -> list[Item]:
        """What may be written now: in order, at most `limit` messages and statuses in flight. Nothing goes out above
        an unwritten one that a chain or its end is just taking: the gap that it becomes goes first.
        """
        out: list[Item] = []
        unwritten = self.unwritten
        while unwritten:
            item = unwritten[0]
            if item.hold in (_NONE, _CLAIMED):
                unwritten.popleft()
                continue
            if item.leaving:
                break
            if item.kind != _GAP:
                if self.flight >= limit:
                    break
                self.flight += 1
            unwritten.popleft()
            item.written = True
            out.append(item)
        return out

    def reconnected(self) -> None:
        """A new connection: everything unsettled is to be written again; what may have been written before is
        marked.
        """
        self.unwritten.clear()
        self.flight = 0
        for item in self.items:
            if item.hold != _NONE:
                if item.written:
                    item.marks += 1
                item.written = False
                self.unwritten.append(item)

    def back(self) -> None:
        """The same connection takes part again: what it was not written is still to be written; the rest is in
        flight.
        """
        self.unwritten.clear()
        self.flight = 0
        for item in self.items:
            if item.hold == _NONE:
                continue
            if not item.written:
                self.unwritten.append(item)
            elif item.kind != _GAP:
                self.flight += 1
                item.body = None

    def again(self, item: Item) -> None:
        """Write one item of this connection once more, marked."""
        if item.written:
            item.written = False
            if item.kind != _GAP:
                self.flight -= 1
            item.marks += 1
            self.unwritten.appendleft(item)

    def drop_bodies(self) -> None:
        """The client is away: the store keeps the bodies."""
        for item in self.items:
            item.body = None
        self.unwritten.clear()
