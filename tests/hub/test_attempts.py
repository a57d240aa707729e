"""When attempts are started: room, pauses, addresses, breakers. Nothing of it is a sleeping task, or an attempt."""

import asyncio
from typing import Any

from gateway.config import Config, Routes
from gateway.config.channels import Webhook
from gateway.model import Status
from gateway.ports import Outcome
from gateway.records import ClientRecord
from tests.hub.rig import Rig

DELIVERED = Outcome("delivered", "HTTP 204", status=204)
NONE: tuple[str, ...] = ()


def rig(*chain: str, **settings: Any) -> Rig:
    hook = Webhook(url="https://hook.example/", secret="whsec_x", contact="url", **settings)
    names = ("one", "two", "three")
    return Rig(Config(channels=dict.fromkeys(names, hook), routes=Routes(default=chain)))


def publish(r: Rig, to: str, **fields: Any) -> int:
    """A message that goes its chain at once."""
    sink = r.publish(to, deadline=0.001, **fields)
    r.pass_(0.05)
    id, _ = sink.results[0]
    assert isinstance(id, int)
    return id


def timeline(r: Rig, id: int) -> list[tuple[str, Any]]:
    view = asyncio.run(r.store.message(id))
    assert view is not None
    return [(e.kind, e.data) for e in view.events]


def kinds(r: Rig, id: int) -> list[str]:
    return [kind for kind, _ in timeline(r, id)]


def contact(r: Rig, client: str, address: str) -> None:
    r.run(r.hub.put_client(client, ClientRecord(contacts={"url": address})))


def sent(r: Rig) -> list[tuple[str, int]]:
    return [(channel, id) for channel, id, _ in r.sent.attempts]


def test_without_room_they_wait_until_the_channel_says_that_it_has_some() -> None:
    r = rig("one")
    r.sent.rooms["one"] = 0
    id = publish(r, "bob")
    r.pass_(60)
    assert sent(r) == []
    r.sent.rooms["one"] = 1
    r.pass_(60)
    assert sent(r) == []  # nobody asked
    r.hub.channel_ready("one")
    r.pass_(0.05)
    assert sent(r) == [("one", id)]


def test_after_a_start_the_channel_is_asked_again_for_those_behind_it() -> None:
    """Where time alone makes room, nobody may wait for an outcome: it may take long. The outbound side calls back only
    who was told that there is none.
    """
    r = rig("one")
    r.sent.rooms["one"] = 0
    ids = [publish(r, "bob") for _ in range(3)]
    told: list[int] = []
    send = r.sent.send

    def room(channel: str) -> int:
        told.append(r.sent.rooms["one"])
        return told[-1]

    def take(*attempt: Any) -> None:
        r.sent.rooms["one"] -= 1
        send(*attempt)

    r.sent.room, r.sent.send = room, take  # type: ignore[method-assign,assignment]
    for n in (1, 2, 3):
        r.sent.rooms["one"] = 1
        r.hub.channel_ready("one")
        r.pass_(0.05)
        assert [id for _, id in sent(r)] == ids[:n]
        assert n == 3 or told[-1] == 0


def test_an_address_that_must_wait_holds_up_nobody_behind_it() -> None:
    r = rig("one")
    for name in ("bob", "cleo"):
        contact(r, name, f"https://{name}.example/")
    r.sent.rooms["one"] = 0
    slow = [publish(r, "bob") for _ in range(150)]
    quick = publish(r, "cleo")
    r.sent.waits["https://bob.example/"] = 5000
    r.sent.rooms["one"] = 1
    r.hub.channel_ready("one")
    r.pass_(0.1)
    assert sent(r) == [("one", quick)]
    # no attempts, and no lines in their timelines
    assert {kind for id in slow for kind in kinds(r, id)} == {"handed_over"}
    r.sent.waits.clear()
    r.sent.rooms["one"] = 1000
    r.pass_(4.8)
    assert len(sent(r)) == 1
    r.pass_(0.3)
    assert sorted(id for _, id in sent(r)[1:]) == slow


def test_what_would_not_live_to_see_its_turn_goes_on_or_ends_in_time() -> None:
    r = rig("one", "two")
    contact(r, "bob", "b")
    r.sent.waits["b"] = 60_000
    alone = publish(r, "bob", ttl=30, fallback=["one"])
    r.pass_(0.1)
    r.sent.waits["b"] = 60_000
    goes_on = publish(r, "bob", ttl=30, fallback=["one", "two"])
    skipped = dict(timeline(r, goes_on))["skipped"]
    assert (skipped["channel"], skipped["reason"]) == ("one", "the address must wait")
    r.pass_(31)
    assert [r.status(id) for id in (alone, goes_on)] == [Status.EXPIRED, Status.EXPIRED]
    assert sent(r) == []


# -- attempts that were not made --------------------------------------------------------------------------------------


def test_one_that_was_held_is_no_attempt_and_comes_again_in_its_time() -> None:
    r = rig("one", max_attempts=1)
    id = publish(r, "bob")
    _, _, done = r.sent.attempts.pop()
    done(Outcome("held", "no room at the channel", retry_after=20.0))
    r.pass_(19.9)
    assert sent(r) == []
    r.pass_(0.2)
    # the only one that is allowed has not been made yet
    _, _, done = r.sent.attempts.pop()
    done(DELIVERED)
    r.pass_(0.1)
    assert r.status(id) == Status.PROVIDER_DELIVERED
    told = [(kind, data["n"], data.get("outcome")) for kind, data in timeline(r, id) if "n" in (data or {})]
    assert told == [
        ("attempt", 1, None),
        ("attempt_ended", 1, "held"),
        ("attempt", 1, None),
        ("attempt_ended", 1, "delivered"),
    ]


def test_one_that_was_held_is_its_clients_if_that_has_come() -> None:
    r = rig("one")
    id = publish_offline(r, "bob")
    bob = r.conn("bob")
    assert bob.items == []  # an attempt is under way
    _, _, done = r.sent.attempts.pop()
    done(Outcome("held", "no room at the channel", retry_after=20.0))
    r.pass_(0.1)
    assert [i for _, i, _ in bob.items] == [id]


def publish_offline(r: Rig, to: str) -> int:
    sink = r.publish(to)
    r.pass_(31)
    id, _ = sink.results[0]
    assert isinstance(id, int)
    return id


# -- an open breaker --------------------------------------------------------------------------------------------------


def test_an_open_breaker_is_passed_by_at_once() -> None:
    r = rig("one", "two", "three")
    r.sent.open = {"one": 30_000, "two": 500}
    ids = [publish(r, "bob") for _ in range(3)]
    assert sent(r) == [("three", id) for id in ids]
    for id in ids:
        skipped = [
            (d["channel"], d["reason"], d["next"]["channel"]) for k, d in timeline(r, id) if k == "skipped"
        ]
        assert skipped == [("one", "circuit open", "two"), ("two", "circuit open", "three")]


def test_what_waits_there_when_it_opens_goes_on_too() -> None:
    r = rig("one", "two")
    r.sent.rooms["one"] = 1
    first = publish(r, "bob")
    r.sent.rooms["one"] = 0
    others = [publish(r, "bob") for _ in range(250)]
    _, _, done = r.sent.attempts.pop()
    r.sent.open["one"] = 30_000
    done(Outcome("retry", "HTTP 500", status=500))
    r.pass_(0.2)
    # as far as there is room at the next one
    assert {id for _, id, _ in r.sent.attempts} <= {*others, first}
    assert {channel for channel, _, _ in r.sent.attempts} == {"two"}
    r.pass_(2)
    assert {id for _, id, _ in r.sent.attempts} == {*others, first}


def test_the_last_step_waits_for_the_breaker_to_be_tried_one_row_behind_the_other() -> None:
    r = rig("one")
    r.sent.open["one"] = 30_000
    ids = [publish(r, "bob") for _ in range(3)]
    r.pass_(29)
    assert sent(r) == []
    assert [kinds(r, id) for id in ids] == [["handed_over"]] * 3
    # it opens again: only what has come due by then is looked at again
    dues = due_times(r, ids)
    assert len(set(dues)) == 3
    r.sent.open.clear()
    r.sent.rooms["one"] = 1
    r.pass_(1.5)
    assert len(sent(r)) >= 1
    r.hub.channel_ready("one")
    r.pass_(1)
    assert {id for _, id in sent(r)} == set(ids)


def due_times(r: Rig, ids: list[int]) -> list[int]:
    out = []
    for id in ids:
        view = asyncio.run(r.store.message(id))
        assert view is not None
        assert view.chain_row is not None
        out.append(view.chain_row.due)
    return out


def test_the_ttl_still_ends_what_waits_for_a_breaker() -> None:
    r = rig("one")
    r.sent.open["one"] = 3_600_000
    id = publish(r, "bob", ttl=60)
    r.pass_(59)
    assert r.status(id) == Status.HANDED_OVER
    r.pass_(1.5)
    assert r.status(id) == Status.EXPIRED


def test_who_comes_gets_what_waits_for_a_breaker() -> None:
    r = rig("one")
    r.sent.open["one"] = 3_600_000
    id = publish_offline(r, "bob")
    assert [i for _, i, _ in r.conn("bob").items] == [id]
