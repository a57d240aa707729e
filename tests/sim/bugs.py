"""Bugs to plant, by name: each is a promise broken on purpose, for the time of a `with`. The simulation must find every
one of them; `PLANTED` says where it looks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

import gateway.hub.outcomes as outcomes_module
from gateway.commit import Change, Commit, Recovered
from gateway.engine.queue import Queue
from gateway.engine.session import Session
from gateway.engine.window import Window
from gateway.errors import GatewayError
from gateway.hub.accepted import Accepted
from gateway.hub.answers import Answers, session_of
from gateway.hub.attempts import Attempts
from gateway.hub.core import Core
from gateway.hub.hub import Hub
from gateway.hub.intake import Intake
from gateway.model import ChainRow, Hold, Item, Kind, Status
from gateway.stores.memory import MemoryStore
from gateway.stores.memory_commit import Carrier
from tests.sim.plain_bugs import PLANTED_PLAIN
from tests.sim.receipt_bugs import PLANTED_RECEIPTS

Patch = tuple[Any, str, Any]


def frame_before_commit() -> Patch:
    """A publish to a live session is written at once, under the seq that it will get."""
    add = Intake.add

    def patched(self: Intake, commit: Commit, session: Session, item: Item, sink: Any, ref: Any) -> None:
        add(self, commit, session, item, sink, ref)
        if item.hold == Hold.BOUND and item.kind == Kind.MESSAGE:
            early = Item(
                item.id, item.client, item.sender, item.lane, item.at, item.expire, item.body, item.x
            )
            early.eno, early.seq = item.eno, session.next + session.binding - 1
            session.conn.deliver([early])

    return Intake, "add", patched


def told_before_commit() -> Patch:
    """A publisher is told stored before the commit."""
    add = Intake.add

    def patched(self: Intake, commit: Commit, session: Session, item: Item, sink: Any, ref: Any) -> None:
        at = len(commit.sinks)
        add(self, commit, session, item, sink, ref)
        if sink is not None:
            commit.sinks[at] = None
            sink.stored(ref, item.id, False, item.status)

    return Intake, "add", patched


def token_rotated_away() -> Patch:
    """Only the token that was issued last is accepted: a lost welcome loses the session."""
    resume = Session.resume

    def patched(self: Session, token: bytes | None, epoch: str | None, ack: int | None) -> str:
        if self.row is not None:
            self.row = replace(self.row, token_presented=None)
        return resume(self, token, epoch, ack)

    return Session, "resume", patched


def gap_ack_cancels_handover() -> Patch:
    """The ack of a gap counts as the ack of its message."""
    settle = Answers.settle

    def patched(self: Answers, session: Session, owned: list[Item], claimed: list[Item], via: str) -> None:
        for item in owned:
            if item.kind == Kind.GAP:
                self.core.end(item, (int(Hold.NONE),), Status.DELIVERED, "", via=via)
        settle(self, session, owned, claimed, via)

    return Answers, "settle", patched


def nack_swallowed() -> Patch:
    """A nack leaves its seq unsettled: the next cumulative ack takes it for processed."""

    def patched(self: Answers, conn: Any, seq: int, delay: float, why: str) -> None:
        session = session_of(conn)
        if session is not None:
            session.unsettled(seq)

    return Answers, "nack", patched


def retry_forgotten() -> Patch:
    """What waits for a retry is not looked at after a start."""
    load = Hub._load

    def patched(self: Hub, known: Recovered) -> None:
        known.channels.clear()
        load(self, known)

    return Hub, "_load", patched


def marks_not_raised() -> Patch:
    """What is written again on a new connection carries no mark."""

    def patched(self: Window) -> None:
        self.unwritten.clear()
        self.flight = 0
        for item in self.items:
            if item.hold != Hold.NONE:
                item.written = False
                self.unwritten.append(item)

    return Window, "reconnected", patched


def seq_counter_lost() -> Patch:
    """After a start the next seq follows the highest unsettled one, not the highest that was ever bound."""
    opened = MemoryStore.open

    def patched(self: MemoryStore) -> Recovered:
        tables = self._tables
        for client, known in list(tables.sessions.items()):
            seqs = [r.seq for r in tables.messages.of_live() if r.client == client and r.hold == Hold.BOUND]
            tables.sessions[client] = replace(known, row=replace(known.row, next=max(seqs, default=0) + 1))
        return opened(self)

    return MemoryStore, "open", patched


def stored_although_failed() -> Patch:
    """The publishers of a commit that failed are told stored."""

    def patched(self: Accepted, commit: Commit, error: GatewayError) -> None:
        for item, sink, ref in zip(commit.appends, commit.sinks, commit.refs, strict=True):
            if sink is not None:
                sink.stored(ref, item.id, False, item.status)

    return Accepted, "failed", patched


def dedup_forgotten() -> Patch:
    """Keys are not kept: a repetition is stored again."""
    submit = Core.submit

    def patched(self: Core) -> None:
        self.commit.keys.clear()
        submit(self)

    return Core, "submit", patched


def last_in_first_out() -> Patch:
    """A lane is emptied from its end."""

    def patched(self: Queue) -> Item | None:
        for lane in range(4):
            line = self.lanes.get(lane)
            if line:
                item = line.pop()
                self.count -= 1
                self.bytes -= len(item.body or b"")
                return item
            if self.more[lane]:
                return None
        return None

    return Queue, "pop", patched


def burnt_chain_gives_back() -> Patch:
    """That an attempt was ambiguous is forgotten: its client gets the message too."""
    decide = vars(outcomes_module)["decide"]

    def patched(row: ChainRow, *args: Any) -> Any:
        verdict = decide(row, *args)
        row.burnt = False
        return verdict

    return outcomes_module, "decide", patched


def ack_keeps_chain() -> Patch:
    """The ack of a claimed message settles its seq and leaves its chain going."""
    settle = Answers.settle

    def patched(self: Answers, session: Session, owned: list[Item], claimed: list[Item], via: str) -> None:
        settle(self, session, owned, [], via)
        for item in claimed:
            self.core.change(Change(item.id, (int(Hold.CLAIMED),), {"hold": int(Hold.NONE)}))

    return Answers, "settle", patched


def attempt_before_commit() -> Patch:
    """An attempt is made while its row is still being committed."""

    def patched(self: Attempts, row: ChainRow, item: Item, now: int) -> None:
        row.attempt += 1
        row.total += 1
        self.outbound.send(row.channel, item, row.total, lambda _: None)

    return Attempts, "_start", patched


def room_forgotten() -> Patch:
    """What waits for room at a channel is not looked at when an attempt ends."""
    came = Attempts._came

    def patched(self: Attempts, *args: Any) -> None:
        self._full.clear()
        came(self, *args)

    return Attempts, "_came", patched


def claim_without_asking() -> Patch:
    """The store does what a change says, whoever holds the message."""

    def patched(self: Carrier, op: Change, row: Any) -> bool:
        return True

    return Carrier, "_applies", patched


def window_ignored() -> Patch:
    """A client gets more than its window at a time."""
    welcomed = Session.welcomed

    def patched(self: Session, now: int, limit: int, jitter: float, **how: Any) -> None:
        welcomed(self, now, limit + 3, jitter, **how)

    return Session, "welcomed", patched


def ack_told_before_commit() -> Patch:
    """`delivered` is published when the ack comes, not when it is durable."""
    settle = Answers.settle

    def patched(self: Answers, session: Session, owned: list[Item], claimed: list[Item], via: str) -> None:
        for item in owned:
            if item.kind == Kind.MESSAGE:
                self.core.told(item, Status.DELIVERED, self.core.now(), via)
        settle(self, session, owned, claimed, via)

    return Answers, "settle", patched


# which profile shows it
PLANTED: dict[str, tuple[Callable[[], Patch], str]] = {
    "frame_before_commit": (frame_before_commit, "links"),
    "told_before_commit": (told_before_commit, "crashes"),
    "token_rotated_away": (token_rotated_away, "links"),
    "gap_ack_cancels_handover": (gap_ack_cancels_handover, "everything"),
    "nack_swallowed": (nack_swallowed, "links"),
    "retry_forgotten": (retry_forgotten, "crashes"),
    "marks_not_raised": (marks_not_raised, "links"),
    "seq_counter_lost": (seq_counter_lost, "crashes"),
    "stored_although_failed": (stored_although_failed, "store"),
    "dedup_forgotten": (dedup_forgotten, "crashes"),
    "last_in_first_out": (last_in_first_out, "links"),
    "burnt_chain_gives_back": (burnt_chain_gives_back, "links"),
    "ack_keeps_chain": (ack_keeps_chain, "links"),
    "attempt_before_commit": (attempt_before_commit, "links"),
    "room_forgotten": (room_forgotten, "links"),
    "claim_without_asking": (claim_without_asking, "links"),
    "window_ignored": (window_ignored, "links"),
    "ack_told_before_commit": (ack_told_before_commit, "links"),
    **PLANTED_PLAIN,
    **PLANTED_RECEIPTS,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With this bug in place; "" for none."""
    if not name:
        yield
        return
    owner, attribute, patched = PLANTED[name][0]()
    before = getattr(owner, attribute)
    setattr(owner, attribute, patched)
    try:
        yield
    finally:
        setattr(owner, attribute, before)
