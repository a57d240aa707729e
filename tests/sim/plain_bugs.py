"""Bugs to plant in what the hub does for plain MQTT devices; see bugs.py."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

import gateway.hub.answers as answers_module
from gateway.commit import Change
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.engine.window import Window
from gateway.hub.answers import Answers
from gateway.hub.delivery import Delivery
from gateway.hub.joining import Joining
from gateway.model import Hold, Item, Kind, Sub

Patch = tuple[Any, str, Any]


def gaps_to_plain() -> Patch:
    """A device is handed gaps and statuses like everybody."""

    def patched(self: Delivery, session: Session, items: list[Item]) -> list[Item]:
        return items

    return Delivery, "_for_plain", patched


def nothing_settled_silently() -> Patch:
    """A device is not handed gaps and statuses, and they stay in its window."""

    def patched(self: Delivery, session: Session, items: list[Item]) -> list[Item]:
        return [item for item in items if item.kind == Kind.MESSAGE]

    return Delivery, "_for_plain", patched


def resent_after_subscribing_again() -> Patch:
    """A second SUBSCRIBE on one connection brings everything unanswered once more."""

    def patched(self: Window) -> None:
        self.reconnected()

    return Window, "back", patched


def epoch_outlives_its_connection() -> Patch:
    """A session expiry of 0 is taken for none."""
    settle = Joining._continue

    def patched(self: Joining, session: Session, join: Any, attach: Any) -> Any:
        row = settle(self, session, join, attach)
        return replace(row, keep=row.keep or -1)

    return Joining, "_continue", patched


def present_after_clean_start() -> Patch:
    """A clean start keeps the subscription."""
    settle = Joining._continue

    def patched(self: Joining, session: Session, join: Any, attach: Any) -> Any:
        return replace(settle(self, session, join, attach), sub=int(Sub.PLAIN))

    return Joining, "_continue", patched


def present_after_new_epoch() -> Patch:
    """A hello that begins an epoch keeps the subscription."""
    resume = Joining._resume

    def patched(self: Joining, session: Session, join: Any) -> Any:
        before = session.row
        row, proven = resume(self, session, join)
        return replace(row, sub=before.sub if before is not None else 0), proven

    return Joining, "_resume", patched


def unsubscribe_forgotten() -> Patch:
    """The session's row keeps the subscription that was given up."""

    def patched(self: Delivery, client: str) -> None:
        return

    return Delivery, "unsubscribe", patched


def written_settles_nothing() -> Patch:
    """What was written at QoS 0 waits for an ack that never comes."""

    def patched(self: Answers, conn: Any, seqs: list[int]) -> None:
        return

    return Answers, "written", patched


def ack_timeout_resends() -> Patch:
    """A device gets what it did not ack in time once more, on the same connection."""
    due = Delivery.due

    def patched(self: Delivery, session: Session, now: int) -> None:
        ack_due = session.ack_due()
        item = session.window.lowest_owned()
        if session.plain and session.state == State.LIVE and ack_due and ack_due <= now and item is not None:
            session.ack_from = now
            self.redelivery._once_more(session, item)
            self.core.deadlines.set(session, session.next_deadline())
            return
        due(self, session, now)

    return Delivery, "due", patched


def reports_lost_to_device() -> Patch:
    """A status report that is bound when a device joins is settled, as a gap is."""

    def patched(self: Delivery, session: Session, item: Item) -> None:
        self.core.change(Change(item.id, (int(Hold.BOUND),), {"hold": int(Hold.NONE), "due": 0}))

    return Delivery, "_put_back", patched


def token_lost_to_device() -> Patch:
    """A device that joins takes the resume tokens with it."""
    settle = Joining._continue

    def patched(self: Joining, session: Session, join: Any, attach: Any) -> Any:
        row = settle(self, session, join, attach)
        return replace(row, token_presented=None, token_issued=None)

    return Joining, "_continue", patched


def receive_maximum_ignored() -> Patch:
    """A device gets more than it can take."""
    welcomed = Session.welcomed

    def patched(self: Session, now: int, limit: int, jitter: float, **how: Any) -> None:
        welcomed(self, now, max(limit, 4) if how.get("plain") else limit, jitter, **how)

    return Session, "welcomed", patched


def last_acks_ignored() -> Patch:
    """What a device acks behind its UNSUBSCRIBE is ignored."""

    def patched(conn: Any) -> Session | None:
        session: Session | None = conn.session
        return session if session is not None and session.conn is conn else None

    return answers_module, "session_of", patched


def wrong_way() -> Patch:
    """Everything is delivered by WebSocket."""
    settle = Answers.settle

    def patched(self: Answers, session: Session, owned: list[Item], claimed: list[Item], via: str) -> None:
        settle(self, session, owned, claimed, "ws")

    return Answers, "settle", patched


PLANTED_PLAIN: dict[str, tuple[Callable[[], Patch], str]] = {
    "gaps_to_plain": (gaps_to_plain, "devices"),
    "nothing_settled_silently": (nothing_settled_silently, "devices"),
    "resent_after_subscribing_again": (resent_after_subscribing_again, "devices"),
    "epoch_outlives_its_connection": (epoch_outlives_its_connection, "devices"),
    "present_after_clean_start": (present_after_clean_start, "devices"),
    "present_after_new_epoch": (present_after_new_epoch, "devices"),
    "unsubscribe_forgotten": (unsubscribe_forgotten, "devices"),
    "written_settles_nothing": (written_settles_nothing, "devices"),
    "ack_timeout_resends": (ack_timeout_resends, "devices"),
    "reports_lost_to_device": (reports_lost_to_device, "devices"),
    "token_lost_to_device": (token_lost_to_device, "devices"),
    "receive_maximum_ignored": (receive_maximum_ignored, "devices"),
    "last_acks_ignored": (last_acks_ignored, "devices"),
    "wrong_way": (wrong_way, "devices"),
}
