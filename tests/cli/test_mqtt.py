"""`mqtt`: what is refused before a broker is asked, and a broker that cannot be reached. The rest: tests/mosquitto."""

import asyncio
import socket
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from gateway.cli import dynsec
from gateway.cli.exits import Exit, Failure
from gateway.cli.mqtt import Broker
from tests.cli.support import Runner, certificate

PASSWORD = "the-password-of-the-admin"


def broker(**options: object) -> Broker:
    nothing = {
        "config": None,
        "broker": None,
        "ca_file": None,
        "admin_user": None,
        "admin_password_file": None,
    }
    return Broker(Namespace(**nothing | options))


def refused(**options: object) -> str:
    with pytest.raises(Failure) as caught:
        broker(**options).accounts()
    assert caught.value.exit_code == Exit.USAGE
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """What mosquitto/start leaves in the data folder."""
    folder = tmp_path / "data/mosquitto"
    folder.mkdir(parents=True)
    cert, _ = certificate(tmp_path, "localhost")
    cert.rename(folder / "ca.crt")
    (folder / "admin.password").write_text(f"{PASSWORD}\n")
    return folder


def test_a_broker_started_here_needs_no_options(started: Path) -> None:
    found = broker()
    assert found.url == "mqtts://localhost:8883"
    assert found.local
    assert (found.user, found.password, found.ca_file) == ("admin", PASSWORD, "data/mosquitto/ca.crt")
    assert found.tls is not None


def test_its_password_goes_to_this_machine_only(started: Path) -> None:
    assert broker(broker="mqtt://127.0.0.1:1884").password == PASSWORD
    assert broker(broker="mqtts://[::1]").password == PASSWORD
    assert "--admin-password-file" in refused(broker="mqtts://broker.example")


def test_the_environment(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (started / "other").write_text("another")
    monkeypatch.setenv("BOT_GATEWAY_BROKER", "mqtts://broker.example:18883")
    monkeypatch.setenv("BOT_GATEWAY_CA_FILE", str(started / "ca.crt"))
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_USER", "root")
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_PASSWORD_FILE", str(started / "other"))
    found = broker()
    assert (found.host, found.port, found.user, found.password) == (
        "broker.example",
        18883,
        "root",
        "another",
    )
    monkeypatch.setenv("BOT_GATEWAY_ADMIN_PASSWORD", "from the environment")
    assert broker().password == "from the environment"
    assert broker(admin_password_file=str(started / "admin.password")).password == PASSWORD


def test_the_configured_broker(started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.toml"
    ca = tmp_path / "ca.pem"
    (started / "ca.crt").rename(ca)
    file.write_text(
        f'[mqtt.broker]\nurl = "mqtts://gateway:{PASSWORD}@localhost:18883"\nca_file = "{ca}"\n',
        encoding="utf-8",
    )
    found = broker(config=file)
    assert (found.url, found.user, found.ca_file) == ("mqtts://localhost:18883", "admin", str(ca))
    # its CA is not another's
    assert broker(config=file, broker="mqtts://localhost").ca_file == ""


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("mqtt://127.0.0.1", ("mqtt", "127.0.0.1", 1883)),
        ("mqtts://127.0.0.1/", ("mqtts", "127.0.0.1", 8883)),
        ("mqtts://[::1]:1", ("mqtts", "::1", 1)),
    ],
)
def test_an_address(started: Path, url: str, answer: tuple[str, str, int]) -> None:
    found = broker(broker=url)
    assert (found.scheme, found.host, found.port) == answer


@pytest.mark.parametrize(
    "url",
    [
        *("broker.example", "http://broker.example", "mqtt://", "mqtts://broker.example:0"),
        *("mqtts://broker.example:70000", "mqtts://admin:secret@broker.example", "mqtts://broker.example/x"),
        *("mqtts://broker.example?x", "mqtts://broker .example", "mqtts://[::1"),
    ],
)
def test_no_address(url: str) -> None:
    assert refused(broker=url) == "--broker: must be mqtts://host:port or mqtt://host:port"


def test_nothing_is_sent_in_the_clear_to_another_machine(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    said = refused(broker="mqtt://broker.example", admin_password_file=str(file))
    assert said == "--broker: mqtt:// shows the passwords to the network; use mqtts://"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_a_password_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    said = refused(broker="mqtts://localhost", admin_password_file=str(file))
    assert said.startswith(f"--admin-password-file: {file}: ")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_that_is_none(started: Path, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    assert refused(ca_file=str(file)).startswith(f"--ca-file: {file}: ")


async def test_without_aiomqtt(cli: Runner, started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.cli.dynsec")
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    result = await cli("mqtt", "revoke", "alice")
    assert result.code == 1
    assert "needs aiomqtt: pip install 'bot-gateway[mqtt]'" in result.error


async def test_without_any_broker(cli: Runner) -> None:
    result = await cli("mqtt", "revoke", "alice")
    assert result.code == 2
    assert "--broker: name the broker: there is no data/mosquitto" in result.error


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["mqtt"], "COMMAND"),
        (["mqtt", "provision"], "CLIENT"),
        (["mqtt", "provision", "a/b"], "CLIENT"),
        (["mqtt", "provision", "+"], "CLIENT"),
        (["mqtt", "provision", "alice", "--prefix", "gw/+"], "--prefix"),
        (["mqtt", "provision", "alice", "--prefix", "/gw"], "--prefix"),
        (["mqtt", "revoke", "alice", "--rotate"], "--rotate"),
    ],
)
async def test_usage(cli: Runner, argv: list[str], named: str) -> None:
    result = await cli(*argv)
    assert result.code == 2
    assert named in result.error


@pytest.mark.parametrize("command", ["provision", "revoke"])
async def test_nobody_answers(cli: Runner, started: Path, command: str) -> None:
    with socket.socket() as bound:
        # bound and not listening: refused, and nobody else can take it
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        result = await cli("mqtt", command, "alice", "--broker", f"mqtt://{address}")
    assert result.code == 4
    assert result.error == f"bot-gateway: cannot reach {address}: Connection refused"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_somebody_else_answers(
    cli: Runner, started: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(dynsec, "CONNECT_TIMEOUT", 0.3)

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await cli("mqtt", "provision", "alice", "--broker", f"mqtt://127.0.0.1:{port}")
    assert result.code == 4
    assert f"127.0.0.1:{port}" in result.error
