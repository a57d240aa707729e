"""How the channels are: what they take now, what their attempts came to."""

import time

import msgspec
from aiohttp import web
from msgspec import UNSET

from gateway.api.base import Api, Call, reply
from gateway.api.schemas import ChannelOut, Channels, ChannelTestBody, ChannelTested
from gateway.wire import check_body

TEXT = b'{"text": "A test of this channel, by bot-gateway."}'


async def listing(api: Api, _call: Call) -> web.StreamResponse:
    """`GET /v1/channels`."""
    waiting = await api.hub.store.waiting()
    found = [
        msgspec.convert({**state, "waiting": waiting.get(state["name"], 0)}, ChannelOut)
        for state in api.channels()
    ]
    return reply(Channels(found))


async def test(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/channels/{channel}/test`."""
    asked: ChannelTestBody = await call.body(api)
    body = TEXT
    if asked.body is not UNSET:
        body = bytes(asked.body)
        check_body(body, "$.body")
    started = time.monotonic_ns()
    outcome = await api.hub.test_channel(call.params["channel"], asked.address, body, call.caller.publisher)
    return reply(
        ChannelTested(
            outcome=outcome.kind,  # type: ignore[arg-type]
            reason=outcome.reason,
            ms=(time.monotonic_ns() - started) // 1_000_000,
            blame=outcome.blame,
            code=outcome.code,
            status=outcome.status,
            provider_id=outcome.provider_id,
        )
    )
