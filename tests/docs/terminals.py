"""The terminals in docs/mqtt.md: how a block ```` ```console ```` is read, and typed into real shells.

    alice$ mosquitto_sub …        typed in the terminal alice; a line that ends with a backslash goes on in the next
    alice| {"text": "hello"}      what it prints next, errors too; `…` stands for any text
    alice^C                       Ctrl-C

A command that waits for messages runs on until it ends by itself or by Ctrl-C; any other has ended before the next line
is played. MQTT clients find the gateway's port in their options files.
"""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.process import GatewayProcess

PATIENCE = 30.0
WAITING = ("mosquitto_sub", "mosquitto_rr")
_line = re.compile(r"([a-z]+)(\$ |\| |\^C)(.*)", re.DOTALL).fullmatch


class Line(NamedTuple):
    """One line of a block; `what` is `$`, `|` or `^C`."""

    number: int
    terminal: str
    what: str
    text: str


def read(block: str, first: int) -> list[Line]:
    """The lines of a block whose first line is `first`."""
    lines = []
    text = block.replace("\\\n", "\\\0")  # a command over several lines is one
    for number, line in enumerate(text.splitlines(), first):
        found = _line(line.replace("\0", "\n"))
        assert found is not None, f"line {number} is nothing that a terminal shows: {line}"
        lines.append(Line(number, found[1], found[2].strip(), found[3]))
    return lines


class Terminals:
    """The terminals of one chapter, all with the same variables."""

    def __init__(self, gateway: GatewayProcess, folder: Path) -> None:
        self.gateway = gateway
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "BOT_GATEWAY_CONFIG": str(gateway.config_file),
            "BOT_GATEWAY_API": gateway.api,
            "BOT_GATEWAY_URL": gateway.ws,
        }
        for program in ("mosquitto_sub", "mosquitto_pub", "mosquitto_rr"):
            (folder / program).write_text(f"-p {urlsplit(gateway.mqtt).port}\n")
        self._running: dict[str, Process] = {}

    async def define(self, script: str) -> None:
        """Run a script in every terminal: the variables that it sets."""
        shell = await asyncio.create_subprocess_exec(
            "bash", "-euc", f"set -a\n{script}\nenv -0", env=self.env, stdout=PIPE, stderr=PIPE
        )
        out, err = await shell.communicate()
        assert shell.returncode == 0, err.decode()
        self.env = dict(pair.split("=", 1) for pair in out.decode().rstrip("\0").split("\0"))

    async def play(self, line: Line) -> None:
        """Raises AssertionError, naming the line of the page."""
        try:
            async with asyncio.timeout(PATIENCE):
                if line.what == "$":
                    await self._type(line.terminal, line.text)
                elif line.what == "^C":
                    await self._interrupt(line.terminal)
                else:
                    await self._shows(line.terminal, line.text)
        except (AssertionError, TimeoutError, LookupError, ProcessLookupError) as error:
            raise AssertionError(
                f"line {line.number}: {line.text}\n  {type(error).__name__}: {error}"
            ) from error

    async def close(self) -> None:
        """All that was typed has ended, and has printed nothing more."""
        for name in list(self._running):
            await self._ended(name)

    async def stop(self) -> None:
        for process in self._running.values():
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
        self._running.clear()

    async def _type(self, name: str, command: str) -> None:
        await self._ended(name)
        self._running[name] = await asyncio.create_subprocess_exec(
            "bash", "-c", command, env=self.env, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        if not command.startswith(WAITING):
            await self._running[name].wait()

    async def _shows(self, name: str, told: str) -> None:
        stream = self._running[name].stdout
        assert stream is not None
        got = (await stream.readline()).decode().rstrip("\n")
        pattern = ".*".join(re.escape(part) for part in told.split("…"))
        assert re.fullmatch(pattern, got), f"it shows {got!r}"

    async def _interrupt(self, name: str) -> None:
        os.killpg(self._running[name].pid, signal.SIGINT)
        await self._ended(name)

    async def _ended(self, name: str) -> None:
        process = self._running.get(name)
        if process is None:
            return
        rest, _ = await process.communicate()
        del self._running[name]
        assert not rest, f"{name} also shows {rest.decode()!r}"
