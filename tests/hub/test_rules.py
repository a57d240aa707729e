"""Rules of the hub that took a second look to get right, each as the sequence of events that broke it.

Each was seen to fail, for its own reason, on the hub as it was before its mending.
"""

import msgspec
import pytest

from gateway.config import Clients, Config, Routes, Session, Store, Webhook
from gateway.errors import Close, Limited, Unavailable
from gateway.model import Kind, Status
from gateway.ports import Outcome
from gateway.records import ClientRecord
from tests.hub.rig import Rig

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5YWI="


def hook() -> Webhook:
    return Webhook(url="https://hook.example/x", secret=SECRET)


def with_hooks(**session: float) -> Config:
    return Config(
        session=Session(**session),  # type: ignore[arg-type]
        routes=Routes(default=("hook",)),
        channels={"hook": hook(), "sms": hook()},
    )


def id_of(sink: object) -> int:
    return sink.results[0][0]  # type: ignore[attr-defined,no-any-return]


def test_a_client_cannot_say_hello_while_it_is_deleted() -> None:
    """She would be welcomed into a session that nobody knows any more, and never get anything."""
    rig = Rig()
    rig.conn("alice")

    def meanwhile() -> None:
        with pytest.raises(Unavailable):
            rig.conn("alice")

    rig.run(rig.hub.forget("alice"), meanwhile)
    fresh = rig.conn("alice")
    assert fresh.welcomed is not None
    assert fresh.welcomed["why"] == "new"
    sink = rig.publish("alice")
    assert [id for _, id, _ in fresh.items] == [id_of(sink)]


def test_a_hello_under_way_is_ended_by_a_deletion() -> None:
    rig = Rig()
    rig.auto = False
    conn = rig.conn("alice")
    assert conn.welcomed is None

    def on() -> None:
        rig.auto = True

    rig.run(rig.hub.forget("alice"), on)
    assert conn.closed == Close.NOT_AUTHORISED
    assert conn.welcomed is None
    with pytest.raises(KeyError):
        rig.hub.presence("alice")


def test_a_publish_behind_a_deletion_is_counted() -> None:
    rig = Rig()
    rig.conn("alice")
    rig.auto = False

    def behind() -> None:
        rig.turns.run(1)
        rig.publish("alice")
        rig.auto = True

    rig.run(rig.hub.forget("alice"), behind)
    rig.pass_(0.1)
    assert rig.hub.core.sessions["alice"].incoming == 0
    assert rig.hub.core.sessions["alice"].waiting == 1


def test_the_ack_timer_starts_when_the_message_is_written() -> None:
    """A peer that did not read for a while has the whole ack_wait again from the redelivery on."""
    rig = Rig()
    alice = rig.conn("alice")
    sink = rig.publish("alice")
    alice.writable = False
    rig.pass_(52)
    alice.writable = True
    rig.hub.resumed_writing(alice)
    rig.pass_(0.1)
    assert [marks for _, _, marks in alice.items] == [0, 1]
    rig.pass_(15)
    assert len(alice.items) == 2
    assert id_of(sink) == alice.items[1][1]


def test_a_deadline_of_nothing_hands_over_at_once() -> None:
    rig = Rig(with_hooks())
    rig.run(rig.hub.put_client("bob", ClientRecord(offline_deadline=0)))
    rig.publish("bob")
    rig.pass_(0.1)
    assert [channel for channel, _, _ in rig.sent.attempts] == ["hook"]


def test_the_limit_of_clients_is_for_those_that_are_there() -> None:
    rig = Rig(Config(clients=Clients(max=3), store=Store(retention=0)))
    for name in ("a", "b", "c"):
        rig.publish(name, ttl=1.0)
    with pytest.raises(Limited, match="clients"):
        rig.publish("d")
    with pytest.raises(Limited, match="clients"):
        rig.conn("e")
    rig.pass_(200)
    assert rig.publish("d").results[0]


def test_a_parked_retry_goes_on_at_a_channel_that_left_the_chain() -> None:
    rig = Rig(with_hooks(offline_deadline=1))
    rig.conn("alice").drop()
    rig.publish("alice")
    rig.pass_(2)
    rig.sent.attempts.pop()[2](Outcome("retry", "HTTP 503"))
    rig.pass_(0.01)
    again = rig.conn("alice")
    rig.run(rig.hub.put_client("alice", ClientRecord(fallback=["sms"])))
    again.drop()
    rig.pass_(400)
    assert [channel for channel, _, _ in rig.sent.attempts] == ["hook"]


def test_a_take_over_counts_as_an_unclean_end() -> None:
    rig = Rig(with_hooks(crash_max=2))
    conn = rig.conn("alice")
    sink = rig.publish("alice")
    for _ in range(2):
        conn = conn.again()
        rig.pass_(0.01)
    assert rig.status(id_of(sink)) == Status.DEAD
    assert Kind.GAP in conn.kinds


def test_a_new_deadline_moves_the_clock_that_runs() -> None:
    rig = Rig(with_hooks(offline_deadline=3600))
    rig.conn("alice").drop()
    rig.publish("alice")
    rig.run(rig.hub.put_client("alice", ClientRecord(offline_deadline=5)))
    rig.pass_(6)
    assert len(rig.sent.attempts) == 1


def test_a_call_is_refused_rather_than_left_waiting_while_the_store_is_away() -> None:
    rig = Rig()
    rig.hub.core.draining = True
    rig.hub.core.down = "store: gone"
    with pytest.raises(Unavailable):
        rig.run(rig.hub.put_client("alice", ClientRecord()))


def test_an_attempt_that_fails_during_a_welcome_gives_the_message_back() -> None:
    """Its chains were asked before the attempt failed, and nobody would ask again."""
    rig = Rig(with_hooks(offline_deadline=1))
    rig.conn("alice").drop()
    sink = rig.publish("alice")
    rig.pass_(2)
    _, _, done = rig.sent.attempts.pop()
    rig.auto = False
    alice = rig.conn("alice")
    done(Outcome("retry", "HTTP 503"))
    rig.auto = True
    rig.pass_(0.1)
    assert alice.welcomed is not None
    assert [id for _, id, _ in alice.items] == [id_of(sink)]
    alice.ack(1)
    rig.pass_(0.1)
    assert rig.status(id_of(sink)) == Status.DELIVERED
    assert rig.sent.attempts == []


def test_config_of_the_tests_is_what_users_have() -> None:
    """The rig changes nothing but what a test names."""
    assert msgspec.structs.asdict(Rig().hub.config) == msgspec.structs.asdict(Config())
