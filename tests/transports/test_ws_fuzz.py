"""Anything may come over a socket, in any order with time, stalls, closes and what the hub does: nothing escapes, the
hub's books balance, and what was written can be read.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config, Limits, Session, Websocket
from gateway.errors import Invalid, Limited
from tests.transports.double import HubDouble, ManualScheduler, Tokens
from tests.transports.rig import (
    BINARY,
    CONT,
    TEXT,
    Peer,
    Rig,
    client_frame,
    gap,
    message,
    server_frames,
    status,
)

CONFIG = Config(
    websocket=Websocket(listen="127.0.0.1:0", buffer_limit=16384, stall_timeout=4.0),
    session=Session(heartbeat=8.0),
    limits=Limits(max_payload=512, max_frame_bytes=2048, batch=3, publish_burst=3),
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3)
)
names = st.sampled_from(
    ["hello", "ack", "nack", "reject", "working", "read", "pub", "token", "ping", "bye", "msg"]
)
keys = st.sampled_from(
    ["token", "seq", "seqs", "m", "ids", "delay", "why", "end", "resume", "ack", "window", "x"]
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "to": st.sampled_from(["bob", "a b", "pool:x"]) | values,
        "body": values,
        "ref": values,
        "ttl": values,
    },
)
wild = st.builds(lambda t, rest: {"t": t, **rest}, names | values, st.dictionaries(keys, values, max_size=3))
sound = st.one_of(
    st.builds(lambda token: {"t": "hello", "token": token}, st.sampled_from(["alice", "expired", "no.such"])),
    st.builds(lambda m: {"t": "pub", "m": m}, st.lists(entries, max_size=4)),
    st.builds(lambda seq: {"t": "ack", "seq": seq}, st.integers(-1, 5)),
    st.sampled_from(
        [{"t": "ping"}, {"t": "bye"}, {"t": "token", "token": "alice"}, {"t": "token", "token": "bob"}]
    ),
)
payloads = st.one_of(
    sound.map(msgspec.json.encode),
    sound.map(msgspec.msgpack.encode),
    wild.map(msgspec.json.encode),
    st.binary(max_size=40),
    st.sampled_from(
        [b"x" * 3000, b"[" * 1500, b'{"t":"pub","m":[{"to":"bob","body":"\\ud800","ref":"\\udfff"}]}']
    ),
)
framed = st.builds(
    client_frame,
    st.sampled_from([TEXT] * 4 + [BINARY] * 4 + [CONT]) | st.integers(0, 15),
    payloads,
    fin=st.sampled_from([True] * 6 + [False]),
    rsv=st.sampled_from([0] * 12 + [1, 4]),
    masked=st.sampled_from([True] * 12 + [False]),
)
whole = sound.map(lambda f: client_frame(TEXT, msgspec.json.encode(f))) | sound.map(
    lambda f: client_frame(BINARY, msgspec.msgpack.encode(f))
)
chunks = st.lists(whole | framed, min_size=1, max_size=4).map(b"".join) | st.binary(max_size=30)

Step = Callable[[Rig, Peer], Awaitable[None] | None]


def feed(data: bytes, cut: int) -> Step:
    def step(_rig: Rig, peer: Peer) -> None:
        for part in (data[:cut], data[cut:]):
            # a transport delivers nothing while it is paused or closed
            if part and peer.transport.reading and not peer.transport.closing:
                peer.feed(part)

    return step


def by_hub(call: Callable[[Any], None]) -> Step:
    def step(_rig: Rig, peer: Peer) -> None:
        for conn in peer.rig.hub.connections():
            call(conn)

    return step


async def settle(rig: Rig, _peer: Peer) -> None:
    await rig.turn()


def end(_rig: Rig, peer: Peer) -> None:
    if not peer.transport.closing and peer.transport.reading:
        peer.end()


steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(feed, chunks, st.integers(0, 60)),
    st.builds(feed, chunks, st.integers(0, 60)),
    st.just(settle),
    st.builds(lambda s: lambda rig, _: rig.advance(s), st.sampled_from([0.1, 3.0, 6.0])),
    st.builds(lambda n: lambda _, peer: peer.transport.take(n), st.sampled_from([None, 0, 1, 500])),
    st.builds(
        lambda n, size: by_hub(lambda c: c.deliver([message(n, "x" * size), gap(n + 1), status(n + 2)])),
        st.integers(1, 9),
        st.sampled_from([1, 3000, 9000]),
    ),
    st.just(by_hub(lambda c: c.goaway(0.5, 5.0, "drain"))),
    st.just(by_hub(lambda c: c.error(Limited("slow down", retry_after=1.0)))),
    st.just(by_hub(lambda c: c.flush())),
    st.builds(lambda code: by_hub(lambda c: c.close(code, "why")), st.sampled_from([1000, 4000, 4302])),
    st.just(lambda _, peer: peer.transport.lose()),
    st.just(end),
)


async def play(binary: bool, script: list[Step], hub_raises: bool) -> None:
    """One life of one socket; at its end everything is accounted for."""
    hub = HubDouble(ManualScheduler())
    if hub_raises:
        hub.raises = {"ack": Invalid("no", code="seq_unknown"), "publish": Limited("no", code="queue_full")}
    escaped: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: escaped.append(context))
    rig = Rig(hub, Tokens(), CONFIG)
    peer = rig.open(binary=binary)
    for step in script:
        done = step(rig, peer)
        if done is not None:
            await done
    await rig.turn()
    peer.transport.lose()
    await rig.advance(1)
    assert escaped == []
    counts = Counter(call[0] for call in hub.calls)
    assert (counts["accept"], counts["left"]) == (1, 1)
    assert counts["hello"] <= 1
    assert counts["disconnected"] == counts["hello"]
    assert hub.calls[-1][0] == "left"
    figures = rig.server.figures()
    assert figures["sockets"] == 0
    closes = figures["closes"]
    assert isinstance(closes, dict)
    assert sum(closes.values()) == 1
    check_written(peer)


def check_written(peer: Peer) -> None:
    """Whole frames, of one kind, nothing after a close."""
    data = bytes(peer.transport.taken[len(peer.head) :])
    if peer.transport.aborted or peer.transport.takes is not None:
        return
    decode = msgspec.msgpack.decode if peer.binary else msgspec.json.decode
    frames = server_frames(data)
    for n, (first, payload) in enumerate(frames):
        assert first in {0x82 if peer.binary else 0x81, 0x88, 0x89, 0x8A}
        if first in {0x81, 0x82}:
            assert decode(payload)["t"] in {"welcome", "ok", "err", "msg", "gap", "status", "pong", "goaway"}
        assert first != 0x88 or n == len(frames) - 1


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(work)


@settings(max_examples=300)
@given(st.booleans(), st.lists(steps, max_size=12), st.booleans(), st.booleans())
def test_nothing_escapes(binary: bool, script: list[Step], joined: bool, hub_raises: bool) -> None:
    if joined:
        hello = {"t": "hello", "token": "alice"}
        encode = msgspec.msgpack.encode if binary else msgspec.json.encode
        script = [feed(client_frame(BINARY if binary else TEXT, encode(hello)), 0), settle, *script]
    run(play(binary, script, hub_raises))


@settings(max_examples=200)
@given(
    st.lists(
        st.binary(max_size=200) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"GET /ws HTTP/1.1\r\n"]), max_size=8
    )
)
def test_no_request_escapes(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        rig = Rig(HubDouble(ManualScheduler()), Tokens(), CONFIG)
        peer = rig.socket()
        for piece in pieces:
            if not peer.transport.closing:
                peer.feed(piece)
        await rig.advance(8)
        assert peer.transport.lost
        assert bytes(peer.transport.taken).startswith(b"HTTP/1.1 4")
        assert rig.server.figures()["sockets"] == 0

    run(scenario())
