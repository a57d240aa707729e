"""A real HTTP server that receives webhooks, checks their signatures with another's library, answers as told."""

import json
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5YWI="


class Receiver:
    """`answer(data, n)` gives the status for attempt n (from 1) at the message `data`."""

    def __init__(self, answer: Callable[[dict[str, Any], int], int]) -> None:
        self._answer = answer
        self.attempts: dict[str, int] = {}
        self.got: list[dict[str, Any]] = []  # every attempt's `data`
        self.arrived: dict[str, dict[str, Any]] = {}  # those answered 2xx, by id
        self.bad_signatures = 0
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site.port}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            Webhook(SECRET).verify(body, dict(request.headers))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is a bad signature
            self.bad_signatures += 1
            return web.Response(status=401)
        data = json.loads(body)["data"]
        assert data["id"] == request.headers["webhook-id"]
        n = self.attempts[data["id"]] = self.attempts.get(data["id"], 0) + 1
        self.got.append(data)
        status = self._answer(data, n)
        if status < 300:
            self.arrived[data["id"]] = data
        return web.Response(status=status)
