"""Attempts that brought no answer: what each failure means, in reasons that stay the same; and what an outcome says
about the way to the provider. Pure.
"""

import socket
import ssl

import aiohttp

from gateway.ports import Outcome
from gateway.providers.proxies import ProxyFailed
from gateway.providers.resolver import AddressRefused

INTERNAL = "internal error"


class NotThroughProxy(Exception):
    """Plain HTTP has no tunnel: a proxy would read it, and its failures could not be told from the receiver's."""


def failed(error: BaseException, *, sent: bool, theirs: bool = False) -> Outcome:
    """The outcome of an attempt without an answer. `sent`: bytes of the request may have left. `theirs`: the URL is the
    recipient's address: whatever fails there is nobody else's fault, and says nothing about the account.
    """
    # of an URL that is ours only a change of the configuration helps: the account's fault, not the message's
    blame = "recipient" if theirs else "account"
    if isinstance(error, AddressRefused):
        return Outcome("refused", "address not public", blame=blame)
    if isinstance(error, aiohttp.InvalidURL):
        return Outcome("refused", "not a usable URL", blame=blame)
    if isinstance(error, NotThroughProxy):
        return Outcome("refused", "plain HTTP does not go through a proxy", blame=blame)
    if isinstance(error, ProxyFailed):
        return Outcome("retry", error.reason)
    blame = "recipient" if theirs else ""
    if sent:
        return Outcome("ambiguous", _afterwards(error), blame)
    return Outcome("retry", reason_before(error), blame)


def way_is_good(outcome: Outcome) -> bool | None:
    """Whether an attempt shows that the account and the way to it work; None: it does not tell. A refusal that blames
    the message or the recipient is an answer like any other; a bug of ours is none. Nor is what failed at an address
    that is a URL: whoever chose it must be able neither to open the breaker nor to close it.
    """
    if outcome.kind in {"accepted", "delivered"}:
        return True
    if outcome.blame == "recipient" and outcome.kind != "refused":
        return None
    if outcome.blame in {"account", "credential"} or outcome.status >= 500:
        return False
    if outcome.kind == "refused" or outcome.status or outcome.code:
        return True
    return None if outcome.reason.startswith(INTERNAL) else False


def reason_before(error: BaseException | None) -> str:
    """Why there was no connection."""
    match error:
        case aiohttp.ClientHttpProxyError(status=status):
            return f"HTTP {status} to CONNECT"
        case TimeoutError():
            return "not connected in time"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "TLS certificate not accepted"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "TLS failed"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return "name not resolved"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()) | ConnectionRefusedError():
            return "connection refused"
        case aiohttp.ClientError() | OSError():
            return "not connected"
        case _:
            return _internal(error)


def _afterwards(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientResponseError():
            return "answer is not HTTP"
        case aiohttp.ClientError() | OSError():
            return "connection lost before the answer"
        case _:
            return _internal(error)


def _internal(error: BaseException | None) -> str:
    return f"{INTERNAL}: {type(error).__name__}"
