"""Addresses of a person: what may stand in a client's record, and the one way in which it is written there.

Telephone numbers are checked by `phonenumbers` (Google's libphonenumber): whether their country has numbers of this
form, not whether anybody answers.
"""

import re

from gateway.errors import Invalid

MAX_ADDRESS = 4096  # characters; a Web Push subscription has some 400
MAX_EMAIL = 254  # characters (RFC 5321 4.5.3.1.3, erratum 1690)
# what browsers take for `<input type=email>` (HTML, 4.10.5.1.5), with a dot in the domain
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_email_form = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})+").fullmatch


def normal(kind: str, text: str, field: str) -> str:
    """`text` as it is kept: an address of this kind (the name under which a record has it). Raises Invalid.

    `phone`: E.164, `+` and at most 15 digits; spaces, dots, hyphens and brackets go. `email`: its domain in lower case.
    Of other kinds nothing is known but that they are printable.
    """
    if not text or len(text) > MAX_ADDRESS or not text.isprintable():
        raise _wrong(kind, f"must be 1 to {MAX_ADDRESS} printable characters", field)
    if kind == "phone":
        return _phone(text, field)
    if kind == "email":
        return _email(text, field)
    return text


def _phone(text: str, field: str) -> str:
    import phonenumbers  # noqa: PLC0415 - its tables are large, and most gateways have no numbers

    if not text.startswith("+") or any(c.isalpha() for c in text):
        raise _wrong("phone", "must be E.164: +, the country's code and digits", field)
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as error:
        raise _wrong("phone", f"is no telephone number: {_why(error)}", field) from None
    if number.extension or not phonenumbers.is_valid_number(number):
        raise _wrong("phone", "is no number of its country", field)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _why(error: Exception) -> str:
    """What the library says, without the number."""
    return str(error).removeprefix(f"({getattr(error, 'error_type', '')}) ").rstrip(".").lower()


def is_email(text: str) -> bool:
    """Whether `text` has the form of an e-mail address."""
    return len(text) <= MAX_EMAIL and _email_form(text) is not None


def _email(text: str, field: str) -> str:
    if not is_email(text):
        raise _wrong("email", "is no e-mail address", field)
    user, _, domain = text.rpartition("@")
    return f"{user}@{domain.lower()}"


def _wrong(kind: str, why: str, field: str) -> Invalid:
    return Invalid(f"`{kind}` {why}", code="address_invalid", field=field)
