"""Attempts: what is due at a channel is started as far as the channel has room, each committed before its first byte.

Retries are rows with a due time; memory holds nothing but the attempts under way. `pump` takes what is due: after a
claim, when the channel's next due time comes, and, where something had to wait for room, after an attempt. It has one
read at a time: while that waits for the commit before it, it grows with the room, so that what ends during one commit
is followed by as many starts in the next.
"""

from gateway.commit import Change, Commit, Event
from gateway.hub.core import Core
from gateway.hub.outcomes import Outcomes
from gateway.model import ChainRow, Hold, Item, Phase
from gateway.ports import Outbound, Outcome
from gateway.reads import ReadChains

_NONE, _CLAIMED = int(Hold.NONE), int(Hold.CLAIMED)
# rows of one read: their outcomes and claims come back in slices of this size, too
SLICE = 100
FOUND_OPEN = Outcome("ambiguous", "the gateway stopped during the attempt")
NO_CHANNEL = Outcome("refused", "the channel is not configured any more", "account")


class Attempts:
    def __init__(self, core: Core, outbound: Outbound) -> None:
        self.core = core
        self.outbound = outbound
        self.outcomes = Outcomes(core)
        # the read of each channel, and the commit that it stands in
        self._reading: dict[str, tuple[ReadChains, Commit]] = {}
        self._under_way: set[int] = set()  # attempts from their read until their outcome
        self._starting: dict[str, int] = {}  # attempts of a channel that are being committed
        self._full: set[str] = set()  # channels where something may wait for room

    def pump_all(self) -> None:
        """Start what is due anywhere."""
        for channel in self.core.config.channels:
            self.pump(channel)

    def pump(self, channel: str) -> None:
        """Start what is due at a channel, as far as it has room."""
        core = self.core
        room = min(self.outbound.room(channel) - self._starting.get(channel, 0), SLICE)
        if room <= 0 or core.down:
            self._full.add(channel)
            return
        self._full.discard(channel)
        reading = self._reading.get(channel)
        if reading is None:
            read = ReadChains(channel, core.now(), room, self._pumped)
            self._reading[channel] = read, core.commit
            core.commit.reads.append(read)
            core.wake()
        elif reading[1] is core.commit:
            # not handed over yet
            reading[0].limit = room

    def _pumped(self, read: ReadChains) -> None:
        core = self.core
        channel = read.channel
        del self._reading[channel]
        now = core.now()
        for row, item in read.rows:
            if item.id in self._under_way:
                continue
            if channel not in core.config.channels:
                self.outcomes.settle(row, item, NO_CHANNEL)
            elif item.expire <= now:
                self.outcomes.expired(row, item)
            else:
                self._start(row, item, now)
        if read.next_due > now:
            core.deadlines.set(("chain", channel), read.next_due)
        elif read.next_due:
            self.pump(channel)

    def _start(self, row: ChainRow, item: Item, now: int) -> None:
        """The attempt is committed before its first byte."""
        core = self.core
        channel = row.channel
        row.phase = int(Phase.OPEN)
        row.attempt += 1
        row.total += 1
        self._under_way.add(item.id)
        self._starting[channel] = self._starting.get(channel, 0) + 1
        generation = core.generation

        def after(change: Change) -> None:
            self._starting[channel] -= 1
            if not change.ok:
                self._under_way.discard(item.id)
                self.pump(channel)
                return
            self.outbound.send(
                channel,
                item,
                row.total,
                core.address_of(item.client, channel),
                lambda outcome: self._came(row, item, outcome, generation),
            )

        core.change(
            Change(
                item.id, (_NONE, _CLAIMED), {}, chain=row,
                event=Event(item.id, now, "attempt", {"channel": channel, "n": row.total}), then=after,
            )
        )  # fmt: skip

    def _came(self, row: ChainRow, item: Item, outcome: Outcome, generation: int) -> None:
        """The outcome of an attempt. One of a generation that is gone is void: the store finds the attempt open. Its
        room is free all the same.
        """
        channel = row.channel
        if generation == self.core.generation:
            self._under_way.discard(item.id)
            self.outcomes.settle(row, item, outcome)
        if channel in self._full or channel in self._reading:
            self.pump(channel)

    def found_open(self, rows: list[ChainRow], items: dict[int, Item]) -> None:
        """At a start of the gateway: nobody knows what became of these attempts."""
        for row in rows:
            item = items.get(row.id)
            if item is not None:
                self.outcomes.settle(row, item, FOUND_OPEN)

    def reset(self) -> None:
        """The store failed: what is under way will be found open."""
        self._reading.clear()
        self._under_way.clear()
        self._starting.clear()
        self._full.clear()
