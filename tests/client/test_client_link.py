"""The driver over links that behave as no real server would on demand, and odd answers to a handshake."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.server import serve

from gateway.client import Client, ConnectTimeout, HandshakeRefused
from gateway.client.transport import Link, LinkClosed


class FakeLink:
    """Welcomes at once; `send` may hang, and `heard` is what the test says."""

    nonce = ""

    def __init__(
        self, heartbeat: float, *, resumed: bool, hangs_on: str, heard: Callable[[], float] | None
    ) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._hangs_on = hangs_on
        self._heard = heard
        self._welcome = {"t": "welcome", "client": "alice", "epoch": "e1", "resume": "r1", "resumed": resumed,
                         "next": 1, "window": 64, "heartbeat": heartbeat}  # fmt: skip

    @property
    def heard(self) -> float:
        return self._heard() if self._heard is not None else 0.0

    async def recv(self) -> bytes:
        data = await self._inbox.get()
        if data is None:
            raise LinkClosed(1006, "")
        return data

    async def send(self, frame: bytes) -> None:
        decoded = json.loads(frame)
        if decoded["t"] == self._hangs_on:
            await asyncio.Event().wait()
        self.sent.put_nowait(decoded)
        if decoded["t"] == "hello":
            self._inbox.put_nowait(json.dumps(self._welcome).encode())

    async def close(self, code: int, reason: str) -> None:
        self.abort()

    def abort(self) -> None:
        self.ended.set()
        self._inbox.put_nowait(None)


def over(client: Client, links: list[FakeLink]) -> Client:
    """The client over these links, one after the other."""
    waiting = iter(links)

    async def open_link(_: str) -> Link:
        return next(waiting)

    client._open = open_link
    return client


async def test_bytes_that_are_no_frames_keep_a_connection_alive() -> None:
    looks = 0
    enough = asyncio.Event()

    def heard() -> float:
        nonlocal looks
        looks += 1
        if looks == 4:
            enough.set()
        return (
            asyncio.get_running_loop().time() + 0.1
        )  # for a machine that stalls between looking and judging

    link = FakeLink(0.05, resumed=False, hangs_on="", heard=heard)
    async with over(Client("ws://127.0.0.1/ws", "jwt"), [link]):
        async with asyncio.timeout(20):
            await enough.wait()
        assert not link.ended.is_set()
    assert [link.sent.get_nowait()["t"] for _ in range(link.sent.qsize())] == ["hello", "bye"]


async def test_a_peer_that_does_not_read_is_left() -> None:
    now = asyncio.get_running_loop().time
    stuck = FakeLink(0.05, resumed=False, hangs_on="pub", heard=now)
    good = FakeLink(25, resumed=True, hangs_on="", heard=now)
    async with over(Client("ws://127.0.0.1/ws", "jwt"), [stuck, good]) as client:
        publishing = asyncio.ensure_future(client.publish("bob", 1))
        async with asyncio.timeout(20):
            await stuck.ended.wait()
            assert (await good.sent.get())["resume"] == "r1"
            (message,) = (await good.sent.get())["m"]
        assert message["body"] == 1
        publishing.cancel()


async def test_a_renewal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client.tokens.SHARE", 1.0)
    monkeypatch.setattr("gateway.client.tokens.MARGIN", 3600.0)
    monkeypatch.setattr("gateway.client.connection.RENEW_AGAIN", 0.0)
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode()
    answers: list[Any] = [f"e30.{claims}.s", RuntimeError("away"), RuntimeError("away"), "newer"]

    async def fresh() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    link = FakeLink(25, resumed=False, hangs_on="", heard=asyncio.get_running_loop().time)
    async with over(Client("ws://127.0.0.1/ws", fresh), [link]):
        async with asyncio.timeout(20):
            assert (await link.sent.get())["t"] == "hello"
            assert await link.sent.get() == {"t": "token", "token": "newer"}


async def test_a_server_that_hangs_up_in_the_handshake_is_tried_again() -> None:
    tries = asyncio.Semaphore(0)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.release()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = Client(f"ws://127.0.0.1:{port}/ws", "jwt", connect_timeout=20)
        entering = asyncio.ensure_future(client.__aenter__())
        async with asyncio.timeout(20):
            await tries.acquire()
            await tries.acquire()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering


async def test_a_websocket_of_somebody_else_is_refused() -> None:
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(HandshakeRefused, match=r"does not speak botgw\.v1\.json"):
            async with Client(f"ws://127.0.0.1:{port}/", "jwt"):
                pass


async def test_what_answers_but_is_no_websocket_is_refused() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HandshakeRefused, match="no WebSocket of this gateway"):
            async with Client(f"ws://127.0.0.1:{port}/", "jwt"):
                pass


async def test_a_gateway_that_never_welcomes_runs_into_the_timeout(gateway: Any) -> None:
    client = Client(gateway.url, "jwt", connect_timeout=1)
    entering = asyncio.ensure_future(client.__aenter__())
    peer = await gateway.accept()
    await peer.expect("hello")
    with pytest.raises(ConnectTimeout, match="no welcome within 1 s: no answer"):
        await entering
    assert await peer.closed() is not None
