"""When the chains of plain clients behind a broker start, with a source of presence and without one (PROTOCOL 4, 6)."""

from typing import Any

import pytest
from msgspec import Raw

from gateway.config import Clients, Config
from gateway.errors import StoreFailed
from gateway.model import Publish, Status
from gateway.ports import Outcome
from tests.hub.custodian import Broker, behind, put
from tests.hub.rig import KEY, Rig
from tests.hub.test_rules import id_of, with_hooks

OFFLINE = 30.0


def chained(*, known: bool = False, **record: Any) -> tuple[Rig, Broker]:
    rig, broker = behind(with_hooks(offline_deadline=OFFLINE), **record)
    if known:
        rig.hub.presence_known = True
        rig.pass_(0.01)
    return rig, broker


def taken(rig: Rig) -> list[int]:
    """What was handed over, in order."""
    return [id for _, id, _ in rig.sent.attempts]


def told(rig: Rig, **fields: Any) -> str:
    out = rig.run(rig.hub.explain(KEY, Publish(to="alice", body=Raw(b"1"), **fields)))
    return f"{out['path']}: {' / '.join(out['why'])}"


def seen(rig: Rig, online: bool) -> None:
    rig.hub.seen("alice", online)
    rig.pass_(0.02)


# -- nothing tells who is there ----------------------------------------------------------------------------------------


def test_never_means_that_no_offline_deadline_passes() -> None:
    rig, broker = chained()
    sent = rig.publish("alice")
    broker.away = True
    queued = rig.publish("alice")
    rig.pass_(120)
    assert taken(rig) == []
    assert [rig.status(id_of(s)) for s in (sent, queued)] == [Status.SENT, Status.QUEUED]
    assert "not handed over before it expires" in told(rig)


def test_never_leaves_a_messages_own_deadline() -> None:
    rig, broker = chained()
    sent = rig.publish("alice", deadline=10.0)
    broker.away = True
    queued = rig.publish("alice", deadline=20.0)
    assert "handed over at" in told(rig, deadline=10.0)
    rig.pass_(11)
    assert taken(rig) == [id_of(sent)]
    rig.pass_(10)
    assert taken(rig) == [id_of(sent), id_of(queued)]
    broker.back()
    assert broker.published == [id_of(sent)]


def test_always_counts_from_each_acceptance() -> None:
    rig, broker = chained(broker_fallback="always")
    sent = rig.publish("alice")
    rig.pass_(10)
    broker.away = True
    queued = rig.publish("alice")
    assert f"handed over at {rig.turns.now() + 30_000}" in told(rig)
    rig.pass_(15)
    assert taken(rig) == []
    rig.pass_(6)
    assert taken(rig) == [id_of(sent)]
    assert rig.status(id_of(sent)) == Status.HANDED_OVER
    rig.pass_(10)
    assert taken(rig) == [id_of(sent), id_of(queued)]


def test_always_counts_from_deliver_at_where_that_is_later() -> None:
    rig, broker = chained(broker_fallback="always")
    sink = rig.publish("alice", deliver_at=rig.turns.now() + 60_000)
    rig.pass_(80)
    assert broker.published == [id_of(sink)]
    assert taken(rig) == []
    rig.pass_(11)
    assert taken(rig) == [id_of(sink)]


def test_always_is_the_records_own_number() -> None:
    rig, _ = chained(broker_fallback="always", offline_deadline=5)
    sink = rig.publish("alice")
    rig.pass_(6)
    assert taken(rig) == [id_of(sink)]


def test_what_has_no_chain_is_never_handed_over() -> None:
    rig, _ = chained(broker_fallback="always")
    sink = rig.publish("alice", fallback=[])
    rig.pass_(100)
    assert taken(rig) == []
    assert rig.status(id_of(sink)) == Status.SENT


def test_without_a_broker_the_record_changes_nothing() -> None:
    rig, _ = chained()
    rig.hub.custodian = None
    sink = rig.publish("alice")
    rig.pass_(31)
    assert taken(rig) == [id_of(sink)]
    assert rig.hub.presence("alice")["status"] == "offline"


# -- beside a session of its own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fallback", "more"), [("never", False), ("always", True)])
def test_a_session_hands_over_what_it_has_bound_and_leaves_the_rest(fallback: str, more: bool) -> None:
    """Of its own sessions the gateway knows whether they are there; the broker cannot deliver what they have bound."""
    rig, broker = chained(broker_fallback=fallback)
    alice = rig.conn("alice", window=1)
    bound, waits = rig.publish("alice"), rig.publish("alice")
    rig.pass_(6)
    alice.ack(0)
    alice.drop()
    rig.pass_(0.1)
    assert broker.published == [id_of(waits)]
    rig.pass_(20)
    later = rig.publish("alice")
    assert taken(rig) == []
    rig.pass_(10)
    assert taken(rig) == [id_of(s) for s in ((bound, waits) if more else (bound,))]
    rig.pass_(20)
    assert (id_of(later) in taken(rig)) is more


def test_always_reaches_what_the_broker_did_not_take() -> None:
    """Accepted while its own session was there, it had no time of its own."""
    rig, broker = chained(broker_fallback="always")
    broker.away = True
    alice = rig.conn("alice", window=1)
    bound, waits = rig.publish("alice"), rig.publish("alice")
    rig.pass_(8)
    alice.drop()
    rig.pass_(29)
    assert taken(rig) == []
    rig.pass_(2)
    assert taken(rig) == [id_of(bound), id_of(waits)]


def test_a_session_gets_back_what_was_handed_over_for_absence() -> None:
    rig, _ = chained(broker_fallback="always")
    sink = rig.publish("alice")
    rig.pass_(31)
    rig.sent.attempts.pop()[2](Outcome("retry", "HTTP 503"))
    rig.pass_(0.01)
    alice = rig.conn("alice")
    assert alice.items == [(1, id_of(sink), 1)]
    alice.ack(1)
    rig.pass_(0.01)
    assert rig.status(id_of(sink)) == Status.DELIVERED


# -- presence is known -------------------------------------------------------------------------------------------------


def test_the_clock_does_not_run_while_the_client_is_there() -> None:
    rig, _ = chained(known=True)
    seen(rig, True)
    sink = rig.publish("alice")
    rig.pass_(120)
    assert taken(rig) == []
    assert rig.status(id_of(sink)) == Status.SENT
    assert "not handed over before it expires" in told(rig)


def test_it_starts_when_the_client_goes() -> None:
    rig, broker = chained(known=True)
    seen(rig, True)
    sent = rig.publish("alice")
    broker.away = True
    queued, plain = rig.publish("alice"), rig.publish("alice", fallback=[])
    rig.pass_(100)
    seen(rig, False)
    rig.pass_(29)
    # told twice, as by its will and by the broker: it goes on
    seen(rig, False)
    assert taken(rig) == []
    rig.pass_(1)
    assert taken(rig) == [id_of(sent), id_of(queued)]
    assert [rig.status(id_of(s)) for s in (sent, plain)] == [Status.HANDED_OVER, Status.QUEUED]
    broker.back()
    assert broker.published == [id_of(sent), id_of(plain)]


def test_later_ones_are_handed_over_at_once_until_the_client_is_back() -> None:
    rig, broker = chained(known=True)
    due = rig.publish("alice", deliver_at=rig.turns.now() + 40_000)
    rig.pass_(31)
    first = rig.publish("alice")
    assert taken(rig) == [id_of(first)]
    assert broker.published == []
    assert "handed over at once" in told(rig)
    rig.pass_(10)
    assert taken(rig) == [id_of(first), id_of(due)]
    seen(rig, True)
    back = rig.publish("alice")
    rig.pass_(100)
    assert broker.published == [id_of(back)]
    assert taken(rig) == [id_of(first), id_of(due)]


def test_coming_back_in_time_stops_the_clock() -> None:
    rig, _ = chained(known=True)
    seen(rig, True)
    rig.publish("alice")
    seen(rig, False)
    rig.pass_(20)
    assert "handed over at" in told(rig)
    seen(rig, True)
    rig.pass_(100)
    seen(rig, False)
    rig.pass_(20)
    assert taken(rig) == []
    rig.pass_(11)
    assert len(taken(rig)) == 1


def test_from_the_gateways_readiness_where_it_was_not_seen() -> None:
    """A failure of the store is a start, but for who was seen."""
    rig, _ = chained(known=True)
    put(rig, "bob")
    seen(rig, True)
    sinks = [rig.publish("alice"), rig.publish("bob")]
    rig.pass_(20)
    rig.store.fail = lambda _: StoreFailed("away", definite=True)
    rig.publish("carol")
    rig.store.fail = lambda _: None
    rig.pass_(29)
    assert rig.hub.failures == 1
    assert taken(rig) == []
    rig.pass_(3)
    assert taken(rig) == [id_of(sinks[1])]
    rig.pass_(100)
    assert taken(rig) == [id_of(sinks[1])]


def test_who_was_seen_before_its_record_is_there() -> None:
    rig, _ = chained(known=True)
    rig.hub.seen("bob", True)
    put(rig, "bob")
    rig.publish("bob")
    rig.pass_(100)
    assert taken(rig) == []
    rig.hub.seen("bob", False)
    rig.pass_(31)
    assert len(taken(rig)) == 1


def test_others_are_kept_in_mind_up_to_the_limit_of_clients() -> None:
    rig, _ = behind(Config(clients=Clients(max=3)))
    rig.hub.presence_known = True
    for name in ("bob", "carol", "dan", "eve"):
        rig.hub.seen(name, True)
    seen(rig, True)
    assert list(rig.hub.brokered._online) == ["bob", "carol", "dan", "alice"]
    seen(rig, False)
    assert rig.hub.presence("alice")["status"] == "offline"


def test_a_source_that_goes_leaves_the_record_to_decide() -> None:
    rig, broker = chained(known=True)
    rig.pass_(31)
    rig.hub.presence_known = False
    sink = rig.publish("alice")
    rig.pass_(100)
    assert taken(rig) == []
    assert broker.published == [id_of(sink)]
    rig.hub.presence_known = True
    rig.pass_(31)
    assert taken(rig) == [id_of(sink)]


def test_a_new_number_in_the_record_moves_the_clock() -> None:
    rig, _ = chained(known=True)
    sink = rig.publish("alice")
    put(rig, "alice", offline_deadline=5)
    rig.pass_(6)
    assert taken(rig) == [id_of(sink)]
    put(rig, "alice", offline_deadline=20)
    seen(rig, True)
    seen(rig, False)
    put(rig, "alice", offline_deadline=60)
    rig.publish("alice")
    rig.pass_(59)
    assert taken(rig) == [id_of(sink)]
    rig.pass_(2)
    assert len(taken(rig)) == 2


def test_its_own_session_counts_as_being_there() -> None:
    rig, broker = chained(known=True)
    alice = rig.conn("alice", window=1)
    rig.pass_(60)
    bound, waits = rig.publish("alice"), rig.publish("alice")
    alice.drop()
    rig.pass_(29)
    assert taken(rig) == []
    assert broker.published == [id_of(waits)]
    rig.pass_(2)
    assert taken(rig) == [id_of(bound), id_of(waits)]


def test_a_hello_that_comes_to_nothing_does_not_stop_the_clock() -> None:
    rig, _ = chained(known=True)
    rig.pass_(31)
    rig.auto = False
    sink = rig.publish("alice")
    alice = rig.conn("alice")
    rig.store.step()
    rig.pass_(0.01)
    alice.drop()
    rig.auto = True
    rig.pass_(0.1)
    assert alice.welcomed is None
    assert taken(rig) == [id_of(sink)]


def test_a_record_that_is_gone_stops_the_clock() -> None:
    rig, _ = chained(known=True)
    rig.conn("alice").drop()
    rig.pass_(1)
    put(rig, "alice", broker_plain=False, offline_deadline=60)
    rig.publish("alice")
    rig.pass_(50)
    assert taken(rig) == []


def test_presence_is_told_as_the_broker_sees_it() -> None:
    rig, _ = chained()
    assert rig.hub.presence("alice")["status"] == "unknown"
    rig.hub.presence_known = True
    start = rig.turns.now()
    told = rig.hub.presence("alice")
    assert (told["status"], told["via"]) == ("offline", None)
    assert (told["away_since"], told["offline_at"]) == (start, start + 30_000)
    assert not told["handed_over"]
    rig.pass_(31)
    assert rig.hub.presence("alice")["handed_over"]
    seen(rig, True)
    told = rig.hub.presence("alice")
    assert (told["status"], told["via"], told["last_proof"]) == ("online", "mqtt", rig.turns.now() - 20)
    assert (told["away_since"], told["offline_at"], told["handed_over"]) == (None, None, False)
    rig.conn("alice")
    assert rig.hub.presence("alice")["via"] == "ws"
