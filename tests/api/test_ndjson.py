"""POST /v1/messages as a stream of lines, over raw connections."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from gateway.api import ndjson
from gateway.api.ndjson import Splitter
from gateway.auth import Authenticator
from gateway.config import Config
from gateway.errors import Limited
from tests.api.double import HubDouble
from tests.api.support import ADMIN, Caller, Raw, chunked, request, serving

Connect = Callable[..., Any]
HEAD = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"


def line(body: object = 1, to: str = "alice") -> bytes:
    return b'{"to":"%b","body":%b}\n' % (to.encode(), json.dumps(body).encode())


async def opened(raw: Connect, credential: str = ADMIN, headers: str = HEAD) -> Raw:
    """A stream that has begun to be answered."""
    connection: Raw = await raw()
    await connection.send(request("POST", "/v1/messages", headers, credential=credential))
    status, answer = await connection.head()
    assert status == 200
    assert answer["content-type"] == "application/x-ndjson"
    assert answer["transfer-encoding"] == "chunked"
    return connection


async def answers(connection: Raw) -> list[Any]:
    """All answers until the response ends."""
    return [json.loads(one) for one in (await connection.rest()).splitlines()]


async def test_each_line_is_answered_as_it_is_committed(raw: Connect, hub: HubDouble) -> None:
    stream = await opened(raw)
    await stream.send(chunked(line()))
    (first,) = await stream.lines(1)
    assert first["line"] == 1
    assert set(first) == {"line", "id"}
    await stream.send(chunked(line()))
    assert [a["line"] for a in await stream.lines(1)] == [2]
    await stream.send(chunked(b""))
    assert await answers(stream) == []
    assert len(hub.published) == 2


async def test_answers_come_in_the_order_of_completion(raw: Connect, hub: HubDouble) -> None:
    hub.held = True
    stream = await opened(raw)
    await stream.send(chunked(line() * 4) + chunked(b""))
    await hub.until(4)
    hub.release(2, 0)
    assert [a["line"] for a in await answers(stream)] == [3, 1, 2, 4]


async def test_bad_lines_stop_nothing(raw: Connect, hub: HubDouble) -> None:
    hub.script = [None, Limited("full", code="queue_full", retry_after=2.5)]
    stream = await opened(raw)
    lines = [
        line(),
        b"{\n",
        b'{"to":"alice","body":1,"ttl":-1}\n',
        b"[" + line().strip() + b"]\n",
        line(to="a b"),
        b'"\xff"\n',
        line(),
        b'{"to":"alice","body":' + b"[" * 900 + b"]" * 900 + b"}\n",
        line(),
    ]
    await stream.send(chunked(b"".join(lines)) + chunked(b""))
    got = {a.pop("line"): a for a in await answers(stream)}
    assert [set(got[n]) for n in (1, 9)] == [{"id"}, {"id"}]
    told = {n: (a["code"], a["status"], a.get("field")) for n, a in got.items() if n not in {1, 9}}
    assert told == {
        2: ("malformed", 400, "$"),
        3: ("invalid", 422, "$.ttl"),
        4: ("invalid", 422, "$"),
        5: ("address_invalid", 422, "$.to"),
        6: ("invalid", 422, "$"),
        7: ("queue_full", 429, None),
        8: ("too_large", 413, "$.body"),
    }
    assert got[7]["retry_after"] == 2.5


async def test_a_repetition_says_so(raw: Connect) -> None:
    stream = await opened(raw)
    await stream.send(chunked(b'{"to":"a","body":1,"key":"k"}\n' * 2) + chunked(b""))
    first, second = await answers(stream)
    assert second == {"line": 2, "id": first["id"], "dup": True}


async def test_lines_in_pieces_crlf_and_empty_ones(raw: Connect, hub: HubDouble) -> None:
    stream = await opened(raw)
    text = line("a").strip() + b"\r\n" + b"\n\r\n  \n" + line("b") + line("c").strip()
    for at in range(len(text)):
        await stream.send(chunked(text[at : at + 1]))
    await stream.send(chunked(b""))
    assert [a["line"] for a in await answers(stream)] == [1, 5, 6]
    assert [bytes(pub.body or b"") for _, pub in hub.published] == [b'"a"', b'"b"', b'"c"']


async def test_a_body_of_known_length(raw: Connect) -> None:
    body = line() * 3
    headers = f"Content-Type: application/x-ndjson; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    stream = await opened(raw, headers=headers)
    await stream.send(body)
    assert [a["line"] for a in await answers(stream)] == [1, 2, 3]
    # and the connection is good for more
    await stream.send(request("GET", "/healthz"))
    assert (await stream.response())[0] == 200


async def test_an_empty_stream(raw: Connect) -> None:
    stream = await opened(raw)
    await stream.send(chunked(b""))
    assert await answers(stream) == []


async def test_a_stream_may_be_longer_than_a_body(raw: Connect, hub: HubDouble, config: Config) -> None:
    stream = await opened(raw)
    text = line("x" * 1000) * 40
    for _ in range(3):
        await stream.send(chunked(text))
        await stream.lines(40)
    await stream.send(chunked(b""))
    assert await answers(stream) == []
    assert 3 * len(text) > config.http.max_body_bytes
    assert len(hub.published) == 120


async def test_a_giant_line_is_refused_and_the_next_one_read(raw: Connect, hub: HubDouble) -> None:
    stream = await opened(raw)
    for _ in range(50):
        await stream.send(chunked(b"x" * 4096))
    await stream.send(chunked(b"\n" + line()) + chunked(b"y" * 3000) + chunked(b""))
    got = await answers(stream)
    assert {a["line"]: a.get("code") for a in got} == {1: "line_too_large", 2: None, 3: "line_too_large"}
    assert got[0]["status"] == 413
    assert len(hub.published) == 1


async def test_continue_comes_before_the_response(raw: Connect) -> None:
    connection: Raw = await raw()
    await connection.send(request("POST", "/v1/messages", HEAD + "Expect: 100-continue\r\n"))
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await connection.head())[0] == 200
    await connection.send(chunked(line()) + chunked(b""))
    assert len(await answers(connection)) == 1


async def test_http_1_0_has_no_chunks(raw: Connect) -> None:
    connection: Raw = await raw()
    body = line() * 2
    head = request(
        "POST", "/v1/messages", f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n", body
    )
    await connection.send(head.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert (await connection.head())[0] == 200
    assert [json.loads(one)["line"] for one in (await connection.reader.read()).splitlines()] == [1, 2]


async def test_a_sender_that_does_not_read_is_paused_then_ended(
    raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    drop = ndjson._drop

    def dropping(content: StreamReader) -> Coroutine[Any, Any, None]:
        ended.set()
        return drop(content)

    monkeypatch.setattr(ndjson, "_drop", dropping)
    connection: Raw = await raw(narrow=True)
    transport: Any = connection.writer.transport
    transport.pause_reading()
    await connection.send(request("POST", "/v1/messages", HEAD))
    sent = 1_000_000
    # bad lines: their answers are long
    connection.writer.write(chunked(b"x\n" * sent))
    await ended.wait()
    # the sender now comes to reading: what it sent meanwhile is dropped, and it is told
    transport.resume_reading()
    assert (await connection.head())[0] == 200
    got = await answers(connection)
    last = got.pop()
    assert (last["code"], last["status"]) == ("answers_unread", 429)
    assert "line" not in last
    assert [a["line"] for a in got] == list(range(1, last["last_line"] + 1))
    assert last["last_line"] < sent
    # the connection ends with the body
    await connection.send(chunked(b""))
    assert not await connection.reader.read()


async def test_a_sender_that_never_reads_is_broken_off(raw: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "FLUSH_TIMEOUT", 0.05)
    connection: Raw = await raw(narrow=True)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await connection.send(request("POST", "/v1/messages", HEAD))
    with pytest.raises(ConnectionError):
        await connection.flood(chunked(b"x\n" * 20_000))


async def test_a_sender_that_is_slow_for_a_while_is_not_ended(
    raw: Connect, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a pause as long as it takes: all depends on the reading
    monkeypatch.setattr(ndjson, "PAUSE", 60.0)
    connection: Raw = await raw(narrow=True)
    transport: Any = connection.writer.transport
    transport.pause_reading()
    await connection.send(request("POST", "/v1/messages", HEAD))
    connection.writer.write(chunked(b"x\n" * 60_000) + chunked(b""))
    transport.resume_reading()
    assert (await connection.head())[0] == 200
    assert [a["line"] for a in await answers(connection)] == list(range(1, 60_001))


async def test_no_more_than_so_many_lines_wait_for_a_commit(
    raw: Connect, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "IN_FLIGHT", 300)
    monkeypatch.setattr(ndjson, "BATCH", 100)
    hub.held = True
    stream = await opened(raw)
    await stream.send(chunked(line() * 1000) + chunked(b""))
    await hub.until(300)
    for _ in range(50):
        await asyncio.sleep(0)
    assert hub.waiting == 300
    hub.release()
    assert len(await answers(stream)) == 1000


async def test_a_store_that_does_not_answer_ends_the_stream(
    raw: Connect, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "IN_FLIGHT", 5)
    monkeypatch.setattr(ndjson, "COMMIT_TIMEOUT", 0.01)
    monkeypatch.setattr(ndjson, "FLUSH_TIMEOUT", 0.05)
    hub.held = True
    stream = await opened(raw)
    await stream.send(chunked(line() * 9))
    (last,) = await stream.lines(1)
    assert (last["code"], last["last_line"]) == ("unavailable", 9)
    assert await stream.reader.read() == b""
    hub.release()


async def test_a_silent_sender_is_ended(raw: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "IDLE_TIMEOUT", 0.05)
    stream = await opened(raw)
    await stream.send(chunked(line() + b'{"to":'))
    first, last = await stream.lines(2)
    assert first["line"] == 1
    assert (last["code"], last["last_line"]) == ("stream_idle", 1)


async def test_the_token_of_a_stream_runs_out(
    raw: Connect, hub: HubDouble, token: Callable[..., str]
) -> None:
    stream = await opened(raw, token("bob", ttl=3600))
    await stream.send(chunked(line()))
    await stream.lines(1)
    hub.scheduler.ahead = 4000
    await stream.send(chunked(line()))
    (last,) = await stream.lines(1)
    assert (last["code"], last["status"], last["last_line"]) == ("token_expired", 401, 1)
    assert len(hub.published) == 1


async def test_a_broken_transfer_coding_ends_the_stream(raw: Connect) -> None:
    stream = await opened(raw)
    await stream.send(chunked(line()))
    await stream.lines(1)
    await stream.send(b"zz\r\n")
    (last,) = await stream.lines(1)
    assert (last["code"], last["last_line"]) == ("malformed", 1)


async def test_a_sender_that_leaves_disturbs_nobody(raw: Connect, hub: HubDouble, api: Caller) -> None:
    hub.held = True
    stream = await opened(raw)
    await stream.send(chunked(line() * 3))
    await hub.until(3)
    stream.writer.transport.abort()
    hub.release()
    # what was taken stands
    assert len(hub.store.views) == 3
    assert (await api("POST", "/v1/messages", {"to": "alice", "body": 1})).status == 202


async def test_draining_refuses_line_by_line(raw: Connect, hub: HubDouble) -> None:
    stream = await opened(raw)
    hub.ready = "draining"
    await stream.send(chunked(line() * 2) + chunked(b""))
    assert [(a["line"], a["code"], a["status"]) for a in await answers(stream)] == [
        (1, "draining", 503),
        (2, "draining", 503),
    ]


async def test_stop_tells_the_last_line_taken(
    hub: HubDouble, authenticator: Authenticator, config: Config
) -> None:
    async with serving(hub, authenticator, config) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stream = Raw(reader, writer)
        await stream.send(request("POST", "/v1/messages", HEAD) + chunked(line()))
        await stream.head()
        await stream.lines(1)
    (last,) = await stream.lines(1)
    assert (last["code"], last["last_line"]) == ("draining", 1)
    assert await stream.chunk() == b""
    writer.close()


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))),
    st.lists(st.integers(1, 9)),
    st.booleans(),
)
def test_lines_do_not_depend_on_how_they_come(lines: list[bytes], cuts: list[int], crlf: bool) -> None:
    limit = 8
    text = b"".join(part + (b"\r\n" if crlf else b"\n") for part in lines)
    splitter = Splitter(limit)
    got = []
    for cut in cuts:
        got += splitter.feed(text[:cut])
        text = text[cut:]
    got += splitter.feed(text) + splitter.end()
    assert got == [part if len(part) <= limit else None for part in lines]


def test_what_is_held_of_a_line_is_bounded() -> None:
    splitter = Splitter(8)
    for _ in range(1000):
        assert splitter.feed(b"x" * 5) == []
        assert len(splitter._rest) <= 9
    assert splitter.feed(b"\n12345678\r\n123456789\n12345678\r") == [None, b"12345678", None]
    assert splitter.end() == [b"12345678"]
