"""A stock client as a process: what it tells, as events by their kind, each with the fields that all programs share.

connected     present (mosquitto does not tell)
refused       code: of the CONNACK; why
subscribed    codes, why           unsubscribed
message       topic, payload, qos, dup, retain, mid, user (a list of pairs), response, correlation, expiry, content
puback        ref, code, why
closed        code: of the DISCONNECT, None where there was none; reference
pong
"""

import asyncio
import json
from collections import defaultdict, deque
from contextlib import suppress
from itertools import chain
from typing import Any, Self

TIMEOUT = 30.0
PIPE = asyncio.subprocess.PIPE
AHEAD = 2


async def spawn(args: tuple[str, ...]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*args, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=1 << 22)


class Spares:
    """Programs that were started ahead: an interpreter takes longer to start than most tests take."""

    def __init__(self) -> None:
        self._started: defaultdict[tuple[str, ...], deque[asyncio.Task[asyncio.subprocess.Process]]]
        self._started = defaultdict(deque)

    async def take(self, args: tuple[str, ...]) -> asyncio.subprocess.Process:
        """One that was started so; others are started meanwhile."""
        spares = self._started[args]
        first = spares.popleft() if spares else asyncio.create_task(spawn(args))
        while len(spares) < AHEAD:
            spares.append(asyncio.create_task(spawn(args)))
        return await first

    async def close(self) -> None:
        """Kill those that are left."""
        for spare in chain(*self._started.values()):
            process = await spare
            with suppress(ProcessLookupError):
                process.kill()
            # which closes its pipes
            await process.communicate()
        self._started.clear()


SPARES = Spares()


class Process:
    """`async with` starts it and kills it. `say` and `hear` are what programs differ in."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.log: list[str] = []  # every line
        self.errors = ""
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._events: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._over = False  # it tells nothing more
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        process = self._process = await self.start()
        self._readers = [
            asyncio.create_task(self._read_events(process)),
            asyncio.create_task(self._read_errors(process)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> asyncio.subprocess.Process:
        return await spawn(self.args)

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode().rstrip("\n")
            self.log.append(text)
            event = self.hear(text)
            if event is not None:
                self._events[event["e"]].append(event)
                async with self._news:
                    self._news.notify_all()
        self._over = True
        async with self._news:
            self._news.notify_all()

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.errors += line.decode()

    def hear(self, line: str) -> dict[str, Any] | None:
        """The event that a line of the program tells, if any."""
        event: dict[str, Any] = json.loads(line)
        return event

    async def event(self, kind: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """The next one of this kind."""
        events = self._events[kind]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(lambda: events or self._over)
        assert events, f"no {kind!r}: {self.told()}"
        return events.popleft()

    def waiting(self, kind: str) -> int:
        """How many of this kind were told and not taken."""
        return len(self._events[kind])

    def told(self) -> str:
        """For the reader of a failure."""
        return "\n".join([f"{self.args[0]} ...", *self.log[-40:], self.errors])

    def say(self, command: dict[str, Any]) -> None:
        """A command to the program."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def ended(self, timeout: float = TIMEOUT) -> int:
        """Its exit status, when it has ended by itself and all it told was read."""
        assert self._process is not None
        try:
            async with asyncio.timeout(timeout):
                status = await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it does not end: {self.told()}") from None
        await self._finish()
        return status

    def signal(self, number: int) -> None:
        """Send it one."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
        await self._finish()

    async def _finish(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        await asyncio.gather(*self._readers)
        assert process.stdin is not None
        process.stdin.close()
