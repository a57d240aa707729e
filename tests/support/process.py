"""A real gateway as a process: started on free ports and a private folder, killed as hard as a test wants."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import aiohttp

from gateway.auth import Authenticator
from gateway.bootstrap import prepare
from gateway.clock import SystemClock
from gateway.config import load

READY_TIMEOUT = 30.0
ROOT = Path(__file__).parents[2]


class GatewayProcess:
    """`async with GatewayProcess(folder, toml) as g`: g.ws, g.api, g.key; `kill()` and `start()` as often as wanted."""

    def __init__(
        self,
        folder: Path,
        toml: str = "",
        env: dict[str, str] | None = None,
        *,
        wrap: tuple[str, ...] = (),
        bug: str = "",
    ) -> None:
        self.folder = folder
        self.config_file = folder / "gateway.toml"
        folder.mkdir(parents=True, exist_ok=True)
        if "data_dir" not in toml:
            toml = f'data_dir = "{folder / "data"}"\n' + toml
        self.config_file.write_text(toml)
        self.env = env or {}
        self.wrap = wrap
        # with a planted bug it is started by tests/faults/planted.py
        self.module = ("tests.faults.planted", bug) if bug else ("gateway",)
        self.process: asyncio.subprocess.Process | None = None
        self.ws = ""
        self.mqtt = ""
        self.api = ""
        self.key = ""
        self.log: list[dict[str, Any]] = []
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start and wait until it listens. Ports change with every start."""
        assert self.process is None
        self._ready.clear()
        listen = {
            "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
            "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
            "BOTGW_MQTT__LISTEN": "127.0.0.1:0",
            "BOTGW_LOG__FORMAT": "json",
        }
        self.process = await asyncio.create_subprocess_exec(
            *self.wrap, sys.executable, "-m", *self.module, "serve", "--config", str(self.config_file),
            env=os.environ | listen | self.env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            limit=1 << 20, cwd=ROOT,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self.process))
        async with asyncio.timeout(READY_TIMEOUT):
            done = asyncio.create_task(self.process.wait())
            ready = asyncio.create_task(self._ready.wait())
            await asyncio.wait({done, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                ready.cancel()
                await self._reader
                raise RuntimeError(f"the gateway did not start: {self.log[-5:]}")
            done.cancel()
        config, found = prepare(load(self.config_file, {}), create=False)
        self.key = found.api_key or self.key
        self._config = config

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": line.decode(errors="replace")}
            self.log.append(entry)
            if entry.get("event") == "ready":
                self.ws, self.api, self.mqtt = entry["websocket"], entry["api"], entry["mqtt"]
                self._ready.set()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self, how: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(how)
        code = await process.wait()
        if self._reader is not None:
            await self._reader
        return code

    def token(self, client: str, **claims: Any) -> str:
        """A JWT for a client, signed with the secret of the data folder."""
        return Authenticator(self._config.auth, SystemClock(), lambda _: 0).mint(client, 3600, claims)

    def http(self) -> aiohttp.ClientSession:
        """A session for the API, authenticated with the backend's key."""
        return aiohttp.ClientSession(self.api, headers={"Authorization": f"Bearer {self.key}"})
