"""TLS on the listener."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.transports.tls import tls_context
from gateway.wire import JSON, MSGPACK
from tests.transports.live import LOOPS, Run, Talk, client, conversation, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


@LOOPS
@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
def test_a_conversation_over_tls(
    run: Run, config: Config, certificate: tuple[Path, Path], subprotocol: str
) -> None:
    cert, key = certificate

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(cert))
        async with (
            serving(config, tls_cert=str(cert), tls_key=str(key)) as (server, hub),
            client(server, subprotocol, ssl=context) as ws,
        ):
            await conversation(server, hub, ws)

    run(scenario())


def test_over_tls_an_oversize_sender_can_read_why(config: Config, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(cert))
        async with (
            serving(config, tls_cert=str(cert), tls_key=str(key)) as (server, _hub),
            client(server, ssl=context) as ws,
        ):
            await ws.send("x" * 3_000_000)
            assert (await Talk(ws).end())[0] == 1009

    asyncio.run(scenario())


def test_tls_below_1_2_is_not_spoken(certificate: tuple[Path, Path]) -> None:
    context = tls_context(*map(str, certificate), "websocket", "http/1.1")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION


def test_a_certificate_that_cannot_be_used_names_its_key(config: Config, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")

    async def scenario() -> None:
        for name in ("bad.pem", "missing.pem"):
            with pytest.raises(ConfigError) as caught:
                async with serving(config, tls_cert=str(tmp_path / name), tls_key=str(tmp_path / name)):
                    pass
            assert caught.value.field == "websocket.tls_cert"

    asyncio.run(scenario())


@LOOPS
def test_an_address_that_is_taken_names_its_key(run: Run, config: Config) -> None:
    async def scenario() -> None:
        async with serving(config) as (server, _hub):
            with pytest.raises(ConfigError) as caught:
                async with serving(config, listen=f"127.0.0.1:{server.port}"):
                    pass
            assert caught.value.field == "websocket.listen"

    run(scenario())
