"""A receiver of Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks). Pure.

The body of a message is the same in every attempt, and so is `webhook-id`: a receiver that remembers it processes the
message once. `webhook-timestamp`, and with it the signature, is of the attempt.
"""

import base64
import binascii
import hmac

import msgspec
from msgspec import Raw, Struct
from yarl import URL

from gateway import __version__
from gateway.config.schema import Webhook as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.addresses import is_loopback
from gateway.providers.provider import Answer, Request, reason_of, retry_after, rfc3339

_AGAIN = frozenset((408, 425, 429))
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

    def __init__(self, name: str, settings: Settings) -> None:
        """Raises ConfigError where a secret cannot be read, or where messages would cross a network in the clear."""
        secrets = (settings.secret,) if isinstance(settings.secret, str) else settings.secret
        self._url = settings.url
        self._keys = tuple(_key(secret, f"channels.{name}.secret") for secret in secrets)
        check_url(settings, f"channels.{name}.url")

    def request(self, item: Item, trace: str, wall: float) -> Request:
        """The request of one attempt. `item` has its body."""
        return request(item, trace, self._url, self._keys, wall)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What the answer means."""
        return outcome(answer, wall)


def check_url(settings: Settings, field: str) -> None:
    """Raises ConfigError unless `settings.url` is a URL, and https unless it stays inside."""
    try:
        url = URL(settings.url)
    except ValueError as e:
        raise ConfigError(f"{field}: not a URL: {e}", field=field) from None
    if url.scheme == "http" and not settings.allow_private and not is_loopback(url.raw_host or ""):
        raise ConfigError(f"{field}: must be https; plain http needs allow_private = true", field=field)


def _key(secret: str, field: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{field}: must be `whsec_` and base64", field=field) from None


def request(item: Item, trace: str, url: str, keys: tuple[bytes, ...], wall: float) -> Request:
    """The signed request of one attempt. Raises ValueError where the item came without its body."""
    if item.body is None:
        raise ValueError("the message has no body")
    message_id, timestamp = encode_id(item.id), str(int(wall))
    extra = item.x
    data = Data(
        id=message_id,
        to=item.client,
        sender=item.sender,
        at=item.at,
        type=extra.type if extra else None,
        body=Raw(item.body),
        meta=extra.meta if extra else None,
        trace=trace,
    )
    body = msgspec.json.encode(Payload(type="message", timestamp=rfc3339(item.at), data=data))
    return Request(
        url=url,
        headers={
            "content-type": "application/json",
            "user-agent": f"bot-gateway/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(keys, message_id, timestamp, body),
        },
        body=body,
    )


def sign(keys: tuple[bytes, ...], message_id: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`: one HMAC-SHA256 for each key, so that a secret can be rotated."""
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)


def outcome(answer: Answer, wall: float) -> Outcome:
    """What an answer means (PROTOCOL 6, last line)."""
    status = answer.status
    if 200 <= status < 300:
        return Outcome("delivered", f"HTTP {status}", status=status)
    reason = reason_of(answer)
    # 600 and above is a server's error (RFC 9110 15)
    if status in _AGAIN or status >= 500:
        return Outcome("retry", reason, retry_after=retry_after(answer, wall), status=status)
    if status < 200:  # 101: another protocol, never asked for; what became of the message is anyone's guess
        return Outcome("ambiguous", reason, status=status)
    return Outcome("refused", reason, blame=_BLAME.get(status, "message"), status=status)
