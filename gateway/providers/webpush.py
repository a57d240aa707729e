"""Web Push: RFC 8030 (the request), 8291 (the encryption), 8292 (VAPID). Pure.

The address is a URL that whoever subscribed has chosen. So nothing that is met there says anything about the account:
each refusal, wait and failure is this recipient's alone. Where it may lead is checked when the connection is made.
"""

import base64
import re
from hashlib import sha256
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct
from msgspec.structs import replace

from gateway.config.channels import WebPush as Settings
from gateway.errors import ConfigError
from gateway.model import PRIORITIES
from gateway.ports import Outcome
from gateway.providers.content import content_of
from gateway.providers.provider import (
    Answer,
    Request,
    Send,
    Unsendable,
    line,
    reason_of,
    retry_after,
    unexplained,
)
from gateway.providers.settings import check_url

MAX_PLAIN = 3993  # bytes that fit one record of 4096 (RFC 8291 4)
MAX_TTL = 2_419_200  # s; four weeks, the least that the push services in use keep a message
TOKEN_LIFE = 43_200  # s; RFC 8292 2 allows a day
SLOW_DOWN = 60.0  # s; for a wait that is asked for and not said

_host = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?").fullmatch

URGENCY = {"critical": "high", "high": "high", "normal": "normal", "low": "low"}

_TAKEN = ("accepted", "", "", "")
_THEIRS = ("refused", "recipient", "", "")
_GONE = ("refused", "recipient", "", "gone")
_LATER = ("retry", "recipient", "recipient", "")

# status -> kind, blame, pause, learnt
CODES: dict[str, tuple[str, str, str, str]] = {
    "200": _TAKEN,
    "201": _TAKEN,
    "202": _TAKEN,
    "301": _THEIRS,
    "400": _THEIRS,
    "401": _THEIRS,
    "403": _THEIRS,
    "404": _GONE,
    "405": _THEIRS,
    "406": _LATER,
    "410": _GONE,
    "413": ("refused", "message", "", ""),
    "429": _LATER,
    "500": ("retry", "recipient", "", ""),
    "502": ("retry", "recipient", "", ""),
    "503": _LATER,
}


class Keys(Struct, frozen=True):
    p256dh: str
    auth: str


class Subscription(Struct, frozen=True):
    """What `PushSubscription.toJSON()` gives. `expirationTime`: Unix ms."""

    endpoint: str
    keys: Keys
    expirationTime: float | None = None  # noqa: N815 - the name in the JSON


class WebPush:
    """A channel of kind `webpush`."""

    __slots__ = ("_hosts", "_pusher", "_settings", "_subject", "_vapid")

    def __init__(self, name: str, settings: Settings, callback: str = "") -> None:
        """Raises ConfigError where the extra is not installed, or the key is none."""
        try:
            self._pusher: Any = import_module("pywebpush").WebPusher
            vapid: Any = import_module("py_vapid").Vapid02
        except ImportError:
            field = f"channels.{name}.kind"
            raise ConfigError(
                f"{field}: webpush needs `pip install 'bot-gateway[webpush]'`", field=field
            ) from None
        self._vapid = _vapid(vapid, settings.private_key, f"channels.{name}.private_key")
        self._settings = settings
        self._subject = settings.subject
        self._hosts = settings.hosts
        if not all(map(_host, settings.hosts)):
            field = f"channels.{name}.hosts"
            raise ConfigError(f"{field}: must be names in lower case, or `*.` and a name", field=field)
        if settings.proxies and not settings.hosts and not settings.allow_private:
            # a proxy looks names up itself: nobody else would check where an endpoint leads
            field = f"channels.{name}.hosts"
            raise ConfigError(f"{field}: must name the push services where there are proxies", field=field)

    def request(self, send: Send) -> Request:
        """The encrypted message of one attempt."""
        endpoint, keys = self._subscription(send)
        content, extra = content_of(send.item, "webpush"), send.item.x
        shown: dict[str, Any] = {"id": send.id}
        if extra is not None and extra.type is not None:
            shown["type"] = extra.type
        if content.title:
            shown["title"] = content.title
        if content.text:
            shown["text"] = content.text
        plain = msgspec.json.encode(shown | content.native)
        if len(plain) > MAX_PLAIN:
            raise Unsendable(f"the message is longer than {MAX_PLAIN} bytes")
        body: bytes = self._pusher({"endpoint": endpoint, "keys": keys}).encode(plain, "aes128gcm")["body"]
        headers = {
            "content-type": "application/octet-stream",
            "content-encoding": "aes128gcm",
            "ttl": str(min(int(send.ttl), MAX_TTL)),
            "urgency": URGENCY[PRIORITIES[send.item.lane]],
            "authorization": self._authorization(endpoint, send.wall),
        }
        if extra is not None and extra.collapse is not None:
            # 32 characters of an alphabet that every push service takes; not the sender's own words
            headers["topic"] = sha256(f"{send.item.sender}\0{extra.collapse}".encode()).hexdigest()[:32]
        return Request(endpoint, headers, body, theirs=True)

    def outcome(self, answer: Answer, wall: float) -> Outcome:
        """What an answer means: docs/providers/webpush.md."""
        found = CODES.get(str(answer.status))
        if found is None:
            other = unexplained(answer, wall)
            blame = "" if other.kind == "ambiguous" else "recipient"
            return replace(other, blame=blame, pause="recipient" if other.pause else "")
        kind, blame, pause, learnt = found
        if kind == "accepted":
            id = answer.headers.get("apns-id") or answer.headers.get("location", "").rpartition("/")[2]
            return Outcome(kind, f"HTTP {answer.status}", provider_id=line(id)[:128], status=answer.status)
        wait = retry_after(answer, wall) if kind == "retry" else 0.0
        if pause and not wait:
            wait = SLOW_DOWN
        return Outcome(
            kind,
            reason_of(answer),
            blame=blame,
            retry_after=wait,
            status=answer.status,
            pause=pause,
            learnt=learnt,
        )

    def _subscription(self, send: Send) -> tuple[str, dict[str, str]]:
        """Endpoint and keys of the address, checked. Raises Unsendable."""
        wrong = Unsendable("the address is not a PushSubscription", blame="recipient")
        try:
            found = msgspec.json.decode(send.address, type=Subscription)
            check_url(found.endpoint, self._settings, "endpoint")
            point, secret = _bytes(found.keys.p256dh), _bytes(found.keys.auth)
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except (msgspec.MsgspecError, ConfigError, ValueError):
            raise wrong from None
        host = urlsplit(found.endpoint).hostname or ""
        if len(point) != 65 or len(secret) != 16 or ":" in host:
            raise wrong
        if found.expirationTime is not None and found.expirationTime <= send.wall * 1000:
            raise Unsendable("the subscription has expired", blame="recipient")
        if self._hosts and not any(_matches(host, allowed) for allowed in self._hosts):
            raise Unsendable("the push service is not in `hosts`", blame="recipient")
        return found.endpoint, {"p256dh": _text(point), "auth": _text(secret)}

    def _authorization(self, endpoint: str, wall: float) -> str:
        """A token for the push service of this endpoint alone."""
        url = urlsplit(endpoint)
        port = "" if url.port in {None, {"http": 80, "https": 443}[url.scheme]} else f":{url.port}"
        claims = {
            "aud": f"{url.scheme}://{url.hostname}{port}",
            "sub": self._subject,
            "exp": int(wall) + TOKEN_LIFE,
        }
        header: str = self._vapid.sign(claims)["Authorization"]
        return header


def _vapid(kind: Any, key: str, field: str) -> Any:
    """The signer of tokens. Raises ConfigError, which does not quote the key."""
    wrong = ConfigError(f"{field}: must be a P-256 private key, base64url of 32 bytes or PEM", field=field)
    text = key.strip()
    try:
        signer = kind.from_pem(text.encode()) if text.startswith("-----BEGIN") else kind.from_string(text)
        private = signer.private_key
    except Exception:  # noqa: BLE001 - whatever a library makes of a key that is none
        raise wrong from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise wrong
    signer.conf = {"no-strict": True}  # its own check of `sub` refuses URLs with a path
    return signer


def _bytes(text: str) -> bytes:
    """base64url, padded (as some libraries have it) or not (as browsers do). Raises ValueError."""
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _matches(host: str, allowed: str) -> bool:
    return host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed


PROVIDER = WebPush
