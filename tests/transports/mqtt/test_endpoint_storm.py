"""Many devices come and go at once: what waits for its turn keeps its rights, and costs nothing when it goes away."""

import pytest

from gateway.transports import slices
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connack, Pong, Publish
from gateway.transports.slices import BUDGET
from tests.transports.mqtt.endpoint import endpoint

VERSIONS = pytest.mark.parametrize("version", [4, 5])


@VERSIONS
async def test_a_connect_waits_for_its_turn(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as e:
        live = await e.subscribed("bob", version)
        monkeypatch.setattr(slices, "BUDGET", -1.0)
        early = await e.device("alice", version).open()
        early.write(early.hello(), codec.pingreq())
        gone = await e.device("carol", version).open()
        gone.write(gone.hello())
        await e.until(lambda: e.server.figures()["waiting"] == 2)
        # the time that it takes is not the device's
        await e.advance(3 * e.server.connect_ms / 1000)
        assert not early.packets
        # those who are there are served
        await e.publish("bob", 1)
        assert (await live.next(Publish)).payload == b"1"
        gone.cut()
        await e.until(lambda: e.server.figures()["sockets"] == 2)
        monkeypatch.setattr(slices, "BUDGET", BUDGET)
        assert (await early.next(Connack)).code == 0
        await early.next(Pong)
        assert e.figure("connacks", "timeout") == 0
        assert e.server.figures()["connections"] == 2
        assert e.server.figures()["waiting"] == 0
        early.cut()
        live.cut()


@VERSIONS
async def test_an_end_waits_for_its_turn(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        monkeypatch.setattr(slices, "BUDGET", -1.0)
        device.cut()
        session = e.hub.core.sessions["alice"]
        await e.until(lambda: not session.conn.writable)
        # nothing is bound for it any more
        id = await e.publish("alice", 1)
        assert (await e.view(id)).item.seq == 0
        assert e.hub.figures()["connections"] == 1
        monkeypatch.setattr(slices, "BUDGET", BUDGET)
        await e.until(lambda: not e.server.figures()["sockets"])
        assert e.hub.figures()["connections"] == 0
        assert session.conn is None
        assert e.server.figures()["disconnects"] == {"client lost": 1}
