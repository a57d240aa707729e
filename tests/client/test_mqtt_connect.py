"""How the client connects over MQTT, and what it makes of refusals; the server is played packet by packet."""

import asyncio
import gc
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.client import (
    Banned,
    Client,
    ConnectTimeout,
    HandshakeRefused,
    NotAuthorised,
    Stopped,
    TakenOver,
    TokenExpired,
)
from gateway.client.mqtt import _Connection
from tests.cli.support import certificate
from tests.client.mqtt_server import (
    ALICE,
    DISCONNECT,
    UP,
    ScriptedServer,
    joined,
    jwt,
    reason_string,
    serving,
)

EXPIRY_10 = b"\x02\x00\x00\x00\x0a"  # message expiry interval


# -- CONNECT ----------------------------------------------------------------------------------------------------------


async def test_the_token_says_who_it_is_and_proves_it(server: ScriptedServer) -> None:
    async with asyncio.TaskGroup() as group:
        client = Client(server.url, ALICE)
        entering = group.create_task(client.__aenter__())
        peer = await server.accept()
        connect = peer.connect
        assert (connect.level, connect.clean) == (5, True)
        assert (connect.client, connect.username, connect.password) == ("alice", "alice", ALICE)
        assert (connect.will_topic, connect.will_qos) == (UP, 1)
        peer.connack()
        assert await peer.suback() == ("gw/v1/d/alice", 2 << 4)  # QoS 0, nothing that was retained
        topic, hello, properties = await peer.publish()
        assert (topic, properties) == (UP, EXPIRY_10)
        assert hello == {"t": "hello", "window": 64, "c": connect.will["c"]}
        assert connect.will == {"t": "bye", "c": hello["c"]}
        peer.send({"t": "welcome", "client": "alice", "epoch": "e1", "resume": "r1", "resumed": False, "next": 1,
                   "window": 64, "heartbeat": 25, "c": hello["c"]})  # fmt: skip
        await entering
        publishing = group.create_task(client.publish("bob", "x"))
        _, pub, properties = await peer.publish()
        assert (pub["c"], properties) == (hello["c"], b"")
        peer.send({"t": "ok", "m": [{"ref": pub["m"][0]["ref"], "id": "A"}]})
        assert (await publishing).id == "A"
        await client.close()


@pytest.mark.parametrize(
    ("user", "token", "options", "expected"),
    [
        ("", "secret", {"client": "alice"}, ("alice", "alice", "secret")),
        ("broker:p%40ss@", "", {"client": "alice"}, ("alice", "broker", "p@ss")),
        ("broker@", ALICE, {}, ("alice", "broker", None)),
        ("alice:pass@", "", {}, ("alice", "alice", "pass")),
    ],
)
async def test_other_credentials(
    server: ScriptedServer, user: str, token: str, options: Any, expected: Any
) -> None:
    server.url = server.url.replace("//", f"//{user}")
    async with joined(server, token, **options) as (_, peer):
        assert (peer.connect.client, peer.connect.username, peer.connect.password) == expected


async def test_the_prefix_of_the_topics_is_the_gateways(server: ScriptedServer) -> None:
    entering = asyncio.ensure_future(Client(server.url, ALICE, prefix="my/bots").__aenter__())
    peer = await server.accept()
    assert peer.connect.will_topic == UP.replace("gw/v1", "my/bots")
    peer.connack()
    assert (await peer.suback())[0] == "my/bots/d/alice"
    assert (await peer.publish())[0] == peer.connect.will_topic
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


@pytest.mark.parametrize(
    ("url", "token", "options", "complaint"),
    [
        ("mqtt://h/ws", ALICE, {}, "ends with the port"),
        ("mqtt://h?x=1", ALICE, {}, "ends with the port"),
        ("mqtt://", ALICE, {}, "no host"),
        ("mqtt://h:99999", ALICE, {}, "[Pp]ort"),
        ("mqtt://h", "", {}, "a token is needed"),
        ("mqtt://h", "opaque", {}, "who is the client"),
        ("mqtt://h", jwt(sub=7), {}, "who is the client"),
        ("mqtt://h", jwt(sub="a/b"), {}, "must be a client id"),
        ("mqtt://h", ALICE, {"client": "#"}, "must be a client id"),
        ("mqtt://h", ALICE, {"prefix": "a/+"}, "prefix"),
        ("mqtt://h", ALICE, {"prefix": "/a"}, "prefix"),
        ("mqtt://h", ALICE, {"encoding": "msgpack"}, "json"),
        ("mqtt://h", ALICE, {"ssl": ssl.create_default_context()}, "ssl needs"),
        ("ws://h/ws", ALICE, {"client": "alice"}, "over WebSocket"),
        ("ws://h/ws", ALICE, {"prefix": "a"}, "over WebSocket"),
        ("ws://h/ws", "", {}, "a token is needed"),
    ],
)
def test_options_that_cannot_be(url: str, token: str, options: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Client(url, token, **options)


def test_a_callable_is_not_asked_beside_the_user_of_a_broker() -> None:
    async def fresh() -> str:
        return ALICE

    with pytest.raises(ValueError, match="no token is asked for"):
        Client("mqtt://user:pass@h", fresh, client="alice")


async def test_a_callable_whose_token_names_no_client_is_refused(server: ScriptedServer) -> None:
    async def fresh() -> str:
        return "opaque"

    with pytest.raises(HandshakeRefused, match="no sub"):
        async with Client(server.url, fresh):
            pass


def test_over_websocket_aiomqtt_is_not_imported() -> None:
    code = (
        "import sys; from gateway.client import Client; Client('ws://127.0.0.1/ws', 'jwt');"
        "sys.exit('aiomqtt' in sys.modules or 'paho' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    cert, key = certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


async def test_over_tls(certified: tuple[ssl.SSLContext, Path]) -> None:
    trust = ssl.create_default_context(cafile=certified[1])
    trust.check_hostname = False  # the certificate of the tests has a name, and no address
    async with serving(certified[0]) as server:
        assert server.url.startswith("mqtts://")
        async with joined(server, ssl=trust, ack_delay=0) as (client, peer):
            body = "é" * 200_000
            peer.send({"t": "msg", "m": [{"seq": 1, "id": "M1", "from": "bob", "at": 1, "body": body}]})
            m = await anext(client.messages())
            assert m.body == body
            await m.ack()
            assert (await peer.frame("ack"))["seq"] == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # paho leaves the socket to the collector
async def test_a_certificate_that_nobody_vouches_for(certified: tuple[ssl.SSLContext, Path]) -> None:
    async with serving(certified[0]) as server:
        with pytest.raises(ConnectTimeout, match=r"(?i)certificate"):
            async with Client(server.url, ALICE, connect_timeout=1):
                pass
    gc.collect()


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (0x86, NotAuthorised, 4300),
        (0x87, NotAuthorised, 4300),
        (0x8A, Banned, 4304),
        (0x84, HandshakeRefused, 0x84),
        (0x85, HandshakeRefused, 0x85),
        (0x90, HandshakeRefused, 0x90),
    ],
)
async def test_a_connack_that_stops(
    server: ScriptedServer, code: int, kind: type[Stopped], told: int
) -> None:
    entering = asyncio.ensure_future(Client(server.url, ALICE).__aenter__())
    peer = await server.accept()
    peer.connack(code, reason_string("what happened"))
    with pytest.raises(kind, match="what happened") as caught:
        await entering
    assert (type(caught.value), caught.value.code) == (kind, told)


@pytest.mark.parametrize("code", [0x80, 0x88, 0x89, 0x97, 0x9C, 0x9F])
async def test_a_connack_that_passes_is_tried_again(server: ScriptedServer, code: int) -> None:
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    (await server.accept()).connack(code)
    again = await server.accept()
    await again.greet()
    await entering
    await client.close()


async def test_a_token_that_has_expired_is_renewed(server: ScriptedServer) -> None:
    old, new = jwt(sub="alice", exp=time.time() + 2), jwt(sub="alice", exp=time.time() + 3600)
    given = iter([old, new])

    async def fresh() -> str:
        return next(given)

    client = Client(server.url, fresh)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    assert peer.connect.password == old
    peer.connack(0x87)  # the server's clock is ahead
    again = await server.accept()
    assert again.connect.password == new
    await again.greet()
    await entering
    await client.close()


async def test_a_fixed_token_that_has_expired_stops(server: ScriptedServer) -> None:
    entering = asyncio.ensure_future(Client(server.url, jwt(sub="alice", exp=1)).__aenter__())
    (await server.accept()).connack(0x87)
    with pytest.raises(TokenExpired):
        await entering


@pytest.mark.parametrize(("code", "kind"), [(0x87, NotAuthorised), (0x83, HandshakeRefused)])
async def test_a_refused_subscription_stops(server: ScriptedServer, code: int, kind: type[Stopped]) -> None:
    entering = asyncio.ensure_future(Client(server.url, ALICE).__aenter__())
    peer = await server.accept()
    peer.connack()
    await peer.suback(code)
    with pytest.raises(kind, match="gw/v1/d/alice"):
        await entering
    assert DISCONNECT << 4 not in await peer.gone()


@pytest.mark.parametrize("after", ["CONNECT", "CONNACK", "SUBSCRIBE", "hello"])
async def test_a_server_that_hangs_up_on_the_way_is_tried_again_at_once(
    server: ScriptedServer, after: str
) -> None:
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    if after != "CONNECT":
        peer.connack()
    if after in {"SUBSCRIBE", "hello"}:
        await peer.suback()
    if after == "hello":
        await peer.frame("hello")
    peer.cut()
    async with asyncio.timeout(5):  # far below the time that a server is given to answer
        again = await server.accept()
    assert again.connect.will["c"] != peer.connect.will["c"]
    await again.greet()
    await entering
    await client.close()


async def test_a_server_that_shuts_down_before_the_subscription(server: ScriptedServer) -> None:
    entering = asyncio.ensure_future(Client(server.url, ALICE).__aenter__())
    peer = await server.accept()
    peer.connack()
    peer.disconnect(0x8E, "another one")
    with pytest.raises(TakenOver, match="another one"):
        await entering


async def test_a_client_closed_while_it_connects_leaves_nothing_open(server: ScriptedServer) -> None:
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await peer.gone() == b""


async def test_a_socket_that_opens_for_nobody_is_closed(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    begun, go = asyncio.Event(), threading.Event()
    connect = _Connection._client_connect

    def slow(self: _Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(20)
        connect(self)

    monkeypatch.setattr(_Connection, "_client_connect", slow)
    entering = asyncio.ensure_future(Client(server.url, ALICE).__aenter__())
    async with asyncio.timeout(20):
        await begun.wait()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    go.set()
    peer = await server.connection()
    assert await peer.gone() == b""


async def test_a_server_that_never_answers(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client.mqtt.OPEN_TIMEOUT", 0.1)
    client = Client(server.url, ALICE)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await server.accept()
    assert await peer.gone() == b""
    again = await server.accept()
    await again.greet()
    await entering
    await client.close()
