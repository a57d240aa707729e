"""Whatever comes, in whatever pieces: nothing escapes, what is good is read, nothing grows."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connect, Packet, Publish, Reader, Reason
from gateway.transports.mqtt.codec import reader as module
from tests.transports.mqtt.packets import (
    MAX,
    SIDE_IDS,
    SIDES,
    connects,
    packets,
    read,
    reader,
    told,
    write,
)
from tests.transports.mqtt.test_codec_literals import LITERALS
from tests.transports.mqtt.test_codec_refusals import REFUSED

Outcome = tuple[list[Packet], tuple[int, str] | None]

# every packet of these tests, good and bad, by who reads it
CORPUS: dict[tuple[int, bool], list[bytes]] = {side: [] for side in SIDES}
for _version, _server, _data, _ in LITERALS:
    CORPUS[_version, _server].append(bytes.fromhex(_data))
for _, _version, _server, _data, _ in REFUSED:
    CORPUS[_version or 4, _server].append(bytes.fromhex(_data))


def in_pieces(r: Reader, data: bytes, cuts: list[int]) -> Outcome:
    """What the reader makes of the same bytes, cut at these offsets."""
    found: list[Packet] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found += r.feed(data[start:end])
        check_bounds(r)
    return found, told(r.error)


def check_bounds(r: Reader) -> None:
    """What is kept is one incomplete packet within the limit, and nothing once the stream cannot be read."""
    if r._kept is not None:
        assert r.error is None
        assert 0 < len(r._kept) < r._need <= max(r._limit, 5)


def byte_by_byte(data: bytes) -> list[int]:
    return list(range(1, len(data)))


@pytest.mark.parametrize(("version", "server"), SIDES, ids=SIDE_IDS)
def test_what_is_written_is_read(version: int, server: bool) -> None:
    @settings(max_examples=250)
    @given(st.lists(packets(version, server=server), min_size=1, max_size=4))
    def check(sent: list[Packet]) -> None:
        data = b"".join(write(version, packet) for packet in sent)
        assert read(version, data, server=server) == (sent, None)

    check()


@pytest.mark.parametrize("version", [4, 5])
def test_every_connect_that_is_written_is_read(version: int) -> None:
    @settings(max_examples=250)
    @given(connects(version))
    def check(sent: Connect) -> None:
        r = Reader(server=True, max_packet=MAX)
        assert r.feed(write(version, sent)) == [sent]
        assert r.error is None
        assert r.version == version

    check()


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, bool, list[bytes]]:
    """A stream, whole packet by whole packet; one that a server reads from its beginning may begin with a CONNECT."""
    version, server = draw(st.sampled_from(SIDES))
    begin = []
    if server and draw(st.booleans()):
        begin = [write(version, draw(connects(version)))]
    sent = draw(st.lists(packets(version, server=server), max_size=4))
    return (0 if begin else version), server, begin + [write(version, packet) for packet in sent]


damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "drop", "insert", "cut"]), st.integers(0, 400), st.integers(0, 255)
    ),
    max_size=3,
)


def damage(data: bytes, blows: list[tuple[str, int, int]]) -> tuple[bytes, int]:
    """The bytes after some blows, and how many of the first are as they were."""
    hurt = bytearray(data)
    sound = len(data)
    for how, where, value in blows:
        if not hurt:
            break
        at = where % len(hurt)
        sound = min(sound, at)
        if how == "flip":
            hurt[at] ^= 1 << value % 8
        elif how == "set":
            hurt[at] = value
        elif how == "drop":
            del hurt[at]
        elif how == "insert":
            hurt.insert(at, value)
        else:
            del hurt[at:]
    return bytes(hurt), sound


@settings(max_examples=400)
@given(streams(), damages, st.lists(st.integers(0, 400), max_size=5), st.sampled_from([MAX, 200, 20]))
def test_damage_is_told_and_spoils_nothing_before_it(
    stream: tuple[int, bool, list[bytes]], blows: list[tuple[str, int, int]], cuts: list[int], limit: int
) -> None:
    version, server, sent = stream
    data, sound = damage(b"".join(sent), blows)
    whole = in_pieces(reader(version, server=server, limit=limit), data, [])
    # any pieces come to the same
    points = sorted({cut % (len(data) + 1) for cut in cuts})
    assert in_pieces(reader(version, server=server, limit=limit), data, points) == whole
    if len(data) < 500:
        assert in_pieces(reader(version, server=server, limit=limit), data, byte_by_byte(data)) == whole
    # what ended before the first blow is as it was
    before: list[Packet] = []
    good = reader(version, server=server)
    for packet in sent:
        sound -= len(packet)
        if sound < 0 or len(packet) > limit:
            break
        before += good.feed(packet)
    assert whole[0][: len(before)] == before


@settings(max_examples=500)
@given(st.sampled_from([*SIDES, (0, True)]), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=3))
def test_noise(side: tuple[int, bool], data: bytes, cuts: list[int]) -> None:
    version, server = side
    whole = in_pieces(reader(version, server=server), data, [])
    points = sorted({cut % (len(data) + 1) for cut in cuts})
    assert in_pieces(reader(version, server=server), data, points) == whole


@pytest.mark.parametrize(("version", "server"), SIDES, ids=SIDE_IDS)
def test_every_byte_of_every_packet_set_to_anything(version: int, server: bool) -> None:
    """What follows a packet decides nothing about it: its own fields end where it ends."""
    rng = random.Random(7)
    tail = b"\x62\2\0\7"
    for packet in CORPUS[version, server]:
        for at in range(len(packet)):
            for value in (0, 1, 2, 0x7F, 0x80, 0xFF, packet[at] ^ 1, rng.randrange(256)):
                data = packet[:at] + bytes((value,)) + packet[at + 1 :] + tail
                together = in_pieces(reader(version, server=server), data, [])
                apart = in_pieces(reader(version, server=server), data, [len(packet)])
                single = in_pieces(reader(version, server=server), data, byte_by_byte(data))
                assert together == apart == single, data.hex()


@pytest.mark.parametrize(("version", "server"), SIDES, ids=SIDE_IDS)
def test_every_packet_cut_short(version: int, server: bool) -> None:
    """A length that says less than the fields need, before different neighbours: always the same complaint."""
    for packet in CORPUS[version, server]:
        for length in range(min(len(packet) - 2, 0x7F)):
            short = packet[:1] + bytes((length,)) + packet[2 : 2 + length]
            outcomes = []
            for tail in (b"", b"\x40\2\0\1", b"\0" * 8, b"\xff" * 8):
                r = reader(version, server=server)
                found = r.feed(short + tail)
                outcomes.append((found[:1], told(r.error) if not found else None))
            assert all(outcome == outcomes[0] for outcome in outcomes), short.hex()


@pytest.mark.parametrize("version", [4, 5])
def test_a_big_packet_in_small_pieces_is_looked_at_once(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    look = Reader._header

    def counted(self: Reader, *args: Any) -> tuple[int, int]:
        looks.append(args)
        return look(self, *args)

    monkeypatch.setattr(Reader, "_header", counted)
    payload = bytes(200_000)
    data = codec.publish(version, b"t", payload, qos=1, pid=1)
    r = reader(version, server=True)
    kept = None
    for at in range(len(data) - 1):
        assert r.feed(data[at : at + 1]) == []
        # grown where it is, never copied
        assert kept is None or at < 6 or r._kept is kept
        kept = r._kept
    assert r.feed(data[-1:]) == [Publish(b"t", payload, 1, pid=1)]
    assert r._kept is None
    # each byte of the header, and the end
    assert len(looks) <= 6


def test_what_cannot_be_taken_is_never_kept() -> None:
    r = reader(4, server=True, limit=1000)
    assert r.feed(b"\x30\xe8\x07" + bytes(500)) == []
    assert r.error is not None
    assert r.error.code == Reason.PACKET_TOO_LARGE
    assert r._kept is None
    assert r.feed(bytes(5000)) == []
    assert r._kept is None


def test_a_long_topic_is_not_remembered() -> None:
    """Else a peer could fill the memory with topics."""
    r = reader(4, server=True)
    short, long = b"short", b"x" * 60_000
    first, second = r.feed(codec.publish(4, short, b"") * 2)
    assert first.topic is second.topic
    first, second = r.feed(codec.publish(4, long, b"") * 2)
    assert first.topic == second.topic == long
    assert first.topic is not second.topic


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 10)
    r = reader(4, server=True)
    for n in range(100):
        (packet,) = r.feed(codec.publish(4, b"topic %d" % n, b""))
        assert packet.topic == b"topic %d" % n
    assert len(module._KNOWN) <= 10


@given(
    st.sampled_from([b"", b"\x40", b"\x40\x02\x00", bytes(3), b"\xf0\x00"]),
    st.one_of(
        st.builds(lambda pid: b"\x40\x02" + pid.to_bytes(2, "big"), st.integers(0, 0xFFFF)),
        st.binary(min_size=3, max_size=5),
        st.sampled_from([b"\xd0\x00\xd0\x00", b"\x41\x02\x00\x01", b"\x40\x02\x00\x01\x40"]),
    ),
    st.sampled_from([4, 5]),
)
def test_a_lone_puback_is_what_the_stream_has(before: bytes, data: bytes, version: int) -> None:
    """Seen to fail where it forgets what came before, or that a packet id is not 0."""
    r = reader(version, server=True)
    r.feed(before)
    pid = r.lone_puback(data)
    if pid:
        assert r.feed(data) == [pid]
        assert r.error is None
    elif not before and data[:2] == b"\x40\x02" and len(data) == 4:
        assert data[2:] == bytes(2)


def test_empty_chunks() -> None:
    r = reader(4, server=True)
    assert r.feed(b"") == []
    assert r.feed(b"\x40") == []
    assert r.feed(b"") == []
    assert r.feed(b"\2\0\1") == [1]
