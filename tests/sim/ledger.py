"""What is known outside of the gateway: what publishers sent and were told, what each client saw and processed, what
each provider got. What must never happen is noticed here at the moment at which it does.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from gateway.ids import decode_id, encode_id
from gateway.model import STATUS_NAMES, Hold, Item, Kind, Phase, Status
from gateway.ports import Outcome, Receipt, ref_of
from tests.sim.epochs import Epochs
from tests.sim.plain import SimDevice

if TYPE_CHECKING:
    from tests.sim.link import End
    from tests.sim.world import World

_LIVE_HOLDS = (Hold.BOUND, Hold.CLAIMED)
_PROVIDER = (Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED, Status.PROVIDER_READ)
# ends that something may still follow
_AFTER_END = {
    (Status.DELIVERED, Status.READ),
    (Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED),
    (Status.PROVIDER_DELIVERED, Status.PROVIDER_READ),
}


class Violation(AssertionError):
    """A promise was broken."""


class Draft(Struct, eq=False):
    """One message of a publisher: `index` is its place in the publisher's own order."""

    publisher: str
    index: int
    fields: dict[str, Any]
    state: str = "new"  # new | sent | unknown | stored | refused
    retried: bool = False
    id: int = 0
    cancelled: bool = False  # the gateway said so

    @property
    def to(self) -> str:
        to: str = self.fields["to"]
        return to

    @property
    def lane(self) -> str:
        lane: str = self.fields.get("priority", "normal")
        return lane


class Attempt(Struct, eq=False):
    channel: str
    n: int
    at: int  # the gateway's clock
    era: tuple[int, int]
    outcome: Outcome | None = None  # as the gateway was told, unless its memory of the attempt had gone
    outcome_at: int = 0
    taken: bool = False  # the provider has the message, whatever the gateway knows
    reported: set[str] = field(default_factory=set)  # what the provider called with
    answered: set[str] = field(default_factory=set)  # of that, what the gateway has answered


class Sight(Struct, eq=False):
    """The first frame of a message that its client got."""

    id: int
    marks: int


class ClientLog(Struct, eq=False):
    sights: list[Sight] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    processed: set[int] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)
    settled_otherwise: set[int] = field(default_factory=set)  # nacked or rejected at least once
    missed: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("expired", "superseded", "dead"), 0)
    )
    reports: dict[tuple[int, str], int] = field(default_factory=dict)
    epochs: int = 0
    recounted: bool = False  # it may have been told the same again


class Ledger:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.drafts: dict[tuple[str, int], Draft] = {}
        self.clients: dict[str, ClientLog] = {}
        self.attempts: dict[int, list[Attempt]] = {}
        self.written: set[int] = set()  # messages of which the gateway wrote a frame
        self.told: dict[int, int] = {}  # the last status that was published as durable
        self.told_ever: dict[int, set[int]] = {}
        self._own_acks: dict[
            int, tuple[tuple[int, int], int]
        ] = {}  # id -> (era, commits) when its ack reached the hub
        self.acked_by: dict[int, set[str]] = {}  # id -> the ways by which acks of it came
        self.epochs = Epochs(world)

    def fail(self, what: str) -> None:
        raise Violation(what)

    def client(self, name: str) -> ClientLog:
        return self.clients.setdefault(name, ClientLog())

    # -- publishers ------------------------------------------------------------------------------------------------

    def stored(self, draft: Draft, id: int, *, dup: bool) -> None:
        """The publisher was told that it is durable."""
        who = f"{draft.publisher} #{draft.index}"
        if draft.id and draft.id != id:
            self.fail(f"{who} has two ids, {encode_id(draft.id)} and {encode_id(id)}")
        if dup and not draft.retried:
            self.fail(f"{who} is called a repetition of {encode_id(id)}, and was sent once")
        draft.id, draft.state = id, "stored"
        view = self.world.disk.peek(id)
        if view is None:
            self.fail(f"{who} was told stored, and {encode_id(id)} is not on disk")
        elif view.body is not None and self.of_body(view.body) is not draft:
            self.fail(f"{who} was told {encode_id(id)}, which is another message")

    def refused(self, draft: Draft, code: str) -> None:
        """The publisher was told no, or maybe (commit_unknown)."""
        if code == "key_conflict":
            self.fail(f"{draft.publisher} #{draft.index} repeated itself and got a conflict")
        if code in {"internal", "invalid"}:
            self.fail(f"{draft.publisher} #{draft.index} was refused: {code}")
        if code == "commit_unknown" or draft.state == "unknown" or draft.retried:
            draft.state = "unknown"
        else:
            draft.state = "refused"

    def of_body(self, body: bytes) -> Draft:
        """The draft that a body names."""
        value = msgspec.json.decode(body)
        draft = self.drafts.get((value["p"], value["i"]))
        if draft is None:
            raise Violation(f"nobody published {body!r}")
        return draft

    # -- what the gateway writes -----------------------------------------------------------------------------------

    def wrote(self, conn: "End", items: list[Item]) -> None:
        """The hub hands frames to a connection."""
        if isinstance(conn, SimDevice):
            self._wrote_plain(conn, items)
        last = 0
        for item in items:
            if item.kind == Kind.MESSAGE:
                self._wrote_message(conn, item)
            elif item.kind == Kind.GAP and not self.world.disk.has_gap(item.client, item.eno, item.seq):
                self.fail(f"gap {item.seq} of {item.client} was written before it was committed")
            if item.seq == last:
                self.fail(f"seq {item.seq} of {item.client} twice in one turn")
            last = item.seq

    def _wrote_plain(self, conn: SimDevice, items: list[Item]) -> None:
        """Messages only, none twice on a connection, and no more unanswered than the device can take."""
        for item in items:
            if item.kind != Kind.MESSAGE:
                self.fail(f"{conn} was handed a {Kind(item.kind).name} ({item.seq})")
            key = (item.eno, item.seq)
            if key in conn.handed:
                self.fail(f"{conn} was handed seq {item.seq} twice")
            conn.handed.add(key)
        flight = [i.seq for i in conn.session.window.items if i.written and i.hold != Hold.NONE]
        limit = min(conn.quota, self.world.profile.window)
        if len(flight) > limit:
            self.fail(f"{conn} has {flight} in flight, its window is {limit}")

    def unwritten(self, conn: SimDevice, item: Item) -> None:
        """It was handed over, and the connection says that it will not write it."""
        conn.handed.discard((item.eno, item.seq))
        if not item.marks:
            self.written.discard(item.id)

    def _wrote_message(self, conn: "End", item: Item) -> None:
        name = encode_id(item.id)
        row = self.world.disk.peek(item.id)
        if row is None:
            self.fail(f"{name} was written and is not on disk")
            return
        if row.hold not in _LIVE_HOLDS or row.seq != item.seq or row.eno != item.eno:
            self.fail(
                f"{name} was written under seq {item.seq} ({item.eno}); on disk it has hold {row.hold}, seq {row.seq}"
                f" ({row.eno})"
            )
        late = self.world.late(item.client)
        if row.status >= Status.PROVIDER_ACCEPTED and not (late and row.status in _PROVIDER):
            self.fail(f"{name} was written though it is {STATUS_NAMES[row.status]}")
        if item.id in self.written and not item.marks:
            self.fail(f"{name} was written again without a mark")
        self.written.add(item.id)
        if late:
            return
        if self._settled(item.id) and "handed_over" not in self.world.disk.kinds(item.id):
            # an ack that crosses a chain's giving back is the gap's
            self.fail(f"{name} was written though its client's ack was committed before")
        for attempt in self.attempts.get(item.id, ()):
            what = attempt.outcome.kind if attempt.outcome is not None else "open"
            if attempt.taken or what in {"delivered", "accepted", "ambiguous", "open"}:
                self.fail(
                    f"{name} was written to {item.client} after attempt {attempt.n} at {attempt.channel} ({what}"
                    f"{', taken' if attempt.taken else ''})"
                )

    def acked(self, conn: "End", seq: int | None, seqs: list[int] | None) -> None:
        """An ack reaches the hub: what it settles as the message's own, no chain may try any more."""
        session = conn.session
        if session is None or (session.conn is not conn and session.attached is not conn):
            return
        if max(seq or 0, *(seqs or (0,))) >= session.next:
            return
        world = self.world
        for item in session.window.items:
            named = (seq is not None and item.seq <= seq) or (seqs is not None and item.seq in seqs)
            if named and item.kind == Kind.MESSAGE and item.hold != Hold.NONE:
                self._own_acks.setdefault(item.id, (world.era, world.disk.commits))
                self.acked_by.setdefault(item.id, set()).add(conn.via)

    def resumes(self, conn: "End", ack: int | None) -> None:
        """A hello says what its client has processed."""
        gateway = self.world.gateway
        session = gateway.hub.core.sessions.get(conn.client) if gateway is not None else None
        for item in session.window.items if session is not None and ack is not None else ():
            if item.seq <= (ack or 0):
                self.acked_by.setdefault(item.id, set()).add(conn.via)

    def _settled(self, id: int) -> bool:
        """Its ack has reached the hub, and stands in a commit that is through."""
        own = self._own_acks.get(id)
        return own is not None and own[0] == self.world.era and self.world.disk.commits > own[1] + 2

    # -- what a client sees ----------------------------------------------------------------------------------------

    def saw(self, client: str, id: int, marks: int, via: str) -> None:
        """A message frame has arrived at its client."""
        log = self.client(client)
        if marks and self.world.profile.name == "calm":
            self.fail(f"{client} got {encode_id(id)} marked, and nothing went wrong")
        if id in log.seen:
            if not marks:
                self.fail(f"{client} got {encode_id(id)} again without a mark")
            return
        log.seen.add(id)
        log.sights.append(Sight(id, marks))

    def processed(self, client: str, id: int, body: dict[str, Any]) -> None:
        """The client's application has it. The client dedupes, so this is the first time."""
        log = self.client(client)
        if id in log.processed:
            self.fail(f"{client} processed {encode_id(id)} twice")
        log.processed.add(id)
        draft = self.drafts.get((body["p"], body["i"]))
        if draft is None or draft.to != client:
            self.fail(f"{client} got a message that nobody sent it: {body}")
        elif draft.state == "refused":
            self.fail(f"{client} got {draft.publisher} #{draft.index}, which was refused")
        elif draft.id and draft.id != id:
            self.fail(f"{client} got {draft.publisher} #{draft.index} under a second id")
        elif draft.cancelled:
            self.fail(f"{client} got {encode_id(id)}, which was cancelled")

    def reported(self, client: str, entry: dict[str, Any]) -> None:
        reports = self.client(client).reports
        key = (decode_id(entry["id"]), entry["status"])
        reports[key] = reports.get(key, 0) + 1

    # -- what channels are asked -----------------------------------------------------------------------------------

    def attempt(self, channel: str, item: Item, n: int) -> Attempt:
        """The hub makes an attempt."""
        name, world = encode_id(item.id), self.world
        now = world.clock()
        row, chain = world.disk.peek(item.id), world.disk.chain(item.id)
        if (
            row is None
            or chain is None
            or chain.phase != Phase.OPEN
            or (chain.total, chain.channel) != (n, channel)
        ):
            self.fail(f"attempt {n} of {name} at {channel} was not committed: {chain}")
            raise AssertionError
        # where `read` is asked for, the chain goes on after `delivered`
        goes_on = (
            world.profile.reports and row.status == Status.PROVIDER_DELIVERED and "stop" in chain.channels
        )
        if row.status >= Status.DELIVERED and not goes_on:
            self.fail(f"attempt {n} of {name} though it is {STATUS_NAMES[row.status]}")
        if now < chain.due:
            self.fail(f"attempt {n} of {name} at {now}, due at {chain.due}")
        if self._settled(item.id):
            self.fail(f"attempt {n} of {name} though its client's ack was committed before")
        made = self.attempts.setdefault(item.id, [])
        for earlier in made:
            if earlier.n >= n:
                self.fail(f"attempt {n} of {name} after attempt {earlier.n}")
            if earlier.outcome is None and earlier.era == world.era:
                self.fail(f"attempt {n} of {name} while attempt {earlier.n} is open")
            told = earlier.outcome if earlier.era == world.era else None
            if told is not None and told.kind == "delivered":
                self.fail(f"attempt {n} of {name} after it was delivered at {earlier.channel}")
            rests = told is not None and told.kind == "accepted" and earlier.channel == "hook"
            if rests and "failed" not in earlier.reported:
                self.fail(f"attempt {n} of {name}, which rests on the word of {earlier.channel}")
            if told is not None and told.kind == "retry" and earlier.channel == channel:
                floor = earlier.outcome_at + int(told.retry_after * 1000)
                if now < floor:
                    self.fail(f"attempt {n} of {name} at {now}, and not before {floor} was asked for")
        attempt = Attempt(channel, n, now, world.era)
        made.append(attempt)
        return attempt

    def taken(self, id: int, attempt: Attempt, body: bytes) -> None:
        """A provider has accepted the message."""
        attempt.taken = True
        draft = self.of_body(body)
        if draft.state == "refused" or draft.cancelled:
            self.fail(f"{attempt.channel} got {encode_id(id)}, which was refused or cancelled")

    def receipt(self, attempt: Attempt, receipt: Receipt) -> None:
        """A callback was answered: what it says is on disk."""
        named = ref_of(receipt.ref)
        assert named is not None
        id = decode_id(named[0])
        lines = [
            event.data or {}
            for event in self.world.disk.events(id)
            if event.kind == "receipt" and event.data is not None
        ]
        attempt.answered.add(receipt.status)
        same = [line for line in lines if (line["n"], line["status"]) == (attempt.n, receipt.status)]
        if len(same) != 1:
            self.fail(f"{receipt.ref} was answered, and its timeline has {len(same)} times {receipt.status}")

    # -- what the gateway tells the world --------------------------------------------------------------------------

    def status(self, id: int, status: int, why: str) -> None:
        """The gateway published a status as durable."""
        before = self.told.get(id)
        if before is not None and before >= Status.PROVIDER_ACCEPTED and status <= before:
            self.fail(f"{encode_id(id)} went from {STATUS_NAMES[before]} back to {STATUS_NAMES[status]}")
        if before is not None and before >= Status.DELIVERED and (before, status) not in _AFTER_END:
            self.fail(
                f"{encode_id(id)} is {STATUS_NAMES[status]} ({why}) after it was {STATUS_NAMES[before]}"
            )
        self.told[id] = status
        self.told_ever.setdefault(id, set()).add(status)
        row = self.world.disk.peek(id)
        if (
            status >= Status.DELIVERED
            and row is not None
            and row.kind == Kind.MESSAGE
            and row.status != status
        ):
            self.fail(
                f"{encode_id(id)} is told as {STATUS_NAMES[status]} ({why}); on disk {STATUS_NAMES[row.status]}"
            )
