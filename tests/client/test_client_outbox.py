"""Publishing: keys, batches, repetition, refusals."""

from typing import Any

import pytest

from gateway.client.errors import ClientClosed, PublishRefused, PublishUnknown


def test_publishes_of_one_turn_leave_in_one_frame(talk: Any) -> None:
    talk.publish({"x": 1})
    talk.publish("hi", key="mine", priority="high", fallback=[], notify=["dead"])
    assert talk.out() == [
        {
            "t": "pub",
            "m": [
                {"ref": "1", "to": "bob", "body": {"x": 1}, "key": "k-1"},
                {"ref": "2", "to": "bob", "body": "hi", "key": "mine", "priority": "high", "fallback": [],
                 "notify": ["dead"]},
            ],
        }
    ]  # fmt: skip
    assert talk.out() == []


def test_ok_is_a_receipt(talk: Any) -> None:
    talk.publish(1)
    talk.publish(2)
    talk.out()
    talk.feed({"t": "ok", "m": [{"ref": "2", "id": "B", "dup": True}, {"ref": "1", "id": "A"}]})
    assert [(r.id, r.dup) for r in talk.receipts] == [("B", True), ("A", False)]
    talk.feed({"t": "ok", "m": [{"ref": "1", "id": "A"}, {"ref": "77", "id": "C"}, {"id": "D"}]})
    assert len(talk.answers) == 2


def test_the_unanswered_are_repeated_in_order_before_newer_ones(talk: Any) -> None:
    for n in (1, 2, 3):
        talk.publish(n)
    talk.out()
    talk.feed({"t": "ok", "m": [{"ref": "2", "id": "B"}]})
    talk.drop()
    talk.publish(4)
    talk.resume()
    talk.publish(5)
    (frame,) = talk.out()
    assert [(m["ref"], m["key"]) for m in frame["m"]] == [
        ("1", "k-1"),
        ("3", "k-3"),
        ("4", "k-4"),
        ("5", "k-5"),
    ]


def test_a_new_session_repeats_publishes_too(talk: Any) -> None:
    talk.publish(1)
    talk.out()
    talk.drop(4100)
    talk.open(epoch="e2", why="expired")
    (frame,) = talk.out()
    assert frame["m"][0]["key"] == "k-1"


def test_frames_stay_within_max_payload(new_talk: Any) -> None:
    talk = new_talk()
    talk.open(max_payload=200)
    for n in range(8):
        talk.publish("x" * 50, key=str(n))
    talk.publish("y" * 180)
    frames = talk.out()
    assert [len(f["m"]) for f in frames] == [2, 2, 2, 2, 1]
    assert [m["ref"] for f in frames for m in f["m"]] == [str(n) for n in range(1, 10)]


def test_a_frame_has_at_most_a_hundred_messages(talk: Any) -> None:
    for n in range(250):
        talk.publish(n)
    assert [len(f["m"]) for f in talk.out()] == [100, 100, 50]


def test_a_body_over_max_payload_is_refused_here(new_talk: Any) -> None:
    talk = new_talk()
    talk.open(max_payload=100)
    talk.publish("x" * 98)
    talk.publish("x" * 99)
    (frame,) = talk.out()
    assert [m["ref"] for m in frame["m"]] == ["1"]
    (refused,) = talk.answers
    assert isinstance(refused, PublishRefused)
    assert (refused.code, refused.status, refused.field) == ("too_large", 413, "$.body")


def test_a_connection_closed_over_a_big_frame_costs_the_biggest_message_only(talk: Any) -> None:
    for body in ("a", "b" * 1000, "c"):
        talk.publish(body)
    talk.out()
    talk.publish("never sent" * 1000)
    assert talk.drop(1009).stop is None
    (refused,) = talk.answers
    assert (refused.code, refused.status) == ("too_large", 413)
    talk.resume()
    (frame,) = talk.out()
    assert [m["ref"] for m in frame["m"]] == ["1", "3", "4"]


def test_1009_without_publishes_just_comes_back(talk: Any) -> None:
    assert talk.drop(1009).stop is None


@pytest.mark.parametrize(
    ("code", "status", "retry_after"),
    [
        ("queue_full", 429, 1.5),
        ("unavailable", 503, 1.5),
        ("commit_unknown", 503, None),
        ("rate_limited", 429, 0),
    ],
)
def test_a_passing_refusal_is_tried_again_with_the_same_key(
    talk: Any, code: str, status: int, retry_after: float | None
) -> None:
    talk.publish(1)
    talk.out()
    talk.feed({"t": "err", "ref": "1", "code": code, "status": status, "retry_after": retry_after})
    assert talk.out() == []
    wait = talk.session.next_deadline() - talk.now
    assert (retry_after or 0) <= wait <= (retry_after or 0) + 0.2
    (frame,) = talk.out(after=wait + 1e-9)
    assert [(m["ref"], m["key"]) for m in frame["m"]] == [("1", "k-1")]
    talk.feed({"t": "ok", "m": [{"ref": "1", "id": "A", "dup": True}]})
    assert [r.id for r in talk.receipts] == ["A"]


def test_retries_are_bounded(new_talk: Any) -> None:
    talk = new_talk(publish_retries=2)
    talk.open()
    talk.publish(1)
    sent = 0
    while not talk.answers:
        sent += len(talk.out(after=10))
        talk.feed({"t": "err", "ref": "1", "code": "queue_full", "status": 429, "retry_after": 1})
    assert sent == 3
    (refused,) = talk.answers
    assert (refused.code, refused.status, refused.retry_after) == ("queue_full", 429, 1)


@pytest.mark.parametrize(
    ("code", "status", "retry_after"),
    [
        ("invalid", 422, None),
        ("conflict", 409, None),
        ("disk_full", 507, 5),
        ("queue_full", 429, None),
        ("x", 503, None),
    ],
)
def test_other_refusals_are_raised(talk: Any, code: str, status: int, retry_after: float | None) -> None:
    talk.publish(1)
    talk.out()
    talk.feed({"t": "err", "ref": "1", "code": code, "status": status, "detail": "why", "retry_after": retry_after,
               "field": "$.m[0].to"})  # fmt: skip
    (refused,) = talk.answers
    assert isinstance(refused, PublishRefused)
    assert (refused.code, refused.status, refused.detail) == (code, status, "why")
    assert (refused.retry_after, refused.field) == (retry_after, "$.m[0].to")
    talk.drop()
    talk.resume()
    assert talk.out() == []


def test_what_waits_for_its_retry_is_not_sent_early_by_a_reconnect(talk: Any) -> None:
    talk.publish(1)
    talk.publish(2)
    talk.out()
    talk.feed({"t": "err", "ref": "1", "code": "queue_full", "status": 429, "retry_after": 60})
    talk.drop()
    talk.resume()
    (frame,) = talk.out()
    assert [m["ref"] for m in frame["m"]] == ["2"]
    talk.feed({"t": "ok", "m": [{"ref": "2", "id": "B"}]})
    talk.now += 30
    talk.feed({"t": "pong"})
    assert talk.out() == []
    talk.now += 31
    talk.feed({"t": "pong"})
    (frame,) = talk.out()
    assert [m["ref"] for m in frame["m"]] == ["1"]


def test_an_answer_while_a_retry_waits_is_the_answer(talk: Any) -> None:
    talk.publish(1)
    talk.out()
    talk.feed({"t": "err", "ref": "1", "code": "commit_unknown", "status": 503, "retry_after": 1})
    talk.feed({"t": "ok", "m": [{"ref": "1", "id": "A"}]})
    assert [r.id for r in talk.receipts] == ["A"]
    assert talk.out(after=5) == []


def test_a_publish_nobody_waits_for_is_dropped_while_it_has_not_left(talk: Any) -> None:
    first, second = talk.publish(1), talk.publish(2)
    assert talk.session.abandon(first)
    assert not talk.session.abandon(first)
    (frame,) = talk.out()
    assert [m["ref"] for m in frame["m"]] == ["2"]
    assert not talk.session.abandon(second)
    talk.feed({"t": "ok", "m": [{"ref": "2", "id": "B"}]})
    assert [r.id for r in talk.receipts] == ["B"]


def test_the_end_tells_what_is_unknown_from_what_never_left(talk: Any) -> None:
    talk.publish(1)
    talk.out()
    talk.publish(2)
    end = ClientClosed("closed")
    talk.session.end(end)
    unknown, never = talk.answers
    assert isinstance(unknown, PublishUnknown)
    assert unknown.key == "k-1"
    assert never is end


@pytest.mark.parametrize("body", [object(), [object()], {"a": "\ud800"}])
def test_a_body_the_encoding_cannot_say_is_the_callers_error(talk: Any, body: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        talk.publish(body)
    assert talk.out() == []


def test_answers_to_what_nobody_asked_change_nothing(talk: Any) -> None:
    talk.publish(1)
    talk.feed({"t": "err", "ref": "77", "code": "invalid", "status": 422})
    talk.out()
    talk.drop()
    talk.resume()
    talk.feed({"t": "ok", "m": [{"ref": "1", "id": "A"}]})  # of the connection before, over a slower way
    assert talk.out() == []
    assert [r.id for r in talk.receipts] == ["A"]
