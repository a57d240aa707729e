"""Rules of plain MQTT sessions that took a second look to get right, each as the sequence of events that broke it.

Each was seen to fail, for its own reason, on the hub as it was before its mending.
"""

import asyncio
from collections.abc import Callable

import pytest
from msgspec import Raw

from gateway.config import Clients, Config, Limits, Session
from gateway.errors import Close, Invalid, Limited, Unavailable
from gateway.model import Publish, Status, Sub
from gateway.ports import Attach, Outcome
from tests.hub.rig import Conn, Rig
from tests.hub.test_plain import ALICE, bodies, status
from tests.hub.test_rules import id_of, with_hooks

KEPT = Attach(clean=False, window=10, qos=1, keep=60_000)


def subscribe(rig: Rig, device: Conn) -> None:
    """A SUBSCRIBE whose SUBACK waits for the store, where the test holds that."""
    device.via = "mqtt"
    rig.hub.attach(device, device.principal, KEPT)
    rig.turns.run()


def unsubscribed(rig: Rig, keep: int = 60_000, publishes: int = 0) -> Conn:
    """A device that has unsubscribed, its connection standing, with so many messages in flight on it."""
    device = rig.device("alice", keep=keep)
    for _ in range(publishes):
        rig.publish("alice")
    rig.hub.detach(device)
    rig.pass_(0.01)
    return device


def gone(rig: Rig, device: Conn) -> None:
    rig.hub.disconnected(device, False)
    rig.hub.left(device)


def said_goodbye(rig: Rig, device: Conn) -> None:
    rig.hub.disconnected(device, True)
    rig.hub.left(device)


def closed_by_the_hub(rig: Rig, device: Conn) -> None:
    rig.hub._close(device)


# -- while a commit is under way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [gone, said_goodbye, closed_by_the_hub])
def test_a_device_that_goes_while_it_subscribes_again_is_away(ends: Callable[[Rig, Conn], None]) -> None:
    """Its going was taken for that of who has unsubscribed only: then it was welcomed, and online for good, and
    messages were bound to a connection that was not there.
    """
    rig = Rig()
    device = unsubscribed(rig)
    rig.auto = False
    subscribe(rig, device)
    ends(rig, device)
    rig.auto = True
    rig.pass_(1)
    assert rig.hub.presence("alice")["status"] == "offline"
    assert status(rig, rig.publish("alice")) == Status.QUEUED


def test_an_epoch_not_kept_is_over_though_its_device_went_before_the_welcome() -> None:
    """Only an older join that was still in the way ended it, not one whose device had gone: the next device
    resumed what nobody had.
    """
    rig = Rig()
    rig.auto = False
    first = Conn(rig, "alice")
    rig.hub.accept(first, 0)
    first.attach(keep=0)
    first.drop()
    assert rig.hub.subscription("alice") == Sub.NONE
    second = Conn(rig, "alice")
    rig.hub.accept(second, 0)
    subscribe(rig, second)
    rig.auto = True
    rig.pass_(0.05)
    assert second.welcomed is not None
    assert not second.welcomed["resumed"]


@pytest.mark.parametrize("keep", [0, 1000])
def test_an_epoch_does_not_expire_before_what_is_being_bound_in_it(keep: int) -> None:
    """On a slow disk it did, and the message that it held already stayed bound to an epoch that was gone: it never
    came.
    """
    rig = Rig(Config(session=Session(offline_deadline=0.5)))
    device = rig.device("alice", keep=keep)
    first = rig.publish("alice")
    rig.auto = False
    second = rig.publish("alice")
    device.drop(clean=True)
    rig.pass_(3)
    rig.auto = True
    rig.pass_(0.1)
    fresh = rig.device("alice")
    rig.pass_(1)
    assert [id for _, id, _ in fresh.items] == [id_of(first), id_of(second)]


def test_what_the_end_of_an_epoch_sets_free_is_looked_at_in_time() -> None:
    """The look at the due rows that was under way did not see it, and was noted before it was there: it outlived
    its ttl until something else was due.
    """
    rig = Rig()
    device = rig.device("alice", keep=0)
    sink = rig.publish("alice", ttl=5.0)
    rig.auto = False
    rig.hub.due.rows(rig.turns.now())
    rig.turns.run(2)
    device.drop(clean=True)
    rig.turns.run(2)
    rig.auto = True
    rig.pass_(7)
    assert status(rig, sink) == Status.EXPIRED


# -- how long an epoch is kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("websocket", [False, True])
def test_an_epoch_lasts_no_longer_than_its_device_asked(websocket: bool) -> None:
    """It lasted until the offline deadline, when that was later."""
    rig = Rig()
    ws = rig.conn("alice")
    ws.drop()
    rig.device("alice", keep=10_000).drop(clean=True)
    rig.pass_(15)
    assert rig.hub.subscription("alice") == Sub.NONE
    back = ws.again() if websocket else rig.device("alice")
    rig.pass_(0.01)
    assert back.welcomed is not None
    assert not back.welcomed["resumed"]


def test_an_epoch_that_is_not_kept_ends_with_a_take_over() -> None:
    """The WebSocket that took over went on with it: a session that was to end with its connection."""
    rig = Rig()
    ws = rig.conn("alice")
    ws.drop(clean=True)
    device = rig.device("alice", keep=0)
    back = ws.again()
    rig.pass_(0.01)
    assert device.closed == Close.TAKEN_OVER
    assert back.welcomed is not None
    assert not back.welcomed["resumed"]
    assert rig.hub.subscription("alice") == Sub.NONE


@pytest.mark.parametrize("keep", [0, 2000, 10_000])
def test_an_epoch_does_not_expire_while_the_connection_of_who_has_unsubscribed_stands(keep: int) -> None:
    """It counted as away from the UNSUBSCRIBE on: the epoch ended, and the next one wrote again on that
    connection what was in flight there.
    """
    rig = Rig()
    device = unsubscribed(rig, keep=keep, publishes=1)
    assert device.welcomed is not None
    epoch = device.welcomed["epoch"]
    rig.pass_(60)
    device.attach(keep=keep)
    assert device.welcomed["epoch"] == epoch
    assert bodies(device) == [1]


@pytest.mark.parametrize("keep", [0, 10_000])
def test_who_has_unsubscribed_may_ack_as_long_as_the_connection_stands(keep: int) -> None:
    """Behind the offline deadline the PUBACK was for an epoch that was over: the message came a second time."""
    rig = Rig()
    device = rig.device("alice", keep=keep)
    sink = rig.publish("alice")
    rig.hub.detach(device)
    rig.pass_(31)
    rig.hub.ack(device, None, [1])
    rig.pass_(0.1)
    assert status(rig, sink) == Status.DELIVERED
    device.attach(keep=keep)
    assert bodies(device) == [1]


def test_the_goodbye_of_who_has_unsubscribed_can_shorten_what_is_kept() -> None:
    """The Session Expiry of its DISCONNECT was not looked at."""
    rig = Rig()
    device = unsubscribed(rig)
    assert device.welcomed is not None
    epoch = device.welcomed["epoch"]
    rig.hub.disconnected(device, True, keep=0)
    rig.pass_(0.01)
    assert rig.hub.presence("alice")["epoch"] is None
    again = rig.device("alice")
    assert again.welcomed is not None
    assert again.welcomed["epoch"] != epoch


# -- what is in flight -------------------------------------------------------------------------------------------------


def test_what_its_chain_gives_back_is_not_written_twice_on_a_connection() -> None:
    """It was bound anew and written under another packet id, while the first was still in flight: the PUBACK of
    that one then settled nothing.
    """
    rig = Rig(with_hooks())
    device = rig.device("alice")
    sink = rig.publish("alice", deadline=5.0)
    rig.pass_(6)
    ((_, _, done),) = rig.sent.attempts
    done(Outcome("refused", "no", "recipient"))
    rig.pass_(0.5)
    rig.hub.ack(device, None, [1])
    rig.pass_(0.1)
    assert bodies(device) == [1]
    assert status(rig, sink) == Status.DELIVERED


def test_an_end_without_a_goodbye_counts_for_who_has_unsubscribed() -> None:
    """A message that its device dies of came for ever, when the device unsubscribed before it died."""
    rig = Rig(Config(session=Session(crash_max=2)))
    sink = rig.publish("alice")
    for _ in range(2):
        unsubscribed(rig).drop()
        rig.pass_(0.01)
    assert status(rig, sink) == Status.DEAD


def test_a_ttl_ends_what_waits_though_its_deadline_is_later() -> None:
    """What an epoch's end put back was looked at when its deadline was due, however long it had expired."""
    rig = Rig(with_hooks())
    device = rig.device("alice", keep=0)
    sink = rig.publish("alice", ttl=5.0, deadline=50.0)
    device.drop(clean=True)
    rig.pass_(7)
    assert status(rig, sink) == Status.EXPIRED


# -- deletions ---------------------------------------------------------------------------------------------------------


def test_a_deleted_client_stays_deleted_when_its_unsubscribed_device_goes() -> None:
    """The end of an epoch that was not kept wrote its session once more."""
    rig = Rig()
    device = unsubscribed(rig, keep=0)
    rig.run(rig.hub.forget("alice"))
    device.drop(clean=True)
    rig.pass_(0.01)
    assert "alice" not in rig.store._tables.sessions


def test_a_client_stays_deleted_that_said_hello_in_the_same_commit() -> None:
    """The join was carried through behind the deletion, and left a session that nobody knew."""
    rig = Rig()
    rig.publish("bob")
    rig.auto = False
    rig.publish("bob")
    conn = Conn(rig, "alice")
    rig.hub.accept(conn, 0)

    async def both() -> None:
        conn.hello()
        deletion = asyncio.ensure_future(rig.hub.forget("alice"))
        await asyncio.sleep(0)
        rig.auto = True
        while not deletion.done():
            rig.turns.run(1)
            await asyncio.sleep(0)
        deletion.result()

    rig.run(both())
    rig.pass_(0.1)
    assert "alice" not in rig.store._tables.sessions


# -- refusals of publishers that cannot be told ------------------------------------------------------------------------


def test_a_dead_letter_makes_nobody_known() -> None:
    """Where only clients with a record may be published to, one refusal made its recipient known."""
    rig = Rig(Config(clients=Clients(strict=True)))
    rig.device("alice")
    sink = Conn(rig, "alice")
    for ref in (0, 2):
        with pytest.raises(Invalid, match="no client ghost"):
            rig.hub.publish(ALICE, Publish(to="ghost", body=Raw(b"1")), sink, ref)
        rig.hub.refuse(ALICE, "ghost", b"1", "client_unknown", "no client ghost", sink, ref + 1)
        rig.pass_(0.01)
    assert rig.hub.core.sessions.keys() == {"alice"}


def test_dead_letters_count_among_the_bodies_that_wait_for_the_disk() -> None:
    """They were taken without a limit while the store was slow."""
    size = 1 << 20
    rig = Rig(Config(limits=Limits(intake_bytes=size)))
    rig.device("alice")
    sink = Conn(rig, "alice")
    rig.auto = False
    rig.hub.refuse(ALICE, "bob", b"x" * size, "too_large", "", sink, 0)
    with pytest.raises(Unavailable, match="bodies wait for the disk"):
        rig.hub.refuse(ALICE, "bob", b"x", "too_large", "", sink, 1)
    rig.auto = True
    rig.pass_(0.01)
    rig.hub.refuse(ALICE, "bob", b"x", "too_large", "", sink, 2)
    rig.pass_(0.01)
    assert sink.results.keys() == {0, 2}


def test_dead_letters_do_not_pass_the_limit_of_clients() -> None:
    """Neither their recipient nor, in its stead, their publisher was counted."""
    rig = Rig(Config(clients=Clients(max=2)))
    rig.publish("bob")
    rig.publish("carol")
    with pytest.raises(Limited, match="clients"):
        rig.hub.refuse(ALICE, "ghost", b"1", "address_forbidden", "", Conn(rig, "alice"), 1)
    rig.pass_(0.01)
    assert rig.hub.core.sessions.keys() == {"bob", "carol"}
