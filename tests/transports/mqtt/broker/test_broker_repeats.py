"""What the broker sends again: stored once, or marked; never lost, never unmarked."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.ids import encode_id
from gateway.transports.mqtt.broker.repeats import Repeats, Use
from gateway.transports.mqtt.codec import Publish
from tests.transports.mqtt.broker.rig import Device, Framed, Gateway


async def marks(gateway: Gateway, client: str = "bob") -> list[tuple[bytes, str | None]]:
    """Body and mark of each message that a client has, oldest first."""
    items = await gateway.to(client)
    return [(item.body, item.x.possible_dup if item.x is not None else None) for item in items]


async def held(gateway: Gateway, *bodies: bytes) -> Device:
    """Alice, whose publishes are with the hub and not committed yet."""
    alice = await Device(gateway.broker, "alice").connect()
    gateway.store.held = True
    await alice.publish("bob", *bodies)
    await gateway.until(lambda: gateway.figure("unacked") == len(bodies))
    return alice


async def test_a_failed_commit_is_tried_again(gateway: Gateway) -> None:
    await held(gateway, b"1", b"2")
    gateway.fail_commits()
    gateway.store.let_go()
    await gateway.down()
    gateway.heal()
    await gateway.reopened()
    await gateway.until(lambda: gateway.figure("acked") == 2)
    assert await marks(gateway) == [(b"1", None), (b"2", None)]
    assert gateway.store.lookups == [["alice"]]
    await gateway.until(lambda: gateway.figure("reconnects") == 1)
    assert gateway.figure("possible_duplicates") == 0


async def test_a_commit_that_reached_the_disk_all_the_same(gateway: Gateway) -> None:
    alice = await held(gateway, b"1", b"2")
    gateway.fail_commits(durable=True, definite=False)
    gateway.store.let_go()
    await gateway.down()
    gateway.heal()
    await gateway.reopened()
    await gateway.until(lambda: gateway.figure("acked") == 2)
    one, *_ = await gateway.to("bob")
    # the second one was not in that commit
    assert await marks(gateway) == [(b"1", None), (b"1", encode_id(one.id)), (b"2", None)]
    assert gateway.figure("possible_duplicates") == 1
    # what comes for the first time is not looked for
    await alice.publish("bob", b"1")
    await gateway.until(lambda: gateway.figure("acked") == 3)
    assert (await marks(gateway))[-1] == (b"1", None)
    assert gateway.store.lookups == [["alice"]]


@pytest.mark.parametrize("reached", [True, False])
async def test_a_crash_between_receipt_and_puback(gateway: Gateway, reached: bool) -> None:
    carol = await Device(gateway.broker, "carol").connect()
    await carol.publish("bob", b"0")
    await gateway.until(lambda: gateway.figure("acked") == 1)
    gateway.store.held = True
    alice = await Device(gateway.broker, "alice").connect()
    await alice.publish("bob", b"1", b"1")
    await carol.publish("bob", b"2")
    await gateway.until(lambda: gateway.figure("unacked") == 3)
    await gateway.crash(lambda commit: reached)
    # more, while it is away
    await alice.publish("bob", b"3")
    await gateway.start()
    await gateway.until(lambda: gateway.figure("acked") == 4)
    found = await marks(gateway)
    if reached:
        # the second commit had not begun
        ids = [encode_id(item.id) for item in await gateway.to("bob")]
        assert found[:2] == [(b"0", None), (b"1", None)]
        again = found[2:]
        assert [body for body, _ in again] == [b"1", b"1", b"2", b"3"]
        assert [mark for _, mark in again] == [ids[1], None, None, None]
    else:
        assert found == [(b"0", None), (b"1", None), (b"1", None), (b"2", None), (b"3", None)]
    # all of them in one look
    assert [sorted(clients) for clients in gateway.store.lookups] == [["alice", "carol"]]


async def test_a_puback_that_did_not_arrive(gateway: Gateway) -> None:
    await held(gateway, b"1", b"2")
    gateway.link._conn.drop("cut")
    await gateway.down()
    # it is committed while there is no connection
    gateway.store.let_go()
    await gateway.until(lambda: gateway.figure("acked") == 2)
    one, two, *_ = await gateway.to("bob")
    assert await marks(gateway) == [
        (b"1", None), (b"2", None), (b"1", encode_id(one.id)), (b"2", encode_id(two.id))
    ]  # fmt: skip
    # memory knew it
    assert gateway.store.lookups == []
    # and again
    await gateway.until(lambda: gateway.figure("reconnects") == 1)


async def test_no_connection_before_the_last_one_has_its_answers(
    gateway: Gateway, pauses: list[tuple[int, int, int]]
) -> None:
    await held(gateway, b"1")
    gateway.link._conn.drop("cut")
    await gateway.down()
    await gateway.advance(5)
    # it does not even begin to wait
    assert pauses == []
    gateway.store.let_go()
    await gateway.up()
    assert len(pauses) == 1


async def test_what_comes_behind_something_that_must_come_again(gateway: Gateway) -> None:
    alice = await Device(gateway.broker, "alice").connect()
    gateway.link._fail("to be sent again")
    # read before the connection is dropped
    gateway.link.received(Publish(f"{alice.up}/to/bob".encode(), b"1", qos=1, pid=9))
    await gateway.down()
    await gateway.up()
    assert gateway.hub.figures()["accepted"] == 0
    assert gateway.figure("unacked") == 0


async def test_a_dead_letter_is_not_made_twice(gateway: Gateway) -> None:
    alice = await Device(gateway.broker, "alice").connect()
    gateway.store.held = True
    await alice.publish("pool:x", b"1")
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    gateway.link._conn.drop("cut")
    await gateway.down()
    gateway.store.let_go()
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert len(await gateway.store.dead_letters(None, None, 1 << 62, 10, True)) == 1


async def test_a_dead_letter_that_was_not_committed_is_tried_again(gateway: Gateway) -> None:
    alice = await Device(gateway.broker, "alice").connect()
    gateway.store.held = True
    await alice.publish("pool:x", b"1")
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    gateway.fail_commits()
    gateway.store.let_go()
    await gateway.down()
    gateway.heal()
    await gateway.reopened()
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert len(await gateway.store.dead_letters(None, None, 1 << 62, 10, True)) == 1


async def test_frames_that_come_again_are_marked(gateway: Gateway) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    gateway.store.held = True
    alice.say({"t": "pub", "m": [
        {"ref": 1, "to": "bob", "body": 1}, {"ref": 2, "to": 5}, {"ref": 3, "to": "bob", "body": 3},
        {"ref": 4, "to": "bob", "body": 4, "key": "k"},
    ]})  # fmt: skip
    assert (await alice.hear("err"))["ref"] == 2
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    gateway.link._conn.drop("cut")
    await gateway.down()
    gateway.store.let_go()
    await gateway.up()
    assert (await alice.hear("err"))["ref"] == 2
    oks = (await alice.hear("ok"))["m"]
    assert [ok["ref"] for ok in oks] == [1, 3, 4]
    assert oks[2]["dup"] is True
    one, three, *_ = await gateway.to("bob")
    assert await marks(gateway) == [
        (b"1", None), (b"3", None), (b"4", None), (b"1", encode_id(one.id)), (b"3", encode_id(three.id))
    ]  # fmt: skip
    await gateway.until(lambda: gateway.figure("unacked") == 0)


async def test_a_frame_that_the_store_could_not_take(gateway: Gateway) -> None:
    alice = await Framed(gateway.broker, "alice").joined()
    gateway.store.held = True
    alice.say({"t": "pub", "m": [{"ref": 1, "to": "bob", "body": 1, "key": "k"}]})
    await gateway.until(lambda: gateway.figure("unacked") == 1)
    gateway.fail_commits(durable=True, definite=False)
    gateway.store.let_go()
    err = await alice.hear("err")
    assert (err["code"], err["ref"]) == ("commit_unknown", 1)
    # the hub knows nothing any more: it sends everybody away
    assert (await alice.hear("err"))["code"] == "store_unavailable"
    assert (await alice.hear("err"))["close"] == 4000
    # the client has its answer: the broker need not keep the frame
    await gateway.until(lambda: gateway.figure("unacked") == 0)
    gateway.heal()
    await gateway.reopened()
    assert gateway.figure("reconnects") == 0
    await alice.hello(c="n2")
    alice.c = "n2"
    (ok,) = await alice.pub({"ref": 1, "to": "bob", "body": 1, "key": "k"})
    assert ok["dup"] is True
    assert await gateway.bodies("bob") == [1]


async def test_while_the_store_is_away_nothing_is_taken(gateway: Gateway) -> None:
    await held(gateway, b"1")
    gateway.fail_commits()
    gateway.store.let_go()
    await gateway.until(lambda: gateway.hub.ready and not gateway.links.ready)
    await gateway.until(lambda: gateway.figure("held") == 1)
    await Device(gateway.broker, "carol").connect()
    assert gateway.figure("acked") == 0
    gateway.heal()
    await gateway.reopened()
    await gateway.until(lambda: gateway.figure("acked") == 1)
    assert await marks(gateway) == [(b"1", None)]


# -- without a broker ----------------------------------------------------------------------------------------------


class Rows:
    """The hub as far as it looks for earlier publishes."""

    def __init__(self, **found: dict[int, tuple[int, bytes]]) -> None:
        self.found = found

    async def uplinks(self, clients: list[str], last: int) -> dict[str, dict[int, tuple[int, bytes]]]:
        return {name: self.found[name] for name in clients if name in self.found}


def repeats(last: int = 3, **found: Any) -> Repeats:
    return Repeats(Rows(**found), last)  # type: ignore[arg-type]


def test_as_many_are_kept_as_can_be_without_puback() -> None:
    uses = repeats()
    for pid in (1, 2, 3, 1, 4):
        uses.used(pid, Use(pid, {"": 100 + pid}))
    assert [uses.known(pid, pid) is not None for pid in (1, 2, 3, 4)] == [True, False, True, True]
    assert uses.known(1, 2) is None


async def test_memory_is_asked_first() -> None:
    uses = repeats(alice={1: (7, b"x"), 2: (8, b"y")})
    assert uses.must_ask(1, "alice")
    await uses.ask(["alice", "carol"])
    assert not uses.must_ask(1, "alice")
    assert not uses.must_ask(1, "carol")
    assert (uses.stored(1, "alice", b"x"), uses.stored(1, "alice", b"y"), uses.stored(3, "alice", b"x")) == (
        7,
        0,
        0,
    )
    assert uses.stored(1, "carol", b"x") == 0
    uses.used(1, Use(5, {"": 9}))
    assert uses.stored(1, "alice", b"x") == 0


@pytest.mark.parametrize(
    ("then", "asks"),
    [
        (lambda uses: uses.begins(9, dup=True), True),
        (lambda uses: uses.begins(9, dup=False), False),
        (lambda uses: (uses.begins(9, dup=False), uses.doubt()), True),
    ],
    ids=["again", "first", "failed"],
)
def test_until_something_comes_for_the_first_time(then: Callable[[Repeats], Any], asks: bool) -> None:
    uses = repeats()
    then(uses)
    assert uses.must_ask(1, "alice") is asks


def test_a_packet_id_that_is_used_again_stands_for_nothing_older() -> None:
    uses = repeats()
    uses.used(1, Use(5, {"": 9}))
    uses.begins(1, dup=False)
    assert uses.known(1, 5) is None
    uses.doubt()
    assert uses.must_ask(1, "alice")
