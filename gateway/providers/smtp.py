"""E-mail over SMTP: mails out of messages, outcomes out of a server's replies. Pure; `smtp_carrier.py` talks to it.

Sources: RFC 5321 (SMTP), RFC 3463 and RFC 5248 (enhanced status codes), RFC 4954 (AUTH), RFC 7505 (null MX).

A reply is an Answer whose status is the reply's code and whose header `stage` is what was asked: `connect` (greeting,
EHLO, STARTTLS), `auth`, `mail`, `rcpt` or `data`. Every reply is definite: it is an attempt without one, after the
content has been sent, that is ambiguous.
"""

import hashlib
import ipaddress
import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate

from gateway.config.channels import Smtp as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.addresses import is_loopback
from gateway.providers.content import Content, content_of
from gateway.providers.mail import enhanced_of, learnt_of, mailbox_of, recipient_of, subject_of
from gateway.providers.provider import Answer, Mail, Send, Unsendable, line

AGAIN = 60.0  # s: the least wait after a 4xx, which is often a greylist

# enhanced code of a refusal -> blame. Where the last digit is not here, its first two may be.
ENHANCED = {
    "5.1.1": "recipient",
    "5.1.2": "recipient",
    "5.1.3": "recipient",
    "5.1.6": "recipient",
    "5.1.7": "account",  # the sender's address
    "5.1.8": "account",  # the sender's domain
    "5.1.10": "recipient",
    "5.2": "recipient",
    "5.2.3": "message",
    "5.3.4": "message",
    "5.4": "recipient",
    "5.6": "message",
    "5.7.8": "credential",
    "5.7.9": "credential",
    "5.7.13": "credential",
    "5.7.20": "account",  # to 5.7.27: DKIM, SPF, reverse DNS of the sender
    "5.7.21": "account",
    "5.7.22": "account",
    "5.7.23": "account",
    "5.7.24": "account",
    "5.7.25": "account",
    "5.7.26": "account",
    "5.7.27": "account",
}
# a refusal at this stage -> blame, where no code above says more
STAGES = {"connect": "account", "auth": "credential", "mail": "account", "rcpt": "account", "data": "message"}
# a reply's code at this stage, before STAGES
REPLIES = {
    ("mail", 530): "credential",
    ("mail", 552): "message",
    ("rcpt", 530): "credential",
    ("rcpt", 550): "recipient",
    ("rcpt", 551): "recipient",
    ("rcpt", 552): "recipient",
    ("rcpt", 553): "recipient",
    ("rcpt", 556): "recipient",
}

_ABOUT_RECIPIENT = ("rcpt", "data")

_queued = re.compile(r"queued as ([0-9A-Za-z.@_<>+-]{1,80})").search
_name = re.compile(r"[A-Za-z0-9._-]+").fullmatch
_header = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
# what is ours, or would change who gets it
_reserved = re.compile(
    r"(from|sender|to|cc|bcc|reply-to|subject|date|message-id|mime-version|auto-submitted|received|return-path"
    r"|(content|resent|dkim|arc)-.*)",
    re.IGNORECASE,
).fullmatch
_policy = SMTP.clone(cte_type="7bit")  # for a server that knows no 8BITMIME, and for signatures underway


class Smtp:
    """A channel of kind `smtp`."""

    __slots__ = ("_domain", "_from", "_reply_to", "_sender", "_subject")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError. There are no callbacks: a server reports what failed by mail."""
        at = f"channels.{name}"
        self._from, self._sender = _mailbox(settings.sender, f"{at}.sender")
        self._domain = self._sender.rpartition("@")[2]
        self._reply_to = _mailbox(settings.reply_to, f"{at}.reply_to")[0] if settings.reply_to else None
        self._subject = subject_of(settings.subject)
        _check(settings, at)

    def request(self, send: Send) -> Mail:
        """The mail. Its Message-ID is the same in every attempt: some mailboxes show a repetition once."""
        recipient = recipient_of(send.address)
        content = content_of(send.item, "smtp", needs_text=False)
        mail = EmailMessage(_policy)
        mail["From"] = self._from
        mail["To"] = Address(addr_spec=recipient)
        if self._reply_to:
            mail["Reply-To"] = self._reply_to
        mail["Subject"] = subject_of(content.title) or self._subject
        mail["Date"] = formatdate(send.item.at / 1000)
        mail["Message-ID"] = f"<{send.id}@{self._domain}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer of a machine is wanted
        _add_headers(mail, content)
        _add_content(mail, content, send.id)
        return Mail(mail, self._sender, recipient)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        stage, status = answer.headers["stage"], answer.status
        said = line(answer.body.decode("utf-8", "replace"))
        enhanced = enhanced_of(said)
        code = f"{status} {enhanced}".strip()
        if status < 400:
            match = _queued(said)
            return Outcome("accepted", f"{stage}: {code}", code=code, provider_id=match[1] if match else "")
        # what is said of AUTH may quote what was sent
        reason = line(f"{stage}: {code if stage == 'auth' else f'{status} {said}'}")
        if status < 500:
            pause = "account" if status == 421 or stage in {"connect", "auth"} else ""
            return Outcome("retry", reason, code=code, retry_after=AGAIN, pause=pause)
        learnt = learnt_of(enhanced) if stage in _ABOUT_RECIPIENT else ""
        blame = _blame(stage, status, enhanced)
        return Outcome("refused", reason, blame=blame, code=code, learnt=learnt)


def _blame(stage: str, status: int, enhanced: str) -> str:
    blame = ENHANCED.get(enhanced) or ENHANCED.get(enhanced.rpartition(".")[0])
    if blame == "recipient" and stage not in _ABOUT_RECIPIENT:
        blame = None
    if blame is None and not enhanced.startswith(
        "5.7."
    ):  # a policy: relaying, a blocklist, what the mail says
        blame = REPLIES.get((stage, status))
    return blame or STAGES[stage]


def _check(settings: Settings, at: str) -> None:
    """Raises ConfigError for a server that cannot be, or where mails or a password would go in the clear."""
    host = settings.host
    if not _name(host) and not _is_address(host):
        raise ConfigError(f"{at}.host: must be a name or an address", field=f"{at}.host")
    if settings.proxies:
        raise ConfigError(f"{at}.proxies: this kind has none", field=f"{at}.proxies")
    if bool(settings.username) != bool(settings.password):
        missing = f"{at}.{'password' if settings.username else 'username'}"
        raise ConfigError(f"{missing}: user and password go together", field=missing)
    if settings.security == "none" and not settings.allow_private and not is_loopback(host):
        raise ConfigError(f"{at}.security: `none` needs allow_private = true", field=f"{at}.security")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _mailbox(text: str, field: str) -> tuple[Address, str]:
    name, address = mailbox_of(text, field)
    return Address(name, addr_spec=address), address


def _add_headers(mail: EmailMessage, content: Content) -> None:
    """Those of the sender, `{"smtp": {"headers": {"List-Unsubscribe": "…"}}}`. Raises Unsendable."""
    headers = content.native.get("headers", {})
    if content.native.keys() - {"headers"} or not isinstance(headers, dict):
        raise Unsendable("`smtp` of the body may hold `headers`, an object, and nothing else")
    for name, value in headers.items():
        if not _header(name) or _reserved(name):
            raise Unsendable(f"`smtp.headers`: {line(name)} is not for the sender to set")
        if not isinstance(value, str) or not value.isprintable() or name in mail:
            raise Unsendable(f"`smtp.headers`: {line(name)} is not one line of text")
        mail[name] = value


def _add_content(mail: EmailMessage, content: Content, message_id: str) -> None:
    if not content.text and not content.html:
        raise Unsendable("the body has neither `text` nor `html`")
    if not content.html:
        mail.set_content(content.text)
    elif not content.text:
        mail.set_content(content.html, subtype="html")
    else:
        mail.set_content(content.text)
        mail.add_alternative(content.html, subtype="html")
        # a boundary that is not drawn: the same message makes the same mail
        seen = f"{message_id}\0{content.text}\0{content.html}".encode("utf-8", "surrogatepass")
        mail.set_boundary(f"=_{hashlib.sha256(seen).hexdigest()[:32]}")


PROVIDER = Smtp
