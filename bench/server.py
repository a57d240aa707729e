"""The gateway as a process under load: its defaults, pinned to a core, its CPU and memory read from /proc."""

import asyncio
import json
import os
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Self

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# limits of publishing and handshakes are there to keep strangers out; a load test is one address and one publisher
LIMITS = {
    "BOTGW_LIMITS__PUBLISH_RATE": "100000000.0",
    "BOTGW_LIMITS__PUBLISH_BURST": "100000000",
    "BOTGW_WEBSOCKET__HANDSHAKES_PER_SECOND": "100000.0",
    "BOTGW_WEBSOCKET__HANDSHAKE_BURST": "100000",
}


class Server:
    """`async with Server() as s`: s.ws, s.api, s.secret; `cpu()` in seconds, `rss()` in bytes."""

    def __init__(self, core: int | None = 0) -> None:
        self.core = core
        self.folder = tempfile.TemporaryDirectory(prefix="botgw-bench-", dir=Path.cwd())
        self.process: asyncio.subprocess.Process | None = None
        self.ws = self.api = self.secret = self.key = ""

    async def __aenter__(self) -> Self:
        data = Path(self.folder.name) / "data"
        env = os.environ | LIMITS | {
            "BOTGW_DATA_DIR": str(data),
            "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
            "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
            "BOTGW_LOG__FORMAT": "json",
        }  # fmt: skip
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve",
            env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        if self.core is not None:
            os.sched_setaffinity(self.process.pid, {self.core})
        async for line in self.process.stderr:
            entry: dict[str, Any] = json.loads(line)
            if entry.get("event") == "ready":
                self.ws, self.api = entry["websocket"], entry["api"]
                break
        if not self.ws:
            raise RuntimeError("the gateway did not start")
        secrets = tomllib.loads((data / "secrets.toml").read_text())
        self.secret, self.key = secrets["jwt_secret"], f"backend.{secrets['backend_key']}"
        self._drain = asyncio.create_task(self.process.stderr.read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._drain
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE
