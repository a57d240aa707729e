"""One broker for all tests of a process; each test has devices of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Runner
from tests.mosquitto.rig import Broker, running


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("mosquitto") / "broker") as started:
        yield started


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs `bot-gateway` in an empty folder, with nothing of the gateway in the environment."""
    for name in os.environ:
        if name.startswith(("BOTGW_", "BOT_GATEWAY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Runner(capsys, monkeypatch)
