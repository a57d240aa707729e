"""Real keys, hand-made tokens, and a server of key sets that counts who asks."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW = 1_800_000_000.0


class Signer:
    """A private key, its public forms, and tokens made with it."""

    def __init__(self, alg: str) -> None:
        self.alg = alg
        self.private: Any
        if alg == "RS256":
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif alg == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()

    @property
    def pem(self) -> bytes:
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def jwk(self, kid: str | None, **more: Any) -> dict[str, Any]:
        reader = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.alg]
        members: dict[str, Any] = reader.to_jwk(self.private.public_key(), as_dict=True)  # type: ignore[attr-defined]
        members.pop("key_ops", None)
        return members | ({} if kid is None else {"kid": kid}) | more

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        return jwt.encode(dict(claims), self.private, algorithm=self.alg, headers=header)


class Signers:
    """One signer of each kind, and a second of each kind whom nobody trusts."""

    def __init__(self) -> None:
        self.good = {alg: Signer(alg) for alg in ("RS256", "ES256", "EdDSA")}
        self.evil = {alg: Signer(alg) for alg in ("RS256", "ES256", "EdDSA")}


@pytest.fixture(scope="session")
def signers() -> Signers:
    return Signers()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: bytes, payload: bytes, secret: bytes) -> str:
    """A token of exactly these bytes, with an HS256 signature: what libraries refuse to make."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


class Forge:
    """The module's functions, for tests that may not import a conftest."""

    now = NOW
    secret = "the gateway's own secret, 32 bytes or more"

    @staticmethod
    def raw(header: bytes, payload: bytes, secret: bytes) -> str:
        return raw_token(header, payload, secret)

    @classmethod
    def own(cls, claims: Mapping[str, Any], **header: Any) -> str:
        """A token signed with the gateway's own secret."""
        head = {"alg": "HS256", "typ": "JWT"} | header
        return raw_token(json.dumps(head).encode(), json.dumps(claims).encode(), cls.secret.encode())

    @staticmethod
    def unsigned(claims: Mapping[str, Any], alg: str) -> list[str]:
        """Tokens without a proof: an empty signature, and a made-up one."""
        signed = f"{b64(json.dumps({'alg': alg}).encode())}.{b64(json.dumps(claims).encode())}"
        return [f"{signed}.", f"{signed}.{b64(b'x' * 32)}", f"{signed}.{b64(b'')}"]


@pytest.fixture(scope="session")
def forge() -> type[Forge]:
    return Forge


class KeyServer:
    """Serves a key set at /jwks. `answer` replaces what it says; `hold` makes it wait; `asked` counts requests."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.answer: web.Response | bytes | None = None
        self.hold: asyncio.Event | None = None
        self.asked = 0
        self.elsewhere = 0
        self.port = 0
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def serve(self, request: web.Request) -> web.Response:
        if request.path != "/jwks":
            self.elsewhere += 1
            return web.json_response({"keys": self.keys})
        async with self._news:
            self.asked += 1
            self._news.notify_all()
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer)
        return self.answer or web.json_response({"keys": self.keys})

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: self.asked >= times)


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    if server.hold is not None:
        server.hold.set()
    await runner.cleanup()
