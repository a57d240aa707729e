"""What the kinds that send e-mail share: addresses, and what an enhanced status code says of one. Pure."""

import re
from email.utils import parseaddr

from gateway.errors import ConfigError
from gateway.providers.provider import Unsendable

# RFC 5321 4.1.2, 4.5.3.1 without quoted local parts; a domain in other letters is written in its `xn--` form
_address = re.compile(
    r"(?=.{3,254}\Z)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
).fullmatch
_enhanced = re.compile(r"(?<![0-9.])([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])").search

# RFC 3463 3.2, RFC 7505 4.2: no such mailbox; moved, nobody knows where; a domain that takes no mail. Not 5.1.2 (its
# domain is not found: a mistake of DNS looks the same) and not 5.2.1 (disabled: perhaps for a while).
GONE = frozenset(("5.1.1", "5.1.6", "5.1.10"))


def recipient_of(address: str) -> str:
    """The address, which is one of e-mail. Raises Unsendable."""
    if not _address(address):
        raise Unsendable("not an e-mail address", blame="recipient")
    return address


def mailbox_of(text: str, field: str) -> tuple[str, str]:
    """Name ("": none) and address of `Name <address>` or `address`. Raises ConfigError."""
    name, address = parseaddr(text)
    if not text.isprintable() or not _address(address):
        raise ConfigError(f"{field}: must be an address, or `Name <address>`", field=field)
    return name, address


def subject_of(text: str) -> str:
    """One line. Never a line end: that would begin a header."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def enhanced_of(text: str) -> str:
    """The first enhanced status code (RFC 3463) in a server's words; "": none."""
    match = _enhanced(text)
    return match[1] if match else ""


def learnt_of(code: str) -> str:
    """What an enhanced status code teaches about the address: `gone`, or nothing."""
    return "gone" if code in GONE else ""
