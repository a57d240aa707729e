"""`GET /v1/events`: status changes as server-sent events (WHATWG HTML, 9.2), as they become durable.

An event named `reset` says that some were missed: as the first, that `Last-Event-ID` is no longer in the ring, and the
stream goes on from now; later, that this reader was too slow, and the stream ends.
"""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from gateway.api.base import EVENT_STREAM, Api, Call, check_still
from gateway.api.schemas import EventsQuery
from gateway.auth import Principal
from gateway.errors import Forbidden, Invalid, Unauthorized
from gateway.hub.events import RESET, Subscription

# so often at least something is written, in seconds: a proxy must not take the stream for dead
HEARTBEAT = 15.0
_BEAT = b":\n\n"

_encode = msgspec.json.Encoder().encode


async def stream(api: Api, call: Call) -> web.StreamResponse:
    """Write events until the reader leaves, falls behind, or loses its right."""
    query: EventsQuery = call.query
    last = _last_event_id(call.request)
    response = call.stream(EVENT_STREAM)
    if call.request.method == "HEAD":
        return response
    subscription = api.hub.events.subscribe(last)
    try:
        await response.prepare(call.request)
        # at once: the reader learns that it is heard
        await response.write(_BEAT)
        async with asyncio.TaskGroup() as tasks:
            beat = tasks.create_task(_beat(api, call.caller, response, subscription))
            with api.streaming(subscription.close):
                await _write(response, subscription, query.to, call.caller)
            beat.cancel()
    except* ConnectionError:
        # the reader has left
        response.force_close()
    finally:
        subscription.close()
    return response


async def _write(
    response: web.StreamResponse, subscription: Subscription, to: str | None, principal: Principal
) -> None:
    first = True
    async for number, fields in subscription:
        if fields == RESET:
            await response.write(b"event: reset\nid: %d\ndata: {}\n\n" % number)
            if not first:
                subscription.close()
        elif isinstance(fields, dict) and _wanted(fields, to, principal):
            await response.write(b"event: status\nid: %d\ndata: %b\n\n" % (number, _encode(fields)))
        first = False


def _wanted(fields: dict[str, Any], to: str | None, principal: Principal) -> bool:
    if to is not None and fields["to"] != to:
        return False
    return principal.kind == "key" or principal.name == fields["to"] or principal.publisher == fields["from"]


async def _beat(
    api: Api, principal: Principal, response: web.StreamResponse, subscription: Subscription
) -> None:
    """Keep the stream alive, and end it when the credential does."""
    while True:
        pause = HEARTBEAT
        if principal.exp is not None:
            pause = max(0.0, min(pause, principal.exp - api.hub.scheduler.wall()))
        await asyncio.sleep(pause)
        try:
            check_still(api, principal)
        except (Unauthorized, Forbidden):
            subscription.close()
            return
        await response.write(_BEAT)


def _last_event_id(request: web.BaseRequest) -> int | None:
    given = request.headers.get("Last-Event-ID")
    if given is None or given == "":
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise Invalid("must be the id of an event", field="Last-Event-ID")
    return int(given)
