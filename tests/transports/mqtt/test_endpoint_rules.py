"""Rules of plain MQTT sessions that took a second look to get right, as devices and WebSockets of one client meet
them.

Each was seen to fail, for its own reason, on the gateway as it was before its mending.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.config import Clients
from gateway.engine.states import State
from gateway.model import Status, Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connack, P, Publish
from gateway.wire import Hello
from tests.hub.rig import Conn
from tests.transports.mqtt.endpoint import CONFIG, Endpoint, endpoint, user

KEPT: dict[str, Any] = {"clean": False, "props": {P.SESSION_EXPIRY: 600}}


async def websocket(e: Endpoint, before: Conn | None = None) -> Conn:
    """A WebSocket of alice's beside the endpoint, welcomed; it resumes where `before` was."""
    place: Any = SimpleNamespace(hub=e.hub, turns=e.clock)
    conn = Conn(place, "alice")
    e.hub.accept(conn, 0)
    hello = Hello()
    if before is not None:
        assert before.welcomed is not None
        hello = Hello(resume=before.welcomed["resume"], epoch=before.welcomed["epoch"])
    e.hub.hello(conn, conn.principal, hello)
    await e.until(lambda: conn.welcomed)
    return conn


def goes(e: Endpoint, conn: Conn) -> None:
    e.hub.disconnected(conn, True)
    e.hub.left(conn)


async def sockets_gone(e: Endpoint) -> None:
    await e.until(lambda: not e.server.figures()["connections"])


async def test_a_device_that_goes_while_it_subscribes_again_is_away() -> None:
    """It was welcomed after its socket was closed, and online for good."""
    async with endpoint() as e:
        device = await e.subscribed(**KEPT)
        await device.unsubscribe()
        e.store.held = True
        device.write(codec.subscribe(5, 9, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.hub.core.sessions["alice"].state == State.JOINING)
        # the wait for the store is over
        await e.advance(62.0)
        assert await device.end() == 0x89
        await sockets_gone(e)
        e.store.let_go()
        await e.turn()
        assert e.hub.presence("alice")["status"] == "offline"


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_device_cannot_subscribe_again_where_a_websocket_was_meanwhile(resumed: bool) -> None:
    """What is in flight on its connection was written once more, or other messages under its packet ids."""
    async with endpoint() as e:
        before = await websocket(e)
        goes(e, before)
        device = await e.subscribed(**KEPT)
        await e.publish("alice", 1)
        assert (await device.next(Publish)).pid == 1
        await device.unsubscribe()
        between = await websocket(e, before if resumed else None)
        assert between.welcomed is not None
        assert between.welcomed["resumed"] is resumed
        goes(e, between)
        device.write(codec.subscribe(5, 9, [("gw/v1/m/alice", 1)]))
        assert await device.why() == (0x83, "the session was elsewhere meanwhile")
        # on a new connection there is nothing in flight
        again = await e.subscribed(**KEPT)
        assert (await again.next(Publish)).payload == b"1"
        await again.leave()


async def test_a_session_without_an_expiry_ends_when_a_websocket_takes_over() -> None:
    """The WebSocket went on with it, and the next device found it present."""
    async with endpoint() as e:
        before = await websocket(e)
        goes(e, before)
        device = await e.subscribed(clean=False)
        back = await websocket(e, before)
        assert await device.end() == 0x8E
        assert back.welcomed is not None
        assert not back.welcomed["resumed"]
        goes(e, back)
        again = await e.connect(clean=False)
        assert again.connack is not None
        assert not again.connack.session_present
        await again.leave()


async def test_a_clean_session_that_is_taken_over_while_it_subscribes_is_not_present() -> None:
    """Its device was gone before the SUBACK, and its session stayed for the next."""
    async with endpoint() as e:
        first = await e.connect("alice", 4, clean=True)
        e.store.held = True
        first.write(codec.subscribe(4, 1, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.hub.core.sessions.get("alice"))
        second = await e.device("alice", 4).open()
        second.write(second.hello(clean=False))
        await e.until(lambda: e.server.figures()["disconnects"])
        await e.turn()
        e.store.let_go()
        assert not (await second.next(Connack)).session_present
        assert e.hub.subscription("alice") == Sub.NONE
        second.cut()


async def test_a_session_is_kept_no_longer_than_its_device_asked() -> None:
    """It was not present at CONNACK, and went on with the SUBSCRIBE, until the offline deadline was over."""
    async with endpoint() as e:
        asked: dict[str, Any] = {"clean": False, "props": {P.SESSION_EXPIRY: 5}}
        first = await e.subscribed(**asked)
        await e.publish("alice", 1)
        message = await first.next(Publish)
        first.cut()
        await sockets_gone(e)
        await e.advance(10.0)
        second = await e.connect(**asked)
        assert second.connack is not None
        assert not second.connack.session_present
        assert await second.subscribe() == [1]
        again = await second.next(Publish)
        assert user(again)["epoch"] != user(message)["epoch"]
        await second.leave()


async def test_what_is_refused_once_is_refused_again() -> None:
    """The dead letter of the first made its recipient known, and the second was taken for it."""
    async with endpoint(replace(CONFIG, clients=Clients(strict=True))) as e:
        device = await e.connect("alice", 4)
        for pid in (1, 2):
            device.send("ghost", pid=pid)
            assert await device.packet() == pid
        await e.turn()
        views = await e.store.messages(None, "alice", None, 1 << 62, 10)
        assert [view.item.status for view in views] == [Status.DEAD, Status.DEAD]
        await device.leave()
