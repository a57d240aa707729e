"""What follows from the outcome of an attempt: the message has ended, its chain goes on, or its client gets it back.

Meanwhile its client may have acked it: each is a compare-and-set, and of one that comes too late only the timeline
tells.
"""

from gateway.commit import Change, Event, Gap, Note
from gateway.engine.handover import Policy, Verdict, decide
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.hub.core import Core, ms
from gateway.model import Chain, ChainRow, Hold, Item, Phase, Status
from gateway.ports import Outcome

_NONE, _WAITING, _BOUND, _CLAIMED = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND), int(Hold.CLAIMED)


class Outcomes:
    def __init__(self, core: Core) -> None:
        self.core = core
        self._policies = {
            name: Policy(s.max_attempts, ms(s.backoff_base), ms(s.backoff_max), s.on_ambiguous)
            for name, s in core.config.channels.items()
        }

    def settle(self, row: ChainRow, item: Item, outcome: Outcome) -> None:
        """An attempt of `row` has ended."""
        core = self.core
        now = core.now()
        channel = row.channel
        core.observer.attempt(channel, outcome.kind)
        policy = self._policies.get(channel) or Policy()
        data: dict[str, object] = {
            "channel": channel,
            "n": row.total,
            "outcome": outcome.kind,
            "reason": outcome.reason,
        }
        verdict = decide(row, outcome.kind, outcome.retry_after, policy, now, item.expire, core.rng)
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

    def expired(self, row: ChainRow, item: Item) -> None:
        """It was not worth another attempt."""
        event = Event(item.id, self.core.now(), "expired", {"channel": row.channel})
        self._finish(item, Status.EXPIRED, "ttl", row.channel, "expired", event)

    def waits(self, row: ChainRow, item: Item, event: Event) -> None:
        """No attempt was made: the row waits for its next one, at this channel or at another."""
        self._again(row, item, event)

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
        """The end of a claimed message. A seq of it that is still unsettled becomes a gap."""
        core = self.core
        now = core.now()
        report = core.report(item, status, channel, now, why)

        def after(change: Change) -> None:
            if not change.ok:
                # its client acked it first: the outcome is in the timeline only
                self._note(event)
                return
            core.reported(report)
            core.told(item, status, core.now(), channel, why)
            if change.unsettled:
                core.became_gap(item.client, item.seq, gap, channel)
            if late:
                core.session(item.client).waiting += 1
                core.note_due(item.expire)
                core.flow.waits_again(item.client, item.lane)

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
                event=event,
                gap=Gap(item.client, item.eno, item.seq, item.id, gap, channel),
                missed=None if late else (item.client, gap),
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
        session = core.session(item.client)
        held = session.window.find_id(item.id)
        if session.live and session.plain and held is not None and held.hold == _CLAIMED and held.written:
            self._back_in_flight(session, held, row, event, chain)
            return

        def after(change: Change) -> None:
            if not change.ok:
                self._note(event)
                return
            if change.unsettled:
                core.became_gap(item.client, item.seq, "superseded", "")
            core.session(item.client).waiting += 1
            core.note_due(due)
            core.told(item, Status.QUEUED, now, "", "given_back")
            core.flow.waits_again(item.client, item.lane)

        core.change(
            Change(
                item.id,
                (_NONE, _CLAIMED),
                {"hold": _WAITING, "status": int(Status.QUEUED), "chain": int(chain), "due": due},
                event=event,
                gap=Gap(item.client, item.eno, item.seq, item.id, "superseded"),
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
