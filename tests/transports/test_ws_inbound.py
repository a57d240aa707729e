"""Frames in: what reaches the hub, what is answered, what ends the connection and touches nothing else."""

from typing import Any

import msgspec
import pytest

from gateway.errors import Forbidden, Invalid, Limited
from gateway.ids import encode_id
from gateway.transports.conversation import OWED_HIGH, OWED_LOW
from tests.transports.double import FIRST_ID, HubDouble
from tests.transports.rig import Rig, refused

BOTH = pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])


@BOTH
async def test_each_frame_reaches_its_call(rig: Rig, hub: HubDouble, binary: bool) -> None:
    peer = await rig.join(binary=binary)
    del hub.calls[:]
    peer.send(
        {"t": "ack", "seq": 18},
        {"t": "ack", "seqs": [20, 22]},
        {"t": "nack", "seq": 19, "delay": 5, "why": "busy"},
        {"t": "reject", "seq": 21},
        {"t": "working", "seq": 23},
        {"t": "read", "ids": [encode_id(7), encode_id(8).lower()]},
        {"t": "ping"},
    )
    assert [tuple(call[:1] + call[2:]) for call in hub.calls] == [
        ("ack", 18, None),
        ("ack", None, [20, 22]),
        ("nack", 19, 5.0, "busy"),
        ("reject", 21, ""),
        ("working", 23),
        ("read", [7, 8]),
    ]
    assert await peer.answer() == [{"t": "pong"}]


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ({"t": "ack"}, "$.seq"),
        ({"t": "ack", "seq": True}, "$.seq"),
        ({"t": "read", "ids": [encode_id(7), "U" * 13]}, "$.ids[1]"),
        ({"t": "read", "ids": ["short"]}, "$.ids[0]"),
        ({"t": "working"}, "$.seq"),
        ({"t": "wurst"}, "$.t"),
        ({"t": "welcome"}, "$.t"),
    ],
)
async def test_a_malformed_frame_ends_the_connection(
    rig: Rig, hub: HubDouble, frame: dict[str, Any], field: str
) -> None:
    peer = await rig.join()
    before = len(hub.calls)
    peer.send(frame, {"t": "ack", "seq": 1})
    err = await refused(peer)
    assert (err["code"], err["status"], err["field"]) == ("invalid", 422, field)
    assert [call[0] for call in hub.calls[before:]] == ["disconnected"]


async def test_an_ack_that_the_hub_refuses_ends_the_connection(rig: Rig, hub: HubDouble) -> None:
    hub.raises["ack"] = Invalid("never sent", code="seq_unknown", field="$.seq")
    peer = await rig.join()
    peer.send({"t": "ack", "seq": 99})
    assert (await refused(peer))["code"] == "seq_unknown"


async def test_bye_is_clean_and_closes_1000(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.send({"t": "bye", "end": True})
    assert hub.named("bye", "disconnected") == [("bye", True), ("disconnected", True)]
    await rig.turn()
    assert peer.closed() == (1000, "bye")


# -- publishing ----------------------------------------------------------------------------------------------------


@BOTH
async def test_a_publish_is_answered_when_it_is_stored(rig: Rig, hub: HubDouble, binary: bool) -> None:
    hub.stores = False
    peer = await rig.join(binary=binary)
    peer.send(
        {
            "t": "pub",
            "m": [{"ref": "a1", "to": "bob", "body": {"x": [1]}}, {"ref": 2, "to": "eve", "body": None}],
        }
    )
    assert await peer.answer() == []
    assert [(ref, pub.to, at, packed) for ref, pub, at, packed in hub.published] == [
        ("a1", "bob", "$.m[0]", binary),
        (2, "eve", "$.m[1]", binary),
    ]
    body = hub.published[0][1].body
    assert (msgspec.msgpack if binary else msgspec.json).decode(body) == {"x": [1]}
    hub.store_all()
    first, second = encode_id(FIRST_ID + 1), encode_id(FIRST_ID + 2)
    assert await peer.answer() == [{"t": "ok", "m": [{"id": first, "ref": "a1"}, {"id": second, "ref": 2}]}]


@BOTH
async def test_bad_messages_are_refused_and_the_others_count(rig: Rig, hub: HubDouble, binary: bool) -> None:
    hub.refuses["eve"] = Forbidden("may not", code="address_forbidden", field="$.m[3].to")
    peer = await rig.join(binary=binary)
    peer.send({"t": "pub", "m": [
        {"ref": "a", "to": "bob", "body": 1},
        {"ref": "b", "to": "bob", "body": 2, "ttl": "soon"},
        {"ref": [3], "to": "bob", "body": 3},
        {"ref": "d", "to": "eve", "body": 4},
        {"ref": "e", "to": "zoe", "body": 5},
    ]})  # fmt: skip
    *errs, ok = await peer.answer()
    assert [(e.get("ref"), e["code"], e["status"], e["field"]) for e in errs] == [
        ("b", "invalid", 422, "$.m[1].ttl"),
        (None, "invalid", 422, "$.m[2].ref"),
        ("d", "address_forbidden", 403, "$.m[3].to"),
    ]
    assert [entry["ref"] for entry in ok["m"]] == ["a", "e"]
    assert [pub.to for _, pub, _, _ in hub.published] == ["bob", "zoe"]
    assert not peer.transport.closing


async def test_a_refusal_after_the_commit_carries_its_ref(rig: Rig, hub: HubDouble) -> None:
    hub.stores = False
    peer = await rig.join()
    peer.send({"t": "pub", "m": [{"ref": "a1", "to": "bob", "body": 1}]})
    sink, ref, _ = hub.waiting.pop()
    sink.refused(ref, Limited("full", code="queue_full", retry_after=1.5))
    assert await peer.answer() == [
        {"t": "err", "ref": "a1", "code": "queue_full", "status": 429, "detail": "full", "retry_after": 1.5}
    ]


@BOTH
async def test_a_frame_with_too_many_messages_is_refused_whole(
    rig: Rig, hub: HubDouble, binary: bool
) -> None:
    peer = await rig.join(binary=binary)
    peer.send({"t": "pub", "m": [{"to": "bob", "body": 1}] * 50})
    assert len((await peer.answer())[0]["m"]) == 50
    peer.send({"t": "pub", "m": [{"to": "bob", "body": 1}] * 50 + [{"to": 5}]})
    err = await refused(peer)
    assert (err["code"], err["status"], err["field"]) == ("batch_too_large", 413, "$.m")
    assert len(hub.published) == 50


async def test_an_empty_list_is_nothing(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.send({"t": "pub", "m": []})
    assert await peer.answer() == []


async def test_a_publisher_ahead_of_the_store_is_not_read(rig: Rig, hub: HubDouble) -> None:
    hub.stores = False
    peer = await rig.join()
    batch = {"t": "pub", "m": [{"to": "bob", "body": 1}] * 50}
    for _ in range(OWED_HIGH // 50):
        peer.send(batch)
    assert peer.transport.reading
    peer.send(batch)
    assert not peer.transport.reading
    await rig.advance(100)  # its silence is ours
    assert not peer.transport.closing
    waiting = hub.waiting
    while len(waiting) > OWED_LOW:
        assert not peer.transport.reading
        sink, ref, id = waiting.pop()
        sink.stored(ref, id, False, 0)
    assert peer.transport.reading
    await rig.advance(30)  # it is given the time to be heard again
    assert not peer.transport.closing


async def test_what_is_refused_at_once_is_not_waited_for(rig: Rig, hub: HubDouble) -> None:
    hub.refuses["eve"] = Forbidden("may not", code="address_forbidden")
    peer = await rig.join()
    for _ in range(OWED_HIGH // 50 + 1):
        peer.send({"t": "pub", "m": [{"to": "eve", "body": 1}] * 50})
    assert peer.transport.reading
    assert len(await peer.answer()) >= OWED_HIGH
