"""Calls of the HTTP API. What goes wrong becomes a Failure with the exit code that tells it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from signal import SIGTERM
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from msgspec import Raw

from gateway import __version__
from gateway.cli.exits import Exit, Failure
from gateway.cli.shapes import Page, Problem
from gateway.cli.where import Where
from gateway.config import Scope

CONNECT_TIMEOUT = 5.0
# for one call, whole; a commit may take long on a slow disk
TIMEOUT = 30.0
MAX_ANSWER = 64 * 1024 * 1024
# rows of one page; dead letters come with their bodies
PAGE = 50
T = TypeVar("T")

_LATER = frozenset((408, 429, 503, 507))


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine; SIGTERM cancels it, as Ctrl-C does, so that it can leave properly."""

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None
        # only the main thread can have signals
        with suppress(RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(SIGTERM, task.cancel)
        return await command

    return asyncio.run(guarded())


class Api:
    """The API of one gateway, with one key. Enter it once."""

    def __init__(self, where: Where, scope: Scope) -> None:
        self._url, self._tls = where.api()
        self._key = where.api_key(scope)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT, connect=CONNECT_TIMEOUT),
            headers={
                "Authorization": f"Bearer {self._key}",
                "Accept": "application/json",
                "User-Agent": f"bot-gateway-cli/{__version__}",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Raw:
        """The answer, one JSON value, empty for 204. `query`: what is None is left out. Raises Failure."""
        assert self._session is not None
        data = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data is not None else {}
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        try:
            async with self._session.request(
                method,
                f"{self._url}{path}",
                params=params,
                data=data,
                headers=headers,
                allow_redirects=False,
                ssl=self._tls if self._tls is not None else True,
            ) as response:
                answer = await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError) as error:
            raise self._unreached(error) from None
        if response.status < 300 and (not answer or response.content_type == "application/json"):
            return Raw(answer)
        raise self._refused(response.status, answer)

    async def get(self, path: str, shape: type[T], query: Mapping[str, Any] | None = None) -> tuple[Raw, T]:
        """An answer as it came, and as a Struct."""
        raw = await self.call("GET", path, query=query)
        return raw, self.read(raw, shape)

    def read(self, raw: Raw, shape: type[T]) -> T:
        """Raises Failure where the answer is none of this gateway's."""
        try:
            return msgspec.json.decode(raw, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._stranger() from None

    async def pages(self, path: str, query: Mapping[str, Any], limit: int) -> AsyncIterator[list[Raw]]:
        """The rows of a list, page by page, at most `limit` and one more, which says that there are more."""
        wanted = limit + 1
        ask = dict(query)
        while wanted:
            ask["limit"] = min(wanted, PAGE)
            _, page = await self.get(path, Page, ask)
            rows = page.messages or page.dead_letters or page.clients
            yield rows
            wanted -= len(rows)
            ask |= {"cursor": page.cursor, "after": page.after}
            if not rows or (page.cursor is None and page.after is None):
                return

    def _refused(self, status: int, answer: bytes) -> Failure:
        try:
            problem = msgspec.json.decode(answer, type=Problem)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._stranger(status)
        code = Exit.FAILED
        if status == 404:
            code = Exit.NOT_FOUND
        elif status in _LATER:
            code = Exit.LATER
        detail = problem.detail or "refused"
        if problem.retry_after is not None:
            detail += f"; come back in {problem.retry_after:g} s"
        return Failure(
            code, detail, field=problem.field, code=problem.code, uncertain=problem.code == "commit_unknown"
        )

    def _stranger(self, status: int | None = None) -> Failure:
        answered = "" if status is None else f" (HTTP {status})"
        return Failure(Exit.UNREACHABLE, f"what answers at {self._url}{answered} is not this gateway's API")

    def _unreached(self, error: Exception) -> Failure:
        """No answer. Whether the request was carried out is certain only where there was no connection."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Failure(Exit.UNREACHABLE, f"cannot reach {self._url} within {CONNECT_TIMEOUT:g} s")
        if isinstance(error, TimeoutError):
            return Failure(Exit.TIMED_OUT, f"{self._url} gave no answer within {TIMEOUT:g} s", uncertain=True)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Failure(Exit.UNREACHABLE, f"cannot trust {self._url}: its certificate does not verify")
        if isinstance(error, aiohttp.ClientConnectorError):
            why = error.os_error.strerror or str(error.os_error)
            return Failure(Exit.UNREACHABLE, f"cannot reach {self._url}: {why}")
        if isinstance(error, _TooLong):
            return Failure(
                Exit.FAILED,
                f"the answer is over {MAX_ANSWER} bytes; ask for less with --limit",
                uncertain=True,
            )
        return Failure(Exit.UNREACHABLE, f"the connection to {self._url} broke off", uncertain=True)


class _TooLong(aiohttp.ClientError):
    pass


async def _read(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for part in response.content.iter_any():
        answer += part
        if len(answer) > MAX_ANSWER:
            raise _TooLong
    return bytes(answer)
