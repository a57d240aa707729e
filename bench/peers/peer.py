"""What all peers share: how they are started, and ended with all their processes."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import ClassVar

from bench.server import Server

ATTEMPTS = 3
# another process took the port before the server did
TAKEN = ("ddress already in use", "eaddrinuse", "dist_port_already_used")
# in the environment of a server and of all that it starts: daemons leave their parent and their session, not this
MARK = "BOTGW_BENCH_SERVER"
KILL_TIMEOUT = 10.0
KILL_PAUSE = 0.01


def program(name: str) -> str:
    """Its path; empty where it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Peer(Server):
    """A server of others.

    name    of its leg
    mqtt5   whether it speaks MQTT 5
    """

    name: ClassVar[str]
    mqtt5: ClassVar[bool] = False

    @classmethod
    def available(cls) -> str:
        """Why it cannot be driven here; empty where it can be."""
        raise NotImplementedError

    @classmethod
    def version(cls) -> str:
        """Such as `2.0.11`; empty where it is not installed."""
        raise NotImplementedError

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Write the configuration, with ports that are free now; the command and what its environment has besides."""
        raise NotImplementedError

    def listens(self, line: str) -> bool:
        """Whether this line of its standard error says that it is ready; keeps its URL then."""
        raise NotImplementedError

    async def start(self) -> None:
        missing = self.available()
        if missing:
            raise RuntimeError(f"{self.name}: {missing}")
        said = ""
        for _ in range(ATTEMPTS):
            command, env = self.prepare()
            stderr = await self.spawn(*command, env=env)
            said = ""
            async for line in stderr:
                said += line.decode(errors="replace")
                if self.listens(line.decode(errors="replace")):
                    self.drain(stderr)
                    return
            await self.kill()
            if not any(word in said for word in TAKEN):
                break
        raise RuntimeError(f"{self.name} did not start: {said}")

    async def spawn(self, *command: str, env: dict[str, str] | None = None) -> asyncio.StreamReader:
        """It and all that it starts carry its mark."""
        return await super().spawn(*command, env=(env or {}) | {MARK: self.folder.name})

    async def kill(self, how: int = signal.SIGKILL) -> None:
        """End all its processes; those that have left their parent are known by their environment."""
        async with asyncio.timeout(KILL_TIMEOUT):
            while left := self.processes():
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, how)
                await asyncio.sleep(KILL_PAUSE)
        await super().kill(how)

    def processes(self) -> list[int]:
        """The ids of all its processes that run."""
        mark = f"{MARK}={self.folder.name}".encode()
        return [int(found.name) for found in Path("/proc").glob("[0-9]*") if mark in _environment(found)]

    def token(self, client: str) -> str:
        """It looks at none, but gets as many bytes as the gateway does."""
        return client.ljust(160, ".")

    def topic_to(self, client: str) -> bytes:
        return f"gw/v1/m/{client}".encode()


def _environment(process: Path) -> list[bytes]:
    """Empty where it has ended, or is another user's."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
