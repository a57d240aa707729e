"""A receiver of Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks). Pure.

The body of a message is the same in every attempt, and so is `webhook-id`: a receiver that remembers it processes the
message once. `webhook-timestamp`, and with it the signature, is of the attempt.
"""

import base64
import binascii
import hmac

import msgspec
from msgspec import Raw, Struct

from gateway import __version__
from gateway.config.channels import Webhook as Settings
from gateway.errors import ConfigError
from gateway.ports import Outcome
from gateway.providers.provider import Answer, Request, Send, reason_of, retry_after, rfc3339
from gateway.providers.settings import check_url

_AGAIN = frozenset((408, 425, 429))
_SLOWER = frozenset((429, 502, 504))
_BLAME = {401: "credential", 403: "credential", 410: "recipient"}


class Data(Struct, frozen=True, kw_only=True):
    """The message, as its receiver sees it. `at`: Unix ms of its acceptance; what it has none of is null."""

    id: str
    to: str
    sender: str = msgspec.field(name="from")
    at: int
    type: str | None
    body: Raw
    meta: dict[str, str] | None
    trace: str


class Payload(Struct, frozen=True, kw_only=True):
    """The body of the request (PROTOCOL 6). `timestamp`: RFC 3339, when the message was accepted."""

    type: str
    timestamp: str
    data: Data


class Webhook:
    """A channel of kind `webhook`."""

    __slots__ = ("_keys", "_url")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where a secret cannot be read, or where messages would cross a network in the clear."""
        secrets = (settings.secret,) if isinstance(settings.secret, str) else settings.secret
        field = f"channels.{name}.secret"
        if not secrets:
            raise ConfigError(
                f"{field}: must be `whsec_` and base64 of 24 to 64 bytes, or a list of such", field=field
            )
        self._url = settings.url
        self._keys = tuple(_key(secret, field) for secret in secrets)
        check_url(settings.url, settings, f"channels.{name}.url")

    def request(self, send: Send) -> Request:
        """The signed request of one attempt."""
        item, extra = send.item, send.item.x
        if item.body is None:
            raise ValueError("the message has no body")
        timestamp = str(int(send.wall))
        data = Data(
            id=send.id,
            to=item.client,
            sender=item.sender,
            at=item.at,
            type=extra.type if extra else None,
            body=Raw(item.body),
            meta=extra.meta if extra else None,
            trace=send.trace,
        )
        body = msgspec.json.encode(Payload(type="message", timestamp=rfc3339(item.at), data=data))
        return Request(
            url=self._url,
            headers={
                "content-type": "application/json",
                "user-agent": f"bot-gateway/{__version__}",
                "webhook-id": send.id,
                "webhook-timestamp": timestamp,
                "webhook-signature": sign(self._keys, send.id, timestamp, body),
            },
            body=body,
        )

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means (PROTOCOL 6, last line)."""
        status = answer.status
        if 200 <= status < 300:
            return Outcome("delivered", f"HTTP {status}", status=status)
        reason = reason_of(answer)
        # 600 and above is a server's error (RFC 9110 15)
        if status in _AGAIN or status >= 500:
            # 429, 502 and 504 ask to slow down (Standard Webhooks, "Responding to webhooks")
            pause = "account" if status in _SLOWER else ""
            return Outcome("retry", reason, retry_after=retry_after(answer, wall), status=status, pause=pause)
        if (
            status < 200
        ):  # 101: another protocol, never asked for; what became of the message is anyone's guess
            return Outcome("ambiguous", reason, status=status)
        return Outcome("refused", reason, blame=_BLAME.get(status, "message"), status=status)


def _key(secret: str, field: str) -> bytes:
    """Raises ConfigError, which does not quote it."""
    prefix, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec" or not 24 <= len(key) <= 64:
        raise ConfigError(
            f"{field}: must be `whsec_` and base64 of 24 to 64 bytes, or a list of such", field=field
        )
    return key


def sign(keys: tuple[bytes, ...], message_id: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`: one HMAC-SHA256 for each key, so that a secret can be rotated."""
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)


PROVIDER = Webhook
