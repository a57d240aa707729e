"""What providers have accepted and nobody has reported about: when its time is over, its chain goes on or has ended."""

from gateway.commit import Event
from gateway.engine.handover import Verdict, rested
from gateway.hub.core import Core
from gateway.hub.outcomes import Done, Outcomes
from gateway.reads import ReadResting

SLICE = 100


class Resting:
    def __init__(self, core: Core, outcomes: Outcomes) -> None:
        self.core = core
        self.outcomes = outcomes
        self._reading = False

    def look(self) -> None:
        """Ask the store for what has waited long enough."""
        if self._reading or self.core.down:
            return
        self._reading = True
        self.core.commit.reads.append(ReadResting(self.core.now(), SLICE, self._came))
        self.core.wake()

    def _came(self, read: ReadResting) -> None:
        self._reading = False
        core = self.core
        now = core.now()
        for row, item in read.rows:
            channel, stood = row.channel, row.stand
            verdict = rested(row, self.outcomes.policy(channel), now, item.expire)
            data: dict[str, object] = {"channel": channel, "n": row.total}
            if verdict == Verdict.AGAIN:
                data["next"] = {"channel": row.channel, "at": row.due}
            event = Event(item.id, now, "no_receipt", data)
            self.outcomes.go_on(row, verdict, Done(item, channel, stood, event, standing=item.via or channel))
        if read.next_due:
            # behind this slice's changes, which take its rows out of the index
            core.deadlines.set("rest", max(read.next_due, now))

    def reset(self) -> None:
        """The store failed: nothing is being read."""
        self._reading = False
