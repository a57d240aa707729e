"""Mails through the dispatcher: to aiosmtpd, and to servers that follow a script."""

import asyncio
import email
import email.policy
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosmtpd.smtp
import msgspec
import pytest
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from gateway.config.channels import Smtp as Settings
from gateway.engine.bucket import Rest
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers import smtp_carrier as module
from gateway.providers.dispatcher import Dispatcher
from tests.providers.test_dispatcher_connecting import Names, certificate

Message = Callable[..., Item]
Dispatch = Callable[..., Awaitable[Dispatcher]]
Attempt = Callable[..., Awaitable[Outcome]]
SettingsOf = Callable[..., Settings]
Send = Callable[..., Awaitable[Outcome]]

PASSWORD = "pass-of-the-test"
ADDRESS = "ann@example.net"


class Mailroom:
    """What aiosmtpd got."""

    def __init__(self) -> None:
        self.mails: list[tuple[str | None, list[str], Any]] = []
        self.sessions: set[int] = set()

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        seen = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, seen))
        self.sessions.add(id(session))
        return f"250 2.0.0 Ok: queued as {len(self.mails)}"


@pytest.fixture
def mailroom() -> Mailroom:
    return Mailroom()


@pytest.fixture
async def aiosmtp(mailroom: Mailroom) -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """An aiosmtpd server; gives its port."""
    servers: list[asyncio.Server] = []

    async def start(ssl_context: ssl.SSLContext | None = None, **named: Any) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: aiosmtpd.smtp.SMTP(mailroom, loop=loop, hostname="mx.example", **named),
            "127.0.0.1",
            0,
            ssl=ssl_context,
        )
        servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()


class Script:
    """A server whose reply to a command is the next of its list (the last one ever after), by its first word.

    `.` is the end of the content, `hello` the connection. "": hang up. "!…": say it, then hang up. "?": never answer.
    """

    def __init__(self, **replies: str | list[str]) -> None:
        self.replies = {
            "hello": ["220 mx.example"],
            "EHLO": ["250-mx.example\r\n250 8BITMIME"],
            "RSET": ["250 ok"],
            "MAIL": ["250 ok"],
            "RCPT": ["250 ok"],
            "DATA": ["354 go"],
            ".": ["250 2.0.0 Ok: queued as X1"],
            "QUIT": ["221 bye"],
        } | {
            name.replace("dot", "."): [said] if isinstance(said, str) else said
            for name, said in replies.items()
        }
        self.said: list[str] = []
        self.content: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.most = 0
        self.ended = asyncio.Event()  # a connection
        self.silent = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self._serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            self.ended.set()
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        going = await self._answer("hello", writer)
        while going and (line := await reader.readline()):
            word = line.split()[0].decode()
            self.said.append(line.decode().strip())
            going = await self._answer(word, writer)
            if going and word == "DATA" and self.said_last.startswith("354"):
                self.content.append(await reader.readuntil(b"\r\n.\r\n"))
                going = await self._answer(".", writer)

    async def _answer(self, word: str, writer: asyncio.StreamWriter) -> bool:
        replies = self.replies.get(word, ["500 5.5.1 what?"])
        self.said_last = replies.pop(0) if len(replies) > 1 else replies[0]
        if self.said_last == "?":
            self.silent.set()
            await asyncio.Event().wait()
        if self.said_last:
            writer.write(f"{self.said_last.lstrip('!')}\r\n".encode())
            await writer.drain()
        return bool(self.said_last) and word != "QUIT" and not self.said_last.startswith(("421", "!"))


@pytest.fixture
def smtp() -> SettingsOf:
    def make(port: int, **named: Any) -> Settings:
        wanted: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "sender": "Shop <shop@example.com>",
            "allow_private": True,
            "timeout": 20.0,
        }
        return Settings(**wanted | named)

    return make


@pytest.fixture
def send(smtp: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message) -> Send:
    """One mail to a server on this port, from a dispatcher of its own."""

    async def make(port: int, body: bytes = b'"hello"', lookup: Any = None, **named: Any) -> Outcome:
        tls = named.pop("tls", None)
        extra: dict[str, Any] = {"lookup": lookup} if lookup else {}
        dispatcher = await dispatch({"mail": smtp(port, **named)}, tls=tls, **extra)
        return await attempt(dispatcher, message(body), "mail", ADDRESS)

    return make


Raw = Callable[..., Awaitable[str]]


async def port_of(serve_raw: Raw, script: Script) -> int:
    return int((await serve_raw(script)).rpartition(":")[2])


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server called mx.example, and of a client that trusts it."""
    pem = certificate(tmp_path / "mx.pem", "mx.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


# -- aiosmtpd ----------------------------------------------------------------------------------------------------------


async def test_a_mail_arrives_whole(
    aiosmtp: Callable[..., Awaitable[int]],
    mailroom: Mailroom,
    smtp: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
) -> None:
    dispatcher = await dispatch({"mail": smtp(await aiosmtp())})
    text = "naïve ☃\n.\n..\n.QUIT\n" + "long " * 400
    item = message(msgspec.json.encode({"text": text, "html": "<p>.</p>", "title": "Grüße"}))
    outcome = await attempt(dispatcher, item, "mail", ADDRESS)
    assert outcome == Outcome("accepted", "data: 250 2.0.0", code="250 2.0.0", provider_id="1")
    ((sender, recipients, seen),) = mailroom.mails
    assert (sender, recipients) == ("shop@example.com", [ADDRESS])
    assert seen["message-id"] == f"<{encode_id(item.id)}@example.com>"
    assert seen["subject"] == "Grüße"
    assert seen.get_body(("plain",)).get_content().splitlines() == text.splitlines()
    assert seen.get_body(("html",)).get_content().strip() == "<p>.</p>"


@pytest.mark.parametrize("text", [".", "..", ".\r\n.\r\n", "a\n.\nQUIT\n", "a\r.\rb", "", " "])
async def test_no_text_ends_the_mail_early(
    aiosmtp: Callable[..., Awaitable[int]], mailroom: Mailroom, send: Send, text: str
) -> None:
    port = await aiosmtp()
    assert (await send(port, msgspec.json.encode(f"x{text}"))).kind == "accepted"
    assert (await send(port, msgspec.json.encode(f"{text} "))).kind == "accepted"
    first, second = (seen.get_content() for _, _, seen in mailroom.mails)
    assert first.splitlines() == f"x{text}".splitlines()
    assert second.splitlines() == f"{text} ".splitlines()


async def test_mails_share_a_connection(
    aiosmtp: Callable[..., Awaitable[int]],
    mailroom: Mailroom,
    smtp: SettingsOf,
    dispatch: Dispatch,
    attempt: Attempt,
    message: Message,
) -> None:
    dispatcher = await dispatch({"mail": smtp(await aiosmtp())})
    for _ in range(5):
        assert (await attempt(dispatcher, message(b'"a"'), "mail", ADDRESS)).kind == "accepted"
    assert (len(mailroom.mails), len(mailroom.sessions)) == (5, 1)


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_tls_and_password(
    aiosmtp: Callable[..., Awaitable[int]],
    mailroom: Mailroom,
    send: Send,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    security: str,
) -> None:
    server, trusting = tls
    tried: list[tuple[bytes, bytes]] = []

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        tried.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    context = (
        {"ssl_context": server} if security == "tls" else {"tls_context": server, "require_starttls": True}
    )
    # aiosmtpd offers AUTH over TLS that it has begun itself only
    port = await aiosmtp(authenticator=check, auth_require_tls=security == "starttls", **context)
    named: dict[str, Any] = {
        "host": "mx.example", "security": security, "username": "shop", "tls": trusting, "lookup": Names(["127.0.0.1"])
    }  # fmt: skip
    assert (await send(port, password=PASSWORD, **named)).kind == "accepted"
    wrong = await send(port, password="wrong", **named)
    assert (wrong.kind, wrong.blame, wrong.code) == ("refused", "credential", "535 5.7.8")
    assert tried == [(b"shop", PASSWORD.encode()), (b"shop", b"wrong")]
    assert len(mailroom.mails) == 1


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_the_certificate_is_checked_against_the_name(
    aiosmtp: Callable[..., Awaitable[int]],
    mailroom: Mailroom,
    send: Send,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    security: str,
) -> None:
    server, trusting = tls
    port = await aiosmtp(**({"ssl_context": server} if security == "tls" else {"tls_context": server}))
    names = Names(["127.0.0.1"])
    refused = Outcome("retry", "TLS certificate not accepted")
    assert await send(port, host="other.example", security=security, tls=trusting, lookup=names) == refused
    assert await send(port, host="mx.example", security=security, lookup=names) == refused
    assert mailroom.mails == []


# -- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ({"hello": "554 5.7.1 go away"}, ("refused", "account", "554 5.7.1")),
        ({"hello": "421 4.3.2 later"}, ("retry", "", "421 4.3.2")),
        ({"EHLO": "550 no", "HELO": "550 no"}, ("refused", "account", "550")),
        ({"MAIL": "550 5.1.8 who?"}, ("refused", "account", "550 5.1.8")),
        ({"RCPT": "550 5.1.1 no such user"}, ("refused", "recipient", "550 5.1.1")),
        ({"RCPT": "450 4.2.0 greylisted"}, ("retry", "", "450 4.2.0")),
        ({"RCPT": "251 2.1.5 will forward"}, ("accepted", "", "250 2.0.0")),
        ({"DATA": "451 4.3.0 no"}, ("retry", "", "451 4.3.0")),
        ({"dot": "554 5.7.1 spam"}, ("refused", "message", "554 5.7.1")),
        ({"dot": "452 4.3.1 full"}, ("retry", "", "452 4.3.1")),
        ({"dot": "421 4.3.2 closing"}, ("retry", "", "421 4.3.2")),
        ({"RCPT": "550-5.1.1 no\r\n550 5.1.1 such user"}, ("refused", "recipient", "550 5.1.1")),
    ],
)
async def test_a_reply_decides(
    serve_raw: Raw, send: Send, replies: dict[str, str], outcome: tuple[str, str, str]
) -> None:
    seen = await send(await port_of(serve_raw, Script(**replies)))
    assert (seen.kind, seen.blame, seen.code) == outcome


async def test_a_server_without_starttls_gets_nothing(serve_raw: Raw, send: Send) -> None:
    script = Script(EHLO="250-mx.example\r\n250 AUTH PLAIN")
    outcome = await send(
        await port_of(serve_raw, script), security="starttls", username="shop", password=PASSWORD
    )
    assert outcome == Outcome("retry", "TLS failed")
    assert script.said == ["EHLO [127.0.0.1]"]


@pytest.mark.parametrize(
    ("offered", "said"),
    [("PLAIN LOGIN CRAM-MD5", "AUTH PLAIN"), ("LOGIN CRAM-MD5", "AUTH LOGIN"), ("GSSAPI", "")],
)
async def test_a_wrong_password_is_tried_once(serve_raw: Raw, send: Send, offered: str, said: str) -> None:
    script = Script(EHLO=f"250-mx.example\r\n250 AUTH {offered}", AUTH="535 5.7.8 no")
    outcome = await send(await port_of(serve_raw, script), username="shop", password=PASSWORD)
    assert (outcome.kind, outcome.blame) == ("refused", "credential")
    assert [line[: len(said)] for line in script.said[1:]] == [said] * bool(said)


async def test_a_mail_larger_than_the_servers_limit_is_not_sent(serve_raw: Raw, send: Send) -> None:
    script = Script(EHLO="250-mx.example\r\n250 SIZE 1000")
    port = await port_of(serve_raw, script)
    outcome = await send(port, b'"%b"' % (b"a" * 1000))
    assert (outcome.kind, outcome.blame, outcome.code) == ("refused", "message", "552 5.3.4")
    assert script.said == ["EHLO [127.0.0.1]"]
    assert (await send(port)).kind == "accepted"


async def test_our_own_name(serve_raw: Raw, send: Send) -> None:
    script = Script()
    await send(await port_of(serve_raw, script), hello="gw.example")
    assert script.said[0] == "EHLO gw.example"


# -- no reply ----------------------------------------------------------------------------------------------------------

BEFORE = ["hello", "EHLO", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("stage", BEFORE)
async def test_cut_off_before_the_content_is_definite(serve_raw: Raw, send: Send, stage: str) -> None:
    script = Script(**{stage: ""})
    assert await send(await port_of(serve_raw, script)) == Outcome("retry", "not connected")
    assert script.content == []


async def test_cut_off_after_the_content_is_ambiguous(serve_raw: Raw, send: Send) -> None:
    """Planted: `progress.sent` set after the reply instead of before it: retry, and the mail goes out twice."""
    script = Script(dot="")
    outcome = await send(await port_of(serve_raw, script))
    assert outcome == Outcome("ambiguous", "connection lost before the answer")
    assert len(script.content) == 1


@pytest.mark.parametrize("stage", BEFORE)
async def test_silence_before_the_content_is_definite(serve_raw: Raw, send: Send, stage: str) -> None:
    script = Script(**{stage: "?"})
    assert await send(await port_of(serve_raw, script), timeout=0.6) == Outcome(
        "retry", "not connected in time"
    )
    assert script.content == []


async def test_silence_after_the_content_is_ambiguous(serve_raw: Raw, send: Send) -> None:
    script = Script(dot="?")
    outcome = await send(await port_of(serve_raw, script), timeout=0.6)
    assert outcome == Outcome("ambiguous", "no answer in time")


@pytest.mark.parametrize("junk", ["hello there", "99", "150 what", "x" * 40_000])
@pytest.mark.parametrize("stage", [*BEFORE, "dot"])
async def test_what_is_not_smtp(serve_raw: Raw, send: Send, stage: str, junk: str) -> None:
    outcome = await send(await port_of(serve_raw, Script(**{stage: junk})), timeout=5.0)
    assert outcome.kind == ("ambiguous" if stage == "dot" else "retry")
    assert "internal" not in outcome.reason


async def test_nobody_there(send: Send) -> None:
    with socket.socket() as bound:  # bound, not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        assert await send(bound.getsockname()[1]) == Outcome("retry", "connection refused")


async def test_names(serve_raw: Raw, send: Send) -> None:
    unknown = Names(socket.gaierror(socket.EAI_NONAME, "no such name"))
    assert await send(25, host="mx.example", lookup=unknown) == Outcome("retry", "name not resolved")
    script = Script()
    both = Names(["127.0.0.77", "127.0.0.1"])  # nobody is at the first one
    outcome = await send(await port_of(serve_raw, script), host="mx.example", lookup=both)
    assert (outcome.kind, both.asked) == ("accepted", ["mx.example"])


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("mx.example", ["10.0.0.1"]),
        ("mx.example", ["93.184.215.14", "127.0.0.1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("2130706433", ["127.0.0.1"]),
        ("::ffff:127.0.0.1", ["::ffff:127.0.0.1"]),
    ],
)
async def test_addresses_that_are_not_public_are_refused(
    serve_raw: Raw, send: Send, host: str, found: list[str]
) -> None:
    script = Script()
    port = await port_of(serve_raw, script)
    outcome = await send(port, host=host, lookup=Names(found), allow_private=False, security="tls")
    assert outcome == Outcome("refused", "address not public", blame="account")
    assert script.connections == 0


# -- connections that are kept -----------------------------------------------------------------------------------------


@pytest.fixture
def many(
    smtp: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> Callable[..., Awaitable[Callable[[], Awaitable[Outcome]]]]:
    """A dispatcher for several mails."""

    async def make(port: int, **named: Any) -> Callable[[], Awaitable[Outcome]]:
        dispatcher = await dispatch({"mail": smtp(port, **named)})
        return lambda: attempt(dispatcher, message(b'"a"'), "mail", ADDRESS)

    return make


@pytest.mark.parametrize(
    "again", [{"RSET": ""}, {"RSET": "421 4.4.2 timeout"}, {"RSET": "500 what?"}, {"RSET": "junk"}]
)
async def test_a_kept_connection_that_is_no_good_costs_no_attempt(
    serve_raw: Raw, many: Any, again: dict[str, str]
) -> None:
    script = Script(**again)
    one = await many(await port_of(serve_raw, script))
    assert [(await one()).kind for _ in range(3)] == ["accepted"] * 3
    assert (script.connections, len(script.content)) == (3, 3)


async def test_a_server_that_hung_up_meanwhile(
    serve_raw: Raw, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rest, "ask", lambda *_: None)  # a 421 would let the channel rest
    script = Script(dot="!250 ok")
    one = await many(await port_of(serve_raw, script))
    assert [(await one()).kind for _ in range(3)] == ["accepted"] * 3
    assert (script.connections, len(script.content)) == (3, 3)


@pytest.mark.parametrize("refusal", [{"RCPT": "550 5.1.1 no"}, {"dot": "554 5.7.1 spam"}, {"MAIL": "451 no"}])
async def test_a_refusal_keeps_the_connection(serve_raw: Raw, many: Any, refusal: dict[str, str]) -> None:
    script = Script(**{name: [said, "250 ok"] for name, said in refusal.items()})
    one = await many(await port_of(serve_raw, script))
    await one()
    assert (await one()).kind == "accepted"
    assert script.connections == 1
    assert "RSET" in script.said


async def test_an_attempt_without_a_reply_ends_its_connection(serve_raw: Raw, many: Any) -> None:
    """Planted: the connection put back: the late reply to the first mail would answer for the second."""
    script = Script(dot=["?", "554 no"])
    one = await many(await port_of(serve_raw, script), timeout=0.6)
    assert [(await one()).kind for _ in range(2)] == ["ambiguous", "refused"]
    assert script.connections == 2


async def test_never_more_connections_than_attempts(serve_raw: Raw, many: Any) -> None:
    script = Script()
    one = await many(await port_of(serve_raw, script), concurrency=3)
    for _ in range(3):
        outcomes = await asyncio.gather(*(one() for _ in range(3)))
        assert [outcome.kind for outcome in outcomes] == ["accepted"] * 3
    assert (script.connections, script.most) == (3, 3)


async def test_a_connection_carries_a_number_of_mails(
    serve_raw: Raw, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MAILS", 2)
    script = Script()
    one = await many(await port_of(serve_raw, script))
    for _ in range(5):
        await one()
    assert (script.connections, script.most, script.said.count("QUIT")) == (3, 1, 2)


async def test_an_idle_connection_is_closed_politely(
    serve_raw: Raw, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 0.01)
    script = Script()
    one = await many(await port_of(serve_raw, script))
    await one()
    await script.ended.wait()
    assert script.said[-1] == "QUIT"
    assert (await one()).kind == "accepted"
    assert script.connections == 2


async def test_closing_ends_what_is_kept_and_what_is_open(
    serve_raw: Raw, smtp: SettingsOf, dispatch: Dispatch, attempt: Attempt, message: Message
) -> None:
    script = Script(dot=["250 ok", "?"])
    dispatcher = await dispatch({"mail": smtp(await port_of(serve_raw, script))})
    await attempt(dispatcher, message(b'"a"'), "mail", ADDRESS)
    done: list[Outcome] = []
    dispatcher.send("mail", message(b'"b"'), 1, ADDRESS, done.append)
    await script.silent.wait()
    await dispatcher.close()
    await dispatcher.close()
    assert done == []
