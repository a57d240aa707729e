"""docs/errors.md lists every code that can be raised, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def raised() -> Iterator[str]:
    """The codes in the sources: what `code` and `default_code` are given, and tables named `…_CODES`."""
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code":
                yield from texts(node.value)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and holds_codes(t.id) for t in targets):
                    yield from texts(node.value)


def holds_codes(name: str) -> bool:
    return name in {"code", "default_code"} or name.endswith("_CODES")


def texts(value: ast.expr) -> Iterator[str]:
    """The constants that an expression can come to: itself, the arms of a choice, a table, what a table lacks."""
    match value:
        case ast.Constant(value=str(text)) if text:
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from texts(one)
            yield from texts(other)
        case ast.Dict(values=values):
            for one in values:
                yield from texts(one)
        case ast.Call(func=ast.Attribute(attr="get"), args=[_, other]):
            yield from texts(other)


def listed() -> list[str]:
    text = (ROOT / "docs" / "errors.md").read_text()
    return re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)


def test_every_code_is_listed() -> None:
    assert set(raised()) - set(listed()) == set()


def test_every_listed_code_can_be_raised() -> None:
    assert set(listed()) - set(raised()) == set()


def test_each_is_listed_once() -> None:
    assert len(set(listed())) == len(listed())
