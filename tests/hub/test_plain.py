"""Plain MQTT devices: sessions without resume tokens, without frames for gaps and statuses, where nothing is sent twice
on a connection (PROTOCOL 4).
"""

from msgspec import Raw

from gateway.auth.principal import Principal
from gateway.config import Config, Routes, Session
from gateway.errors import Close
from gateway.ids import encode_id
from gateway.model import Kind, Publish, Status, Sub
from gateway.ports import Outcome
from tests.hub.rig import Conn, Rig
from tests.hub.test_rules import hook, id_of, with_hooks

ALICE = Principal(kind="client", name="alice")


def bodies(conn: Conn) -> list[int]:
    return [seq for seq, _, _ in conn.items]


def status(rig: Rig, sink: Conn) -> int:
    view = rig.run(rig.store.message(id_of(sink)))
    assert view is not None
    return int(view.item.status)


def events(rig: Rig, sink: Conn) -> list[str]:
    view = rig.run(rig.store.message(id_of(sink)))
    assert view is not None
    return [event.kind for event in view.events]


# -- one session over both transports ----------------------------------------------------------------------------------


def test_a_session_goes_on_where_the_other_transport_left_it() -> None:
    rig = Rig()
    ws = rig.conn("alice")
    assert ws.welcomed is not None
    rig.publish("alice")
    rig.publish("alice")
    ws.ack(1)
    ws.drop()
    device = rig.device("alice")
    assert device.welcomed is not None
    assert device.welcomed["epoch"] == ws.welcomed["epoch"]
    assert device.items == [(2, device.items[0][1], 1)]
    rig.publish("alice")
    assert bodies(device) == [2, 3]
    rig.hub.ack(device, None, [2])
    device.drop()
    # the resume token of the WebSocket is still good
    back = ws.again()
    rig.pass_(0.01)
    assert back.welcomed is not None
    assert back.welcomed["resumed"]
    assert back.welcomed["next"] == 4
    assert bodies(back) == [3]


def test_each_takes_the_session_over_from_the_other() -> None:
    rig = Rig()
    ws = rig.conn("alice")
    device = rig.device("alice")
    assert ws.closed == Close.TAKEN_OVER
    rig.conn("alice")
    assert device.closed == Close.TAKEN_OVER


def test_a_clean_start_begins_an_epoch_and_keeps_what_is_pending() -> None:
    rig = Rig()
    device = rig.device("alice")
    assert device.welcomed is not None
    sink = rig.publish("alice")
    device.drop()
    fresh = rig.device("alice", clean=True)
    assert fresh.welcomed is not None
    assert fresh.welcomed["why"] == "clean"
    assert fresh.welcomed["epoch"] != device.welcomed["epoch"]
    assert fresh.items == [(1, id_of(sink), 1)]


def test_what_was_missed_is_told_once_whatever_a_device_did_in_between() -> None:
    rig = Rig()
    rig.conn("alice").drop(clean=True)
    rig.publish("alice", ttl=1.0)
    rig.pass_(3)
    ws = rig.conn("alice")
    assert ws.welcomed is not None
    assert ws.welcomed["missed"] == {"expired": 1}
    ws.drop(clean=True)
    rig.device("alice", clean=True).drop(clean=True)
    rig.pass_(0.01)
    back = ws.again()
    rig.pass_(0.01)
    assert back.welcomed is not None
    assert back.welcomed["why"] == "epoch"
    assert "missed" not in back.welcomed


def test_a_clean_start_without_a_subscription_leaves_the_client_away() -> None:
    rig = Rig()
    device = rig.device("alice")
    assert device.welcomed is not None
    device.drop(clean=True)
    fresh = rig.device("alice", clean=True, live=False)
    assert fresh.welcomed is not None
    assert fresh.welcomed["epoch"] != device.welcomed["epoch"]
    assert rig.hub.presence("alice")["status"] == "offline"
    assert rig.hub.subscription("alice") == Sub.NONE
    rig.publish("alice")
    assert fresh.items == []
    fresh.attach()
    assert bodies(fresh) == [1]


# -- session present, and how long an epoch is kept --------------------------------------------------------------------


def test_the_epoch_holds_the_subscription_until_it_is_over() -> None:
    rig = Rig()
    assert rig.hub.subscription("alice") == Sub.NONE
    device = rig.device("alice", keep=60_000)
    assert rig.hub.subscription("alice") == Sub.PLAIN
    device.drop(clean=True)
    rig.pass_(59)
    assert rig.hub.subscription("alice") == Sub.PLAIN
    rig.pass_(2)
    assert rig.hub.subscription("alice") == Sub.NONE


def test_another_epoch_drops_it() -> None:
    rig = Rig()
    rig.device("alice").drop(clean=True)
    rig.conn("alice")
    assert rig.hub.subscription("alice") == Sub.NONE


def test_a_resumed_websocket_keeps_it() -> None:
    rig = Rig()
    ws = rig.conn("alice")
    ws.drop()
    rig.device("alice").drop(clean=True)
    back = ws.again()
    rig.pass_(0.01)
    assert back.welcomed is not None
    assert back.welcomed["resumed"]
    assert rig.hub.subscription("alice") == Sub.PLAIN


def test_an_epoch_that_is_not_kept_ends_with_its_connection() -> None:
    rig = Rig()
    device = rig.device("alice", keep=0)
    assert device.welcomed is not None
    first, second = rig.publish("alice"), rig.publish("alice")
    rig.hub.ack(device, None, [1])
    device.drop(clean=True)
    rig.pass_(0.01)
    assert rig.hub.subscription("alice") == Sub.NONE
    assert status(rig, first) == Status.DELIVERED
    fresh = rig.device("alice", keep=0)
    assert fresh.welcomed is not None
    assert fresh.welcomed["why"] == "expired"
    assert fresh.items == [(1, id_of(second), 1)]


def test_an_epoch_does_not_end_before_what_is_being_bound_in_it() -> None:
    """Bound to an epoch that is gone, a message would wait for nobody."""
    rig = Rig()
    device = rig.device("alice", keep=0)
    rig.auto = False
    sink = rig.publish("alice")
    device.drop(clean=True)
    rig.auto = True
    rig.pass_(0.01)
    fresh = rig.device("alice")
    assert fresh.items == [(1, id_of(sink), 1)]


def test_an_epoch_not_kept_is_over_after_a_start() -> None:
    rig = Rig()
    rig.device("alice", keep=0)
    rig.device("bob", keep=60_000)
    rig.publish("alice")
    rig.hub._reopen()
    assert rig.hub.subscription("alice") == Sub.NONE
    assert rig.hub.subscription("bob") == Sub.PLAIN
    fresh = rig.device("alice")
    assert fresh.welcomed is not None
    assert fresh.welcomed["why"] == "expired"
    assert [(seq, marks) for seq, _, marks in fresh.items] == [(1, 1)]


def test_a_goodbye_can_shorten_what_is_kept() -> None:
    rig = Rig()
    device = rig.device("alice", keep=60_000)
    rig.hub.disconnected(device, True, keep=0)
    rig.pass_(0.01)
    assert rig.hub.subscription("alice") == Sub.NONE


def test_the_chain_still_waits_for_the_offline_deadline_when_the_epoch_ended_at_once() -> None:
    rig = Rig(with_hooks(offline_deadline=30.0))
    device = rig.device("alice", keep=0)
    sink = rig.publish("alice")
    device.drop(clean=True)
    rig.pass_(29)
    assert rig.sent.attempts == []
    rig.pass_(2)
    assert [id for _, id, _ in rig.sent.attempts] == [id_of(sink)]


# -- nothing twice on a connection -------------------------------------------------------------------------------------


def test_the_end_of_ack_wait_closes_the_connection_and_counts() -> None:
    rig = Rig(Config(session=Session(ack_wait=5.0, deliver_max=2)))
    device = rig.device("alice")
    sink = rig.publish("alice")
    rig.pass_(8)
    assert device.closed == Close.ACK_TIMEOUT
    assert bodies(device) == [1]
    assert rig.hub.presence("alice")["status"] == "offline"
    again = rig.device("alice")
    assert again.items == [(1, id_of(sink), 1)]
    rig.pass_(20)
    assert again.closed == Close.ACK_TIMEOUT
    assert status(rig, sink) == Status.DEAD
    last = rig.device("alice")
    assert last.items == []


def test_what_is_being_claimed_stays_in_flight_and_its_ack_is_the_messages_own() -> None:
    rig = Rig(with_hooks())
    device = rig.device("alice")
    sink = rig.publish("alice", deadline=5.0)
    rig.pass_(6)
    assert len(rig.sent.attempts) == 1
    assert status(rig, sink) == Status.HANDED_OVER
    rig.hub.ack(device, None, [1])
    rig.pass_(0.01)
    assert status(rig, sink) == Status.DELIVERED


def test_a_gap_is_settled_silently() -> None:
    rig = Rig(with_hooks())
    device = rig.device("alice")
    rig.publish("alice", deadline=5.0)
    later = rig.publish("alice")
    rig.pass_(6)
    _, _, done = rig.sent.attempts[0]
    done(Outcome("delivered", "ok"))
    rig.pass_(0.01)
    assert device.kinds == [int(Kind.MESSAGE)] * 2
    rig.hub.ack(device, None, [2])
    rig.pass_(0.01)
    assert status(rig, later) == Status.DELIVERED
    assert rig.hub.presence("alice")["in_flight"] == 0
    # nor does it come when the device is back
    device.drop()
    assert rig.device("alice").items == []


def test_status_reports_wait_for_frames() -> None:
    rig = Rig()
    rig.device("bob")
    device = rig.device("alice")
    sink = Conn(rig, "alice")
    for _ in range(3):
        rig.publish("bob", sender=ALICE, notify=["sent"])
    mine = rig.publish("alice")
    assert device.kinds == [int(Kind.MESSAGE)]
    assert device.items[0][1] == id_of(mine)
    rig.hub.ack(device, None, [1])
    device.drop()
    ws = rig.conn("alice")
    assert ws.kinds == [int(Kind.STATUS)] * 3
    assert sink.items == []


def test_bound_reports_are_put_back_when_a_device_resumes() -> None:
    rig = Rig()
    ws = rig.conn("alice")
    rig.publish("bob", sender=ALICE, notify=["queued"])
    mine = rig.publish("alice")
    assert ws.kinds == [int(Kind.STATUS), int(Kind.MESSAGE)]
    ws.drop()
    device = rig.device("alice")
    assert [id for _, id, _ in device.items] == [id_of(mine)]
    rig.hub.ack(device, None, [2])
    device.drop()
    rig.pass_(0.01)
    back = ws.again()
    rig.pass_(0.01)
    assert back.kinds == [int(Kind.STATUS)]
    assert bodies(back) == [3]


def test_reports_that_wait_do_not_hide_the_messages_behind_them() -> None:
    """More of them than are read at once: what is read must be messages."""
    rig = Rig()
    for _ in range(300):
        rig.publish("bob", sender=ALICE, notify=["queued"])
    mine = rig.publish("alice")
    device = rig.device("alice")
    assert [id for _, id, _ in device.items] == [id_of(mine)]


# -- unsubscribing -----------------------------------------------------------------------------------------------------


def test_who_has_unsubscribed_is_away_and_may_still_ack() -> None:
    rig = Rig()
    device = rig.device("alice")
    first, second = rig.publish("alice"), rig.publish("alice")
    rig.hub.detach(device)
    rig.pass_(0.01)
    assert rig.hub.presence("alice")["status"] == "offline"
    assert rig.hub.subscription("alice") == Sub.NONE
    rig.hub.ack(device, None, [1])
    rig.pass_(0.01)
    assert status(rig, first) == Status.DELIVERED
    third = rig.publish("alice")
    assert bodies(device) == [1, 2]
    device.attach()
    # the second is still in flight on this connection
    assert [id for _, id, _ in device.items] == [id_of(first), id_of(second), id_of(third)]
    rig.hub.ack(device, None, [2, 3])
    rig.pass_(0.01)
    assert status(rig, second) == Status.DELIVERED
    assert status(rig, third) == Status.DELIVERED


def test_an_epoch_not_kept_ends_with_the_connection_of_who_has_unsubscribed() -> None:
    rig = Rig()
    device = rig.device("alice", keep=0)
    assert device.welcomed is not None
    rig.publish("alice")
    rig.hub.detach(device)
    rig.pass_(0.01)
    assert rig.hub.presence("alice")["epoch"] == device.welcomed["epoch"]
    device.drop(clean=True)
    rig.pass_(0.01)
    assert rig.hub.presence("alice")["epoch"] is None


# -- QoS 0, packet ids, refusals ---------------------------------------------------------------------------------------


def test_at_qos_0_writing_settles() -> None:
    rig = Rig()
    device = rig.device("alice", qos=0)
    sink = rig.publish("alice")
    rig.hub.written(device, [1])
    rig.pass_(0.01)
    assert status(rig, sink) == Status.DELIVERED
    assert "at_most_once" in events(rig, sink)
    device.drop()
    assert rig.device("alice").items == []


def test_what_a_device_repeats_is_marked_and_can_be_looked_up() -> None:
    rig = Rig()
    bob = rig.conn("bob")
    sink = Conn(rig, "alice")
    pub = Publish(to="bob", body=Raw(b'{"n":1}'))
    rig.hub.publish(ALICE, pub, sink, 7, pid=7)
    rig.pass_(0.01)
    first = sink.results[7][0]
    assert rig.run(rig.hub.uplinks(["alice"], 10)) == {"alice": {7: (first, b'{"n":1}')}}
    rig.hub.publish(ALICE, pub, sink, 8, pid=7, possible_dup=first)
    rig.pass_(0.01)
    assert len(bob.items) == 2
    view = rig.run(rig.store.message(sink.results[8][0]))
    assert view.item.x.possible_dup == encode_id(first)


def test_what_can_never_succeed_is_a_dead_letter_of_its_publisher() -> None:
    rig = Rig(Config(routes=Routes(default=("hook",)), channels={"hook": hook()}))
    sink = Conn(rig, "alice")
    rig.hub.refuse(ALICE, "bob", b'"x"', "address_forbidden", "may not publish to bob", sink, 1)
    rig.hub.refuse(ALICE, "a/b", b'"y"', "address_invalid", "not a client id", sink, 2)
    rig.pass_(0.01)
    letters = rig.run(rig.store.dead_letters(None, None, 1 << 62, 10, True))
    assert [(v.item.client, v.item.sender, v.item.why, v.item.body) for v in letters] == [
        ("alice", "alice", "address_invalid", b'"y"'),
        ("bob", "alice", "address_forbidden", b'"x"'),
    ]
    assert sink.results.keys() == {1, 2}
    assert rig.conn("bob").items == []
    assert rig.hub.presence("bob")["queued"] == 0
