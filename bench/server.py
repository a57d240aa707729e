"""Servers as processes under load: pinned to a core, their CPU and memory read from /proc. The gateway is one."""

import asyncio
import json
import os
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, Self

import jwt

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT = 30.0
# limits of publishing and connecting are there to keep strangers out; a load test is one address and few publishers
LIMITS = {
    "BOTGW_LIMITS__PUBLISH_RATE": "100000000.0",
    "BOTGW_LIMITS__PUBLISH_BURST": "100000000",
    "BOTGW_WEBSOCKET__HANDSHAKES_PER_SECOND": "100000.0",
    "BOTGW_WEBSOCKET__HANDSHAKE_BURST": "100000",
    "BOTGW_MQTT__CONNECTS_PER_SECOND": "100000.0",
    "BOTGW_MQTT__CONNECT_BURST": "100000",
}


class Server:
    """A process with a folder of its own, both gone at the end of `async with`.

    window   unanswered QoS 1 publishes of a connection that it must take, and unacked messages that it sends at once
    mqtt     `mqtt://host:port` once it listens
    """

    def __init__(self, window: int, core: int | None = 0) -> None:
        self.window = window
        self.core = core
        # on the disk of the working folder: /tmp may be memory, where fdatasync costs nothing
        self.folder = tempfile.TemporaryDirectory(prefix="botgw-bench-", dir=Path.cwd())
        self.process: asyncio.subprocess.Process | None = None
        self.mqtt = ""
        self._rest: asyncio.Task[bytes] | None = None

    async def start(self) -> None:
        """Returns when it listens. Raises RuntimeError with what it said where it does not."""
        raise NotImplementedError

    def token(self, client: str) -> str:
        """What the client shows as its password, or in `hello`."""
        raise NotImplementedError

    def topic_to(self, client: str) -> bytes:
        """Where a message to the client is published over MQTT."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def spawn(self, *command: str, env: dict[str, str] | None = None) -> asyncio.StreamReader:
        """Start it; returns its standard error, which `drain` takes once it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *command,
            env=os.environ | (env or {}),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        if self.core is not None:
            os.sched_setaffinity(self.process.pid, {self.core})
        assert self.process.stderr is not None
        return self.process.stderr

    def drain(self, stderr: asyncio.StreamReader) -> None:
        self._rest = asyncio.create_task(stderr.read())

    async def stop(self) -> None:
        """SIGKILL: what it would write at a graceful end is nobody's."""
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()
        if self._rest is not None:
            await self._rest
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all its threads. Raises RuntimeError where it has ended."""
        if self.process is None or self.process.returncode is not None:
            raise RuntimeError("the server has ended")
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE


class Gateway(Server):
    """The gateway with its defaults, but for the limits above and the window. `ws`, `api`: its URLs."""

    ws = api = secret = ""

    async def start(self) -> None:
        data = Path(self.folder.name) / "data"
        stderr = await self.spawn(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            env=LIMITS
            | {
                "BOTGW_DATA_DIR": str(data),
                "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
                "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
                "BOTGW_MQTT__LISTEN": "127.0.0.1:0",
                "BOTGW_MQTT__RECEIVE_MAXIMUM": str(self.window),
                "BOTGW_SESSION__WINDOW": str(self.window),
                "BOTGW_LOG__FORMAT": "json",
            },
        )
        said = b""
        async for line in stderr:
            said += line
            # a traceback is not JSON
            entry: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
            if entry.get("event") == "ready":
                self.ws, self.api, self.mqtt = entry["websocket"], entry["api"], entry["mqtt"]
                break
        else:
            raise RuntimeError(f"the gateway did not start: {said.decode()}")
        self.drain(stderr)
        self.secret = tomllib.loads((data / "secrets.toml").read_text())["jwt_secret"]

    def token(self, client: str) -> str:
        return jwt.encode({"sub": client, "exp": int(time.time()) + 86400}, self.secret, "HS256")

    def topic_to(self, client: str) -> bytes:
        return f"gw/v1/to/{client}".encode()
