"""How a framed peer ends, what is said then, how long it lives; tokens; publishers ahead of the store."""

import asyncio
from typing import Any

import pytest

from gateway.config import Config, Limits, Session
from gateway.errors import Close, StoreFailed, Unauthorized, Unavailable
from gateway.transports.conversation import OWED_HIGH, OWED_LOW, WELCOME_WAIT
from gateway.transports.mqtt import peer as peer_module
from tests.hub.rig import START
from tests.transports.mqtt.framed_rig import Device, Framed, Tokens
from tests.transports.rig import message

EXP = START // 1000 + 100


def here(rig: Framed, client: str = "alice") -> bool:
    """Whether the hub has its client as connected, and nobody is counted who is not there."""
    live: bool = rig.hub.core.sessions[client].live
    assert live == bool(rig.hub.core.conns)
    return live


def crashes(rig: Framed) -> int:
    """How many connections have ended under what alice has in flight."""
    return sum(item.crashes for item in rig.hub.core.sessions["alice"].window.items)


def busy() -> tuple[Framed, Device]:
    """A device with a message in flight."""
    rig = Framed()
    device = rig.joined()
    rig.publish("alice")
    device.hear()
    return rig, device


# -- bye -----------------------------------------------------------------------------------------------------------


def test_bye_is_clean_and_says_1000() -> None:
    rig, device = busy()
    device.say({"t": "bye"}).refused("bye", 1000)
    assert device.ends == [1000]
    assert not here(rig)
    assert crashes(rig) == 0
    assert rig.hub.core.sessions["alice"].offline_at > rig.turns.now()
    device.say({"t": "bye"})
    assert device.hear() == []
    device.hello("n1")
    assert here(rig)


def test_bye_may_end_the_offline_deadline() -> None:
    rig, device = busy()
    device.say({"t": "bye", "end": True}).refused("bye", 1000)
    assert rig.hub.core.sessions["alice"].offline_at <= rig.turns.now()


def test_what_is_buffered_goes_before_the_bye() -> None:
    rig = Framed()
    device = rig.joined()
    device.hear()
    peer = device.desk.peer
    assert peer is not None
    peer.deliver([message(1)])
    peer.stored("a", 1, False, 0)
    device.desk.receive(b'{"t":"ping","c":"n1"}')
    device.desk.receive(b'{"t":"bye","c":"n1"}')
    assert [frame["t"] for frame in device.hear()] == ["pong", "ok", "msg", "err"]


def test_a_stale_will_ends_nothing() -> None:
    rig, device = busy()
    device.hello("n2")
    device.hear()
    device.say({"t": "bye"}, "n1").say({"t": "bye"}, None).say({"t": "bye"}, "n3")
    assert device.hear() == []
    assert here(rig)
    assert device.say({"t": "ping"}, "n2").hear() == [{"t": "pong"}]


def test_a_bye_before_the_welcome_counts() -> None:
    rig = Framed()
    rig.auto = False
    device = rig.device("alice")
    device.say({"t": "hello"}).say({"t": "bye"}).refused("bye", 1000)
    rig.auto = True
    rig.pass_(0.01)
    assert device.hear() == []
    assert not here(rig)
    assert device.ends == [1000]


# -- ends that begin elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clean", "counted"), [(True, 0), (False, 1)])
def test_a_link_that_is_gone_says_nothing(clean: bool, counted: int) -> None:
    rig, device = busy()
    device.desk.lost(clean=clean)
    rig.pass_(0.01)
    assert device.hear() == []
    assert device.ends == []
    assert not here(rig)
    assert crashes(rig) == counted
    assert rig.framing.closes == {1006: 1}
    device.desk.lost(clean=clean)
    rig.advance(120)
    assert rig.framing.closes == {1006: 1}


@pytest.mark.parametrize(
    ("close", "code", "counted"),
    [
        (Close.DRAIN, "draining", 0),
        (Close.SLOW, "slow_consumer", 1),
        (Close.HEARTBEAT, "heartbeat_lost", 1),
        (Close.RATE, "rate_limited", 0),
        (Close.EXPIRED, "session_expired", 0),
        (Close.TOKEN_EXPIRED, "token_expired", 0),
        (Close.NOT_AUTHORISED, "unauthorized", 0),
        (Close.BANNED, "banned", 0),
    ],
)
def test_the_owner_may_end_it(close: Close, code: str, counted: int) -> None:
    rig, device = busy()
    device.desk.end(close, "so it is")
    rig.pass_(0.01)
    err = device.refused(code, int(close))
    assert err["detail"] == "so it is"
    assert device.ends == [int(close)]
    assert not here(rig)
    assert crashes(rig) == counted
    device.desk.end(close, "again")
    assert device.hear() == []


def test_a_link_may_end_the_desk_while_it_is_sent_something() -> None:
    rig, device = busy()
    device.full = Close.SLOW
    device.say({"t": "ping"})
    device.full = None
    assert [frame["t"] for frame in device.hear()] == ["pong", "err"]
    assert device.ends == [4001]
    assert not here(rig)
    device.hello("n2")


def test_draining_asks_and_then_closes() -> None:
    rig, device = busy()
    rig.hub.drain()
    rig.pass_(0.01)
    assert [frame["t"] for frame in device.hear()] == ["goaway"]
    device.say({"t": "hello"}, "n2").refused("draining", 4000, "n2")
    rig.advance(30)
    device.refused("draining", 4000)
    assert device.ends == [4000]
    assert not here(rig)


def test_a_store_that_fails_closes_every_peer() -> None:
    rig, device = busy()
    joining = rig.device("bob")
    rig.auto = False
    joining.say({"t": "hello"})
    rig.store.fail = lambda _: StoreFailed("no", definite=True)
    rig.auto = True
    rig.pass_(0.01)
    rig.store.fail = lambda _: None
    assert [(f["code"], f.get("close"), f["c"]) for f in device.hear()] == [
        ("store_unavailable", None, "n1"),
        ("draining", 4000, "n1"),
    ]
    assert [f.get("close") for f in joining.hear()][-1] == 4000
    assert (device.ends, joining.ends) == ([4000], [4000])
    rig.pass_(2)
    assert device.hello("n2")["resumed"] is False
    assert here(rig)


def test_an_administrator_may_ban() -> None:
    rig, device = busy()
    rig.run(rig.hub.disconnect("alice", 60.0))
    rig.pass_(0.01)
    device.refused("banned", 4304)
    assert device.ends == [4304]
    device.say({"t": "hello"}, "n2").refused("banned", 4304, "n2")
    assert device.ends == [4304, 4304]
    assert not here(rig)
    rig.pass_(61)
    device.hello("n2")


# -- time ----------------------------------------------------------------------------------------------------------


def test_silence_ends_a_peer() -> None:
    rig = Framed(Config(session=Session(heartbeat=20.0)))
    device = rig.joined()
    rig.publish("alice")
    device.hear()
    rig.advance(34)
    assert here(rig)
    device.hear()
    rig.advance(2)
    device.refused("heartbeat_lost", 4002)
    assert device.ends == [4002]
    assert crashes(rig) == 1
    assert not here(rig)


def test_any_frame_of_it_proves_life() -> None:
    rig = Framed(Config(session=Session(heartbeat=20.0)))
    device = rig.joined()
    for frame in ({"t": "ping"}, {"t": "hello"}, {"t": "ack", "seq": 0}, {"t": "pub", "m": []}):
        rig.advance(30)
        device.say(frame)
    rig.advance(30)
    device.desk.heard(rig.turns.now())
    rig.advance(30)
    assert here(rig)
    rig.advance(6)
    assert not here(rig)


def test_frames_with_another_nonce_prove_nothing() -> None:
    rig = Framed(Config(session=Session(heartbeat=20.0)))
    device = rig.joined()
    rig.advance(30)
    device.say({"t": "ping"}, "n0")
    rig.advance(6)
    assert not here(rig)


def test_a_loop_that_was_held_up_proves_nothing() -> None:
    rig = Framed(Config(session=Session(heartbeat=20.0)))
    rig.joined()
    rig.pass_(100)
    rig.framing.awake_since = rig.turns.now()
    rig.advance(34)
    assert here(rig)
    rig.advance(2)
    assert not here(rig)


def test_a_welcome_that_does_not_come_ends_it() -> None:
    rig = Framed()
    rig.auto = False
    device = rig.device("alice")
    device.say({"t": "hello"})
    rig.advance(WELCOME_WAIT / 1000 - 2)
    assert device.hear() == []
    rig.advance(3)
    device.refused("not_ready", 4000)
    assert device.ends == [4000]
    rig.auto = True
    rig.pass_(0.1)
    assert device.hear() == []
    assert not here(rig)


def test_it_can_be_cut_without_a_word() -> None:
    rig = Framed()
    device = rig.joined()
    peer = device.desk.peer
    assert peer is not None
    peer.abort()
    rig.pass_(0.01)
    assert device.ends == [1006]
    assert not here(rig)


# -- tokens --------------------------------------------------------------------------------------------------------


def expiring(**desk: Any) -> tuple[Framed, Device]:
    """A device whose token expires in 100 s; it pings every second."""
    rig = Framed()
    device = rig.device("alice", **desk)
    device.desk.authenticate, proof = None, device.desk.authenticate
    device.desk.principal = Tokens.principal(f"alice:{EXP}")
    device.hello()
    device.desk.authenticate = proof
    return rig, device


def live_on(rig: Framed, device: Device, seconds: float) -> list[Any]:
    """Time in which it sends pings; what it got beside the pongs."""
    rig.advance(seconds, lambda: device.desk.receive(b'{"t":"ping","c":"n1"}'))
    device.say(b'{"t":"bye"}')
    return [frame for frame in device.hear() if frame["t"] != "pong"]


def test_at_its_expiry_the_peer_ends() -> None:
    rig, device = expiring()
    assert live_on(rig, device, 98) == []
    (err, *rest) = live_on(rig, device, 3)
    assert (err["code"], err["close"], err["c"]) == ("token_expired", 4200, "n1")
    assert {frame["code"] for frame in rest} <= {"hello_first"}
    assert device.ends == [4200]
    assert not here(rig)


def test_a_fresh_token_lasts_longer() -> None:
    rig, device = expiring(authenticate=Tokens())
    device.say({"t": "token", "token": f"alice:{EXP + 100}"})
    assert device.desk.principal.exp == EXP + 100
    assert live_on(rig, device, 150) == []
    device.say({"t": "token", "token": f"alice:{EXP + 50}"})  # it has expired by now
    assert live_on(rig, device, 2)[0]["close"] == 4200


def test_a_token_in_hello_counts_too() -> None:
    rig = Framed()
    tokens = Tokens()
    device = rig.device("alice", authenticate=tokens)
    device.hello(token=f"alice:{EXP}")
    assert device.desk.principal.exp == EXP
    other = rig.device("bob")
    other.hello(token="anything")
    assert tokens.asked == [f"alice:{EXP}"]
    device.hear()
    device.say({"t": "hello", "token": "bob"}, "n2")
    assert [(f["code"], f["close"], f["c"]) for f in device.hear()] == [
        ("taken_over", 4302, "n1"),
        ("token_subject", 4300, "n2"),
    ]
    assert device.ends == [4300]


def test_a_token_that_proves_nothing_ends_the_peer() -> None:
    tokens = Tokens()
    tokens.errors["bad"] = Unauthorized("the token is not valid", code="token_invalid")
    tokens.errors["away"] = Unavailable("no keys", code="keys_unavailable")
    for token, code, close in [
        ("bad", "token_invalid", 4300),
        ("away", "keys_unavailable", 4000),
        ("bob", "token_subject", 4300),
    ]:
        rig = Framed()
        device = rig.joined(authenticate=tokens)
        device.hear()
        device.say({"t": "token", "token": token}).refused(code, close)
        assert not here(rig)


def test_a_token_of_a_client_that_was_banned_meanwhile() -> None:
    rig, device = busy()
    device.desk.authenticate = Tokens()
    rig.hub.banned = lambda client, now: True
    device.say({"t": "token", "token": "alice"}).refused("banned", 4304)


def test_tokens_are_proved_one_at_a_time_and_the_latest_counts() -> None:
    tokens = Tokens(at_once=False)
    rig, device = expiring(authenticate=tokens)
    for exp in (EXP + 1, EXP + 2, EXP + 3):
        device.say({"t": "token", "token": f"alice:{exp}"})
    assert tokens.asked == [f"alice:{EXP + 1}"]
    tokens.answer()
    assert device.desk.principal.exp == EXP + 1
    assert tokens.asked == [f"alice:{EXP + 1}", f"alice:{EXP + 3}"]
    device.say({"t": "bye"})
    tokens.answer()
    assert device.desk.principal.exp == EXP + 1
    assert not here(rig)


def test_where_no_token_is_asked_for_none_is_taken() -> None:
    rig, device = busy()
    device.say({"t": "token", "token": "alice"}).refused("token_unexpected", None)
    assert here(rig)


# -- publishers ahead of the store -----------------------------------------------------------------------------------


def test_a_publisher_ahead_of_the_store_is_slowed_down() -> None:
    rig = Framed(Config(limits=Limits(publish_burst=10_000)))
    device = rig.joined()
    device.hear()
    rig.auto = False
    batch = {"t": "pub", "m": [{"to": "bob", "body": 1}] * 64}
    for _ in range(OWED_HIGH // 64):
        device.say(batch)
    assert device.stops == []
    device.say(batch)
    assert device.stops == [True]
    rig.advance(60)  # its silence is ours
    peer = device.desk.peer
    assert peer is not None
    rig.auto = True
    rig.pass_(0.01)
    assert device.stops == [True, False]
    assert len(device.heard("ok")) == peer.server.frames_in * 64 - 64
    rig.advance(40)
    assert here(rig)


def test_it_is_read_again_when_half_of_it_is_answered() -> None:
    rig = Framed(Config(limits=Limits(publish_burst=10_000)))
    device = rig.joined()
    rig.auto = False
    for _ in range(OWED_HIGH // 64 + 1):
        device.say({"t": "pub", "m": [{"to": "bob", "body": 1}] * 64})
    peer = device.desk.peer
    assert peer is not None
    while peer.owed > OWED_LOW + 1:
        peer.stored(None, 1, False, 0)
    assert device.stops == [True]
    peer.refused(None, Unavailable("no"))
    assert device.stops == [True, False]


def test_a_throttle_does_not_outlive_its_peer() -> None:
    rig = Framed(Config(limits=Limits(publish_burst=10_000)))
    device = rig.joined()
    rig.auto = False
    for _ in range(OWED_HIGH // 64 + 1):
        device.say({"t": "pub", "m": [{"to": "bob", "body": 1}] * 64})
    device.say({"t": "bye"})
    assert device.stops == [True, False]


def test_beyond_all_bounds_publishes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "OWED_MAX", 3)
    rig = Framed()
    device = rig.joined()
    device.hear()
    rig.auto = False
    device.say({"t": "pub", "m": [{"ref": n, "to": "bob", "body": n} for n in range(5)]})
    assert [(f["ref"], f["code"], f["status"], f["retry_after"]) for f in device.hear()] == [
        (3, "too_many_unanswered", 429, 1.0),
        (4, "too_many_unanswered", 429, 1.0),
    ]
    rig.auto = True
    rig.pass_(0.01)
    assert [entry["ref"] for entry in device.heard("ok")] == [0, 1, 2]
    assert len(device.say({"t": "pub", "m": [{"to": "bob", "body": 1}]}).heard("ok")) == 1


def test_answers_after_the_end_are_nobody_s() -> None:
    rig = Framed()
    device = rig.joined()
    rig.auto = False
    device.say({"t": "pub", "m": [{"ref": "a", "to": "bob", "body": 1, "key": "k"}]}).say({"t": "bye"})
    device.hear()
    rig.auto = True
    rig.pass_(0.01)
    assert device.hear() == []
    device.hello("n2")
    (ok,) = device.say({"t": "pub", "m": [{"ref": "a", "to": "bob", "body": 1, "key": "k"}]}, "n2").heard(
        "ok"
    )
    assert ok["dup"] is True
    assert asyncio.run(rig.store.messages("bob", None, None, 1 << 62, 10)) != []
