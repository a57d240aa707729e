"""Hand-over: what its client did not take in time goes the way of its chain, one attempt at a time.

A claim is a compare-and-set in the store: from then on only the chain may deliver the message. Retries are rows
with a due time; memory holds nothing but the attempts under way. `pump` takes what is due at a channel, as far
as the channel has room; it runs after a claim, after an attempt and when the channel's next due time comes.
"""

from gateway.commit import Change, Event, Gap, Note, ReadChainable, ReadChains
from gateway.engine.handover import Policy, Verdict, decide
from gateway.engine.session import Session, State
from gateway.hub.core import Core, ms
from gateway.model import Chain, ChainRow, Hold, Item, Kind, Phase, Status
from gateway.ports import Outbound, Outcome

_NONE, _WAITING, _BOUND = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND)
_LATER, _CLAIMED = int(Hold.LATER), int(Hold.CLAIMED)
SLICE = 500
FOUND_OPEN = Outcome("ambiguous", "the gateway stopped during the attempt")


class Handover:
    def __init__(self, core: Core, outbound: Outbound) -> None:
        self.core = core
        self.outbound = outbound
        self._pumping: dict[str, None] = {}  # channels being read
        self._under_way: set[int] = set()  # attempts from their read until their outcome
        self._starting: dict[str, int] = {}  # attempts of a channel that are being committed
        self.claimed = 0

    # -- claiming --------------------------------------------------------------------------------------------------

    def offline(self, session: Session) -> None:
        """The offline deadline has passed: everything that has a chain and no deadline of its own is handed
        over.
        """
        for item in list(session.window.items):
            if item.hold == _BOUND:
                self.offer(session, item)
        self._slice(session.client, 0)

    def offer(self, session: Session, item: Item) -> None:
        """This came to a client that is away: hand it over at once if the offline deadline has passed."""
        if (
            self.core.brokered.passed(session, item)
            and item.kind == Kind.MESSAGE
            and item.chain == Chain.READY
            and not own_deadline(item)
            and item.status < Status.DELIVERED
        ):
            self.claim(item, "offline")

    def _slice(self, client: str, after: int) -> None:
        core = self.core
        core.commit.reads.append(ReadChainable(client, after, core.now(), SLICE, self._sliced))
        core.wake()

    def _sliced(self, read: ReadChainable) -> None:
        session = self.core.sessions.get(read.client)
        if session is None or not (session.handed or self.core.brokered.rules(read.client)):
            return
        for item in read.items:
            self.offer(session, item)
        if len(read.items) == read.limit:
            self._slice(read.client, read.items[-1].id)

    def claim(self, item: Item, why: str, *, event: Event | None = None, settled: bool = False) -> None:
        """Commit that the chain owns this message now. `settled`: its seq was settled already (a nack)."""
        core = self.core
        now = core.now()
        channels = core.chain_of(item)
        if event is not None:
            core.commit.ops.append(Note(event))
        bound = settled or item.hold == _BOUND
        if not channels:
            if bound and why == "deliver_max":
                self._no_channel(item, settled)
            return
        row = ChainRow(item.id, item.client, channels, why, now)
        held, gap = (None, None) if settled or not bound else self._leaves(item, channels[0])
        report = core.report(item, Status.HANDED_OVER, channels[0], now)

        def after(change: Change) -> None:
            if not change.ok:
                if held is not None:
                    core.stays(held)
                return
            self.claimed += 1
            if not bound:
                session = core.session(item.client)
                session.waiting -= 1
                session.queue.remove(item.id)
            elif gap is not None:
                core.became_gap(item.client, gap.seq, gap.why, gap.via)
            elif held is not None and held.hold == _BOUND:
                # what was settled meanwhile is seen to by who settled it
                held.hold, held.leaving = _CLAIMED, False
            core.reported(report)
            core.told(item, Status.HANDED_OVER, now, channels[0], why)
            # a parked row may stand at any channel: ask them all
            for channel in core.config.channels:
                self.pump(channel)

        to: dict[str, int | str | None] = {
            "hold": _CLAIMED if bound and not settled and gap is None else _NONE,
            "status": int(Status.HANDED_OVER),
            "due": 0,
        }
        if bound:
            # should it come again, it may have been written before
            to["marks"] = max(item.marks + settled, 1)
        core.change(
            Change(
                item.id,
                (_BOUND,) if bound else (_WAITING, _LATER),
                to,
                claim=row,
                gap=gap,
                event=Event(item.id, now, "handed_over", {"why": why, "channels": channels}),
                report=report,
                then=after,
            )
        )

    def _leaves(self, item: Item, via: str) -> tuple[Item | None, Gap | None]:
        """The item as its window has it; and its gap, if a client that is here was not written it: its seq must not be
        a hole. One that was written stays in flight, and one whose client is away is seen to when that is back.
        """
        session = self.core.sessions.get(item.client)
        held = session.window.find_id(item.id) if session is not None else None
        if session is None or held is None:
            return None, None
        held.leaving = True
        here = session.state == State.JOINING or (session.live and not held.written)
        return held, Gap(item.client, held.eno, held.seq, item.id, "superseded", via) if here else None

    def _no_channel(self, item: Item, settled: bool) -> None:
        """Its chain names nothing that is configured any more."""
        core = self.core
        core.end(
            item, (_BOUND,), Status.DEAD, "unacked", gap="" if settled else "dead",
            then=lambda ok: core.became_gap(item.client, item.seq, "dead", "") if ok and not settled else None,
        )  # fmt: skip

    # -- attempts --------------------------------------------------------------------------------------------------

    def pump(self, channel: str) -> None:
        """Start what is due at a channel, as far as it has room."""
        core = self.core
        if channel in self._pumping or core.down:
            return
        room = self.outbound.room(channel) - self._starting.get(channel, 0)
        if room <= 0:
            return
        self._pumping[channel] = None
        core.commit.reads.append(ReadChains(channel, core.now(), room, self._pumped))
        core.wake()

    def _pumped(self, read: ReadChains) -> None:
        core = self.core
        self._pumping.pop(read.channel, None)
        now = core.now()
        for row, item in read.rows:
            if item.id in self._under_way:
                continue
            if read.channel not in core.config.channels:
                self._settle_outcome(
                    row, item, Outcome("refused", "the channel is not configured any more", "account")
                )
            elif item.expire <= now:
                self._expire(row, item)
            else:
                self._start(row, item, now)
        if read.next_due:
            core.deadlines.set(("chain", read.channel), max(read.next_due, now + 1))

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
                channel, item, row.total, lambda outcome: self._came(row, item, outcome, generation)
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
        if generation != self.core.generation:
            self.pump(row.channel)
            return
        self._under_way.discard(item.id)
        self._settle_outcome(row, item, outcome)

    def found_open(self, rows: list[ChainRow], items: dict[int, Item]) -> None:
        """At a start of the gateway: nobody knows what became of these attempts."""
        for row in rows:
            item = items.get(row.id)
            if item is not None:
                self._settle_outcome(row, item, FOUND_OPEN)

    def _settle_outcome(self, row: ChainRow, item: Item, outcome: Outcome) -> None:
        core = self.core
        now = core.now()
        channel = row.channel
        core.observer.attempt(channel, outcome.kind)
        settings = core.config.channels.get(channel)
        policy = Policy()
        if settings is not None:
            policy = Policy(
                settings.max_attempts,
                ms(settings.backoff_base),
                ms(settings.backoff_max),
                settings.on_ambiguous,
            )
        n = row.total
        verdict = decide(row, outcome.kind, outcome.retry_after, policy, now, item.expire, core.rng)
        data: dict[str, object] = {
            "channel": channel,
            "n": n,
            "outcome": outcome.kind,
            "reason": outcome.reason,
        }
        if outcome.status:
            data["status"] = outcome.status
        if outcome.blame:
            data["blame"] = outcome.blame
        if outcome.provider_id:
            data["provider_id"] = outcome.provider_id
        if verdict == Verdict.AGAIN:
            data["next"] = {"channel": row.channel, "at": row.due}
        event = Event(item.id, now, "attempt_ended", data)
        if verdict == Verdict.DELIVERED:
            self._delivered(item, channel, event)
        elif verdict == Verdict.AGAIN:
            self._again(row, item, event)
        else:
            self._exhausted(row, item, channel, outcome, event)
        self.pump(channel)

    def _delivered(self, item: Item, channel: str, event: Event) -> None:
        """A provider has it. A bound seq becomes a gap, the rest counts as missed, or comes late where the
        record says so.
        """
        core = self.core
        row = core.clients.get(item.client)
        late = row is not None and row.record.late == "deliver"
        self._finish(item, Status.PROVIDER_DELIVERED, "", channel, "superseded", event, late)

    def _finish(
        self, item: Item, status: Status, why: str, channel: str, gap: str, event: Event, late: bool = False
    ) -> None:
        """The end of a claimed message: once for the case that its seq is still unsettled, once for the other."""
        core = self.core
        now = core.now()
        report = core.report(item, status, channel, now, why)
        applied: list[Change] = []

        def after(change: Change) -> None:
            if change.ok:
                applied.append(change)
                core.reported(report)
                core.told(item, status, core.now(), channel, why)
                if change.gap is not None:
                    core.became_gap(item.client, item.seq, gap, channel)
                if late:
                    core.session(item.client).waiting += 1
                    core.note_due(item.expire)
                    core.flow.waits_again(item.client, item.lane)
            elif change.holds == (_NONE,) and not applied:
                # its client acked it first: the outcome is in the timeline only
                self._note(event)

        to: dict[str, int | str | None] = {
            "hold": _WAITING if late else _NONE, "status": int(status), "ended_at": now, "via": channel, "why": why,
            "due": item.expire if late else 0,
        }  # fmt: skip
        note = Gap(item.client, item.eno, item.seq, item.id, gap, channel)
        tell = None if late else (item.client, gap)
        core.change(
            Change(
                item.id,
                (_CLAIMED,),
                dict(to),
                event=event,
                gap=note,
                drop_chain=True,
                report=report,
                then=after,
            )
        )
        core.change(
            Change(
                item.id,
                (_NONE,),
                dict(to),
                event=event,
                missed=tell,
                drop_chain=True,
                report=report,
                then=after,
            )
        )

    def _note(self, event: Event) -> None:
        self.core.commit.ops.append(Note(event))
        self.core.wake()

    def _again(self, row: ChainRow, item: Item, event: Event) -> None:
        """The row waits for its next attempt; or its client, which is here, gets the message back."""
        core = self.core
        session = core.sessions.get(item.client)
        # one that is being welcomed has had its chains asked already: ask again
        back = session is not None and session.state in (State.LIVE, State.JOINING)
        if back and row.why == "offline" and not row.burnt:
            row.phase = int(Phase.PARKED)
            self._give_back(item, row, event, Chain.READY)
            return

        def after(change: Change) -> None:
            if change.ok:
                core.deadlines.set(("chain", row.channel), row.due)
            else:
                self._note(event)

        core.change(Change(item.id, (_NONE, _CLAIMED), {}, chain=row, event=event, then=after))

    def _give_back(self, item: Item, row: ChainRow | None, event: Event, chain: Chain) -> None:
        """Ownership goes back to the session, under a new seq: a gap tells a bound one that its old seq is void."""
        core = self.core
        now = core.now()
        due = item.expire
        applied: list[Change] = []
        session = core.session(item.client)
        held = session.window.find_id(item.id)
        if session.live and session.plain and held is not None and held.hold == _CLAIMED and held.written:
            self._back_in_flight(session, held, row, event, chain)
            return

        def after(change: Change) -> None:
            if not change.ok:
                if change.holds == (_NONE,) and not applied:
                    self._note(event)
                return
            applied.append(change)
            if change.gap is not None:
                core.became_gap(item.client, item.seq, "superseded", "")
            core.session(item.client).waiting += 1
            core.note_due(due)
            core.told(item, Status.QUEUED, now, "", "given_back")
            core.flow.waits_again(item.client, item.lane)

        for hold in (_CLAIMED, _NONE):
            core.change(
                Change(
                    item.id,
                    (hold,),
                    {"hold": _WAITING, "status": int(Status.QUEUED), "chain": int(chain), "due": due},
                    event=event,
                    gap=Gap(item.client, item.eno, item.seq, item.id, "superseded")
                    if hold == _CLAIMED
                    else None,
                    chain=row,
                    drop_chain=row is None,
                    then=after,
                )
            )

    def _back_in_flight(
        self, session: Session, held: Item, row: ChainRow | None, event: Event, chain: Chain
    ) -> None:
        """A plain device still has it in flight: it is its session's again, under its seq, and not sent twice."""
        core = self.core

        def after(change: Change) -> None:
            if not change.ok:
                self._note(event)
                return
            core.told(held, Status.SENT, core.now(), "", "given_back")
            if held.hold == _CLAIMED:
                held.hold, held.chain, held.status = _BOUND, int(chain), int(Status.SENT)
                session.ack_from = core.now()
                core.touch_session(session)
            else:
                # acked meanwhile
                core.end(held, (_BOUND,), Status.DELIVERED, "", via="mqtt")

        to: dict[str, int | str | None] = {"hold": _BOUND, "status": int(Status.SENT), "chain": int(chain)}
        core.change(
            Change(held.id, (_CLAIMED,), to, event=event, chain=row, drop_chain=row is None, then=after)
        )

    def _exhausted(self, row: ChainRow, item: Item, channel: str, outcome: Outcome, event: Event) -> None:
        """The chain has ended unsatisfied: back to the client if that is here, once, and no provider may have it;
        else dead.
        """
        core = self.core
        session = core.sessions.get(item.client)
        live = session is not None and session.live and not row.burnt
        if live and item.expire > core.now() and item.chain != Chain.WALKED:
            self._give_back(item, None, event, Chain.WALKED)
        else:
            self._finish(item, Status.DEAD, outcome.reason[:200], channel, "dead", event)

    def _expire(self, row: ChainRow, item: Item) -> None:
        event = Event(item.id, self.core.now(), "expired", {"channel": row.channel})
        self._finish(item, Status.EXPIRED, "ttl", row.channel, "expired", event)

    def reset(self) -> None:
        """The store failed: what is under way will be found open."""
        self._pumping.clear()
        self._under_way.clear()
        self._starting.clear()


def own_deadline(item: Item) -> bool:
    """Whether the message has a deadline of its own, which beats its session's."""
    return item.x is not None and item.x.deadline is not None
