"""Servers under load: processes pinned to a core, their CPU and memory read from /proc. The gateway is one.

`Server` is what a client of the bench needs to know of any; `Gateway` a process of its own, `Behind` one with a broker
in front of it, `Remote` one that runs elsewhere and is known by its URLs.
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
import time
import tomllib
from collections import deque
from pathlib import Path
from typing import Any, Self

import aiohttp
import jwt

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT = 60.0
# lines of its standard error that are kept to be shown
KEPT_LINES = 20
TOKEN_SECONDS = 86400
# scheme of a URL -> the attribute of a server that it is
KINDS = {"ws": "ws", "wss": "ws", "mqtt": "mqtt", "mqtts": "mqtt", "http": "api", "https": "api"}
# limits of publishing and connecting are there to keep strangers out; a load test is one address and few publishers
LIMITS = {
    "BOTGW_LIMITS__PUBLISH_RATE": "100000000.0",
    "BOTGW_LIMITS__PUBLISH_BURST": "100000000",
    "BOTGW_WEBSOCKET__HANDSHAKES_PER_SECOND": "100000.0",
    "BOTGW_WEBSOCKET__HANDSHAKE_BURST": "100000",
    "BOTGW_MQTT__CONNECTS_PER_SECOND": "100000.0",
    "BOTGW_MQTT__CONNECT_BURST": "100000",
}


def family(pid: int) -> list[int]:
    """The process and all its descendants that run."""
    found = [pid]
    for parent in found:
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
            for thread in threads:
                found += map(int, (thread / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_of(pid: int) -> float:
    """Seconds of CPU, user and system, of all its threads and of its children, those that have ended included."""
    total = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICK


def rss_of(pid: int) -> int:
    """Resident bytes of it and its children."""
    total = 0
    for member in family(pid):
        try:
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def peak_of(pid: int) -> int:
    """The most resident bytes that the process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Server:
    """A process with a folder of its own, both gone at the end of `async with`.

    window         unanswered QoS 1 publishes of a connection that it must take, and unacked messages that it sends at
                   once
    ws, mqtt, api  where it listens, each "" where it does not
    prefix         what the names of all clients begin with
    """

    ws = mqtt = api = prefix = ""
    # what it was started with, as the report shows it; what is on its disk when it acknowledges
    configuration = promises = ""

    def __init__(self, window: int, core: int | None = 0) -> None:
        self.window = window
        self.core = core if (os.cpu_count() or 1) > 1 else None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.process: asyncio.subprocess.Process | None = None
        self._rest: asyncio.Task[None] | None = None
        self.said: deque[bytes] = deque(maxlen=KEPT_LINES)

    @property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """On the disk of the working folder: /tmp may be memory, where fdatasync costs nothing."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="botgw-bench-", dir=Path.cwd())
        return self._folder

    async def start(self) -> None:
        """Returns when it listens. Raises RuntimeError with what it said where it does not."""
        raise NotImplementedError

    def token(self, client: str) -> str:
        """What the client shows as its password, or in `hello`."""
        raise NotImplementedError

    def topic_to(self, client: str) -> bytes:
        """Where a message to the client is published over MQTT."""
        raise NotImplementedError

    def key_of_api(self) -> str:
        """The API key that a backend shows."""
        raise NotImplementedError

    async def told(self) -> dict[str, float]:
        """Its own figures, by their names in /metrics; none where it has none."""
        return {}

    def tls(self, scheme: str) -> ssl.SSLContext | None:
        """For connections to a URL of this scheme."""
        return ssl.create_default_context() if scheme in {"wss", "mqtts", "https"} else None

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
        """Start it; returns its standard error, which `drain` takes once it listens.

        It inherits its core: pinned after its start, threads that it has made by then would stay where they are, and
        what counts its cores would have counted all.
        """
        before = os.sched_getaffinity(0)
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env=os.environ | (env or {}),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        finally:
            os.sched_setaffinity(0, before)
        assert self.process.stderr is not None
        return self.process.stderr

    def drain(self, stderr: asyncio.StreamReader) -> None:
        self._rest = asyncio.create_task(self._keep_last(stderr))

    async def _keep_last(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            self.said.append(line)

    async def kill(self, how: int = signal.SIGKILL) -> None:
        """End the process; its folder stays, so that `start` can be called again."""
        process, self.process = self.process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(how)
            await process.wait()
        if self._rest is not None:
            await self._rest
            self._rest = None

    async def stop(self) -> None:
        """SIGKILL: what it would write at a graceful end is nobody's."""
        await self.kill()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all its threads and processes. Raises RuntimeError where it has ended."""
        self._running()
        return cpu_of(self.pid)

    def rss(self) -> int:
        """Resident bytes of all its processes."""
        self._running()
        return rss_of(self.pid)

    def _running(self) -> None:
        if self.process is None or self.process.returncode is not None:
            raise RuntimeError(f"the server has ended: {b''.join(self.said).decode(errors='replace')}")


class Gateway(Server):
    """The gateway with its defaults, but for the limits above, the window, and what `env` says."""

    promises = "fdatasync before every acknowledgement (SQLite, synchronous=FULL)"
    secret = key = ""

    def __init__(self, window: int, core: int | None = 0, env: dict[str, str] | None = None) -> None:
        super().__init__(window, core)
        self._tokens: dict[str, str] = {}
        self.env = LIMITS | {
            "BOTGW_HTTP__LISTEN": "127.0.0.1:0",
            "BOTGW_WEBSOCKET__LISTEN": "127.0.0.1:0",
            "BOTGW_MQTT__LISTEN": "127.0.0.1:0",
            "BOTGW_MQTT__RECEIVE_MAXIMUM": str(window),
            "BOTGW_SESSION__WINDOW": str(window),
            "BOTGW_LOG__FORMAT": "json",
        }
        self.env |= env or {}
        self.configuration = "\n".join(f"{key}={value}" for key, value in self.env.items())

    @property
    def data(self) -> Path:
        """Its data folder."""
        return Path(self.folder.name) / "data"

    async def start(self) -> None:
        env = self.env | {"BOTGW_DATA_DIR": str(self.data)}
        stderr = await self.spawn(sys.executable, "-m", "gateway", "serve", env=env)
        said = b""
        async for line in stderr:
            said += line
            # a traceback is not JSON
            entry: dict[str, Any] = json.loads(line) if line.startswith(b"{") else {}
            if entry.get("event") == "ready":
                self._listens(entry)
                break
        else:
            raise RuntimeError(f"the gateway did not start: {said.decode()}")
        self.drain(stderr)
        found = tomllib.loads((self.data / "secrets.toml").read_text())
        self.secret, self.key = found["jwt_secret"], f"backend.{found['backend_key']}"

    def _listens(self, ready: dict[str, Any]) -> None:
        self.ws, self.api, self.mqtt = ready["websocket"], ready["api"], ready["mqtt"]
        # a gateway that is killed and started again keeps its ports
        for table, url in (("WEBSOCKET", self.ws), ("HTTP", self.api), ("MQTT", self.mqtt)):
            self.env[f"BOTGW_{table}__LISTEN"] = url.split("/")[2]

    def token(self, client: str) -> str:
        token = self._tokens.get(client)
        if token is None:
            token = self._tokens[client] = mint(client, self.secret)
        return token

    def key_of_api(self) -> str:
        return self.key

    def topic_to(self, client: str) -> bytes:
        return f"gw/v1/to/{client}".encode()

    async def told(self) -> dict[str, float]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.api}/metrics") as answer:
            return read_metrics(await answer.text())


class Behind(Gateway):
    """The gateway as a client of a broker, which is where the devices connect: both on the same core."""

    def __init__(self, window: int, broker: Server, core: int | None = 0) -> None:
        super().__init__(window, core)
        self.broker = broker
        self._own = self.configuration
        self.promises = (
            f"the gateway's own, by `ok`; the broker's PUBACK ({broker.promises}) counts for nothing"
        )

    async def start(self) -> None:
        await self.broker.__aenter__()
        self.env["BOTGW_MQTT__BROKER__URL"] = self.broker.mqtt
        await super().start()
        await self._linked()
        self.mqtt = self.broker.mqtt
        self.configuration = f"# mosquitto.conf\n{self.broker.configuration}# the gateway\n{self._own}"

    async def stop(self) -> None:
        await self.broker.stop()
        await super().stop()

    async def _linked(self) -> None:
        """Until its link to the broker is up: a hello before that is heard by nobody. Raises TimeoutError."""
        async with asyncio.timeout(START_TIMEOUT), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{self.api}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.01)  # nothing tells but asking

    def cpu(self) -> float:
        return super().cpu() + self.broker.cpu()

    def rss(self) -> int:
        return super().rss() + self.broker.rss()


class Remote(Server):
    """A gateway that runs elsewhere: nothing is started, its CPU and memory are unknown (0).

    `names` are all clients that may come; their tokens are signed with `secret` where that is given, else made by the
    gateway's API, for which `key` needs the scope `admin`. With that key they are deleted at the end, too.
    """

    promises = "those of the deployment"

    def __init__(
        self, window: int, urls: list[str], prefix: str, names: list[str], secret: str, key: str
    ) -> None:
        super().__init__(window, None)
        self.prefix, self.names, self.secret, self.key = prefix, names, secret, key
        self.tokens: dict[str, str] = {}
        for url in urls:
            setattr(self, KINDS[url.partition("://")[0]], url.rstrip("/"))

    async def start(self) -> None:
        """It runs already: tokens are all that is needed. Raises aiohttp.ClientError."""
        if self.secret:
            self.tokens = {name: mint(name, self.secret) for name in self.names}
            return
        async with self._http() as http:
            for name in self.names:
                async with http.post(f"{self.api}/v1/clients/{name}/token", json={}) as answer:
                    answer.raise_for_status()
                    self.tokens[name] = (await answer.json())["token"]

    async def stop(self) -> None:
        await super().stop()
        if self.key and self.api:
            async with self._http() as http:
                for name in self.names:
                    async with http.delete(f"{self.api}/v1/clients/{name}"):
                        pass

    def _http(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.key}"})

    def token(self, client: str) -> str:
        return self.tokens[client]

    def key_of_api(self) -> str:
        return self.key

    def topic_to(self, client: str) -> bytes:
        return f"gw/v1/to/{client}".encode()

    def cpu(self) -> float:
        return 0.0

    def rss(self) -> int:
        return 0


def mint(client: str, secret: str) -> str:
    """A JWT of the client."""
    return jwt.encode({"sub": client, "exp": int(time.time()) + TOKEN_SECONDS}, secret, "HS256")


def read_metrics(text: str) -> dict[str, float]:
    """Prometheus text: each sample by its name and labels as they are written."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, _, value in lines}
