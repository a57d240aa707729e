"""The whole client against a real WebSocket server that says what the test tells it to."""

import asyncio
import base64
import contextlib
import json
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.client import (
    Banned,
    Client,
    ConnectTimeout,
    HandshakeRefused,
    NotAuthorised,
    ProtocolViolation,
    PublishRefused,
    PublishUnknown,
    Stopped,
    TakenOver,
    TokenExpired,
)
from gateway.client.frames import Codec
from gateway.client.transport import Device, opener


async def test_messages_come_and_acks_leave_together(gateway: Any) -> None:
    async with gateway.joined(ack_delay=0.001) as (client, peer):
        await peer.msg(1, 2, 3)
        for m in await gateway.take(client, 3):
            assert (m.body, m.sender) == (m.seq, "bob")
            await m.ack()
        assert await peer.recv() == {"t": "ack", "seq": 3}
        assert (client.info.client, client.info.epoch, client.info.why) == ("alice", "e1", "new")
        await client.close()
        assert await peer.recv() == {"t": "bye"}
        assert await peer.closed() == 1000


async def test_msgpack_carries_the_same(gateway: Any) -> None:
    async with gateway.joined(encoding="msgpack", ack_delay=0) as (client, peer):
        assert peer.binary
        await peer.msg({"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": {"a": [1, None, "é"]}})
        (m,) = await gateway.take(client, 1)
        assert m.body == {"a": [1, None, "é"]}
        await m.ack()
        assert await peer.recv() == {"t": "ack", "seq": 1}
        publishing = asyncio.ensure_future(client.publish("bob", {"b": 2.5}))
        (sent,) = (await peer.expect("pub"))["m"]
        assert sent["body"] == {"b": 2.5}
        await peer.send({"t": "ok", "m": [{"ref": sent["ref"], "id": "A"}]})
        assert (await publishing).id == "A"


async def test_publishes_of_one_turn_share_a_frame_and_each_gets_its_answer(gateway: Any) -> None:
    async with gateway.joined() as (client, peer):
        publishing = [
            asyncio.ensure_future(client.publish("bob", n, priority="high", ttl=5, deadline=2, deliver_at=9,
                                                 fallback=["hook"], collapse="c", notify=["dead"], meta={"a": "b"},
                                                 type="t", trace=None))
            for n in range(3)
        ]  # fmt: skip
        sent = (await peer.expect("pub"))["m"]
        assert [m["body"] for m in sent] == [0, 1, 2]
        assert {k: v for k, v in sent[0].items() if k not in {"ref", "key", "body"}} == {
            "to": "bob", "priority": "high", "ttl": 5, "deadline": 2, "deliver_at": 9, "fallback": ["hook"],
            "collapse": "c", "notify": ["dead"], "meta": {"a": "b"}, "type": "t",
        }  # fmt: skip
        assert len({m["key"] for m in sent}) == 3
        await peer.send({"t": "ok", "m": [{"ref": sent[2]["ref"], "id": "C", "dup": True}]})
        await peer.send({"t": "err", "ref": sent[0]["ref"], "code": "invalid", "status": 422, "detail": "no",
                         "field": "$.to"})  # fmt: skip
        await peer.send({"t": "ok", "m": [{"ref": sent[1]["ref"], "id": "B"}]})
        refused, second, third = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(refused, PublishRefused)
        assert (refused.code, refused.status, refused.field) == ("invalid", 422, "$.to")
        assert (second.id, second.dup, third.id, third.dup) == ("B", False, "C", True)  # type: ignore[union-attr]


async def test_a_cut_connection_is_resumed_and_publishes_repeated_in_order(gateway: Any) -> None:
    whys: list[str] = []
    ends: list[tuple[int, str]] = []
    async with gateway.joined(
        ack_delay=0, on_welcome=whys.append, on_close=lambda *end: ends.append(end)
    ) as (client, peer):
        await peer.msg(1, 2)
        one, two = await gateway.take(client, 2)
        await one.ack()
        await peer.expect("ack")
        first = [asyncio.ensure_future(client.publish("bob", n)) for n in range(2)]
        keys = [m["key"] for m in (await peer.expect("pub"))["m"]]
        peer.cut()
        again = await gateway.accept()
        newer = asyncio.ensure_future(client.publish("bob", 2))
        await two.ack()
        hello = await again.greet(resumed=True, resume="r2")
        assert (hello["resume"], hello["epoch"]) == ("r1", "e1")
        assert hello["ack"] in {1, 2}
        frame = await again.recv()
        if frame["t"] == "ack":
            frame = await again.recv()
        assert [m["body"] for m in frame["m"]] == [0, 1, 2]
        assert [m["key"] for m in frame["m"]][:2] == keys
        await again.send({"t": "ok", "m": [{"ref": m["ref"], "id": m["key"]} for m in frame["m"]]})
        assert [r.id for r in await asyncio.gather(*first)] == keys
        await newer
        assert whys == ["new", "resumed"]
        assert ends == [(1006, "")]
        assert client.info.resumed


async def test_goaway_leaves_in_time_and_resumes(gateway: Any) -> None:
    async with gateway.joined() as (_, peer):
        await peer.send({"t": "goaway", "after": [0.01, 0.05], "why": "drain"})
        assert await peer.recv() == {"t": "bye"}
        assert await peer.closed() == 1000
        again = await gateway.accept()
        assert (await again.greet(resumed=True))["resume"] == "r1"


async def test_a_gateway_without_a_sign_of_life_is_asked_and_left(gateway: Any) -> None:
    client = Client(gateway.url, "jwt")
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await gateway.accept()
    await peer.greet(heartbeat=0.1)
    await entering
    with contextlib.suppress(ConnectionClosed):  # on a machine that stalls the question comes too late
        assert await peer.recv() == {"t": "ping"}
    assert await peer.closed() == 1006
    again = await gateway.accept()
    await again.greet(resumed=True)
    await client.close()


async def test_websocket_pings_of_the_gateway_are_signs_of_life(gateway: Any) -> None:
    link = await opener(gateway.url, Codec("json"), None, Device("", "jwt", ""))("jwt")
    peer = await gateway.accept()
    before = link.heard
    await (await peer.connection.ping())
    assert link.heard > before
    await link.close(1000, "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4300, NotAuthorised),
        (4302, TakenOver),
        (4303, ProtocolViolation),
        (4304, Banned),
        (4310, Stopped),
        (4200, TokenExpired),
    ],
)
async def test_a_code_that_stops_is_raised_everywhere(gateway: Any, code: int, kind: type[Stopped]) -> None:
    ends: list[int] = []
    async with gateway.joined(on_close=lambda code, _: ends.append(code)) as (client, peer):
        await peer.msg(1)
        (m,) = await gateway.take(client, 1)
        waiting = asyncio.ensure_future(anext(client.messages()))
        flying = asyncio.ensure_future(client.publish("bob", 1, key="mine"))
        await peer.expect("pub")
        await peer.close(code, "why")
        with pytest.raises(kind) as caught:
            await waiting
        assert (caught.value.code, type(caught.value)) == (code, kind)
        with pytest.raises(PublishUnknown, match="mine"):
            await flying
        for call in (anext(client.messages()), client.publish("bob", 2), client.read(["0" * 13]), m.ack()):
            with pytest.raises(kind):
                await call
    assert ends == [code]


async def test_a_refused_hello_is_raised_on_entry(gateway: Any) -> None:
    client = Client(gateway.url, "jwt")
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await gateway.accept()
    await peer.expect("hello")
    await peer.send({"t": "err", "code": "token_invalid", "status": 401, "detail": "the token is not valid"})
    await peer.close(4300)
    with pytest.raises(NotAuthorised, match="the token is not valid"):
        await entering


async def test_an_expired_session_begins_anew(gateway: Any) -> None:
    whys: list[str] = []
    async with gateway.joined(ack_delay=0, on_welcome=whys.append) as (client, peer):
        await peer.msg(1)
        await (await gateway.take(client, 1))[0].ack()
        await peer.expect("ack")
        await peer.close(4100)
        again = await gateway.accept()
        hello = await again.greet(epoch="e2", why="expired")
        assert hello == {"t": "hello", "token": "jwt", "window": 64}
        await again.msg({"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": 1, "redelivered": 1})
        assert await again.recv() == {"t": "ack", "seq": 1}
        assert whys == ["new", "expired"]


# -- tokens -----------------------------------------------------------------------------------------------------------


def jwt(exp: float) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps({'exp': exp}).encode()).rstrip(b'=').decode()}.s"


async def test_an_expired_token_is_renewed_and_the_session_resumed(gateway: Any) -> None:
    given = iter(["first", "second", "third"])

    async def fresh() -> str:
        return next(given)

    async with gateway.joined(fresh) as (_, peer):
        peer.cut()
        again = await gateway.accept()
        assert (await again.greet(resumed=True))["token"] == "first"
        await again.close(4200, "token expired")
        third_peer = await gateway.accept()
        hello = await third_peer.greet(resumed=True)
        assert (hello["token"], hello["resume"]) == ("second", "r1")


async def test_a_token_is_renewed_before_it_expires(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client.tokens.SHARE", 1.0)
    monkeypatch.setattr("gateway.client.tokens.MARGIN", 3600.0)
    given = [jwt(time.time() + 3600), "without exp"]
    calls = iter(given)

    async def fresh() -> str:
        return next(calls)

    async with gateway.joined(fresh) as (_, peer):
        assert await peer.recv() == {"t": "token", "token": given[1]}


async def test_a_token_callable_that_fails_is_asked_again(gateway: Any) -> None:
    calls = iter([RuntimeError("down"), "token"])

    async def fresh() -> str:
        answer = next(calls)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async with gateway.joined(fresh):
        pass


# -- the handshake ----------------------------------------------------------------------------------------------------


async def test_a_busy_gateway_is_tried_again(gateway: Any) -> None:
    gateway.refuse(503, Retry_After="0")
    gateway.refuse(429)
    async with gateway.joined():
        pass


@pytest.mark.parametrize(
    ("status", "kind"), [(401, NotAuthorised), (403, NotAuthorised), (404, HandshakeRefused)]
)
async def test_a_refused_handshake_stops(gateway: Any, status: int, kind: type[Stopped]) -> None:
    gateway.refuse(status)
    with pytest.raises(kind) as caught:
        async with Client(gateway.url, "jwt"):
            pass
    assert caught.value.code == status


async def test_a_token_does_not_follow_a_redirect(gateway: Any) -> None:
    gateway.refuse(307, Location="/elsewhere")
    with pytest.raises(HandshakeRefused, match="307"):
        async with Client(gateway.url, "jwt"):
            pass


async def test_no_gateway_in_time(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectTimeout, match=r"refused|Connect"):
        async with Client(f"ws://127.0.0.1:{unused_tcp_port}/ws", "jwt", connect_timeout=0.5):
            pass


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://127.0.0.1", "unknown scheme 'http'.*ws, wss, mqtt, mqtts"),
        ("127.0.0.1:80", "unknown scheme"),
        ("ws:///ws", "names no host"),
        ("ws://127.0.0.1/#x", "not a WebSocket URL"),
    ],
)
def test_urls_that_cannot_be_served(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Client(url, "jwt")


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"window": 65536},
        {"encoding": "xml"},
        {"ack_delay": -1},
        {"dedupe": -1},
        {"max_publishes": 0},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|unknown encoding"):
        Client("ws://127.0.0.1/ws", "jwt", **options)
