"""Links lead somewhere, pages say nothing about the machine they were written on, and what configures, loads."""

import re
import tomllib
from pathlib import Path

import pytest

from gateway.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

_link = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)").findall
_code = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# homes and work trees; what a system has everywhere (/etc, /var, /usr) may stand in an example
_of_machine = re.compile(r"(?<![\w.}])/(?:home|Users|root|work|mnt|private)/\S*").findall


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    for target in _link(_code.sub("`code`", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        assert not path.startswith("/"), target
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_paths_of_a_machine(page: Path) -> None:
    text = page.read_text()
    assert not _of_machine(text)
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


def tables() -> list[tuple[str, str]]:
    """Every TOML block of every page, by its place."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        found += [(f"{name(page)} {i}", block) for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("block", [pytest.param(block, id=place) for place, block in tables()])
def test_configurations_load(block: str, tmp_path: Path) -> None:
    tomllib.loads(block)
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t" * 8)
    file = tmp_path / "gateway.toml"
    file.write_text(re.sub(r'"file:[^"]+"', f'"file:{secret}"', block))
    load(file, {})


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in _link(index.read_text())}
    assert not {name(p) for p in PAGES if p.parent != ROOT and p != index and p not in linked}
