"""The gateway with a bug in it: `python -m tests.faults.planted BUG serve --config …`.

A fault test that has never been seen to fail proves nothing. Each test here runs once more against the bug that it is
there to find, and must find it. `a+b` plants several.

`held_commit` and `held_answer` are no bugs but a disk in the worst moment: a message whose body has the word HELD, or a
receipt whose code is that, is never committed, or committed without anybody being told; from then on the store stands
still. So a test can kill the gateway between receiving and committing, and between committing and answering. With
`slow_answer`, no bug either, what is committed waits a while for its answer, so that under load there is always
something without. `on_loop` and `on_writer` say where small commits are made, however quick the disk is.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from gateway.cli import main
from gateway.commit import Commit, Sink
from gateway.engine.session import Session
from gateway.engine.window import Window
from gateway.hub.bare import Bare
from gateway.hub.hub import Hub
from gateway.hub.intake import Intake
from gateway.hub.joining import Joining
from gateway.hub.receipts import Receipts as Receipts_
from gateway.providers import registry
from gateway.stores.pace import Pace
from gateway.stores.sqlite import SqliteStore
from gateway.transports.mqtt import MqttServer, admission, plain
from gateway.transports.mqtt.broker.desks import _Counting
from gateway.transports.mqtt.broker.link import Link
from gateway.transports.mqtt.broker.receipts import Receipt, Receipts
from gateway.transports.mqtt.broker.repeats import Repeats
from gateway.transports.mqtt.codec import publish_packet
from gateway.transports.mqtt.connection import Connection
from gateway.transports.mqtt.framed import FramedDesk
from gateway.transports.mqtt.plain import Plain
from gateway.transports.websocket import server
from tests.providers import reporter

HELD = "held-by-the-disk"
SLOW = 0.05  # s


def replace(owner: Any, name: str, new: Any) -> None:
    """A bug whose place is gone would be no bug."""
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, new)


class Told:
    """A commit.Sink whose publisher has its answer already."""

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """It was told so."""

    def refused(self, ref: Any, error: Exception) -> None:
        """It was told the contrary."""


def acked_before_commit() -> None:
    """Publishers are told `ok` when the message comes in, not when it is on disk."""
    add = Intake.add

    def early(self: Intake, commit: Any, session: Any, item: Any, sink: Sink | None, ref: Any) -> None:
        add(self, commit, session, item, Told() if sink is not None else None, ref)
        if sink is not None:
            sink.stored(ref, item.id, False, 0)

    Intake.add = early  # type: ignore[method-assign]
    # none goes the short way, which leads round that
    replace(Bare, "publish", lambda self, principal, messages, sink: 0)


def synchronous_off() -> None:
    """Commits do not wait for the disk."""
    connect = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return super().execute(
                sql.replace("synchronous=FULL", "synchronous=OFF").replace(
                    "synchronous = FULL", "synchronous = OFF"
                ),
                *args,
            )

    def careless(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **kwargs, factory=Careless)

    sqlite3.connect = careless  # type: ignore[assignment]


def unmarked() -> None:
    """What is written again after a start carries no mark."""
    apply = Joining._apply

    def forgetful(self: Joining, session: Any, join: Any, read: Any) -> None:
        apply(self, session, join, read)
        for item in session.window.items:
            item.marks = 0
            item.written = False

    Joining._apply = forgetful  # type: ignore[method-assign]


def full_is_fine() -> None:
    """A commit that found the disk full is taken for one that succeeded."""

    def deaf(self: Hub, commit: Any, error: Exception | None) -> None:
        self.core.busy = False
        self.accepted.committed(commit)
        for op in commit.ops:
            if op.then is not None:
                op.then(op)
        for read in commit.reads:
            read.then(read)
        self.core.end_turn()
        if error is not None:
            self._reopen()

    Hub._finish = deaf  # type: ignore[method-assign]


def unbounded() -> None:
    """Stalled readers are never let go, and buffers have no limit."""
    start = server.WebSocketServer.__init__

    def generous(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.stall_ms = 1 << 40
        self.pile_limit = self.pile_high = 1 << 40

    server.WebSocketServer.__init__ = generous  # type: ignore[method-assign]
    start_mqtt = MqttServer.__init__

    def generous_mqtt(self: Any, *args: Any, **kwargs: Any) -> None:
        start_mqtt(self, *args, **kwargs)
        self.stall_ms = 1 << 40
        self.pile_limit = self.pile_high = 1 << 40

    replace(MqttServer, "__init__", generous_mqtt)


def without_dup() -> None:
    """What a plain MQTT session is sent again carries no DUP."""
    publish = Plain.publish

    def plain_again(self: Plain, item: Any, now: int, qos: int, dup: bool = False) -> bytes:
        return publish(self, item, now, qos)

    replace(Plain, "publish", plain_again)


def ids_anew() -> None:
    """Packet ids count from 1 on every connection, so that a message comes again under another one."""
    publish, on_pubacks = Plain.publish, Connection.on_pubacks
    bases: dict[Plain | None, int] = {}
    base = 0

    def counted(self: Plain, item: Any, now: int, qos: int, dup: bool = False) -> bytes:
        nonlocal base
        base = bases.setdefault(self, item.seq - 1)
        return publish(self, item, now, qos, dup)

    def anew(first: int, topic: bytes, pid: int, *rest: bytes) -> bytes:
        return publish_packet(first, topic, (pid - 1 - base) % plain.PACKET_IDS + 1 if pid else 0, *rest)

    def answered(self: Connection, packets: list[Any], at: int) -> int:
        above = bases.get(self.plain, 0)
        return on_pubacks(self, [p + above if type(p) is int else p for p in packets], at)

    replace(plain, "publish_packet", anew)
    replace(Plain, "publish", counted)
    replace(Connection, "on_pubacks", answered)


def not_looked_up() -> None:
    """Nobody looks whether a publish with DUP was committed before."""

    async def nothing(self: Intake, *_: Any) -> dict[str, Any]:
        return {}

    replace(Intake, "uplinks", nothing)


def patient() -> None:
    """The keep alive of MQTT devices is not checked."""
    replace(admission, "_silence", lambda keep_alive: 0)


def own_epochs() -> None:
    """A plain MQTT device that comes back begins a new epoch."""
    continues = Session.continues
    replace(Session, "continues", lambda self, clean: continues(self, True))


def never_again() -> None:
    """The first of what was written once is not written again on the next connection. Not all of it: a window full of
    such would let nothing new through, and there would be no verdict.
    """

    def once(self: Window) -> None:
        written = [item for item in self.items if item.written]
        reconnected(self)
        for item in written[:1]:
            if item in self.unwritten:
                self.unwritten.remove(item)

    reconnected = Window.reconnected
    replace(Window, "reconnected", once)


def ok_at_once() -> None:
    """Framed clients behind a broker are told `ok` when their publish comes in."""
    publish = _Counting.publish

    def hasty(self: _Counting, principal: Any, pub: Any, sink: Sink, ref: Any, **more: Any) -> None:
        publish(self, principal, pub, Told(), ref, **more)
        sink.stored(ref, 0, False, 0)

    replace(_Counting, "publish", hasty)


def acked_at_once() -> None:
    """The link to a broker acknowledges what it takes, not what is committed."""
    take = Receipts.take

    def hasty(self: Receipts, pid: int) -> Receipt:
        receipt = take(self, pid)
        self.finish(receipt)
        return receipt

    replace(Receipts, "take", hasty)


def forgets() -> None:
    """The link to a broker does not remember what packet ids stood for."""
    replace(Repeats, "known", lambda self, pid, mark: None)


def trusting() -> None:
    """The link to a broker takes its session there for granted once it had one."""
    subscribe = Link._subscribe

    async def once(self: Link, conn: Any) -> None:
        if not self._subscribed:
            await subscribe(self, conn)

    replace(Link, "_subscribe", once)


def any_bye() -> None:
    """A `bye` ends the client's connection, whatever its nonce."""
    receive = FramedDesk.receive

    def gullible(self: FramedDesk, data: bytes) -> None:
        if self.peer is not None and b'"bye"' in data:
            data = b'{"t":"bye","c":"%b"}' % self.peer.c.encode()
        receive(self, data)

    replace(FramedDesk, "receive", gullible)


def held_commit() -> None:
    """See above: never committed."""
    submit = SqliteStore.submit

    def stuck(self: SqliteStore, commit: Commit, done: Any) -> None:
        if not _held(commit):
            submit(self, commit, done)

    replace(SqliteStore, "submit", stuck)


def held_answer() -> None:
    """See above: committed, and nobody is told."""
    submit = SqliteStore.submit

    def silent(self: SqliteStore, commit: Commit, done: Any) -> None:
        submit(self, commit, (lambda *_: None) if _held(commit) else done)

    replace(SqliteStore, "submit", silent)


def slow_answer() -> None:
    """See above."""
    submit = SqliteStore.submit

    def late(self: SqliteStore, commit: Commit, done: Any) -> None:
        loop = asyncio.get_running_loop()

        def later(*told: Any) -> None:
            loop.call_later(SLOW, done, *told)

        submit(self, commit, later)

    replace(SqliteStore, "submit", late)


def on_loop() -> None:
    """See above."""
    replace(Pace, "quick", lambda self, now: True)


def on_writer() -> None:
    """See above."""
    replace(Pace, "quick", lambda self, now: False)


def _held(commit: Commit) -> bool:
    lines = (getattr(op, "event", None) for op in commit.ops)
    return any(HELD.encode() in (item.body or b"") for item in commit.appends) or any(
        line is not None and HELD in str(line.data) for line in lines
    )


def reporting() -> None:
    """No bug: a channel of kind `webhook` is a provider that accepts and reports (tests/providers/reporter.py)."""
    replace(registry, "import_module", lambda _: reporter)


def called_back_before_commit() -> None:
    """A callback is answered when it comes in, not when what it reports is on disk."""
    take = Receipts_.take
    tasks: set[asyncio.Task[None]] = set()

    async def early(self: Receipts_, channel: str, receipts: list[Any]) -> None:
        task = asyncio.get_running_loop().create_task(take(self, channel, receipts))
        tasks.add(task)

    replace(Receipts_, "take", early)


BUGS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        acked_before_commit, synchronous_off, unmarked, full_is_fine, unbounded, without_dup, ids_anew, not_looked_up,
        patient, own_epochs, never_again, ok_at_once, acked_at_once, forgets, trusting, any_bye, held_commit,
        held_answer, slow_answer, reporting, called_back_before_commit, on_loop, on_writer,
    )
}  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1].split("+"):
        BUGS[name]()
    sys.argv = [sys.argv[0], *sys.argv[2:]]
    sys.exit(main())
