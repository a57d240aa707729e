"""One attempt, one outcome: against real receivers on loopback."""

import asyncio
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest
import standardwebhooks
from aiohttp import web

from gateway.config.channels import Webhook as Settings
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import http as module
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]


async def fine(request: web.Request) -> web.Response:
    return web.Response(text="thank you")


async def test_delivered_and_verified_by_the_reference_library(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    seen: list[tuple[str, str, dict[str, str], bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.Response(status=204)

    hook = settings(await serve(handler) + "?k=a%20b")
    dispatcher = await dispatch(hook)
    item = message(b'{"n": 1.0}', type="t")
    outcome = await attempt(dispatcher, item)
    assert (outcome.kind, outcome.status) == ("delivered", 204)
    ((method, path, headers, body),) = seen
    assert (method, path) == ("POST", "/hook?k=a%20b")
    assert isinstance(hook.secret, str)
    data = standardwebhooks.Webhook(hook.secret).verify(body, headers)["data"]
    assert data["id"] == headers["webhook-id"] == encode_id(item.id)
    assert data["trace"] == f"00-0123456789abcdef{item.id:016x}-{item.id:016x}-01"
    assert b'"body":{"n": 1.0},' in body
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (200, "delivered", ""),
        (202, "delivered", ""),
        (304, "refused", "message"),
        (400, "refused", "message"),
        (401, "refused", "credential"),
        (403, "refused", "credential"),
        (404, "refused", "message"),
        (408, "retry", ""),
        (410, "refused", "recipient"),
        (425, "retry", ""),
        (429, "retry", ""),
        (500, "retry", ""),
        (503, "retry", ""),
    ],
)
async def test_statuses(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    status: int,
    kind: str,
    blame: str,
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    outcome = await attempt(await dispatch(settings(await serve(handler))), message())
    assert (outcome.kind, outcome.blame, outcome.status) == (kind, blame, status)
    assert outcome.reason == f"HTTP {status}"


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), (formatdate(1_790_000_060, usegmt=True), 60.0), ("soon", 0.0)]
)
async def test_retry_after_is_a_floor(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    text: str,
    seconds: float,
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": text}, text="busy")

    dispatcher = await dispatch(settings(await serve(handler)), wall=lambda: 1_790_000_000.0)
    outcome = await attempt(dispatcher, message())
    assert (outcome.kind, outcome.reason, outcome.retry_after) == ("retry", "HTTP 503: busy", seconds)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_refused_and_not_followed(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message, status: int
) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    outcome = await attempt(await dispatch(settings(await serve(handler))), message())
    assert (outcome.kind, outcome.blame, outcome.status) == ("refused", "message", status)
    assert seen == ["/hook"]


async def test_no_cookies_and_no_proxies(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    # a name: the usual jar keeps no cookies of bare addresses
    dispatcher = await dispatch(
        settings((await serve(handler)).replace("127.0.0.1", "hook.example")), lookup=here
    )
    for _ in range(2):
        assert (await attempt(dispatcher, message())).kind == "delivered"
    assert cookies == [None, None]


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_connections_are_used_again(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    peers: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(status=503, text="x" * 1000)

    dispatcher = await dispatch(settings(await serve(handler)))
    for _ in range(3):
        await attempt(dispatcher, message())
    assert len(peers) == 3
    assert len(set(peers)) == 1


async def test_a_large_message(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    sizes: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        sizes.append(len(await request.read()))
        return web.Response()

    body = b'"%b"' % (b"x" * (3 << 20))
    outcome = await attempt(await dispatch(settings(await serve(handler))), message(body))
    assert outcome.kind == "delivered"
    assert sizes[0] > len(body)


# -- answers that are too much ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind"), [(200, "delivered"), (400, "refused"), (500, "retry")])
async def test_an_answer_without_end_is_read_to_the_limit(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    status: int,
    kind: str,
) -> None:
    broken_off = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        finally:
            broken_off.set()

    outcome = await attempt(await dispatch(settings(await serve(handler))), message())
    assert outcome.kind == kind
    assert len(outcome.reason) <= 200
    await broken_off.wait()


async def test_an_answer_is_not_decompressed(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few bytes of it could become gigabytes."""
    bomb = gzip.compress(bytes(1 << 20))
    answers: list[Answer] = []

    def noticed(*answer: Any) -> Answer:
        answers.append(Answer(*answer))
        return answers[-1]

    monkeypatch.setattr(module, "Answer", noticed)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=400, body=bomb, headers={"Content-Encoding": "gzip"})

    outcome = await attempt(await dispatch(settings(await serve(handler))), message())
    assert (outcome.kind, outcome.reason) == ("refused", "HTTP 400")
    assert answers[-1].body == bomb


async def test_headers_without_end_are_no_answer(
    serve_raw: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")

    outcome = await attempt(await dispatch(settings(f"http://{await serve_raw(handler)}/")), message())
    assert outcome == Outcome("ambiguous", "answer is not HTTP")


# -- no answer --------------------------------------------------------------------------------------------------------


async def test_slow_headers_are_ambiguous(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    outcome = await attempt(await dispatch(settings(await serve(handler), timeout=0.2)), message())
    assert outcome == Outcome("ambiguous", "no answer in time")


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_lost_before_the_answer_is_ambiguous(
    serve_raw: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    said: bytes,
    how: str,
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(said)
        await writer.drain()
        if how == "reset":
            reset(writer)
        writer.close()

    outcome = await attempt(await dispatch(settings(f"http://{await serve_raw(handler)}/")), message())
    assert outcome == Outcome("ambiguous", "connection lost before the answer")


def reset(writer: asyncio.StreamWriter) -> None:
    """Make the closing of a connection a RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_what_is_not_http_is_ambiguous(
    serve_raw: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"220 mail.example ESMTP\r\n")

    outcome = await attempt(await dispatch(settings(f"http://{await serve_raw(handler)}/")), message())
    assert outcome == Outcome("ambiguous", "answer is not HTTP")


@pytest.mark.parametrize(("status", "kind"), [(200, "delivered"), (503, "retry"), (400, "refused")])
@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_once_there_is_a_status_it_decides(
    serve_raw: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: str,
    how: str,
) -> None:
    status_read = asyncio.Event()

    def noticed(*answer: Any) -> Answer:
        status_read.set()
        return Answer(*answer)

    monkeypatch.setattr(module, "Answer", noticed)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 100\r\nRetry-After: 3\r\n\r\nhalf" % status)
        await status_read.wait()
        if how == "reset":
            reset(writer)
        if how != "stall":
            writer.close()

    hook = settings(f"http://{await serve_raw(handler)}/", timeout=0.3 if how == "stall" else 20.0)
    outcome = await attempt(await dispatch(hook), message())
    assert (outcome.kind, outcome.status, outcome.reason) == (kind, status, f"HTTP {status}")
    assert outcome.retry_after == (3.0 if kind == "retry" else 0.0)
