"""What becomes of a message whose provider has accepted it, when no receipt comes; and how long a step may take."""

import pytest

from gateway.commit import Commit
from gateway.errors import StoreFailed
from gateway.model import Hold, Kind, Phase, Status
from gateway.records import ClientRecord
from tests.hub.rig import Rig
from tests.hub.steps import ACCEPTED, AMBIGUOUS, DELIVERED, HOUR, REFUSED, REPORTS, RETRY, Way, config
from tests.hub.test_rules import id_of

HANDED, TAKEN = (int(Status.HANDED_OVER), "hook"), (int(Status.PROVIDER_ACCEPTED), "hook")
ARRIVED = (int(Status.PROVIDER_DELIVERED), "hook")


def away(rig: Rig, **fields: object) -> Way:
    """A message that was written to a client, which has gone since: its seq is unsettled."""
    conn = rig.conn("alice")
    way = Way(rig, **fields)
    way.conn = conn
    assert way.tried == []
    conn.drop()
    rig.pass_(0.02)
    assert way.view.item.hold == Hold.CLAIMED
    return way


def test_accepted_is_not_delivered() -> None:
    """The last word is `accepted`: it has ended as that. Seen to fail where it was taken for delivered."""
    rig = Rig(config())
    way = Way(rig)
    way.ends(ACCEPTED)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.told == [HANDED, TAKEN]
    assert way.line("attempt_ended")["provider_id"] == "p1"
    rig.pass_(200)
    assert way.tried == ["hook"]


def test_delivered_is_delivered() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(DELIVERED)
    assert way.stands == (Status.PROVIDER_DELIVERED, "hook", True, None)
    assert way.told == [HANDED, ARRIVED]


def test_who_will_report_is_waited_for_and_nothing_else_is_tried() -> None:
    rig = Rig(config())
    way = Way(rig, ttl=3600)
    way.ends(REPORTS)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", False, (Phase.RECEIPT, "hook"))
    now = rig.turns.now()
    row = way.view.chain_row
    assert row is not None
    assert now - 100 < row.due - 72 * HOUR < now
    assert way.line("attempt_ended")["receipt_until"] == row.due
    rig.turns.time = row.due - 1000
    rig.pass_(0.5)
    assert way.stands[2] is False
    rig.pass_(1)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.told == [HANDED, TAKEN]
    assert way.lines("no_receipt") == 1
    assert way.tried == ["hook"]


def test_a_step_that_asks_for_delivered_goes_on_without_it() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}, sms={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(29)
    assert way.tried == ["hook"]
    rig.pass_(1.5)
    assert way.tried == ["hook", "sms"]
    assert way.line("no_receipt")["next"]["channel"] == "sms"
    way.ends(REPORTS)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "sms", False, (Phase.RECEIPT, "sms"))
    rig.pass_(31)
    # nothing failed: not dead
    assert way.stands == (Status.PROVIDER_ACCEPTED, "sms", True, None)
    assert way.told == [HANDED, TAKEN]


def test_a_step_that_asks_for_what_never_comes_goes_on_at_once() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(ACCEPTED)
    assert way.tried == ["hook", "sms"]
    assert way.told == [HANDED, TAKEN]
    way.ends(DELIVERED)
    assert way.stands == (Status.PROVIDER_DELIVERED, "sms", True, None)
    assert way.told == [HANDED, TAKEN, (Status.PROVIDER_DELIVERED, "sms")]


def test_a_word_that_stands_is_no_dead_letter() -> None:
    """The first channel has it and did not report; the second refuses: it may be on its way, so nobody is to replay
    it.
    """
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(31)
    way.ends(REFUSED)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.line("attempt_ended")["reason"] == "no such number"


def test_nor_does_it_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    room = {"hook": 9, "sms": 0}
    monkeypatch.setattr(rig.sent, "room", room.__getitem__)
    way = Way(rig, ttl=32)
    way.ends(REPORTS)
    rig.pass_(33)
    room["sms"] = 9
    rig.hub.handover.attempts.pump("sms")
    rig.pass_(0.02)
    assert way.tried == ["hook"]
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)


def test_it_never_goes_back_to_its_client_once_accepted() -> None:
    """Neither while a receipt is waited for, nor when the next step is to be tried again."""
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = away(rig)
    way.ends(REPORTS)
    assert way.view.item.hold == Hold.CLAIMED
    assert way.conn is not None
    back = way.conn.again()
    rig.pass_(0.02)
    assert [(seq, kind) for (seq, _, _), kind in zip(back.items, back.kinds, strict=True)] == [(1, Kind.GAP)]
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", False, (Phase.RECEIPT, "hook"))
    rig.pass_(30.5)
    assert way.tried == ["hook", "sms"]
    way.ends(RETRY)
    assert way.stands[3] == (Phase.WAIT, "sms")
    rig.pass_(5)
    way.ends(REFUSED)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert set(back.kinds) == {Kind.GAP}


def test_a_late_ack_stops_what_is_left() -> None:
    """PROTOCOL 6: after a provider has accepted, the message's own ack is in the timeline, and stops the rest."""
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = away(rig)
    way.ends(REPORTS)
    assert way.conn is not None
    way.conn.again(ack=1)
    rig.pass_(0.02)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.line("acked") == {"via": "ws"}
    rig.pass_(60)
    assert way.tried == ["hook"]
    assert way.told == [HANDED, TAKEN]


def test_a_late_ack_after_a_start_stops_it_too() -> None:
    """The window was loaded with the status of its row. Seen to stay without an end where that was taken for a message
    that comes late.
    """
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = away(rig)
    way.ends(REPORTS)
    failures = iter((StoreFailed("fdatasync", definite=True),))
    rig.store.fail = lambda commit: next(failures, None) if commit else None
    rig.publish("carol")
    rig.pass_(1)
    assert rig.hub.failures == 1
    assert way.conn is not None
    way.conn.again(ack=1)
    rig.pass_(0.02)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.line("acked") == {"via": "ws"}


def test_an_ack_before_that_is_the_messages_own_and_the_outcome_only_in_the_timeline() -> None:
    rig = Rig(config())
    way = away(rig)
    assert way.conn is not None
    way.conn.again(ack=1)
    way.ends(REPORTS)
    assert way.stands == (Status.DELIVERED, "ws", True, None)
    assert way.line("attempt_ended")["outcome"] == "accepted"
    assert way.told == [HANDED, (Status.DELIVERED, "ws")]


def test_who_wants_it_late_gets_it_when_the_chain_has_ended() -> None:
    rig = Rig(config())
    rig.run(rig.hub.put_client("alice", ClientRecord(late="deliver")))
    way = Way(rig)
    way.ends(REPORTS)
    # not for three days
    rig.pass_(31)
    assert way.view.item.hold == Hold.WAITING
    conn = rig.conn("alice")
    assert [id for _, id, _ in conn.items] == [way.id]
    conn.ack(1)
    rig.pass_(0.02)
    assert way.stands == (Status.PROVIDER_ACCEPTED, "hook", True, None)
    assert way.line("acked") == {"via": "ws"}
    assert way.told == [HANDED, TAKEN]


def test_each_status_is_reported_once() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    publisher = rig.conn("bob")
    way = Way(
        rig, sender=publisher.principal, notify=["provider_accepted", "provider_delivered", "dead"],
    )  # fmt: skip
    way.ends(REPORTS)
    rig.pass_(31)
    way.ends(REPORTS)
    way.rig.pass_(0.02)
    # one, and that again until it is acked
    assert len({id for _, id, _ in publisher.items}) == 1


def test_a_start_of_the_gateway_forgets_no_wait() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    failures = iter((StoreFailed("fdatasync", definite=True),))

    def fail(commit: Commit) -> StoreFailed | None:
        return next(failures, None) if commit else None

    rig.store.fail = fail
    rig.publish("carol")
    assert rig.hub.failures == 1
    rig.pass_(31)
    assert way.tried == ["hook", "sms"]


def test_what_was_ambiguous_and_stops_is_dead() -> None:
    rig = Rig(config(hook_={"on_ambiguous": "stop"}))
    way = Way(rig)
    way.ends(AMBIGUOUS)
    assert way.stands == (Status.DEAD, "hook", True, None)


def test_a_retry_that_outlasts_its_step_leads_to_the_next() -> None:
    rig = Rig(config(hook_={"step_timeout": 5.0, "max_attempts": 99}))
    way = Way(rig)
    for _ in range(50):
        if way.tried[-1] == "sms":
            break
        way.ends(RETRY)
        rig.pass_(1)
    first = [channel for channel in way.tried if channel == "hook"]
    assert way.tried == [*first, "sms"]
    assert len(first) > 3


def test_waiting_for_room_outlasts_a_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(config(hook_={"step_timeout": 5.0}))
    room = {"hook": 0, "sms": 9}
    monkeypatch.setattr(rig.sent, "room", room.__getitem__)
    way = Way(rig)
    assert way.tried == []
    rig.pass_(6)
    room["hook"] = 9
    rig.hub.handover.attempts.pump("hook")
    rig.pass_(0.02)
    assert way.tried == ["sms"]
    assert way.line("step_timeout")["channel"] == "hook"


def test_critical_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(config())
    room = [0]
    monkeypatch.setattr(rig.sent, "room", lambda channel: room[0])
    low = id_of(rig.publish("alice", priority="low"))
    normal = [id_of(rig.publish("alice")) for _ in range(2)]
    critical = id_of(rig.publish("bob", priority="critical"))
    rig.pass_(0.05)
    room[0] = 9
    rig.hub.handover.attempts.pump("hook")
    rig.pass_(0.05)
    assert [id for _, id, _ in rig.sent.attempts] == [critical, *normal, low]
