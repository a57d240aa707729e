"""The session over a framed MQTT connection, by literal frames: nonce, repetition, hello_first, err with close."""

from itertools import pairwise
from typing import Any

import pytest

from gateway.client import errors
from gateway.client.greeting import WELCOME_TIMEOUT
from gateway.client.outbox import REPEAT_AFTER, REPEAT_CAP, Receipt
from gateway.client.values import Leave, Reading

UNKNOWN = {"t": "err", "code": "hello_first", "status": 409, "detail": "say hello first", "c": "n1"}


@pytest.fixture
def framed(new_talk: Any) -> Any:
    """A session that was just welcomed over MQTT."""
    talk = new_talk(nonce="n1")
    talk.open()
    talk.session.take_welcome()
    return talk


# -- the nonce --------------------------------------------------------------------------------------------------------


def test_hello_carries_the_nonce_and_no_token(new_talk: Any) -> None:
    talk = new_talk(nonce="n1", window=8)
    assert talk.connect("jwt") == {"t": "hello", "window": 8, "c": "n1"}


async def test_every_frame_carries_the_nonce(framed: Any) -> None:
    framed.msg(1, 2, 3, 4)
    one, two, three, four = framed.hand_out()
    await one.ack()
    await two.nack(delay=1)
    await three.reject(why="no")
    await four.working()
    framed.session.read(Reading(["0" * 13], lambda _: None))
    framed.session.renew("newer")
    framed.publish("x")
    framed.session.close(end=True)
    frames = framed.out()
    kinds = {"token", "nack", "reject", "working", "ack", "read", "pub", "bye"}
    assert {f["t"] for f in frames} == kinds
    assert {f["c"] for f in frames} == {"n1"}
    assert frames[-1] == {"t": "bye", "end": True, "c": "n1"}


def test_over_websocket_no_frame_carries_one(talk: Any) -> None:
    talk.publish("x")
    assert all("c" not in frame for frame in talk.out())


@pytest.mark.parametrize("fields", [{"c": "n0"}, {"c": None}])
def test_the_welcome_of_another_connection_is_passed_over(new_talk: Any, fields: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.connect()
    talk.welcome(**fields)
    assert talk.session.take_welcome() is None
    talk.welcome()
    assert talk.session.take_welcome().why == "new"


def test_before_the_welcome_nothing_else_counts(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.publish("x")
    talk.connect()
    talk.msg(1)
    talk.feed({"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "expired"}]})
    talk.feed({"t": "ok", "m": [{"ref": "1", "id": "A"}]})
    talk.feed({"t": "err", "ref": "1", "code": "invalid", "status": 422})
    talk.feed({"t": "goaway", "after": [0, 0]})
    assert talk.hand_out() == []
    assert talk.answers == []
    talk.welcome()
    assert [f["t"] for f in talk.out()] == ["pub"]
    talk.msg(1)
    assert [m.id for m in talk.hand_out()] == ["M1"]


async def test_a_welcome_said_twice_counts_once(framed: Any) -> None:
    framed.msg(1)
    (m,) = framed.hand_out()
    framed.welcome()
    assert framed.session.take_welcome() is None
    await m.ack()
    assert framed.out() == [{"t": "ack", "seq": 1, "c": "n1"}]


def test_what_carries_another_nonce_is_passed_over(framed: Any) -> None:
    framed.publish("x")
    framed.out()
    framed.feed({"t": "msg", "m": [{"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": 1}], "c": "n0"})
    framed.feed({"t": "ok", "m": [{"ref": "1", "id": "A"}], "c": "n0"})
    framed.feed({"t": "err", "code": "taken_over", "status": 409, "close": 4302, "c": "n0"})
    framed.feed(UNKNOWN | {"c": "n0"})
    assert framed.hand_out() == []
    assert framed.answers == []
    assert framed.out() == []
    assert framed.session.leave == Leave.NO


def test_an_own_older_connection_that_is_taken_over_says_nothing_to_the_new_one(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.connect()
    talk.feed({"t": "err", "code": "taken_over", "status": 409, "close": 4302})
    assert talk.session.leave == Leave.NO
    talk.welcome()
    talk.feed({"t": "err", "code": "taken_over", "status": 409, "close": 4302})
    assert isinstance(talk.drop(1000).stop, errors.TakenOver)


# -- hello, again and again -------------------------------------------------------------------------------------------


def test_hello_is_repeated_until_it_is_given_up(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    start = talk.now
    hello = talk.connect()
    times = []
    for _ in range(20):
        if talk.session.leave != Leave.NO:
            break
        for frame in talk.out(after=talk.session.next_deadline() - talk.now):
            assert frame == hello
            times.append(talk.now - start)
    assert len(times) == 2
    assert 1.5 <= times[0] <= 2.5
    assert 3 <= times[1] - times[0] <= 5
    assert talk.now - start == WELCOME_TIMEOUT
    assert (talk.session.leave, talk.session.why) == (Leave.ABORT, "no welcome")


def test_an_answered_hello_is_not_repeated(framed: Any) -> None:
    for _ in range(20):
        framed.feed({"t": "pong"})
        assert [f["t"] for f in framed.out(after=1)] in ([], ["ping"])


async def test_hello_first_resumes_on_the_same_connection(framed: Any) -> None:
    framed.msg(1, 2)
    one, two = framed.hand_out()
    await one.ack()
    framed.publish("x")
    sent = framed.out()[-1]
    framed.now += 60
    framed.feed(UNKNOWN)
    hello = {"t": "hello", "resume": "r1", "epoch": "e1", "ack": 1, "window": 64, "c": "n1"}
    assert framed.out() == [hello]
    framed.feed(UNKNOWN)  # about a frame that left before the hello
    assert framed.out() == []
    assert framed.out(after=3) == [hello]
    framed.welcome(resumed=True, resume="r2")
    framed.welcome(resumed=True, resume="r2")
    assert framed.session.take_welcome().why == "resumed"
    assert framed.out() == [sent]
    framed.msg({"seq": 2, "id": "M2", "from": "bob", "at": 1, "body": 2, "redelivered": 1})
    assert framed.hand_out() == []
    await two.ack()
    assert framed.out() == [{"t": "ack", "seq": 2, "c": "n1"}]


def test_hello_first_right_after_the_welcome_costs_the_connection(framed: Any) -> None:
    framed.now += 1
    framed.feed(UNKNOWN)
    assert framed.out() == []
    assert framed.session.leave == Leave.CLOSE
    assert framed.drop(1000).stop is None


def test_over_websocket_hello_first_is_an_error_like_others(talk: Any) -> None:
    talk.now += 60
    talk.feed({"t": "err", "code": "hello_first", "status": 409, "detail": "no"})
    assert talk.out() == []


def test_a_new_connection_has_a_new_nonce(framed: Any) -> None:
    framed.drop()
    framed.nonce = "n2"
    assert framed.resume() == {"t": "hello", "resume": "r1", "epoch": "e1", "window": 64, "c": "n2"}
    framed.session.close(end=False)
    assert framed.out() == [{"t": "bye", "c": "n2"}]


def test_a_hello_that_left_is_taken_back_by_bye(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.connect()
    talk.session.close(end=False)
    assert talk.out() == [{"t": "bye", "c": "n1"}]
    assert talk.session.leave == Leave.CLOSE


def test_a_hello_that_never_left_needs_none(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.session.connected("jwt", talk.now, "n1")
    talk.session.close(end=False)
    assert talk.out() == []
    assert talk.session.leave == Leave.CLOSE


# -- close codes ------------------------------------------------------------------------------------------------------


def close(code: int, **fields: Any) -> dict[str, Any]:
    return {
        "t": "err",
        "code": "some_code",
        "status": 403,
        "detail": "what happened",
        "close": code,
        "c": "n1",
    } | fields


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4200, errors.TokenExpired),
        (4300, errors.NotAuthorised),
        (4302, errors.TakenOver),
        (4303, errors.ProtocolViolation),
        (4304, errors.Banned),
    ],
)
@pytest.mark.parametrize("link", [1000, 1006, 4000])
def test_err_with_close_stops_whatever_the_link_says(framed: Any, code: int, kind: Any, link: int) -> None:
    framed.publish("x")
    framed.feed(close(code))
    assert framed.out() == []
    assert (framed.session.leave, framed.session.why) == (Leave.CLOSE, "what happened")
    plan = framed.drop(link)
    assert (type(plan.stop), plan.code) == (kind, code)


def test_err_with_close_is_told_before_the_welcome_too(new_talk: Any) -> None:
    talk = new_talk(nonce="n1")
    talk.connect()
    talk.feed(close(4300))
    assert isinstance(talk.drop(1000).stop, errors.NotAuthorised)


def test_err_with_close_that_comes_back(new_talk: Any) -> None:
    talk = new_talk(nonce="n1", renewable=True)
    talk.open()
    talk.feed(close(4003, retry_after=7))
    plan = talk.drop(1000)
    assert (plan.code, plan.renew, plan.fresh) == (4003, False, False)
    assert 7 <= plan.delay <= 7.2
    talk.resume()
    talk.feed(close(4200))
    assert talk.drop(1000).renew
    talk.resume()
    talk.feed(close(4100))
    assert talk.drop(1000).fresh
    assert "resume" not in talk.connect()


def test_the_answer_to_bye_changes_nothing(framed: Any) -> None:
    framed.session.close(end=True)
    framed.out()
    framed.feed(close(1000) | {"code": "bye", "detail": ""})
    assert (framed.session.leave, framed.session.why) == (Leave.CLOSE, "closed")
    assert framed.drop(1000).code == 1000


def test_an_err_without_close_changes_nothing(framed: Any) -> None:
    framed.feed({"t": "err", "code": "rate_limited", "status": 429, "detail": "slower", "c": "n1"})
    assert framed.session.leave == Leave.NO


# -- publishes --------------------------------------------------------------------------------------------------------


def test_a_publish_is_repeated_with_its_key_until_it_is_answered(framed: Any) -> None:
    framed.publish("x")
    (first,) = framed.out()
    sent = [framed.now]
    for _ in range(100):
        framed.feed({"t": "pong"})
        if first in framed.out(after=framed.session.next_deadline() - framed.now):
            sent.append(framed.now)
    waits = [b - a for a, b in pairwise(sent)]
    assert len(waits) > 6
    for n, wait in enumerate(waits):
        expected = min(REPEAT_CAP, REPEAT_AFTER * 2**n)
        assert expected <= wait <= 1.25 * expected
    framed.feed({"t": "ok", "m": [{"ref": "1", "id": "A", "dup": True}]})
    framed.feed({"t": "ok", "m": [{"ref": "1", "id": "A", "dup": True}]})
    assert framed.answers == [Receipt("A", True)]
    framed.feed({"t": "pong"})
    assert all(f["t"] == "ping" for f in framed.out(after=2 * REPEAT_CAP))


def test_publishes_are_repeated_in_their_order_before_newer_ones(framed: Any) -> None:
    for body in ("a", "b", "c"):
        framed.publish(body)
    framed.out()
    framed.feed({"t": "ok", "m": [{"ref": "2", "id": "B"}]})
    framed.now += 2 * REPEAT_AFTER
    framed.publish("d")
    frame = framed.out()[-1]
    assert [m["body"] for m in frame["m"]] == ["a", "c", "d"]
    assert len({m["key"] for m in frame["m"]}) == 3


def test_over_websocket_publishes_are_not_repeated(talk: Any) -> None:
    talk.publish("x")
    talk.out()
    for _ in range(20):
        talk.feed({"t": "pong"})
        assert all(f["t"] == "ping" for f in talk.out(after=10))


def test_a_refusal_for_now_stops_the_repetition_until_then(framed: Any) -> None:
    framed.publish("x")
    (first,) = framed.out()
    later = {"t": "err", "ref": "1", "code": "rate_limited", "status": 429, "retry_after": 30}
    framed.feed(later)
    framed.feed(later)  # the answer to a repetition counts once
    for _ in range(3):
        framed.feed({"t": "pong"})
        assert first not in framed.out(after=9)
    framed.feed({"t": "pong"})
    assert first in framed.out(after=4)
    assert framed.answers == []


def test_after_a_new_welcome_each_publish_leaves_once(framed: Any) -> None:
    framed.publish("x")
    (first,) = framed.out()
    framed.now += 60
    framed.drop()
    framed.resume()
    assert framed.out() == [first]
    framed.feed({"t": "pong"})
    assert framed.out(after=1) == []


# -- heartbeat --------------------------------------------------------------------------------------------------------


def test_ping_every_heartbeat_however_much_comes(framed: Any) -> None:
    pings = []
    start = framed.now
    for seq in range(1, 300):
        framed.msg(seq)
        if {"t": "ping", "c": "n1"} in framed.out(after=1):
            pings.append(framed.now)
    assert 12.5 <= pings[0] - start <= 26
    assert {b - a for a, b in pairwise(pings)} == {25.0}


def test_first_pings_of_many_clients_are_spread(new_talk: Any) -> None:
    first = set()
    for seed in range(30):
        talk = new_talk(nonce="n1", seed=seed)
        talk.open()
        first.add(round(talk.session.next_deadline() - talk.now))
    assert len(first) > 5


def test_a_gateway_that_is_silent_for_too_long_is_left(framed: Any) -> None:
    start, pings = framed.now, 0
    for _ in range(20):
        if framed.session.leave == Leave.NO:
            pings += len(framed.out(after=framed.session.next_deadline() - framed.now))
    assert framed.now - start == 1.75 * 25
    assert pings >= 2  # one that is lost, or its answer, costs nothing
    assert (framed.session.leave, framed.session.why) == (Leave.ABORT, "heartbeat lost")


def test_frames_of_other_connections_prove_nothing(framed: Any) -> None:
    for _ in range(20):
        framed.feed({"t": "pong", "c": "n0"})
        framed.out(after=5)
    assert framed.session.leave == Leave.ABORT
