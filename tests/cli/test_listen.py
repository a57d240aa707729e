"""`listen` against a WebSocket that says what a gateway would."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from gateway.config import Config
from tests.cli.support import ID, OTHER, Runner


def entry(seq: int, body: Any, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "id": ID, "from": "api:backend", "at": 1_700_000_000_000, "body": body} | more


class Wire:
    """Welcomes whoever says hello, sends `frames`, keeps what comes."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.missed: dict[str, int] = {}
        self.close: tuple[int, str] | None = None
        self.hellos: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        self.url = ""

    async def talk(self, conn: ServerConnection) -> None:
        self.hellos.append(json.loads(await conn.recv()))
        if self.close is not None:
            await conn.close(*self.close)
            return
        welcome = {
            "t": "welcome",
            "client": "alice",
            "epoch": "e1",
            "resume": "r1",
            "resumed": False,
            "why": "new",
        }
        welcome |= {"next": 1, "window": 64, "heartbeat": 25, "max_payload": 65536, "missed": self.missed}
        for frame in [welcome, *self.frames]:
            await conn.send(json.dumps(frame))
        async for data in conn:
            self.heard.append(json.loads(data))

    @property
    def acked(self) -> int:
        return max((frame.get("seq", 0) for frame in self.heard if frame["t"] == "ack"), default=0)


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    double = Wire()
    async with serve(double.talk, "127.0.0.1", 0, subprotocols=[Subprotocol("botgw.v1.json")]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        double.url = f"ws://127.0.0.1:{port}/ws"
        monkeypatch.setenv("BOT_GATEWAY_URL", double.url)
        yield double


async def test_messages_are_printed_and_acked(cli: Runner, wire: Wire, started: Config) -> None:
    first = entry(1, {"text": "hi\u001b[2J"})
    second = entry(2, "late", id=OTHER, priority="high", type="greeting", redelivered=2, via="hook")
    wire.frames = [{"t": "msg", "m": [first, second]}]
    result = await cli("listen", "alice", "--once", "2")
    assert result.code == 0
    one, two = result.out.splitlines()
    assert one.endswith(f'{ID}  api:backend  {{"text":"hi\\u001b[2J"}}')
    assert two.endswith(f'{OTHER}  api:backend  [high, type greeting, redelivered 2, late, via hook]  "late"')
    assert result.err == "listening as alice, session begun: new\n"
    assert wire.acked == 2
    assert wire.heard[-1]["t"] == "bye"
    claims = jwt.decode(wire.hellos[0]["token"], started.auth.jwt_secret, algorithms=["HS256"])
    assert claims["sub"] == "alice"


async def test_json_lines_are_the_entries_of_the_frames(cli: Runner, wire: Wire, started: Config) -> None:
    wire.missed = {"expired": 2}
    given = entry(1, None, trace="t", meta={"a": "b"}, priority="normal")
    wire.frames = [
        {"t": "gap", "m": [{"seq": 2, "id": OTHER, "why": "superseded", "via": "sms"}]},
        {"t": "msg", "m": [given]},
    ]
    result = await cli("listen", "alice", "--once", "1", "--json")
    assert result.err == ""
    lines = {line["t"]: line for line in result.json}
    assert lines["msg"] == {"t": "msg", **given}
    assert lines["gap"] == {"t": "gap", "seq": 2, "id": OTHER, "why": "superseded", "via": "sms"}
    assert lines["welcome"] == {"t": "welcome", "resumed": False, "why": "new", "missed": {"expired": 2}}


async def test_people_are_told_of_gaps_and_what_was_missed(cli: Runner, wire: Wire, started: Config) -> None:
    wire.missed = {"expired": 2, "dead": 1}
    wire.frames = [
        {"t": "gap", "m": [{"seq": 1, "id": OTHER, "why": "expired"}]},
        {"t": "msg", "m": [entry(2, 1)]},
    ]
    err = (await cli("listen", "alice", "--once", "1")).err
    assert "missed while away: 2 expired, 1 dead" in err
    assert f"gap at seq 1: {OTHER} expired\n" in err


async def test_no_ack(cli: Runner, wire: Wire, started: Config) -> None:
    wire.frames = [{"t": "msg", "m": [entry(1, 1)]}]
    assert (await cli("listen", "alice", "--once", "1", "--no-ack")).code == 0
    assert [frame["t"] for frame in wire.heard] == ["bye"]


async def test_the_session_is_carried_over_in_a_file(cli: Runner, wire: Wire, started: Config) -> None:
    wire.frames = [{"t": "msg", "m": [entry(1, 1)]}]
    await cli("listen", "alice", "--once", "1", "--state", "alice.state")
    assert os.stat("alice.state").st_mode & 0o077 == 0  # noqa: PTH116
    wire.frames = [{"t": "msg", "m": [entry(1, 1), entry(2, 2, id=OTHER)]}]
    result = await cli("listen", "alice", "--once", "1", "--state", "alice.state")
    assert (wire.hellos[1]["resume"], wire.hellos[1]["epoch"]) == ("r1", "e1")
    assert OTHER in result.out


async def test_time_is_over(cli: Runner, wire: Wire, started: Config) -> None:
    result = await cli("listen", "alice", "--once", "1", "--timeout", "0.3")
    assert result.code == 5
    assert "bot-gateway: --timeout: 0.3 s are over" in result.err


async def test_a_token_that_is_given_needs_no_secret(cli: Runner, wire: Wire) -> None:
    wire.frames = [{"t": "msg", "m": [entry(1, 1)]}]
    assert (await cli("listen", "alice", "--once", "1", "--token", "a.b.c")).code == 0
    assert wire.hellos[0]["token"] == "a.b.c"
    result = await cli("listen", "alice", "--once", "1")
    assert (result.code, len(wire.hellos)) == (2, 1)
    assert "auth.jwt_secret" in result.error


@pytest.mark.parametrize(
    ("code", "reason"),
    [(4300, "not authorised"), (4302, "taken over"), (4304, "banned"), (4200, "token expired")],
)
async def test_the_gateway_says_stop(cli: Runner, wire: Wire, code: int, reason: str) -> None:
    wire.close = (code, reason)
    result = await cli("listen", "alice", "--token", "a.b.c")
    assert result.code == 1
    assert f"the gateway says stop: {code}" in result.err


async def test_nobody_there(
    cli: Runner, started: Config, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.listen.CONNECT_TIMEOUT", 0.2)
    result = await cli("listen", "alice", "--url", f"ws://127.0.0.1:{unused_tcp_port}")
    assert result.code == 4
    assert "no welcome" in result.error


async def test_somebody_else_there(cli: Runner, started: Config) -> None:
    async def no_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(no_websocket, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await cli("listen", "alice", "--url", f"ws://127.0.0.1:{port}")
    assert result.code == 4


async def test_a_state_file_that_is_none(cli: Runner, wire: Wire, started: Config, tmp_path: Path) -> None:
    (tmp_path / "alice.state").write_text("something else")
    result = await cli("listen", "alice", "--state", "alice.state")
    assert result.code == 2
    assert result.error.startswith("bot-gateway: --state: ")
