"""Hello, welcome, close codes, tokens, heartbeat and goaway, by literal frames and without a socket."""

import json
from typing import Any

import pytest

from gateway.client import errors
from gateway.client.comeback import CAP, LONGEST
from gateway.client.errors import ClientClosed
from gateway.client.frames import BadFrame
from gateway.client.values import Leave, Reading


def test_the_first_hello_has_no_session_to_resume(new_talk: Any) -> None:
    talk = new_talk(window=8)
    assert talk.connect("jwt") == {"t": "hello", "token": "jwt", "window": 8}


async def test_resume_is_token_epoch_and_cumulative_ack(talk: Any) -> None:
    talk.msg(1, 2, 3)
    one, _, three = talk.hand_out()
    await one.ack()
    await three.ack()
    talk.drop()
    hello = talk.connect()
    assert hello == {"t": "hello", "token": "jwt", "resume": "r1", "epoch": "e1", "ack": 1, "window": 64}
    talk.feed(_welcome(resumed=True, resume="r2"))
    assert talk.out() == [{"t": "ack", "seqs": [3]}]
    talk.drop()
    assert talk.connect()["resume"] == "r2"


def test_nothing_but_hello_before_the_welcome(new_talk: Any) -> None:
    talk = new_talk()
    talk.publish("x")
    talk.connect()
    assert talk.out() == []
    talk.feed(_welcome())
    assert [f["t"] for f in talk.out()] == ["pub"]


def test_info_says_what_the_welcome_said(talk: Any) -> None:
    info = talk.session.take_welcome()
    assert (info.client, info.epoch, info.why, info.resumed) == ("alice", "e1", "new", False)
    assert talk.session.take_welcome() is None
    talk.drop()
    talk.resume(missed={"expired": 2}, window=16, next=7)
    info = talk.session.info
    assert (info.why, info.resumed, info.missed, info.window, info.next) == (
        "resumed",
        True,
        {"expired": 2},
        16,
        7,
    )


async def test_resumed_under_another_epoch_counts_as_a_new_one(talk: Any) -> None:
    talk.msg(1)
    await talk.hand_out()[0].ack()
    talk.drop()
    talk.resume(epoch="e9")
    talk.msg({"seq": 1, "id": "M7", "from": "bob", "at": 1, "body": None})
    assert [m.id for m in talk.hand_out()] == ["M7"]


def test_additions_of_the_gateway_are_passed_over(talk: Any) -> None:
    talk.feed({"t": "weather", "sun": True})
    talk.feed({"t": "pong", "new": 1})
    talk.msg({"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": {"a": [1]}, "type": "t", "meta": {"k": "v"},
              "possible_dup": "M0", "via": "sms", "trace": "00", "priority": "high", "fresh": {}})  # fmt: skip
    (m,) = talk.hand_out()
    assert (m.body, m.sender, m.type, m.meta, m.priority) == ({"a": [1]}, "bob", "t", {"k": "v"}, "high")
    assert (m.possible_dup, m.via, m.trace) == ("M0", "sms", "00")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"t":5}',
        b'{"m":[]}',
        b'{"t":"msg","m":[{"seq":"1"}]}',
        b'{"t":"msg","m":[{"seq":1}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"t": "goaway", "after": [1]}).encode(),
    ],
)
def test_what_is_no_frame_is_told(talk: Any, data: bytes) -> None:
    with pytest.raises(BadFrame):
        talk.session.receive(data, talk.now)


def test_a_welcome_without_a_heartbeat_is_no_welcome(new_talk: Any) -> None:
    talk = new_talk()
    talk.connect()
    with pytest.raises(BadFrame):
        talk.feed(_welcome(heartbeat=0))


def test_a_flood_of_unsettled_seqs_is_cut_off(talk: Any) -> None:
    for start in range(1, 65537, 4096):
        talk.msg(*range(start, start + 4096))
    with pytest.raises(BadFrame):
        talk.msg(65537)


# -- close codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1005, 1006, 1011, 1012, 4000, 4001, 4002, 4003, 4004, 4099, 4500]
)
def test_codes_that_resume(talk: Any, code: int) -> None:
    plan = talk.drop(code)
    assert (plan.stop, plan.renew) == (None, False)
    assert 0 <= plan.delay <= 0.2
    assert talk.connect()["resume"] == "r1"


@pytest.mark.parametrize("code", [4100, 4101])
async def test_codes_that_begin_a_new_session(talk: Any, code: int) -> None:
    talk.msg(1)
    await talk.hand_out()[0].ack()
    plan = talk.drop(code)
    assert plan.stop is None
    assert talk.connect() == {"t": "hello", "token": "jwt", "window": 64}


@pytest.mark.parametrize("code", [4200, 4201])
def test_codes_that_want_a_new_token(new_talk: Any, code: int) -> None:
    talk = new_talk(renewable=True)
    talk.open()
    plan = talk.drop(code)
    assert (plan.stop, plan.renew) == (None, True)
    hello = talk.connect("newer")
    assert (hello["token"], hello["resume"]) == ("newer", "r1")


def test_an_expired_string_cannot_be_renewed(talk: Any) -> None:
    stop = talk.drop(4200).stop
    assert isinstance(stop, errors.TokenExpired)
    assert stop.code == 4200


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4300, errors.NotAuthorised),
        (4302, errors.TakenOver),
        (4303, errors.ProtocolViolation),
        (4304, errors.Banned),
        (4399, errors.Stopped),
    ],
)
def test_codes_that_stop(talk: Any, code: int, kind: type[errors.Stopped]) -> None:
    talk.feed({"t": "err", "code": "some_code", "status": 403, "detail": "what happened"})
    stop = talk.drop(code, "reason").stop
    assert type(stop) is kind
    assert (stop.code, stop.detail) == (code, "what happened")


def test_the_close_reason_is_told_where_no_err_came(talk: Any) -> None:
    assert talk.drop(4302, "taken over").stop.detail == "taken over"


def test_err_with_close_counts_where_no_close_code_comes(talk: Any) -> None:
    talk.feed({"t": "err", "code": "banned", "status": 403, "detail": "", "close": 4304})
    assert isinstance(talk.drop(1006).stop, errors.Banned)


def test_retry_after_is_a_floor(talk: Any) -> None:
    talk.feed({"t": "err", "code": "rate_limited", "status": 429, "detail": "", "retry_after": 7})
    assert 7 <= talk.drop(4003).delay <= 7.2
    talk.resume()
    assert talk.drop(4003).delay < 7


def test_no_wait_is_endless(talk: Any) -> None:
    talk.feed({"t": "err", "code": "rate_limited", "status": 429, "detail": "", "retry_after": 1e300})
    assert talk.drop(4003).delay <= LONGEST + 0.2


def test_the_delay_is_full_jitter_with_a_cap(new_talk: Any) -> None:
    """Failure n draws from the whole of 0..min(cap, base * 2^n)."""
    tops = [0.0] * 12
    bottoms = [CAP] * 12
    for seed in range(400):
        talk = new_talk(seed=seed)
        for n in range(12):
            delay = talk.drop().delay
            assert 0 <= delay <= min(CAP, 0.2 * 2**n)
            tops[n] = max(tops[n], delay)
            bottoms[n] = min(bottoms[n], delay)
    for n in range(12):
        assert tops[n] > 0.9 * min(CAP, 0.2 * 2**n)
        assert bottoms[n] < 0.1 * min(CAP, 0.2 * 2**n)


def test_failures_count_until_a_connection_stands(new_talk: Any) -> None:
    def longest(stood: float) -> float:
        delays: list[float] = []
        for seed in range(100):
            talk = new_talk(seed=seed)
            for _ in range(5):
                talk.drop()
            talk.open()
            talk.now += stood
            delays.append(talk.drop().delay)
        return max(delays)

    assert longest(stood=4.9) > 1
    assert longest(stood=5.0) <= 0.2


@pytest.mark.parametrize(("status", "kind"), [(401, errors.NotAuthorised), (403, errors.NotAuthorised),
                                              (404, errors.HandshakeRefused), (302, errors.HandshakeRefused),
                                              (0, errors.HandshakeRefused)])  # fmt: skip
def test_handshakes_that_stop(talk: Any, status: int, kind: type[errors.Stopped]) -> None:
    assert type(talk.session.refused(status, "no", None, talk.now).stop) is kind


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_handshakes_that_come_back(talk: Any, status: int) -> None:
    plan = talk.session.refused(status, "no", 3.0, talk.now)
    assert plan.stop is None
    assert 3 <= plan.delay <= 3.2


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_goaway_leaves_within_its_range_with_everything_said(new_talk: Any) -> None:
    moments = set()
    for seed in range(50):
        talk = new_talk(seed=seed, ack_delay=60)
        talk.open()
        talk.msg(1)
        await talk.hand_out()[0].ack()
        talk.feed({"t": "goaway", "after": [0.5, 5.0], "why": "drain"})
        assert talk.out() == []
        wait = talk.session.next_deadline() - talk.now
        assert 0.5 <= wait <= 5
        moments.add(round(wait))
        assert talk.out(after=wait) == [{"t": "ack", "seq": 1}, {"t": "bye"}]
        assert talk.session.leave == Leave.CLOSE
        assert talk.drop(1000).delay == 0
        assert talk.resume()["resume"] == "r1"
        assert talk.session.leave == Leave.NO
    assert len(moments) > 3


def test_a_gateway_that_closes_before_the_drawn_moment_is_left_alone_until_then(talk: Any) -> None:
    talk.feed({"t": "goaway", "after": [5.0, 0.5]})
    talk.now += 0.25
    assert 0.25 <= talk.drop(4000).delay <= 4.75


def test_a_gateway_that_only_sends_away_is_not_asked_in_a_tight_loop(new_talk: Any) -> None:
    longest = 0.0
    for seed in range(100):
        talk = new_talk(seed=seed)
        for n in range(6):
            talk.open()
            talk.feed({"t": "goaway", "after": [0, 0]})
            assert talk.out() == [{"t": "bye"}]
            delay = talk.drop(1000).delay
            assert delay <= (0.2 * 2**n if n else 0)
            longest = max(longest, delay)
    assert longest > 3


def test_bye_says_whether_the_end_is_meant(new_talk: Any) -> None:
    for end, frame in ((False, {"t": "bye"}), (True, {"t": "bye", "end": True})):
        talk = new_talk()
        talk.open()
        talk.session.close(end=end)
        assert talk.out() == [frame]
        assert talk.session.leave == Leave.CLOSE
        assert talk.out() == []


def test_closing_before_the_welcome_says_nothing(new_talk: Any) -> None:
    talk = new_talk()
    talk.connect()
    talk.session.close(end=False)
    assert talk.out() == []
    assert talk.session.leave == Leave.CLOSE


# -- heartbeat --------------------------------------------------------------------------------------------------------


def test_silence_is_asked_about_and_then_ends_the_connection(talk: Any) -> None:
    start = talk.now
    assert talk.session.next_deadline() == start + 1.25 * 25
    assert talk.out(after=1.25 * 25) == [{"t": "ping"}]
    assert talk.session.next_deadline() == start + 1.75 * 25
    assert talk.out(after=0.25 * 25) == []
    assert talk.session.leave == Leave.NO
    assert talk.out(after=0.25 * 25) == []
    assert (talk.session.leave, talk.session.why) == (Leave.ABORT, "heartbeat lost")


def test_any_byte_proves_life(talk: Any) -> None:
    talk.out(after=1.25 * 25)
    talk.session.heard(talk.now)
    assert talk.out(after=20) == []
    talk.now += 20
    talk.feed({"t": "pong"})
    assert talk.out(after=20) == []
    assert talk.session.leave == Leave.NO


def test_a_gateway_that_does_not_welcome_is_left(new_talk: Any) -> None:
    talk = new_talk()
    talk.connect()
    wait = talk.session.next_deadline() - talk.now
    assert talk.out(after=wait / 2) == []
    assert talk.session.leave == Leave.NO
    talk.out(after=wait / 2)
    assert (talk.session.leave, talk.session.why) == (Leave.ABORT, "no welcome")


def test_no_deadline_without_a_connection(talk: Any) -> None:
    talk.drop()
    assert talk.session.next_deadline() is None
    assert talk.out() == []


# -- tokens, reads, snapshots -----------------------------------------------------------------------------------------


def test_a_fresh_token_goes_to_the_connection_that_stands(talk: Any) -> None:
    talk.session.renew("newer")
    assert talk.out() == [{"t": "token", "token": "newer"}]
    assert talk.out() == []
    talk.drop()
    talk.session.renew("newest")
    talk.connect()
    talk.feed(_welcome(resumed=True))
    assert talk.out() == []


def test_read_ids_leave_in_frames_the_gateway_takes(talk: Any) -> None:
    sent: list[Any] = []
    talk.session.read(Reading([f"{n:013}" for n in range(1500)], sent.append))
    frames = talk.out()
    assert [(f["t"], len(f["ids"])) for f in frames] == [("read", 1000), ("read", 500)]
    assert sent == [None]


def test_reads_wait_for_a_connection_or_the_end(talk: Any) -> None:
    talk.drop()
    sent: list[Any] = []
    dropped = Reading(["0" * 13], sent.append)
    talk.session.read(dropped)
    talk.session.read(Reading(["1" * 13], sent.append))
    talk.session.unread(dropped)
    talk.session.unread(dropped)
    assert sent == []
    end = ClientClosed("closed")
    talk.session.end(end)
    assert sent == [end]


async def test_the_snapshot_comes_with_the_frames_that_rely_on_it(talk: Any) -> None:
    talk.out()
    (first,) = talk.snapshots
    assert (first.client, first.epoch, first.resume, first.ack) == ("alice", "e1", "r1", 0)
    talk.msg(1, 2, 3, 4)
    one, two, _, four = talk.hand_out()
    await one.ack()
    await two.nack(delay=1, why="later")
    await four.ack()
    talk.publish("x")
    assert [f["t"] for f in talk.out()] == ["nack", "ack", "ack", "pub"]
    _, second = talk.snapshots
    assert (second.ack, second.done, second.ids) == (2, [4], ["M1", "M4"])
    assert [(r.seq, r.delay, r.why) for r in second.refused] == [(2, 1.0, "later")]
    talk.publish("y")
    talk.out()
    assert len(talk.snapshots) == 2


async def test_a_session_goes_on_from_a_snapshot(talk: Any, new_talk: Any) -> None:
    talk.msg(1, 2, 3, 4)
    one, two, _, four = talk.hand_out()
    await one.ack()
    await two.nack()
    await four.ack()
    talk.out()
    later = new_talk(talk.snapshots[-1])
    hello = later.resume()
    assert (hello["resume"], hello["epoch"], hello["ack"]) == ("r1", "e1", 1)
    assert later.out() == [{"t": "nack", "seq": 2}, {"t": "ack", "seq": 2}, {"t": "ack", "seqs": [4]}]
    later.msg(3, 4)
    (three,) = later.hand_out()
    await three.ack()
    assert later.out() == [{"t": "ack", "seq": 4}]


async def test_acks_without_a_connection_are_in_the_snapshot_before_hello(talk: Any) -> None:
    talk.out()
    talk.msg(1)
    (m,) = talk.hand_out()
    talk.drop()
    await m.ack()
    assert talk.session.unsaved
    assert talk.connect()["ack"] == 1
    assert talk.snapshots[-1].ack == 1


async def test_without_a_file_no_snapshot_is_made(new_talk: Any) -> None:
    talk = new_talk(persist=False)
    talk.open()
    talk.msg(1)
    await talk.hand_out()[0].ack()
    assert talk.out() == [{"t": "ack", "seq": 1}]
    assert talk.snapshots == []


def _welcome(**fields: Any) -> dict[str, Any]:
    return {"t": "welcome", "client": "alice", "epoch": "e1", "resume": "r1", "resumed": False, "why": "new", "next": 1,
            "window": 64, "heartbeat": 25, "max_payload": 65536} | fields  # fmt: skip
