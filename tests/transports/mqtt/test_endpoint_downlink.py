"""Messages to plain devices: packet ids, PUBACKs, quotas, devices that do not read."""

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.model import Sub
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Kind, P, Publish
from tests.transports.mqtt.endpoint import CONFIG, Device, Endpoint, endpoint, user

VERSIONS = pytest.mark.parametrize("version", [4, 5])
KEPT: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "props": {P.SESSION_EXPIRY: 600}},
}


async def settled(e: Endpoint) -> None:
    await e.until(lambda: not e.hub.figures()["in_flight"])


async def status(e: Endpoint, id: int) -> tuple[int, str]:
    item = (await e.view(id)).item
    return item.status, item.why


@VERSIONS
async def test_payloads_and_properties(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        await e.publish("alice", {"ü": [1, 2.5]})
        await e.publish("alice", "hé", priority="high", type="note", meta={"a": "b"})
        first, second = await device.messages(2)
        assert (first.payload, second.payload) == ('{"ü":[1,2.5]}'.encode(), "hé".encode())
        if version == 5:
            assert second.props is not None
            named = user(second)
            assert (named["from"], named["priority"], named["type"]) == ("api:backend", "high", "note")
            assert (named["seq"], named["a"]) == ("2", "b")
            assert second.props[P.CONTENT_TYPE] == "text/plain; charset=utf-8"
        device.ack(1, 2)
        await settled(e)
        await device.leave()


@VERSIONS
async def test_pubacks_in_any_order(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        ids = [await e.publish("alice", i) for i in range(3)]
        await device.messages(3)
        device.ack(3, 1)
        await e.until(lambda: e.hub.figures()["in_flight"] == 1)
        await device.nothing()
        assert [(await status(e, id))[0] for id in ids] == [4, 1, 4]
        device.ack(2)
        await settled(e)
        await device.leave()


@VERSIONS
async def test_pubacks_of_one_read_are_one_call_and_in_order_with_the_rest(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        for i in range(5):
            await e.publish("alice", i)
        await device.messages(5)
        calls: list[Any] = []
        ack, publish = e.hub.ack, e.hub.publish

        def acks(conn: Any, seq: int | None, seqs: list[int]) -> None:
            calls.append(seqs)
            ack(conn, seq, seqs)

        def publishes(principal: Any, message: Any, *rest: Any, **fields: Any) -> None:
            calls.append(message.to)
            publish(principal, message, *rest, **fields)

        monkeypatch.setattr(e.hub, "ack", acks)
        monkeypatch.setattr(e.hub, "publish", publishes)
        device.write(
            *(codec.puback(version, pid) for pid in (1, 2)),
            codec.publish(version, b"gw/v1/to/bob", b"1", qos=1, pid=9),
            codec.puback(version, 3),
            codec.pingreq(),
            codec.puback(version, 4),
            codec.puback(version, 5),
        )
        await settled(e)
        assert calls == ["bob", [1, 2, 3], [4, 5]]
        assert type(await device.packet()) is codec.Pong
        assert await device.packet() == 9
        await device.leave()


@VERSIONS
async def test_pubacks_that_mean_nothing_are_passed_over(version: int) -> None:
    async with endpoint() as e:
        device = await e.connect("alice", version)
        device.ack(1, 65535)
        await device.nothing()
        assert await device.subscribe() == [1]
        await e.publish("alice", 1)
        await device.messages(1)
        device.ack(2, 300, 65535, 1, 1)
        await settled(e)
        await device.nothing()
        await device.leave()


async def test_a_puback_that_refuses_is_a_reject() -> None:
    async with endpoint() as e:
        device = await e.subscribed()
        ids = [await e.publish("alice", i) for i in range(3)]
        await device.messages(3)
        device.write(
            codec.puback(5, 1, 0x83, "no such thing"),
            codec.puback(5, 2, 0x99),
            codec.ack(5, Kind.PUBACK, 3, 0, {P.REASON: "fine"}),
        )
        await settled(e)
        assert [await status(e, id) for id in ids] == [(10, "rejected"), (10, "rejected"), (4, "")]
        first, second = [next(v for v in (await e.view(id)).events if v.kind == "rejected") for id in ids[:2]]
        assert first.data is not None
        assert second.data is not None
        assert (first.data["why"], second.data["why"]) == ("0x83 no such thing", "0x99")
        await device.leave()


@VERSIONS
@pytest.mark.parametrize("kind", [Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP])
async def test_acknowledgements_of_qos_2_are_protocol_errors(version: int, kind: Kind) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        device.write(codec.ack(version, kind, 1))
        assert await device.end() == (0x82 if version == 5 else None)


@VERSIONS
async def test_packet_ids_go_round_with_the_seq(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        # as after 65533 messages
        e.hub.core.sessions["alice"].next = 65534
        known = e.store._tables.sessions
        known["alice"] = replace(known["alice"], row=replace(known["alice"].row, next=65534))
        ids = [await e.publish("alice", i) for i in range(4)]
        assert [m.pid for m in await device.messages(4)] == [65534, 65535, 1, 2]
        device.ack(65535, 1)
        await e.until(lambda: e.hub.figures()["in_flight"] == 2)
        assert [(await status(e, id))[0] for id in ids] == [1, 4, 4, 1]
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        again = await e.connect("alice", version, **KEPT[version])
        assert [(m.pid, m.dup) for m in await again.messages(2)] == [(65534, True), (2, True)]
        again.ack(2, 65534)
        await settled(e)
        await again.leave()


# -- how much at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "granted"), [(3, 3), (100, 8)])
async def test_the_receive_maximum_bounds_what_is_in_flight(asked: int, granted: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed(props={P.RECEIVE_MAXIMUM: asked, P.SESSION_EXPIRY: 60}, clean=False)
        for i in range(12):
            await e.publish("alice", i)
        await device.messages(granted)
        await device.nothing()
        device.ack(1)
        assert (await device.next(Publish)).pid == granted + 1
        await device.nothing()
        device.cut()
        await e.until(lambda: not e.server.figures()["connections"])
        again = await e.connect(props={P.RECEIVE_MAXIMUM: 2, P.SESSION_EXPIRY: 60}, clean=False)
        assert [(m.pid, m.dup) for m in await again.messages(2)] == [(2, True), (3, True)]
        await again.nothing()
        again.ack(2)
        assert (await again.next(Publish)).pid == 4
        await again.leave()


async def test_the_receive_maximum_holds_whatever_the_hub_hands_over() -> None:
    async with endpoint() as e:
        device = await e.subscribed(props={P.RECEIVE_MAXIMUM: 2})
        session = e.hub.core.sessions["alice"]
        session.limit = 8  # as if the hub thought so
        for i in range(4):
            await e.publish("alice", i)
        await device.messages(2)
        await device.nothing()
        device.ack(1)
        assert (await device.next(Publish)).pid == 3
        await device.nothing()
        device.ack(2, 3)
        assert (await device.next(Publish)).pid == 4
        device.ack(4)
        await settled(e)
        await device.leave()


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_is_over_the_maximum_packet_size_is_rejected(qos: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed(qos=qos, props={P.MAXIMUM_PACKET_SIZE: 1000})
        ids = [await e.publish("alice", body) for body in (1, "x" * 1000, 2)]
        assert [m.payload for m in await device.messages(2)] == [b"1", b"2"]
        if qos:
            device.ack(1, 3)
        await settled(e)
        await e.until(lambda: not e.hub.core.sessions["alice"].window.items)
        assert [await status(e, id) for id in ids] == [(4, ""), (10, "unsendable"), (4, "")]
        event = next(v for v in (await e.view(ids[1])).events if v.kind == "unsendable")
        assert event.data is not None
        assert event.data["detail"] == "over the device's Maximum Packet Size"
        await device.leave()


@VERSIONS
async def test_a_full_round_is_one_write(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version)
        await e.turn()
        (conn,) = [c for c in e.hub.core.conns if c.door == "mqtt"]
        writes: list[int] = []
        write = conn.write  # type: ignore[attr-defined]

        def notes(_: Any, pieces: list[bytes], answers: int) -> None:
            writes.append(len(pieces))
            write(pieces, answers)

        monkeypatch.setattr(type(conn), "write", notes)
        e.store.held = True
        e.post("carol", 0)
        await e.turn()
        # this one is under way: what comes now shares the next
        for i in range(5):
            e.post("alice", i)
        device.send("bob", pid=1)
        await e.until(lambda: e.server.packets_in >= 3)
        await e.turn()
        e.store.let_go()
        rest = [await device.packet() for _ in range(6)]
        assert [type(p) for p in rest] == [int] + [Publish] * 5
        assert writes == [6]
        await device.leave()


# -- time ----------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_message_without_its_puback_in_time_ends_the_connection(version: int) -> None:
    async with endpoint() as e:
        device = await e.subscribed("alice", version, **KEPT[version])
        id = await e.publish("alice", 1)
        await device.messages(1)
        await e.advance(16.0)
        if version == 5:
            assert await device.why() == (0x83, "ack timeout")
        else:
            assert await device.end() is None
        await e.until(lambda: not e.server.figures()["connections"])
        await e.turn()
        item = (await e.view(id)).item
        assert (item.tries, item.crashes) == (1, 0)
        again = await e.connect("alice", version, **KEPT[version])
        (message,) = await again.messages(1)
        assert (message.pid, message.dup) == (1, True)
        again.ack(1)
        await settled(e)
        await again.leave()


# -- devices that do not read --------------------------------------------------------------------------------------

STALLING = replace(CONFIG, session=replace(CONFIG.session, window=64, ack_wait=3600.0, ack_wait_max=3600.0))


async def deaf(e: Endpoint, version: int, **options: Any) -> Device:
    """A subscribed device that does not read any more, with all that it is sent on its way."""
    device = await e.device("alice", version).open_narrow()
    device.write(device.hello(**options), codec.subscribe(version, 1, [("gw/v1/m/alice", 1)]))
    assert type(await device.packet()) is codec.Connack
    assert type(await device.packet()) is codec.Suback
    for _ in range(64):
        await e.publish("alice", "x" * 4000)
    await e.until(lambda: e.server.figures()["unwritable"] == 1)
    return device


@VERSIONS
async def test_a_device_that_does_not_read_is_given_up(version: int) -> None:
    async with endpoint(STALLING, buffer_limit=16384, stall_timeout=10.0) as e:
        device = await deaf(e, version, **KEPT[version])
        other = await e.subscribed("bob", version)
        (conn,) = [c for c in e.hub.core.conns if c.principal.name == "alice"]  # type: ignore[attr-defined]
        assert not conn.writable
        assert conn.transport.get_write_buffer_size() < 2 * 16384  # type: ignore[attr-defined]
        await e.advance(9.0)
        assert e.server.figures()["connections"] == 2
        await e.advance(4.0)
        assert e.server.figures()["connections"] == 1
        assert e.figure("disconnects", "server 0x97") == 1
        device.cut()
        # the others go on, and nothing is lost
        await e.publish("bob", 1)
        await other.messages(1)
        again = await e.connect("alice", version, **KEPT[version])
        assert [m.pid for m in await again.messages(64)] == list(range(1, 65))
        await again.leave()
        await other.leave()


@VERSIONS
async def test_a_slow_device_gets_everything(version: int) -> None:
    async with endpoint(STALLING, buffer_limit=16384, stall_timeout=10.0) as e:
        device = await deaf(e, version)
        got = 0
        while got < 64:
            await e.advance(2.0)
            message = await device.next(Publish)
            got += 1
            assert message.pid == got
            device.ack(message.pid)
        await settled(e)
        await e.until(lambda: not e.server.figures()["unwritable"])
        await e.publish("alice", 1)
        await device.messages(1)
        await device.leave()


@VERSIONS
async def test_answers_that_nobody_reads_are_bounded(version: int) -> None:
    async with endpoint(STALLING, buffer_limit=16384, stall_timeout=10.0) as e:
        device = await deaf(e, version)
        pings = codec.pingreq() * 4096
        for _ in range(16):
            device.write(pings)
        await e.until(lambda: e.server.figures()["unread"] or not e.server.figures()["connections"])
        for conn in e.hub.core.conns:
            assert conn.transport.get_write_buffer_size() < 3 * 16384  # type: ignore[attr-defined]
        await e.advance(13.0)
        assert e.figure("disconnects", "server 0x97") == 1
        device.cut()


@VERSIONS
async def test_unsubscribing_before_all_was_written_loses_nothing(version: int) -> None:
    async with endpoint(STALLING, buffer_limit=16384, stall_timeout=100.0) as e:
        device = await deaf(e, version, **KEPT[version])
        device.write(codec.unsubscribe(version, 2, ["gw/v1/m/alice"]))
        await e.until(lambda: e.hub.subscription("alice") == Sub.NONE)
        device.write(codec.subscribe(version, 3, [("gw/v1/m/alice", 1)]))
        got: list[int] = []
        answers = 0
        while len(got) < 64:
            packet = await device.packet()
            if type(packet) is Publish:
                assert not packet.dup or version == 4
                got.append(packet.pid)
                device.ack(packet.pid)
            else:
                answers += 1
        assert sorted(got) == list(range(1, 65))
        assert answers == 2
        await settled(e)
        await device.leave()
