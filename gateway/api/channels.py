"""How the channels are: what they take now, what their attempts came to."""

import msgspec
from aiohttp import web

from gateway.api.base import Api, Call, reply
from gateway.api.schemas import ChannelOut, Channels


async def listing(api: Api, _call: Call) -> web.StreamResponse:
    """`GET /v1/channels`."""
    waiting = await api.hub.store.waiting()
    found = [
        msgspec.convert({**state, "waiting": waiting.get(state["name"], 0)}, ChannelOut)
        for state in api.channels()
    ]
    return reply(Channels(found))
