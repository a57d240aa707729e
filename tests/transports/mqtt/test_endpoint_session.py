"""Sessions: SUBSCRIBE, UNSUBSCRIBE, what is there again at the next CONNECT, take-over, DISCONNECT."""

from typing import Any

import pytest

from gateway.errors import Close
from gateway.model import Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connack, P, Props, Publish, Suback
from tests.transports.mqtt.endpoint import Device, Endpoint, endpoint, user

VERSIONS = pytest.mark.parametrize("version", [4, 5])
KEPT: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "props": {P.SESSION_EXPIRY: 600}},
}


async def gone(e: Endpoint) -> None:
    await e.until(lambda: not e.server.figures()["connections"])


async def cut(e: Endpoint, device: Device) -> None:
    device.cut()
    await gone(e)


# -- SUBSCRIBE -----------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(("asked", "granted"), [(0, 0), (1, 1), (2, 1)])
async def test_the_inbox_at_every_qos(version: int, asked: int, granted: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        assert await device.subscribe(qos=asked) == [granted]
        id = await e.publish("alice", {"n": 1})
        message = await device.next(Publish)
        assert (message.topic, message.payload, message.qos) == (b"gw/v1/m/alice", b'{"n":1}', granted)
        assert (message.pid, message.dup, message.retain) == (granted, False, False)
        if granted:
            device.ack(message.pid)
            await device.nothing()
        await e.until(lambda: not e.hub.figures()["in_flight"])
        assert (await e.view(id)).item.status == 4
        assert ("at_most_once" in await e.events(id)) is (granted == 0)
        await device.leave()


@VERSIONS
async def test_a_session_is_resumed_at_the_qos_that_was_granted_last(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        assert await device.subscribe(qos=0) == [0]
        await cut(e, device)
        await e.publish("alice", 1)
        device = await e.connect("alice", version, **KEPT[version])
        assert device.connack is not None
        assert device.connack.session_present
        assert (await device.next(Publish)).qos == 0
        assert await device.subscribe(qos=1) == [1]
        await cut(e, device)
        await e.publish("alice", 2)
        device = await e.connect("alice", version, **KEPT[version])
        assert (await device.next(Publish)).qos == 1
        device.ack(2)
        await device.leave()


async def test_a_ban_reaches_a_device_that_has_not_subscribed() -> None:
    async with endpoint() as e:
        device = await e.connect("alice")
        assert await e.hub.disconnect("alice", 60.0)
        assert (await device.why())[0] == 0x98


@VERSIONS
async def test_what_waited_comes_with_the_subscription_and_in_order(version: int) -> None:
    async with endpoint() as e:
        for i in range(20):
            await e.publish("alice", i)
        device = await e.subscribed("alice", version)
        got = []
        for _ in range(20):
            message = await device.next(Publish)
            got.append(int(message.payload))
            device.ack(message.pid)
        assert got == list(range(20))
        await device.leave()


@VERSIONS
@pytest.mark.parametrize(
    ("topic_filter", "code"),
    [
        ("gw/v1/m/bob", 0x87),
        ("gw/v1/d/bob", 0x87),
        ("elsewhere", 0x87),
        ("$SYS/broker", 0x87),
        ("#", 0xA2),
        ("gw/v1/m/+", 0xA2),
        ("gw/v1/#/m", 0x8F),
        ("$share/g/gw/v1/m/alice", 0x9E),
    ],
)
async def test_other_filters_are_refused(version: int, topic_filter: str, code: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        assert await device.subscribe(topic_filter) == [code if version == 5 else 0x80]
        assert e.hub.subscription("alice") == Sub.NONE
        # one beside it counts
        assert await device.subscribe("gw/v1/m/alice", topic_filter) == [1, code if version == 5 else 0x80]
        assert e.hub.subscription("alice") == Sub.PLAIN
        await device.leave()


async def test_a_refused_filter_has_a_reason() -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.write(codec.subscribe(5, 9, [("gw/v1/m/bob", 1)]))
        suback = await device.next(Suback)
        assert suback.props == {P.REASON: "a client subscribes to its own topics only"}
        device.write(codec.unsubscribe(5, 10, ["gw/v1/m/bob"]))
        unsuback = await device.next(codec.Unsuback)
        assert unsuback.props == {P.REASON: "a client subscribes to its own topics only"}
        await device.leave()


@VERSIONS
async def test_filters_of_one_subscribe_are_limited(version: int) -> None:
    async with endpoint(max_subscriptions=2) as e:
        device = await e.connect("alice", version)
        codes = await device.subscribe("a", "gw/v1/m/alice", "gw/v1/m/alice", "b")
        assert codes == ([0x87, 1, 0x97, 0x97] if version == 5 else [0x80, 1, 0x80, 0x80])
        await device.leave()


async def test_a_subscription_identifier_ends_the_connection() -> None:
    async with endpoint() as e:
        device = await e.connect()
        device.write(codec.subscribe(5, 1, [("gw/v1/m/alice", 1)], {P.SUBSCRIPTION_ID: [7]}))
        assert (await device.why())[0] == 0xA1


async def test_subscription_options_are_taken_and_mean_nothing() -> None:
    async with endpoint() as e:
        device = await e.connect()
        for options in (0x05, 0x09, 0x11, 0x21):
            assert await device.subscribe(qos=options) == [1]
        await device.leave()


@VERSIONS
async def test_the_kind_is_fixed_by_the_first_subscription(version: int) -> None:
    async with endpoint() as e:
        plain = await e.connect("alice", version)
        no = 0x83 if version == 5 else 0x80
        assert await plain.subscribe("gw/v1/m/alice", "gw/v1/d/alice") == [1, no]
        assert await plain.subscribe("gw/v1/d/alice") == [no]
        framed = await e.connect("bob", version)
        assert await framed.subscribe("gw/v1/d/bob", "gw/v1/m/bob", qos=2) == [1, no]
        assert await framed.subscribe("gw/v1/m/bob") == [no]
        # UNSUBSCRIBE frees it
        assert await plain.unsubscribe() in ([0], [])
        assert await plain.subscribe("gw/v1/d/alice", qos=0) == [0]
        assert await framed.unsubscribe("gw/v1/d/bob") in ([0], [])
        assert await framed.subscribe() == [1]
        await plain.leave()
        await framed.leave()


@VERSIONS
async def test_subscribing_again_sends_nothing_again_and_changes_the_qos(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        await e.publish("alice", 1)
        first = await device.next(Publish)
        assert await device.subscribe() == [1]
        await device.nothing()
        assert await device.subscribe(qos=0) == [0]
        id = await e.publish("alice", 2)
        second = await device.next(Publish)
        assert (second.qos, second.pid) == (0, 0)
        await e.until(lambda: e.hub.figures()["in_flight"] == 1)
        assert "at_most_once" in await e.events(id)
        assert await device.subscribe(qos=1) == [1]
        await e.publish("alice", 3)
        third = await device.next(Publish)
        assert (third.qos, third.pid) == (1, 3)
        device.ack(first.pid, third.pid)
        await e.until(lambda: not e.hub.figures()["in_flight"])
        await device.leave()


@VERSIONS
async def test_a_subscribe_that_the_hub_refuses(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.hub.core.config = e.hub.core.config.__class__(
            **{
                **{f: getattr(e.hub.core.config, f) for f in e.hub.core.config.__struct_fields__},
                "clients": e.hub.core.config.clients.__class__(max=1),
            }
        )
        e.hub.core.session("carol")
        assert await device.subscribe() == ([0x97] if version == 5 else [0x80])
        # the connection stands, and its publishes behind it are taken
        device.send("carol", pid=3)
        assert await device.packet() == 3
        await device.leave()


@VERSIONS
async def test_what_comes_behind_a_subscribe_waits_for_it(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.write(codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]), codec.pingreq())
        device.send("bob", pid=2)
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.turn(20)
        assert not device.packets
        e.store.let_go()
        assert type(await device.packet()) is Suback
        assert type(await device.packet()) is codec.Pong
        assert await device.packet() == 2
        await device.leave()


@VERSIONS
async def test_a_subscribe_that_takes_too_long(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.write(codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.advance(61.0, 10.0)
        assert await device.end() == (0x89 if version == 5 else None)


@VERSIONS
async def test_a_device_that_goes_before_its_suback(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        e.store.held = True
        device.write(codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
        await e.until(lambda: e.server.figures()["unread"] == 1)
        device.cut()
        await e.turn()
        e.store.let_go()
        await e.advance(61.0, 10.0)
        await gone(e)
        assert e.hub.presence("alice")["status"] != "online"


# -- UNSUBSCRIBE ---------------------------------------------------------------------------------------------------


@VERSIONS
async def test_unsubscribe(version: int) -> None:
    async with endpoint(max_subscriptions=8) as e:
        device = await e.connect("alice", version)
        filters = ["gw/v1/m/alice", "gw/v1/m/bob", "gw/v1/d/alice", "#", "a/#/b"]
        assert await device.unsubscribe(*filters) == ([0x11, 0x87, 0x11, 0x11, 0x8F] if version == 5 else [])
        assert await device.subscribe() == [1]
        assert e.hub.presence("alice")["status"] == "online"
        assert await device.unsubscribe(*filters) == ([0, 0x87, 0x11, 0x11, 0x8F] if version == 5 else [])
        assert e.hub.presence("alice")["status"] != "online"
        await e.publish("alice", 1)
        await device.nothing()
        await device.leave()


async def test_filters_of_one_unsubscribe_are_limited() -> None:
    async with endpoint(max_subscriptions=2) as e:
        device = await e.subscribed()
        own = "gw/v1/m/alice"
        assert await device.unsubscribe("a", own, own, own) == [0x87, 0, 0x83, 0x83]
        await device.leave()


@VERSIONS
async def test_what_was_written_is_acked_after_an_unsubscribe_and_not_written_again(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        ids = [await e.publish("alice", i) for i in range(3)]
        await device.messages(3)
        assert await device.unsubscribe() in ([0], [])
        device.ack(1)
        await device.nothing()
        await e.until(lambda: e.hub.figures()["in_flight"] == 2)
        assert (await e.view(ids[0])).item.status == 4
        ids.append(await e.publish("alice", 3))
        assert await device.subscribe() == [1]
        fresh = await device.next(Publish)
        assert (fresh.pid, fresh.payload, fresh.dup) == (4, b"3", False)
        device.ack(2, 3, 4)
        await e.until(lambda: not e.hub.figures()["in_flight"])
        assert [(await e.view(i)).item.status for i in ids] == [4] * 4
        await device.leave()


# -- CONNECT again -------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_kept_session_is_present_and_online_at_connack(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        for i in range(3):
            await e.publish("alice", i)
        epochs = {user(m)["epoch"] for m in await device.messages(3)} if version == 5 else set()
        if version == 4:
            await device.messages(3)
        device.ack(2)
        await device.nothing()
        await cut(e, device)
        again = await e.connect("alice", version, **KEPT[version])
        assert again.connack is not None
        assert again.connack.session_present
        messages = await again.messages(2)
        assert [(m.pid, m.payload, m.dup) for m in messages] == [(1, b"0", True), (3, b"2", True)]
        if version == 5:
            assert {user(m)["epoch"] for m in messages} == epochs
            assert {user(m)["redelivered"] for m in messages} == {"1"}
        # a subscription that is there is only confirmed
        assert await again.subscribe() == [1]
        await again.nothing()
        await e.publish("alice", 9)
        assert (await again.next(Publish)).pid == 4
        await again.leave()


@VERSIONS
async def test_a_session_that_ends_with_its_connection(version: int) -> None:
    async with endpoint() as e:
        once: dict[str, Any] = {"clean": True} if version == 4 else {"clean": False}
        device = await e.subscribed("alice", version, **once)
        await e.publish("alice", 0)
        (first,) = await device.messages(1)
        await cut(e, device)
        assert e.hub.subscription("alice") == Sub.NONE
        again = await e.connect("alice", version, **KEPT[version])
        assert again.connack is not None
        assert not again.connack.session_present
        assert await again.subscribe() == [1]
        (message,) = await again.messages(1)
        assert (message.pid, message.payload) == (1, b"0")
        # 3.1.1 has nothing else to say that it may have been seen; in 5 no session is no DUP
        assert message.dup is (version == 4)
        if version == 5:
            assert user(message)["epoch"] != user(first)["epoch"]
            assert user(message)["redelivered"] == "1"
        await again.leave()


@VERSIONS
async def test_a_clean_start_begins_an_epoch_and_keeps_what_is_pending(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        await e.publish("alice", 0)
        await device.messages(1)
        await cut(e, device)
        epoch = e.hub.presence("alice")["epoch"]
        fresh = await e.connect("alice", version, clean=True)
        assert fresh.connack is not None
        assert not fresh.connack.session_present
        assert e.hub.presence("alice")["epoch"] != epoch
        assert e.hub.subscription("alice") == Sub.NONE
        epoch = e.hub.presence("alice")["epoch"]
        await fresh.nothing()
        assert await fresh.subscribe() == [1]
        (message,) = await fresh.messages(1)
        assert (message.pid, message.payload) == (1, b"0")
        # it had begun at CONNACK: the SUBSCRIBE goes on with it
        assert e.hub.presence("alice")["epoch"] == epoch
        await fresh.leave()


@VERSIONS
async def test_a_clean_start_without_a_session_begins_its_epoch_with_the_subscription(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, clean=True)
        epoch = e.hub.presence("alice")["epoch"]
        # only once
        assert await device.unsubscribe() in ([0], [])
        assert await device.subscribe() == [1]
        assert e.hub.presence("alice")["epoch"] == epoch
        await device.leave()


async def test_a_session_is_kept_for_as_long_as_its_device_asks() -> None:
    async with endpoint() as e:
        for seconds, present in ((9.0, True), (11.0, False)):
            device = await e.subscribed("alice", clean=True, props={P.SESSION_EXPIRY: 10})
            await cut(e, device)
            await e.advance(seconds)
            again = await e.connect("alice", clean=False)
            assert again.connack is not None
            assert again.connack.session_present is present
            await again.leave()


async def test_a_session_in_3_1_1_is_kept_as_configured() -> None:
    async with endpoint() as e:
        for seconds, present in ((3599.0, True), (3601.0, False)):
            device = await e.subscribed("alice", 4, clean=False)
            await cut(e, device)
            await e.advance(seconds, 600.0)
            again = await e.connect("alice", 4, clean=False)
            assert again.connack is not None
            assert again.connack.session_present is present
            await again.leave()


@VERSIONS
async def test_a_session_that_unsubscribed_is_not_present(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        await device.unsubscribe()
        await cut(e, device)
        again = await e.connect("alice", version, **KEPT[version])
        assert again.connack is not None
        assert not again.connack.session_present
        await again.leave()


@VERSIONS
async def test_a_connack_that_waits_for_its_session(version: int) -> None:
    async with endpoint() as e:
        await cut(e, await e.subscribed("alice", version, **KEPT[version]))
        await e.turn()
        e.store.held = True
        device = await e.device("alice", version).open()
        device.write(device.hello(**KEPT[version]), codec.pingreq())
        await e.until(lambda: e.server.figures()["unread"] == 1)
        await e.turn(20)
        assert not device.packets
        await e.advance(61.0, 10.0)
        assert int((await device.next(Connack)).code) == 0x88
        assert await device.packet() is None
        device.cut()


@VERSIONS
async def test_a_connack_that_the_hub_refuses(version: int) -> None:
    async with endpoint() as e:
        await cut(e, await e.subscribed("alice", version, **KEPT[version]))
        e.hub.core.forgetting.add("alice")
        device = e.device("alice", version)
        assert int((await device.connect(**KEPT[version])).code) == 0x88
        assert await device.packet() is None
        device.cut()
        e.hub.core.forgetting.clear()


# -- take-over -----------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("subscribed", [True, False])
async def test_a_second_connection_takes_over(version: int, subscribed: bool) -> None:
    async with endpoint() as e:
        first = await e.connect("alice", version, **KEPT[version])
        if subscribed:
            await first.subscribe()
            await e.publish("alice", 1)
            await first.messages(1)
        second = await e.connect("alice", version, **KEPT[version])
        assert await first.end() == (0x8E if version == 5 else None)
        assert second.connack is not None
        assert second.connack.session_present is subscribed
        if subscribed:
            (message,) = await second.messages(1)
            assert (message.pid, message.dup) == (1, True)
        await second.leave()


@VERSIONS
async def test_a_duel_of_two_connections(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        ids = []
        for i in range(10):
            ids.append(await e.publish("alice", i))
            older, device = device, await e.connect("alice", version, **KEPT[version])
            older.cut()
        for _ in range(2):
            await e.turn()
        got: dict[int, int] = {}
        while len(got) < 8:
            message = await device.next(Publish)
            got.setdefault(int(message.payload), message.pid)
            device.ack(message.pid)
        assert list(got) == list(range(8))
        await device.leave()


@VERSIONS
async def test_the_other_transport_takes_over(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        conn = next(iter(e.hub.core.conns))
        e.hub.delivery.disconnected(conn, True)
        conn.close(Close.TAKEN_OVER, "taken over")
        assert await device.end() == (0x8E if version == 5 else None)


@VERSIONS
async def test_an_administrator_ends_a_connection(version: int) -> None:
    async with endpoint() as e:
        for ban, end in ((None, 0x98), (60.0, 0x98)):
            device = await e.subscribed("alice", version)
            await e.hub.disconnect("alice", ban)
            assert await device.end() == (end if version == 5 else None)


@VERSIONS
async def test_a_deleted_client(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        await e.hub.forget("alice")
        assert await device.end() == (0x87 if version == 5 else None)


async def test_a_ban_reaches_a_device_without_a_session_when_it_publishes() -> None:
    async with endpoint() as e:
        device = await e.connect()
        await e.hub.disconnect("alice", 60.0)
        device.send("bob")
        assert (await device.why())[0] == 0x98


@pytest.mark.parametrize("reference", ["", "other.example:1883"])
async def test_a_drain_sends_devices_elsewhere(reference: str) -> None:
    async with endpoint(server_reference=reference) as e:
        devices = [await e.subscribed("alice"), await e.connect("bob"), await e.subscribed("carol", 4)]
        e.hub.drain()
        await e.advance(11.0)
        for device in devices[:2]:
            end = await device.next(codec.Disconnect)
            assert int(end.code) == (0x9C if reference else 0x8B)
            assert (end.props or {}).get(P.SERVER_REFERENCE, "") == reference
            assert await device.packet() is None
        assert await devices[2].packet() is None
        for device in devices:
            device.cut()


# -- DISCONNECT ----------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_goodbye(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        await device.leave()
        await gone(e)
        assert e.figure("disconnects", "client 0x00") == 1
        assert e.hub.presence("alice")["status"] != "online"


@pytest.mark.parametrize(
    ("asked", "told", "present"),
    [(600, None, True), (600, 0, False), (600, 60, True), (0, 0, False)],
)
async def test_a_goodbye_with_a_session_expiry(asked: int, told: int | None, present: bool) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", clean=False, props={P.SESSION_EXPIRY: asked})
        props: Props | None = None if told is None else {P.SESSION_EXPIRY: told}
        await device.leave(0, props)
        await gone(e)
        again = await e.connect("alice", clean=False)
        assert again.connack is not None
        assert again.connack.session_present is present
        await again.leave()


async def test_a_session_that_was_to_end_cannot_be_kept_by_its_goodbye() -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice")
        device.write(codec.disconnect(5, 0, {P.SESSION_EXPIRY: 10}))
        assert (await device.why())[0] == 0x82


@pytest.mark.parametrize(("code", "blamed"), [(0x00, 0), (0x04, 0), (0x81, 1), (None, 1)])
async def test_only_an_end_without_a_goodbye_is_blamed_on_the_message(code: int | None, blamed: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", **KEPT[5])
        id = await e.publish("alice", 1)
        await device.messages(1)
        if code is None:
            device.cut()
        else:
            await device.leave(code)
        await gone(e)
        await e.turn()
        assert (await e.view(id)).item.crashes == blamed


async def test_what_was_acked_before_a_goodbye_counts() -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", **KEPT[5])
        id = await e.publish("alice", 1)
        await device.messages(1)
        device.write(codec.puback(5, 1), codec.disconnect(5))
        assert await device.packet() is None
        device.cut()
        await gone(e)
        await e.turn()
        assert (await e.view(id)).item.status == 4
