"""Over real sockets, under asyncio and uvloop."""

import asyncio
import socket
from typing import Any

import aiohttp
import msgspec
import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from gateway.config import Config
from gateway.wire import JSON, MSGPACK
from tests.transports.live import HELLO, LOOPS, Run, Talk, client, conversation, serving, wire
from tests.transports.rig import client_frame, message, request, server_frames


@LOOPS
@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
def test_a_conversation(run: Run, config: Config, subprotocol: str, compressed: bool) -> None:
    async def scenario() -> None:
        async with (
            serving(config, compression=compressed) as (server, hub),
            client(server, subprotocol) as ws,
        ):
            assert bool(ws.protocol.extensions) is compressed
            await conversation(server, hub, ws)

    run(scenario())


@LOOPS
def test_the_server_closes_those_that_are_left_when_it_stops(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, _hub), client(server) as ws, asyncio.TaskGroup() as group:
            await Talk(ws).join()
            stop = group.create_task(server.stop())
            assert await Talk(ws).end() == (4000, "the gateway stops")
            await stop
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)

    run(scenario())


def test_stopping_waits_for_nobody_for_long(config: Config) -> None:
    async def scenario() -> None:
        async with (
            serving(config, hello_timeout=0.4) as (server, hub),
            wire(server) as deaf,
            wire(server) as half,
        ):
            await deaf.upgrade()
            deaf.writer.write(HELLO)
            await hub.until(lambda: bool(hub.named("hello")))
            half.writer.write(b"GET /ws")
            await server.stop()
            assert server.figures()["sockets"] == 0
            assert await deaf.end() == 4000

    asyncio.run(scenario())


@LOOPS
@pytest.mark.parametrize(
    ("options", "status_code", "code"),
    [
        ({"origin": Origin("https://elsewhere.example")}, 403, "origin_forbidden"),
        ({"additional_headers": {"Authorization": "Bearer expired"}}, 401, "token_expired"),
        ({"subprotocol": "mqtt"}, 400, "subprotocol_unknown"),
    ],
)
def test_refused_handshakes_can_be_read(
    run: Run, config: Config, options: dict[str, Any], status_code: int, code: str
) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, _hub):
            with pytest.raises(InvalidStatus) as caught:
                await client(server, **options)
            response = caught.value.response
            assert response.status_code == status_code
            assert msgspec.json.decode(response.body)["code"] == code

    run(scenario())


@LOOPS
def test_health_by_an_http_client(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, _hub), aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{server.port}/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
            async with http.get(f"http://127.0.0.1:{server.port}/ws") as answer:
                assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")

    run(scenario())


# -- bytes by hand -------------------------------------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(1, b"{}", masked=False), 1002),
        (client_frame(1, b"{}", rsv=2), 1002),
        (client_frame(9, b"x", fin=False), 1002),
        (b"\x81\xff\x7f" + b"\xff" * 7, 1009),
        (client_frame(1, b"\xff"), 1007),
        (client_frame(2, b"{}"), 4303),
        (client_frame(1, b"{"), 4303),
        (client_frame(1, b"x" * 16385) + b"y" * 3_000_000, 1009),  # and goes on sending
    ],
    ids=["mask", "rsv", "control", "length", "utf8", "binary", "json", "flood"],
)
def test_bad_bytes_get_their_close_frame_and_harm_nobody(
    run: Run, config: Config, data: bytes, code: int
) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, hub), client(server) as good, wire(server) as bad:
            talk = Talk(good)
            await talk.join()
            await bad.upgrade()
            bad.writer.write(HELLO + data)
            assert await bad.end() == code
            await talk.say({"t": "ping"})
            assert await talk.hear() == {"t": "pong"}
            assert len(hub.named("disconnected")) == 1

    run(scenario())


@LOOPS
def test_a_conversation_of_single_bytes(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, hub), wire(server) as slow:
            slow.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request() + HELLO:
                slow.writer.write(bytes([byte]))
                await slow.writer.drain()
            await hub.until(lambda: bool(hub.named("hello")))
            for byte in client_frame(1, b'{"t":"bye"}'):
                slow.writer.write(bytes([byte]))
                await slow.writer.drain()
            await hub.until(lambda: bool(hub.named("bye")))
            slow.writer.write(client_frame(8, b"\x03\xe8"))
            head, _, frames = (await slow.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert [first for first, _ in server_frames(frames)] == [0x81, 0x88]

    run(scenario())


@LOOPS
def test_a_slow_handshake_and_a_missing_hello_are_ended(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with (
            serving(config, hello_timeout=0.1) as (server, _hub),
            wire(server) as half,
            wire(server) as mute,
        ):
            half.writer.write(b"GET /ws HTTP/1.1\r\nHo")
            await mute.upgrade()
            assert (await half.rest()).startswith(b"HTTP/1.1 408 ")
            assert await mute.end() == 4004

    run(scenario())


@LOOPS
def test_a_reset_connection_leaves_nothing(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, hub):
            for _ in range(20):
                async with wire(server) as peer:
                    await peer.upgrade()
                    peer.writer.write(HELLO)
                    await peer.reader.readexactly(2)
                    peer.writer.transport.abort()
            await hub.until(lambda: len(hub.named("left")) == 20)
            assert hub.named("disconnected") == [("disconnected", False)] * 20

    run(scenario())


@LOOPS
def test_one_who_does_not_read_is_ended_and_another_gets_everything(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with (
            serving(config, stall_timeout=0.2) as (server, hub),
            wire(server, limit=4096) as stalled,
            client(server) as good,
        ):
            await stalled.upgrade()
            stalled.writer.write(HELLO)
            await stalled.reader.readexactly(2)
            talk = Talk(good)
            await talk.join()
            first, second = hub.connections()
            for conn in (first, second):
                conn.deliver([message(n, "x" * 100_000) for n in range(1, 101)])
            got = 0
            while got < 100:
                got += len((await talk.hear())["m"])
            await hub.until(lambda: bool(hub.named("disconnected")))
            assert server.figures()["closes"] == {"4001": 1}
            assert first.items is None
            await talk.say({"t": "bye"})
            assert await talk.end() == (1000, "bye")

    run(scenario())
