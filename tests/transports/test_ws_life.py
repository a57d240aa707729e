"""Time and the end: heartbeats, expiry, timeouts, closes from every side; the hub hears of each end once."""

import gc
import weakref
from typing import Any

import pytest

from gateway.errors import Close, Invalid
from gateway.transports.conversation import WELCOME_WAIT
from gateway.transports.websocket.life import CLOSE_WAIT
from tests.transports.conftest import MakeRig
from tests.transports.double import START, HubDouble, Tokens
from tests.transports.rig import CLOSE, PING, PONG, TEXT, Peer, Rig, client_frame, message, server_frames

HEARTBEAT = 20.0
PING_FRAME = (0x89, b"")
PONG_FRAME = client_frame(PONG)
CLOSED_1000 = client_frame(CLOSE, b"\x03\xe8bye")


def tick(rig: Rig) -> float:
    return rig.server.tick_ms / 1000


def ends(hub: HubDouble) -> list[tuple[Any, ...]]:
    return hub.named("disconnected", "left")


# -- heartbeats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.99])
async def test_the_first_ping_is_jittered_and_the_others_follow_evenly(rig: Rig, chance: float) -> None:
    rig.chance = chance
    peer = await rig.join()
    pings: list[float] = []

    def note() -> None:
        if PING_FRAME in peer.raw():
            pings.append((rig.hub.scheduler.ms - START) / 1000)
            peer.feed(PONG_FRAME)

    await rig.advance(5 * HEARTBEAT, note)
    assert len(pings) == 5 if chance < 0.9 else 4
    assert chance * HEARTBEAT <= pings[0] <= chance * HEARTBEAT + 2 * tick(rig)
    for n, at in enumerate(pings):
        assert abs(at - pings[0] - n * HEARTBEAT) <= tick(rig)


@pytest.mark.parametrize(
    "sent", [PONG_FRAME, client_frame(PING), client_frame(TEXT, b'{"t":"ping"}'), b"\x81"]
)
async def test_any_byte_proves_life(rig: Rig, hub: HubDouble, sent: bytes) -> None:
    peer = await rig.join()
    await rig.advance(1.7 * HEARTBEAT)
    peer.feed(sent)
    await rig.advance(1.7 * HEARTBEAT)
    assert not peer.transport.closing


async def test_silence_closes_4002_at_once(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    await rig.advance(1.75 * HEARTBEAT - 1)
    assert not peer.transport.closing
    await rig.advance(1 + 2 * tick(rig))
    assert peer.closed() == (4002, "heartbeat lost")
    assert peer.transport.aborted
    assert ends(hub) == [("disconnected", False), ("left",)]


async def test_time_in_which_nobody_could_be_heard_proves_nothing(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    hub.scheduler.ms += 3_600_000  # the machine slept, or the clock was put forward
    rig.server.turn()
    await rig.turn()
    assert not peer.transport.closing
    assert PING_FRAME in peer.raw()
    await rig.advance(1.75 * HEARTBEAT - 1)
    assert not peer.transport.closing
    await rig.advance(1 + 2 * tick(rig))
    assert peer.closed()[0] == 4002


async def test_short_heartbeats_have_a_finer_clock(make_rig: MakeRig, hub: HubDouble) -> None:
    rig = make_rig(hello_timeout=0.4)
    assert rig.server.tick_ms == 50
    peer = rig.open()
    await rig.advance(0.5)
    assert peer.closed()[0] == 4004


# -- the other deadlines -------------------------------------------------------------------------------------------


async def test_no_hello_in_time_is_4004(rig: Rig, hub: HubDouble) -> None:
    peer = rig.open()
    await rig.advance(4.9)
    peer.feed(PONG_FRAME)  # being alive is not enough
    assert not peer.transport.taken.endswith(b"no hello in time")
    await rig.advance(0.1 + tick(rig))
    assert peer.closed() == (4004, "no hello in time")
    await rig.advance((CLOSE_WAIT / 1000) + tick(rig))
    assert ends(hub) == [("left",)]


async def test_no_welcome_in_time_is_4000(rig: Rig, hub: HubDouble) -> None:
    hub.welcomes = False
    peer = rig.open()
    peer.send({"t": "hello", "token": "alice"})
    await rig.advance(WELCOME_WAIT / 1000 - 1)
    assert peer.frames() == []
    await rig.advance(1 + tick(rig))
    (err,) = peer.frames()
    assert (err["code"], err["close"]) == ("not_ready", 4000)
    assert hub.named("disconnected") == [("disconnected", True)]


async def test_at_exp_the_connection_closes_4200(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join(f"alice:{START // 1000 + 30}")
    await rig.advance(29.9, lambda: peer.feed(PONG_FRAME))
    assert not peer.transport.taken.endswith(b"token_expired")
    await rig.advance(0.1 + tick(rig))
    assert peer.closed() == (4200, "token_expired")
    assert hub.named("disconnected") == [("disconnected", True)]


async def test_a_token_in_time_moves_exp_either_way(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join(f"alice:{START // 1000 + 30}")
    peer.send({"t": "token", "token": f"alice:{START // 1000 + 300}"})
    await rig.advance(100, lambda: peer.feed(PONG_FRAME))
    assert hub.named("disconnected") == []
    peer.send({"t": "token", "token": f"alice:{START // 1000 + 101}"})
    await rig.advance(1 + 2 * tick(rig), lambda: peer.feed(PONG_FRAME))
    assert peer.closed()[0] == 4200


# -- closing -------------------------------------------------------------------------------------------------------


async def test_the_hub_closes_what_is_buffered_goes_first(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.conn.deliver([message(1)])
    peer.conn.stored("a", 5, False, 0)
    peer.conn.close(Close.TAKEN_OVER, "taken over")
    assert [head for head, _ in peer.raw()] == [0x81, 0x81, 0x88]
    assert peer.closed() == (4302, "taken over")
    assert ends(hub) == []  # it knows; it is told when the socket is gone
    peer.feed(client_frame(CLOSE, b"\x10\xce"))
    await rig.turn()
    assert peer.transport.lost
    assert not peer.transport.aborted
    assert ends(hub) == [("disconnected", True), ("left",)]


async def test_after_a_close_nothing_is_written_and_nothing_taken(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.send({"t": "pub", "m": [{"to": "bob", "body": 1}]})
    peer.conn.close(Close.DRAIN, "drain")
    conn, writes, before = hub.connections()[0], peer.transport.writes, len(hub.calls)
    conn.close(Close.DRAIN, "drain")
    conn.deliver([message(1)])
    conn.stored("a", 5, False, 0)
    conn.refused("a", Invalid("bad"))
    conn.goaway(0.5, 5.0, "drain")
    conn.welcome({})
    conn.flush()
    peer.send({"t": "ack", "seq": 1}, {"t": "bye"})
    peer.feed(client_frame(PING, b"x"))
    await rig.turn()
    assert peer.transport.writes == writes
    assert hub.calls[before:] == []
    assert rig.server.figures()["closes"] == {"4000": 1}


async def test_a_peer_that_does_not_answer_the_close_is_cut(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.conn.close(Close.DRAIN, "drain")
    await rig.advance(CLOSE_WAIT / 1000 - tick(rig))
    assert not peer.transport.aborted
    await rig.advance(2 * tick(rig))
    assert peer.transport.aborted
    assert ends(hub) == [("disconnected", True), ("left",)]


async def test_a_close_while_the_peer_does_not_read_is_bounded(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    peer.feed(client_frame(TEXT, b'{"t":', fin=False))
    peer.conn.deliver([message(n, "x" * 4000) for n in range(1, 50)])
    peer.conn.flush()
    peer.conn.close(Close.DRAIN, "drain")
    assert peer.conn.items is peer.conn.partial is None
    await rig.advance(CLOSE_WAIT / 1000 + tick(rig))
    assert peer.transport.aborted
    assert peer.transport.lost


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (CLOSED_1000, b"\x03\xe8bye"),
        (client_frame(CLOSE), b""),
        (client_frame(CLOSE, b"\x0f\xa0"), b"\x0f\xa0"),
    ],
)
async def test_the_peer_closes_without_bye_and_is_answered(
    rig: Rig, hub: HubDouble, sent: bytes, answer: bytes
) -> None:
    peer = await rig.join()
    peer.feed(sent)
    assert ends(hub) == [("disconnected", False)]
    await rig.turn()
    assert peer.raw()[-1] == (0x88, answer)
    assert peer.transport.lost
    assert not peer.transport.aborted
    assert ends(hub) == [("disconnected", False), ("left",)]


async def test_bye_and_close_in_one_piece(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.feed(peer.encode({"t": "bye"}) + CLOSED_1000)
    await rig.turn()
    assert hub.named("bye", "disconnected", "left") == [("bye", False), ("disconnected", True), ("left",)]
    assert peer.transport.lost


async def test_a_peer_that_closes_and_does_not_read_is_cut(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    peer.feed(CLOSED_1000)
    await rig.advance(CLOSE_WAIT / 1000 + tick(rig))
    assert peer.transport.aborted
    assert ends(hub) == [("disconnected", False), ("left",)]


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_lost_socket_is_told_once(rig: Rig, hub: HubDouble, error: Exception | None) -> None:
    peer = await rig.join()
    peer.transport.lose(error)
    assert ends(hub) == [("disconnected", False), ("left",)]
    await rig.advance(100)
    assert rig.server.figures()["closes"] == {"1006": 1}
    assert rig.server.figures()["sockets"] == 0


async def test_the_end_of_the_stream_without_a_close_is_a_loss(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.end()
    assert ends(hub) == [("disconnected", False)]
    await rig.turn()
    assert ends(hub) == [("disconnected", False), ("left",)]


async def test_a_stream_that_ends_unread_is_cut_in_time(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.transport.take(0)
    peer.conn.deliver([message(1)])
    peer.conn.flush()
    peer.end()
    await rig.advance(CLOSE_WAIT / 1000 + tick(rig))
    assert peer.transport.aborted
    assert ends(hub) == [("disconnected", False), ("left",)]


@pytest.mark.parametrize("half_closes", [True, False], ids=["tcp", "tls"])
async def test_after_an_error_the_rest_is_thrown_away_until_the_peer_has_read(
    rig: Rig, hub: HubDouble, half_closes: bool
) -> None:
    peer = await rig.join(half_closes=half_closes)
    peer.feed(client_frame(TEXT, b"x" * 20_000))
    assert peer.closed()[0] == 1009
    assert peer.transport.eof is half_closes
    for _ in range(100):
        peer.feed(b"z" * 10_000)
    assert not hub.connections()[0].core.reader.buffer
    await rig.advance(CLOSE_WAIT / 1000 + tick(rig))
    assert peer.transport.lost


async def test_a_close_reason_is_cut_to_what_a_frame_holds(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    peer.conn.close(Close.DRAIN, "ü" * 100)
    assert peer.closed() == (4000, "ü" * 61)


async def test_a_connection_whose_reading_was_stopped_hears_the_close(
    rig: Rig, hub: HubDouble, tokens: Tokens
) -> None:
    peer = rig.open()
    peer.send({"t": "hello", "token": "slow:alice"}, {"t": "ping"})
    await rig.turn()
    assert not peer.transport.reading
    hub.connections()[0].close(Close.DRAIN, "drain")
    assert peer.transport.reading
    tokens.fetched.set_result(None)
    await rig.turn()
    assert hub.named("hello") == []


async def test_an_error_in_a_look_ends_that_connection_alone(rig: Rig, hub: HubDouble) -> None:
    bad, good = await rig.join(), await rig.join("bob")
    bad.conn.principal = None
    hub.scheduler.ms += 12_000
    with pytest.raises(AssertionError):
        rig.server.turn()
    await rig.turn()
    assert bad.transport.lost
    await rig.advance(1, lambda: good.feed(PONG_FRAME))
    assert not good.transport.closing
    assert ends(hub) == [("disconnected", False), ("left",)]


async def test_ended_connections_are_freed_without_a_collection(rig: Rig, hub: HubDouble) -> None:
    peer = await rig.join()
    freed = weakref.ref(peer.conn.core)
    gc.disable()
    try:
        peer.transport.lose()
        hub.calls.clear()
        hub.waiting.clear()
        peer.transport.protocol = None
        await rig.turn()
        assert freed() is None
    finally:
        gc.enable()


def closes_of(peer: Peer) -> int:
    return sum(1 for head, _ in server_frames(bytes(peer.transport.taken[len(peer.head) :])) if head == 0x88)


@pytest.mark.parametrize("code", [1000, 4000, 4001, 4002, 4003, 4100, 4200, 4300, 4302, 4303, 4304])
async def test_every_close_is_one_frame_and_tells_whom_to_blame(rig: Rig, hub: HubDouble, code: int) -> None:
    peer = await rig.join()
    peer.conn.close(code, "why")
    if not peer.transport.closing:
        peer.feed(CLOSED_1000)
    await rig.turn()
    assert closes_of(peer) == 1
    assert ends(hub) == [("disconnected", code not in {4001, 4002, 4303}), ("left",)]
