"""What README.md, docs/cli.md, docs/operations.md and docs/limits.md say is what the program does."""

import argparse
import re
from collections.abc import Iterator
from typing import get_args

import pytest
from msgspec.structs import FieldInfo, fields

from gateway.cli.exits import Exit
from gateway.cli.parser import build
from gateway.config import Config, Table, Webhook
from tests.cli.support import ROOT, text


def test_exit_codes() -> None:
    table = text("docs/cli.md").partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == set(Exit)


def commands(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, sub in action.choices.items():
            yield from commands(sub, f"{name} {word}".strip())
    if not inner:
        yield name, parser


def test_every_command_and_option_is_told() -> None:
    page = text("docs/cli.md")
    for name, parser in commands(build()):
        group, _, word = name.rpartition(" ")
        assert f"`{group or word}" in page, name
        assert word in page, name
        for action in parser._actions:
            option = action.option_strings[-1:] or ["--help"]
            assert f"`{option[0]}" in page or option == ["--help"], f"{name} {option[0]}"


def bounded() -> Iterator[tuple[str, FieldInfo]]:
    """Every number of the configuration, by its key."""
    yield from numbers(Config, "")
    yield from numbers(Webhook, "")


def numbers(table: type[Table], at: str) -> Iterator[tuple[str, FieldInfo]]:
    """Those of a table and of the tables in it."""
    for f in fields(table):
        kind = get_args(f.type)[0]
        if isinstance(kind, type) and issubclass(kind, Table):
            yield from numbers(kind, f"{at}{f.name}.")
        elif kind in {int, float}:
            yield f"{at}{f.name}", f


def spellings(value: float) -> set[str]:
    """How a page may write a number."""
    said = {f"{value:,g}" if value < 1e6 else f"{int(value):,}"}
    for unit, name in ((1024, "KiB"), (1024 * 1024, "MiB"), (3600, "h"), (86400, "days")):
        if value % unit == 0:
            said.add(f"{value / unit:g} {name}")
    return said


@pytest.mark.parametrize(
    ("key", "field"), list(bounded()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_limit_of_the_configuration_is_in_the_table(key: str, field: FieldInfo) -> None:
    if key == "auth.leeway":
        return
    rows = [row for row in text("docs/limits.md").splitlines() if f"| `{key}` |" in row]
    assert len(rows) >= 1
    for row in rows:
        number = row.split("|")[3]
        assert any(
            re.search(rf"(?<![\d,.]){re.escape(said)}(?![\d,.]*\d)", number)
            for said in spellings(field.default)
        )


def test_codes_exist() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    known = set(re.findall(r'(?:code|default_code)(?:: \w+)? ?= ?"(\w+)"', source))
    for page in ("docs/limits.md", "docs/operations.md"):
        said = set(re.findall(r"\b[45]\d\d `([a-z_]+)`", text(page)))
        assert said
        assert not said - known
