"""Starts the ledger process beside a gateway, and asks it for its verdict."""

import asyncio
import json
import random
import socket
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp

from tests.support.process import GatewayProcess
from tests.transports.mqtt.broker.rig import Broker


def free_port() -> int:
    """A port that was free a moment ago; a gateway that is killed and started again keeps it. Not one of those that
    the kernel gives to clients: while the gateway is away one of them would take it.
    """
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, first_of_clients)
        with socket.socket() as s, suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port


def fixed_ports() -> dict[str, str]:
    return {
        "BOTGW_WEBSOCKET__LISTEN": f"127.0.0.1:{free_port()}",
        "BOTGW_HTTP__LISTEN": f"127.0.0.1:{free_port()}",
        "BOTGW_MQTT__LISTEN": f"127.0.0.1:{free_port()}",
    }


async def ready(http: aiohttp.ClientSession, wanted: int) -> None:
    """Wait until /readyz answers with this status."""
    async with asyncio.timeout(30):
        while True:
            async with http.get("/readyz") as answer:
                if answer.status == wanted:
                    return
            await asyncio.sleep(0.05)  # readiness is polled: that is its interface


class Mosquitto(Broker):
    """`async with Mosquitto(folder, …) as broker`: `kill()` and `start()` as often as wanted, on one port. `rules`: who
    may do what, as in its file for that; without any all may do all.
    """

    def __init__(self, folder: Path, *lines: str, rules: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if rules:
            (folder / "rules").write_text(rules)
            lines = (*lines, f"acl_file {folder / 'rules'}")
        super().__init__(folder, *lines)
        drawn, self.port = self.port, free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._conf.write_text(self._conf.read_text().replace(f"listener {drawn} ", f"listener {self.port} "))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class LedgerProcess:
    """`async with LedgerProcess(gateway) as ledger`: figures as they come, then `await ledger.verdict()`.

    `kind`: of the clients, those over WebSocket, devices over plain MQTT, or `roam` for such as change their way;
    `broker` for those behind the one at `url`.
    """

    def __init__(
        self,
        gateway: GatewayProcess,
        *args: str,
        kind: Literal["ws", "mqtt", "roam", "broker"] = "ws",
        url: str = "",
    ) -> None:
        self.gateway = gateway
        self.module = "ledger" if kind == "ws" else f"ledger_{kind}"
        self.args = ["--url", url or (gateway.ws if kind == "ws" else gateway.mqtt), *args]
        if kind == "roam":
            self.args += ["--ws", gateway.ws, "--api", gateway.api, "--key", gateway.key]
        self.process: asyncio.subprocess.Process | None = None
        self.figures: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        data = tomllib.loads(self.gateway.config_file.read_text())["data_dir"]
        secrets = tomllib.loads((Path(data) / "secrets.toml").read_text())
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"tests.faults.{self.module}",
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

    def say(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def pause(self) -> None:
        """Nothing new is published from now on."""
        self.say("pause")

    def stop(self) -> None:
        """The same, and the verdict is wanted."""
        self.say("stop")

    async def verdict(self, timeout: float = 90.0) -> dict[str, Any]:
        """Stop publishing, wait until everything has arrived, and hear what is wrong."""
        self.stop()
        return await self.until(lambda f: "verdict" in f, timeout)


async def kill_again(
    gateway: GatewayProcess, ledger: LedgerProcess, kills: int, acks: int, *, hopeless: bool
) -> None:
    """SIGKILL, `kills` times, each after `acks` new acknowledgements and with publishes outstanding.

    `hopeless`: with a planted bug the publishers may come to wait for what it has lost, and no more is acknowledged;
    whatever it has done, the ledger knows by then.
    """
    for _ in range(kills):
        goal = ledger.figures.get("acked", 0) + acks
        try:
            await ledger.until(
                lambda f, goal=goal: f["acked"] >= goal and f["outstanding"] > 0, 15.0 if hopeless else 60.0
            )
        except TimeoutError:
            if not hopeless:
                raise
            return
        await gateway.kill()
        await gateway.start()


def assert_clean(verdict: dict[str, Any]) -> None:
    """0 lost, 0 unmarked duplicates, 0 out of order, no hole, nothing refused that arrived; see the ledgers."""
    kinds = (
        "lost",
        "duplicates",
        "disorder",
        "holes",
        "false_acks",
        "ids",
        "twice",
        "forgotten",
        "answers",
        "epochs",
        "byes",
    )
    wrong = {k: verdict[k] for k in kinds if verdict.get(k)}
    assert not wrong, verdict
    assert verdict["unanswered"] == 0, verdict
