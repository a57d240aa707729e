"""How connections over MQTT end, and how they carry frames: against a server that is played packet by packet."""

import asyncio
import time

import pytest

from gateway.client import (
    Banned,
    Client,
    NotAuthorised,
    ProtocolViolation,
    PublishRefused,
    Stopped,
    TakenOver,
    TokenExpired,
)
from tests.client.mqtt_server import ALICE, DISCONNECT, ScriptedServer, joined, jwt

# -- the end of a connection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (0x82, ProtocolViolation, 4303),
        (0x87, TokenExpired, 4200),
        (0x8E, TakenOver, 4302),
    ],
)
async def test_a_disconnect_that_stops(
    server: ScriptedServer, code: int, kind: type[Stopped], told: int
) -> None:
    async with joined(server) as (client, peer):
        waiting = asyncio.ensure_future(anext(client.messages()))
        peer.disconnect(code, "what happened")
        with pytest.raises(kind) as caught:
            await waiting
        assert (type(caught.value), caught.value.code) == (kind, told)


async def test_err_with_close_counts_more_than_the_disconnect(server: ScriptedServer) -> None:
    ends: list[tuple[int, str]] = []
    async with joined(server, on_close=lambda *end: ends.append(end)) as (client, peer):
        waiting = asyncio.ensure_future(anext(client.messages()))
        peer.send({"t": "err", "code": "banned", "status": 403, "detail": "for a week", "close": 4304,
                   "c": peer.connect.will["c"]})  # fmt: skip
        peer.disconnect(0x98)
        with pytest.raises(Banned, match="for a week"):
            await waiting
    assert ends == [(4304, "for a week")]


async def test_behind_a_broker_err_with_close_ends_the_connection(server: ScriptedServer) -> None:
    async with joined(server) as (client, peer):
        waiting = asyncio.ensure_future(anext(client.messages()))
        peer.send({"t": "err", "code": "taken_over", "status": 409, "close": 4302})
        assert (await peer.expect(DISCONNECT)).body == b""
        with pytest.raises(TakenOver):
            await waiting


@pytest.mark.parametrize("code", [0x8B, 0x97, 0x98, 0x9C, 0x8D, 0x83, None])
async def test_a_disconnect_that_resumes(server: ScriptedServer, code: int | None) -> None:
    async with joined(server, ack_delay=0) as (client, peer):
        peer.send({"t": "msg", "m": [{"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": 1}]})
        await (await anext(client.messages())).ack()
        await peer.frame("ack")
        publishing = asyncio.ensure_future(client.publish("bob", "x"))
        first = await peer.frame("pub")
        if code is None:
            peer.cut()
        else:
            peer.disconnect(code)
        again = await server.accept()
        hello = await again.greet(resumed=True, resume="r2")
        nonce = again.connect.will["c"]
        assert hello == {"t": "hello", "resume": "r1", "epoch": "e1", "ack": 1, "window": 64, "c": nonce}
        assert await again.frame("pub") == first | {"c": nonce}
        again.send({"t": "ok", "m": [{"ref": first["m"][0]["ref"], "id": "A", "dup": True}]})
        assert (await publishing).dup


async def test_a_frame_that_is_too_large_is_refused_and_not_repeated(server: ScriptedServer) -> None:
    async with joined(server) as (client, peer):
        publishing = [asyncio.ensure_future(client.publish("bob", body)) for body in ("short", "x" * 1000)]
        await peer.frame("pub")
        peer.disconnect(0x95)
        again = await server.accept()
        await again.greet(resumed=True)
        (sent,) = (await again.frame("pub"))["m"]
        assert sent["body"] == "short"
        again.send({"t": "ok", "m": [{"ref": sent["ref"], "id": "A"}]})
        await publishing[0]
        with pytest.raises(PublishRefused, match="too_large"):
            await publishing[1]


async def test_at_exp_a_new_token_resumes(server: ScriptedServer) -> None:
    tokens = [jwt(sub="alice", n=n) for n in range(2)]
    given = iter(tokens)

    async def fresh() -> str:
        return next(given)

    async with joined(server, fresh) as (_, peer):
        peer.disconnect(0x87)
        again = await server.accept()
        assert again.connect.password == tokens[1]
        assert (await again.greet(resumed=True))["resume"] == "r1"


async def test_a_fresh_token_goes_to_the_connection_that_stands(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.tokens.SHARE", 1.0)
    monkeypatch.setattr("gateway.client.tokens.MARGIN", 3600.0)
    given = [jwt(sub="alice", exp=time.time() + 3600), jwt(sub="alice")]
    calls = iter(given)

    async def fresh() -> str:
        return next(calls)

    async with joined(server, fresh) as (_, peer):
        nonce = peer.connect.will["c"]
        assert await peer.frame("token") == {"t": "token", "token": given[1], "c": nonce}


async def test_a_frame_that_is_not_authorised_stops(server: ScriptedServer) -> None:
    entering = asyncio.ensure_future(Client(server.url, ALICE).__aenter__())
    peer = await server.accept()
    peer.connack()
    await peer.suback()
    await peer.frame("hello", ack=False)
    peer.puback(0x87)
    with pytest.raises(NotAuthorised, match="a frame: Not authorized"):
        await entering


async def test_a_frame_that_was_not_taken_costs_the_connection(server: ScriptedServer) -> None:
    async with joined(server) as (client, peer):
        publishing = asyncio.ensure_future(client.publish("bob", "x"))
        first = await peer.frame("pub", ack=False)
        peer.puback(0x97)
        again = await server.accept()
        await again.greet(resumed=True)
        pub = await again.frame("pub")
        assert pub["m"] == first["m"]
        again.send({"t": "ok", "m": [{"ref": pub["m"][0]["ref"], "id": "A"}]})
        await publishing


async def test_frames_wait_for_the_room_that_the_server_has(server: ScriptedServer) -> None:
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    peer.connack(0, b"\x03\x21\x00\x01")  # receive maximum 1
    await peer.suback()
    hello = await peer.frame("hello", ack=False)
    peer.send({"t": "welcome", "client": "alice", "epoch": "e1", "resume": "r1", "resumed": False, "next": 1,
               "window": 64, "heartbeat": 25, "c": hello["c"]})  # fmt: skip
    await entering
    reading = asyncio.ensure_future(client.read(["0" * 13]))
    publishing = asyncio.ensure_future(client.publish("bob", "x"))
    await reading
    waiting = asyncio.ensure_future(peer.frame("read", ack=False))
    peer.send({"t": "msg", "m": [{"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": 1}]})
    await anext(client.messages())  # a way there and back: what was sent would be here
    assert not waiting.done()
    peer.puback()
    await waiting
    peer.puback()
    pub = await peer.frame("pub")
    peer.send({"t": "ok", "m": [{"ref": pub["m"][0]["ref"], "id": "A"}]})
    await publishing
    await client.close()


async def test_at_most_so_many_frames_are_in_flight(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.mqtt.CLOSE_TIMEOUT", 20.0)
    monkeypatch.setattr("gateway.client.mqtt.IN_FLIGHT", 2)
    async with joined(server, ack_delay=0) as (client, peer):
        messages = client.messages()
        for seq in (1, 2, 3):
            peer.send({"t": "msg", "m": [{"seq": seq, "id": f"M{seq}", "from": "bob", "at": 1, "body": seq}]})
            await (await anext(messages)).ack()
            if seq < 3:
                assert (await peer.frame("ack", ack=False))["seq"] == seq
        closing = asyncio.ensure_future(client.close())
        peer.puback(pid=peer.pids[1])
        assert (await peer.frame("ack", ack=False))["seq"] == 3
        peer.puback(pid=peer.pids[2])
        await peer.frame("bye", ack=False)
        peer.puback(pid=peer.pids[3])
        peer.puback(pid=peer.pids[4])
        assert (await peer.expect(DISCONNECT)).body == b""
        await closing


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_a_clean_goodbye_is_bye_and_then_disconnect(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.client.mqtt.CLOSE_TIMEOUT", 20.0)
    async with joined(server) as (client, peer):
        closing = asyncio.ensure_future(client.close(end=True))
        assert await peer.frame("bye") == {"t": "bye", "end": True, "c": peer.connect.will["c"]}
        assert (await peer.expect(DISCONNECT)).body == b""
        assert await peer.gone() == b""
        await closing


async def test_a_server_that_does_not_take_bye_is_left(server: ScriptedServer) -> None:
    async with joined(server) as (client, peer):
        closing = asyncio.ensure_future(client.close())
        await peer.frame("bye", ack=False)
        await closing
        assert await peer.gone() == b""  # the will says it


async def test_a_broken_frame_leaves_the_word_to_the_will(server: ScriptedServer) -> None:
    ends: list[int] = []
    async with joined(server, on_close=lambda code, _: ends.append(code)) as (_, peer):
        peer.send(b'{"t":"msg","m":[{"seq":"one"}]}')
        assert await peer.gone() == b""
        again = await server.accept()
        assert (await again.greet(resumed=True))["resume"] == "r1"
    assert ends[0] == 1002


async def test_a_gateway_without_a_sign_of_life_is_left_to_the_will(server: ScriptedServer) -> None:
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    await peer.greet(heartbeat=0.2)
    await entering
    while True:  # a broker takes what it gets
        try:
            await peer.frame("ping")
        except (asyncio.IncompleteReadError, ConnectionError):
            break
    again = await server.accept()
    assert again.connect.will["c"] != peer.connect.will["c"]
    await again.greet(resumed=True)
    await client.close()


async def test_tokens_and_bodies_stay_out_of_the_log(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    token = jwt(sub="alice", x="SECRET")
    async with joined(server, token, ack_delay=0) as (client, peer):
        body = "PRIVATE"
        peer.send({"t": "msg", "m": [{"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": body}]})
        await (await anext(client.messages())).ack()
        await peer.frame("ack")
        peer.disconnect(0x8B)
        again = await server.accept()
        await again.greet(resumed=True)
    assert "connection ended" in caplog.text
    assert token not in caplog.text
    assert body not in caplog.text
