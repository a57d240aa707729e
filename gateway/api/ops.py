"""How the gateway is, and what it offers. These calls need no credential: the listener is an inner one."""

from aiohttp import web

from gateway.api.base import Api, Call, reply
from gateway.api.schemas import Ok
from gateway.errors import Unavailable


async def health(_api: Api, _call: Call) -> web.StreamResponse:
    """`GET /healthz`: the process answers."""
    return reply(Ok("ok"))


async def readiness(api: Api, _call: Call) -> web.StreamResponse:
    """`GET /readyz`: the store commits, the broker is there, and the gateway is neither starting nor draining."""
    reason = api.hub.ready or api.outside()
    if reason:
        raise Unavailable(f"not ready: {reason}", code="not_ready")
    return reply(Ok("ready"))


async def metrics(api: Api, _call: Call) -> web.StreamResponse:
    """`GET /metrics`: Prometheus text."""
    return web.Response(
        body=await api.metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def description(api: Api, _call: Call) -> web.StreamResponse:
    """`GET /openapi.json`."""
    return web.Response(body=api.description, headers={"Content-Type": "application/json"})
