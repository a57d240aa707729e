"""What waits for a plain client behind a broker is published there, once (PROTOCOL 4)."""

from typing import Any

import pytest

from gateway.auth.principal import Principal
from gateway.commit import Commit
from gateway.errors import Conflict, StoreFailed
from gateway.model import Kind, Publish, Status
from gateway.ports import Outcome
from gateway.reads import ReadWaiting
from tests.hub.custodian import Broker, behind, custody, put, until_taken
from tests.hub.rig import KEY, Conn, Rig
from tests.hub.test_plain import events
from tests.hub.test_rules import id_of, with_hooks

BOB = Principal(kind="client", name="bob")


def view(rig: Rig, sink: Conn) -> Any:
    found = rig.run(rig.store.message(id_of(sink)))
    assert found is not None
    return found


# -- published once, as sent, without a seq ----------------------------------------------------------------------------


def test_it_is_published_as_sent_and_goes_on_waiting() -> None:
    rig, broker = behind()
    sink = rig.publish("alice")
    assert broker.published == [id_of(sink)]
    assert broker.marks == [0]
    seen = view(rig, sink)
    assert seen.item.status == Status.SENT
    assert seen.item.seq == 0
    assert seen.sent_at > 0
    assert rig.hub.presence("alice")["queued"] == 1
    broker.answer(id_of(sink))
    rig.pass_(120)
    assert rig.status(id_of(sink)) == Status.SENT
    assert broker.published == [id_of(sink)]
    assert events(rig, sink) == ["custody", "broker_ack"]
    assert view(rig, sink).item.tries == 0


def test_nothing_is_published_before_it_is_committed() -> None:
    """Seen to fail on a hub that published beside the commit: a crash then publishes it again."""
    rig, broker = behind()
    rig.auto = False
    sink = rig.publish("alice")
    until_taken(rig)
    rig.pass_(1)
    assert broker.published == []
    rig.store.step()
    assert broker.published == [id_of(sink)]


@pytest.mark.parametrize("reached", [True, False])
def test_after_a_crash_between_commit_and_publish_it_is_not_published_again(reached: bool) -> None:
    """Seen to fail on a hub that took what waits, sent or not: where the commit had reached the disk, nobody knows
    whether it was published. Where it had not, it certainly was not, and is published now.
    """
    rig, broker = behind()
    rig.store.fail = lambda commit: StoreFailed("lost", definite=False) if custody(commit) else None
    rig.store.durable = lambda _: reached
    sink = rig.publish("alice")
    rig.store.fail = lambda _: None
    rig.pass_(5)
    assert rig.hub.failures == 1
    assert rig.hub.ready == ""
    assert rig.status(id_of(sink)) == Status.SENT
    assert broker.published == ([] if reached else [id_of(sink)])
    later = rig.publish("alice")
    assert broker.published[-1] == id_of(later)


def test_after_a_start_what_was_sent_is_left_and_what_was_not_is_published() -> None:
    """A second life of the hub on what the first has left on disk."""
    rig, broker = behind()
    sent = rig.publish("alice")
    broker.away = True
    queued = rig.publish("alice")
    assert broker.published == [id_of(sent)]
    again = Rig()
    again.hub.store = again.hub.core.store = again.store = rig.store
    rig.store.crash()
    fresh = Broker(again)
    again.hub.start()
    again.pass_(0.1)
    assert fresh.published == []
    again.hub.custodian = fresh
    again.pass_(0.1)
    assert fresh.published == [id_of(queued)]
    assert again.hub.presence("alice")["queued"] == 2


def test_a_failed_commit_voids_what_is_under_way_but_not_what_the_broker_has() -> None:
    rig, broker = behind(most=3, broker_ack_is_delivery=True)
    first = rig.publish("alice")
    rig.auto = False
    later = [rig.publish("alice") for _ in range(3)]
    until_taken(rig)
    assert rig.hub.figures()["custody_in_flight"] == 3
    rig.store.fail = lambda commit: StoreFailed("away", definite=True) if custody(commit) else None
    rig.auto = True
    rig.pass_(0.1)
    assert rig.hub.failures == 1
    assert rig.hub.figures()["custody_in_flight"] == 1
    rig.store.fail = lambda _: None
    rig.pass_(5)
    assert broker.published == [id_of(s) for s in (first, *later[:2])]
    broker.answer(id_of(first))
    assert rig.status(id_of(first)) == Status.DELIVERED
    assert broker.published[-1] == id_of(later[2])
    broker.answer_all()
    assert rig.hub.figures()["custody_in_flight"] == 0
    assert rig.hub.presence("alice")["queued"] == 0


def test_an_answer_while_the_store_is_away_leaves_it_sent() -> None:
    rig, broker = behind(broker_ack_is_delivery=True)
    sink = rig.publish("alice")
    rig.store.fail = lambda _: StoreFailed("away", definite=True)
    rig.publish("bob")
    assert rig.hub.ready != ""
    broker.answer(id_of(sink))
    rig.store.fail = lambda _: None
    rig.pass_(5)
    assert rig.status(id_of(sink)) == Status.SENT
    assert broker.published == [id_of(sink)]


def test_what_has_certainly_not_left_is_put_back_until_the_broker_is_back() -> None:
    """It goes away between commit and publish."""
    rig, broker = behind()
    rig.auto = False
    sinks = [rig.publish("alice") for _ in range(3)]
    until_taken(rig)
    broker.away = True
    rig.auto = True
    rig.pass_(1)
    assert broker.published == []
    assert rig.status(id_of(sinks[0])) == Status.QUEUED
    rig.run(rig.hub.cancel(id_of(sinks[0])))
    broker.back()
    assert broker.published == [id_of(s) for s in sinks[1:]]
    assert broker.marks == [0, 0]
    assert events(rig, sinks[1]) == ["custody", "custody_undone", "custody"]


# -- which, and in what order ------------------------------------------------------------------------------------------


def test_only_clients_whose_record_says_so() -> None:
    rig, broker = behind()
    rig.publish("bob")
    assert broker.published == []
    put(rig, "bob")
    assert len(broker.published) == 1
    put(rig, "bob", broker_plain=False)
    rig.publish("bob")
    assert len(broker.published) == 1


def test_a_deleted_client_is_the_brokers_no_more() -> None:
    rig, broker = behind()
    rig.run(rig.hub.forget("alice"))
    rig.publish("alice")
    assert broker.published == []


def test_what_is_due_later_is_published_then() -> None:
    rig, broker = behind()
    later = rig.publish("alice", deliver_at=rig.turns.now() + 10_000)
    newer = rig.publish("alice")
    assert broker.published == [id_of(newer)]
    rig.pass_(11)
    assert broker.published == [id_of(newer), id_of(later)]


def test_an_older_row_that_comes_to_wait_during_a_read_is_not_passed_over() -> None:
    """Its deliver_at comes while the store is asked for what stands behind the first."""
    rig, broker = behind()
    later = rig.publish("alice", deliver_at=rig.turns.now() + 1000)
    first = rig.publish("alice")
    rig.pass_(0.9)
    rig.auto = False
    rig.publish("bob")
    rig.pass_(0.2)
    second = rig.publish("alice")
    rig.auto = True
    rig.pass_(1)
    assert broker.published[0] == id_of(first)
    assert sorted(broker.published[1:]) == [id_of(later), id_of(second)]


def test_by_priority_and_first_in_first_out_within_one() -> None:
    rig, broker = behind(most=1)
    rig.publish("alice")
    lanes = ["low", "normal", "critical", "normal", "high", "critical", "low"]
    sinks = [rig.publish("alice", priority=lane) for lane in lanes]
    while broker.open:
        broker.answer_all()
    assert broker.published[1:] == [id_of(sinks[n]) for n in (2, 5, 4, 1, 3, 0, 6)]


def test_status_reports_are_not_published() -> None:
    rig, broker = behind()
    rig.publish("bob", sender=Principal(kind="client", name="alice"), notify=["queued"])
    mine = rig.publish("alice")
    assert broker.published == [id_of(mine)]
    assert rig.conn("alice").kinds[0] == Kind.STATUS


def test_its_publisher_is_told_that_it_was_sent_and_delivered() -> None:
    rig, broker = behind(broker_ack_is_delivery=True)
    bob = rig.conn("bob")
    sink = rig.publish("alice", sender=BOB, notify=["sent", "delivered"])
    assert bob.kinds == [Kind.STATUS]
    broker.answer(id_of(sink))
    assert bob.kinds == [Kind.STATUS] * 2


def test_a_banned_client_gets_nothing_until_its_ban_is_over() -> None:
    rig, broker = behind()
    rig.run(rig.hub.disconnect("alice", 60.0))
    sink = rig.publish("alice")
    rig.pass_(50)
    assert broker.published == []
    rig.pass_(11)
    assert broker.published == [id_of(sink)]


# -- bounded and fair --------------------------------------------------------------------------------------------------


def test_no_more_is_committed_or_unanswered_than_the_broker_takes() -> None:
    """The broker of these tests fails when it is handed more. Nor is more committed than that, to be put back."""
    rig, broker = behind(most=5)
    put(rig, "bob")
    sinks = [rig.publish(to) for _ in range(40) for to in ("alice", "bob")]
    assert len(broker.published) == 5
    assert rig.hub.figures()["custody_in_flight"] == 5
    while broker.open:
        broker.answer(next(iter(broker.open)))
        assert rig.hub.figures()["custody_in_flight"] <= 5
    assert sorted(broker.published) == sorted(id_of(s) for s in sinks)
    kinds = {event.kind for events in rig.store._tables.events.values() for event in events}
    assert kinds == {"custody", "broker_ack"}


def test_clients_take_turns() -> None:
    rig, broker = behind(most=4)
    put(rig, "bob")
    broker.away = True
    many = [rig.publish("alice") for _ in range(200)]
    one = rig.publish("bob")
    broker.back()
    broker.answer_all()
    assert id_of(one) in broker.published[:8]
    while broker.open:
        broker.answer_all()
    assert [id for id in broker.published if id != id_of(one)] == [id_of(s) for s in many]


def test_it_reads_slices_one_at_a_time_for_each_client() -> None:
    rig, broker = behind()
    broker.away = True
    sinks = [rig.publish("alice") for _ in range(150)]
    reads: list[int] = []
    submit = rig.store.submit

    def watch(commit: Commit, done: Any) -> None:
        found = [r for r in commit.reads if isinstance(r, ReadWaiting)]
        assert len(found) <= 1
        reads.extend(r.limit for r in found)
        submit(commit, done)

    rig.store.submit = watch  # type: ignore[method-assign]
    broker.back()
    rig.pass_(1)
    assert broker.published == [id_of(s) for s in sinks]
    assert max(reads) == 64


def test_nothing_new_goes_into_custody_while_draining() -> None:
    rig, broker = behind(most=1)
    first = rig.publish("alice")
    rig.publish("alice")
    rig.hub.drain()
    broker.answer(id_of(first))
    assert broker.published == [id_of(first)]


# -- its ends ----------------------------------------------------------------------------------------------------------


def test_the_brokers_ack_is_delivery_where_the_record_says_so() -> None:
    rig, broker = behind(broker_ack_is_delivery=True)
    first, second = rig.publish("alice"), rig.publish("alice")
    broker.answer(id_of(first))
    broker.answer(id_of(second), ok=False)
    seen = view(rig, first)
    assert (seen.item.status, seen.item.via) == (Status.DELIVERED, "mqtt")
    assert rig.status(id_of(second)) == Status.SENT
    assert events(rig, second) == ["custody", "broker_unacked"]
    assert rig.hub.presence("alice")["queued"] == 1
    figures = rig.hub.figures()
    assert {k: v for k, v in figures.items() if k.startswith("custody")} == {
        "custody_in_flight": 0, "custody_published": 2, "custody_acked": 1, "custody_unacked": 1,
    }  # fmt: skip


def test_what_the_broker_lost_is_not_published_again() -> None:
    rig, broker = behind()
    sink = rig.publish("alice")
    broker.gone()
    broker.back()
    rig.pass_(60)
    assert broker.published == [id_of(sink)]
    assert rig.status(id_of(sink)) == Status.SENT


def test_the_brokers_ack_ends_a_chain_that_was_given_it_meanwhile() -> None:
    rig, broker = behind(with_hooks(), broker_ack_is_delivery=True)
    sink = rig.publish("alice", deadline=5.0)
    rig.pass_(6)
    assert rig.status(id_of(sink)) == Status.HANDED_OVER
    broker.answer(id_of(sink))
    assert rig.status(id_of(sink)) == Status.DELIVERED
    rig.sent.attempts.pop()[2](Outcome("retry", "HTTP 503"))
    rig.pass_(100)
    assert rig.sent.attempts == []
    assert rig.hub.presence("alice")["queued"] == 0


def test_once_sent_it_is_neither_cancelled_nor_collapsed() -> None:
    rig, broker = behind()
    sent = rig.publish("alice", collapse="c")
    broker.away = True
    first, second = rig.publish("alice", collapse="c"), rig.publish("alice", collapse="c")
    last = rig.publish("alice")
    with pytest.raises(Conflict):
        rig.run(rig.hub.cancel(id_of(sent)))
    rig.run(rig.hub.cancel(id_of(last)))
    assert [rig.status(id_of(s)) for s in (sent, first, second, last)] == [
        Status.SENT, Status.CANCELLED, Status.QUEUED, Status.CANCELLED,
    ]  # fmt: skip
    broker.back()
    assert broker.published == [id_of(sent), id_of(second)]


def test_its_ttl_ends_it() -> None:
    rig, broker = behind(most=1)
    sent, waits = rig.publish("alice", ttl=60.0), rig.publish("alice", ttl=60.0)
    rig.pass_(61)
    assert [rig.status(id_of(s)) for s in (sent, waits)] == [Status.EXPIRED] * 2
    broker.answer_all()
    assert broker.published == [id_of(sent)]
    assert rig.status(id_of(sent)) == Status.EXPIRED
    assert rig.hub.presence("alice")["queued"] == 0


# -- telling -----------------------------------------------------------------------------------------------------------


def test_explain_tells_the_way() -> None:
    rig, broker = behind()

    def told() -> tuple[str, str]:
        out = rig.run(rig.hub.explain(KEY, Publish(to="alice", body=b"1")))  # type: ignore[arg-type]
        return out["path"], " / ".join(out["why"])

    path, why = told()
    assert path == "custody"
    assert "published there once" in why
    assert "no more at present" not in why
    broker.away = True
    assert "no more at present" in told()[1]
    alice = rig.conn("alice")
    assert told()[0] == "live"
    alice.drop()
    assert told()[0] == "custody"
