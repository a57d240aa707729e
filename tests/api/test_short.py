"""The short way of a publish: the same answers as the long one, and the two on one connection."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.api import ApiServer
from gateway.api import connection as connection_module
from gateway.api.connection import Connection
from gateway.api.short import Short
from gateway.auth import Authenticator
from gateway.config import Config
from gateway.errors import CommitUnknown, DiskFull, GatewayError, Limited
from tests.api.double import HubDouble
from tests.api.support import READER, SENDER, Caller, Raw, request

Connect = Callable[..., Awaitable[Raw]]
Piece = Callable[[Raw, bytes], Awaitable[None]]
TYPE = "Content-Type: application/json\r\n"
# what aiohttp is left to read; it says nothing
LONG = "TE: gzip\r\n"


def post(body: bytes = b'{"to":"alice","body":1}', headers: str = TYPE, **options: Any) -> bytes:
    return request("POST", "/v1/messages", f"{headers}Content-Length: {len(body)}\r\n", body, **options)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that the short way was asked about: whether it was taken."""
    seen: list[bool] = []
    take = Short.take

    def watched(self: Short, *args: Any) -> bool:
        seen.append(take(self, *args))
        return seen[-1]

    monkeypatch.setattr(Short, "take", watched)
    return seen


@pytest.fixture
def piece(monkeypatch: pytest.MonkeyPatch) -> Piece:
    """Sends something, and waits until the server has read it: what is sent next is read for itself."""
    arrived = asyncio.Event()
    data_received = Connection.data_received

    def watched(self: Connection, data: bytes) -> None:
        data_received(self, data)
        arrived.set()

    async def send(connection: Raw, data: bytes) -> None:
        arrived.clear()
        await connection.send(data)
        await arrived.wait()

    monkeypatch.setattr(Connection, "data_received", watched)
    return send


@pytest.mark.parametrize(
    ("body", "headers", "credential", "script"),
    [
        (b'{"to":"alice","body":1}', TYPE, SENDER, None),
        (b'{"to":"alice","body":{"a":[]},"priority":"high"}', TYPE, SENDER, None),
        (b'{"to":"alice","body":1}', TYPE + "Idempotency-Key: k\r\n", SENDER, None),
        (b'{"to":"alice","body":1,"key":"k"}', TYPE + "Idempotency-Key: l\r\n", SENDER, None),
        (b'{"to":"alice","body":1}', TYPE + "X-Request-Id: mine\r\n", SENDER, None),
        (b'{"to":"alice","body":1}', TYPE + "X-Request-Id: not/mine\r\n", SENDER, None),
        (b'{"to":"alice","body":1}', TYPE, SENDER, Limited("too many", retry_after=1.5)),
        (b'{"to":"alice","body":1}', TYPE, SENDER, CommitUnknown("who knows")),
        (b'{"to":"alice","body":1}', TYPE, SENDER, DiskFull("full")),
        (b'{"to":"alice"}', TYPE, SENDER, None),
        (b'{"to":"al/ice","body":1}', TYPE, SENDER, None),
        (b'{"to":"alice","body":1,"more":1}', TYPE, SENDER, None),
        (b'{"to":"alice","body":', TYPE, SENDER, None),
        (b'{"to":"alice","body":"\xff"}', TYPE, SENDER, None),
        (b'[{"to":"alice","body":1}]', TYPE, SENDER, None),
        (b"[" * 9999, TYPE, SENDER, None),
        (b"", TYPE, SENDER, None),
        (b'{"to":"alice","body":"' + b"x" * 2000 + b'"}', TYPE, SENDER, None),
        (b'{"to":"alice","body":1}', "", SENDER, None),
        (b'{"to":"alice","body":1}', "Content-Type: text/plain\r\n", SENDER, None),
        (b'{"to":"alice","body":1}', TYPE + "Content-Encoding: gzip\r\n", SENDER, None),
        (b'{"to":"alice","body":1}', TYPE, None, None),
        (b'{"to":"alice","body":1}', TYPE, "backend.wrong", None),
        (b'{"to":"alice","body":1}', TYPE, "nonsense", None),
        (b'{"to":"alice","body":1}', TYPE, READER, None),
    ],
)
async def test_the_answer_is_that_of_the_long_way(
    raw: Connect,
    hub: HubDouble,
    ways: list[bool],
    body: bytes,
    headers: str,
    credential: str | None,
    script: GatewayError | None,
) -> None:
    connection = await raw()
    answers = []
    for more in ("", LONG):
        hub.script = [script]
        await connection.send(post(body, headers + more, credential=credential))
        status, found, raw_body = await connection.response()
        answer = json.loads(raw_body)
        # what differs with each request: its time and its id, that of the message, and whether there was one
        found = {name: value for name, value in found.items() if name not in {"date", "content-length"}}
        if found["x-request-id"] != "mine":
            found.pop("x-request-id")
        if isinstance(answer, dict):
            answer = {k: v for k, v in answer.items() if k not in {"id", "dup", "request_id"}}
        answers.append((status, found, answer if isinstance(answer, dict) else len(answer)))
    assert answers[0] == answers[1]
    # `TE` alone keeps a request from it
    assert len(ways) < 2


async def test_a_client_may_publish_with_its_token(
    raw: Connect, token: Callable[..., str], hub: HubDouble
) -> None:
    connection = await raw()
    await connection.send(post(credential=token("bob")))
    assert (await connection.response())[0] == 202
    assert hub.published[0][0].publisher == "bob"
    await connection.send(post(credential=token("bob", pub=["carol"])))
    status, _, body = await connection.response()
    assert (status, json.loads(body)["code"]) == (403, "address_forbidden")


async def test_both_ways_on_one_connection(raw: Connect, piece: Piece, ways: list[bool]) -> None:
    """A request that was aiohttp's in full is over, and so is its claim to the connection."""
    connection = await raw()
    whole = post()

    async def ask(*pieces: bytes) -> int:
        for data in pieces:
            await piece(connection, data)
        return (await connection.response())[0]

    assert await ask(whole) == 202
    assert await ask(request("GET", "/healthz")) == 200
    assert await ask(whole) == 202
    assert await ask(whole[:-5], whole[-5:]) == 202
    assert await ask(whole) == 202
    assert await ask(request("PUT", "/healthz", "Content-Length: 3\r\n", b"abc")) == 405
    assert await ask(whole) == 202
    assert ways == [True, False, True, False, True, False, True]
    # a head in two pieces: where a request begins is not known any more
    assert await ask(whole[:40], whole[40:]) == 202
    assert await ask(whole) == 202
    assert ways == [True, False, True, False, True, False, True]


async def test_a_request_within_the_body_of_another_is_not_taken(
    raw: Connect, piece: Piece, hub: HubDouble, ways: list[bool]
) -> None:
    inner = post(b'{"to":"mallory","body":1}')
    head = request("PUT", "/v1/clients/alice", f"{TYPE}Content-Length: {len(inner)}\r\n")
    connection = await raw()
    await piece(connection, head)
    await connection.send(inner)
    assert (await connection.response())[0] == 400
    # and behind the begin of a head
    await piece(connection, b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ")
    await connection.send(inner)
    assert (await connection.response())[0] in {200, 400}
    # and in a body that is not read, since its head was refused
    stranger = await raw()
    size = f"{TYPE}Content-Length: {len(inner) + 1}\r\n"
    await piece(stranger, request("POST", "/v1/messages", size, credential=None))
    assert (await stranger.response())[0] == 401
    await piece(stranger, b"x")
    await stranger.send(inner)
    await stranger.send(request("GET", "/healthz"))
    assert (await stranger.response())[0] == 200
    assert ways == [False, False]
    assert not any(pub.to == "mallory" for _, pub in hub.published)


@pytest.mark.parametrize("second", [post(), request("GET", "/healthz")])
async def test_what_comes_meanwhile_waits(raw: Connect, piece: Piece, hub: HubDouble, second: bytes) -> None:
    """(With aiohttp given it at once, the second is answered first.)"""
    hub.held = True
    connection = await raw()
    await connection.send(post(headers=TYPE + "X-Request-Id: first\r\n"))
    await hub.until(1)
    await piece(connection, second)
    hub.release()
    _, headers, _ = await connection.response()
    assert headers["x-request-id"] == "first"
    assert (await connection.response())[0] in {200, 202}


async def test_it_waits_for_the_long_way(raw: Connect, api: Caller, piece: Piece, hub: HubDouble) -> None:
    hub.held = True
    connection = await raw()
    await connection.send(post(b'[{"to":"alice","body":1}]'))
    await hub.until(1)
    await piece(connection, post(headers=TYPE + "X-Request-Id: second\r\n"))
    assert (await api("GET", "/healthz")).status == 200
    assert len(hub.published) == 1
    hub.release()
    assert (await connection.response())[1]["x-request-id"] != "second"
    assert (await connection.response())[1]["x-request-id"] == "second"


@pytest.mark.parametrize("headers", [TYPE, TYPE + LONG])
async def test_stop_waits_for_the_answer(
    piece: Piece,
    hub: HubDouble,
    authenticator: Authenticator,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    headers: str,
) -> None:
    """(With aiohttp's `shutdown` alone the connection is closed before it.)"""
    stopping = asyncio.Event()
    shutdown = Connection.shutdown

    async def watched(self: Connection, timeout: float | None = None) -> None:
        asyncio.get_running_loop().call_soon(stopping.set)
        await shutdown(self, timeout)

    monkeypatch.setattr(Connection, "shutdown", watched)
    hub.held = True
    server = ApiServer(hub, authenticator, config, lambda: b"")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    connection = Raw(reader, writer)
    await connection.send(post(headers=headers))
    await hub.until(1)
    stop = asyncio.ensure_future(server.stop())
    await stopping.wait()
    # it is not taken any more
    await piece(connection, post(headers=headers))
    hub.release()
    assert (await connection.response())[0] == 202
    assert await reader.read() == b""
    await stop
    writer.close()
    assert len(hub.published) == 1


async def test_a_fault_while_many_are_published_is_answered_to_each(
    raw: Connect, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError("the inner workings")

    monkeypatch.setattr(hub, "publish_bare", broken)
    connections = [await raw() for _ in range(3)]
    with capture_logs() as lines:
        for connection in connections:
            await connection.send(post())
        for connection in connections:
            status, _, body = await connection.response()
            assert (status, json.loads(body)["code"]) == (500, "internal")
            assert b"inner" not in body
    assert [line["event"] for line in lines] == ["request failed"] * 3


async def test_who_asks_nothing_more_is_let_go(
    raw: Connect, api: Caller, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not while a request is under way."""
    looks = 0
    looked = asyncio.Event()
    look = Connection._look

    def watched(self: Connection) -> None:
        nonlocal looks
        looks += 1
        look(self)
        looked.set()

    monkeypatch.setattr(connection_module, "IDLE_TIMEOUT", 0.01)
    monkeypatch.setattr(Connection, "_look", watched)
    for data in (post(), post(headers=TYPE + LONG)):
        hub.held = True
        connection = await raw()
        await connection.send(data)
        await hub.until(1)
        looks = 0
        while looks < 5:
            looked.clear()
            await looked.wait()
        hub.release()
        assert (await connection.response())[0] == 202
        assert await connection.reader.read() == b""
        hub.published.clear()
    silent = await raw()
    assert await silent.reader.read() == b""
