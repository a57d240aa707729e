"""What follows from the outcome of an attempt, from a receipt, or from none: the message has ended, its chain goes on
or rests, or its client gets it back.

Meanwhile its client may have acked it, or somebody else moved its chain: each is a compare-and-set, and of one that
comes too late only the timeline tells.
"""

from collections.abc import Callable

from msgspec import Struct

from gateway.commit import Change, Event, Gap, Note
from gateway.engine.handover import Policy, Verdict, decide, known, next_step, overdue
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.hub.core import Core, ms
from gateway.model import Chain, ChainRow, Hold, Item, Phase, Status
from gateway.ports import Outcome

_NONE, _WAITING, _BOUND, _CLAIMED = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND), int(Hold.CLAIMED)
_ACCEPTED, _DELIVERED = int(Status.PROVIDER_ACCEPTED), int(Status.PROVIDER_DELIVERED)
# a chain row that still stands as it was seen says more than any hold
ANY_HOLD = tuple(int(hold) for hold in Hold)
# what an outcome or a receipt proves -> where the message stands
REACHED = {
    "accepted": _ACCEPTED,
    "delivered": _DELIVERED,
    "read": int(Status.PROVIDER_READ),
}


class Done(Struct):
    """What happened to a message of a chain: what every way to go on needs of it."""

    item: Item  # as it was read, or is known to stand since
    channel: str  # where it happened
    stood: tuple[int, int, int] | None  # the chain row that it is about; None: it is not compared
    event: Event
    reached: int = 0  # the status that it proves, 0: none
    standing: str = ""  # the channel whose word stands, if nothing more follows: it has accepted the message
    why: str = ""  # where it failed
    applied: Callable[[], None] | None = None  # called once it is durable,
    missed: Callable[[], None] | None = None  # or where it came too late, in place of the timeline


class Outcomes:
    """`early`: receipts of attempts under way, by message: they count with the outcome. `open`: these attempts."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._policies = {
            name: Policy(
                s.max_attempts, ms(s.backoff_base), ms(s.backoff_max), s.on_ambiguous, s.satisfied_by,
                ms(s.receipt_timeout), ms(s.step_timeout),
            )
            for name, s in core.config.channels.items()
        }  # fmt: skip
        self.early: dict[int, list[str]] = {}
        self.open: dict[int, Item] = {}

    def policy(self, channel: str) -> Policy:
        """That of a channel; of one that is not configured any more, what is usual."""
        return self._policies.get(channel) or Policy()

    def late(self, client: str) -> bool:
        """Whether it wants what a chain took all the same, when the chain has ended."""
        row = self.core.clients.get(client)
        return row is not None and row.record.late == "deliver"

    def settle(self, row: ChainRow, item: Item, outcome: Outcome) -> None:
        """An attempt of `row` has ended."""
        core = self.core
        now = core.now()
        channel, stood = row.channel, row.stand
        core.observer.attempt(channel, outcome.kind)
        self.open.pop(item.id, None)
        early = self.early.pop(item.id, ())
        kind = known(outcome.kind, early)
        verdict = decide(
            row, kind, outcome.retry_after, self.policy(channel), now, item.expire, core.rng,
            receipt=outcome.receipt or bool(early), late=self.late(item.client),
        )  # fmt: skip
        data = _told(channel, stood[2], outcome)
        if outcome.learnt:
            core.observer.learnt(channel, outcome.learnt)
            core.suppressions.learn(item.client, channel, outcome)
        if verdict == Verdict.AGAIN:
            data["next"] = {"channel": row.channel, "at": row.due}
        elif verdict == Verdict.RESTS:
            data["receipt_until"] = row.due
        event = Event(item.id, now, "attempt_ended", data)
        self.go_on(
            row,
            verdict,
            Done(item, channel, stood, event, REACHED.get(kind, 0), standing(item), outcome.reason[:200]),
        )

    def go_on(self, row: ChainRow, verdict: Verdict, done: Done) -> None:
        """Commit what the engine said of `row`, which it has changed."""
        if verdict == Verdict.EXHAUSTED:
            self._exhausted(row, done)
        elif verdict == Verdict.SATISFIED:
            self._satisfied(done)
        elif done.reached >= _DELIVERED and done.item.status < _DELIVERED:
            # where `read` is asked for: the message has ended, its chain has not
            self._finish(done, Status(done.reached), "", done.channel, "superseded", keep=row)
        elif verdict == Verdict.AGAIN:
            self._again(row, done)
        else:
            self._write(row, done)

    def expired(self, row: ChainRow, item: Item) -> None:
        """It was not worth another attempt."""
        event = Event(item.id, self.core.now(), "expired", {"channel": row.channel})
        done = Done(item, row.channel, row.stand, event, standing=standing(item))
        if item.status >= _DELIVERED or done.standing:
            self._satisfied(done)
        else:
            self._finish(done, Status.EXPIRED, "ttl", row.channel, "expired")

    def waits(self, row: ChainRow, item: Item, stood: tuple[int, int, int], event: Event) -> None:
        """No attempt was made after all: the row, which stood so, waits for its next one."""
        self.open.pop(item.id, None)
        self._again(row, Done(item, row.channel, stood, event, standing=standing(item)))

    def overdue(self, row: ChainRow) -> bool:
        """Whether a waiting row has been at its step for too long."""
        return overdue(row, self.policy(row.channel), self.core.now())

    def skip(self, row: ChainRow, item: Item, kind: str, why: str) -> None:
        """On to the next step, without another attempt at this one. `kind`: of the line in the timeline."""
        core = self.core
        now = core.now()
        channel, stood = row.channel, row.stand
        verdict = next_step(row, now)
        data: dict[str, object] = {"channel": channel}
        if verdict == Verdict.AGAIN:
            data["next"] = {"channel": row.channel, "at": row.due}
        if why:
            data["reason"] = why
        event = Event(item.id, now, kind, data)
        self.go_on(row, verdict, Done(item, channel, stood, event, standing=standing(item), why=why))

    def _satisfied(self, done: Done) -> None:
        """The chain has ended. What was reached before counts where this proves nothing more."""
        item = done.item
        if item.status >= _DELIVERED:
            self._drop(done)
        elif done.reached > _ACCEPTED:
            self._finish(done, Status(done.reached), "", done.channel, "superseded")
        else:
            via = done.channel if done.reached else done.standing
            self._finish(done, Status.PROVIDER_ACCEPTED, "", via, "superseded")

    def _drop(self, done: Done) -> None:
        """The message had ended as delivered, and its chain went on: that is over."""
        core, item = self.core, done.item
        raised = done.reached > item.status
        to: dict[str, int | str | None] = {}
        report = None
        if raised:
            now = core.now()
            to = {"status": done.reached, "ended_at": now, "via": done.channel}
            report = core.report(item, done.reached, done.channel, now)

        def after(change: Change) -> None:
            if not change.ok:
                self._too_late(done)
            elif raised:
                core.reported(report)
                core.told(item, done.reached, core.now(), done.channel)
            if change.ok:
                self._applied(done)

        core.change(
            Change(
                item.id, ANY_HOLD, to, stood=done.stood, ended=True, drop_chain=True, event=done.event, report=report,
                then=after,
            )
        )  # fmt: skip

    def _finish(
        self, done: Done, status: Status, why: str, channel: str, gap: str, *, keep: ChainRow | None = None
    ) -> None:
        """The end of a claimed message. A seq of it that is still unsettled becomes a gap, the rest counts as missed,
        or comes late where a provider has it and the record says so. `keep`: its chain goes on.
        """
        core, item = self.core, done.item
        now = core.now()
        news = status > item.status
        late = _ACCEPTED <= status < Status.EXPIRED and self.late(item.client)
        report = core.report(item, status, channel, now, why) if news else None

        def after(change: Change) -> None:
            if not change.ok:
                self._too_late(done)
                return
            core.reported(report)
            if news:
                core.told(item, status, core.now(), channel, why)
            if change.unsettled:
                core.became_gap(item.client, item.seq, gap, channel)
            if late:
                core.session(item.client).waiting += 1
                core.note_due(item.expire)
                core.flow.waits_again(item.client, item.lane)
            if keep is not None:
                self._look_again(keep)
            self._applied(done)

        core.change(
            Change(
                item.id,
                (_NONE, _CLAIMED),
                {
                    "hold": _WAITING if late else _NONE,
                    "status": int(status),
                    "ended_at": now,
                    "via": channel,
                    "why": why,
                    "due": item.expire if late else 0,
                },
                event=done.event,
                gap=Gap(item.client, item.eno, item.seq, item.id, gap, channel),
                missed=None if late else (item.client, gap),
                chain=keep,
                drop_chain=keep is None,
                stood=done.stood,
                report=report,
                then=after,
            )
        )

    def _look_again(self, row: ChainRow) -> None:
        if row.phase == Phase.RECEIPT:
            self.core.deadlines.set("rest", row.due)
        elif row.phase == Phase.WAIT:
            self.core.deadlines.set(("chain", row.channel), row.due)

    def _applied(self, done: Done) -> None:
        if done.applied is not None:
            done.applied()

    def _too_late(self, done: Done) -> None:
        """Its client acked it first, or its chain had gone on: it is in the timeline only."""
        if done.missed is not None:
            done.missed()
        elif not self.core.erased(done.item):
            self._note(done.event)

    def _note(self, event: Event) -> None:
        self.core.commit.ops.append(Note(event))
        self.core.wake()

    def _write(self, row: ChainRow, done: Done) -> None:
        """The row as it stands now; and that a provider has the message, where that is news, or by whose word."""
        core, item = self.core, done.item
        now = core.now()
        reached = done.reached if item.status < _DELIVERED else 0
        via = done.channel if reached else done.standing
        to: dict[str, int | str | None] = {}
        report = None
        if reached or item.status == _ACCEPTED:
            to = {"status": max(reached, item.status), "via": via}
        news = reached > item.status
        if news:
            report = core.report(item, reached, via, now)

        def after(change: Change) -> None:
            if not change.ok:
                self._too_late(done)
                return
            core.reported(report)
            if news:
                core.told(item, reached, now, via)
            self._look_again(row)
            self._applied(done)

        core.change(
            Change(
                item.id, ANY_HOLD if done.stood else (_NONE, _CLAIMED), to, chain=row, stood=done.stood,
                ended=done.stood is not None, event=done.event, report=report, then=after,
            )
        )  # fmt: skip

    def _again(self, row: ChainRow, done: Done) -> None:
        """The row waits for its next attempt; or its client, which is here, gets the message back."""
        core, item = self.core, done.item
        session = core.sessions.get(item.client)
        # one that is being welcomed has had its chains asked already: ask again
        back = session is not None and session.state in (State.LIVE, State.JOINING)
        if back and row.why == "offline" and not row.burnt and not _had(done):
            row.phase = int(Phase.PARKED)
            self._give_back(done, row, Chain.READY)
        else:
            self._write(row, done)

    def _give_back(self, done: Done, row: ChainRow | None, chain: Chain) -> None:
        """Ownership goes back to the session, under a new seq: a gap tells a bound one that its old seq is void."""
        core, item = self.core, done.item
        now = core.now()
        due = item.expire
        session = core.session(item.client)
        held = session.window.find_id(item.id)
        if session.live and session.plain and held is not None and held.hold == _CLAIMED and held.written:
            self._back_in_flight(session, held, row, done, chain)
            return

        def after(change: Change) -> None:
            if not change.ok:
                self._too_late(done)
                return
            if change.unsettled:
                core.became_gap(item.client, item.seq, "superseded", "")
            core.session(item.client).waiting += 1
            core.note_due(due)
            core.told(item, Status.QUEUED, now, "", "given_back")
            core.flow.waits_again(item.client, item.lane)
            self._applied(done)

        core.change(
            Change(
                item.id,
                (_NONE, _CLAIMED),
                {"hold": _WAITING, "status": int(Status.QUEUED), "chain": int(chain), "due": due},
                event=done.event,
                gap=Gap(item.client, item.eno, item.seq, item.id, "superseded"),
                chain=row,
                drop_chain=row is None,
                stood=done.stood,
                then=after,
            )
        )

    def _back_in_flight(
        self, session: Session, held: Item, row: ChainRow | None, done: Done, chain: Chain
    ) -> None:
        """A plain device still has it in flight: it is its session's again, under its seq, and not sent twice."""
        core = self.core

        def after(change: Change) -> None:
            if not change.ok:
                self._too_late(done)
                return
            core.told(held, Status.SENT, core.now(), "", "given_back")
            if held.hold == _CLAIMED:
                held.hold, held.chain, held.status = _BOUND, int(chain), int(Status.SENT)
                session.ack_from = core.now()
                core.touch_session(session)
            else:
                # acked meanwhile
                core.end(held, (_BOUND,), Status.DELIVERED, "", via="mqtt")
            self._applied(done)

        to: dict[str, int | str | None] = {"hold": _BOUND, "status": int(Status.SENT), "chain": int(chain)}
        core.change(
            Change(
                held.id, (_CLAIMED,), to, event=done.event, chain=row, drop_chain=row is None, stood=done.stood,
                then=after,
            )
        )  # fmt: skip

    def _exhausted(self, row: ChainRow, done: Done) -> None:
        """The chain has ended unsatisfied: back to the client if that is here, once, and no provider may have it;
        else dead, unless the word of a provider that has accepted it stands: then it may be on its way.
        """
        core, item = self.core, done.item
        if item.status >= _DELIVERED or done.standing:
            self._satisfied(done)
            return
        session = core.sessions.get(item.client)
        live = session is not None and session.live and not row.burnt and not _had(done)
        if live and item.expire > core.now() and item.chain != Chain.WALKED:
            self._give_back(done, None, Chain.WALKED)
        else:
            self._finish(done, Status.DEAD, done.why, done.channel, "dead")

    def reset(self) -> None:
        """The store failed: attempts under way will be found open, and what came early is in the timeline."""
        self.early.clear()
        self.open.clear()


def standing(item: Item) -> str:
    """The channel whose acceptance stands, as the row says."""
    return item.via if item.status == _ACCEPTED else ""


def _had(done: Done) -> bool:
    """Whether a provider has, or had, accepted the message: then it never goes back to its client."""
    return max(done.item.status, done.reached) >= _ACCEPTED


def _told(channel: str, n: int, outcome: Outcome) -> dict[str, object]:
    """An outcome in the timeline."""
    data: dict[str, object] = {
        "channel": channel,
        "n": n,
        "outcome": outcome.kind,
        "reason": outcome.reason,
    }
    for name in ("status", "code", "blame", "provider_id", "learnt", "address"):
        if value := getattr(outcome, name):
            data[name] = value
    return data
