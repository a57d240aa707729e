"""A WebSocket client that does only what it is told: frames in, frames out, the TCP connection dropped at will."""

import asyncio
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

ENCODE = msgspec.json.encode
DECODE = msgspec.json.decode


class RawClient:
    """One client over its connections. Dedupes on id as PROTOCOL 3 asks; `sights` has every entry as it came."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.conn: ClientConnection | None = None
        self.welcome: dict[str, Any] = {}
        self.resume: str | None = None
        self.epoch: str | None = None
        self.top = 0  # highest seq seen in this epoch
        self.acked = 0
        self.sights: list[dict[str, Any]] = []
        self.gaps: list[dict[str, Any]] = []
        self.processed: dict[str, dict[str, Any]] = {}
        self.other: list[dict[str, Any]] = []

    async def connect(
        self, url: str, token: str, *, window: int = 64, resume: bool = True, ack: bool = True
    ) -> dict[str, Any]:
        """Connect, say hello, return the welcome."""
        self.conn = await connect(
            url, subprotocols=["botgw.v1.json"], compression=None, max_size=None, ping_interval=None
        )  # type: ignore[list-item]
        hello: dict[str, Any] = {"t": "hello", "token": token, "window": window}
        if resume and self.resume is not None:
            hello |= {"resume": self.resume, "epoch": self.epoch}
            if ack:
                hello["ack"] = self.acked
        await self.send(hello)
        first = await self.frame()
        if first["t"] != "welcome":
            raise AssertionError(f"no welcome: {first}")
        self.welcome = first
        self.resume = first["resume"]
        if first["epoch"] != self.epoch:
            self.epoch, self.top, self.acked = first["epoch"], 0, 0
        return first

    async def send(self, frame: dict[str, Any]) -> None:
        assert self.conn is not None
        await self.conn.send(ENCODE(frame).decode())

    async def frame(self, timeout: float = 20.0) -> dict[str, Any]:
        """The next frame, whatever it is."""
        assert self.conn is not None
        async with asyncio.timeout(timeout):
            data = await self.conn.recv()
        frame: dict[str, Any] = DECODE(data)
        return frame

    async def step(self, timeout: float = 20.0) -> list[dict[str, Any]]:
        """Take one frame; returns the messages in it that were not processed before."""
        frame = await self.frame(timeout)
        fresh: list[dict[str, Any]] = []
        if frame["t"] == "msg":
            for m in frame["m"]:
                self._see(m["seq"])
                self.sights.append(m)
                if m["id"] in self.processed:
                    assert m.get("redelivered", 0) >= 1, f"an unmarked duplicate: {m}"
                else:
                    self.processed[m["id"]] = m
                    fresh.append(m)
        elif frame["t"] == "gap":
            for m in frame["m"]:
                self._see(m["seq"])
                self.gaps.append(m)
        elif frame["t"] == "status":
            for m in frame["m"]:
                self._see(m["seq"])
            self.other.append(frame)
        else:
            self.other.append(frame)
        return fresh

    def _see(self, seq: int) -> None:
        assert seq <= self.top + 1, f"seq {seq} after {self.top}: a hole"
        self.top = max(self.top, seq)

    async def ack(self, seq: int | None = None) -> None:
        """Acknowledge everything up to `seq` (all that was seen where None)."""
        self.acked = self.top if seq is None else seq
        await self.send({"t": "ack", "seq": self.acked})

    async def drop(self) -> None:
        """The TCP connection goes without a close frame."""
        if self.conn is not None:
            self.conn.transport.abort()
            await self.conn.wait_closed()
            self.conn = None
