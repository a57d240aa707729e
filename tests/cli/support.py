"""What the tests of the command line share: a runner, a double of the HTTP API, a message, a certificate."""

import asyncio
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.cli import main

ROOT = Path(__file__).parents[2]
KEY = "backend.a-secret-of-the-tests"
ID = "06F8QGC9G0002"
OTHER = "06F8QGC9G0003"


class Result:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.err.count("\n") == 1, self.err
        assert not self.out
        return self.err.rstrip("\n")


class Runner:
    """Runs commands in a thread of their own, so that doubles can live in the test's loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    async def __call__(self, *argv: str, stdin: bytes = b"") -> Result:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._monkeypatch.setattr("sys.argv", [".venv/bin/bot-gateway"])
        code = await asyncio.to_thread(main, argv)
        said = self._capsys.readouterr()
        return Result(code, said.out, said.err)


class Asked:
    """One request that the double got."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.call = f"{request.method} {request.path}"
        self.query = dict(request.query)
        self.headers = request.headers
        self.body: Any = json.loads(body) if body else None


Answer = tuple[int, Any] | Callable[[Asked], tuple[int, Any]]


class ApiDouble:
    """Answers `METHOD /path` as told: (status, value); problems from 400 on. A list is taken one by one."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[Asked] = []
        self.url = ""

    def problem(self, call: str, status: int, code: str, detail: str = "no", **more: Any) -> None:
        self.answers[call] = (
            status,
            {"title": "x", "status": status, "code": code, "detail": detail, **more},
        )

    async def handle(self, request: web.Request) -> web.Response:
        asked = Asked(request, await request.read())
        self.asked.append(asked)
        answer = self.answers[asked.call]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        status, value = answer(asked) if callable(answer) else answer
        if value is None:
            return web.Response(status=status)
        if isinstance(value, bytes):
            return web.Response(status=status, body=value, content_type="text/plain")
        media = "application/problem+json" if status >= 400 else "application/json"
        return web.Response(status=status, body=json.dumps(value).encode(), content_type=media)

    @property
    def calls(self) -> list[str]:
        return [asked.call for asked in self.asked]


def message(**more: Any) -> dict[str, Any]:
    """A message as the API shows it."""
    return {
        "id": ID,
        "to": "alice",
        "from": "api:backend",
        "at": 1_700_000_000_000,
        "status": "delivered",
        "status_at": 1_700_000_000_250,
        "priority": "normal",
        "expires_at": 1_700_086_400_000,
        "trace": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        "body": {"text": "hello"},
        "via": "ws",
        "timeline": [
            {"at": 1_700_000_000_000, "event": "queued"},
            {"at": 1_700_000_000_001, "event": "sent"},
            {"at": 1_700_000_000_250, "event": "delivered", "via": "ws"},
        ],
        **more,
    }


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(*form))
    return files


def text(page: str) -> str:
    """A page of the documentation."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Its code in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)
