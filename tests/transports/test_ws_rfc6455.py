"""Framing: pieces, control frames, what breaks RFC 6455 and what breaks the subprotocol."""

import zlib

import msgspec
import pytest

from gateway.errors import Conflict
from tests.transports.conftest import MakeRig
from tests.transports.double import HubDouble
from tests.transports.rig import BINARY, CLOSE, CONT, PING, PONG, TEXT, Rig, client_frame, refused

BOTH = pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])


async def test_a_message_may_come_in_pieces_with_pings_between(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    payload = msgspec.json.encode({"t": "nack", "seq": 1, "why": "später"})
    peer.feed(client_frame(TEXT, payload[:1], fin=False))
    for i in range(1, len(payload)):
        peer.feed(client_frame(CONT, payload[i : i + 1], fin=False))  # cuts a character in two
        peer.feed(client_frame(PING, b"p"))
    peer.feed(client_frame(CONT, b""))
    assert hub.named("nack") == [("nack", 1, 0.0, "später")]
    await rig.turn()
    assert peer.raw() == [(0x8A, b"p")] * (len(payload) - 1)


async def test_pieces_count_together_against_the_limit(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.feed(client_frame(TEXT, b"[" * 10_000, fin=False))
    peer.feed(client_frame(CONT, b"[" * 6384, fin=False))
    await rig.turn()
    assert not peer.transport.eof
    peer.feed(client_frame(CONT, b"["))
    assert peer.closed()[0] == 1009
    assert hub.named("disconnected") == [("disconnected", False)]


async def test_empty_pieces_cost_nothing(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.feed(client_frame(TEXT, b"", fin=False))
    peer.feed(client_frame(CONT, b"", fin=False) * 10_000)
    conn = hub.connections()[0]
    assert conn.partial == b""
    peer.feed(client_frame(CONT, b'{"t":"ping"}'))
    assert await peer.answer() == [{"t": "pong"}]
    assert conn.partial is None


async def test_pongs_and_unsolicited_ones_are_only_a_sign_of_life(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    hub.scheduler.ms += 1234
    peer.feed(client_frame(PONG, b"x"))
    assert hub.connections()[0].last_proof == hub.scheduler.ms
    await rig.turn()
    assert peer.raw() == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(TEXT, b"{}", masked=False), 1002),
        (client_frame(TEXT, b"{}", rsv=4), 1002),
        (client_frame(TEXT, b"{}", rsv=1), 1002),
        (client_frame(3, b""), 1002),
        (client_frame(11, b""), 1002),
        (client_frame(PING, b"x", fin=False), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(CONT, b"x"), 1002),
        (client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"y"), 1002),
        (client_frame(CLOSE, b"\x03"), 1002),
        (client_frame(CLOSE, b"\x03\xec"), 1002),  # 1004, reserved
        (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
        (client_frame(TEXT, b"x" * 16385), 1009),
        (client_frame(TEXT, b'{"t":"ping\xff"}'), 1007),
        (client_frame(TEXT, b'{"t":"pub","m":[{"to":"bob","body":"\xff"}]}'), 1007),
        (client_frame(TEXT, b'"\xed\xa0\x80"'), 1007),  # a surrogate
        (client_frame(TEXT, b'{"t":"bye"', fin=False) + client_frame(CONT, b"\xc3"), 1007),
    ],
    ids=str,
)
async def test_broken_framing_ends_the_connection_with_rfc_6455_s_code(
    rig: Rig, hub: HubDouble, data: bytes, code: int
) -> None:
    peer = await rig.join()
    before = len(hub.calls)
    peer.feed(data)
    await rig.turn()
    assert peer.closed()[0] == code
    assert [call[0] for call in hub.calls[before:]] == ["disconnected"]
    assert hub.published == []
    peer.feed(client_frame(TEXT, b'{"t":"ack","seq":1}'))
    peer.end()
    await rig.turn()
    assert hub.named("ack") == []
    assert hub.named("left") == [("left",)]
    assert rig.server.figures()["closes"] == {str(code): 1}


@pytest.mark.parametrize(("binary", "opcode"), [(False, BINARY), (True, TEXT)])
async def test_the_other_kind_of_frame_is_refused(
    rig: Rig, hub: HubDouble, binary: bool, opcode: int
) -> None:
    peer = await rig.join(binary=binary)
    encode = msgspec.json.encode if binary else msgspec.msgpack.encode
    peer.feed(client_frame(opcode, encode({"t": "ack", "seq": 1})))
    assert (await refused(peer))["code"] == "frame_kind"
    assert hub.named("ack") == []


@pytest.mark.parametrize(("binary", "data"), [(False, b""), (False, b"{"), (True, b""), (True, b"\xc1")])
async def test_what_cannot_be_decoded_is_refused(rig: Rig, hub: HubDouble, binary: bool, data: bytes) -> None:
    peer = await rig.join(binary=binary)
    peer.feed(client_frame(BINARY if binary else TEXT, data))
    assert (await refused(peer))["code"] == "malformed"


async def test_compressed_frames_are_read_and_a_bomb_is_1009(make_rig: MakeRig, hub: HubDouble) -> None:
    rig = make_rig(compression=True)
    peer = rig.open(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})

    def deflated(data: bytes) -> bytes:
        squeeze = zlib.compressobj(wbits=-15)
        return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]

    peer.feed(client_frame(TEXT, deflated(b'{"t":"hello","token":"alice"}'), rsv=4))
    await rig.turn()
    assert hub.named("hello")
    peer.feed(client_frame(TEXT, deflated(b"[" * 1_000_000), rsv=4))
    assert peer.closed()[0] == 1009


async def test_a_conflict_in_a_call_is_a_protocol_error(rig: Rig, hub: HubDouble) -> None:
    hub.raises["nack"] = Conflict("no")
    peer = await rig.join()
    peer.send({"t": "nack", "seq": 1})
    await refused(peer)
