"""What `serve` says once it listens. The gateway itself is in test_real.py."""

import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.app import Ready
from gateway.bootstrap import prepare
from gateway.cli.serve import commands, program
from gateway.cli.where import Where
from gateway.config import Config, load
from gateway.errors import ConfigError
from tests.cli.support import Runner

Run = Callable[[Path | None, Mapping[str, str], Callable[[Ready], None]], int]


def ready(ws: str = "ws://127.0.0.1:8080/ws", api: str = "http://127.0.0.1:8081") -> Ready:
    config, bootstrap = prepare(load(None, {}))
    return Ready(ws, api, "mqtt://127.0.0.1:1883", config, bootstrap)


def pretend(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr("gateway.app.run", run)


async def test_where_it_listens_and_what_to_try(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path | None, env: Mapping[str, str], on_ready: Callable[[Ready], None]) -> int:
        on_ready(ready())
        return 0

    pretend(monkeypatch, run)
    result = await cli("serve")
    assert (result.code, result.err) == (0, "")
    lines = [line.strip() for line in result.out.strip().splitlines()]
    assert "WebSocket  ws://127.0.0.1:8080/ws" in lines
    assert "MQTT       mqtt://127.0.0.1:1883" in lines
    assert "HTTP API   http://127.0.0.1:8081" in lines
    assert "data       data, made now with its secrets (secrets.toml)" in lines
    assert lines[-3:] == [
        ".venv/bin/bot-gateway listen alice",
        """.venv/bin/bot-gateway send alice '{"text": "hello"}'""",
        ".venv/bin/bot-gateway status last",
    ]


async def test_as_json(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path | None, env: Mapping[str, str], on_ready: Callable[[Ready], None]) -> int:
        on_ready(ready())
        return 1

    pretend(monkeypatch, run)
    result = await cli("serve", "--json")
    assert result.code == 1
    (told,) = result.json
    assert told["api"] == "http://127.0.0.1:8081"
    assert told["mqtt"] == "mqtt://127.0.0.1:1883"
    assert told["data_dir"] == "data"


async def test_no_secret_is_printed(cli: Runner, monkeypatch: pytest.MonkeyPatch, started: Config) -> None:
    monkeypatch.setenv("BOTGW_AUTH__JWT_SECRET", "a-secret-of-at-least-thirty-two-bytes")

    def run(path: Path | None, env: Mapping[str, str], on_ready: Callable[[Ready], None]) -> int:
        on_ready(ready())
        return 0

    pretend(monkeypatch, run)
    out = (await cli("serve")).out
    assert "BOTGW_AUTH__JWT_SECRET" in out
    for secret in ("a-secret-of", started.auth.jwt_secret, started.auth.api_keys[0].secret):
        assert secret not in out


async def test_what_keeps_it_from_starting(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path | None, env: Mapping[str, str], on_ready: Callable[[Ready], None]) -> int:
        raise ConfigError("http.listen: Address already in use", field="http.listen")

    pretend(monkeypatch, run)
    result = await cli("serve")
    assert (result.code, result.error) == (2, "bot-gateway: http.listen: Address already in use")


def options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return dict(pairwise(words))


def test_commands_carry_what_they_could_not_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["bot-gateway"])
    monkeypatch.setenv("BOTGW_DATA_DIR", "a folder")
    listen, send, status = commands(ready("ws://127.0.0.1:1/ws", "http://127.0.0.1:2"), None)
    for command in (listen, send, status):
        assert command.startswith("BOTGW_DATA_DIR='a folder' bot-gateway ")
    assert options(listen)["--url"] == "ws://127.0.0.1:1/ws"
    assert options(send)["--api"] == options(status)["--api"] == "http://127.0.0.1:2"


def test_commands_name_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["bot-gateway"])
    file = tmp_path / "my gateway.toml"
    file.write_text('http.listen = "127.0.0.1:7001"\n')
    listen, send, _ = commands(ready(api="http://127.0.0.1:7001"), file)
    assert options(listen)["--config"] == options(send)["--config"] == str(file)
    assert "--api" not in send
    assert "--url" not in listen
    assert Where(Namespace(config=file, api=None), {}).api().url == "http://127.0.0.1:7001"


def test_the_program_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["a folder/bot-gateway"])
    assert program() == "'a folder/bot-gateway'"
    monkeypatch.setattr("sys.argv", ["/x/gateway/__main__.py"])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    assert program() == "/usr/bin/python3 -m gateway"
