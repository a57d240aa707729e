"""Acks, nacks, dedupe, gaps and statuses, by literal frames and without a socket."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.errors import ClientClosed
from gateway.client.message import Stage


async def test_acks_of_one_turn_leave_in_one_cumulative_frame(talk: Any) -> None:
    talk.msg(1, 2, 3, 4)
    for m in talk.hand_out():
        await m.ack()
    assert talk.out() == [{"t": "ack", "seq": 4}]
    assert talk.out() == []


async def test_what_stands_behind_a_message_in_hand_is_acked_singly(talk: Any) -> None:
    talk.msg(1, 2, 3, 4, 5)
    one, two, three, four, five = talk.hand_out()
    for m in (one, three, five):
        await m.ack()
    assert talk.out() == [{"t": "ack", "seq": 1}, {"t": "ack", "seqs": [3, 5]}]
    await two.ack()
    assert talk.out() == [{"t": "ack", "seq": 3}]
    await four.ack()
    assert talk.out() == [{"t": "ack", "seq": 5}]


async def test_never_acks_past_a_hole(talk: Any) -> None:
    talk.msg(1, 3)
    for m in talk.hand_out():
        await m.ack()
    assert talk.out() == [{"t": "ack", "seq": 1}, {"t": "ack", "seqs": [3]}]
    talk.msg(4)
    await talk.hand_out()[0].ack()
    assert talk.out() == [{"t": "ack", "seqs": [4]}]
    talk.feed({"t": "gap", "m": [{"seq": 2, "id": "M2", "why": "superseded", "via": "sms"}]})
    talk.inbox.told(talk.inbox.notices.popleft())
    assert talk.out() == [{"t": "ack", "seq": 4}]


async def test_acks_wait_for_ack_delay_unless_half_a_window_waits(new_talk: Any) -> None:
    talk = new_talk(ack_delay=0.5, window=4)
    talk.open(window=4)
    talk.msg(1, 2, 3, 4)
    one, two, three, four = talk.hand_out()
    await one.ack()
    assert talk.out() == []
    assert talk.session.next_deadline() == talk.now + 0.5
    assert talk.out(after=0.5) == [{"t": "ack", "seq": 1}]
    await two.ack()
    await three.ack()
    assert talk.out() == [{"t": "ack", "seq": 3}]
    await four.ack()
    talk.session.close(end=False)
    assert talk.out() == [{"t": "ack", "seq": 4}, {"t": "bye"}]


async def test_the_driver_is_woken_by_the_first_ack_and_by_half_a_window(new_talk: Any) -> None:
    talk = new_talk(ack_delay=1.0)
    talk.open(window=8)
    talk.msg(*range(1, 9))
    before = talk.woken
    woken = []
    for m in talk.hand_out()[:5]:
        await m.ack()
        woken.append(talk.woken - before)
    assert woken[:2] == [1, 1]
    assert woken[-1] > 1


async def test_a_nack_leaves_before_the_ack_that_covers_it(talk: Any) -> None:
    talk.msg(1, 2, 3)
    one, two, three = talk.hand_out()
    await three.ack()
    await one.ack()
    await two.nack(delay=5, why="busy")
    assert talk.out() == [{"t": "nack", "seq": 2, "delay": 5.0, "why": "busy"}, {"t": "ack", "seq": 3}]


async def test_an_uncertain_nack_is_not_swallowed_by_hello_ack(talk: Any) -> None:
    talk.msg(1, 2, 3)
    one, two, three = talk.hand_out()
    await two.nack(delay=5)
    await one.ack()
    await three.ack()
    talk.out()
    talk.drop()
    assert talk.resume()["ack"] == 1
    assert talk.out() == [{"t": "nack", "seq": 2, "delay": 5.0}, {"t": "ack", "seq": 3}]


async def test_a_rejected_seq_that_comes_again_is_rejected_again(talk: Any) -> None:
    talk.msg(1)
    await talk.hand_out()[0].reject(why="nonsense")
    assert talk.out() == [{"t": "reject", "seq": 1, "why": "nonsense"}, {"t": "ack", "seq": 1}]
    talk.msg({**_entry(1), "redelivered": 1})
    assert talk.hand_out() == []
    assert talk.out() == [{"t": "reject", "seq": 1, "why": "nonsense"}]


async def test_a_nack_is_certain_once_a_seq_came_that_only_its_settling_made_room_for(talk: Any) -> None:
    talk.msg(*range(1, 65))
    messages = talk.hand_out()
    await messages[0].nack()
    for m in messages[1:]:
        await m.ack()
    talk.out()
    talk.msg(*range(65, 129))  # up to here the gateway may have bound before it read the nack
    for m in talk.hand_out():
        await m.ack()
    talk.out()
    talk.drop()
    assert "ack" not in talk.resume()
    assert talk.out() == [{"t": "nack", "seq": 1}, {"t": "ack", "seq": 128}]
    talk.msg(129)
    talk.msg(193)
    talk.drop()
    assert talk.resume()["ack"] == 128


async def test_a_gap_settles_a_nack_that_was_lost(talk: Any) -> None:
    talk.msg(1, 2)
    one, two = talk.hand_out()
    await one.nack()
    await two.ack()
    talk.drop()
    talk.resume()
    talk.feed({"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "expired"}]})
    assert talk.out() == [{"t": "ack", "seq": 2}]
    talk.inbox.told(talk.inbox.notices.popleft())
    talk.drop()
    assert talk.resume()["ack"] == 2


async def test_a_nacked_message_is_handed_out_again_under_its_new_seq(talk: Any) -> None:
    talk.msg(1)
    await talk.hand_out()[0].nack()
    talk.out()
    talk.msg(_entry(2, id="M1", redelivered=1))
    (again,) = talk.hand_out()
    assert (again.id, again.seq, again.redelivered) == ("M1", 2, 1)


async def test_an_acked_message_is_acked_again_and_not_handed_out(talk: Any) -> None:
    talk.msg(1)
    await talk.hand_out()[0].ack()
    talk.out()
    talk.msg(_entry(1, redelivered=1))
    assert talk.hand_out() == []
    assert talk.out() == [{"t": "ack", "seq": 1}]
    talk.drop()
    talk.open(epoch="e2", why="unknown")
    talk.msg(_entry(1, id="M9"), _entry(2, id="M1", redelivered=1))
    (other,) = talk.hand_out()
    assert other.id == "M9"
    assert talk.out() == [{"t": "ack", "seqs": [2]}]


async def test_a_single_ack_that_was_lost_is_repeated(talk: Any) -> None:
    talk.msg(1, 2)
    _, two = talk.hand_out()
    await two.ack()
    assert talk.out() == [{"t": "ack", "seqs": [2]}]
    talk.msg(_entry(2, redelivered=1))
    assert talk.out() == [{"t": "ack", "seqs": [2]}]
    talk.drop()
    assert "ack" not in talk.resume()
    assert talk.out() == [{"t": "ack", "seqs": [2]}]


async def test_a_message_in_hand_gets_the_seq_under_which_it_comes_again(talk: Any) -> None:
    talk.msg(1, 2)
    _, two = talk.hand_out()
    talk.drop()
    talk.open(epoch="e2", why="expired")
    talk.msg(_entry(1, id="M2", redelivered=1))
    assert talk.hand_out() == []
    assert (two.seq, two.redelivered) == (1, 1)
    await two.ack()
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_a_redelivery_while_in_hand_is_not_handed_out_twice(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    talk.msg(_entry(1, redelivered=1))
    assert talk.hand_out() == []
    assert m.redelivered == 1
    talk.drop()
    talk.resume()
    talk.msg(_entry(1, redelivered=2))
    assert talk.hand_out() == []
    await m.ack()
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_an_ack_between_epochs_counts_when_the_message_comes_again(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    talk.drop()
    talk.open(epoch="e2", why="expired")
    await m.ack()
    assert talk.out() == []
    talk.msg(_entry(1, id="M1", redelivered=1))
    assert talk.hand_out() == []
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_what_was_not_handed_out_is_withdrawn_with_its_epoch(talk: Any) -> None:
    talk.msg(1, 2)
    first = talk.inbox.next()
    talk.drop()
    talk.open(epoch="e2", why="unknown")
    assert talk.hand_out() == []
    talk.msg(_entry(1, id="M2", redelivered=1))
    (m,) = talk.hand_out()
    assert (m.id, m.seq, first.seq) == ("M2", 1, 1)
    await first.ack()
    assert talk.out() == []


async def test_the_oldest_ids_are_forgotten(new_talk: Any) -> None:
    talk = new_talk(dedupe=2)
    talk.open()
    talk.msg(1, 2, 3)
    for m in talk.hand_out():
        await m.ack()
    talk.out()
    talk.drop()
    talk.open(epoch="e2", why="unknown")
    talk.msg(_entry(1, id="M1"), _entry(2, id="M2"), _entry(3, id="M3"))
    assert [m.id for m in talk.hand_out()] == ["M1"]


async def test_a_gap_takes_back_what_was_not_handed_out(talk: Any) -> None:
    talk.msg(1, 2)
    talk.feed({"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "superseded", "via": "sms"}]})
    assert [m.id for m in talk.hand_out()] == ["M2"]
    (notice,) = talk.inbox.notices
    assert (notice.what.id, notice.what.why, notice.what.via) == ("M1", "superseded", "sms")
    assert talk.out() == []
    talk.inbox.told(notice)
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_a_gap_under_a_message_in_hand_leaves_nothing_to_settle(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    gap = {"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "superseded"}]}
    talk.feed(gap)
    talk.feed(gap)
    (notice,) = talk.inbox.notices
    await m.nack()
    assert talk.out() == []
    talk.inbox.told(notice)
    assert talk.out() == [{"t": "ack", "seq": 1}]
    talk.feed(gap)
    assert talk.out() == [{"t": "ack", "seq": 1}]
    assert len(talk.inbox.notices) == 1


async def test_a_gap_after_the_ack_is_acked_and_not_told(talk: Any) -> None:
    talk.msg(1)
    await talk.hand_out()[0].ack()
    talk.out()
    talk.feed({"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "superseded"}]})
    assert not talk.inbox.notices
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_a_message_given_back_after_its_gap_keeps_its_object(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    talk.feed({"t": "gap", "m": [{"seq": 1, "id": "M1", "why": "superseded"}]})
    talk.inbox.told(talk.inbox.notices.popleft())
    talk.msg(_entry(2, id="M1", redelivered=1))
    assert talk.hand_out() == []
    await m.ack()
    assert talk.out() == [{"t": "ack", "seq": 2}]


async def test_a_status_is_acked_once_the_application_knows(talk: Any) -> None:
    report = {"t": "status", "m": [{"seq": 1, "id": "M0", "status": "delivered", "at": 5, "via": "mqtt"}]}
    talk.feed(report)
    talk.feed(report)
    (notice,) = talk.inbox.notices
    assert (notice.what.status, notice.what.at, notice.what.via) == ("delivered", 5, "mqtt")
    assert talk.out() == []
    talk.inbox.told(notice)
    assert talk.out() == [{"t": "ack", "seq": 1}]
    talk.feed(report)
    assert len(talk.inbox.notices) == 1
    assert talk.out() == [{"t": "ack", "seq": 1}]


async def test_a_status_of_an_older_epoch_settles_nothing_in_the_new_one(talk: Any) -> None:
    talk.feed({"t": "status", "m": [{"seq": 1, "id": "M0", "status": "delivered", "at": 5}]})
    notice = talk.inbox.notices.popleft()
    talk.drop()
    talk.open(epoch="e2", why="expired")
    talk.msg(1)
    talk.inbox.told(notice)
    assert talk.out() == []


async def test_a_new_epoch_keeps_gaps_to_tell_and_drops_statuses(talk: Any) -> None:
    talk.feed({"t": "status", "m": [{"seq": 1, "id": "M0", "status": "delivered", "at": 5}]})
    talk.feed({"t": "gap", "m": [{"seq": 2, "id": "M2", "why": "expired"}]})
    talk.drop()
    talk.open(epoch="e2", why="expired")
    assert [n.what.id for n in talk.inbox.notices] == ["M2"]


async def test_working_names_what_is_in_hand(talk: Any) -> None:
    talk.msg(1, 2)
    one, two = talk.hand_out()
    await one.working()
    await one.working()
    await two.ack()
    await two.working()
    assert talk.out() == [{"t": "working", "seq": 1}, {"t": "ack", "seqs": [2]}]


async def test_a_message_is_settled_once(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    await m.ack()
    await m.ack()
    with pytest.raises(RuntimeError, match="settled already: acked"):
        await m.nack()
    assert talk.out() == [{"t": "ack", "seq": 1}]
    assert m.stage == Stage.ACKED


async def test_why_and_delay_stay_within_what_the_gateway_takes(talk: Any) -> None:
    talk.msg(1)
    (m,) = talk.hand_out()
    with pytest.raises(ValueError, match="delay"):
        await m.nack(delay=-1)
    await m.nack(why="x" * 300 + "\ud800")
    (nack, _) = talk.out()
    assert nack["why"] == "x" * 256


async def test_settling_after_the_end_says_so(talk: Any) -> None:
    talk.msg(1, 2)
    one, two = talk.hand_out()
    talk.session.end(ClientClosed("closed"))
    for call in (one.ack, two.nack, two.reject, two.working):
        with pytest.raises(ClientClosed):
            await call()


async def test_a_hole_far_below_is_known_to_be_settled(talk: Any) -> None:
    talk.msg(2)
    await talk.hand_out()[0].ack()
    assert talk.out() == [{"t": "ack", "seqs": [2]}]
    talk.msg(65536 + 1)
    assert talk.out() == [{"t": "ack", "seq": 2}]


async def test_many_single_acks_are_split(new_talk: Any) -> None:
    talk = new_talk(window=4000)
    talk.open(window=4000)
    talk.msg(*range(1, 2003))
    for m in talk.hand_out()[1:]:
        await m.ack()
    frames = talk.out()
    assert [len(f["seqs"]) for f in frames] == [1000, 1000, 1]
    assert sorted(s for f in frames for s in f["seqs"]) == list(range(2, 2003))


@given(st.permutations(range(1, 13)), st.lists(st.integers(0, 12), max_size=4), st.integers(0, 12))
def test_acks_in_any_order_settle_exactly_what_was_acked(
    new_talk: Any, order: list[int], flushes: list[int], left: int
) -> None:
    """As the gateway reads the frames: nothing but what was acked is settled, and all of it."""

    async def run() -> None:
        talk = new_talk()
        talk.open()
        talk.msg(*range(1, 13))
        messages = {m.seq: m for m in talk.hand_out()}
        settled: set[int] = set()
        acked: set[int] = set()
        for n, seq in enumerate(order[: 12 - left]):
            await messages[seq].ack()
            acked.add(seq)
            if n in flushes or n == 11 - left:
                for frame in talk.out():
                    settled |= set(range(1, frame["seq"] + 1)) if "seq" in frame else set(frame["seqs"])
                assert settled == acked

    asyncio.run(run())


def _entry(seq: int, **fields: Any) -> dict[str, Any]:
    return {"seq": seq, "id": f"M{seq}", "from": "bob", "at": 1, "body": seq} | fields
