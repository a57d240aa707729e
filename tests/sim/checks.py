"""What must be true while a run goes on (`audit`) and at its end (`closing`)."""

from collections import Counter
from typing import TYPE_CHECKING

from gateway.engine.states import State
from gateway.hub.due import PAUSE
from gateway.ids import encode_id
from gateway.model import STATUS_NAMES, Chain, Hold, Kind, Status
from gateway.stores.memory_tables import Row
from tests.sim.link import CLOSING

if TYPE_CHECKING:
    from tests.sim.ledger import Attempt, Draft
    from tests.sim.world import World

_ENDS = tuple(s for s in Status if s.ended)
# from a deadline until what follows from it is committed, ms
SLACK = 1500
_BY_PROVIDER = (Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED, Status.PROVIDER_READ)


def cancelled(world: "World", draft: "Draft") -> None:
    """The gateway has just said so."""
    row = world.disk.peek(draft.id)
    if row is None or row.status != Status.CANCELLED:
        world.ledger.fail(f"{encode_id(draft.id)} was said to be cancelled, and is not")
    if draft.id in world.ledger.written or any(a.taken for a in world.ledger.attempts.get(draft.id, ())):
        world.ledger.fail(f"{encode_id(draft.id)} was cancelled after it had been sent")


# -- memory and disk -------------------------------------------------------------------------------------------------


def audit(world: "World") -> None:
    """When nothing is being committed, what memory holds of each session is what a start would find."""
    gateway = world.gateway
    if gateway is None or gateway.hub.core.busy or gateway.hub.core.commit or gateway.hub.core.down:
        return
    core, fail = gateway.hub.core, world.ledger.fail
    known = world.disk.recovered()
    rows = {row.client: row for row in known.sessions}
    for name, session in core.sessions.items():
        waiting = known.waiting.get(name, 0)
        if session.waiting != waiting:
            fail(f"{name}: {session.waiting} wait in memory, {waiting} on disk")
        if session.incoming or session.binding:
            fail(f"{name}: {session.incoming} incoming, {session.binding} binding, and nothing is committed")
        row = rows.get(name)
        if (row is None) is not (session.row is None):
            fail(f"{name}: a session in memory or on disk, not in both")
        if row is None or not session.epoch:
            continue
        if (session.epoch, session.eno, session.next) != (row.epoch, row.eno, row.next):
            fail(
                f"{name}: memory {session.epoch, session.eno, session.next}, disk {row.epoch, row.eno, row.next}"
            )
        here = [(i.seq, i.id, i.kind, i.hold) for i in session.window.items if i.hold != Hold.NONE]
        there = [(i.seq, i.id, i.kind, i.hold) for i in known.windows.get(name, ())]
        if here != there:
            fail(f"{name}: the window is {here} in memory, {there} on disk")
    for name in known.waiting.keys() - core.sessions.keys():
        fail(f"{name} has messages and no session in memory")
        if session.live and (session.conn is None or session.conn.phase >= CLOSING):
            fail(f"{name} is live on {session.conn}, which has ended")
    _will_wake(world, world.disk.next_due(), known.channels)
    look = core.deadlines.known.get("rest", 0)
    if known.next_rest and not 0 < look <= max(known.next_rest, core.now() + 1):
        fail(f"a receipt is waited for until {known.next_rest}, and the gateway looks at {look}")
    _overdue(world)


def _will_wake(world: "World", next_due: Row | None, channels: dict[str, int]) -> None:
    """Nothing that has its time is forgotten: the gateway looks at it then."""
    gateway = world.gateway
    assert gateway is not None
    core = gateway.hub.core
    due = core.deadlines.known
    if next_due is not None and not 0 < due.get("due", 0) <= max(next_due.due, core.now() + PAUSE):
        world.ledger.fail(f"a row is due, and the gateway looks at {due.get('due')}: {next_due}")
    for channel, when in channels.items():
        full = gateway.hub.handover.attempts.outbound.room(channel) <= 0
        look = due.get(("chain", channel), 0)
        if not full and not 0 < look <= max(when, core.now() + 1):
            world.ledger.fail(f"a retry at {channel} is due at {when}, and the gateway looks at {look}")


def _overdue(world: "World") -> None:
    """What has its time is done about then: ttl, deliver_at, its own deadline, its client's offline deadline."""
    gateway = world.gateway
    assert gateway is not None
    core = gateway.hub.core
    past = core.now() - SLACK
    if gateway.era != world.era:
        gateway.era, gateway.steady = world.era, core.now()
    if gateway.steady > past:
        return
    for row in world.disk.live():
        session = core.sessions[row.client]
        late, what = row.status >= Status.PROVIDER_ACCEPTED, ""
        chained = row.chain == Chain.READY and not late and row.kind == Kind.MESSAGE
        if row.hold in {Hold.WAITING, Hold.LATER} and row.expire <= past:
            what = "its ttl"
        elif (
            row.hold == Hold.BOUND
            and row.expire <= past
            and session.state == State.AWAY
            and session.offline_at < past
        ):
            what = "its ttl, while its client is away"
        elif row.hold == Hold.LATER and row.due <= past:
            what = "its delay"
        elif chained and row.hold in {Hold.WAITING, Hold.BOUND} and row.deadline:
            what = "its own deadline" if row.deadline <= past else ""
        elif chained and row.hold in {Hold.WAITING, Hold.BOUND}:
            away = session.state in {State.AWAY, State.EXPIRED} and session.offline_at <= past
            never = session.state == State.NEW and max(row.at, row.due) + core.offline_ms(row.client) <= past
            what = "the offline deadline" if away or never else ""
        if what:
            world.ledger.fail(f"{what} has passed, and nothing was done: {row}")


# -- the end of a run ------------------------------------------------------------------------------------------------


def closing(world: "World") -> None:
    rows = [row for row in world.disk.rows() if row.kind == Kind.MESSAGE]
    _accounts(world, rows)
    _delivered(world, rows)
    _order(world)
    _told(world, rows)
    _reports(world, rows)
    if world.profile.name == "calm":
        _calm(world, rows)


def _accounts(world: "World", rows: list[Row]) -> None:
    """Accepted = delivered + by provider + expired + cancelled + dead, by message."""
    ledger, fail = world.ledger, world.ledger.fail
    ids: dict[tuple[str, int], int] = {}
    for row in rows:
        assert row.body is not None
        draft = ledger.of_body(row.body)
        key = (draft.publisher, draft.index)
        if key in ids:
            fail(
                f"{draft.publisher} #{draft.index} was stored twice: {encode_id(ids[key])}, {encode_id(row.id)}"
            )
        ids[key] = row.id
        if draft.state == "refused":
            fail(f"{draft.publisher} #{draft.index} was refused, and is on disk")
        if row.status not in _ENDS and not (row.status == Status.PROVIDER_ACCEPTED and row.ended_at):
            fail(f"{encode_id(row.id)} is still {STATUS_NAMES[row.status]}")
        told = ledger.told.get(row.id)
        after = {told, Status.READ, *([Status.PROVIDER_READ] if told == Status.PROVIDER_DELIVERED else [])}
        if told is not None and told >= Status.DELIVERED and row.status not in after:
            fail(f"{encode_id(row.id)} was told as {STATUS_NAMES[told]}, and is {STATUS_NAMES[row.status]}")
    for key, draft in ledger.drafts.items():
        if draft.state == "stored" and ids.get(key) != draft.id:
            fail(f"{draft.publisher} #{draft.index} was accepted as {encode_id(draft.id)}, and is lost")
        if draft.state == "unknown" and "key" in draft.fields:
            fail(f"{draft.publisher} #{draft.index} has a key and never got an answer")


def _delivered(world: "World", rows: list[Row]) -> None:
    ledger, fail = world.ledger, world.ledger.fail
    for row in rows:
        name, log = encode_id(row.id), ledger.client(row.client)
        taken = [a for a in ledger.attempts.get(row.id, ()) if a.taken]
        if row.status in {Status.DELIVERED, Status.READ}:
            if row.via not in ledger.acked_by.get(row.id, ()):
                fail(f"{name} is {STATUS_NAMES[row.status]} via {row.via}, and nothing came that way")
            if row.id not in log.processed and "at_most_once" not in world.disk.kinds(row.id):
                fail(f"{name} is {STATUS_NAMES[row.status]}, and {row.client} never processed it")
        if row.status in _BY_PROVIDER and not any(a.channel == row.via for a in taken):
            fail(f"{name} is {STATUS_NAMES[row.status]} via {row.via}, which never got it")
        if row.status == Status.PROVIDER_ACCEPTED and any(a.answered & {"delivered", "read"} for a in taken):
            fail(f"{name} is provider_accepted, and was reported as delivered")
        proven = world.profile.reports and row.status in {Status.PROVIDER_DELIVERED, Status.PROVIDER_READ}
        if proven and not any(_proves(a, row.status) for a in taken if a.channel == row.via):
            fail(f"{name} is {STATUS_NAMES[row.status]} via {row.via}, which never said so")
        if row.status == Status.EXPIRED and row.ended_at < row.expire:
            fail(f"{name} expired at {row.ended_at}, its time was {row.expire}")


def _proves(attempt: "Attempt", status: int) -> bool:
    """Whether its provider said so."""
    return ("read" if status == Status.PROVIDER_READ else "delivered") in attempt.reported


def _order(world: "World") -> None:
    """First sights come in the publisher's own order, by priority, but for what was rightly set aside."""
    ledger = world.ledger
    last: dict[tuple[str, str, str], tuple[int, int]] = {}
    for client, log in ledger.clients.items():
        for sight in log.sights:
            row = world.disk.peek(sight.id)
            assert row is not None
            assert row.body is not None
            draft = ledger.of_body(row.body)
            aside = (
                draft.retried
                or "deliver_at" in draft.fields
                or sight.id in log.settled_otherwise
                or world.disk.kinds(sight.id) & {"handed_over", "nacked"}
            )
            if aside:
                continue
            key = (client, draft.publisher, draft.lane)
            before = last.get(key)
            if before is not None and before[0] > draft.index:
                ledger.fail(
                    f"{client} saw {draft.publisher} #{draft.index} ({encode_id(sight.id)}) after #{before[0]}"
                    f" ({encode_id(before[1])})"
                )
            last[key] = (draft.index, sight.id)


def _told(world: "World", rows: list[Row]) -> None:
    """What a client never got, it was told of: by a gap, or counted in `missed`."""
    ledger = world.ledger
    surely: dict[str, Counter[str]] = {name: Counter() for name in world.names}
    perhaps: dict[str, Counter[str]] = {name: Counter() for name in world.names}
    # a clock that was set back between two lives of the gateway blurs what came first
    blur = 15_000 if world.profile.clock else 0
    for row in rows:
        log = ledger.client(row.client)
        seen = row.id in log.seen or row.id in log.gaps
        # one that was nacked, or came back from its chain, may be counted though its client has seen it
        back = row.id in log.settled_otherwise or "handed_over" in world.disk.kinds(row.id)
        if row.client not in surely or (seen and not back):
            continue
        # a gap is not shown to a plain device
        plain = row.sent_at > 0 and world.is_device(row.client)
        why = ""
        if row.status == Status.EXPIRED:
            why = "expired"
        elif row.status == Status.DEAD:
            why = "dead"
        elif row.status in _BY_PROVIDER or (row.status == Status.CANCELLED and row.why == "collapsed"):
            why = "superseded"
        # whoever was never here before is told by `resumed: false`
        since = world.disk.known_since(row.client)
        # what was raised has ended before, at some time
        raised = "receipt" in world.disk.kinds(row.id)
        if why and not seen and not plain and not raised and row.ended_at > since + blur:
            surely[row.client][why] += 1
        if why and row.ended_at > since - blur:
            perhaps[row.client][why] += 1
    for name in world.names:
        log = ledger.client(name)
        for why, told in log.missed.items():
            if told < surely[name][why]:
                ledger.fail(f"{name} was told of {told} {why}, and missed {surely[name][why]}")
            if told > perhaps[name][why] and world.disk.epochs(name) == 1 and not log.recounted:
                ledger.fail(f"{name} was told of {told} {why}, and missed only {perhaps[name][why]}")


def _reports(world: "World", rows: list[Row]) -> None:
    """Statuses asked for: the end exactly once, nothing that was not asked for, nothing that never was."""
    ledger, fail = world.ledger, world.ledger.fail
    wanted: dict[str, dict[int, Row]] = {name: {} for name in world.names}
    for row in rows:
        if row.sender in wanted:
            wanted[row.sender][row.id] = row
    for name, known in wanted.items():
        reports = ledger.client(name).reports
        for id, status in reports:
            about = known.get(id)
            if about is None or about.x is None or status not in (about.x.notify or ()):
                fail(f"{name} got a report of {encode_id(id)} that it did not ask for: {status}")
                continue
            ends = {STATUS_NAMES[about.status]} | ({"delivered"} if about.status == Status.READ else set())
            if about.status == Status.PROVIDER_READ:
                ends.add("provider_delivered")
            if status in {STATUS_NAMES[s] for s in _ENDS} and status not in ends:
                fail(f"{name} was told that {encode_id(id)} is {status}; it is {STATUS_NAMES[about.status]}")
        for id, row in known.items():
            asked = set(row.x.notify or ()) if row.x is not None else set()
            was = ledger.told_ever.get(id, set()) - {Status.QUEUED} | {Status(row.status)}
            if row.why == "collapsed" and (world.profile.fail or world.profile.crash[1]):
                # that report stands in the commit behind, which a crash may take
                was.discard(Status.CANCELLED)
            for status in sorted({STATUS_NAMES[s] for s in was} & asked):
                if (id, status) not in reports:
                    fail(f"{name} asked to be told that {encode_id(id)} is {status}, and was not")


def _calm(world: "World", rows: list[Row]) -> None:
    """Without a fault nothing is marked, and everything arrives."""
    for client, log in world.ledger.clients.items():
        if log.gaps or any(log.missed.values()):
            world.ledger.fail(f"{client} was told of losses, and nothing went wrong")
    for row in rows:
        if row.status not in {Status.DELIVERED, Status.READ} or row.chain == Chain.WALKED:
            world.ledger.fail(f"{encode_id(row.id)} is {STATUS_NAMES[row.status]}, and nothing went wrong")
    for key, draft in world.ledger.drafts.items():
        if draft.state != "stored":
            world.ledger.fail(f"{key} is {draft.state}, and nothing went wrong")
