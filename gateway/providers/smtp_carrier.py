"""SMTP for one channel: an exchange is one mail, and gives the reply that decided, or says why there is none.

Whether an attempt that failed may be made again without a risk hangs on one question: may the server have the whole
mail, with the dot that ends it? Until the content is written it has not: no reply is `retry`. From then on, until the
reply to it has been read, nobody knows (RFC 5321 4.5.3.2.6). A reply decides, whatever becomes of the connection.

Connections are kept for the next mail, never more than attempts are open at once: RSET asks whether one is still good.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from email.policy import SMTP as MAIL

import aiosmtplib
from aiosmtplib import SMTPResponseException

from gateway.config.channels import Smtp as Settings
from gateway.providers.http import CONNECT_SHARE, NoAnswer
from gateway.providers.provider import Answer, Mail
from gateway.providers.resolver import CheckedResolver, Lookup

IDLE = 20.0  # s that a connection is kept without a mail; few servers hang up before 30
MAX_MAILS = 100  # on one connection; some servers refuse more
MAX_ADDRESSES = 4  # of a name are tried
PORTS = {"tls": 465, "starttls": 587, "none": 25}
# with TLS underneath the plain ones are as good, and a wrong password counts once
METHODS = ("plain", "login", "cram-md5")

_line_end = re.compile(rb"\r\n|\r|\n")
_dot = re.compile(rb"^\.", re.MULTILINE)
_policy = MAIL.clone(cte_type="7bit")


class _Replied(Exception):
    """A reply that ends the exchange."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__()
        self.answer = Answer(code, {"stage": stage}, text.encode("utf-8", "replace"))


class _Line:
    """A connection."""

    __slots__ = ("idle", "mails", "smtp")

    def __init__(self, smtp: aiosmtplib.SMTP) -> None:
        self.smtp = smtp
        self.mails = 0
        self.idle: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """Closing would first wait, without end, for a peer that does not read."""
        transport = self.smtp.transport
        self.smtp.close()
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def bye(self) -> None:
        protocol = self.smtp.protocol
        if protocol is not None:
            with contextlib.suppress(OSError):
                protocol.write(b"QUIT\r\n")
        self.abort()


class _Progress:
    """How far an exchange has come."""

    __slots__ = ("line", "sent", "whole")

    def __init__(self) -> None:
        self.line: _Line | None = None
        self.sent = False  # the server may have the mail
        self.whole = False  # every command was answered; the connection can be used again


class SmtpCarrier:
    """A pool of connections of its own, with lookups of its own. Made on the loop; closed by `close`."""

    def __init__(self, settings: Settings, lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        """`tls`: in place of the machine's trusted authorities."""
        self._settings = settings
        self._resolver = CheckedResolver(lookup, settings.allow_private)
        self._port = settings.port or PORTS[settings.security]
        self._tls = (tls or ssl.create_default_context()) if settings.security != "none" else None
        self._idle: list[_Line] = []

    async def close(self) -> None:
        while self._idle:
            self._drop(self._idle[-1])

    async def exchange(self, mail: Mail, address: str = "") -> Answer:
        """Hand over the mail, within the channel's timeout. Raises NoAnswer, nothing else, unless the task is
        cancelled.
        """
        progress = _Progress()
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._converse(mail, progress)
        except _Replied as replied:
            return replied.answer
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise NoAnswer(sent=progress.sent) from error  # from within: nobody cancelled this attempt
        except SMTPResponseException:
            raise NoAnswer(sent=progress.sent) from ConnectionError("no SMTP")
        except Exception as error:
            raise NoAnswer(sent=progress.sent) from error
        finally:
            if progress.line is not None:
                self._put_back(progress.line, progress.whole)

    async def _converse(self, mail: Mail, progress: _Progress) -> Answer:
        content = _dot.sub(b"..", _line_end.sub(b"\r\n", mail.message.as_bytes(policy=_policy)))
        content += b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"
        line = progress.line = await self._line()
        smtp = line.smtp
        if 0 < _size_of(smtp) < len(content):
            progress.whole = True
            raise _Replied("mail", 552, "5.3.4 larger than the server's SIZE")
        try:
            await _ask(smtp, "mail", b"MAIL", b"FROM:<%b>" % mail.sender.encode())
            await _ask(smtp, "rcpt", b"RCPT", b"TO:<%b>" % mail.recipient.encode())
            await _ask(smtp, "data", b"DATA", wanted=354)
            protocol = smtp.protocol
            if protocol is None:
                raise ConnectionResetError
            protocol.write(content)
            progress.sent = True
            code, text = await protocol.read_response()
        except _Replied as replied:
            progress.whole = replied.answer.status != 421
            raise
        if code < 200:
            raise SMTPResponseException(code, text)
        progress.whole = code != 421
        line.mails += 1
        return Answer(code, {"stage": "data"}, text.encode("utf-8", "replace"))

    async def _line(self) -> _Line:
        """A connection that is ready for a mail: one that was kept, or a new one."""
        while self._idle:
            line = self._idle.pop()
            assert line.idle is not None
            line.idle.cancel()
            try:
                if (await line.smtp.execute_command(b"RSET")).code == 250:
                    return line
            except (OSError, SMTPResponseException):
                pass  # the server has hung up: nothing is lost by that
            except asyncio.CancelledError:
                line.abort()
                raise
            line.abort()
        async with asyncio.timeout(self._settings.timeout * CONNECT_SHARE):
            return await self._connect()

    async def _connect(self) -> _Line:
        settings = self._settings
        sock = await self._socket()
        at = sock.getsockname()[0]
        literal = f"[IPv6:{at.partition('%')[0]}]" if ":" in at else f"[{at}]"
        smtp = aiosmtplib.SMTP(
            hostname=settings.host,
            local_hostname=settings.hello or literal,
            timeout=None,
            use_tls=settings.security == "tls",
            start_tls=False,
            tls_context=self._tls,
            sock=sock,
        )
        line = _Line(smtp)
        stage = "connect"
        try:
            await smtp.connect()
            await smtp.ehlo()
            if settings.security == "starttls":
                if not smtp.supports_extension("starttls"):
                    raise ssl.SSLError("the server offers no STARTTLS")
                await smtp.starttls()
                await smtp.ehlo()
            if settings.username:
                stage = "auth"
                await self._authenticate(smtp)
        except SMTPResponseException as error:
            line.abort()
            if error.code < 200:
                raise
            raise _Replied(stage, error.code, error.message) from None
        except BaseException as error:
            line.abort()
            # what went wrong with TLS hides behind the library's own error
            if isinstance(error.__cause__, ssl.SSLError | TimeoutError):
                raise error.__cause__ from None
            raise
        return line

    async def _socket(self) -> socket.socket:
        """Connected to one of the server's addresses, which are resolved once and checked. Raises OSError,
        AddressRefused.
        """
        loop = asyncio.get_running_loop()
        try:
            found = (await self._resolver.resolve(self._settings.host, self._port))[:MAX_ADDRESSES]
        except OSError as error:
            raise socket.gaierror(socket.EAI_NONAME, "name not resolved") from error
        share = self._settings.timeout * CONNECT_SHARE / len(found)
        failure: Exception = OSError()
        for address in found:
            ((family, kind, proto, _, where), *_) = await loop.getaddrinfo(
                address["host"], self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                async with asyncio.timeout(share):
                    await loop.sock_connect(sock, where)
            except (OSError, TimeoutError) as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure

    async def _authenticate(self, smtp: aiosmtplib.SMTP) -> None:
        settings = self._settings
        method = next((name for name in METHODS if name in smtp.server_auth_methods), None)
        if method is None:
            raise SMTPResponseException(504, "5.5.4 no mechanism in common")
        login = {"plain": smtp.auth_plain, "login": smtp.auth_login, "cram-md5": smtp.auth_crammd5}[method]
        await login(settings.username, settings.password)

    def _put_back(self, line: _Line, whole: bool) -> None:
        if not whole or not line.smtp.is_connected:
            line.abort()
        elif line.mails >= MAX_MAILS:
            line.bye()
        else:
            line.idle = asyncio.get_running_loop().call_later(IDLE, self._drop, line)
            self._idle.append(line)

    def _drop(self, line: _Line) -> None:
        assert line.idle is not None
        line.idle.cancel()
        self._idle.remove(line)
        line.bye()


async def _ask(smtp: aiosmtplib.SMTP, stage: str, *command: bytes, wanted: int = 250) -> None:
    """Raises _Replied for another reply. 251: the recipient is not local, and the server forwards."""
    code, text = await smtp.execute_command(*command)
    if code != wanted and not (code == 251 and stage == "rcpt"):
        if code < 400:
            raise SMTPResponseException(code, text)
        raise _Replied(stage, code, text)


def _size_of(smtp: aiosmtplib.SMTP) -> int:
    """The server's limit (RFC 1870), in bytes; 0: not told."""
    text = smtp.esmtp_extensions.get("size", "")
    return int(text) if text.isdecimal() else 0
