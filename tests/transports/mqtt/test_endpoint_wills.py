"""Wills: what is published when a device is gone, when, and when not."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import Close, StoreFailed
from gateway.transports.mqtt.codec import P, Will
from tests.transports.mqtt.endpoint import Device, Endpoint, endpoint

VERSIONS = pytest.mark.parametrize("version", [4, 5])


def will(delay: int | None = None, to: str = "bob", **props: Any) -> Will:
    known = dict(props)
    if delay is not None:
        known[P.WILL_DELAY] = delay  # type: ignore[index]
    return Will(f"gw/v1/to/{to}".encode(), b'{"gone":true}', 1, props=known or None)  # type: ignore[arg-type]


async def cut(e: Endpoint, device: Device) -> None:
    device.cut()
    await e.until(lambda: not e.server.figures()["connections"])
    await e.turn()


def fate(e: Endpoint) -> dict[str, int]:
    wills = e.server.figures()["wills"]
    assert isinstance(wills, dict)
    return {name: count for name, count in wills.items() if count}


GONE = [{"gone": True}]


async def test_a_retained_one_over_3_1_1_is_a_dead_letter() -> None:
    """The CONNECT could only be refused whole, and such a device would never get in."""
    async with endpoint() as e:
        last = Will(b"gw/v1/to/bob", b'{"gone":true}', 1, retain=True)
        device = await e.connect("alice", 4, will=last)
        await cut(e, device)
        await e.until(lambda: fate(e) == {"refused": 1})
        (view,) = await e.store.dead_letters(None, None, 1 << 62, 10, True)
        assert (view.item.client, view.item.sender, view.item.body) == ("bob", "alice", b'{"gone":true}')


@VERSIONS
async def test_a_loss_publishes_it(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, will=will())
        await device.nothing()
        assert await e.to("bob") == []
        await cut(e, device)
        assert await e.to("bob") == GONE
        (view,) = await e.store.messages("bob", None, None, 1 << 62, 9)
        assert view.item.sender == "alice"
        assert fate(e) == {"published": 1}


@VERSIONS
async def test_a_goodbye_takes_it_back(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, will=will())
        await device.leave()
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        assert await e.to("bob") == []
        assert fate(e) == {"cancelled": 1}


@pytest.mark.parametrize("code", [0x04, 0x80, 0x81])
async def test_a_goodbye_that_does_not(code: int) -> None:
    async with endpoint() as e:
        device = await e.connect(will=will())
        await device.leave(code)
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        assert await e.to("bob") == GONE


@VERSIONS
async def test_a_lost_keep_alive_and_a_protocol_error_publish_it(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, keep_alive=10, will=will())
        await e.advance(17.0)
        assert await e.to("bob") == GONE
        device.cut()
        device = await e.connect("alice", version, will=will())
        device.write(device.hello())
        await e.until(lambda: fate(e) == {"published": 2})
        device.cut()


@VERSIONS
async def test_its_fields_are_those_of_a_message(version: int) -> None:
    async with endpoint() as e:
        bob = await e.subscribed("bob")
        props: Any = {
            P.USER: [("type", "status"), ("colour", "red")],
            P.MESSAGE_EXPIRY: 60,
            P.CORRELATION: b"x",
        }
        given = Will(b"gw/v1/to/bob", b"bye", props=props if version == 5 else None)
        device = await e.connect("alice", version, will=given)
        device.cut()
        (message,) = await bob.messages(1)
        assert message.payload == b"bye"
        if version == 5:
            assert message.props is not None
            assert message.props[P.CORRELATION] == b"x"
            assert ("type", "status") in message.props[P.USER]
            assert ("colour", "red") in message.props[P.USER]
        bob.ack(1)
        await bob.leave()


# -- delay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "expiry", "after"), [(10, 60, 10), (60, 10, 10), (10, 0, 0), (0, 60, 0), (10, None, 0)]
)
async def test_a_delay_ends_with_the_session(delay: int, expiry: int | None, after: int) -> None:
    async with endpoint() as e:
        props = None if expiry is None else {P.SESSION_EXPIRY: expiry}
        device = await e.connect(clean=False, props=props, will=will(delay))
        await cut(e, device)
        if after:
            await e.advance(after - 1.0)
            assert await e.to("bob") == []
            assert fate(e) == {"waiting": 1}
            await e.advance(2.0)
        assert await e.to("bob") == GONE
        assert fate(e) == {"published": 1}


async def test_a_session_expiry_in_the_goodbye_shortens_the_delay() -> None:
    async with endpoint() as e:
        device = await e.connect(clean=False, props={P.SESSION_EXPIRY: 600}, will=will(100))
        await device.leave(0x04, {P.SESSION_EXPIRY: 0})
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        assert await e.to("bob") == GONE


@pytest.mark.parametrize(("clean", "bodies"), [(False, []), (True, GONE)])
async def test_who_comes_back_in_time(clean: bool, bodies: list[Any]) -> None:
    async with endpoint() as e:
        device = await e.connect(clean=False, props={P.SESSION_EXPIRY: 60}, will=will(10))
        await cut(e, device)
        await e.advance(5.0)
        again = await e.connect(clean=clean)
        await e.advance(20.0)
        assert await e.to("bob") == bodies
        assert fate(e) == ({"published": 1} if clean else {"cancelled": 1})
        await again.leave()


@pytest.mark.parametrize(
    ("delay", "clean", "bodies"), [(0, False, GONE), (0, True, GONE), (10, True, GONE), (10, False, [])]
)
async def test_a_take_over(delay: int, clean: bool, bodies: list[Any]) -> None:
    async with endpoint() as e:
        device = await e.connect(clean=False, props={P.SESSION_EXPIRY: 60}, will=will(delay))
        again = await e.connect(clean=clean)
        assert await device.end() == 0x8E
        await e.advance(20.0)
        assert await e.to("bob") == bodies
        await again.leave()


async def test_a_take_over_in_3_1_1() -> None:
    async with endpoint() as e:
        device = await e.connect("alice", 4, clean=False, will=will())
        again = await e.connect("alice", 4, clean=False)
        assert await device.end() is None
        await e.turn()
        assert await e.to("bob") == GONE
        await again.leave()


async def test_a_take_over_by_another_transport() -> None:
    async with endpoint() as e:
        device = await e.subscribed(clean=False, props={P.SESSION_EXPIRY: 60}, will=will(10))
        (conn,) = e.hub.core.conns
        e.hub.disconnected(conn, True)
        conn.close(Close.TAKEN_OVER, "taken over")
        assert await device.end() == 0x8E
        await e.advance(20.0)
        assert await e.to("bob") == []


async def test_wills_that_wait_are_bounded() -> None:
    async with endpoint(max_connections=2) as e:
        for name in ("alice", "carol", "dave"):
            device = await e.connect(name, clean=False, props={P.SESSION_EXPIRY: 60}, will=will(10))
            await cut(e, device)
        assert fate(e) == {"waiting": 2, "published": 1}
        await e.advance(11.0)
        assert fate(e) == {"published": 3}


# -- no will -------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_drain_only_moves_devices(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, will=will())
        e.hub.drain()
        await e.advance(11.0)
        assert await device.packet() is None or version == 5
        device.cut()
        assert fate(e) == {"dropped": 1}


@VERSIONS
async def test_so_does_a_stop(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version, will=will())
        waiting = await e.connect("carol", clean=False, props={P.SESSION_EXPIRY: 60}, will=will(10))
        waiting.cut()
        await e.until(lambda: e.server.figures()["connections"] == 1)
        async with asyncio.TaskGroup() as group:
            stop = group.create_task(e.server.stop())
            assert await device.end() == (0x8B if version == 5 else None)
            await stop
        await e.turn()
        assert await e.to("bob") == []
        assert fate(e) == {"dropped": 2}


async def test_an_administrator_publishes_it() -> None:
    async with endpoint() as e:
        device = await e.subscribed(will=will())
        await e.hub.disconnect("alice", None)
        assert await device.end() == 0x98
        await e.turn()
        assert await e.to("bob") == GONE


async def test_a_will_that_is_refused_is_logged_without_its_body() -> None:
    async with endpoint() as e:
        device = await e.connect("carol", will=will(to="alice"))
        with capture_logs() as logs:
            await cut(e, device)
            await e.until(lambda: fate(e) == {"refused": 1})
        (line,) = [entry for entry in logs if entry["event"] == "a will was refused"]
        assert (line["client"], line["code"]) == ("carol", "address_forbidden")
        assert "gone" not in str(line)


async def test_a_will_that_does_not_reach_the_disk_is_refused() -> None:
    async with endpoint() as e:
        device = await e.connect(will=will())
        e.store.held = True
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        e.store.fail = lambda commit: StoreFailed("no disk", definite=True)
        e.store.let_go()
        await e.until(lambda: fate(e) == {"refused": 1})
        e.store.fail = lambda commit: None


async def test_a_device_that_was_never_accepted_leaves_no_will() -> None:
    async with endpoint() as e:
        device = e.device()
        await device.connect(token="expired", will=will())
        device.cut()
        kept = await e.subscribed(clean=False, props={P.SESSION_EXPIRY: 60})
        await cut(e, kept)
        e.hub.core.forgetting.add("alice")
        device = e.device()
        assert int((await device.connect(clean=False, will=will())).code) == 0x88
        await cut(e, device)
        e.hub.core.forgetting.clear()
        assert not fate(e)
