"""Frames over MQTT: hello and its nonce, what reaches the hub and what does not, what is sent and how it is cut."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import wire
from gateway.config import Config, Limits
from gateway.ids import decode_id
from gateway.model import Status, Sub
from gateway.transports.mqtt.codec import publish
from gateway.transports.mqtt.framed import MIN_FRAME, PAST
from gateway.transports.mqtt.framing import MAX_SLICE, payload_room
from tests.hub.rig import Rig
from tests.transports.mqtt.framed_rig import Device, Framed, written_by

PUB = {"t": "pub", "m": [{"ref": "a", "to": "bob", "body": 1}]}
AFTER_HELLO: list[dict[str, Any]] = [
    {"t": "ack", "seq": 0},
    {"t": "nack", "seq": 1},
    {"t": "reject", "seq": 1},
    {"t": "working", "seq": 1},
    {"t": "read", "ids": []},
    PUB,
    {"t": "pub", "m": [{"ref": "a"}]},
    {"t": "token", "token": "x"},
    {"t": "ping"},
]
KINDS = pytest.mark.parametrize("frame", AFTER_HELLO, ids=[f"{f['t']}{n}" for n, f in enumerate(AFTER_HELLO)])


# -- hello ---------------------------------------------------------------------------------------------------------


def test_a_hello_is_welcomed_with_its_nonce() -> None:
    rig = Framed()
    device = rig.device("alice", address="192.0.2.1")
    welcome = device.hello("n1", window=7)
    assert (welcome["client"], welcome["c"], welcome["window"], welcome["resumed"]) == (
        "alice",
        "n1",
        7,
        False,
    )
    peer: Any = device.desk.peer
    assert (peer.via, peer.door, peer.sub, peer.peer) == ("mqtt", "mqtt", Sub.FRAMED, "192.0.2.1")
    assert rig.hub.presence("alice")["status"] == "online"
    assert rig.row().sub == Sub.FRAMED
    assert device.say({"t": "ping"}).hear() == [{"t": "pong"}]


def test_the_same_hello_gets_the_same_welcome() -> None:
    rig = Framed()
    device = rig.joined()
    rig.publish("alice")
    first = device.sent[0]
    device.hear()
    row = rig.row()
    device.say({"t": "hello"}).say({"t": "hello", "window": 3})
    assert device.sent[-2:] == [first, first]
    assert rig.row() is row
    assert rig.hub.presence("alice")["window"] == msgspec.json.decode(first)["window"]
    assert len(rig.hub.core.conns) == 1


def test_a_hello_that_is_repeated_before_its_welcome_is_welcomed_once() -> None:
    rig = Framed()
    rig.auto = False
    device = rig.device("alice")
    device.say({"t": "hello"}).say({"t": "hello"}).say({"t": "hello"})
    assert device.hear() == []
    rig.auto = True
    rig.pass_(0.01)
    assert [frame["t"] for frame in device.hear()] == ["welcome"]


@pytest.mark.parametrize("c", [None, ""])
def test_a_hello_needs_a_nonce(c: str | None) -> None:
    rig = Framed()
    device = rig.device("alice")
    err = device.say({"t": "hello"}, c).refused("nonce_missing", 4303, None)
    assert err["field"] == "$.c"
    assert rig.hub.core.conns == set()
    device.hello("n1")
    device.say({"t": "hello"}, c).refused("nonce_missing", 4303, None)
    assert device.say({"t": "ping"}).hear() == [{"t": "pong"}]


@KINDS
def test_before_a_welcome_nothing_is_applied(frame: dict[str, Any]) -> None:
    rig = Framed()
    device = rig.device("alice")
    device.say(frame, None).refused("hello_first", None, None)
    device.say(frame, "n1").refused("hello_first", None, "n1")
    rig.auto = False
    device.say({"t": "hello"}, "n1").say(frame, "n1").refused("hello_first", None, "n1")
    rig.auto = True
    rig.pass_(0.01)
    assert [f["t"] for f in device.hear()] == ["welcome"]
    assert rig.hub.intake.accepted == 0


@KINDS
def test_a_frame_with_another_nonce_is_not_applied(frame: dict[str, Any]) -> None:
    rig = Framed()
    device = rig.joined()
    proof = device.desk.peer and device.desk.peer.last_proof
    rig.pass_(1)
    device.say(frame, "n0").refused("hello_first", None, "n0")
    device.say(frame, None).refused("hello_first", None, None)
    assert device.desk.peer is not None
    assert device.desk.peer.last_proof == proof
    assert rig.hub.intake.accepted == 0
    assert device.say({"t": "ping"}).hear() == [{"t": "pong"}]


def test_a_nonce_may_hold_anything() -> None:
    c = '\x01"\\ü\U0001f600' * 12
    rig = Framed()
    device = rig.device("a" * 64, max_frame=MIN_FRAME)
    assert device.hello(c)["c"] == c
    device.say({"t": "wrong"}, c).refused("invalid", 4303, c)
    device.say({"t": "hello"}, "x" * 65).refused("invalid", 4303, None)


def test_the_longest_welcome_fits_the_smallest_frame() -> None:
    rig = Framed()
    device = rig.device("a" * 64, max_frame=MIN_FRAME)
    assert device.hello("\x01" * 64)["client"] == "a" * 64
    assert len(device.sent[0]) < MIN_FRAME - 100  # `missed` is not there
    small = rig.device("bob", max_frame=MIN_FRAME - 1)
    small.say({"t": "hello"}).refused("packet_limit", 4303)


def test_a_bad_hello_is_refused_and_the_peer_goes_on() -> None:
    rig = Framed()
    device = rig.joined()
    err = device.say({"t": "hello", "window": 0}, "n2").refused("invalid", 4303, "n2")
    assert err["field"] == "$.window"
    device.say({"t": "hello", "pools": ["p"]}, "n2").refused("address_kind_unsupported", 4303, "n2")
    assert device.ends == []
    assert device.say({"t": "ping"}).hear() == [{"t": "pong"}]
    assert len(rig.hub.core.conns) == 1


def test_a_first_hello_that_is_refused_is_the_end() -> None:
    rig = Framed()
    device = rig.device("alice")
    device.say({"t": "hello", "pools": ["p"]}).refused("address_kind_unsupported", 4303)
    assert device.ends == [4303]
    assert device.desk.peer is None
    assert rig.hub.core.conns == set()
    device.hello()


def test_no_more_peers_than_are_allowed() -> None:
    rig = Framed(limit=1)
    rig.joined("alice")
    device = rig.device("bob")
    err = device.say({"t": "hello"}).refused("too_many_connections", 4003)
    assert err["retry_after"]
    assert device.ends == [4003]
    assert len(rig.hub.core.conns) == 1


# -- resume and take-over ------------------------------------------------------------------------------------------


def test_a_session_is_resumed_under_a_new_nonce() -> None:
    rig = Framed()
    device = rig.joined()
    first = msgspec.json.decode(device.sent[0])
    for n in range(3):
        rig.publish("alice", b"%d" % n)
    assert [m["seq"] for m in device.heard("msg")] == [1, 2, 3]
    device.desk.lost(clean=True)
    back = rig.device("alice")
    welcome = back.say(
        {"t": "hello", "resume": first["resume"], "epoch": first["epoch"], "ack": 1}, "n2"
    ).hear()
    assert (welcome[0]["resumed"], welcome[0]["epoch"], welcome[0]["next"]) == (True, first["epoch"], 4)
    assert [(m["seq"], m["body"], m["redelivered"]) for m in welcome[1]["m"]] == [(2, 1, 1), (3, 2, 1)]


def test_a_new_hello_takes_over_on_the_same_topics() -> None:
    rig = Framed()
    device = rig.joined(c="n1")
    rig.publish("alice")
    device.hear()
    frames = device.say({"t": "hello"}, "n2").hear()
    assert [frame["t"] for frame in frames] == ["err", "welcome", "msg"]
    err, welcome, _ = frames
    assert (err["code"], err["close"], err["c"], welcome["c"]) == ("taken_over", 4302, "n1", "n2")
    assert device.ends == []
    assert len(rig.hub.core.conns) == 1
    device.say({"t": "ack", "seq": 1}, "n1").refused("hello_first", None, "n1")
    assert rig.hub.presence("alice")["in_flight"] == 1
    device.say({"t": "ack", "seq": 1}, "n2")
    assert rig.hub.presence("alice")["in_flight"] == 0


def test_two_hellos_at_once_leave_the_later_one() -> None:
    rig = Framed()
    rig.auto = False
    device = rig.device("alice")
    device.say({"t": "hello"}, "n1").say({"t": "hello"}, "n2")
    rig.auto = True
    rig.pass_(0.01)
    err, welcome = device.hear()
    assert (err["close"], err["c"], welcome["t"], welcome["c"]) == (4302, "n1", "welcome", "n2")
    assert len(rig.hub.core.conns) == 1


def test_what_comes_late_of_a_peer_that_was_taken_over_takes_nothing_back() -> None:
    rig = Framed()
    device = rig.device("alice")
    for n in range(PAST + 1):
        device.hello(f"n{n}")
    device.say({"t": "hello"}, f"n{PAST - 1}").refused("taken_over", 4302, f"n{PAST - 1}")
    device.say({"t": "hello"}, "n0").refused("taken_over", 4302, "n0")
    assert device.say({"t": "ping"}, f"n{PAST}").hear() == [{"t": "pong"}]
    device.hello("x")
    device.hello("n0")  # so long ago that it is forgotten


def test_another_transport_takes_over() -> None:
    rig = Framed()
    device = rig.joined()
    rig.publish("alice")
    device.hear()
    other = rig.conn("alice")
    device.refused("taken_over", 4302)
    assert device.ends == [4302]
    assert len(written_by(other)) == 1
    device.say(PUB).refused("hello_first", None)
    device.say({"t": "hello"}).refused("taken_over", 4302)
    device.hello("n2")
    assert other.closed == 4302


def test_a_session_goes_from_one_transport_to_the_other() -> None:
    rig = Framed()
    other = rig.conn("alice")
    assert other.welcomed is not None
    rig.publish("alice")
    other.ack(1)
    other.drop(clean=True)
    device = rig.device("alice")
    welcome = device.hello("n1", resume=other.welcomed["resume"], epoch=other.welcomed["epoch"])
    assert (welcome["resumed"], welcome["next"]) == (True, 2)
    rig.publish("alice")
    assert [m["seq"] for m in device.heard("msg")] == [2]


# -- frames of the client ------------------------------------------------------------------------------------------


def test_messages_gaps_and_answers_go_both_ways() -> None:
    rig = Framed()
    alice, bob = rig.joined("alice"), rig.joined("bob")
    alice.say({"t": "pub", "m": [{"ref": "a", "to": "bob", "body": {"n": 1}, "notify": ["delivered"]}]})
    ((ok,),) = [frame["m"] for frame in alice.hear()]
    assert ok["ref"] == "a"
    ((got,),) = [frame["m"] for frame in bob.hear()]
    assert (got["seq"], got["id"], got["from"], got["body"]) == (1, ok["id"], "alice", {"n": 1})
    bob.say({"t": "ack", "seq": 1})
    (status,) = alice.heard("status")
    assert (status["seq"], status["id"], status["status"], status["via"]) == (
        1,
        ok["id"],
        "delivered",
        "mqtt",
    )
    alice.say({"t": "ack", "seqs": [1]})
    assert rig.hub.presence("alice")["in_flight"] == 0
    alice.say({"t": "pub", "m": [{"to": "bob", "body": 2}]})
    bob.say({"t": "nack", "seq": 2, "delay": 0})
    rig.pass_(0.1)
    assert [m["seq"] for m in bob.heard("msg")] == [2, 3]
    bob.say({"t": "working", "seq": 3}).say({"t": "reject", "seq": 3, "why": "no"})
    assert bob.hear() == []
    bob.say({"t": "read", "ids": [ok["id"]]})
    rig.pass_(0.1)
    assert rig.status(decode_id(ok["id"])) == Status.READ


def test_bad_messages_are_refused_and_the_others_count() -> None:
    rig = Framed()
    device = rig.joined()
    device.say({"t": "pub", "m": [
        {"ref": "a", "to": "bob", "body": 1},
        {"ref": "b", "to": "bob", "body": 2, "ttl": "soon"},
        {"ref": "c", "to": "a b", "body": 3},
    ]})  # fmt: skip
    *errs, ok = device.hear()
    assert [(e["ref"], e["field"], e.get("c")) for e in errs] == [
        ("b", "$.m[1].ttl", None),
        ("c", "$.m[2].to", None),
    ]
    assert [entry["ref"] for entry in ok["m"]] == ["a"]
    assert device.ends == []


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ({"t": "nope"}, "invalid", "$.t"),
        ({"t": "ack"}, "invalid", "$.seq"),
        ({"t": "ack", "seq": 99}, "seq_unknown", "$.seq"),
        ({"t": "pub", "m": 5}, "invalid", "$.m"),
        ({"t": "ping", "extra": 1}, "invalid", "$.extra"),
    ],
)
def test_a_malformed_frame_ends_its_peer(frame: dict[str, Any], code: str, field: str) -> None:
    rig = Framed()
    device = rig.joined()
    assert device.say(frame).refused(code, 4303)["field"] == field
    assert device.ends == [4303]
    assert rig.hub.presence("alice")["status"] != "online"
    assert rig.hub.core.conns == set()
    device.say({"t": "ping"}).refused("hello_first", None)
    device.hello("n1")


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"5", b'{"t":"ping","c":"n1"', b"\xff", b"[" * 5000])
def test_what_is_no_frame_ends_the_peer(data: bytes) -> None:
    rig = Framed()
    device = rig.device("alice")
    (err,) = device.say(data).hear()
    assert (err["t"], err["close"], err.get("c")) == ("err", 4303, None)
    device.hello()
    (err,) = device.say(data).hear()
    assert (err["t"], err["close"], err["c"]) == ("err", 4303, "n1")
    assert device.ends == [4303]


def test_text_that_is_not_utf8_ends_the_peer_whose_nonce_it_has() -> None:
    rig = Framed()
    device = rig.joined()
    frame = b'{"t":"pub","c":"%b","m":[{"to":"bob","body":"\xff"}]}'
    device.say(frame % b"n0").refused("hello_first", None, "n0")
    device.say(frame % b"n1").refused("malformed", 4303)
    assert rig.hub.intake.accepted == 0


@pytest.mark.parametrize("frame", [{"t": "nope"}, {"t": "ack", "seq": -1}, {"c": "n0"}, {"t": ["hello"]}])
def test_a_malformed_frame_with_another_nonce_ends_nothing(frame: dict[str, Any]) -> None:
    rig = Framed()
    device = rig.joined()
    device.say(frame, "n0").refused("hello_first", None, "n0")
    device.say({**frame, "c": 5}, None).refused("hello_first", None, None)
    assert device.say({"t": "ping"}).hear() == [{"t": "pong"}]


def test_no_more_messages_in_a_frame_than_are_allowed() -> None:
    rig = Framed(Config(limits=Limits(batch=3)))
    device = rig.joined()
    entry = {"to": "bob", "body": 1}
    assert len(device.say({"t": "pub", "m": [entry] * 3}).heard("ok")) == 3
    device.say({"t": "pub", "m": [entry] * 4}).refused("batch_too_large", 4303)
    assert rig.hub.intake.accepted == 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([msgspec.json.encode({**f, "c": "n1"}) for f in AFTER_HELLO])
    )
)
def test_no_bytes_disturb_anybody_else(payloads: list[bytes]) -> None:
    rig = Framed()
    other = rig.joined("bob")
    device = rig.joined("alice")
    for payload in payloads:
        device.say(payload)
        for frame in device.hear():
            assert frame["t"] in {"err", "ok", "pong"}
    assert other.desk.peer is not None
    assert other.say({"t": "ping"}).hear()[-1] == {"t": "pong"}


# -- what is sent --------------------------------------------------------------------------------------------------


def fill(rig: Rig, count: int, size: int) -> None:
    for n in range(count):
        rig.publish("alice", b'"%04d%b"' % (n, b"x" * size))


@pytest.mark.parametrize("max_frame", [MIN_FRAME, 1500, 5000, MAX_SLICE])
def test_messages_are_cut_into_frames_that_the_device_takes(max_frame: int) -> None:
    rig = Framed()
    fill(rig, 60, 200)
    device = rig.device("alice", max_frame=max_frame)
    device.say({"t": "hello"})
    assert [m["seq"] for m in device.heard("msg")] == list(range(1, 61))
    frames = device.sent[1:]
    assert max(map(len, frames)) <= max_frame
    if max_frame == MAX_SLICE:
        assert len(frames) == 1
    else:
        # as many as fit, not one each
        longest = max(len(frame) // (1 + frame.count(b'"seq"')) for frame in frames)
        assert all(len(frame) > max_frame - 2 * longest - 60 for frame in frames[:-1])


def test_a_frame_is_as_long_as_allowed_to_the_byte() -> None:
    rig = Framed()
    fill(rig, 2, 600)
    whole = rig.device("alice")
    whole.say({"t": "hello"})
    exact = len(whole.sent[1])
    for room, frames in [(exact, 1), (exact - 1, 2)]:
        rig = Framed()
        fill(rig, 2, 600)
        device = rig.device("alice", max_frame=room)
        device.say({"t": "hello"})
        assert len(device.sent) == 1 + frames


def test_a_message_above_a_slice_goes_alone() -> None:
    rig = Framed(Config(limits=Limits(max_payload=1 << 20)))
    fill(rig, 1, 10)
    fill(rig, 1, MAX_SLICE)
    fill(rig, 1, 10)
    device = rig.device("alice", max_frame=1 << 21)
    device.say({"t": "hello"})
    assert [len(f["m"]) for f in device.hear()[1:]] == [1, 1, 1]


def test_a_message_that_the_device_cannot_take_is_dead_and_a_gap() -> None:
    rig = Framed()
    fill(rig, 1, 10)
    big = rig.publish("alice", b'"%b"' % (b"x" * 2000)).results[0][0]
    fill(rig, 1, 10)
    device = rig.device("alice", max_frame=MIN_FRAME)
    frames = device.say({"t": "hello"}).hear()
    assert [(f["t"], [m["seq"] for m in f["m"]]) for f in frames[1:]] == [
        ("msg", [1]),
        ("msg", [3]),
        ("gap", [2]),  # committed before its frame
    ]
    assert frames[3]["m"][0]["why"] == "dead"
    assert rig.status(big) == Status.DEAD
    device.say({"t": "ack", "seq": 3})
    assert rig.hub.presence("alice")["in_flight"] == 0
    assert device.hear() == []


def test_kinds_keep_the_order_of_their_seqs() -> None:
    rig = Framed()
    alice = rig.joined()
    bob = rig.joined("bob")
    alice.desk.pause()
    for n in range(2):
        rig.publish("alice")
        alice.say({"t": "pub", "m": [{"to": "bob", "body": n, "notify": ["delivered"]}]})
        bob.say({"t": "ack", "seq": n + 1})
    alice.hear()
    alice.desk.resume()
    rig.pass_(0.1)
    frames = alice.hear()
    assert [e["seq"] for f in frames for e in f["m"]] == [1, 2, 3, 4]
    assert {f["t"] for f in frames} == {"msg", "status"}


def test_many_answers_are_cut_into_frames() -> None:
    rig = Framed()
    device = rig.joined(max_frame=MIN_FRAME)
    device.say({"t": "pub", "m": [{"ref": f"{n}\x01" * 10, "to": "bob", "body": n} for n in range(50)]})
    assert len(device.heard("ok")) == 50
    assert len(device.sent) > 3


def test_an_answer_that_no_packet_holds_is_dropped_and_counted() -> None:
    rig = Framed()
    device = rig.joined(max_frame=MIN_FRAME)
    device.say(
        {
            "t": "pub",
            "m": [{"ref": "\x01" * 64, "to": "bob", "body": 1, "\x01" * 100: 1}, {"to": "bob", "body": 1}],
        }
    )
    assert [frame["t"] for frame in device.hear()] == ["ok"]
    assert rig.framing.dropped == 1


def test_a_device_that_takes_nothing_holds_messages_back() -> None:
    rig = Framed()
    device = rig.joined()
    device.hear()
    device.desk.pause()
    fill(rig, 3, 10)
    device.say({"t": "ping"})
    assert device.hear() == [{"t": "pong"}]
    device.desk.resume()
    rig.pass_(0.1)
    assert [m["seq"] for m in device.heard("msg")] == [1, 2, 3]


def test_a_device_is_sent_no_more_frames_than_it_takes() -> None:
    rig = Framed()
    fill(rig, 20, 500)
    device = rig.device("alice", max_frame=1500)
    device.takes = 2
    device.say({"t": "hello"})
    assert [f["t"] for f in device.hear()] == ["welcome", "msg"]
    seen = []
    for _ in range(20):
        device.takes = 1
        device.desk.resume()
        rig.pass_(0.01)
        frames = device.hear()
        assert len(frames) <= 1
        seen += [m["seq"] for f in frames for m in f["m"]]
    assert seen == list(range(3, 21))


def test_a_pause_outlasts_a_peer() -> None:
    rig = Framed()
    device = rig.joined()
    device.desk.pause()
    device.hello("n2")
    fill(rig, 1, 10)
    assert device.hear() == []
    device.desk.resume()
    rig.pass_(0.01)
    assert len(device.heard("msg")) == 1


def test_a_body_is_let_go_when_it_is_sent() -> None:
    rig = Framed()
    device = rig.joined()
    device.desk.pause()
    fill(rig, 1, 10)
    items = rig.hub.core.sessions["alice"].window.items
    device.desk.resume()
    rig.pass_(0.01)
    assert [item.body for item in items] == [None]
    rig.pass_(15)  # ack_wait: it is read in the store and sent again
    first, *again = device.heard("msg")
    assert "redelivered" not in first
    assert [(m["seq"], m["body"], m["redelivered"]) for m in again] == [(1, first["body"], 1)]


def test_what_cannot_be_laid_out_ends_its_peer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Framed()
    device, other = rig.joined(), rig.joined("bob")
    entry = wire.entry

    def broken(item: Any, root: str) -> bytes:
        if item.client == "alice":
            raise ValueError("surrogates")
        return entry(item, root)

    monkeypatch.setattr(wire, "entry", broken)
    rig.publish("alice")
    device.refused("internal", 1011)
    assert device.ends == [1011]
    rig.publish("bob")
    assert len(other.heard("msg")) == 1


def test_the_room_of_a_payload() -> None:
    topic = b"gw/v1/d/alice"
    for size in (MIN_FRAME, 100_000, 3_000_000):
        packet = publish(5, topic, b"x" * payload_room(size, topic))
        assert size - 3 <= len(packet) <= size


def test_a_device_counts_in_the_figures() -> None:
    rig = Framed()
    device: Device = rig.joined()
    device.say({"t": "ping"}).say({"t": "bye"})
    assert (rig.framing.frames_in, rig.framing.frames_out) == (3, 3)
    assert rig.framing.closes == {1000: 1}
