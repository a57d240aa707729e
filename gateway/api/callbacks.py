"""The listener for providers: `/v1/callbacks/{channel}`, and nothing else. It is the one that the world may reach, so
it shares the limits of the inner listener, and none of its calls.

A call is answered once everything that it reports is on disk: whoever is not answered calls again.
"""

import asyncio
import re
import secrets
from collections.abc import Mapping
from itertools import count
from typing import Protocol

from aiohttp import web

from gateway.api import problems
from gateway.api.base import SERVER, read_whole
from gateway.api.bounded import BoundedServer
from gateway.api.server import GRACE, tls
from gateway.config import Callbacks as Settings
from gateway.config import parse_listen
from gateway.errors import ConfigError, GatewayError, NotFound, Unavailable
from gateway.observe.log import get_logger
from gateway.ports import Receipt, Reply

_log = get_logger("callbacks")
_path = re.compile(r"/v1/callbacks/([a-z][a-z0-9_-]{0,31})").fullmatch
# providers wait 10 s or more for an answer
ANSWER_TIMEOUT = 8.0


class Reader(Protocol):
    """What the listener needs of the providers (providers/callbacks.py)."""

    def check(self, channel: str) -> None: ...
    async def read(
        self,
        channel: str,
        method: str,
        target: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Reply: ...


class ReceiptHub(Protocol):
    """What it needs of the hub."""

    @property
    def ready(self) -> str: ...
    async def receipts(self, channel: str, receipts: list[Receipt]) -> None: ...


class CallbackServer:
    """Serves callbacks on `settings.listen` between `start` and `stop`."""

    def __init__(self, hub: ReceiptHub, reader: Reader, settings: Settings) -> None:
        self._hub = hub
        self._reader = reader
        self._settings = settings
        self._prefix = secrets.token_hex(4)
        self._number = count(1)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError for an address or a certificate that cannot be used."""
        settings = self._settings
        host, port = parse_listen(settings.listen)
        context = tls(settings, "callbacks")
        self._runner = web.ServerRunner(
            BoundedServer(self._serve, settings, settings.max_connections), shutdown_timeout=GRACE
        )
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=context, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"callbacks.listen: {error.strerror}", field="callbacks.listen") from error

    async def stop(self) -> None:
        """Take no more connections; let the calls under way finish."""
        if self._runner is None or self._site is None:
            return
        await self._site.stop()
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        assert self._site is not None
        return self._site.port

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"{self._prefix}-{next(self._number):x}"
        try:
            response: web.StreamResponse = await self._answer(request)
        except GatewayError as error:
            response = problems.response(error, request_id)
        except Exception as error:
            transport = request.transport
            if isinstance(error, ConnectionError) and (transport is None or transport.is_closing()):
                raise
            # nothing of the call is logged: it is a stranger's until its signature is checked
            _log.exception("callback failed", request=request_id, method=request.method)
            fault = GatewayError("an internal error; the log has it under the request id")
            response = problems.response(fault, request_id)
        response.headers["Server"] = SERVER
        response.headers["X-Request-Id"] = request_id
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises GatewayError."""
        target = request.raw_path
        found = _path(target.partition("?")[0])
        if found is None:
            raise NotFound("there is nothing at this path", code="no_such_path")
        channel = found[1]
        if request.method not in ("GET", "POST"):
            raise GatewayError("this path knows GET, POST", code="method_not_allowed", http=405)
        self._reader.check(channel)
        if self._hub.ready:
            raise Unavailable(f"not ready: {self._hub.ready}", code="not_ready", retry_after=1.0)
        body = await read_whole(request, self._settings.max_body_bytes)
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            # of two signatures none is taken for the other
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        query = dict(request.rel_url.query)
        reply = await self._reader.read(channel, request.method, target, query, headers, body)
        if reply.receipts:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    await self._hub.receipts(channel, list(reply.receipts))
            except TimeoutError:
                raise Unavailable("it takes too long to store", code="not_ready", retry_after=5.0) from None
        return web.Response(status=reply.status, body=reply.body, content_type=reply.content_type)
