"""What is written to the broker, how much of it may wait, and who is told to wait."""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.transports.mqtt import codec
from gateway.transports.mqtt.broker.outbound import CHUNK, Outbound
from gateway.transports.mqtt.broker.receipts import Receipts
from tests.transports.mqtt.broker.rig import Broker, Framed, Gateway, gateway_behind

LIMIT = 1000
FRAME = b"x" * 92  # with topic and header 100 bytes
PACKET = codec.publish(5, b"d/a", FRAME)


class Wire:
    """A connection that takes what it is given when the test says so."""

    def __init__(self) -> None:
        self.writing = False
        self.written: list[bytes] = []

    def write(self, packets: bytes) -> None:
        assert not self.writing
        self.writing = True
        self.written.append(packets)


class Rig:
    def __init__(self, limit: int = LIMIT) -> None:
        self.calls: list[Callable[[], None]] = []
        self.congested: list[bool] = []
        self.wire = Wire()
        self.outbound = Outbound(limit, self.congested.append, self.calls.append)

    def open(self) -> "Rig":
        self.outbound.begin(self.wire)
        self.outbound.open()
        return self

    def frames(self, count: int) -> None:
        for _ in range(count):
            self.outbound.publish(b"d/a", FRAME)

    def turn(self) -> None:
        calls, self.calls[:] = self.calls[:], []
        for call in calls:
            call()

    def take(self) -> None:
        """The socket has taken all of it."""
        self.wire.writing = False
        self.outbound.drained()


async def test_one_write_a_turn_and_pubacks_first() -> None:
    rig = Rig().open()
    assert len(PACKET) == 100
    rig.frames(2)
    rig.outbound.ack(7)
    assert rig.wire.written == []
    rig.turn()
    assert rig.wire.written == [codec.puback(5, 7) + PACKET + PACKET]
    rig.frames(1)
    rig.turn()
    assert len(rig.wire.written) == 1
    rig.take()
    assert rig.wire.written[1:] == [PACKET]
    assert (rig.outbound.published, rig.outbound.piled) == (3, 0)


async def test_who_must_wait_is_told_once() -> None:
    rig = Rig().open()
    assert rig.congested == [False]
    rig.wire.writing = True
    rig.frames(10)
    assert rig.congested == [False]
    rig.frames(5)
    assert rig.congested == [False, True]
    # answers are written all the same, up to twice the limit
    rig.frames(100)
    assert rig.outbound.piled == 2100
    assert rig.outbound.dropped == 94
    rig.take()
    assert rig.wire.written == [PACKET * 21]
    assert rig.congested == [False, True, False]


async def test_much_goes_in_pieces() -> None:
    rig = Rig(10 * CHUNK).open()
    rig.frames(2 * CHUNK // 100 + 20)
    rig.turn()
    rig.take()
    rig.take()
    assert [len(written) for written in rig.wire.written[:2]] == [-(-CHUNK // 100) * 100] * 2
    emptied = asyncio.ensure_future(rig.outbound.emptied())
    await asyncio.wait((emptied,), timeout=1)
    assert emptied.done()


async def test_without_a_connection_nothing_is_kept() -> None:
    rig = Rig()
    rig.frames(1)
    assert (rig.outbound.dropped, rig.outbound.piled) == (1, 0)
    rig.open()
    rig.wire.writing = True
    rig.frames(3)
    rig.outbound.ack(1)
    rig.outbound.end()
    assert rig.congested == [False, True]
    assert rig.outbound.piled == 0
    await rig.outbound.emptied()
    rig.turn()
    rig.wire = Wire()
    rig.open()
    rig.turn()
    assert rig.wire.written == []
    assert rig.congested == [False, True, False]


async def test_nobody_is_let_on_before_the_broker_has_accepted() -> None:
    rig = Rig()
    rig.outbound.begin(rig.wire)
    rig.outbound.drained()
    assert rig.congested == []
    rig.outbound.open()
    assert rig.congested == [False]


async def test_pubacks_in_the_order_of_receipt() -> None:
    acked: list[int] = []
    receipts = Receipts(acked.append)
    one, two, three = (receipts.take(pid) for pid in (5, 6, 7))
    receipts.finish(three)
    receipts.finish(one)
    assert (acked, len(receipts)) == ([5], 2)
    receipts.finish(two)
    assert (acked, len(receipts), receipts.acked) == ([5, 6, 7], 0, 3)
    four = receipts.take(8)
    receipts.drop()
    receipts.finish(four)
    assert acked == [5, 6, 7]


async def test_who_waited_longest_goes_on_first(gateway: Gateway) -> None:
    desks = gateway.link.desks
    names = [f"device-{n}" for n in range(4)]
    for name in names:
        await Framed(gateway.broker, name).joined()
    desks.congest(True)
    let_on: list[str] = []

    def resume(desk: Any) -> None:
        let_on.append(desk.client)
        # the second one has so much to say that all must wait again
        if len(let_on) % 2 == 0:
            desks.congest(True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.transports.mqtt.framed.FramedDesk.resume", resume)
        for _ in range(3):
            desks.congest(False)
    assert let_on == [*names, *names[:2]]


@pytest.mark.parametrize("links", [1, 2])
async def test_a_broker_that_stands_still(broker: Broker, links: int) -> None:
    """Messages stay in the store, and go on when it does."""
    async with gateway_behind(broker, links=links, buffer_limit=65_536, keep_alive=60) as gateway:
        alice = await Framed(broker, "alice").open()
        await alice.hello(window=64)
        for link in gateway.every:
            link._conn._client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        process = broker._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        body = "x" * 4000
        count = 0
        # what fills the sockets' buffers, then ours
        while not await congested(gateway):
            count += 1
            await gateway.publish("alice", [count, body])
            assert count < 60
        peer = next(link.desks._desks["alice"] for link in gateway.every if link.desks._desks).peer
        assert peer.writable is False
        for _ in range(10):
            count += 1
            await gateway.publish("alice", [count, body])
        assert gateway.figure("buffered_bytes") < 2 * 65_536
        process.send_signal(signal.SIGCONT)
        found: list[int] = []
        while len(found) < count:
            entries = (await alice.hear("msg"))["m"]
            found += [entry["body"][0] for entry in entries]
            alice.say({"t": "ack", "seq": entries[-1]["seq"]})
        assert found == list(range(1, count + 1))
        assert gateway.hub.figures()["redelivered"] == 0
        assert gateway.figure("dropped", "unsent") == 0


async def congested(gateway: Gateway) -> bool:
    await asyncio.sleep(0)
    return any(link.outbound.piled > 65_536 for link in gateway.every)
