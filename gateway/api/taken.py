"""The answers to one message, each in one write: 202, which is given most, and a problem.

A response of aiohttp finds out anew, each time, what it has to say: that was a sixth of what a publish costs. Here all
of it is known beforehand, for a client that speaks HTTP/1.1 and keeps its connection; others get the library's.
"""

from http import HTTPStatus
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time

from gateway.api import problems
from gateway.api.base import JSON, SERVER
from gateway.errors import GatewayError
from gateway.ids import id_text
from gateway.model import STATUS_NAMES

_HEAD: Final = (
    f"HTTP/1.1 202 Accepted\r\nContent-Type: {JSON}\r\nServer: {SERVER}\r\n"
    "X-Request-Id: %s\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"
)
_status = tuple(name.encode() for name in STATUS_NAMES)


def accepted(id: int, dup: bool, status: int) -> bytes:
    """schemas.Accepted, written straight: every publish has one."""
    return b'{"id":"%b","status":"%b","dup":%b}' % (
        id_text(id),
        _status[status],
        b"true" if dup else b"false",
    )


def whole(body: bytes, request_id: str) -> bytes:
    """All of a 202, `body` JSON."""
    return (_HEAD % (request_id, len(body), rfc822_formatted_time())).encode() + body


def whole_problem(error: GatewayError, request_id: str) -> bytes:
    """All of the answer to a request that failed."""
    body = problems.document(error, request_id)
    headers = problems.headers(error) | {
        "Server": SERVER,
        "X-Request-Id": request_id,
        "Content-Length": str(len(body)),
        "Date": rfc822_formatted_time(),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {error.http} {HTTPStatus(error.http).phrase}\r\n{lines}\r\n".encode() + body


class Taken(web.StreamResponse):
    """The answer, `body` JSON. It stands by itself: of the library's class it is only what that is asked for."""

    def __init__(self, body: bytes, request_id: str) -> None:
        # not the library's __init__: there is nothing to be changed here
        self._answer = body
        self._request_id = request_id

    @property
    def prepared(self) -> bool:
        return True

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Write it. Raises ConnectionResetError where nobody is there any more."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(whole(self._answer, self._request_id))

    async def write_eof(self, data: bytes = b"") -> None:
        """All of it is written."""


def taken(request: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
    if request.version == HttpVersion11 and request.keep_alive:
        return Taken(body, request_id)
    return web.Response(status=202, body=body, headers={"Content-Type": JSON})
