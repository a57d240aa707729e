"""What a handler is handed: the Api, which lives as long as the server, and a Call, which is one request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from aiohttp import HttpVersion11, web
from msgspec import Struct

from gateway.api.problems import decode, malformed
from gateway.auth import Authenticator, Principal
from gateway.commit import BareMessage, MessageView, RunSink, Sink
from gateway.config import Config
from gateway.errors import Forbidden, GatewayError, NotFound, Unauthorized
from gateway.hub.events import EventRing
from gateway.hub.suppressions import Suppressions
from gateway.hub.texts import Texts
from gateway.model import Publish
from gateway.ports import Outcome, Scheduler, Store
from gateway.records import ClientRecord, ClientRow
from gateway.templates import TemplateRow, Variant

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
EVENT_STREAM = "text/event-stream"
# a peer that takes longer for a whole body, in seconds, gets 408
BODY_TIMEOUT = 30.0

_encode = msgspec.json.Encoder().encode


class HubApi(Protocol):
    """What the API needs of the hub (gateway/hub says what each does)."""

    @property
    def ready(self) -> str: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def store(self) -> Store: ...
    @property
    def events(self) -> EventRing: ...
    @property
    def trace_root(self) -> str: ...
    def publish(
        self, principal: Principal, pub: Publish, sink: Sink, ref: Any, *, field: str = "$"
    ) -> None: ...
    def publish_bare(self, principal: Principal, messages: list[BareMessage], sink: RunSink) -> int: ...
    async def explain(self, principal: Principal, pub: Publish) -> dict[str, Any]: ...
    async def cancel(self, id: int) -> None: ...
    def presence(self, client: str) -> dict[str, Any]: ...
    def clients(self, after: str, limit: int) -> list[str]: ...
    def client_row(self, client: str) -> ClientRow | None: ...
    @property
    def texts(self) -> Texts: ...
    @property
    def suppressions(self) -> Suppressions: ...
    async def audit(self, who: str, act: str, data: dict[str, Any]) -> None: ...
    async def test_channel(self, channel: str, address: str, body: bytes, by: str) -> Outcome: ...
    async def put_template(
        self, name: str, variants: list[Variant], by: str, expected: int | None
    ) -> TemplateRow: ...
    async def put_client(self, client: str, record: ClientRecord, by: str = "") -> ClientRow: ...
    async def forget(self, client: str, by: str = "") -> None: ...
    async def disconnect(self, client: str, ban: float | None, by: str = "") -> bool: ...
    async def replay(self, id: int, channel: str | None, principal: Principal) -> int: ...
    async def drop_dead(self, ids: list[int] | None, by: str = "") -> int: ...
    def banned(self, client: str, now: int) -> bool: ...


class Answer(Struct, frozen=True):
    """An answer that a call can give. `shape`: its type, a tuple for one of several, None for no body."""

    status: int
    text: str
    shape: Any = None
    media: str = JSON


class Header(Struct, frozen=True):
    """A request header that a call understands."""

    name: str
    shape: Any
    text: str


class Route(Struct, frozen=True, kw_only=True):
    """One call: what the dispatcher goes by, and what openapi.py describes.

    `scope` "" needs no credential. `clients`: a client's JWT may call it, for its own messages. `body`: by media type.
    `problems`: the statuses of refusals beside those that follow from the rest.
    """

    method: str
    path: str
    handler: "Handler"
    summary: str
    scope: str = "admin"
    clients: bool = False
    query: type[Struct] | None = None
    headers: tuple[Header, ...] = ()
    body: dict[str, Any] | None = None
    body_optional: bool = False
    answers: tuple[Answer, ...]
    problems: tuple[int, ...] = ()


class Api:
    """What the handlers share. `outside`: what is not ready beside the hub, "" for nothing. `channels`: how each is."""

    __slots__ = (
        "_ends", "_none_left", "authenticator", "channels", "config", "description", "hub", "metrics", "outside",
    )  # fmt: skip

    def __init__(
        self,
        hub: HubApi,
        authenticator: Authenticator,
        config: Config,
        metrics: Callable[[], Awaitable[bytes]],
        outside: Callable[[], str],
        channels: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self.hub = hub
        self.authenticator = authenticator
        self.config = config
        self.metrics = metrics
        self.outside = outside
        self.channels = channels
        self.description = b""  # the OpenAPI document
        self._ends: dict[object, Callable[[], None]] = {}
        self._none_left = asyncio.Event()

    @contextmanager
    def streaming(self, end: Callable[[], None]) -> Iterator[None]:
        """Around a response that has no end of its own: `end` is called when the server stops."""
        mark = object()
        self._ends[mark] = end
        try:
            yield
        finally:
            del self._ends[mark]
            if not self._ends:
                self._none_left.set()

    async def end_streams(self, grace: float) -> None:
        """End every stream, and wait for them, at most `grace` seconds."""
        if not self._ends:
            return
        self._none_left.clear()
        for end in tuple(self._ends.values()):
            end()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._none_left.wait()


class Call:
    """One request, admitted. `params`: of the path, message ids as integers. `query`: the route's Struct, or None."""

    __slots__ = ("id", "params", "principal", "query", "request", "route")

    def __init__(
        self, request: web.BaseRequest, request_id: str, route: Route, params: dict[str, Any]
    ) -> None:
        self.request = request
        self.id = request_id
        self.route = route
        self.params = params
        self.query: Any = None
        self.principal: Principal | None = None

    @property
    def caller(self) -> Principal:
        """Who calls. Only where the route needs a credential."""
        assert self.principal is not None
        return self.principal

    async def body(self, api: Api) -> Any:
        """The body as the route's type; its defaults where it is empty and may be. Raises GatewayError."""
        assert self.route.body is not None
        shape = self.route.body[JSON]
        if self.route.body_optional and not self.request.can_read_body:
            return shape()
        if media_type(self.request) != JSON:
            raise unsupported(JSON)
        raw = await read(api, self.request)
        return decode(decoder(shape), raw) if raw or not self.route.body_optional else shape()

    def stream(self, media: str) -> web.StreamResponse:
        """The start of an answer whose length is not known."""
        headers = {
            "Content-Type": media,
            "Cache-Control": "no-store",
            "X-Request-Id": self.id,
            "Server": SERVER,
        }
        return web.StreamResponse(headers=headers)


Handler = Callable[[Api, Call], Awaitable[web.StreamResponse]]
SERVER = "bot-gateway"


@lru_cache(maxsize=64)
def decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def reply(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=_encode(value), headers={"Content-Type": JSON})


def media_type(request: web.BaseRequest) -> str:
    """The media type of the body, "" where none is named. Raises GatewayError for a charset but UTF-8, or a coding."""
    header = request.headers.get("Content-Type")
    if "Content-Encoding" in request.headers and request.headers["Content-Encoding"].lower() != "identity":
        raise GatewayError(
            "send the body as it is, without Content-Encoding",
            code="unsupported_encoding",
            field="Content-Encoding",
            http=415,
        )
    if header == JSON:
        return JSON
    if header is None:
        return ""
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise GatewayError(
            "the charset must be utf-8", code="unsupported_media_type", field="Content-Type", http=415
        )
    return request.content_type


def unsupported(*media: str) -> GatewayError:
    wanted = " or ".join(media)
    return GatewayError(
        f"Content-Type must be {wanted}", code="unsupported_media_type", field="Content-Type", http=415
    )


def too_large(limit: int) -> GatewayError:
    return GatewayError(f"the body is over {limit} bytes", code="body_too_large", http=413)


async def read(api: Api, request: web.BaseRequest) -> bytes:
    """The whole body. Raises GatewayError: 400, 408, 413, 417."""
    return await read_whole(request, api.config.http.max_body_bytes)


async def read_whole(request: web.BaseRequest, limit: int) -> bytes:
    """The same, of at most `limit` bytes."""
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if "Expect" in request.headers:
        await proceed(request)
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except TimeoutError:
        raise GatewayError(
            f"the body did not arrive within {BODY_TIMEOUT:.0f} s", code="body_timeout", http=408
        ) from None
    except web.RequestPayloadError:
        raise malformed("the transfer coding of the body is broken") from None


async def proceed(request: web.BaseRequest) -> None:
    """Tell a client that asked (RFC 9110 10.1.1) to send its body, now that the request is admitted."""
    expect = request.headers.get("Expect", "")
    if expect.lower() != "100-continue":
        raise GatewayError("only 100-continue is known", code="expectation_failed", field="Expect", http=417)
    if request.version >= HttpVersion11 and not request.content.is_eof():
        writer = request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0


def not_found() -> NotFound:
    return NotFound("no message has this id")


def owns(principal: Principal, view: MessageView) -> bool:
    """Whether the message was sent by the principal."""
    return view.item.sender == principal.publisher


def sees(principal: Principal, view: MessageView) -> bool:
    """Whether the principal may read about the message: a client only what it sent or what is addressed to it."""
    return principal.kind == "key" or view.item.client == principal.name or owns(principal, view)


def refuse_foreign(principal: Principal, view: MessageView) -> None:
    """Raises unless the principal may act on the message: on its own, or as an administrator on any."""
    if principal.can("admin") or owns(principal, view):
        return
    if principal.kind == "client" and not sees(principal, view):
        raise not_found()
    raise Forbidden("only its publisher or an administrator may do this")


def check_still(api: Api, principal: Principal) -> None:
    """Raises Unauthorized or Forbidden where a credential has lost its worth while a response goes on."""
    hub = api.hub
    if principal.exp is not None and principal.exp <= hub.scheduler.wall():
        raise Unauthorized("the token has expired", code="token_expired")
    if principal.kind == "client" and hub.banned(principal.name, hub.scheduler.now()):
        raise Forbidden("this client is banned", code="banned")


def page_token(values: list[MessageView], limit: int) -> int:
    """The id below which the next page begins, 0 where there is none."""
    return values[-1].item.id if len(values) == limit else 0
