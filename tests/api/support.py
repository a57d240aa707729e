"""What the tests of the API share beside fixtures: callers, raw connections, requests written byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec.structs import replace
from yarl import URL

from gateway.api import ApiServer
from gateway.auth import Authenticator
from gateway.config import Config
from tests.api.double import HubDouble

ADMIN = "backend.a-secret-of-the-backend"
READER = "reader.a-secret-of-the-reader"
SENDER = "sender.a-secret-of-the-sender"


CHANNEL = {
    "name": "hook",
    "kind": "webhook",
    "breaker": "open",
    "room": 0,
    "in_flight": 2,
    "paused_until": 1_790_000_000_000,
    "since_start": {"accepted": 0, "delivered": 7, "retry": 5, "refused": 0, "ambiguous": 0},
    "last_hour": {"accepted": 0, "delivered": 3, "retry": 5, "refused": 0, "ambiguous": 0},
    "failures": [
        {"at": 1, "outcome": "retry", "reason": "HTTP 503", "blame": "", "code": "", "status": 503},
    ],
    "proxies": [{"proxy": "proxy.example:3128", "breaker": "closed", "failed": 1}],
}


async def _metrics() -> bytes:
    return b"up 1\n"


class Reply:
    """An answer, read whole."""

    def __init__(self, response: aiohttp.ClientResponse, raw: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.raw = raw

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def problem(self) -> tuple[int, str, str | None]:
        """(status, code, field) of a problem document, after a look at its form."""
        assert self.headers["Content-Type"] == "application/problem+json", self.raw
        body = self.json
        assert body["status"] == self.status
        assert body["title"]
        assert body["detail"]
        assert body["request_id"] == self.headers["X-Request-Id"]
        return self.status, body["code"], body.get("field")


class Caller:
    """Calls the API with one credential."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: str | None) -> None:
        self.session = session
        self.url = url
        self.headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """`body`: bytes as they are, anything else as JSON."""
        headers = {**self.headers, **options.pop("headers", {})}
        if isinstance(body, bytes):
            options["data"] = body
            headers.setdefault("Content-Type", "application/json")
        elif body is not None:
            options["json"] = body
        # the path goes as it is written
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, **options) as response:
            return Reply(response, await response.read())


class Raw:
    """A connection whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def flood(self, data: bytes) -> None:
        """Send it again and again; raises ConnectionError when the connection breaks."""
        while True:
            await self.send(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the next response."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def chunk(self) -> bytes:
        """One chunk of a chunked body, b"" at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def rest(self) -> bytes:
        """The whole of a chunked body that is left."""
        out = b""
        while part := await self.chunk():
            out += part
        return out

    async def lines(self, count: int) -> list[Any]:
        """So many NDJSON answers from the chunks that come."""
        out = b""
        while out.count(b"\n") < count:
            out += await self.chunk()
        return [json.loads(line) for line in out.splitlines()]

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """A whole response with Content-Length."""
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers["content-length"]))


@asynccontextmanager
async def serving(hub: HubDouble, authenticator: Authenticator, config: Config) -> AsyncIterator[ApiServer]:
    server = ApiServer(hub, authenticator, config, _metrics, channels=lambda: [CHANNEL])
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(30):
            await server.stop()


def request(
    method: str, path: str, headers: str = "", body: bytes = b"", credential: str | None = ADMIN
) -> bytes:
    """The bytes of a request; `headers` are lines with CRLF behind each."""
    auth = f"Authorization: Bearer {credential}\r\n" if credential else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{auth}{headers}\r\n".encode() + body


def chunked(data: bytes) -> bytes:
    """One chunk of a request body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def limited(config: Config, **limits: Any) -> Config:
    """The same configuration with other limits."""
    return replace(config, limits=replace(config.limits, **limits))
