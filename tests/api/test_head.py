"""The reader in place beside aiohttp's parser: what it reads means the same to that. (With a name given twice let
through, or a value that may end in a space, it is seen to fail.)
"""

import asyncio
from typing import Any

import pytest
from aiohttp import HttpVersion11, web
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.api.head import Heads

LIMIT, MOST = 512, 8
GOOD = (
    b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)

names = st.sampled_from(
    (b"Host", b"host", b"Content-Length", b"Content-Type", b"Authorization", b"X-Request-Id", b"Connection", b"Expect",
     b"Transfer-Encoding", b"Upgrade", b"Proxy-Connection", b"Content-Encoding", b"Sec-WebSocket-Key1", b"A_b", b"")
)  # fmt: skip
values = st.sampled_from(
    (b"2", b"02", b"+2", b"2, 2", b"0", b"99999999999999999999", b"keep-alive", b"Keep-Alive", b"close", b"chunked",
     b"identity", b"websocket", b"100-continue", b"application/json", b"Bearer a.b", b"x" * 300, b"", b" ", b"a b",
     b"a\tb", b"\xc3\xa4", b"a\x00")
)  # fmt: skip
lines = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    names,
    st.sampled_from((b": ", b": ", b": ", b":", b" : ", b":\t", b"")),
    values,
    st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b" \r\n", b"\r\n ")),
)
requests = st.builds(
    lambda first, some, body: first + b"".join(some) + b"\r\n" + body,
    st.sampled_from(
        (GOOD[:28], GOOD[:37], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n")
    ),
    st.lists(lines, max_size=10),
    st.sampled_from((b"", b"{", b"{}", b"{}{}")),
)


class Flow:
    """What aiohttp's parser asks of a connection."""

    def pause_reading(self) -> None: ...

    def resume_reading(self, resume_parser: bool = True) -> None: ...


def library(data: bytes) -> Any:
    """(message, payload) of the first request, or why there is none."""
    loop = asyncio.new_event_loop()
    loop.close()
    parser = HttpRequestParser(
        Flow(),
        loop,  # waited for by nobody
        2**16,
        max_line_size=LIMIT,
        max_field_size=LIMIT,
        max_headers=MOST,
        payload_exception=web.RequestPayloadError,
        auto_decompress=False,
    )
    try:
        messages, upgraded, _ = parser.feed_data(data)
    except HttpProcessingError as error:
        return error
    assert not upgraded
    assert len(messages) == 1
    return messages[0]


def compare(heads: Heads, data: bytes) -> bool:
    """Whether it was read in place."""
    request = heads.read(data)
    if request is None:
        return False
    data = data[: request.end + request.size]
    message, payload = library(data)
    assert f"{message.method} {message.path}".encode() == request.target
    assert message.version == HttpVersion11
    assert (message.should_close, message.upgrade, message.chunked) == (False, False, False)
    found = {name.lower().encode(): value.encode() for name, value in message.headers.items()}
    assert found == request.fields
    assert len(message.headers) == len(found)
    assert payload.is_eof() == (request.end + request.size == len(data))
    if request.size and payload.is_eof():
        assert payload.read_nowait() == data[request.end :]
    return True


@settings(max_examples=1000, deadline=None)
@given(requests, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=2), st.booleans())
@example(GOOD, [], True)
def test_what_is_read_means_the_same_to_the_library(
    data: bytes, noise: list[tuple[int, int]], again: bool
) -> None:
    heads = Heads(LIMIT, MOST)
    compare(heads, GOOD)
    for at, byte in noise:
        data = data[:at] + bytes((byte,)) + data[at + 1 :]
    for _ in range(1 + again):
        compare(heads, data)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        GOOD[:-1],
        GOOD.replace(b"Host: a", b"host: a\r\nConnection: Keep-Alive"),
        b"GET /v1/messages/x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_most_send_is_read(data: bytes) -> None:
    assert compare(Heads(LIMIT, MOST), data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: a\r\n", b""),
        (b"Host: a", b"Host: a\r\nHost: a"),
        (b"Host: a", b"Host: a "),
        (b"Host: a", b"Host : a"),
        (b"Host: a", b"Host: a\r\n folded: b"),
        (b"Host: a", b"Host: a\r\nConnection: close"),
        (b"Host: a", b"Host: a\r\nExpect: 100-continue"),
        (b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked"),
        (b"Host: a", b"Host: a\r\nUpgrade: websocket"),
        (b"Host: a", b"Host: " + b"a" * LIMIT),
        (b"Host: a", b"Host: a" + b"\r\nA%d: b" * MOST % tuple(range(MOST))),
        (b"Length: 2", b"Length: +2"),
        (b"Length: 2", b"Length: 1_0"),
        (b"Length: 2", b"Length: 2\r\nContent-Length: 2"),
    ],
)
def test_what_is_left_to_the_library(old: bytes, new: bytes) -> None:
    assert Heads(LIMIT, MOST).read(GOOD.replace(old, new)) is None


def test_it_remembers_no_credentials_and_not_without_end() -> None:
    heads = Heads(LIMIT, MOST)
    for i in range(3000):
        secret = b"Host: a\r\nAuthorization: Bearer top.secret\r\nA%d: b" % i
        assert heads.read(GOOD.replace(b"Host: a", secret)) is not None
    assert 0 < len(heads._known) <= 1024
    assert not any(b"secret" in line for line in heads._known)
