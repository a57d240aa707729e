"""The smallest driver that keeps the engine's contract, over the store of disk.py.

Commits are carried out one at a time and in order while another fills, and the engine is called after a commit, never
before. A commit gives seqs to its inserts first, then to what left the queue, then comes everything else; its reads see
all of that. What the model must know is written into the `Ledger` where it happens.
"""

from msgspec.structs import replace

from gateway.engine.session import Session
from gateway.engine.states import Input, Rules, State
from gateway.model import Hold, Item, Kind, SessionRow
from tests.engine.disk import After, Commit, Disk, Op
from tests.engine.support import ISSUED, OFFLINE, PRESENTED, T0, item

RULES = Rules(ack_wait=10_000, ack_wait_max=60_000, expiry=120_000, heads=4, heads_bytes=9)
READ = 5  # rows of one lane that are read at a time
NEVER = 1 << 60


class Driver:
    def __init__(self) -> None:
        self.now = T0
        self.disk = Disk()
        self.ledger = self.disk.ledger
        self.session = Session("alice", RULES)
        self.filling = Commit()
        self.flying: Commit | None = None
        self.refilling = False
        self.hello_ack: int | None = None
        self.clean = False
        self.committing_hello = False
        self.gone = False  # before its welcome
        self.limit = 4
        self.writable = True
        self.one_step = True  # what is bound may be written in the same step

    # -- turns and commits ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """The end of a turn of the loop."""
        session = self.session
        if session.state == State.JOINING:
            self._join()
        elif session.live and self.writable:
            self._work()
        if self.flying is None and self.filling:
            self.flying, self.filling = self.filling, Commit()

    def _work(self) -> None:
        session = self.session
        self._write(session.take(self.now))
        fresh, expired = session.pull(self.now)
        for left in fresh:
            self._leaves(left)
        self.filling.ops += [self._end_waiting(dead.id) for dead in expired]
        lane = session.queue.hungry()
        if lane >= 0 and not self.refilling:
            self.refilling = True
            self.filling.reads.append(lambda: self._refilled(lane))

    def _leaves(self, left: Item) -> None:
        """Nothing of a higher lane waits: it is being bound, or too old."""
        self.filling.binds.append(left)
        leaving = self.filling.binds + (self.flying.binds if self.flying is not None else [])
        for lane in range(left.lane):
            behind = set(self.disk.waiting(lane)) - {i.id for i in leaving}
            assert all(self.disk.rows[id].expire <= self.now for id in behind), "a lower lane came first"
        assert self.session.window.open + self.session.binding <= self.session.limit

    def _write(self, items: list[Item]) -> None:
        ledger = self.ledger
        for sent in items:
            if sent is self.session.window.lowest_owned():
                ledger.since = self.now
            below = {i.seq for i in self.session.window.items if i.hold != Hold.NONE and i.seq < sent.seq}
            assert below <= ledger.shown, "a hole was left"
            ledger.shown.add(sent.seq)
            if sent.kind == Kind.GAP:
                assert self.disk.gaps[sent.seq] == sent.id
                continue
            row = self.disk.rows[sent.id]
            assert row.hold in {Hold.BOUND, Hold.CLAIMED, Hold.NONE}, "a frame before its commit"
            assert row.seq == sent.seq, "another seq is on disk"
            assert sent.hold == Hold.BOUND
            assert sent.body is not None
            assert bool(sent.marks) == (sent.id in ledger.suspect), "a mark is missing or untrue"
            ledger.suspect.add(sent.id)
            ledger.outstanding.add(sent.seq)

    def _refilled(self, lane: int) -> None:
        self.refilling = False
        if self.session.live:
            found = self.disk.waiting(lane)
            self.session.queue.refill(lane, [self.disk.read(id) for id in found[:READ]], len(found) < READ)

    def committed(self) -> None:
        """The commit under way is on disk: the gateway hears of it, in the order of its parts."""
        commit, self.flying = self.flying, None
        assert commit is not None
        afters = self.disk.carry_out(commit)
        session = self.session
        for made in commit.appends:
            session.incoming -= 1
            if made.hold == Hold.BOUND:
                self._bound(made)
                continue
            session.waiting += 1
            if session.live:
                session.queue.push(made)
        for made in commit.binds:
            if made.hold == Hold.BOUND:
                session.waiting -= 1
                self._bound(made)
            else:
                session.binding -= 1
        for after in (*afters, *commit.reads):
            after()
        self.turn()

    def _bound(self, made: Item) -> None:
        session = self.session
        if session.live and self.writable and self.one_step and session.sends(made, self.now):
            self._write([made])
            return
        session.bound(made, self.now)
        if not session.live:
            made.body = None

    def _end_waiting(self, id: int) -> Op:
        def after() -> None:
            self.session.waiting -= 1

        return self.disk.change(id, {Hold.WAITING}, Hold.NONE, after)

    # -- the client ----------------------------------------------------------------------------------------------------

    def publish(self, made: Item) -> None:
        session = self.session
        if session.may_bind_now(self.writable):
            made.hold = int(Hold.BOUND)
            session.binding += 1
        session.incoming += 1
        self.filling.appends.append(made)

    def settle(self, items: list[Item]) -> None:
        """What an ack has settled goes into the commit."""
        for done in items:
            self.ledger.outstanding.discard(done.seq)
            self.ledger.answered.add(done.seq)
            if done.kind == Kind.GAP:
                self.filling.ops.append(lambda seq=done.seq: self._forget_gap(seq))  # type: ignore[misc]
            else:
                self.filling.ops.append(self.disk.change(done.id, {Hold.BOUND, Hold.CLAIMED}, Hold.NONE))

    def _forget_gap(self, seq: int) -> None:
        self.disk.gaps.pop(seq, None)

    def nack(self, named: Item) -> None:
        """It comes again under another seq."""
        session = self.session
        session.window.settle(named)
        self.ledger.outstanding.discard(named.seq)
        self.ledger.answered.add(named.seq)

        def after() -> None:
            row = self.disk.rows[named.id]
            row.seq, row.marks = 0, named.marks + 1
            self.ledger.repeated.add(named.id)
            self.ledger.suspect.add(named.id)
            session.waiting += 1
            if session.live:
                session.queue.more[row.lane] = True

        self.filling.ops.append(self.disk.change(named.id, {Hold.BOUND}, Hold.WAITING, after))
        # its chain was faster: then it goes on alone, and the seq is settled all the same
        self.filling.ops.append(self.disk.change(named.id, {Hold.CLAIMED}, Hold.NONE))

    # -- chains and ends -----------------------------------------------------------------------------------------------

    def claim(self, id: int) -> None:
        """A chain takes a bound message. Its seq becomes a gap at once if a client that is here was not written it."""
        session = self.session
        held = session.window.find_id(id)
        assert held is not None
        if session.state == State.JOINING or (session.live and not held.written):
            self.end(id, Hold.BOUND, "superseded")
            return
        held.leaving = True

        def after() -> None:
            if held.hold == Hold.BOUND:
                held.hold, held.leaving = int(Hold.CLAIMED), False

        self.filling.ops.append(
            self._leaves_window(held, self.disk.change(id, {Hold.BOUND}, Hold.CLAIMED, after))
        )

    def _leaves_window(self, held: Item, op: Op) -> Op:
        def stays() -> None:
            held.leaving = False

        return lambda: op() or stays

    def end(self, id: int, hold: Hold, why: str) -> None:
        """A bound message ends otherwise than by its ack: its seq becomes a gap."""
        window = self.session.window
        seq = self.disk.rows[id].seq
        held = window.find(seq)
        if held is None:
            return  # its answer came first
        held.leaving = True

        def after() -> None:
            if window.find(seq) is None:
                self.filling.ops.append(lambda: self._forget_gap(seq))
                return
            self.ledger.outstanding.discard(seq)
            window.to_gap(held, why, "")

        def op() -> After | None:
            done = self.disk.change(id, {hold}, Hold.NONE, after)()
            if done is not None and self.disk.rows[id].seq == seq:
                self.disk.gaps[seq] = id
            return done

        self.filling.ops.append(self._leaves_window(held, op))

    # -- connections ---------------------------------------------------------------------------------------------------

    def hello(self, clean: bool, ack: int | None) -> None:
        self.session.feed(Input.HELLO)
        self.ledger.new_connection()
        self.clean, self.hello_ack = clean, ack
        self.turn()

    def _join(self) -> None:
        """Once nothing is being bound any more, everything that the hello changes goes into one commit."""
        session = self.session
        if self.committing_hello or session.binding:
            return
        self.committing_hello = True
        if self.clean:
            why = session.resume(None, None, None)
        else:
            why = session.resume(ISSUED, session.epoch or "e0", self.hello_ack)
        if why:
            self.unbind()
            session.begin_epoch(f"e{session.eno + 1}", session.eno + 1)
        elif self.hello_ack is not None:
            owned, claimed = session.acked_to(self.hello_ack, self.now)
            self.settle(owned + claimed)
        session.row = SessionRow("alice", session.epoch, session.eno, session.next, PRESENTED, ISSUED)
        self.filling.ops += [self._reclaim, self._put]
        self.filling.reads.append(self._welcome)

    def _reclaim(self) -> After:
        """What chains have and can give back, they do."""
        back = self.disk.holding(Hold.CLAIMED)
        for id in back:
            self.disk.rows[id].hold = Hold.BOUND

        def after() -> None:
            for held in self.session.window.items:
                if held.id in back and held.hold == Hold.CLAIMED:
                    held.hold = int(Hold.BOUND)

        return after

    def _put(self) -> None:
        assert self.session.row is not None
        self.disk.put_session(self.session.row)

    def _welcome(self) -> None:
        session = self.session
        self.committing_hello = False
        if self.gone:
            self._leave()
            return
        self.ledger.welcomed = True
        for held in session.window.items:
            if held.hold != Hold.NONE and held.kind != Kind.GAP:
                held.body = b'"x"'
        session.welcomed(self.now, self.limit, 0.5)

    def unbind(self) -> None:
        """An epoch is over: what was bound in it waits again."""
        session = self.session
        held = {i.id for i in session.window.items if i.hold != Hold.NONE and i.kind != Kind.GAP}

        def op() -> After:
            again = held.intersection(self.disk.holding(Hold.BOUND, Hold.CLAIMED))
            for id in again:
                row = self.disk.rows[id]
                row.hold, row.seq, row.marks = Hold.WAITING, 0, max(row.marks, 1)
                self.ledger.suspect.add(id)
            self.disk.gaps.clear()

            def after() -> None:
                session.waiting += len(again)

            return after

        self.filling.ops.append(op)

    def lost(self) -> None:
        if self.committing_hello:
            self.gone = True
        else:
            self._leave()

    def _leave(self) -> None:
        ledger = self.ledger
        self.gone = False
        if ledger.welcomed:
            ledger.welcomed, ledger.away_from = False, self.now
        self.session.lost(self.now, OFFLINE)
        ledger.new_connection()
        self._put_absent()

    def _put_absent(self) -> None:
        epoch, now = self.session.epoch, self.now
        self.filling.ops.append(lambda: self.disk.put_absent(epoch, now))

    def crash(self) -> None:
        """Memory is gone, and what was not committed with it."""
        self.filling, self.flying = Commit(), None
        self.refilling = self.committing_hello = self.gone = False
        self.ledger.new_connection()
        self.ledger.welcomed, self.ledger.away_from = False, self.now
        assert self.disk.session is not None
        stored = replace(self.disk.session, next=self.disk.next)
        session = self.session = Session("alice", RULES, stored)
        session.found_away(self.now, OFFLINE, stored.away_since)
        known = [self.disk.read(id) for id in self.disk.holding(Hold.BOUND, Hold.CLAIMED)]
        for held in known:
            held.marks = max(held.marks, 1)
            self.ledger.suspect.add(held.id)
        known += [item(id, seq=seq, kind=Kind.GAP, body=None) for seq, id in self.disk.gaps.items()]
        for held in sorted(known, key=lambda i: i.seq):
            session.window.add(held)
        session.window.drop_bodies()
        session.waiting = len(self.disk.holding(Hold.WAITING))

    # -- time ----------------------------------------------------------------------------------------------------------

    def see_to_it(self) -> None:
        """The session's deadline has come."""
        session = self.session
        if session.live:
            low = session.window.lowest_owned()
            assert low is not None
            session.ack_from = self.ledger.since = self.now
            low.tries += low.kind == Kind.MESSAGE
            session.window.again(low)
            return
        for dead in session.expired_while_away(self.now):
            dead.expire = NEVER
            self.end(dead.id, Hold.BOUND, "expired")
        if session.expires_at <= self.now:
            self.unbind()
            session.expire()
            self._put_absent()
        elif not session.handed and session.offline_at <= self.now:
            session.handed = True
