"""A real Mosquitto without rules; behind it a gateway that keeps PROTOCOL 4 for one client, as a test needs it."""

import asyncio
import json
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt

PATIENCE = 20.0
Frame = dict[str, Any]


def mosquitto() -> str:
    path = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert path is not None, "install Debian's mosquitto"
    return path


class Broker:
    """Listens on one port, however often it is started."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._conf = folder / "mosquitto.conf"
        self._conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            mosquitto(), "-v", "-c", str(self._conf), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )  # fmt: skip
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            async for line in self._process.stderr:
                if line.endswith(b" running\n"):
                    break
            else:
                raise AssertionError("mosquitto did not start")
        self._drain = asyncio.ensure_future(self._process.stderr.read())

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            await self._drain
            self._process = None


class Gateway:
    """`log`: what came, without pings; `lose` says which frames are lost on their way to the client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.log: list[Frame] = []
        self.lose: Callable[[Frame], bool] = lambda _: False
        self.nonce = ""
        self.welcome: Frame = {}
        self.heartbeat = 25.0
        self.next = 1
        self.unsettled: dict[int, Frame] = {}
        self.accepted: dict[str, str] = {}  # id by key
        self.order: list[Any] = []  # bodies, as they were accepted
        self._resumes = 0
        self._came = asyncio.Event()
        self._client: aiomqtt.Client
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self._client = aiomqtt.Client(
            "127.0.0.1", self._broker.port, protocol=aiomqtt.ProtocolVersion.V5, clean_start=True
        )
        await self._client.__aenter__()
        await self._client.subscribe("gw/v1/u/+/+", qos=1)
        self._task = asyncio.create_task(self._run())

    async def gone(self) -> None:
        """Until it has lost the broker."""
        assert self._task is not None
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait((self._task,))
        self._task = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            await self._client.__aexit__(None, None, None)

    async def _run(self) -> None:
        with suppress(aiomqtt.MqttError):
            async for message in self._client.messages:
                frame = json.loads(bytes(message.payload))  # type: ignore[arg-type]
                if frame["t"] != "ping":
                    self.log.append(frame)
                    self._came.set()
                await self._take(frame)

    async def seen(self, what: Callable[[Frame], bool], count: int = 1) -> Frame:
        """The `count`th frame like this, once it has come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [frame for frame in self.log if what(frame)]
                if len(found) >= count:
                    return found[count - 1]
                self._came.clear()
                await self._came.wait()

    async def _take(self, frame: Frame) -> None:
        if frame["t"] == "hello":
            await self._hello(frame)
        elif frame["c"] != self.nonce:
            if frame["t"] != "bye":
                await self.send({"t": "err", "code": "hello_first", "status": 409, "c": frame["c"]})
        elif frame["t"] == "ack":
            settled = [s for s in self.unsettled if s <= frame["seq"]] if "seq" in frame else frame["seqs"]
            for seq in settled:
                self.unsettled.pop(seq, None)
        elif frame["t"] == "pub":
            await self.send({"t": "ok", "m": [self._accept(m) for m in frame["m"]]})
        elif frame["t"] == "ping":
            await self.send({"t": "pong"})

    def _accept(self, m: Frame) -> Frame:
        dup = m["key"] in self.accepted
        if not dup:
            self.accepted[m["key"]] = f"I{len(self.accepted)}"
            self.order.append(m["body"])
        return {"ref": m["ref"], "id": self.accepted[m["key"]]} | ({"dup": True} if dup else {})

    async def _hello(self, frame: Frame) -> None:
        if frame["c"] != self.nonce:
            self.nonce = frame["c"]
            resumed = frame.get("resume") == f"r{self._resumes}" and self._resumes > 0
            self._resumes += 1
            self.welcome = {
                "t": "welcome", "client": "alice", "epoch": "e1", "resume": f"r{self._resumes}", "resumed": resumed,
                "next": self.next, "window": 64, "heartbeat": self.heartbeat, "c": self.nonce,
            }  # fmt: skip
            for seq in [s for s in self.unsettled if s <= frame.get("ack", 0)]:
                del self.unsettled[seq]
            await self.send(self.welcome)
            await self.redeliver(*sorted(self.unsettled))
        else:
            await self.send(self.welcome)

    async def send(self, frame: Frame) -> None:
        if not self.lose(frame):
            await self._client.publish("gw/v1/d/alice", json.dumps(frame))

    async def deliver(self, *, each_alone: bool = True, count: int = 1) -> None:
        """The next messages of the epoch."""
        entries = []
        for seq in range(self.next, self.next + count):
            self.unsettled[seq] = {"seq": seq, "id": f"M{seq}", "from": "bob", "at": 1, "body": seq}
            entries.append(self.unsettled[seq])
        self.next += count
        for some in [[e] for e in entries] if each_alone else [entries]:
            await self.send({"t": "msg", "m": some})

    async def redeliver(self, *seqs: int) -> None:
        for seq in seqs:
            entry = self.unsettled[seq]
            entry["redelivered"] = entry.get("redelivered", 0) + 1
            await self.send({"t": "msg", "m": [entry]})

    def forget_connections(self) -> None:
        """What a restart does."""
        self.nonce = ""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Broker]:
    broker = Broker(folder)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


@asynccontextmanager
async def gateway_behind(broker: Broker) -> AsyncIterator[Gateway]:
    gateway = Gateway(broker)
    await gateway.connect()
    try:
        yield gateway
    finally:
        await gateway.close()
