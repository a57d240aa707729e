"""The short way in, for what most messages are: a body for a client, and nothing else.

It does what `Intake.publish` does, for many messages of one publisher in one loop: a call for each rule costs more than
the rules. It takes what needs no second look and stops at the first message that does. That one goes the long way,
which says what is wrong with it, and only there is anything refused.
"""

from gateway.auth.principal import Principal
from gateway.commit import BareMessage, RunSink
from gateway.hub.core import Core, ms
from gateway.hub.intake import Intake
from gateway.model import DEFAULT_TTL, NORMAL, Chain, Hold, Item, Status
from gateway.wire import fits_every_client

_BOUND = int(Hold.BOUND)
_SENT = int(Status.SENT)
_READY = int(Chain.READY)
_TTL = ms(DEFAULT_TTL)
# messages taken at once: their ids are of one millisecond
MOST = 1024


class Bare:
    def __init__(self, core: Core, intake: Intake) -> None:
        self.core = core
        self.intake = intake

    def publish(self, principal: Principal, messages: list[BareMessage], sink: RunSink) -> int:
        """Queue messages for the next commit, from the first on: how many were taken; `sink` is told what became of
        them. Their bodies are bytes that may or may not be JSON.
        """
        core, intake = self.core, self.intake
        if core.down or core.draining:
            return 0
        now = core.now()
        publisher = principal.publisher
        if len(messages) > MOST:
            messages = messages[:MOST]
        count = len(messages)
        if intake.rate.wait(publisher, count, now):
            return 0
        sessions, clients, routed = core.sessions, core.clients, core.routed
        all_addresses = principal.kind == "client" and principal.patterns is None
        most, queue, room = intake.max_payload, intake.queue, intake.room()
        expire = now + _TTL
        items: list[Item] = []
        for to, body, pid, _ in messages:
            session = sessions.get(to)
            size = len(body)
            if (
                session is None
                or size > most
                or room <= 0
                or not (all_addresses or principal.may_publish_to(to))
                or session.waiting + session.incoming + session.window.open >= queue
                or not fits_every_client(body)
            ):
                break
            room -= size
            item = Item(0, to, publisher, NORMAL, now, expire, body)
            item.pid = pid
            if (routed or to in clients) and core.chain_of(item):
                item.chain = _READY
            conn = session.conn
            if conn is not None and session.may_bind_now(conn.writable):
                item.hold = _BOUND
                item.eno = session.eno
                item.status = _SENT
                session.binding += 1
            else:
                item.due = core.next_look(item, session, now)
            session.incoming += 1
            items.append(item)
        taken = len(items)
        if not taken:
            return 0
        # for those that were taken only: ids are bound to time, and not to run ahead of it
        for id, item in enumerate(items, core.ids.run(now, taken)):
            item.id = id
        intake.rate.take(publisher, taken, now)
        intake.took(intake.room() - room)
        commit = core.commit
        commit.runs.append((len(commit.appends), len(commit.appends) + taken, sink))
        commit.appends += items
        commit.sinks += [sink] * taken
        commit.refs += [message[3] for message in messages[:taken]]
        core.wake()
        return taken
