"""Frames that are cut out in place: never another verdict than that of the protocol core alone."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol, State

from gateway.transports.websocket.frames import JSON_CODEC, MSGPACK_CODEC
from gateway.transports.websocket.reader import FrameReader
from tests.transports.rig import BINARY, CLOSE, CONT, PING, PONG, TEXT, client_frame

LIMIT = 70_000

sizes = st.sampled_from([0, 1, 5, 124, 125, 126, 127, 128, 65_535, 65_536, LIMIT, LIMIT + 1])
# nearly all of them good
whole = st.builds(
    lambda opcode, size: client_frame(opcode, bytes(i & 0xFF for i in range(size))),
    st.sampled_from([TEXT, TEXT, BINARY]),
    sizes,
)
others = st.one_of(
    st.builds(
        client_frame,
        st.sampled_from([CONT, TEXT, BINARY, CLOSE, PING, PONG, 3]),
        st.binary(max_size=130),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 4]),
        masked=st.sampled_from([True, True, True, False]),
    ),
    st.binary(max_size=8),
)
# a length of three bytes that one would do for (RFC 6455 5.2 forbids it; the core takes it)
padded = st.builds(
    lambda body: b"\x81\xfe\x00" + bytes((len(body),)) + bytes(4) + body, st.binary(max_size=125)
)
# what looks like frames within a frame: masked with zeroes
nested = st.integers(0, 40).map(
    lambda n: b"\x81\xfe" + (12 * n + 126).to_bytes(2, "big") + bytes(4) + b"\x81\x80" * (6 * n + 63)
)
streams = st.lists(st.one_of(whole, whole, whole, nested, others, padded), max_size=8).map(b"".join)


def core() -> Protocol:
    return Protocol(SERVER, state=OPEN, max_size=LIMIT)


def plain(frame: Any) -> tuple[int, bytes, bool]:
    assert isinstance(frame, Frame)
    return int(frame.opcode), bytes(frame.data), frame.fin


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at, out = 0, []
    for cut in cuts:
        out.append(data[at : at + cut])
        at += cut
    return [*filter(None, out), *([data[at:]] if at < len(data) else [])]


@settings(max_examples=500)
@given(streams, st.lists(st.integers(1, 140), max_size=12), st.booleans())
@example(
    client_frame(TEXT, b"a") + client_frame(TEXT, b"b", fin=False) + client_frame(TEXT, b"c"), [14], False
)
@example(b"\x81\xfe\x00\x01\0\0\0\0x" + client_frame(TEXT), [], False)
def test_it_reads_what_the_core_alone_reads(data: bytes, cuts: list[int], binary: bool) -> None:
    """The same frames, the same bytes to answer them, the same end, however the stream was cut. Seen to fail where the
    reader forgets that the core stands within a frame, within a message in pieces, or has closed.
    """
    alone, front = core(), core()
    kind = BINARY if binary else TEXT
    reader = FrameReader(front, (MSGPACK_CODEC if binary else JSON_CODEC).first_byte)
    for piece in pieces(data, cuts):
        alone.receive_data(piece)
        expected = [plain(event) for event in alone.events_received()]
        found = [(kind, one, True) if type(one) is bytes else plain(one) for one in reader.feed(piece)]
        assert found == expected
        assert front.data_to_send() == alone.data_to_send()
        assert front.state is alone.state
        assert repr(front.parser_exc) == repr(alone.parser_exc)


def test_whole_messages_are_cut_out_in_place() -> None:
    front = core()
    reader = FrameReader(front, JSON_CODEC.first_byte)
    found = reader.feed(client_frame(TEXT, b"{}") + client_frame(TEXT, b"x" * 300) + client_frame(PING, b"p"))
    assert found[:2] == [b"{}", b"x" * 300]
    assert [type(one) for one in found] == [bytes, bytes, Frame]
    # in the middle of a frame the core has it, and behind it nothing does
    assert reader.feed(client_frame(TEXT, b"abc")[:5]) == []
    assert [type(one) for one in reader.feed(client_frame(TEXT, b"abc")[5:])] == [Frame]
    assert reader.feed(client_frame(TEXT, b"z")) == [b"z"]
    # pieces are the core's, to their end
    reader.feed(client_frame(TEXT, b"a", fin=False))
    [last] = reader.feed(client_frame(CONT, b"b"))
    assert isinstance(last, Frame)
    assert last.opcode is Opcode.CONT
    assert reader.feed(client_frame(TEXT, b"z")) == [b"z"]


def test_nothing_is_in_place_once_the_connection_closes() -> None:
    front = core()
    reader = FrameReader(front, JSON_CODEC.first_byte)
    front.send_close(1000)
    assert front.state is State.CLOSING
    assert [type(one) for one in reader.feed(client_frame(TEXT, b"late"))] == [Frame]
