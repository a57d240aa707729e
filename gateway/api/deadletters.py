"""Dead letters: what could not be delivered, why, and another try."""

import asyncio

from aiohttp import web

from gateway.api import views
from gateway.api.base import Api, Call, not_found, page_token, reply
from gateway.api.schemas import (
    DeadLetterPage,
    DeadLettersQuery,
    Deleted,
    Replay,
    ReplayBody,
    ReplayManyBody,
    ReplayResult,
    Replays,
)
from gateway.auth import Principal
from gateway.errors import GatewayError
from gateway.ids import MAX_ID, decode_id, encode_id

# replays that share commits
TOGETHER = 64


async def listing(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/dead-letters`: newest first, whole."""
    query: DeadLettersQuery = call.query
    before = MAX_ID if query.cursor is None else decode_id(query.cursor)
    found = await api.hub.store.dead_letters(
        query.to, query.why, before, query.limit, query.replayed == "true"
    )
    page = DeadLetterPage([views.message(v, api.hub.trace_root, whole=True) for v in found])
    last = page_token(found, query.limit)
    if last:
        page.cursor = encode_id(last)
    return reply(page)


async def replay(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/dead-letters/{id}/replay`."""
    body: ReplayBody = await call.body(api)
    id: int = call.params["id"]
    fresh = await api.hub.replay(id, body.channel, call.caller)
    return reply(Replay(encode_id(fresh), encode_id(id)), 202)


async def replay_many(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/dead-letters/replay`: each for itself."""
    body: ReplayManyBody = await call.body(api)
    found = await api.hub.store.dead_letters(body.to, body.why, MAX_ID, body.limit + 1, False)
    # the order of acceptance
    ids = [view.item.id for view in reversed(found[: body.limit])]
    results: list[ReplayResult] = []
    for at in range(0, len(ids), TOGETHER):
        async with asyncio.TaskGroup() as tasks:
            some = [
                tasks.create_task(_try_replay(api, id, body.channel, call.caller))
                for id in ids[at : at + TOGETHER]
            ]
        results += [task.result() for task in some]
    return reply(Replays(results, more=len(found) > body.limit), 202)


async def _try_replay(api: Api, id: int, channel: str | None, principal: Principal) -> ReplayResult:
    result = ReplayResult(replay_of=encode_id(id))
    try:
        result.id = encode_id(await api.hub.replay(id, channel, principal))
    except GatewayError as error:
        result.code, result.status, result.detail = error.code, error.http, error.detail
        if error.field is not None:
            result.field = error.field
    return result


async def delete(api: Api, call: Call) -> web.StreamResponse:
    """`DELETE /v1/dead-letters/{id}`."""
    if not await api.hub.drop_dead([call.params["id"]], call.caller.publisher):
        raise not_found()
    return web.Response(status=204)


async def delete_all(api: Api, call: Call) -> web.StreamResponse:
    """`DELETE /v1/dead-letters`."""
    return reply(Deleted(await api.hub.drop_dead(None, call.caller.publisher)))
