"""What the tests of chains and receipts share: a message to a client that is away, on its way by `hook` and `sms`."""

from typing import Any

from gateway.commit import MessageView
from gateway.config import Config, Routes, Session, Webhook
from gateway.model import Hold
from gateway.ports import Outcome
from tests.hub.rig import START, Conn, Rig
from tests.hub.test_rules import SECRET, id_of

ACCEPTED = Outcome("accepted", "202", provider_id="p1")
REPORTS = Outcome("accepted", "202", provider_id="p1", receipt=True)
DELIVERED = Outcome("delivered", "200")
REFUSED = Outcome("refused", "no such number", blame="recipient")
RETRY = Outcome("retry", "503")
AMBIGUOUS = Outcome("ambiguous", "no answer")
HOUR = 3_600_000


def hook(**settings: Any) -> Webhook:
    return Webhook(url="https://hook.example/x", secret=SECRET, backoff_base=1, backoff_max=1, **settings)


def config(*, hook_: dict[str, Any] | None = None, sms: dict[str, Any] | None = None) -> Config:
    """Handed over at once: no offline deadline."""
    return Config(
        session=Session(offline_deadline=0),
        routes=Routes(default=("hook", "sms")),
        channels={"hook": hook(**(hook_ or {})), "sms": hook(**(sms or {}))},
    )


class Way:
    """One message to a client that is not there."""

    def __init__(self, rig: Rig, **fields: Any) -> None:
        self.rig = rig
        self.conn: Conn | None = None
        self.id = id_of(rig.publish("alice", **fields))
        rig.pass_(0.02)

    @property
    def tried(self) -> list[str]:
        """The channels at which it was tried."""
        return [channel for channel, id, _ in self.rig.sent.attempts if id == self.id]

    def ends(self, outcome: Outcome) -> None:
        """Its latest attempt ends."""
        done = [done for _, id, done in self.rig.sent.attempts if id == self.id][-1]
        done(outcome)
        self.rig.pass_(0.02)

    @property
    def view(self) -> MessageView:
        return self.rig.view(self.id)

    @property
    def stands(self) -> tuple[int, str, bool, tuple[int, str] | None]:
        """(status, via, whether it has ended, (phase, channel) of its chain)."""
        view = self.view
        chain = (view.chain_row.phase, view.chain_row.channel) if view.chain_row is not None else None
        if view.ended_at and chain is None:
            assert view.item.hold == Hold.NONE
        return view.item.status, view.item.via, view.ended_at > 0, chain

    @property
    def told(self) -> list[tuple[int, str]]:
        """Statuses that were told from the hand-over on, and via."""
        return [(status, via) for id, status, via in self.rig.watch.told if id == self.id and status > 1]

    def line(self, kind: str) -> dict[str, Any]:
        """The data of the last line of this kind in its timeline."""
        lines = [event.data for event in self.view.events if event.kind == kind]
        return lines[-1] or {}

    def lines(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.view.events)


def after(rig: Rig) -> int:
    return rig.turns.now() - START
