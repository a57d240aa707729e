"""Starts the ledger process beside a gateway, and asks it for its verdict."""

import asyncio
import json
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.support.process import GatewayProcess


def free_port() -> int:
    """A port that was free a moment ago; a gateway that is killed and started again keeps it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def fixed_ports() -> dict[str, str]:
    return {
        "BOTGW_WEBSOCKET__LISTEN": f"127.0.0.1:{free_port()}",
        "BOTGW_HTTP__LISTEN": f"127.0.0.1:{free_port()}",
    }


async def ready(http: aiohttp.ClientSession, wanted: int) -> None:
    """Wait until /readyz answers with this status."""
    async with asyncio.timeout(30):
        while True:
            async with http.get("/readyz") as answer:
                if answer.status == wanted:
                    return
            await asyncio.sleep(0.05)  # readiness is polled: that is its interface


class LedgerProcess:
    """`async with LedgerProcess(gateway) as ledger`: figures as they come, then `await ledger.verdict()`."""

    def __init__(self, gateway: GatewayProcess, *args: str) -> None:
        self.gateway = gateway
        self.args = args
        self.process: asyncio.subprocess.Process | None = None
        self.figures: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        secrets = tomllib.loads((self.gateway.folder / "data" / "secrets.toml").read_text())
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.ledger", "--url", self.gateway.ws,
            f"--secret={secrets['jwt_secret']}", *self.args,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def until(
        self, condition: Callable[[dict[str, Any]], bool], timeout: float = 60.0
    ) -> dict[str, Any]:
        """Read figures until one satisfies the condition."""
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout):
            while True:
                line = await self.process.stdout.readline()
                assert line, "the ledger has died"
                self.figures = json.loads(line)
                if condition(self.figures):
                    return self.figures

    async def verdict(self, timeout: float = 90.0) -> dict[str, Any]:
        """Stop publishing, wait until everything has arrived, and hear what is wrong."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        return await self.until(lambda f: "verdict" in f, timeout)


def assert_clean(verdict: dict[str, Any]) -> None:
    """0 lost, 0 unmarked duplicates, 0 out of order, no hole, nothing refused that arrived."""
    wrong = {k: verdict[k] for k in ("lost", "duplicates", "disorder", "holes", "false_acks") if verdict[k]}
    assert not wrong, verdict
    assert verdict["unanswered"] == 0, verdict
