"""What docs/mqtt.md shows happens: its commands, packets and programs run against a real gateway and stock clients."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from gateway.transports.mqtt import plain
from gateway.transports.mqtt.codec import Reason
from gateway.transports.mqtt.codes import CLOSES
from tests.docs import terminals, transcript
from tests.docs.device import MqttPlayer
from tests.docs.terminals import Terminals
from tests.support.process import GatewayProcess

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mqtt.md"
TEXT = PAGE.read_text()
PATIENCE = 30.0


class Block(NamedTuple):
    """A block of the page; `line` is that of its first line."""

    kind: str
    text: str
    line: int


class Chapter(NamedTuple):
    title: str
    text: str
    toml: str
    blocks: list[Block]


def chapters() -> Iterator[Chapter]:
    """The blocks of one chapter run in their order, on a gateway of their own."""
    line = 1
    for part in re.split(r"^(?=## )", TEXT, flags=re.MULTILINE):
        title = part.partition("\n")[0].lstrip("# ")
        blocks = [
            Block(found[1], found[2], line + part.count("\n", 0, found.start(2)))
            for found in re.finditer(r"^```(\w+)\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        ]
        toml = re.search(r"^<!-- gateway.toml\n(.*?)^-->", part, re.DOTALL | re.MULTILINE)
        yield Chapter(title, part, toml[1] if toml else "", blocks)
        line += part.count("\n")


CHAPTERS = {chapter.title: chapter for chapter in chapters()}
(TOKENS,) = (block.text for chapter in CHAPTERS.values() for block in chapter.blocks if block.kind == "sh")


def test_every_block_is_played() -> None:
    kinds = {block.kind for chapter in CHAPTERS.values() for block in chapter.blocks}
    assert kinds == {"sh", "console", "transcript", "js"}


@pytest.mark.parametrize("title", [c.title for c in CHAPTERS.values() if {b.kind for b in c.blocks} - {"js"}])
async def test_chapters(title: str, tmp_path: Path) -> None:
    chapter = CHAPTERS[title]
    async with (
        GatewayProcess(tmp_path / "gateway", chapter.toml) as gateway,
        aiohttp.ClientSession() as http,
    ):
        hook = transcript.Hook()
        player = MqttPlayer(gateway, hook, http)
        shells = Terminals(gateway, tmp_path)
        if any(block.kind == "console" for block in chapter.blocks):
            await shells.define(TOKENS)
        try:
            for block in chapter.blocks:
                await play(block, player, shells)
            await shells.close()
            await player.close()
        finally:
            await shells.stop()
            await player.stop()


async def play(block: Block, player: MqttPlayer, shells: Terminals) -> None:
    if block.kind == "console":
        for line in terminals.read(block.text, block.line):
            await shells.play(line)
    elif block.kind == "transcript":
        for step in transcript.read(block.text, block.line):
            await player.play(step)


async def test_the_browser(tmp_path: Path) -> None:
    """The program of the chapter on WebSocket, with MQTT.js under node."""
    (program,) = (block.text for block in CHAPTERS["Over WebSocket"].blocks if block.kind == "js")
    assert shutil.which("node") is not None, "the example needs node; `make test` installs it"
    async with GatewayProcess(tmp_path) as gateway, gateway.http() as http:
        env = {
            "URL": gateway.ws.removesuffix("/ws") + "/mqtt",
            "BOB": gateway.token("bob"),
            "NODE_PATH": str(ROOT / "tests" / "mqttjs" / "node_modules"),
        }
        async with http.post("/v1/messages", json={"to": "bob", "body": "a present"}) as answer:
            assert answer.status == 202
        node = await asyncio.create_subprocess_exec(
            "node", "-e", program, env=os.environ | env, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await node.communicate()
        finally:
            if node.returncode is None:
                node.kill()
                await node.communicate()
        assert (node.returncode, out.decode()) == (0, "api:backend a present\n"), err.decode()
        async with http.get("/v1/messages?to=alice") as answer:
            (sent,) = (await answer.json())["messages"]
        assert sent["from"] == "bob"


# -- what the tables list ----------------------------------------------------------------------------------------------


def cells(title: str, head: str, column: int = 0) -> list[str]:
    """A column of the table of a chapter that has this word at its head."""
    tables = re.findall(r"(?:^\|.*\n)+", CHAPTERS[title].text, re.MULTILINE)
    (found,) = (table for table in tables if table.splitlines()[0].split("|")[column + 1].strip() == head)
    return [row.split("|")[column + 1] for row in found.splitlines()[2:]]


def codes(of: list[str]) -> set[int]:
    return {int(code, 16) for cell in of for code in re.findall(r"0x[0-9a-f]{2}", cell)}


def names(of: list[str]) -> set[str]:
    return {name for cell in of for name in re.findall(r"`([\w.{}]+)`", cell)}


def test_the_user_properties() -> None:
    assert names(cells("Publishing", "user property")) == set(plain._FIELDS)
    down = names(cells("Receiving", "property"))
    assert down == plain._DOWN | {"priority", "type", "traceparent"}


@pytest.mark.parametrize(
    ("title", "head"),
    [
        ("Connecting", "MQTT 5"),
        ("Subscribing", "SUBACK"),
        ("Publishing", "PUBACK"),
        ("How a connection ends", "DISCONNECT"),
    ],
)
def test_the_codes_exist(title: str, head: str) -> None:
    found = codes(cells(title, head))
    assert found
    assert found <= set(Reason)


def test_every_end_that_the_gateway_chooses_is_told() -> None:
    told = codes(cells("How a connection ends", "DISCONNECT"))
    # a rate is met by refusing publishes; 0x00 is the device's own
    assert set(CLOSES.values()) - told == {Reason.NORMAL_DISCONNECTION, Reason.MESSAGE_RATE_TOO_HIGH}


def sent_codes(*functions: str) -> set[int]:
    """The reason codes that the endpoint's sources name as an argument of these functions."""
    found: set[int] = set()
    for path in (ROOT / "gateway" / "transports" / "mqtt").glob("*.py"):
        calls = re.findall(rf"\b(?:{'|'.join(functions)})\(\s*Reason\.(\w+)", path.read_text())
        found |= {Reason[name] for name in calls}
    return found


def test_every_refusal_of_a_connect_is_told() -> None:
    assert sent_codes("Refused", "in_connack") <= codes(cells("Connecting", "MQTT 5"))


def test_every_end_in_the_sources_is_told() -> None:
    ends = sent_codes(r"self\.end", r"conn\.end", r"older\.end")
    assert ends
    assert ends <= codes(cells("How a connection ends", "DISCONNECT"))


def test_the_topics_of_a_subscription_and_a_publish_are_told() -> None:
    """Each Refusal of a topic has its code in one of the tables."""
    told = codes(cells("Subscribing", "SUBACK")) | codes(cells("Publishing", "PUBACK"))
    retained: Any = Reason.RETAIN_NOT_SUPPORTED
    assert sent_codes("Refusal") - told == {retained}
