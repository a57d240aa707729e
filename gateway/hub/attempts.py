"""Attempts: what is due at a channel is started as far as the channel has room, each committed before its first byte.

Retries are rows with a due time; memory holds nothing but the attempts under way. `pump` takes what is due: after a
claim, when the channel's next due time comes, and, where something had to wait for room, after an attempt, or when the
outbound side says that time has made room. It has one read at a time: while that waits for the commit before it, it
grows with the room, so that what ends during one commit is followed by as many starts in the next.

What cannot be started for a reason of its own is a row with a later due time, and no attempt: an address that must
wait holds up nobody behind it. While a channel's circuit breaker is open, what has another step goes on to that at
once; what is on its last step waits until the breaker is tried, one row behind the other, so that few have to be looked
at again if it opens again.
"""

from gateway.commit import Change, Commit, Event
from gateway.hub.core import Core, ms
from gateway.hub.outcomes import ANY_HOLD, Outcomes
from gateway.hub.person import Gate
from gateway.hub.receipts import early_of
from gateway.model import ChainRow, Item, Phase
from gateway.ports import Outbound, Outcome
from gateway.reads import ReadChains, ReadSuppressed, Story
from gateway.records import Suppression

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
        self._crowded: set[str] = set()  # channels where the last read found addresses that must wait
        self._behind: dict[str, int] = {}  # due time of the last row that waits for a channel's breaker

    def pump_all(self) -> None:
        """Start what is due anywhere."""
        for channel in self.core.config.channels:
            self.pump(channel)

    def pump(self, channel: str) -> None:
        """Start what is due at a channel, as far as it has room."""
        core = self.core
        room = self._room(channel)
        if room > 0 and channel in self._crowded:
            room = SLICE
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

    def _room(self, channel: str) -> int:
        """How many rows can be seen to: at an open breaker many, for none of them is started."""
        if self.outbound.shut(channel):
            return SLICE
        return min(self.outbound.room(channel) - self._starting.get(channel, 0), SLICE)

    def _pumped(self, read: ReadChains) -> None:
        """What is due. Where any address is suppressed, the store is asked about theirs first."""
        core = self.core
        contacts = core.config.channels[read.channel].CONTACT if read.channel in core.config.channels else ""
        if not (contacts and core.suppressions.count and read.rows):
            self._take(read, {})
            return
        asked = sorted({core.address_of(item.client, read.channel) for _, item in read.rows} - {""})
        core.commit.reads.append(ReadSuppressed(asked, lambda found: self._take(read, found.found)))
        core.wake()

    def _take(self, read: ReadChains, suppressed: dict[str, list[Suppression]]) -> None:
        """Start, or put elsewhere, each of the rows that were read."""
        core = self.core
        channel = read.channel
        del self._reading[channel]
        self._crowded.discard(channel)
        now = core.now()
        room = self._room(channel)
        shut = self.outbound.shut(channel)
        if not shut:
            self._behind.pop(channel, None)
        for row, item in read.rows:
            if item.id in self._under_way:
                continue
            if channel not in core.config.channels:
                self.outcomes.settle(row, item, NO_CHANNEL)
            elif item.expire <= now:
                self.outcomes.expired(row, item)
            elif self.outcomes.overdue(row):
                self.outcomes.skip(row, item, "step_timeout", "")
            elif not (gate := core.person.gate(item, channel, now, suppressed)).open:
                self.outcomes.skip(row, item, "skipped", gate.why)
            elif gate.until:
                self._wait(row, item, now, gate)
            elif shut:
                self._pass_by(row, item, now, shut)
            elif room <= 0:
                self._full.add(channel)
            elif wait := self.outbound.admit(channel, address := core.address_of(item.client, channel)):
                self._crowded.add(channel)
                self._postpone(row, item, now, now + wait, "the address must wait")
            else:
                room -= 1
                self._start(row, item, now, address)
        if read.next_due > now:
            core.deadlines.set(("chain", channel), read.next_due)
        elif read.next_due or channel in self._full:
            self.pump(channel)

    def _wait(self, row: ChainRow, item: Item, now: int, gate: Gate) -> None:
        """The person behind its client wants it later. The time of its step begins then."""
        told = row.since == gate.until
        row.since = gate.until
        data: dict[str, object] = {"channel": row.channel, "reason": gate.why, "until": gate.until}
        event = None if told else Event(item.id, now, "waits", data)
        self._postpone(row, item, now, gate.until, gate.why, event)

    def _pass_by(self, row: ChainRow, item: Item, now: int, shut: int) -> None:
        """The channel's breaker is open."""
        if row.step + 1 < len(row.channels):
            self.outcomes.skip(row, item, "skipped", "circuit open")
            return
        due = max(now + shut, self._behind.get(row.channel, 0) + 1)
        self._behind[row.channel] = due
        self._postpone(row, item, now, due, "")

    def _postpone(
        self, row: ChainRow, item: Item, now: int, due: int, why: str, event: Event | None = None
    ) -> None:
        """No attempt before `due`. What would not live to see it takes the next step, if there is one."""
        if due >= item.expire and why and row.step + 1 < len(row.channels):
            self.outcomes.skip(row, item, "skipped", why)
            return
        stood = row.stand
        row.due = min(due, item.expire)
        deadlines, key = self.core.deadlines, ("chain", row.channel)

        def after(change: Change) -> None:
            if change.ok:
                deadlines.set(key, row.due)

        self.core.change(
            Change(item.id, ANY_HOLD, {}, chain=row, stood=stood, ended=True, event=event, then=after)
        )

    def _start(self, row: ChainRow, item: Item, now: int, address: str) -> None:
        """The attempt is committed before its first byte. A receipt may have raised the message's status since it was
        read: then it is read again.
        """
        core = self.core
        channel, stood = row.channel, row.stand
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
            self.outcomes.open[item.id] = item
            core.texts.for_channel(item, channel)
            self.outbound.send(
                channel,
                item,
                row.total,
                address,
                lambda outcome: self._came(row, item, outcome, generation),
            )
            if channel in self._full:
                # its room may be a matter of time now
                self.pump(channel)

        core.change(
            Change(
                item.id, ANY_HOLD, {}, chain=row, stood=stood, was=item.status,
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
            if outcome.kind == "held":
                self._held(row, item, outcome)
            else:
                self.outcomes.settle(row, item, outcome)
        if channel in self._full or channel in self._reading:
            self.pump(channel)

    def _held(self, row: ChainRow, item: Item, outcome: Outcome) -> None:
        """The channel's room was gone when the attempt had been committed: none was made, and none counts."""
        now = self.core.now()
        stood = row.stand
        row.phase, row.due = int(Phase.WAIT), now + ms(outcome.retry_after)
        data: dict[str, object] = {
            "channel": row.channel,
            "n": row.total,
            "outcome": outcome.kind,
            "reason": outcome.reason,
            "next": {"channel": row.channel, "at": row.due},
        }
        row.attempt -= 1
        row.total -= 1
        self.outcomes.waits(row, item, stood, Event(item.id, now, "attempt_ended", data))

    def found_open(self, story: Story) -> None:
        """At a start of the gateway: nobody knows what became of this attempt, unless its provider has reported."""
        if story.row is not None:
            self.outcomes.early[story.item.id] = early_of(story)
            self.outcomes.settle(story.row, story.item, FOUND_OPEN)

    def reset(self) -> None:
        """The store failed: what is under way will be found open."""
        self.outcomes.reset()
        self._reading.clear()
        self._under_way.clear()
        self._starting.clear()
        self._full.clear()
        self._crowded.clear()
        self._behind.clear()
