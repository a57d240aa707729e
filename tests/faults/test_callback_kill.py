"""SIGKILL between a callback and its answer: what was answered is on disk; what was not comes again and counts once."""

import asyncio
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tests.faults.harness import fixed_ports, free_port
from tests.faults.planted import HELD
from tests.providers.reporter import sign
from tests.support.hook import SECRET
from tests.support.process import GatewayProcess

PATIENCE = 1.0


class Provider:
    """Accepts every message; what it was given is in `refs`, by message."""

    def __init__(self) -> None:
        self.callbacks: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/send", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site.port}/send"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        given = msgspec.json.decode(await request.read())
        self.callbacks.put_nowait((given["callback"], given["ref"]))
        return web.Response(status=202)


async def call(url: str, ref: str) -> int:
    """The status of the answer to a callback, 0 for none."""
    body = msgspec.json.encode([{"ref": ref, "status": "delivered", "code": HELD}])
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(url, data=body, headers={"X-Signature": sign(url, body)}) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


async def until(gateway: GatewayProcess, id: str, status: str) -> dict[str, Any]:
    """The message, once it stands there."""
    async with gateway.http() as http, asyncio.timeout(20):
        while True:
            async with http.get(f"/v1/messages/{id}") as answer:
                message: dict[str, Any] = await answer.json()
            if message["status"] == status:
                return message
            await asyncio.sleep(0.05)  # the API is asked again: it tells of no change by itself


async def run(folder: Path, provider: Provider, bug: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Kill the gateway after a callback. The answer to it; the message after a start, and after the same call again."""
    port = free_port()
    toml = f"""
    [session]
    offline_deadline = 0
    [routes]
    default = ["hook"]
    [channels.hook]
    kind = "webhook"
    url = "{provider.url}"
    secret = "{SECRET}"
    allow_private = true
    [callbacks]
    listen = "127.0.0.1:{port}"
    public_url = "http://127.0.0.1:{port}"
    """
    gateway = GatewayProcess(folder, toml, env=fixed_ports(), bug=f"reporting+{bug}")
    async with gateway:
        async with (
            gateway.http() as http,
            http.post("/v1/messages", json={"to": "alice", "body": 1}) as answer,
        ):
            id = (await answer.json())["id"]
        url, ref = await provider.callbacks.get()
        assert url == f"http://127.0.0.1:{port}/v1/callbacks/hook"
        message = await until(gateway, id, "provider_accepted")
        assert message["chain"]["state"] == "receipt"
        answered = await call(url, ref)
        await gateway.kill()
        gateway.module = ("tests.faults.planted", "reporting")
        await gateway.start()
        async with gateway.http() as http, http.get(f"/v1/messages/{id}") as response:
            started = await response.json()
        assert await call(url, ref) == 200
        return answered, started, await until(gateway, id, "provider_delivered")


def receipts(message: dict[str, Any]) -> int:
    return sum(step["event"] == "receipt" for step in message["timeline"])


@pytest.mark.parametrize(
    ("bug", "status", "lines"),
    [("held_commit", "provider_accepted", 0), ("held_answer", "provider_delivered", 1)],
)
async def test_what_was_not_answered_comes_again_and_counts_once(
    tmp_path: Path, bug: str, status: str, lines: int
) -> None:
    async with Provider() as provider:
        answered, started, ended = await run(tmp_path, provider, bug)
    assert answered == 0
    assert (started["status"], receipts(started)) == (status, lines)
    assert receipts(ended) == 1
    assert "chain" not in ended


async def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    """Answered before the commit, the receipt is lost with the process: the provider would not call again."""
    async with Provider() as provider:
        answered, started, _ = await run(tmp_path, provider, "called_back_before_commit+held_commit")
    assert answered == 200
    assert receipts(started) == 0
