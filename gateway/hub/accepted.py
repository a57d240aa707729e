"""The commit is on disk: publishers are told, and sessions get what is theirs."""

from typing import Any

from gateway.commit import Commit, RunSink
from gateway.engine.session import Session
from gateway.engine.states import NEVER, State
from gateway.errors import Conflict, GatewayError
from gateway.hub.core import Core
from gateway.hub.intake import Intake
from gateway.model import NORMAL, Hold, Item, Kind, Status
from gateway.reads import ReadItems

_BOUND = int(Hold.BOUND)
_WAITING = int(Hold.WAITING)
_LIVE, _MESSAGE = State.LIVE, int(Kind.MESSAGE)
_QUEUED, _SENT = int(Status.QUEUED), int(Status.SENT)


class Accepted:
    def __init__(self, core: Core, intake: Intake) -> None:
        self.core = core
        self.intake = intake
        self.handover: Any = None  # the chain flow, wired by the hub

    def committed(self, commit: Commit) -> None:
        """Tell publishers, and give sessions what is theirs, in the order in which the messages came."""
        now = self.core.now()
        at = 0
        for start, end, sink in commit.runs:
            self._singles(commit, at, start, now)
            self._run(commit, start, end, sink, now)
            at = end
        self._singles(commit, at, len(commit.appends), now)
        if commit.collapsed:
            self._collapse(commit, now)

    def _run(self, commit: Commit, start: int, end: int, sink: RunSink, now: int) -> None:
        """A run of messages without keys from one publisher: the same as for single ones, without a call for each."""
        core, intake = self.core, self.intake
        sessions = core.sessions
        items = commit.appends[start:end]
        intake.accepted += end - start
        sink.stored_run(commit.refs[start:end], items)
        sent: list[Item] = []
        queued: list[Item] = []
        touched: list[Session] = []
        size = delivered = 0
        known = core.deadlines.known
        for item in items:
            session = sessions.get(item.client) or core.session(item.client)
            session.incoming -= 1
            size += len(item.body)  # type: ignore[arg-type]
            if item.hold == _BOUND and session.state is _LIVE:
                conn = session.conn
                if conn.writable and session.sends(item, now):
                    delivered += 1
                    conn.deliver([item])
                    # nearly always there is a deadline that is looked at no later
                    if known.get(session, NEVER) > session.ack_from + session.first_wait:
                        touched.append(session)
                else:
                    session.bound(item, now)
                    touched.append(session)
            else:
                self._place(item, session, now)
            (sent if item.status == _SENT else queued).append(item)
        intake.bytes -= size
        core.delivered += delivered
        core.touch_sessions(touched)
        for of, status in ((sent, _SENT), (queued, _QUEUED)):
            if of:
                core.told_all(of, status, items[0].at)

    def _singles(self, commit: Commit, start: int, end: int, now: int) -> None:
        core, intake = self.core, self.intake
        twins = commit.twins
        appends, sinks, refs = commit.appends, commit.sinks, commit.refs
        alike: dict[tuple[int, int], list[Item]] = {}
        for i in range(start, end):
            item = appends[i]
            session = core.session(item.client)
            session.incoming -= 1
            intake.bytes -= len(item.body or b"")
            sink = sinks[i]
            if i in twins:
                self._twin(commit, i, session)
                continue
            intake.accepted += 1
            if sink is not None:
                sink.stored(refs[i], item.id, False, item.status)
            self._place(item, session, now)
            if item.kind == _MESSAGE:
                alike.setdefault((item.status, item.at), []).append(item)
        for (status, at), items in alike.items():
            core.told_all(items, status, at)

    def _place(self, item: Item, session: Session, now: int) -> None:
        core = self.core
        core.note_due(item.due)
        if item.hold == _BOUND:
            session.bound(item, now)
            core.touch_session(session)
            if not session.live:
                item.body = None
                self.handover.offer(session, item)
        else:
            session.waiting += 1
            if session.live:
                if item.hold == _WAITING:
                    core.enqueue(session, item)
            elif item.hold == _WAITING:
                self.handover.offer(session, item)
                core.custody.waits(item.client, item.lane, item.id)

    def _collapse(self, commit: Commit, now: int) -> None:
        """Earlier messages that never left were replaced by those of this commit."""
        core = self.core
        core.commit.reads.append(ReadItems([id for _, id in commit.collapsed], self._collapsed))
        for index, id in commit.collapsed:
            by = commit.appends[index]
            session = core.session(by.client)
            session.waiting -= 1
            session.queue.remove(id)
            core.told(
                Item(id, by.client, by.sender, NORMAL, now, now, None),
                Status.CANCELLED,
                now,
                "",
                "collapsed",
            )

    def _collapsed(self, read: ReadItems) -> None:
        """Publishers that want to know it are told what was replaced."""
        core = self.core
        for item in read.items:
            report = core.report(item, Status.CANCELLED, "", core.now(), "collapsed")
            if report is not None:
                self.intake.add(core.commit, core.session(report.client), report, None, None)

    def _twin(self, commit: Commit, i: int, session: Session) -> None:
        """A keyed publish that was not stored: a repetition, a conflict, or over its quota."""
        item, sink, twin = commit.appends[i], commit.sinks[i], commit.twins[i]
        if item.hold == _BOUND:
            session.binding -= 1
            self.core.touch_session(session)
        if sink is None:
            return
        if twin.id == 0:
            self.intake.refused += 1
            sink.refused(commit.refs[i], self.intake.full())
        elif twin.same:
            sink.stored(commit.refs[i], twin.id, True, twin.status)
        else:
            self.intake.refused += 1
            sink.refused(
                commit.refs[i],
                Conflict(
                    "another message has this key",
                    code="key_conflict",
                    field=commit.keys[i].field + ".key",
                ),
            )

    def failed(self, commit: Commit, error: GatewayError) -> None:
        """The commit is void: nobody is told that anything is stored."""
        self.intake.refused += len(commit.appends)
        for sink, ref in zip(commit.sinks, commit.refs, strict=True):
            if sink is not None:
                sink.refused(ref, error)
