"""What comes before the first byte: names, addresses, connections, TLS."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientTimeout, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.channels import Webhook as Settings
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import http as module
from gateway.providers import resolver
from gateway.providers.addresses import is_public
from gateway.providers.dispatcher import Dispatcher

SettingsOf = Callable[..., Settings]
Message = Callable[..., Item]
Serve = Callable[..., Awaitable[str]]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]

REFUSED = Outcome("refused", "address not public", blame="account")


class Names:
    """A name server: the n-th question gets the n-th answer, the last one ever after."""

    def __init__(self, *answers: list[str] | BaseException) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def fine(request: web.Request) -> web.Response:
    return web.Response()


def port_of(url: str) -> str:
    return url.removesuffix("/hook").rpartition(":")[2]


async def test_a_refused_connection_is_definite(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    with socket.socket() as bound:  # bound, not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        dispatcher = await dispatch(settings(f"http://127.0.0.1:{bound.getsockname()[1]}/"))
        assert await attempt(dispatcher, message()) == Outcome("retry", "connection refused")


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "no such name"), socket.gaierror(socket.EAI_AGAIN, "later")]
)
async def test_an_unknown_name_is_definite(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message, error: OSError
) -> None:
    dispatcher = await dispatch(settings("https://hook.example/"), lookup=Names(error))
    assert await attempt(dispatcher, message()) == Outcome("retry", "name not resolved")
    dispatcher = await dispatch(settings("https://hook.example/"), lookup=Names([]))
    assert await attempt(dispatcher, message()) == Outcome("retry", "name not resolved")


async def test_a_lookup_that_takes_too_long_is_definite(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    dispatcher = await dispatch(settings("https://hook.example/", timeout=0.2), lookup=never)
    assert await attempt(dispatcher, message()) == Outcome("retry", "not connected in time")


async def test_connecting_gets_a_third_of_the_time(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = module._Connector.connect
    given: list[float | None] = []

    async def noticed(self: Any, req: Any, traces: Any, timeout: ClientTimeout) -> Any:
        given.append(timeout.connect)
        return await connect(self, req, traces, timeout)

    monkeypatch.setattr(module._Connector, "connect", noticed)
    await attempt(await dispatch(settings(await serve(fine), timeout=15.0)), message())
    assert given == [5.0]


async def test_attempts_at_once_ask_once_and_the_answer_is_kept(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(headers={"Connection": "close"})

    names = Names(["127.0.0.1"])
    url = f"http://hook.example:{port_of(await serve(handler))}/"
    dispatcher = await dispatch(settings(url), lookup=names)
    outcomes = await asyncio.gather(*(attempt(dispatcher, message()) for _ in range(5)))
    outcomes.append(await attempt(dispatcher, message()))
    assert [outcome.kind for outcome in outcomes] == ["delivered"] * 6
    assert names.asked == ["hook.example"]


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",  # noqa: S104 - refused, not bound
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "\uff11\uff12\uff17.\uff10.\uff10.\uff11",  # full-width digits, normalised on the way
        "127\u30020.0.1",  # and full stops
    ],
)
async def test_literal_addresses_are_refused_without_a_question(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message, host: str
) -> None:
    names = Names(["127.0.0.1"])
    dispatcher = await dispatch(settings(f"https://{host}:9/", allow_private=False), lookup=names)
    assert await attempt(dispatcher, message()) == REFUSED
    assert names.asked == []


@pytest.mark.parametrize("host", ["localhost", "localhost.", "0x7f000001", "127.0.0.0x1", "hook.example"])
async def test_names_of_this_machine_are_refused(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message, host: str
) -> None:
    names = Names(["127.0.0.1"])
    dispatcher = await dispatch(settings(f"https://{host}:9/", allow_private=False), lookup=names)
    assert await attempt(dispatcher, message()) == REFUSED
    assert len(names.asked) == 1


async def test_plain_http_to_this_machine_still_needs_permission(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response()

    url = await serve(handler)
    assert await attempt(await dispatch(settings(url, allow_private=False)), message()) == REFUSED
    assert seen == []
    assert (await attempt(await dispatch(settings(url)), message())).kind == "delivered"


@pytest.mark.parametrize("answer", [["10.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["2606:4700::1111", "::1"]])
async def test_one_private_address_refuses_a_name(
    settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message, answer: list[str]
) -> None:
    dispatcher = await dispatch(settings("https://hook.example/", allow_private=False), lookup=Names(answer))
    outcomes = await asyncio.gather(*(attempt(dispatcher, message()) for _ in range(3)))
    assert outcomes == [REFUSED] * 3


async def test_a_name_that_changes_its_mind_after_the_check_gains_nothing(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: 127.0.0.1 plays the public address, 127.0.0.2 the one inside, on the same port."""
    monkeypatch.setattr(resolver, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append((request.transport.get_extra_info("sockname")[0], request.host))
        return web.Response(headers={"Connection": "close"})

    port = port_of(await serve(handler, host="0.0.0.0"))  # noqa: S104 - both addresses of loopback
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    hook = settings(f"http://localhost:{port}/", allow_private=False)
    first = await dispatch(hook, lookup=names)
    assert (await attempt(first, message())).kind == "delivered"
    assert names.asked == ["localhost"]
    # a dispatcher that remembers nothing asks again, and refuses the new answer
    assert await attempt(await dispatch(hook, lookup=names), message()) == REFUSED
    assert seen == [("127.0.0.1", f"localhost:{port}")]


# -- TLS --------------------------------------------------------------------------------------------------------------


def certificate(path: Path, name: str) -> Path:
    """A self-signed certificate of `name`, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called hook.example, and of a client that trusts it."""
    pem = certificate(tmp_path / "hook.pem", "hook.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


async def test_tls_is_checked_against_the_name_not_the_address(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, trusting = tls
    port = port_of(await serve(fine, ssl_context=server))
    named: dict[str, Any] = {"lookup": Names(["127.0.0.1"]), "tls": trusting}
    right = await dispatch(settings(f"https://hook.example:{port}/"), **named)
    assert (await attempt(right, message())).kind == "delivered"
    wrong = await dispatch(settings(f"https://other.example:{port}/"), **named)
    assert await attempt(wrong, message()) == Outcome("retry", "TLS certificate not accepted")


async def test_an_untrusted_certificate_is_definite(
    serve: Serve,
    settings: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    port = port_of(await serve(fine, ssl_context=tls[0]))
    dispatcher = await dispatch(settings(f"https://hook.example:{port}/"), lookup=Names(["127.0.0.1"]))
    assert await attempt(dispatcher, message()) == Outcome("retry", "TLS certificate not accepted")


async def test_tls_to_a_receiver_without_it_is_definite(
    serve: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    dispatcher = await dispatch(settings(f"https://127.0.0.1:{port_of(await serve(fine))}/"))
    assert await attempt(dispatcher, message()) == Outcome("retry", "TLS failed")


async def test_tls_that_never_answers_is_definite(
    serve_raw: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    hung_up = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        hung_up.set()

    dispatcher = await dispatch(settings(f"https://{await serve_raw(handler)}/", timeout=0.3))
    assert await attempt(dispatcher, message()) == Outcome("retry", "not connected in time")
    await hung_up.wait()


async def test_tls_broken_off_is_definite(
    serve_raw: Serve, settings: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    dispatcher = await dispatch(settings(f"https://{await serve_raw(handler)}/"))
    outcome = await attempt(dispatcher, message())
    assert outcome.kind == "retry"
    assert outcome.reason in ("not connected", "TLS failed")
