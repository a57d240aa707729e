"""idle: sessions that do nothing, as many as one server process has sockets for, held by several client processes."""

import asyncio
import resource
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self

import msgspec

from bench.clients.holder import End, Order
from bench.ledger import Ledger
from bench.legs import Leg
from bench.pipeline import Progress
from bench.scenarios.scenario import Parameters, Run, Scenario, Sweep, Target, verdict
from bench.server import Server

# sockets and files that a server needs for itself, and the gateway's default of `max_connections`
SPARE = 300
MAX_CONNECTIONS = 20_000
# bytes of a line from a holder, and to one: tokens for thousands
LINE = 1 << 26


class IdleParameters(Parameters, frozen=True, kw_only=True):
    """
    sessions    0: as many as the limit of open files of a process allows
    processes   that hold them
    seconds     for which they are left alone, to see what they cost
    """

    sessions: int = 0
    processes: int = 2
    seconds: float = 3.0
    window: int = 64
    mqtt: str = "3.1.1"


class IdleScenario(Scenario):
    name = "idle"
    about = "idle sessions: resident memory of each, and what they cost while nothing happens"
    Parameters = IdleParameters
    legs = ("websocket", "mqtt", "mosquitto")
    sweeps: ClassVar[dict[str, Sweep]] = {
        "full": {"sessions": (2000, 0)},
        "quick": {"sessions": (2000,), "seconds": (1.0,)},
        "smoke": {"sessions": (100,), "seconds": (0.1,)},
    }
    remote = True
    columns: ClassVar[dict[str, str]] = {
        "rss_per_session": "RSS bytes/session",
        "rss_mib": "RSS MiB",
        "connect_rate": "connects/s",
        "connect_cpu_us": "CPU µs/connect",
        "idle_busy": "busy while idle",
        "load_busy": "load busy",
    }
    targets = (Target(leg="websocket", figure="rss_per_session", bound=8192),)

    async def run(self, parameters: IdleParameters, run: Run) -> dict[str, Any]:
        p = parameters
        most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MAX_CONNECTIONS) - SPARE
        sessions = min(p.sessions or most, most)
        async with run.serve(p.window, None) as server:
            names = [f"{server.prefix}idle-{i}" for i in range(sessions)]
            before, cpu, start = server.rss(), server.cpu(), asyncio.get_running_loop().time()
            async with Holders(server, run.leg, p.mqtt, names, p.processes, run.progress) as holders:
                connecting, connect_cpu = asyncio.get_running_loop().time() - start, server.cpu() - cpu
                rss, cpu = server.rss(), server.cpu()
                await asyncio.sleep(p.seconds)
                idle_cpu = server.cpu() - cpu
                ends = await holders.end()
        ledger = Ledger(1)
        lost_by(ends, sessions, ledger)
        return {
            "sessions": sessions,
            "rss_mib": round(rss / (1 << 20), 1),
            "rss_per_session": round((rss - before) / sessions),
            "connect_rate": round(sessions / connecting),
            "connect_cpu_us": round(connect_cpu / sessions * 1e6, 1),
            "idle_busy": round(idle_cpu / max(p.seconds, 1e-9), 3),
            "load_busy": round(max(end.cpu for end in ends) / connecting, 2),
        } | verdict(ledger)


class Holder:
    """A process that holds sessions (bench/clients/holder.py)."""

    def __init__(self, server: Server, idle: str, mqtt5: bool, names: list[str]) -> None:
        url = server.ws if idle == "ws" else server.mqtt
        self.order = Order(idle, mqtt5, url, server.window, {name: server.token(name) for name in names})
        self.connected = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, moved: Callable[[], None]) -> None:
        """Returns when all are connected. Raises RuntimeError where it ends before."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.clients.holder",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(self.order) + b"\n")
        async for line in self.process.stdout:
            if line == b"ready\n":
                self.connected = len(self.order.tokens)
                moved()
                return
            self.connected = int(line)
            moved()
        raise RuntimeError("a process that holds sessions has ended")

    async def end(self) -> End:
        """What it had at its end. Raises RuntimeError where it has ended before."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError("a process that holds sessions has ended")
        return msgspec.json.decode(line, type=End)

    async def kill(self) -> None:
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


class Holders:
    """Idle sessions of these names, held by so many processes: `async with`, in which all are connected."""

    def __init__(
        self, server: Server, leg: Leg, mqtt: str, names: list[str], processes: int, progress: Progress
    ) -> None:
        mqtt5 = mqtt == "5" and leg.mqtt5
        self.sessions = len(names)
        self.progress = progress
        self.holders = [
            Holder(server, leg.idle, mqtt5, names[i::processes]) for i in range(min(processes, len(names)))
        ]

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.TaskGroup() as tasks:
                for holder in self.holders:
                    tasks.create_task(holder.start(self._moved))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for holder in self.holders:
            await holder.kill()

    async def end(self) -> list[End]:
        """What each had at its end. Raises RuntimeError where one has ended before."""
        return [await holder.end() for holder in self.holders]

    def _moved(self) -> None:
        self.progress(sum(holder.connected for holder in self.holders), self.sessions)


def lost_by(ends: list[End], sessions: int, ledger: Ledger) -> None:
    """Sessions that are not there any more are a fault."""
    if lost := sessions - sum(end.open for end in ends):
        ledger.faults["connection lost"] += lost
