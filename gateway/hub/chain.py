"""Hand-over: what its client did not take in time goes the way of its chain.

A claim is a compare-and-set in the store: from then on only the chain may deliver the message. Its attempts are made
by attempts.py; what their outcomes mean is in outcomes.py.
"""

from collections.abc import Callable

from gateway.commit import Change, Event, Gap, Note
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.errors import GatewayError
from gateway.hub.attempts import Attempts
from gateway.hub.core import Core
from gateway.hub.receipts import Receipts
from gateway.hub.resting import Resting
from gateway.model import Chain, ChainRow, Hold, Item, Kind, Status
from gateway.ports import Outbound
from gateway.reads import ReadChainable

_NONE, _WAITING, _BOUND = int(Hold.NONE), int(Hold.WAITING), int(Hold.BOUND)
_LATER, _CLAIMED = int(Hold.LATER), int(Hold.CLAIMED)
SLICE = 100


class Handover:
    def __init__(self, core: Core, outbound: Outbound) -> None:
        self.core = core
        self.attempts = Attempts(core, outbound)
        self.resting = Resting(core, self.attempts.outcomes)
        self.receipts = Receipts(core, self.attempts.outcomes)
        self.claimed = 0

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
            and item.status < Status.PROVIDER_ACCEPTED
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

    def claim(
        self,
        item: Item,
        why: str,
        *,
        event: Event | None = None,
        settled: bool = False,
        otherwise: Callable[[], None] | None = None,
    ) -> None:
        """Commit that the chain owns this message now. `settled`: its seq was settled already (a nack). `otherwise` is
        called where somebody else was faster.
        """
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
        row = ChainRow(item.id, item.client, channels, why, now, lane=item.lane, since=now)
        held, gap = (None, None) if settled or not bound else self._leaves(item, channels[0])
        report = core.report(item, Status.HANDED_OVER, channels[0], now)

        def after(change: Change) -> None:
            if not change.ok:
                if held is not None:
                    core.stays(held)
                if otherwise is not None:
                    otherwise()
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
            # a parked row may stand at any channel
            self.attempts.pump_all()

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

    def reset(self, error: GatewayError) -> None:
        """The store failed: nothing is under way. `error`: what those are told who wait."""
        self.attempts.reset()
        self.resting.reset()
        self.receipts.reset(error)


def own_deadline(item: Item) -> bool:
    """Whether the message has a deadline of its own, which beats its session's."""
    return item.x is not None and item.x.deadline is not None
