"""A real Mosquitto, started by mosquitto/start on free ports of this machine, and raw MQTT packets for it."""

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import pytest

ROOT = Path(__file__).parents[2]
START = ROOT / "mosquitto" / "start"
TIMEOUT = 20.0
ATTEMPTS = 3


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class Broker:
    """Mosquitto in a folder. `log` is what it and the start script have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[str] = []
        self.names = ""
        self.tls_port, self.websocket_port, self.local_port = free_ports(3)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Returns when it listens."""
        for attempt in range(ATTEMPTS):
            if self._start():
                return
            # another process may have taken a port
            if attempt == ATTEMPTS - 1 or not any("Address already in use" in line for line in self.log):
                raise AssertionError("\n".join(self.log))
            self.tls_port, self.websocket_port, self.local_port = free_ports(3)

    def run(self) -> subprocess.CompletedProcess[str]:
        """The start script where it is expected to fail."""
        return subprocess.run(
            [START, self.folder],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("MOSQUITTO_")}
        return mine | {
            "MOSQUITTO_NAMES": self.names,
            "MOSQUITTO_BIND": "127.0.0.1",
            "MOSQUITTO_TLS_PORT": str(self.tls_port),
            "MOSQUITTO_WEBSOCKET_PORT": str(self.websocket_port),
            "MOSQUITTO_LOCAL_PORT": str(self.local_port),
        }

    def _start(self) -> bool:
        self._process = subprocess.Popen(
            [START, self.folder],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.rstrip("\n"))
            if line.endswith(" running\n"):
                self._reader = threading.Thread(target=self._drain)
                self._reader.start()
                self._await_loop()
                return True
        self.stop()
        return False

    def _await_loop(self) -> None:
        """It says that it runs a moment before it does; a SIGTERM in between is lost."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.tls_port), TIMEOUT) as plain:
            # returns after the handshake
            context.wrap_socket(plain).close()

    def _drain(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self.log.extend(line.rstrip("\n") for line in self._process.stdout)

    def stop(self) -> None:
        """SIGTERM: it writes its sessions to disk."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            if self._reader is not None:
                self._reader.join()
                self._reader = None
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    # -- clients -------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"mqtts://localhost:{self.tls_port}"

    @property
    def admin(self) -> list[str]:
        """The options of `bot-gateway mqtt` for this broker."""
        return [
            *("--broker", self.url),
            *("--ca-file", str(self.folder / "ca.crt")),
            *("--admin-password-file", str(self.folder / "admin.password")),
        ]

    def password(self, name: Literal["admin", "gateway"]) -> str:
        file = {"admin": "admin.password", "gateway": "gateway/password"}[name]
        return (self.folder / file).read_text().strip()

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))

    def client(self, username: str, password: str, **more: Any) -> aiomqtt.Client:
        """A client over TLS, MQTT 5, client id = username where nothing else is said."""
        options: dict[str, Any] = {
            "port": self.tls_port,
            "identifier": username,
            "protocol": aiomqtt.ProtocolVersion.V5,
            "tls_context": self.tls(),
        }
        return aiomqtt.Client("localhost", username=username, password=password, **options | more)

    def gateway(self, **more: Any) -> aiomqtt.Client:
        return self.client("gateway", self.password("gateway"), **more)


@contextmanager
def running(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


async def cut(client: aiomqtt.Client) -> None:
    """Returns when the broker has ended the connection."""
    with pytest.raises(aiomqtt.MqttError, match="Disconnected"):
        async with asyncio.timeout(TIMEOUT):
            await anext(client.messages)


# -- raw packets, for what a client library hides ----------------------------------------------------------------------

# the properties of a CONNACK that have a fixed length (MQTT 5, 2.2.2.2)
_SIZES = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def connect_packet(
    client: str, username: str = "", password: str = "", *, version: int = 5, alive: int = 60
) -> bytes:
    """A CONNECT that starts clean; shorter than 128 bytes."""
    flags = 0x02 | (0xC0 if username else 0)
    body = _text("MQTT") + bytes([version, flags]) + alive.to_bytes(2, "big")
    body += b"\x00" if version == 5 else b""
    body += _text(client) + (_text(username) + _text(password) if username else b"")
    assert len(body) < 128
    return bytes([0x10, len(body)]) + body


async def connack(reader: asyncio.StreamReader) -> tuple[int, dict[int, int]]:
    """Reason code and properties of a CONNACK of MQTT 5; shorter than 128 bytes."""
    kind, length = await reader.readexactly(2)
    assert kind == 0x20
    body = await reader.readexactly(length)
    found: dict[int, int] = {}
    rest = body[3:]
    while rest:
        size = _SIZES[rest[0]]
        found[rest[0]] = int.from_bytes(rest[1 : 1 + size], "big")
        rest = rest[1 + size :]
    return body[1], found
