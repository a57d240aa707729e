"""The examples of docs/api.md and docs/people.md run in their order against a real gateway, and answer as shown."""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.hook import SECRET
from tests.support.process import GatewayProcess

DOCS = Path(__file__).parents[2] / "docs"

# the channel that the page shows; nothing is sent there
CONFIG = f"""
[channels.hook]
kind = "webhook"
url = "https://hook.invalid/"
secret = "{SECRET}"
"""

# heading and statuses of every example, in the order of the page
API = [
    ("One message", [202]),
    ("Safe to repeat", [202, 202]),
    ("An array", [202]),
    ("A stream of lines", [200]),
    ("One message", [202, 200]),
    ("Many", [200]),
    ("As it happens", []),  # it has no end of its own
    ("Cancel", [200]),
    ("Which way would it go?", [200]),
    ("A token", [200, 202]),
    ("Its record", [200]),
    ("How it is", [200]),
    ("How it is", [200]),
    ("Disconnect, ban, forget", [200, 204]),
    ("Dead letters", [200]),
    ("Dead letters", [404]),
    ("Dead letters", [202]),
    ("Dead letters", [200]),
    ("Operations", [200, 200, 200, 200]),
    ("Channels", [200]),
    ("Channels", [200]),
]
PEOPLE = [
    ("The people behind clients", [200]),
    ("Suppressions", [200]),
    ("Suppressions", [200, 200, 200, 200, 200]),
    ("Who did what", [200]),
    ("Templates", [200]),
    ("Templates", [202]),
    ("Templates", [200]),
    ("Templates", [200, 200]),
    ("Templates", [204]),
]
PAGES = pytest.mark.parametrize(("page", "wanted"), [("api.md", API), ("people.md", PEOPLE)])

# stands for curl: keeps the status of each call, and its body unless the example throws it away
CURL = """#!/bin/bash
set -o pipefail
kept="$OUT/$EXAMPLE.body"
[ /dev/stdout -ef /dev/null ] && kept=/dev/null
"$CURL" -D "$OUT/headers" "$@" | tee -a "$kept"
code=$?
sed -n 's/^HTTP[^ ]* \\([0-9]*\\).*/\\1/p' "$OUT/headers" | tail -n 1 >> "$OUT/$EXAMPLE.status"
exit $code
"""

_id = re.compile(r"[0-9A-HJKMNP-TV-Z]{13}").fullmatch
_block = re.compile(r"^```(sh|json)\n(.*?)^```|^#{1,3} ([^\n]+)$", re.DOTALL | re.MULTILINE).finditer


Wanted = tuple[str, list[int]]


class Example(NamedTuple):
    """Commands, and what the page shows as their output (no values where it shows none, or no JSON)."""

    heading: str
    script: str
    shown: list[Any]


def values(text: str) -> list[Any]:
    """The JSON values that stand behind each other in a text."""
    decoder = json.JSONDecoder()
    found = []
    text = text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    heading = ""
    for block in _block((DOCS / page).read_text()):
        kind, content, title = block.groups()
        if title:
            heading = title
        elif kind == "sh":
            found.append(Example(heading, content, []))
        elif found and heading == found[-1].heading and not found[-1].shown:
            found[-1].shown.extend(values(content))
    return found


def compare(shown: Any, got: Any, at: str) -> None:
    """Raises AssertionError unless `got` could stand where the page has `shown`.

    The page may leave members out, and `…` stands for text. Ids, tokens, times and counts may be others.
    """
    if isinstance(shown, dict):
        assert isinstance(got, dict), f"{at}: {got!r}"
        keys = shown.keys() - {"…"}
        assert keys <= got.keys(), f"{at} lacks {sorted(keys - got.keys())}"
        for key in keys:
            compare(shown[key], got[key], f"{at}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list), f"{at}: {got!r}"
        assert len(shown) == len(got), f"{at}: {got!r}"
        for i, one in enumerate(shown):
            compare(one, got[i], f"{at}[{i}]")
    elif isinstance(shown, str):
        assert isinstance(got, str), f"{at}: {got!r}"
        pattern = ".*".join(re.escape(part) for part in shown.split("…"))
        assert (_id(shown) and _id(got)) or re.fullmatch(pattern, got, re.DOTALL), f"{at}: {got!r}"
    elif isinstance(shown, bool) or shown is None:
        assert got is shown, f"{at}: {got!r}"
    else:
        assert isinstance(got, int | float), f"{at}: {got!r}"


@PAGES
def test_every_example_is_expected(page: str, wanted: list[Wanted]) -> None:
    assert [example.heading for example in examples(page)] == [heading for heading, _ in wanted]


@PAGES
async def test_examples(tmp_path: Path, page: str, wanted: list[Wanted]) -> None:
    told = examples(page)
    curl = shutil.which("curl")
    assert curl is not None, "the examples need curl; `make test` installs it"
    tools, out = tmp_path / "bin", tmp_path / "out"
    tools.mkdir()
    out.mkdir()
    (tools / "curl").write_text(CURL)
    (tools / "curl").chmod(0o755)
    script = "set -euo pipefail\n"
    for i, example in enumerate(told):
        script += f"export EXAMPLE={i}\n{example.script}\n"
    async with GatewayProcess(tmp_path / "gateway", CONFIG) as gateway:
        environment = {
            "URL": gateway.api,
            "KEY": gateway.key,
            "OUT": str(out),
            "CURL": curl,
            "PATH": f"{tools}:{os.environ['PATH']}",
        }
        bash = await asyncio.create_subprocess_exec(
            "bash", "-c", script, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )  # fmt: skip
        _, err = await bash.communicate()
    assert bash.returncode == 0, err.decode()
    for i, (example, (heading, expected)) in enumerate(zip(told, wanted, strict=True)):
        kept = out / f"{i}.status"
        statuses = [int(line) for line in kept.read_text().split()] if kept.exists() else []
        assert statuses == expected, f"{heading}: {statuses}"
        if example.shown:
            # what an example keeps in a variable comes before what it shows
            answers = values((out / f"{i}.body").read_text())
            compare(example.shown, answers[-len(example.shown) :], heading)
