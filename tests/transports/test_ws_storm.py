"""Many come and go at once: what waits for its turn keeps its rights, and costs nothing when it goes away."""

import pytest

from gateway.transports import slices
from gateway.transports.slices import BUDGET
from tests.transports.conftest import MakeRig
from tests.transports.double import HubDouble
from tests.transports.rig import Rig, message, request


class Rush:
    """As long as it is on, the loop has no time for anybody who comes or goes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def on(self) -> None:
        self._patch.setattr(slices, "BUDGET", -1.0)

    def off(self) -> None:
        self._patch.setattr(slices, "BUDGET", BUDGET)


@pytest.fixture
def rush(monkeypatch: pytest.MonkeyPatch) -> Rush:
    return Rush(monkeypatch)


async def test_a_handshake_waits_for_its_turn(rig: Rig, hub: HubDouble, rush: Rush) -> None:
    rush.on()
    peer = rig.socket()
    peer.feed(request() + peer.encode({"t": "hello", "token": "alice"}))
    await rig.turn()
    assert not peer.transport.taken
    assert rig.server.figures()["waiting"] == 1
    assert peer.transport.reading
    # a client that goes on without an answer is not read any further
    peer.feed(peer.encode({"t": "ping"}))
    assert not peer.transport.reading
    rush.off()
    await rig.turn()
    assert peer.transport.reading
    assert rig.server.figures()["waiting"] == 0
    assert peer.transport.taken.startswith(b"HTTP/1.1 101 ")
    peer._read = peer.transport.taken.index(b"\r\n\r\n") + 4
    assert [frame["t"] for frame in peer.frames()] == ["welcome", "pong"]


async def test_the_wait_is_not_the_clients_fault(rig: Rig, rush: Rush) -> None:
    """No 408 for a request that was there in time."""
    rush.on()
    peer = rig.socket()
    peer.feed(request())
    await rig.advance(3 * rig.server.hello_ms / 1000)
    assert not peer.transport.taken
    assert not peer.transport.closing
    rush.off()
    await rig.turn()
    assert peer.transport.taken.startswith(b"HTTP/1.1 101 ")


async def test_who_goes_away_is_passed_over(rig: Rig, hub: HubDouble, rush: Rush) -> None:
    rush.on()
    ended, cut, stays = rig.socket(), rig.socket(), rig.socket()
    for peer in (ended, cut, stays):
        peer.feed(request())
    ended.end()
    cut.transport.abort()
    await rig.turn()
    assert rig.server.figures()["sockets"] == 1
    rush.off()
    await rig.turn()
    assert not ended.transport.taken
    assert not cut.transport.taken
    assert rig.server.figures()["handshakes"] == {"101": 1, "lost": 1}
    assert len(hub.connections()) == 1


async def test_a_hello_waits_for_its_turn(rig: Rig, hub: HubDouble, rush: Rush) -> None:
    peers = [rig.open() for _ in range(3)]
    await rig.turn()
    rush.on()
    for name, peer in zip(("alice", "bob", "carol"), peers, strict=True):
        peer.send({"t": "hello", "token": name})
    peers[1].send({"t": "ping"})
    await rig.turn()
    assert hub.named("hello") == []
    # only the one that did not wait for its welcome is not read
    assert [peer.transport.reading for peer in peers] == [True, False, True]
    peers[2].transport.abort()
    await rig.turn()
    rush.off()
    await rig.turn()
    assert [name for _, name, _ in hub.named("hello")] == ["alice", "bob"]
    assert [frame["t"] for frame in peers[1].frames()] == ["welcome", "pong"]
    assert peers[1].transport.reading


async def test_a_bad_hello_is_refused_in_its_turn(rig: Rig, rush: Rush) -> None:
    peer = rig.open()
    await rig.turn()
    rush.on()
    peer.send({"t": "hello", "token": "expired"})
    assert peer.frames() == []
    rush.off()
    await rig.turn()
    (err,) = peer.frames()
    assert (err["code"], err["close"]) == ("token_expired", 4200)


@pytest.mark.parametrize("half_closes", [True, False])
async def test_the_end_of_a_stream_waits_for_its_turn(
    rig: Rig, hub: HubDouble, rush: Rush, half_closes: bool
) -> None:
    """Nothing is bound for it meanwhile; a transport that cannot be kept half open (TLS) closes itself."""
    peer = await rig.join(half_closes=half_closes)
    conn = peer.conn
    rush.on()
    peer.end()
    assert not conn.writable
    assert peer.transport.closing is not half_closes
    await rig.turn()
    assert hub.named("disconnected", "left") == []
    # what the hub hands over before it knows is not its problem
    conn.deliver([message(1)])
    rush.off()
    await rig.turn()
    assert hub.named("disconnected", "left") == [("disconnected", False), ("left",)]
    assert peer.transport.lost
    assert rig.server.figures()["closes"] == {"1006": 1}


async def test_many_ends_leave_nothing_behind(make_rig: MakeRig, hub: HubDouble, rush: Rush) -> None:
    rig = make_rig()
    peers = [await rig.join() for _ in range(100)]
    rush.on()
    for n, peer in enumerate(peers):
        if n % 2:
            peer.end()
        else:
            peer.transport.lose(ConnectionResetError())
    rush.off()
    await rig.turn()
    await rig.turn()
    assert rig.server.figures()["sockets"] == 0
    assert len(hub.named("disconnected")) == len(hub.named("left")) == 100
