"""Every contract test runs over both stores, and over SQLite with small commits on the caller's thread as well."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.contracts.storekit import Kit, MemoryKit, SqliteKit


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What the stores log is kept from the output of hundreds of runs; a test that wants it captures it."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.fixture(params=["memory", "sqlite", "sqlite-here"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    made: Kit = (
        MemoryKit() if request.param == "memory" else SqliteKit(tmp_path, here=request.param == "sqlite-here")
    )
    yield made
    made.close()


@pytest.fixture(params=["writer", "here"])
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteKit]:
    made = SqliteKit(tmp_path, here=request.param == "here")
    yield made
    made.close()
