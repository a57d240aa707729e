"""Frames that were lost on their way: nothing is acked past a hole, and the application sees one order."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.order import HOLE_PATIENCE
from gateway.client.values import Leave


@pytest.fixture
def framed(new_talk: Any) -> Any:
    """A session that was just welcomed over MQTT."""
    talk = new_talk(nonce="n1")
    talk.open()
    return talk


def ids(talk: Any) -> list[str]:
    return [m.id for m in talk.hand_out()]


def pass_time(talk: Any, seconds: float) -> None:
    """The gateway lives, and says nothing else."""
    until = talk.now + seconds
    while talk.now < until:
        talk.feed({"t": "pong"})
        assert [f for f in talk.out(after=min(5.0, until - talk.now)) if f["t"] != "ping"] == []


async def test_what_comes_after_a_hole_waits_for_it(framed: Any) -> None:
    framed.msg(1)
    framed.msg(3)
    framed.msg(4)
    (one,) = framed.hand_out()
    await one.ack()
    assert framed.out() == [{"t": "ack", "seq": 1, "c": "n1"}]
    pass_time(framed, 10)
    framed.msg({"seq": 2, "id": "M2", "from": "bob", "at": 1, "body": 2, "redelivered": 1})
    messages = framed.hand_out()
    assert [(m.id, m.redelivered) for m in messages] == [("M2", 1), ("M3", 0), ("M4", 0)]
    for m in messages:
        await m.ack()
    assert framed.out() == [{"t": "ack", "seq": 4, "c": "n1"}]


def test_over_websocket_nothing_waits(talk: Any) -> None:
    talk.msg(1, 3)
    assert ids(talk) == ["M1", "M3"]


def test_gaps_and_statuses_wait_and_fill_holes_like_messages(framed: Any) -> None:
    framed.feed({"t": "status", "m": [{"seq": 2, "id": "A", "status": "delivered", "at": 1}]})
    framed.msg(4)
    assert not framed.inbox.notices
    framed.feed({"t": "gap", "m": [{"seq": 1, "id": "B", "why": "expired"}]})
    assert [n.what.id for n in framed.inbox.notices] == ["B", "A"]
    assert ids(framed) == []
    framed.feed({"t": "gap", "m": [{"seq": 3, "id": "C", "why": "dead"}]})
    assert ids(framed) == ["M4"]


def test_a_message_held_back_gives_way_to_its_gap(framed: Any) -> None:
    framed.msg(2, 3)
    framed.feed({"t": "gap", "m": [{"seq": 2, "id": "M2", "why": "superseded"}]})
    assert ids(framed) == []
    framed.msg(1)
    assert ids(framed) == ["M1", "M3"]
    assert [n.what.seq for n in framed.inbox.notices] == [2]


async def test_what_is_repeated_is_the_lowest_that_is_unsettled(framed: Any) -> None:
    """Seqs that another connection of this client has settled never come: a repetition tells."""
    framed.msg(3, 4, 6, 7)
    framed.msg(4)
    assert ids(framed) == ["M3", "M4"]
    framed.msg(6)
    assert ids(framed) == ["M6", "M7"]
    framed.msg({"seq": 5, "id": "M5", "from": "bob", "at": 1, "body": 5, "redelivered": 1})
    (five,) = framed.hand_out()
    await five.ack()
    assert framed.out() == [{"t": "ack", "seqs": [5], "c": "n1"}]


def test_a_hole_that_stays_is_asked_about_with_a_new_hello(framed: Any) -> None:
    framed.msg(2, 3)
    start = framed.now
    frames: list[Any] = []
    for _ in range(20):
        if framed.session.leave == Leave.NO:
            framed.feed({"t": "pong"})
            frames = framed.out(after=min(5.0, framed.session.next_deadline() - framed.now))
    assert framed.now - start == HOLE_PATIENCE
    assert frames[-1] == {"t": "bye", "c": "n1"}
    assert (framed.session.leave, framed.session.why) == (Leave.CLOSE, "a frame was lost")
    assert framed.drop(1000).delay <= 0.2
    framed.nonce = "n2"
    assert framed.resume() == {"t": "hello", "resume": "r1", "epoch": "e1", "window": 64, "c": "n2"}
    framed.msg(1, 2, 3)
    assert ids(framed) == ["M1", "M2", "M3"]


def test_a_hole_that_is_there_after_a_new_hello_is_none(framed: Any) -> None:
    framed.msg(1, 3, 4)
    (one,) = framed.hand_out()
    framed.now += HOLE_PATIENCE
    framed.feed({"t": "pong"})
    framed.out()
    framed.drop(1000)
    framed.resume()
    framed.msg(1, 3)
    framed.msg(4)
    assert ids(framed) == ["M3", "M4"]
    assert one.seq == 1
    framed.msg(6)
    assert ids(framed) == []


def test_a_hole_is_not_trusted_after_another_end(framed: Any) -> None:
    framed.msg(2)
    framed.drop()
    framed.resume()
    framed.msg(2)
    assert ids(framed) == []
    framed.msg(1)
    assert ids(framed) == ["M1", "M2"]


async def test_after_a_resume_what_is_in_hand_leaves_no_hole(framed: Any) -> None:
    framed.msg(1, 2, 3)
    one, two, three = framed.hand_out()
    await two.ack()
    framed.drop()
    framed.resume()
    framed.msg(1, 3, 4)
    assert ids(framed) == ["M4"]
    await one.ack()
    await three.ack()
    assert framed.out()[-1] == {"t": "ack", "seq": 3, "c": "n1"}


async def test_after_a_restart_of_the_program_what_was_settled_leaves_no_hole(
    framed: Any, new_talk: Any
) -> None:
    framed.msg(1, 2, 3, 4)
    one, _, three, _ = framed.hand_out()
    await one.ack()
    await three.ack()
    framed.out()
    later = new_talk(framed.snapshots[-1], nonce="n2")
    assert later.resume()["ack"] == 1
    later.msg(4)
    assert ids(later) == []
    later.msg(2)
    assert ids(later) == ["M2", "M4"]
    later.msg(5)
    assert ids(later) == ["M5"]


def test_a_new_epoch_starts_at_one(framed: Any) -> None:
    framed.msg(1, 2, 4)
    framed.hand_out()
    framed.drop()
    framed.open(epoch="e2", why="expired")
    framed.msg({"seq": 2, "id": "N2", "from": "bob", "at": 1, "body": 2})
    assert ids(framed) == []
    framed.msg({"seq": 1, "id": "N1", "from": "bob", "at": 1, "body": 1})
    assert ids(framed) == ["N1", "N2"]


def test_no_hole_is_wider_than_a_seq_may_be_ahead(framed: Any) -> None:
    framed.msg(2, 65535)
    assert ids(framed) == []
    framed.msg(65537)
    assert ids(framed) == ["M2"]


class LossyGateway:
    """Sends 1..count within a window, loses frames by the seed, and redelivers the lowest unsettled seq."""

    def __init__(self, talk: Any, rng: Random, count: int, window: int) -> None:
        self.talk = talk
        self.rng = rng
        self.unsettled: dict[int, int] = {}  # seq: times sent
        self.next = 1
        self.count = count
        self.window = window
        self.seen: set[int] = set()  # by the client

    def send(self, seq: int) -> None:
        self.unsettled[seq] = self.unsettled.get(seq, 0) + 1
        if self.rng.random() < 0.3:
            return
        self.seen.add(seq)
        self.talk.msg({"seq": seq, "id": f"M{seq}", "from": "bob", "at": 1, "body": seq,
                       "redelivered": self.unsettled[seq] - 1})  # fmt: skip

    def fill(self) -> None:
        while self.next <= self.count and len(self.unsettled) < self.window:
            self.next += 1
            self.send(self.next - 1)

    def take(self, frame: dict[str, Any]) -> None:
        assert frame["t"] == "ack"
        settled = range(1, frame["seq"] + 1) if "seq" in frame else frame["seqs"]
        assert self.seen.issuperset(settled), "acked past a hole"
        if self.rng.random() < 0.2:
            return  # lost
        for seq in settled:
            self.unsettled.pop(seq, None)

    def resume(self) -> None:
        for seq in sorted(self.unsettled):
            self.send(seq)


@given(seed=st.integers(0, 2**32))
async def test_whatever_is_lost_each_message_is_handed_out_once_and_in_order(
    seed: int, new_talk: Any
) -> None:
    rng = Random(seed)
    talk = new_talk(nonce="n1", seed=seed)
    talk.open()
    gateway = LossyGateway(talk, rng, count=30, window=8)
    got: list[str] = []
    while gateway.unsettled or gateway.next <= gateway.count:
        gateway.fill()
        for m in talk.hand_out():
            got.append(m.id)
            await m.ack()
        for frame in talk.out():
            gateway.take(frame)
        if rng.random() < 0.1:
            talk.drop()
            talk.resume()
            gateway.resume()
        elif gateway.unsettled:
            gateway.send(min(gateway.unsettled))
    assert got == [f"M{n}" for n in range(1, gateway.count + 1)]
