"""Publishing and what became of it.

A single message is the hot path: one parse, one future. The answer waits for the commit that makes it durable.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw

from gateway.api import ndjson, problems, views
from gateway.api.base import (
    JSON,
    NDJSON,
    Api,
    Call,
    media_type,
    not_found,
    page_token,
    read,
    refuse_foreign,
    reply,
    sees,
    unsupported,
)
from gateway.api.schemas import Cancelled, MessagePage, MessagesQuery
from gateway.api.taken import accepted, taken
from gateway.auth import Principal
from gateway.commit import MessageView
from gateway.errors import GatewayError, Invalid
from gateway.ids import MAX_ID, decode_id, encode_id
from gateway.model import MAX_KEY, STATUS_BY_NAME, Item, Kind, Publish
from gateway.wire import Bare

# messages of an array that are published before others have their turn
SLICE = 256

_single = msgspec.json.Decoder(Publish)
_bare_array = msgspec.json.Decoder(list[Bare])
_array = msgspec.json.Decoder(list[Publish])
_parts = msgspec.json.Decoder(list[Raw])


class _One:
    """The sink of a single message."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[bytes | GatewayError] = asyncio.get_running_loop().create_future()

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        if not self.future.done():
            self.future.set_result(accepted(id, dup, status))

    def refused(self, ref: Any, error: GatewayError) -> None:
        if not self.future.done():
            # as a value: one error may go to all publishers of a commit, and each raise would lengthen its traceback
            self.future.set_result(error)


class _Many:
    """The sink of an array: `ref` is the place in it. `done` when each has its result."""

    __slots__ = ("_left", "done", "results")

    def __init__(self, size: int) -> None:
        self.results: list[bytes] = [b""] * size
        self.done = asyncio.Event()
        self._left = size

    def stored(self, ref: int, id: int, dup: bool, status: int) -> None:
        self._settle(ref, accepted(id, dup, status))

    def stored_run(self, refs: list[int], items: list[Item]) -> None:
        """The same for many."""
        for ref, item in zip(refs, items, strict=True):
            self._settle(ref, accepted(item.id, False, item.status))

    def refused(self, ref: int, error: GatewayError) -> None:
        self._settle(ref, problems.refusal(error))

    def _settle(self, ref: int, result: bytes) -> None:
        self.results[ref] = result
        self._left -= 1
        if not self._left:
            self.done.set()


async def publish(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/messages`."""
    media = media_type(call.request)
    if media == NDJSON:
        _no_key(call)
        return await ndjson.publish(api, call)
    if media != JSON:
        raise unsupported(JSON, NDJSON)
    raw = await read(api, call.request)
    if raw[:1] == b"[" or raw.lstrip(b" \t\r\n")[:1] == b"[":
        _no_key(call)
        return await _publish_array(api, call.caller, raw)
    try:
        pub = _single.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise problems.undecodable(error) from None
    headers = call.request.headers
    if "Idempotency-Key" in headers:
        take_key(pub, headers.getall("Idempotency-Key"))
    sink = _One()
    api.hub.publish(call.caller, pub, sink, None)
    result = await sink.future
    if isinstance(result, GatewayError):
        return problems.response(result, call.id)
    return taken(call.request, result, call.id)


async def _publish_array(api: Api, principal: Principal, raw: bytes) -> web.StreamResponse:
    """Each element for itself; a list of results in the order of the elements."""
    elements: Sequence[Publish | Bare | Raw]
    try:
        elements = _elements(raw)
    except msgspec.ValidationError:
        # some element is bad: the others count all the same
        elements = problems.decode(_parts, raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise problems.undecodable(error) from None
    limit = api.config.limits.batch
    if len(elements) > limit:
        raise GatewayError(f"over {limit} messages in one array", code="batch_too_large", http=413)
    if not elements:
        return reply([], 202)
    sink = _Many(len(elements))
    at = 0
    while at < len(elements):
        some = elements[at : at + SLICE]
        if isinstance(some[0], Bare):
            # the short way in (hub/bare.py), and the long way for what that leaves
            bare = [(m.to, bytes(m.body), 0, i) for i, m in enumerate(some, at) if isinstance(m, Bare)]
            count = api.hub.publish_bare(principal, bare, sink)
            at += count
            some = some[count : count + 1]
        for i, element in enumerate(some, at):
            _publish_element(api, principal, element, sink, i)
        at += len(some)
        await asyncio.sleep(0)
    await sink.done.wait()
    return web.Response(status=202, body=b"[%b]" % b",".join(sink.results), headers={"Content-Type": JSON})


def _elements(raw: bytes) -> Sequence[Publish | Bare]:
    """Raises what msgspec raises."""
    try:
        return _bare_array.decode(raw)
    except msgspec.ValidationError:
        # some element has more, or is bad
        return _array.decode(raw)


def _publish_element(
    api: Api, principal: Principal, element: Publish | Bare | Raw, sink: _Many, i: int
) -> None:
    field = f"$[{i}]"
    try:
        if isinstance(element, Bare):
            element = Publish(to=element.to, body=element.body)
        elif isinstance(element, Raw):
            element = problems.decode(_single, element, field)
        assert isinstance(element, Publish)
        api.hub.publish(principal, element, sink, i, field=field)
    except GatewayError as error:
        sink.refused(i, error)


def _no_key(call: Call) -> None:
    if "Idempotency-Key" in call.request.headers:
        raise GatewayError(
            "is for a single message; give each message of a batch its `key`",
            code="key_on_batch",
            field="Idempotency-Key",
            http=400,
        )


def take_key(pub: Publish, keys: list[str]) -> None:
    """`Idempotency-Key` is the `key` of a single message. Raises GatewayError."""
    if len(keys) > 1:
        raise problems.malformed("is given twice", "Idempotency-Key")
    (key,) = keys
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise Invalid(f"must be 1 to {MAX_KEY} printable ASCII characters", field="Idempotency-Key")
    if pub.key is not None and pub.key != key:
        raise GatewayError(
            "differs from the message's own `key`", code="key_mismatch", field="Idempotency-Key", http=400
        )
    pub.key = key


async def get(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/messages/{id}`."""
    view = await _visible(api, call)
    return reply(views.message(view, api.hub.trace_root, whole=True))


async def listing(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/messages`: newest first. A client sees what it sent and what is addressed to it."""
    query: MessagesQuery = call.query
    statuses = None
    if query.status is not None:
        statuses = tuple(sorted({int(STATUS_BY_NAME[name]) for name in query.status.split(",")}))
    before = MAX_ID if query.cursor is None else decode_id(query.cursor)
    found = await _page(api, call.caller, query.to, statuses, before, query.limit)
    page = MessagePage(
        [views.message(v, api.hub.trace_root, whole=False) for v in found if v.item.kind == Kind.MESSAGE]
    )
    last = page_token(found, query.limit)
    if last:
        page.cursor = encode_id(last)
    return reply(page)


async def _page(
    api: Api, principal: Principal, to: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
) -> list[MessageView]:
    messages = api.hub.store.messages
    if principal.kind == "key" or to == principal.name:
        return await messages(to, None, statuses, before, limit)
    sent = await messages(to, principal.publisher, statuses, before, limit)
    if to is not None:
        return sent
    both = {v.item.id: v for v in sent + await messages(principal.name, None, statuses, before, limit)}
    return [both[id] for id in sorted(both, reverse=True)[:limit]]


async def cancel(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/messages/{id}/cancel`."""
    if not call.caller.can("admin"):
        view = await _view(api, call)
        refuse_foreign(call.caller, view)
    id: int = call.params["id"]
    await api.hub.cancel(id)
    return reply(Cancelled(encode_id(id)))


async def explain(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/explain`."""
    return reply(await api.hub.explain(call.caller, await call.body(api)))


async def _view(api: Api, call: Call) -> MessageView:
    """The message of the path. Raises NotFound, for status reports too: they are no messages."""
    view = await api.hub.store.message(call.params["id"])
    if view is None or view.item.kind != Kind.MESSAGE:
        raise not_found()
    return view


async def _visible(api: Api, call: Call) -> MessageView:
    view = await _view(api, call)
    if not sees(call.caller, view):
        raise not_found()
    return view
