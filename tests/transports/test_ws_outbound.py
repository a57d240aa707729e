"""What leaves: one write a turn, in order, in the encoding of the connection, as fast as the peer takes it."""

from typing import Any

import msgspec
import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from gateway.errors import Invalid
from gateway.ids import encode_id
from gateway.model import Extra, Item
from gateway.transports.websocket.writer import OKS_A_FRAME
from tests.transports.conftest import MakeRig
from tests.transports.double import HubDouble
from tests.transports.rig import Peer, Rig, gap, message, server_frames, status

BOTH = pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
SLICE = 16384  # a quarter of the buffer limit of the tests


def seqs(frames: list[Any]) -> list[tuple[str, list[int]]]:
    return [(frame["t"], [entry["seq"] for entry in frame["m"]]) for frame in frames]


def deliver(hub: HubDouble, peer: Peer, *items: Item) -> None:
    peer.conn.deliver(list(items))
    hub.touch(peer.conn)


@BOTH
async def test_a_turn_is_one_write_in_the_order_of_the_protocol(
    rig: Rig, hub: HubDouble, binary: bool
) -> None:
    hub.welcomes = False
    peer = rig.open(binary=binary)
    peer.send({"t": "hello", "token": "alice"})
    conn, writes = peer.conn, peer.transport.writes
    conn.error(Invalid("something", code="odd"))
    hub.welcome(conn)
    conn.stored("a1", 5, True, 0)
    deliver(hub, peer, message(1, {"n": 1}), message(2, "ü"), gap(3), status(4), status(5), message(6))
    conn.refused("a2", Invalid("bad", field="$.m[0]"))
    frames = await peer.answer()
    assert peer.transport.writes == writes + 1
    assert [frame["t"] for frame in frames] == ["welcome", "err", "err", "ok", "msg", "gap", "status", "msg"]
    assert seqs(frames[4:]) == [("msg", [1, 2]), ("gap", [3]), ("status", [4, 5]), ("msg", [6])]
    assert frames[3]["m"] == [{"id": encode_id(5), "ref": "a1", "dup": True}]
    assert [m["body"] for m in frames[4]["m"]] == [{"n": 1}, "ü"]


async def test_flushes_of_one_turn_are_asked_for_once(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    writes = peer.transport.writes
    for n in range(5):
        deliver(hub, peer, message(n + 1))
        peer.conn.stored(n, n, False, 0)
    assert len(await peer.answer()) == 2
    assert peer.transport.writes == writes + 1
    peer.conn.flush()
    assert peer.transport.writes == writes + 1


async def test_a_message_tells_all_that_it_carries(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    item = message(1, {"n": 1}, x=Extra(type="note", meta={"k": "ü"}))
    item.marks, item.via = 2, "sms"
    deliver(hub, peer, item)
    ((entry,),) = [frame["m"] for frame in await peer.answer()]
    assert entry["redelivered"] == 2
    assert (entry["type"], entry["meta"], entry["via"]) == ("note", {"k": "ü"}, "sms")
    assert entry["trace"].startswith("00-0123456789abcdef")


async def test_large_runs_are_cut_into_frames(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    deliver(hub, peer, *(message(n, b'"%b"' % (b"x" * 4000)) for n in range(1, 13)))
    await rig.turn()
    raw = peer.raw()
    assert all(len(payload) < SLICE + 4300 for _, payload in raw)
    assert [s for _, m in seqs([msgspec.json.decode(payload) for _, payload in raw]) for s in m] == list(
        range(1, 13)
    )
    assert len(raw) > 2


async def test_a_message_above_a_slice_goes_alone(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    deliver(hub, peer, message(1), message(2, b'"%b"' % (b"x" * 70_000)), message(3))
    assert seqs(await peer.answer()) == [("msg", [1]), ("msg", [2]), ("msg", [3])]


async def test_many_answers_are_cut_into_frames(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    for n in range(OKS_A_FRAME + 1):
        peer.conn.stored(n, n, False, 0)
    assert [len(frame["m"]) for frame in await peer.answer()] == [OKS_A_FRAME, 1]


async def test_what_was_settled_meanwhile_is_not_written(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    items = [message(1), message(2), gap(3)]
    deliver(hub, peer, *items)
    items[0].body = None  # what the engine does with a settled one
    assert seqs(await peer.answer()) == [("msg", [2]), ("gap", [3])]
    deliver(hub, peer, items[0])
    assert await peer.answer() == []


async def test_a_body_is_let_go_when_it_is_written_and_not_before(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    items = [message(n, "x" * 9000) for n in range(1, 4)]
    deliver(hub, peer, *items)
    await rig.turn()
    assert [item.body is None for item in items] == [True, False, False]
    peer.transport.take(None)
    assert [item.body is None for item in items] == [True, True, True]
    assert seqs(peer.frames()) == [("msg", [1]), ("msg", [2]), ("msg", [3])]


async def test_goaway(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.conn.goaway(0.5, 5.0, "drain")
    assert await peer.answer() == [{"t": "goaway", "after": [0.5, 5.0], "why": "drain"}]
    peer.transport.lose()
    assert hub.named("disconnected") == [("disconnected", True)]


async def test_integers_that_msgpack_cannot_say_become_floats(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join(binary=True)
    deliver(hub, peer, message(1, b"[1,123456789012345678901234567890]"))
    ((entry,),) = [frame["m"] for frame in await peer.answer()]
    assert entry["body"] == [1, 123456789012345678901234567890.0]


@BOTH
async def test_compressed_frames_can_be_read(make_rig: MakeRig, hub: HubDouble, binary: bool) -> None:
    rig = make_rig(compression=True)
    peer = rig.open(headers={"Sec-WebSocket-Extensions": "permessage-deflate"}, binary=binary)
    peer.send({"t": "hello", "token": "alice"})
    await rig.turn()
    deliver(hub, peer, message(1, "x" * 1000), gap(2))
    peer.conn.close(4000, "drain")
    *data, close = server_frames(bytes(peer.transport.taken[len(peer.head) :]))
    extension = PerMessageDeflate(False, False, 12, 12)
    decode = msgspec.msgpack.decode if binary else msgspec.json.decode
    frames = []
    for head, payload in data:
        assert head & 0x40, "not compressed"
        frame = extension.decode(Frame(Opcode(head & 0x0F), payload, rsv1=True))
        assert (frame.opcode is Opcode.BINARY) is binary
        frames.append(decode(bytes(frame.data)))
    assert [frame["t"] for frame in frames] == ["welcome", "msg", "gap"]
    assert close[0] == 0x88


async def test_a_message_that_cannot_be_laid_out_ends_its_connection_alone(rig: Rig, hub: HubDouble) -> None:
    bad, good = await rig.join(binary=True), await rig.join("bob")
    deliver(hub, bad, message(1, b"not JSON"))
    deliver(hub, good, message(1))
    assert seqs(await good.answer()) == [("msg", [1])]
    assert bad.closed() == (1011, "internal error")
    assert hub.named("disconnected") == [("disconnected", False)]


async def test_it_ends_likewise_when_the_hub_closes(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join(binary=True)
    peer.conn.deliver([message(1, b"not JSON")])
    peer.conn.close(4000, "drain")
    assert peer.closed()[0] == 1011


# -- a peer that does not read -------------------------------------------------------------------------------------


def fill(hub: HubDouble, peer: Peer, first: int, count: int, size: int = 4000) -> None:
    deliver(hub, peer, *(message(n, b'"%b"' % (b"x" * size)) for n in range(first, first + count)))


async def test_a_peer_that_does_not_read_costs_one_slice(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    fill(hub, peer, 1, 100)
    await rig.turn()
    assert not peer.conn.writable
    assert len(peer.transport.buffer) < SLICE + 4300
    fill(hub, peer, 101, 10)
    await rig.turn()
    assert len(peer.transport.buffer) < SLICE + 4300
    assert hub.named("resumed_writing") == []


async def test_when_it_reads_again_it_gets_the_rest_and_the_hub_is_told(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(1000)
    fill(hub, peer, 1, 20)
    await rig.turn()
    assert rig.server.figures()["unwritable"] == 1
    buffered = len(peer.transport.buffer)
    peer.transport.take(buffered)  # exactly what there is: the next slice waits in the buffer again
    assert not peer.conn.writable
    assert hub.named("resumed_writing") == []
    peer.transport.take(None)
    assert peer.conn.writable
    assert hub.named("resumed_writing") == [("resumed_writing",)]
    assert [s for _, m in seqs(peer.frames()) for s in m] == list(range(1, 21))


async def test_one_that_takes_nothing_is_closed_4001_and_costs_nothing_more(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(1000)
    fill(hub, peer, 1, 20)
    await rig.advance(9.5)
    assert not peer.transport.closing
    await rig.advance(0.5 + 2 * rig.server.tick_ms / 1000 + 2.5)
    assert peer.transport.aborted
    assert peer.transport.lost
    assert hub.named("disconnected", "left") == [("disconnected", False), ("left",)]
    assert rig.server.figures()["closes"] == {"4001": 1}
    conn = hub.connections()[0]
    assert conn.items is conn.heads is conn.oks is None


async def test_one_that_takes_a_little_is_left_alone(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    fill(hub, peer, 1, 20)
    await rig.turn()

    def sip() -> None:
        peer.conn.stored("a", 5, False, 0)  # what is added meanwhile does not hide what is taken
        peer.transport.take(5)
        peer.feed(b"\x8a\x80\x00\x00\x00\x00")  # its pong

    await rig.advance(60, sip)
    assert not peer.transport.closing
    assert not peer.conn.writable


async def test_answers_that_pile_up_stop_its_reading_then_end_it(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    hub.stores = False
    conn, limit = peer.conn, rig.server.pile_limit
    stopped_at = 0
    while not peer.transport.closing:
        conn.refused("x" * 64, Invalid("y" * 1000))
        conn.flush()
        if limit // 2 < conn.piled <= limit:
            assert not peer.transport.reading
            stopped_at = conn.piled
    assert stopped_at > limit // 2
    assert peer.transport.aborted
    assert rig.server.figures()["closes"] == {"4001": 1}


async def test_a_peer_whose_answers_piled_up_is_read_again_when_it_reads(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    while peer.transport.reading:
        peer.conn.refused("x", Invalid("y" * 1000))
        peer.conn.flush()
    peer.transport.take(None)
    assert peer.transport.reading
    assert peer.conn.writable


async def test_a_hundred_stalled_readers_stay_below_the_limit(
    rig: Rig, hub: HubDouble, make_rig: MakeRig
) -> None:
    rig = make_rig(max_connections=200)
    peers = [await rig.join() for _ in range(100)]
    for peer in peers:
        peer.transport.take(0)
        fill(hub, peer, 1, 50)
    await rig.turn()
    assert sum(len(peer.transport.buffer) for peer in peers) <= 100 * 65536
