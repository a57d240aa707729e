"""The table of codes that a page of docs/providers shows, to be compared with the provider's own data."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "providers"
COLUMNS = ("code", "outcome", "blame", "pause", "learnt")

Row = tuple[str, str, str, str]

_range = re.compile(r"([0-9]+)[–-]([0-9]+)").fullmatch


def table_of(page: str) -> dict[str, Row]:
    """Code -> (outcome, blame, pause, learnt), out of the page's only table with these columns, in any order and
    with others between. A row may name several codes, or a range (`200–299`). Raises ValueError for a code named twice.
    """
    rows = [_cells(line) for line in (PAGES / f"{page}.md").read_text().splitlines() if line.startswith("|")]
    (start,) = (n for n, cells in enumerate(rows) if set(COLUMNS) <= set(cells))
    columns = [rows[start].index(name) for name in COLUMNS]
    found: dict[str, Row] = {}
    for cells in rows[start + 2 :]:
        if len(cells) != len(rows[start]):
            break  # the next table
        codes, outcome, blame, pause, learnt = (cells[n] for n in columns)
        for code in _codes(codes):
            if code in found:
                raise ValueError(f"{page}.md has `{code}` twice")
            found[code] = (outcome, blame, pause, learnt)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]


def _codes(cell: str) -> list[str]:
    codes: list[str] = []
    for part in cell.split(","):
        match = _range(part.strip())
        codes += map(str, range(int(match[1]), int(match[2]) + 1)) if match else [part.strip()]
    return codes
