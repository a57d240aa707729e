"""Everything that docs/protocol.md shows happens: its transcripts and programs run against a real gateway."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import aiohttp
import pytest

from gateway import wire
from gateway.errors import Close
from gateway.model import Missed, Publish
from tests.docs.transcript import PATIENCE, Hook, Player, Step, read
from tests.support.hook import SECRET
from tests.support.process import GatewayProcess

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = PAGE.read_text()


class Chapter(NamedTuple):
    """`toml`: the configuration that the chapter's transcripts run with."""

    title: str
    text: str
    toml: str
    steps: list[Step]


def chapters() -> dict[str, Chapter]:
    """By title. The transcripts of one chapter run in their order, on a gateway of their own."""
    found = {}
    line = 1
    for part in re.split(r"^(?=## )", TEXT, flags=re.MULTILINE):
        title = part.partition("\n")[0].lstrip("# ").replace("`", "")
        steps: list[Step] = []
        for block in re.finditer(r"^```transcript\n(.*?)^```", part, re.DOTALL | re.MULTILINE):
            steps += read(block[1], line + part.count("\n", 0, block.start(1)))
        toml = re.search(r"^<!-- gateway.toml\n(.*?)^-->", part, re.DOTALL | re.MULTILINE)
        found[title] = Chapter(title, part, toml[1] if toml else "", steps)
        line += part.count("\n")
    return found


CHAPTERS = chapters()


@pytest.mark.parametrize("title", [title for title, chapter in CHAPTERS.items() if chapter.steps])
async def test_transcripts(title: str, tmp_path: Path) -> None:
    chapter = CHAPTERS[title]
    hook = Hook()
    await hook.start()
    try:
        toml = chapter.toml.replace("<hook>", hook.url).replace("<secret>", SECRET)
        async with GatewayProcess(tmp_path, toml) as gateway, aiohttp.ClientSession() as http:
            player = Player(gateway, hook, http)
            try:
                for step in chapter.steps:
                    await player.play(step)
                await player.close()
            finally:
                await player.stop()
    finally:
        await hook.stop()


# -- programs ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def program(
    title: str, gateway: GatewayProcess, client: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The Python program of a chapter, run as `client`."""
    block = re.search(r"^```python\n(.*?)^```", CHAPTERS[title].text, re.DOTALL | re.MULTILINE)
    assert block is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", block[1], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"URL": gateway.ws, "TOKEN": gateway.token(client)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_msgpack(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path) as gateway, program("msgpack", gateway, "bot-7") as process:
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b"bot-7\nok\n", b"")


async def test_a_whole_client(tmp_path: Path) -> None:
    """It gets its messages, resumes, acks, and stops where it is told to."""
    async with (
        GatewayProcess(tmp_path) as gateway,
        gateway.http() as http,
        program("A whole client", gateway, "bot-7") as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None

        async def post(path: str, body: Any) -> dict[str, Any]:
            async with http.post(path, json=body) as answer:
                assert answer.status in {200, 202}, await answer.text()
                result: dict[str, Any] = await answer.json()
            return result

        ids = []
        for n in range(3):
            ids.append((await post("/v1/messages", {"to": "bot-7", "body": {"n": n}}))["id"])
            assert await process.stdout.readline() == b'api:backend {"n": %d}\n' % n
            await post("/v1/clients/bot-7/disconnect", {})
        await until_delivered(http, ids)
        async with http.get("/v1/clients/bot-7") as answer:
            session = (await answer.json())["session"]
        assert session["next"] == len(ids) + 1  # one epoch, whatever was cut
        await post("/v1/clients/bot-7/disconnect", {"ban": 60})
        assert (await process.stderr.readline()).strip() in {b"closed with 4304", b"a new token is needed"}
        assert await process.wait() == 1


async def until_delivered(http: aiohttp.ClientSession, ids: list[str]) -> None:
    for id in ids:
        status = ""
        while status != "delivered":
            async with http.get(f"/v1/messages/{id}") as answer:
                status = (await answer.json())["status"]
            await asyncio.sleep(0.02)  # there is no event to await over a polling API


# -- what the tables list ----------------------------------------------------------------------------------------------


def rows(title: str, pattern: str) -> list[str]:
    """What `pattern` finds in the first cells of the table rows of a chapter."""
    cells = re.findall(r"^\| ([^|]+) \|", CHAPTERS[title].text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(pattern, cell)]


def test_the_members_of_a_message() -> None:
    assert set(rows("A message", r"`(\w+)`")) == set(Publish.__struct_fields__)


def test_the_members_of_hello() -> None:
    table = rows("hello and welcome", r"`(\w+)`")
    # pools are refused, and the nonce is for another transport
    assert set(wire.Hello.__struct_fields__) - {"pools", "c"} < set(table)


def test_the_frames_of_a_client() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(wire.Inbound)}
    linked = ", ".join(rows("Connecting", r"^\[(.+)\]\(#"))
    assert set(re.findall(r"`(\w+)`", linked)) == tags


def test_the_close_codes() -> None:
    told = {int(code) for code in rows("Errors and close codes", r"\b(\d{4})\b")}
    # two are the protocol core's; an ack timeout ends plain MQTT only
    assert told == set(Close) - {Close.ACK_TIMEOUT} | {1002, 1007}


def test_the_reasons_of_gaps() -> None:
    assert set(rows("Gaps and what was missed", r"^`(\w+)`$")) - {"why"} == set(Missed.__struct_fields__)
