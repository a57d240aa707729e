"""The session against a naive gateway that loses connections, crashes before commits and withholds claimed messages.

What must hold: a seq is settled the way the application said (an ack never swallows a nack or reject, nothing unsaid is
settled), the application gets nothing twice that it holds or has acked, also over a restart with the state file, and in
the end everything is settled and every publish is accepted exactly once. The same seed gives the same run.
"""

import json
from random import Random
from typing import Any

import pytest

from gateway.client.frames import Codec
from gateway.client.message import Message
from gateway.client.outbox import Receipt
from gateway.client.session import Options, Session
from gateway.client.state import Snapshot
from gateway.wire import PubEntry

WINDOW = 3


class NaiveGateway:
    """Settles in memory at once and on disk at `commit`; binding commits, in order, what was settled before."""

    def __init__(self) -> None:
        self.next = 1
        self.epoch = 0
        self.expired = False
        self.issued = self.presented = ""
        self.tokens = 0
        self.disk: dict[int, str] = {}  # unsettled seq -> message id
        self.memory: dict[int, str] = {}
        self.withheld: set[int] = set()  # claimed: not sent until a gap is committed for it
        self.gaps: set[int] = set()
        self.waiting: list[tuple[str, int]] = []  # id, redelivered
        self.redelivered: dict[str, int] = {}
        self.uncommitted: list[tuple[int, str]] = []
        self.settled: list[tuple[str, str]] = []  # (id, how) on disk
        self.accepted: dict[str, int] = {}

    def settle(self, seq: int, how: str) -> None:
        if seq in self.memory:
            del self.memory[seq]
            self.uncommitted.append((seq, how))

    def commit(self) -> None:
        for seq, how in self.uncommitted:
            id_ = self.disk.pop(seq)
            gap = seq in self.gaps
            self.gaps.discard(seq)
            self.withheld.discard(seq)
            self.settled.append((id_, "gap" if gap else how))
            if how == "nack" and not gap:
                self.waiting.append((id_, 1))
        self.uncommitted.clear()

    def bind(self) -> list[int]:
        """Commit, and give a seq to what waits as long as the window is open."""
        bound = []
        while self.waiting and len([s for s in self.memory if s not in self.withheld | self.gaps]) < WINDOW:
            self.commit()
            id_, redelivered = self.waiting.pop(0)
            self.redelivered[id_] = redelivered
            self.disk[self.next] = self.memory[self.next] = id_
            bound.append(self.next)
            self.next += 1
        return bound

    def crash(self) -> None:
        self.uncommitted.clear()
        self.memory = dict(self.disk)

    def hello(self, token: str | None, epoch: str | None, ack: int) -> dict[str, Any]:
        """The welcome. Each brings a token; only presenting a later one retires one (PROTOCOL 3)."""
        assert token in {None, self.issued, self.presented}, "a token that was retired"
        resumed = token is not None and epoch == str(self.epoch) and not self.expired
        if resumed:
            assert ack < self.next
            self.presented = token or ""
            for seq in [s for s in self.memory if s <= ack]:
                self.settle(seq, "ack")
        self.commit()
        if not resumed:
            self.begin_epoch()
        self.tokens += 1
        self.issued = str(self.tokens)
        return {"t": "welcome", "client": "a", "epoch": str(self.epoch), "resume": self.issued, "resumed": resumed,
                "window": WINDOW, "next": self.next, "heartbeat": 1e9}  # fmt: skip

    def begin_epoch(self) -> None:
        """What was bound waits again; what its chain has taken is over."""
        self.expired = False
        self.epoch += 1
        self.next = 1
        for seq, id_ in sorted(self.disk.items(), reverse=True):
            if seq in self.withheld | self.gaps:
                self.settled.append((id_, "gap"))
            else:
                self.waiting.insert(0, (id_, self.redelivered[id_] + 1))
        for left in (self.disk, self.memory, self.withheld, self.gaps):
            left.clear()

    def frame(self, seqs: list[int]) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = []
        for seq in seqs:
            if seq in self.gaps:
                frames.append({"t": "gap", "m": [{"seq": seq, "id": self.memory[seq], "why": "superseded"}]})
            elif seq not in self.withheld:
                id_ = self.memory[seq]
                message = {
                    "seq": seq,
                    "id": id_,
                    "from": "b",
                    "at": 1,
                    "body": 0,
                    "redelivered": self.redelivered[id_],
                }
                frames.append({"t": "msg", "m": [message]})
        return frames


class World:
    """One client, one gateway, and the wire between them. `up` and `down` are what is under way."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.gateway = NaiveGateway()
        self.saved: Snapshot | None = None
        self.made = self.published = 0
        self.acked: set[str] = set()
        self.acked_and_saved: set[str] = set()
        self.refused: set[str] = set()
        self.receipts: list[Receipt] = []
        self.now = 0.0
        self.up: list[Any] = []
        self.down: list[Any] = []
        self.linked = False
        self.program()

    def program(self) -> None:
        """A new process of the client, from the state file; what it had in hand is open again."""
        self.hand: list[Message] = []
        self.acked_here = set(self.acked_and_saved)
        self.session = Session(
            Codec("json"),
            Options(window=WINDOW, ack_delay=0.0, persist=True),
            rng=Random(0),
            key_prefix=f"p{self.published}",
            wake=lambda: None,
            snapshot=self.saved,
        )

    # -- the wire --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if not self.linked:
            self.linked = True
            self.session.connected("jwt", self.now)

    def flush(self) -> None:
        out = self.session.take(self.now)
        if out.snapshot is not None:
            self.saved = out.snapshot
            self.acked_and_saved = set(self.acked_here)
        self.up += [json.loads(f) for f in out.frames]

    def uplink(self, most: int) -> None:
        for _ in range(min(most, len(self.up))):
            self.gateway_reads(self.up.pop(0))

    def downlink(self, most: int) -> None:
        for _ in range(min(most, len(self.down))):
            self.session.receive(json.dumps(self.down.pop(0)).encode(), self.now)

    def gateway_reads(self, frame: dict[str, Any]) -> None:
        gateway = self.gateway
        if frame["t"] == "hello":
            self.down.append(gateway.hello(frame.get("resume"), frame.get("epoch"), frame.get("ack", 0)))
            self.down += gateway.frame(sorted(gateway.memory))
        elif frame["t"] == "ack":
            upto = frame.get("seq", 0)
            assert max(upto, *frame.get("seqs", [0])) < gateway.next
            for seq in [s for s in gateway.memory if s <= upto] + frame.get("seqs", []):
                gateway.settle(seq, "ack")
        elif frame["t"] in {"nack", "reject"}:
            gateway.settle(frame["seq"], frame["t"])
        elif frame["t"] == "pub":
            for message in frame["m"]:
                gateway.accepted.setdefault(message["key"], message["body"])
                self.down.append({"t": "ok", "m": [{"ref": message["ref"], "id": message["key"]}]})

    @property
    def live(self) -> bool:
        return self.linked and bool(self.gateway.tokens) and not any(f["t"] == "hello" for f in self.up)

    # -- what goes well --------------------------------------------------------------------------------------------

    def pump(self) -> None:
        self.connect()
        self.flush()
        self.uplink(self.rng.randint(1, 20))
        self.binds_and_sends()
        self.downlink(self.rng.randint(1, 20))

    def message_arrives(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.made += 1
            self.gateway.waiting.append((f"m{self.made}", 0))

    def publish(self) -> None:
        self.published += 1
        self.session.publish(PubEntry(to="b"), self.published, self.answered)

    def answered(self, answer: Any) -> None:
        assert isinstance(answer, Receipt)
        self.receipts.append(answer)

    def binds_and_sends(self) -> None:
        if self.live:
            self.down += self.gateway.frame(self.gateway.bind())

    def application_takes(self) -> None:
        for message in iter(self.session.inbox.next, None):
            assert message.id not in {m.id for m in self.hand}, f"{message} handed out while in hand"
            assert message.id not in self.acked_and_saved, f"{message} handed out after its ack was saved"
            self.hand.append(message)

    def application_acks(self) -> None:
        self.settles("ack")

    def application_refuses(self) -> None:
        self.settles(self.rng.choice(["nack", "reject"]))

    def settles(self, how: str) -> None:
        if not self.hand:
            return
        message = self.hand.pop(self.rng.randrange(len(self.hand)))
        inbox = self.session.inbox
        if how == "ack":
            self.acked.add(message.id)
            self.acked_here.add(message.id)
            inbox.ack(message)
            return
        self.refused.add(message.id)
        if how == "nack":
            inbox.nack(message, 1.0, "")
        else:
            inbox.reject(message, "")

    def application_is_told(self) -> None:
        while self.session.inbox.notices:
            self.session.inbox.told(self.session.inbox.notices.popleft())

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def connection_lost(self, code: int = 1006) -> None:
        """The gateway still reads some of what was sent; the client reads nothing more."""
        if self.linked:
            self.flush()
            self.uplink(self.rng.randint(0, len(self.up)))
            self.up.clear()
            self.down.clear()
            self.linked = False
            self.session.ended(code, "", self.now)

    def session_expires(self) -> None:
        self.connection_lost(4100)

    def gateway_ends_the_epoch(self) -> None:
        self.connection_lost()
        self.gateway.expired = True

    def gateway_crashes(self) -> None:
        self.connection_lost()
        self.gateway.crash()

    def program_restarts(self) -> None:
        self.connection_lost()
        self.program()

    def lowest_is_sent_again(self) -> None:
        if self.live and self.gateway.memory:
            low = min(self.gateway.memory)
            self.gateway.redelivered[self.gateway.memory[low]] += 1
            self.down += self.gateway.frame([low])

    def gateway_commits(self) -> None:
        self.gateway.commit()

    def claimed(self) -> None:
        """A chain takes a bound message; nothing is sent for its seq until the gap."""
        free = sorted(set(self.gateway.memory) - self.gateway.withheld - self.gateway.gaps)
        if free:
            self.gateway.withheld.add(self.rng.choice(free))

    def gap_committed(self) -> None:
        gateway = self.gateway
        for seq in sorted(gateway.withheld):
            gateway.withheld.discard(seq)
            if seq in gateway.memory:
                gateway.commit()
                gateway.gaps.add(seq)
                if self.live:
                    self.down += gateway.frame([seq])

    # -- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        for id_, how in self.gateway.settled:
            assert how != "ack" or id_ in self.acked, f"{id_} was settled by an ack that nobody gave"
            assert how in {"ack", "gap"} or id_ in self.refused, f"{id_} was refused by nobody"
        bodies = list(self.gateway.accepted.values())
        assert len(bodies) == len(set(bodies)), "accepted twice"

    def finish(self) -> None:
        """A quiet end: everything must be settled, every publish of the last program answered."""
        self.gap_committed()
        for _ in range(20 + 3 * self.made):
            self.pump()
            self.lowest_is_sent_again()
            self.downlink(1000)
            self.application_takes()
            self.application_is_told()
            while self.hand:
                self.settles("ack")
            self.gateway.commit()
            self.check()
        assert (self.gateway.disk, self.gateway.waiting) == ({}, [])
        ends = {id_ for id_, how in self.gateway.settled if how != "nack"}
        assert ends == {f"m{n}" for n in range(1, self.made + 1)}
        assert not self.session._outbox._all


ACTIONS: dict[str, int] = {
    "pump": 40,
    "message_arrives": 10,
    "publish": 5,
    "application_takes": 15,
    "application_acks": 30,
    "application_refuses": 6,
    "application_is_told": 5,
    "connection_lost": 5,
    "session_expires": 1,
    "gateway_crashes": 3,
    "gateway_ends_the_epoch": 2,
    "program_restarts": 2,
    "lowest_is_sent_again": 4,
    "gateway_commits": 5,
    "claimed": 3,
    "gap_committed": 3,
}


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_client_and_naive_gateway(first: int) -> None:
    for seed in range(first, first + 20):
        world = World(seed)
        for action in world.rng.choices(list(ACTIONS), list(ACTIONS.values()), k=250):
            getattr(world, action)()
            world.check()
        world.finish()
