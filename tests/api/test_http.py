"""What every call has in common: methods, paths, ids of requests, errors, TLS, and peers that misbehave."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.api import ApiServer, bounded
from gateway.auth import Authenticator
from gateway.config import Config
from gateway.errors import ConfigError
from tests.api.double import HubDouble
from tests.api.support import Caller, Raw, request, serving

AsKey = Callable[[str | None], Caller]
Connect = Callable[..., Any]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/messages/", "/v2/messages", "/v1/messages/a/b", "/V1/messages", "//", "/ws"]
)
async def test_unknown_paths(as_key: AsKey, path: str) -> None:
    assert (await as_key(None)("GET", path)).problem == (404, "no_such_path", None)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/messages", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/v1/explain", "OPTIONS, POST"),
        ("PATCH", "/v1/clients/alice", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("DELETE", "/v1/dead-letters/replay", "OPTIONS, POST"),
        ("TRACE", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_methods_that_a_path_does_not_have(api: Caller, method: str, path: str, allow: str) -> None:
    reply = await api(method, path)
    assert reply.problem == (405, "method_not_allowed", None)
    assert reply.headers["Allow"] == allow


async def test_options_needs_no_credential(as_key: AsKey) -> None:
    reply = await as_key(None)("OPTIONS", "/v1/messages")
    assert (reply.status, reply.raw) == (204, b"")
    assert reply.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/events", "/healthz", "/openapi.json", "/metrics"])
async def test_head_is_get_without_a_body(api: Caller, path: str) -> None:
    reply = await api("HEAD", path)
    assert (reply.status, reply.raw) == (200, b"")
    assert reply.headers["Content-Type"]


async def test_a_request_has_an_id(api: Caller, as_key: AsKey) -> None:
    given = await api("GET", "/healthz", headers={"X-Request-Id": "mine-1"})
    assert given.headers["X-Request-Id"] == "mine-1"
    made = {(await api("GET", "/healthz")).headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3
    odd = await as_key(None)("GET", "/v1/messages", headers={"X-Request-Id": "a b"})
    assert odd.headers["X-Request-Id"] != "a b"
    assert odd.problem[0] == 401


async def test_a_fault_of_ours_shows_nothing(api: Caller, hub: HubDouble) -> None:
    hub.broken = RuntimeError("the inner workings")
    with capture_logs() as lines:
        reply = await api("POST", "/v1/messages", {"to": "alice", "body": "private"})
    assert reply.problem == (500, "internal", None)
    assert b"inner" not in reply.raw
    (line,) = lines
    assert (line["log_level"], line["request"], line["exc_info"]) == (
        "error",
        reply.headers["X-Request-Id"],
        True,
    )
    assert "private" not in str(line)
    hub.broken = None
    assert (await api("POST", "/v1/messages", {"to": "alice", "body": 1})).status == 202


@pytest.mark.parametrize(
    "fault", [ConnectionResetError("of another connection"), TimeoutError(), KeyError("x")]
)
async def test_a_fault_is_no_other_thing(api: Caller, hub: HubDouble, fault: Exception) -> None:
    hub.broken = fault
    with capture_logs():
        assert (await api("POST", "/v1/messages", {"to": "alice", "body": 1})).problem == (
            500,
            "internal",
            None,
        )


async def test_the_server_says_little_of_itself(api: Caller) -> None:
    for path in ("/healthz", "/nowhere"):
        assert (await api("GET", path)).headers["Server"] == "bot-gateway"


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nAuthorization: Bearer topsecret\x00\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nA: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % i for i in range(100)) + b"\r\n",
    ],
)
async def test_what_is_no_http(
    raw: Connect,
    api: Caller,
    noise: bytes,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection: Raw = await raw()
    await connection.send(noise)
    status, headers, body = await connection.response()
    assert status == 400
    assert headers["content-type"] == "application/problem+json"
    assert b'"malformed"' in body
    assert await connection.reader.read() == b""
    assert (await api("GET", "/healthz")).status == 200
    assert "topsecret" not in "".join(capsys.readouterr()) + caplog.text


async def test_requests_in_a_row_are_answered_in_their_order(raw: Connect, hub: HubDouble) -> None:
    connection: Raw = await raw()
    body = b'{"to":"alice","body":1}'
    post = request(
        "POST", "/v1/messages", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n", body
    )
    await connection.send(post + request("GET", "/healthz") + request("GET", "/nowhere") + post)
    assert [(await connection.response())[0] for _ in range(4)] == [202, 200, 404, 202]
    assert len(hub.store.views) == 2


async def test_the_short_answer_is_that_of_the_library(raw: Connect) -> None:
    """For one message it is written in one piece; what is in it does not differ from what aiohttp says to others."""
    body = b'{"to":"alice","body":1}'
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-Request-Id: mine\r\n"
    short: Raw = await raw()
    # the same connection goes on
    for _ in range(2):
        await short.send(request("POST", "/v1/messages", headers, body))
        found = await short.response()
    closing: Raw = await raw()
    await closing.send(request("POST", "/v1/messages", f"{headers}Connection: close\r\n", body))
    library = await closing.response()
    assert await closing.reader.read() == b""
    assert found[0] == library[0] == 202
    assert library[1].pop("connection") == "close"
    date, date_of_library = found[1].pop("date"), library[1].pop("date")
    assert parsedate_to_datetime(date_of_library) - parsedate_to_datetime(date) < timedelta(seconds=60)
    assert found[1] == library[1]
    assert found[1]["x-request-id"] == "mine"
    assert json.loads(found[2]).keys() == json.loads(library[2]).keys()
    old: Raw = await raw()
    await old.send(request("POST", "/v1/messages", headers, body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await old.response())[0] == 202
    assert await old.reader.read() == b""


async def test_a_client_that_leaves_before_its_answer_is_nobodys_error(
    raw: Connect, api: Caller, hub: HubDouble, caplog: pytest.LogCaptureFixture
) -> None:
    hub.held = True
    connection: Raw = await raw()
    body = b'{"to":"alice","body":1}'
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    await connection.send(request("POST", "/v1/messages", headers, body))
    await hub.until(1)
    connection.writer.transport.abort()
    assert (await api("GET", "/healthz")).status == 200
    hub.release(0)
    assert (await api("GET", "/healthz")).status == 200
    assert not caplog.records


async def test_an_absolute_target_and_http_1_0(raw: Connect) -> None:
    connection: Raw = await raw()
    await connection.send(request("GET", "http://elsewhere/healthz"))
    assert (await connection.response())[0] == 200
    await connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await connection.response())[0] == 200
    assert await connection.reader.read() == b""


async def test_over_the_limit_of_connections(
    raw: Connect, api: Caller, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api("GET", "/healthz")).status == 200
    assert server._runner is not None
    monkeypatch.setattr(server._runner.server, "_max_connections", 1)
    connection: Raw = await raw()
    status, headers, body = await connection.response()
    assert (status, headers["retry-after"]) == (503, "5")
    assert b"too_many_connections" in body
    assert await connection.reader.read() == b""
    # who was there stays
    assert (await api("GET", "/healthz")).status == 200


async def test_a_peer_that_does_not_read_is_let_go(
    raw: Connect, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "STALL_TIMEOUT", 0.05)
    connection: Raw = await raw(narrow=True)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        await connection.flood(request("GET", "/openapi.json") * 30)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def with_tls(config: Config, cert: Path, key: Path) -> Config:
    return replace(config, http=replace(config.http, tls_cert=str(cert), tls_key=str(key)))


async def test_tls(
    hub: HubDouble, authenticator: Authenticator, config: Config, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        serving(hub, authenticator, with_tls(config, *certificate)) as server,
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"https://127.0.0.1:{server.port}/healthz") as response,
    ):
        assert response.status == 200


async def test_a_certificate_that_cannot_be_used(
    hub: HubDouble,
    authenticator: Authenticator,
    config: Config,
    certificate: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    for cert, key in [(certificate[1], certificate[0]), (tmp_path / "none", certificate[1])]:
        with pytest.raises(ConfigError, match=r"http\.tls_cert"):
            async with serving(hub, authenticator, with_tls(config, cert, key)):
                pass


async def test_an_address_that_is_taken(hub: HubDouble, authenticator: Authenticator, config: Config) -> None:
    async with serving(hub, authenticator, config) as server:
        taken = replace(config, http=replace(config.http, listen=f"127.0.0.1:{server.port}"))
        with pytest.raises(ConfigError, match=r"http\.listen"):
            async with serving(hub, authenticator, taken):
                pass


async def test_stop_lets_what_is_under_way_finish(
    hub: HubDouble, authenticator: Authenticator, config: Config
) -> None:
    hub.held = True
    async with aiohttp.ClientSession() as session:
        async with serving(hub, authenticator, config) as server:
            caller = Caller(session, f"http://127.0.0.1:{server.port}", "backend.a-secret-of-the-backend")
            answer = asyncio.ensure_future(caller("POST", "/v1/messages", {"to": "alice", "body": 1}))
            await hub.until(1)
            asyncio.get_running_loop().call_soon(hub.release)
        assert (await answer).status == 202
        with pytest.raises(aiohttp.ClientConnectionError):
            await caller("GET", "/healthz")
