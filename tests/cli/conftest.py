"""The command line against doubles: `cli` runs a command, `api` is an HTTP API that answers as told."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.bootstrap import prepare
from gateway.config import Config, load
from tests.cli.support import KEY, ApiDouble, Runner


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and nothing of the gateway in the environment."""
    for name in os.environ:
        if name.startswith(("BOTGW_", "BOT_GATEWAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(capsys, monkeypatch)


@pytest.fixture
def started() -> Config:
    """The configuration after a first start in this folder."""
    return prepare(load(None, {}))[0]


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiDouble]:
    """A double whose address and key are in the environment."""
    double = ApiDouble()
    runner = web.ServerRunner(web.Server(double.handle))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    double.url = f"http://127.0.0.1:{site.port}"
    monkeypatch.setenv("BOT_GATEWAY_API", double.url)
    monkeypatch.setenv("BOT_GATEWAY_API_KEY", KEY)
    yield double
    await runner.cleanup()
