"""A plain client behind a broker that has a session of its own beside it: that gets everything (PROTOCOL 4)."""

from gateway.model import Status
from tests.hub.custodian import behind, put, until_taken
from tests.hub.test_rules import id_of


def test_nothing_goes_into_custody_while_its_own_session_is_live() -> None:
    """Seen to fail on a hub that did not look at the session."""
    rig, broker = behind()
    alice = rig.conn("alice", window=1)
    sinks = [rig.publish("alice") for _ in range(3)]
    put(rig, "alice", offline_deadline=5)
    rig.pass_(5)
    assert broker.published == []
    alice.ack(1)
    alice.drop()
    # the second is bound: it waits for the session that has bound it
    rig.pass_(1)
    assert broker.published == [id_of(sinks[2])]


def test_nor_while_it_is_being_welcomed() -> None:
    """Committed as sent when the hello came, it has not left: it is put back, and comes without a mark."""
    rig, broker = behind()
    rig.auto = False
    sink = rig.publish("alice")
    until_taken(rig)
    alice = rig.conn("alice")
    assert alice.welcomed is None
    during = rig.publish("alice")
    rig.auto = True
    rig.pass_(0.1)
    assert broker.published == []
    assert alice.items == [(1, id_of(sink), 0), (2, id_of(during), 0)]


def test_a_hello_that_comes_to_nothing_gives_it_back_to_the_broker() -> None:
    rig, broker = behind()
    rig.auto = False
    alice = rig.conn("alice")
    sink = rig.publish("alice")
    alice.drop()
    rig.auto = True
    rig.pass_(0.1)
    assert alice.welcomed is None
    assert broker.published == [id_of(sink)]


def test_a_later_session_queues_what_was_published_marked() -> None:
    rig, broker = behind()
    sent = rig.publish("alice")
    broker.away = True
    never = rig.publish("alice")
    alice = rig.conn("alice")
    assert alice.items == [(1, id_of(sent), 1), (2, id_of(never), 0)]
    alice.ack(2)
    rig.pass_(0.01)
    assert rig.status(id_of(sent)) == Status.DELIVERED
    assert rig.hub.presence("alice")["queued"] == 0


def test_the_brokers_ack_does_not_settle_what_a_session_has_bound() -> None:
    rig, broker = behind(broker_ack_is_delivery=True)
    sink = rig.publish("alice")
    alice = rig.conn("alice")
    assert alice.items == [(1, id_of(sink), 1)]
    broker.answer(id_of(sink))
    assert rig.status(id_of(sink)) == Status.SENT
    alice.ack(1)
    rig.pass_(0.01)
    assert rig.status(id_of(sink)) == Status.DELIVERED


def test_the_brokers_ack_settles_what_waits_in_a_sessions_queue() -> None:
    rig, broker = behind(broker_ack_is_delivery=True)
    sink = rig.publish("alice")
    other = rig.publish("alice")
    alice = rig.conn("alice", window=1)
    assert [id for _, id, _ in alice.items] == [id_of(sink)]
    broker.answer(id_of(other))
    alice.ack(1)
    assert [id for _, id, _ in alice.items] == [id_of(sink)]
    assert rig.hub.presence("alice")["queued"] == 0


def test_what_a_session_has_carried_is_not_published() -> None:
    """Sent in one way, it is never published for the first time in another: a nack waits for the next session."""
    rig, broker = behind()
    alice = rig.conn("alice")
    sink = rig.publish("alice")
    rig.hub.nack(alice, 1, 0.5, "busy")
    alice.drop()
    rig.pass_(10)
    assert broker.published == []
    assert [id for _, id, _ in rig.conn("alice").items] == [id_of(sink)]
