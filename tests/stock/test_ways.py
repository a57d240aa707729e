"""Stock clients over WebSocket and over TLS."""

import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.stock.door import Endpoint, body, fresh, uplink
from tests.stock.programs import Message, Options, Program, Script, all_of, publish, subscriber
from tests.stock.proxy import Proxy
from tests.support.process import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = pytest.mark.parametrize("program", ["paho", "mqttjs"])


def websocket(endpoint: Endpoint) -> tuple[str, int]:
    """Where the WebSocket listener is."""
    url = urlsplit(endpoint.gateway.ws)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


@SCRIPTS
async def test_over_websocket(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    async with Proxy(lambda: websocket(endpoint)) as proxy:
        options = endpoint.subscribed(version, client, port=proxy.port, path="/mqtt")
        async with Script(program, options) as device:
            assert (await device.event("connected"))["present"] is False
            await device.event("subscribed")
            ids = await endpoint.numbered(client, range(30))
            got = await all_of(device, "message", 30)
            own = await device.publish(Message(topic=uplink(client, client), payload=b'{"n":30}'))
            assert own["code"] == 0
            got.append(await device.event("message"))
            await endpoint.delivered(ids)
            proxy.mute()
            held = await endpoint.numbered(client, range(31, 41))
            got += await all_of(device, "message", 10)
            proxy.cut()
            # it comes back by itself
            assert (await device.event("connected"))["present"] is True
            back = await all_of(device, "message", 10)
            await endpoint.delivered(held)
            (big,) = await endpoint.post([{"to": client, "body": "x" * 60_000}])
            assert (await device.event("message"))["payload"] == "x" * 60_000
            await endpoint.delivered([big])
    assert [body(m) for m in got] == list(range(41))
    assert [(body(m), m["mid"], m["dup"]) for m in back] == [(n, n + 1, True) for n in range(31, 41)]


async def test_the_origin_that_paho_makes_up(endpoint: Endpoint, version: int) -> None:
    """It calls itself a page of the host that it connects to."""
    host, port = websocket(endpoint)
    options = endpoint.options(
        version, fresh("device"), host=host, port=port, path="/mqtt", origin=True, reconnect=False
    )
    async with Script("paho", options) as device:
        await device.event("connected")


@SCRIPTS
async def test_refusals_over_websocket(endpoint: Endpoint, program: Program, version: int) -> None:
    client = fresh("device")
    host, port = websocket(endpoint)
    options = endpoint.subscribed(version, client, host=host, port=port, path="/mqtt", reconnect=False)
    async with Script(program, options.but(password="nonsense")) as device:
        assert (await device.event("refused"))["code"] == (0x86 if version == 5 else 4)
    async with Script(program, options) as device:
        await device.event("subscribed")
        device.publish_soon(Message(topic=uplink(client, client), payload=b"1", qos=2))
        assert (await device.event("closed"))["code"] == (0x9B if version == 5 else None)


@dataclass
class Secure:
    endpoint: Endpoint
    ca: str

    def options(self, version: int, client: str, path: str | None = None) -> Options:
        host, port = websocket(self.endpoint) if path else self.endpoint.address()
        return self.endpoint.subscribed(version, client, host=host, port=port, path=path, ca=self.ca)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-keyout", str(key), "-out", str(cert), "-days", "1", "-subj", "/CN=gateway"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(make, check=True, capture_output=True)
    return cert, key


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> AsyncIterator[Secure]:
    """A gateway whose listeners for clients speak TLS."""
    cert, key = certificate
    tls = f'tls_cert = "{cert}"\ntls_key = "{key}"\n'
    config = f"[mqtt]\n{tls}[websocket]\n{tls}"
    async with GatewayProcess(tmp_path_factory.mktemp("tls"), config) as gateway, gateway.http() as http:
        yield Secure(Endpoint(gateway, http), str(cert))


async def there_and_back(secure: Secure, program: Program, options: Options) -> None:
    """A message to the device, and one that it publishes to itself."""
    async with subscriber(program, options) as device:
        await device.event("subscribed")
        ids = await secure.endpoint.numbered(options.client, range(20))
        assert [body(m) for m in await all_of(device, "message", 20)] == list(range(20))
        await secure.endpoint.delivered(ids)
        sender = options.but(client=fresh("sender"), subscribe=())
        sender = sender.but(password=secure.endpoint.gateway.token(sender.client))
        large = Message(topic=uplink(sender.client, options.client), payload=b"x" * 60_000)
        assert [a["code"] for a in await publish(program, sender, large)] == [0]
        assert (await device.event("message"))["payload"] == "x" * 60_000


async def test_over_tls(secure: Secure, program: Program, version: int) -> None:
    await there_and_back(secure, program, secure.options(version, fresh("device")))


@SCRIPTS
async def test_over_websocket_and_tls(secure: Secure, program: Program) -> None:
    await there_and_back(secure, program, secure.options(5, fresh("device"), path="/mqtt"))
