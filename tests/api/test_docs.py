"""Every call stands in docs/api.md or docs/people.md; tests/docs runs their examples."""

import re
from pathlib import Path

import pytest

from gateway.api.routes import ROUTES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "api.md").read_text() + (DOCS / "people.md").read_text()


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_every_call_has_its_place(route: object) -> None:
    path = re.sub(r"\{\w+\}", '[^/ "?`]+', str(getattr(route, "path", "")))
    assert re.search(path + r"[\"?`]", TEXT)
