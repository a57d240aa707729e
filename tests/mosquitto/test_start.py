"""mosquitto/start makes what is missing, keeps what is there, and starts a broker that lets nobody in."""

import asyncio
import ssl
import stat
from pathlib import Path

import aiomqtt
import pytest

from tests.cli.support import Runner, certificate
from tests.mosquitto.rig import Broker, running

V311 = aiomqtt.ProtocolVersion.V311


def made(folder: Path) -> dict[str, bytes]:
    """What a second start must not change."""
    names = ("ca.crt", "ca.key", "admin.password", "gateway/password", "tls/server.crt", "tls/server.key")
    return {name: (folder / name).read_bytes() for name in names}


async def test_a_second_start_keeps_credentials_and_sessions(tmp_path: Path, cli: Runner) -> None:
    with running(tmp_path / "broker") as broker:
        first = made(broker.folder)
        (device,) = (await cli("mqtt", "provision", "alice", "--json", *broker.admin)).json
        keep = {"protocol": V311, "clean_session": False}
        async with broker.client("alice", device["password"], **keep) as alice:
            await alice.subscribe("gw/v1/m/alice", qos=1)
        async with broker.gateway() as gateway:
            await gateway.publish("gw/v1/m/alice", b"while away", qos=1)
        broker.stop()
        broker.start()
        assert made(broker.folder) == first
        async with broker.client("alice", device["password"], **keep) as alice:
            message = await anext(alice.messages)
            assert (message.topic.value, message.payload) == ("gw/v1/m/alice", b"while away")


def test_secrets_are_private_and_never_printed(broker: Broker) -> None:
    secrets = {broker.password("admin"), broker.password("gateway")}
    assert len(secrets) == 2
    assert min(map(len, secrets)) >= 32
    assert not any(secret in line for secret in secrets for line in broker.log)
    for name in (
        "ca.key",
        "admin.password",
        "gateway/password",
        "state/dynamic-security.json",
        "accounts.json",
    ):
        assert stat.S_IMODE((broker.folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((broker.folder / "state").stat().st_mode) == 0o700
    # root hands the key to the broker's group
    assert stat.S_IMODE((broker.folder / "tls/server.key").stat().st_mode) & 0o037 == 0


@pytest.mark.parametrize("version", [V311, aiomqtt.ProtocolVersion.V5])
@pytest.mark.parametrize(
    ("username", "password", "identifier"),
    [(None, None, "alice"), ("admin", "wrong", "x"), ("nobody", "wrong", "nobody"), ("admin", "", "x")],
)
@pytest.mark.parametrize("port", ["tls_port", "websocket_port", "local_port"])
async def test_nobody_gets_in_without_a_password(
    broker: Broker,
    version: aiomqtt.ProtocolVersion,
    username: str | None,
    password: str | None,
    identifier: str,
    port: str,
) -> None:
    client = aiomqtt.Client(
        "localhost" if port != "local_port" else "127.0.0.1",
        getattr(broker, port),
        username=username,
        password=password,
        identifier=identifier,
        protocol=version,
        transport="websockets" if port == "websocket_port" else "tcp",
        tls_context=broker.tls() if port != "local_port" else None,
    )
    with pytest.raises(aiomqtt.MqttCodeError, match="ot authori"):
        await client.__aenter__()


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
async def test_tls_is_trusted_by_its_ca_only(broker: Broker, tmp_path: Path, transport: str) -> None:
    port = broker.tls_port if transport == "tcp" else broker.websocket_port
    async with broker.gateway(port=port, transport=transport):
        pass
    stranger = ssl.create_default_context(cafile=str(certificate(tmp_path, "localhost")[0]))
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("localhost", port, ssl=stranger)


def test_the_certificate_follows_the_names(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        before = made(broker.folder)
        broker.stop()
        broker.names = "broker.example 192.0.2.7"
        broker.start()
        after = made(broker.folder)
        assert {name for name in before if before[name] != after[name]} == {
            "tls/server.crt",
            "tls/server.key",
        }
        broker.stop()
        # as an interrupted renewal leaves it: the pair does not fit
        (broker.folder / "tls/server.key").write_bytes(before["tls/server.key"])
        (broker.folder / "tls/names").unlink()
        broker.start()
        assert made(broker.folder)["tls/server.key"] not in {
            before["tls/server.key"],
            after["tls/server.key"],
        }
        broker.stop()
        # a certificate of another CA is somebody's choice
        cert, key = certificate(tmp_path, "broker.example")
        (broker.folder / "tls/server.crt").write_bytes(cert.read_bytes())
        (broker.folder / "tls/server.key").write_bytes(key.read_bytes())
        broker.names = "other.example"
        broker.start()
        assert (broker.folder / "tls/server.crt").read_bytes() == cert.read_bytes()


def test_torn_accounts_are_not_started_with(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        broker.stop()
        file = broker.folder / "state/dynamic-security.json"
        file.write_bytes(file.read_bytes()[:-20])
        result = broker.run()
        assert result.returncode == 1
        assert "dynamic-security.json is not whole" in result.stderr
        file.write_bytes((broker.folder / "accounts.json").read_bytes())
        broker.start()


@pytest.mark.parametrize(
    ("names", "said"), [("broker.example;rm", "MOSQUITTO_NAMES"), ("*.example", "MOSQUITTO_NAMES")]
)
def test_a_wrong_name_is_refused(tmp_path: Path, names: str, said: str) -> None:
    broker = Broker(tmp_path / "broker")
    broker.names = names
    result = broker.run()
    assert result.returncode == 1
    assert said in result.stderr
