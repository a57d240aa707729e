"""The heads of what waits for a live session, in priority lanes.

The store holds the whole queue; memory holds the heads of its lanes, lowest id first: what is pushed is kept while
all lanes together hold less than `most` items and `most_bytes` of bodies, what is refilled while its own lane does (an
empty lane always gets one, so that no lane starves another). `more[lane]` says that the store has rows of the lane
behind the last one here. While it is set, a new row of that lane is not kept here: it would overtake those.
"""

from collections import deque

from gateway.model import Item

LANE_COUNT = 4


class Queue:
    __slots__ = ("bytes", "count", "lanes", "more", "most", "most_bytes")

    def __init__(self, most: int, most_bytes: int) -> None:
        self.lanes: dict[int, deque[Item]] = {}  # made when needed: an idle session has none
        self.more = [False] * LANE_COUNT
        self.count = 0
        self.bytes = 0
        self.most = most
        self.most_bytes = most_bytes

    def _line(self, lane: int) -> deque[Item]:
        line = self.lanes.get(lane)
        if line is None:
            line = self.lanes[lane] = deque()
        return line

    def __bool__(self) -> bool:
        """Whether anything waits, here or in the store behind."""
        return self.count > 0 or True in self.more

    def push(self, item: Item) -> None:
        """A row that has just been committed as WAITING, with its body."""
        lane = item.lane
        if self.more[lane]:
            return
        if self.count >= self.most or self.bytes >= self.most_bytes:
            self.more[lane] = True
            return
        self._line(lane).append(item)
        self.count += 1
        self.bytes += len(item.body or b"")

    def refill(self, lane: int, items: list[Item], complete: bool) -> None:
        """The first waiting rows of a lane as the store has them. `complete`: there are no more behind them."""
        line = self._line(lane)
        held = {i.id for i in line}
        merged = sorted([*line, *(i for i in items if i.id not in held)], key=_by_id)
        self.count -= len(line)
        self.bytes -= sum(len(i.body or b"") for i in line)
        line.clear()
        size = 0
        for item in merged:
            if line and (len(line) >= self.most or size >= self.most_bytes):
                complete = False
                break
            line.append(item)
            size += len(item.body or b"")
        self.count += len(line)
        self.bytes += size
        self.more[lane] = not complete

    def hungry(self) -> int:
        """The first lane that the store must be asked for, or -1: it is empty here and not in the store.

        A lower lane may not leave while a higher one is hungry.
        """
        for lane in range(LANE_COUNT):
            if self.more[lane] and not self.lanes.get(lane):
                return lane
        return -1

    def pop(self) -> Item | None:
        """The next item to leave; None when nothing is here or a higher lane must be refilled first."""
        for lane in range(LANE_COUNT):
            line = self.lanes.get(lane)
            if line:
                item = line.popleft()
                self.count -= 1
                self.bytes -= len(item.body or b"")
                return item
            if self.more[lane]:
                return None
        return None

    def remove(self, id: int) -> Item | None:
        """Take out a row that no longer waits."""
        for line in self.lanes.values():
            if line and line[0].id <= id <= line[-1].id:
                for item in line:
                    if item.id == id:
                        line.remove(item)
                        self.count -= 1
                        self.bytes -= len(item.body or b"")
                        return item
        return None

    def behind(self) -> None:
        """Rows came to wait in the store alone (a nack, a hand-back): every lane is asked again."""
        self.more = [True] * LANE_COUNT


def _by_id(item: Item) -> int:
    return item.id
