"""The session against a naive model, under whatever order of events hypothesis finds.

The model knows nothing of windows, queues and lanes: it has the ledger of what was bound, written and answered, and
the rows on disk.
"""

from copy import deepcopy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.errors import Invalid
from gateway.model import Hold, Item, Kind
from tests.engine.driver import RULES, Driver
from tests.engine.support import OFFLINE, item

# of the lowest unsettled seq, by its timeouts, with a jitter of one half
WAITS = (10_000, 20_000, 40_000, 57_000)
LONG = 10_000_000
LANES = st.sampled_from([2, 2, 2, 2, 2, 1, 0, 3])


def standing(session: Session) -> list[object]:
    """What an ack may change."""
    window = session.window
    items = [(i.id, i.seq, i.hold, i.written, i.body) for i in window.items if i.hold != Hold.NONE]
    return [items, window.open, window.flight, session.next, session.ack_from, session.ack_due()]


class SessionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.ledger = self.driver.ledger
        self.published = 0

    def unsettled(self) -> list[Item]:
        return [i for i in self.driver.session.window.items if i.hold != Hold.NONE]

    def owned(self) -> list[Item]:
        return [i for i in self.unsettled() if i.hold != Hold.CLAIMED]

    def lowest(self) -> int:
        """The seq that the ack timer runs on, 0 for none."""
        return min((i.seq for i in self.owned()), default=0)

    def answered(self, timed: int) -> None:
        """Settling the lowest starts the timer of the next one afresh."""
        if timed and self.driver.session.window.find(timed) is None:
            self.ledger.since = self.driver.now

    # -- what happens --------------------------------------------------------------------------------------------------

    @initialize(limit=st.integers(1, 4))
    def begins(self, limit: int) -> None:
        """The first hello; what comes before it is published to nobody."""
        self.driver.limit = limit
        self.driver.publish(self.message(2, LONG))
        self.driver.hello(True, None)
        self.everything_is_committed()

    def message(self, lane: int, ttl: int) -> Item:
        self.published += 1
        return item(self.published, lane=lane, expire=self.driver.now + ttl)

    @rule(
        lanes=st.lists(LANES, min_size=1, max_size=6),
        ttl=st.sampled_from([20_000, LONG, LONG, LONG]),
    )
    def publish(self, lanes: list[int], ttl: int) -> None:
        for lane in lanes:
            self.driver.publish(self.message(lane, ttl))
        self.driver.turn()

    @rule(lane=LANES)
    def publish_within_a_turn(self, lane: int) -> None:
        self.driver.publish(self.message(lane, LONG))

    @rule(one=st.booleans())
    def the_way_out(self, one: bool) -> None:
        """From now on what is bound is written in one step, or in two."""
        self.driver.one_step = one

    @rule()
    def end_of_turn(self) -> None:
        self.driver.turn()

    @precondition(lambda self: self.driver.flying is not None)
    @rule(more=st.integers(0, 2))
    def committed(self, more: int) -> None:
        self.driver.committed()
        for _ in range(more):
            if self.driver.flying is not None:
                self.driver.committed()

    @rule()
    def everything_is_committed(self) -> None:
        for _ in range(50 + 10 * self.published):
            self.driver.turn()
            if self.driver.flying is None:
                return
            self.driver.committed()
        raise AssertionError("one commit leads to another for ever")

    @rule(writable=st.sampled_from([False, True, True]))
    def peer_reads(self, writable: bool) -> None:
        self.driver.writable = writable
        self.driver.turn()

    @precondition(lambda self: not self.driver.session.live and not self.driver.committing_hello)
    @rule(clean=st.sampled_from([False, False, True]), limit=st.integers(1, 6), data=st.data())
    def hello(self, clean: bool, limit: int, data: st.DataObject) -> None:
        """A client comes back. Its ack may be too high."""
        if self.driver.session.state == State.JOINING:
            return
        self.driver.limit = limit
        self.driver.writable = True
        self.driver.hello(clean, data.draw(st.none() | st.integers(0, self.driver.session.next)))

    @rule(how=st.sampled_from(["", "", "", "lost", "taken over", "crash", "crash after a commit"]))
    def connection_breaks(self, how: str) -> None:
        driver = self.driver
        if how == "lost" and driver.session.state in {State.LIVE, State.JOINING}:
            driver.lost()
        elif how == "taken over" and driver.session.live:
            driver.hello(False, None)
        elif how.startswith("crash"):
            if how != "crash" and driver.flying is not None:
                driver.committed()
            driver.crash()

    # -- what the client answers ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.driver.session.live)
    @rule(data=st.data())
    def ack_to(self, data: st.DataObject) -> None:
        session, timed = self.driver.session, self.lowest()
        seq = data.draw(st.integers(0, session.next - 1))
        named = [i.seq for i in self.unsettled() if i.seq <= seq]
        owned, claimed = session.acked_to(seq, self.driver.now)
        assert sorted(i.seq for i in owned + claimed) == named
        self.driver.settle(owned + claimed)
        self.answered(timed)

    @precondition(lambda self: self.driver.session.live and self.ledger.outstanding)
    @rule()
    def ack_the_oldest(self) -> None:
        self.ack_seq(min(self.ledger.outstanding))

    @precondition(lambda self: self.driver.session.live and self.ledger.outstanding)
    @rule(data=st.data())
    def ack_one(self, data: st.DataObject) -> None:
        self.ack_seq(data.draw(st.sampled_from(sorted(self.ledger.outstanding))))

    def ack_seq(self, seq: int) -> None:
        timed = self.lowest()
        session, now = self.driver.session, self.driver.now
        lowest = seq == min(i.seq for i in self.unsettled())
        before, each, all_below = deepcopy(session), deepcopy(session), deepcopy(session)
        one = session.acked_lowest(seq, now)
        if one is None:
            assert standing(session) == standing(before), "something was done in vain"
            found = session.acked_each([seq], now)
            (one,) = found[0] + found[1]
            assert found[2] == 0
        each.acked_each([seq], now)
        assert standing(session) == standing(each), "the ways differ"
        if lowest:
            all_below.acked_to(seq, now)
            assert standing(session) == standing(all_below), "the ways differ"
        assert one.seq == seq
        self.driver.settle([one])
        self.answered(timed)

    @precondition(lambda self: self.driver.session.live and self.ledger.outstanding)
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        session, timed = self.driver.session, self.lowest()
        named = session.unsettled(data.draw(st.sampled_from(sorted(self.ledger.outstanding))))
        assert named is not None
        if named.hold == Hold.CLAIMED:
            return
        self.driver.nack(named)
        if named.seq == timed:
            session.ack_from = self.driver.now
        self.answered(timed)

    @precondition(lambda self: self.driver.session.live and self.ledger.outstanding)
    @rule(data=st.data())
    def working(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.ledger.outstanding)))
        self.driver.session.working(seq, self.driver.now)
        if seq == self.lowest():
            self.ledger.since = self.driver.now

    # -- what chains and time do ---------------------------------------------------------------------------------------

    @precondition(lambda self: any(i.kind == Kind.MESSAGE for i in self.owned()))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        """A chain takes a bound message."""
        ids = [i.id for i in self.owned() if i.kind == Kind.MESSAGE]
        self.driver.claim(data.draw(st.sampled_from(ids)))

    @precondition(lambda self: self.driver.disk.holding(Hold.CLAIMED))
    @rule(data=st.data())
    def delivered_elsewhere(self, data: st.DataObject) -> None:
        """A provider has it: its seq becomes a gap, unless its ack comes first."""
        self.driver.end(
            data.draw(st.sampled_from(self.driver.disk.holding(Hold.CLAIMED))), Hold.CLAIMED, "superseded"
        )

    @rule(step=st.sampled_from([1, 1000, 5000, 5000, 11_000, 31_000, 130_000]))
    def time_passes(self, step: int) -> None:
        """Each deadline is seen to at its time."""
        driver = self.driver
        until = driver.now + step
        for _ in range(100):
            due = driver.session.next_deadline()
            if due == 0 or due > until:
                driver.now = until
                return
            driver.now = max(driver.now, due)
            driver.see_to_it()
            driver.turn()
        raise AssertionError("a deadline that was seen to does not go")

    # -- what is true all the time -------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """Nothing is being committed: memory and disk must say the same."""
        return self.driver.flying is None and not self.driver.filling

    @invariant()
    def seqs_are_in_order_and_below_next(self) -> None:
        session = self.driver.session
        held = [i.seq for i in self.unsettled()]
        assert held == sorted(set(held))
        assert all(0 < seq < session.next for seq in held)
        if self.quiet() and session.state != State.NEW:
            assert session.next == self.driver.disk.next == len(self.ledger.bindings) + 1
            if session.epoch:
                assert self.ledger.answered.union(held) >= set(range(1, session.next)), "a seq went silently"

    @invariant()
    def a_seq_that_was_never_bound_is_refused(self) -> None:
        session, before = self.driver.session, self.unsettled()
        assert session.acked_each([session.next], self.driver.now) == ([], [], session.next)
        for answer in (session.acked_to, session.working):
            try:
                answer(session.next, self.driver.now)
            except Invalid:
                continue
            raise AssertionError("a seq that was never bound was taken")
        assert self.unsettled() == before

    @invariant()
    def order_is_kept_within_a_lane(self) -> None:
        last = [0, 0, 0, 0]
        for id in self.ledger.bindings:
            lane = self.driver.disk.rows[id].lane
            if id not in self.ledger.repeated:
                assert id > last[lane], f"{id} came behind {last[lane]}"
                last[lane] = id

    @invariant()
    def the_window_is_kept(self) -> None:
        session = self.driver.session
        if session.live:
            held = [i for i in self.unsettled() if i.kind != Kind.GAP]
            assert len(self.ledger.outstanding) <= session.limit
            assert self.ledger.outstanding >= {i.seq for i in held if i.written}
            assert session.window.flight == sum(i.written for i in held)
            assert session.window.open == len(held)

    @invariant()
    def memory_is_bounded(self) -> None:
        queue = self.driver.session.queue
        held = [i for line in queue.lanes.values() for i in line]
        assert queue.count == len(held)
        assert queue.bytes == sum(len(i.body or b"") for i in held)
        assert all(len(line) <= RULES.heads for line in queue.lanes.values())

    @invariant()
    def the_offline_clock_runs_from_the_loss(self) -> None:
        session = self.driver.session
        if session.state == State.AWAY:
            assert session.offline_at == self.ledger.away_from + OFFLINE
            assert session.handed or session.next_deadline() <= session.offline_at
        elif session.state in {State.JOINING, State.LIVE}:
            assert not session.handed

    @invariant()
    def nothing_is_lost(self) -> None:
        driver = self.driver
        assert set(driver.disk.holding(Hold.NONE)) == self.ledger.settled
        if not self.quiet():
            return
        held = {i.seq: (i.id, i.hold) for i in self.unsettled() if i.kind != Kind.GAP}
        rows = driver.disk.rows
        assert held == {
            rows[id].seq: (id, rows[id].hold) for id in driver.disk.holding(Hold.BOUND, Hold.CLAIMED)
        }
        assert driver.disk.gaps == {i.seq: i.id for i in self.unsettled() if i.kind == Kind.GAP}
        waiting = driver.disk.holding(Hold.WAITING)
        assert driver.session.waiting == len(waiting)
        if driver.session.live:
            queue = driver.session.queue
            known = {i.id for line in queue.lanes.values() for i in line}
            assert all(id in known or queue.more[rows[id].lane] for id in waiting)

    @invariant()
    def the_ack_timer_is_that_of_the_lowest(self) -> None:
        session = self.driver.session
        low = session.window.find(self.lowest())
        if not session.live or low is None or not low.written:
            assert session.ack_due() == 0
            return
        tries = low.tries if low.kind == Kind.MESSAGE else low.marks
        assert session.ack_due() == self.ledger.since + WAITS[min(tries, 3)]

    # -- and in the end ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """A client that comes, reads and acks in order gets everything that has not ended."""
        driver = self.driver
        driver.writable = True
        for _ in range(100 + 30 * self.published):
            if driver.session.state not in {State.LIVE, State.JOINING}:
                driver.hello(False, None)
            driver.turn()
            written = 0
            for held in self.unsettled():
                if not held.written:
                    break
                written = held.seq
            if driver.session.live and written:
                owned, claimed = driver.session.acked_to(written, driver.now)
                driver.settle(owned + claimed)
            elif driver.flying is not None:
                driver.committed()
            elif taken := driver.disk.holding(Hold.CLAIMED):
                driver.end(taken[0], Hold.CLAIMED, "superseded")
            elif driver.session.live and not driver.session.queue:
                break
        assert self.ledger.settled == set(driver.disk.rows)
        assert self.unsettled() == []


SessionMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=50)
TestSession = SessionMachine.TestCase
