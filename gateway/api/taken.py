"""202 for one message, the answer that is given most, in one write.

A response of aiohttp finds out anew, each time, what it has to say: that was a sixth of what a publish costs. Here all
of it is known beforehand, for a client that speaks HTTP/1.1 and keeps its connection; others get the library's.
"""

from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time

from gateway.api.base import JSON, SERVER

_HEAD: Final = (
    f"HTTP/1.1 202 Accepted\r\nContent-Type: {JSON}\r\nServer: {SERVER}\r\n"
    "X-Request-Id: %s\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"
)


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
        body = self._answer
        head = _HEAD % (self._request_id, len(body), rfc822_formatted_time())
        transport.write(head.encode() + body)

    async def write_eof(self, data: bytes = b"") -> None:
        """All of it is written."""


def taken(request: web.BaseRequest, body: bytes, request_id: str) -> web.StreamResponse:
    if request.version == HttpVersion11 and request.keep_alive:
        return Taken(body, request_id)
    return web.Response(status=202, body=body, headers={"Content-Type": JSON})
