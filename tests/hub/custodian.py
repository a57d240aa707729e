"""A broker that a test answers for."""

from collections.abc import Callable
from typing import Any

from gateway.commit import Change, Commit
from gateway.config import Config
from gateway.model import Item
from gateway.records import ClientRecord
from tests.hub.rig import Rig


class Broker:
    """ports.Custodian: `most` messages at a time; the test says what becomes of them."""

    def __init__(self, rig: Rig, most: int = 1000) -> None:
        self.rig = rig
        self.most = most
        self.away = False
        self.published: list[int] = []
        self.marks: list[int] = []
        self.open: dict[int, Callable[[bool], None]] = {}

    def room(self) -> int:
        return 0 if self.away else self.most - len(self.open)

    def publish(self, item: Item, now: int, done: Callable[[bool], None]) -> None:
        assert self.room() > 0, "more than it takes"
        assert item.body is not None
        assert (item.seq, item.eno) == (0, 0)
        self.published.append(item.id)
        self.marks.append(item.marks)
        self.open[item.id] = done

    def answer(self, id: int, ok: bool = True) -> None:
        """A PUBACK; or not `ok`: a refusal, or the loss of the connection."""
        self.open.pop(id)(ok)
        self.rig.hub.broker_ready()
        self.rig.pass_(0.02)

    def answer_all(self) -> None:
        for id in list(self.open):
            self.answer(id)

    def gone(self) -> None:
        """The connection to it is lost."""
        self.away = True
        for done in self.open.values():
            done(False)
        self.open.clear()
        self.rig.pass_(0.02)

    def back(self) -> None:
        self.away = False
        self.rig.hub.broker_ready()
        self.rig.pass_(0.02)


def behind(config: Config | None = None, *, most: int = 1000, **record: Any) -> tuple[Rig, Broker]:
    """A rig with a broker, and alice as a plain client behind it."""
    rig = Rig(config)
    broker = Broker(rig, most)
    rig.hub.custodian = broker
    put(rig, "alice", **record)
    return rig, broker


def put(rig: Rig, client: str, **record: Any) -> None:
    rig.run(rig.hub.put_client(client, ClientRecord(**({"broker_plain": True} | record))))
    rig.pass_(0.02)


def custody(commit: Commit) -> bool:
    """Whether it carries a message into custody."""
    return any(isinstance(op, Change) and op.event and op.event.kind == "custody" for op in commit.ops)


def until_taken(rig: Rig) -> None:
    """Step by step, until a message is being committed as sent."""
    for _ in range(20):
        if any(custody(commit) for commit in rig.store.pending):
            return
        assert rig.store.step()
        rig.pass_(0.01)
    raise AssertionError("nothing goes into custody")
