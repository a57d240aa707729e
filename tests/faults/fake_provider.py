"""A provider as a process of its own, with a script of failures. It keeps a ledger of every attempt that reached it.

`POST /attempts/<channel>` is an attempt. `PUT /mode/<channel>/<mode>`: `mixed` (from the script, by message and count),
`dead` (5xx and resets) or `fine`. `GET /ledger`: all attempts so far. It prints its port and ends with its input.
"""

import asyncio
import json
import sys
import time
import zlib
from typing import Any

SLOW = 1.6  # s; more than the channels' timeout

# of 1000 attempts so many, at messages and counts that are always the same
SCRIPT = (
    (3, "429 wait"),
    (3, "429"),
    (50, "500"),
    (5, "slow"),
    (25, "reset unread"),
    (25, "reset"),
    (20, "half line"),
    (30, "half answer"),
    (30, "200 error"),
    (30, "400"),
)

ANSWERS = {
    "429 wait": b"HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n",
    "500": b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
    "400": b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n",
    "half line": b"HTTP/1.1 2",
    "half answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhal",
    "200 error": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok":false}',
    "fine": b"HTTP/1.1 204 X\r\n\r\n",
    "slow": b"HTTP/1.1 204 X\r\n\r\n",
}
BROKEN_OFF = {"half line", "half answer", "reset", "reset unread"}


class Provider:
    def __init__(self) -> None:
        self.modes: dict[str, str] = {}
        self.ledger: list[dict[str, Any]] = []
        self.counts: dict[tuple[str, str], int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read a request and answer it; whether the connection goes on."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        _, what, *rest = path.split("/")
        if method == "POST" and what == "attempts":
            said = self._attempt(rest[0], headers["webhook-id"])
            if said["said"] == "reset unread":
                writer.transport.abort()
                return False
            await reader.readexactly(int(headers["content-length"]))
            if said["said"] == "slow":
                await asyncio.sleep(SLOW)  # what it is asked to do: to be slow
            said["answered"] = time.monotonic()
            if said["said"] != "reset":
                writer.write(ANSWERS[said["said"]])
                await writer.drain()
            if said["said"] == "reset":
                writer.transport.abort()
            return said["said"] not in BROKEN_OFF
        if what == "mode":
            self.modes[rest[0]] = rest[1]
        body = json.dumps(self.ledger).encode() if what == "ledger" else b"{}"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    def _attempt(self, channel: str, id: str) -> dict[str, Any]:
        count = self.counts[channel, id] = self.counts.get((channel, id), 0) + 1
        said = self._say(
            self.modes.get(channel, "fine"), zlib.crc32(f"{id}.{channel}.{count}".encode()) % 1000
        )
        entry = {"channel": channel, "id": id, "at": time.monotonic(), "answered": None, "said": said}
        self.ledger.append(entry)
        return entry

    def _say(self, mode: str, draw: int) -> str:
        if mode == "dead":
            return ("500", "reset", "reset unread")[draw % 3]
        if mode == "mixed":
            for share, said in SCRIPT:
                draw -= share
                if draw < 0:
                    return said
        return "fine"


async def main() -> None:
    server = await asyncio.start_server(Provider().serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - that is how it says where it is
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
