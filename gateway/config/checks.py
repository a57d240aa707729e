"""What one field alone cannot say: pairs of keys, names that must exist, addresses, key material."""

import ipaddress
import math
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from gateway.config.listeners import Broker, Callbacks, Http, Mqtt, Websocket
from gateway.config.schema import Auth, Config, Issuer
from gateway.contacts.consent import GENERAL
from gateway.errors import ConfigError

# one thing that is wrong: the key, and why
Problem = tuple[str, str]

MIN_HMAC_BYTES = 32  # RFC 7518 3.2: a key at least as long as the hash
MIN_API_SECRET = 16
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")
_KEY_SOURCES = ("secret", "public_key", "public_key_file", "jwks_file", "jwks_url")
# scheme of a broker's URL -> its port
_BROKER_PORTS = {"mqtt": 1883, "mqtts": 8883}


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port). Raises ConfigError."""
    host, colon, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError("an IPv6 address needs brackets: [::1]:8080")
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else -1
    if not colon or not host or not 0 <= port <= 65535:
        raise ConfigError("must be host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return host, port


class BrokerAddress(Struct, frozen=True):
    """Where a broker is, and who the gateway is there."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None

    def __repr__(self) -> str:
        """Without the credentials."""
        return f"{self.host}:{self.port}"


def parse_broker(text: str) -> BrokerAddress:
    """`mqtt://user:password@host:1883` or `mqtts://…`, with percent escapes. Raises ConfigError, without quoting it."""
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
        host.encode("idna")
        username = None if url.username is None else unquote(url.username, errors="strict")
        password = None if url.password is None else unquote(url.password, errors="strict")
    except ValueError:
        raise ConfigError("is no URL such as mqtt://user:password@host:1883") from None
    if url.scheme not in _BROKER_PORTS or not host or not text.isprintable() or " " in text:
        raise ConfigError("must be a URL such as mqtt://user:password@host:1883, or mqtts://")
    if port == 0 or url.path.strip("/") or url.query or url.fragment:
        raise ConfigError("ends with a host, or a port above 0: topics are made of mqtt.prefix")
    return BrokerAddress(host, port or _BROKER_PORTS[url.scheme], url.scheme == "mqtts", username, password)


def check(config: Config) -> None:
    """Raises ConfigError for the first thing that is wrong, naming its key."""
    for key, why in _problems(config):
        raise ConfigError(f"{key}: {why}", field=key)


def _problems(config: Config) -> Iterator[Problem]:
    yield from _listener("http", config.http)
    yield from _listener("websocket", config.websocket)
    yield from _websocket(config.websocket)
    if config.callbacks.listen:
        yield from _callbacks(config.callbacks)
    elif config.callbacks.public_url:
        yield "callbacks.listen", "must be set where public_url is"
    if config.mqtt.listen:
        yield from _listener("mqtt", config.mqtt)
    if config.mqtt.max_packet_bytes < _room(config):
        yield (
            "mqtt.max_packet_bytes",
            "must leave room for limits.max_payload and 1 KiB of topic and properties",
        )
    if config.mqtt.broker.url:
        yield from _broker(config.mqtt.broker)
    if config.store.url != "sqlite":
        yield "store.url", "must be `sqlite`"
    yield from _auth(config.auth)
    session, limits, drain = config.session, config.limits, config.drain
    if session.window > limits.max_window:
        yield "session.window", "must not be above limits.max_window"
    if session.ack_wait_max < session.ack_wait:
        yield "session.ack_wait_max", "must not be below session.ack_wait"
    if limits.ndjson_line_bytes < limits.max_payload:
        yield "limits.ndjson_line_bytes", "must not be below limits.max_payload"
    if limits.max_frame_bytes < limits.max_payload:
        yield "limits.max_frame_bytes", "must not be below limits.max_payload"
    if config.http.max_body_bytes < limits.max_payload:
        yield "http.max_body_bytes", "must not be below limits.max_payload"
    if limits.publish_burst < limits.batch:
        yield "limits.publish_burst", "must not be below limits.batch, or a full batch could never pass"
    first, last = drain.after
    if not (math.isfinite(first) and math.isfinite(last) and 0 <= first <= last <= 3600):
        yield "drain.after", "must be two durations, the shorter first, at most 3600"
    elif drain.timeout < last:
        yield "drain.timeout", "must not be below the end of drain.after"
    yield from _channels(config)
    yield from _categories(config)


def _room(config: Config) -> int:
    """The smallest packet limit that lets a message of `limits.max_payload` through."""
    return config.limits.max_payload + 1024


def _callbacks(callbacks: Callbacks) -> Iterator[Problem]:
    yield from _listener("callbacks", callbacks)
    url = _url(callbacks.public_url)
    inside = url is not None and url.scheme == "http" and not _loopback(url.hostname or "")
    if url is None or inside or url.query or url.fragment or callbacks.public_url.endswith(("/", "?", "#")):
        yield (
            "callbacks.public_url",
            "must be an https URL (http on this machine), without user, password, query or a slash at its end",
        )


def _listener(table: str, listener: Http | Callbacks | Websocket | Mqtt) -> Iterator[Problem]:
    try:
        parse_listen(listener.listen)
    except ConfigError as error:
        yield f"{table}.listen", error.detail
    if bool(listener.tls_cert) != bool(listener.tls_key):
        missing = "tls_key" if listener.tls_cert else "tls_cert"
        yield f"{table}.{missing}", "TLS needs both tls_cert and tls_key"


def _broker(broker: Broker) -> Iterator[Problem]:
    try:
        address = parse_broker(broker.url)
    except ConfigError as error:
        yield "mqtt.broker.url", error.detail
    else:
        if broker.ca_file and not address.tls:
            yield "mqtt.broker.ca_file", "goes with an mqtts:// url"


def _websocket(websocket: Websocket) -> Iterator[Problem]:
    for i, origin in enumerate(websocket.origins):
        if not _ORIGIN.fullmatch(origin):
            yield (
                f"websocket.origins[{i}]",
                "must be scheme://host or scheme://host:port, in lower case, no path",
            )
    for i, network in enumerate(websocket.trusted_proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield f"websocket.trusted_proxies[{i}]", "must be an address or a network, such as 10.0.0.0/8"


def _auth(auth: Auth) -> Iterator[Problem]:
    if auth.jwt_secret and len(auth.jwt_secret.encode()) < MIN_HMAC_BYTES:
        yield "auth.jwt_secret", f"must have at least {MIN_HMAC_BYTES} bytes"
    ids: set[str] = set()
    for i, key in enumerate(auth.api_keys):
        at = f"auth.api_keys[{i}]"
        if key.id in ids:
            yield f"{at}.id", "is used twice"
        ids.add(key.id)
        if bool(key.secret) == bool(key.secret_sha256):
            yield at, "needs exactly one of secret and secret_sha256"
        if key.secret and len(key.secret) < MIN_API_SECRET:
            yield f"{at}.secret", f"must have at least {MIN_API_SECRET} characters"
    names: set[str] = set()
    for i, issuer in enumerate(auth.issuers):
        at = f"auth.issuers[{i}]"
        if issuer.name in names:
            yield f"{at}.name", "is used twice"
        names.add(issuer.name)
        yield from _issuer(at, issuer)


def _issuer(at: str, issuer: Issuer) -> Iterator[Problem]:
    given = [source for source in _KEY_SOURCES if getattr(issuer, source)]
    if len(given) != 1:
        yield at, f"needs exactly one of {', '.join(_KEY_SOURCES)}"
    # a public key taken for an HMAC secret would let anyone sign (RFC 8725 2.1)
    if ("HS256" in issuer.algorithms) != bool(issuer.secret) or (
        issuer.secret and len(issuer.algorithms) > 1
    ):
        yield f"{at}.algorithms", "HS256 goes with secret, alone; the others go with public keys"
    if issuer.secret and len(issuer.secret.encode()) < MIN_HMAC_BYTES:
        yield f"{at}.secret", f"must have at least {MIN_HMAC_BYTES} bytes"
    if issuer.jwks_url:
        url = _url(issuer.jwks_url)
        if url is None or (url.scheme == "http" and not _loopback(url.hostname or "")):
            yield f"{at}.jwks_url", "must be an https URL (http on this machine), without user or password"


def _categories(config: Config) -> Iterator[Problem]:
    for name in config.categories:
        if not _CHANNEL.fullmatch(name) or name == GENERAL:
            yield (
                f"categories.{name}",
                f"a category's name is a lower-case letter, then at most 31 of a-z 0-9 _ - ; `{GENERAL}` is taken",
            )


def _channels(config: Config) -> Iterator[Problem]:
    for name, channel in config.channels.items():
        if not _CHANNEL.fullmatch(name):
            yield f"channels.{name}", "a channel name is a lower-case letter, then at most 31 of a-z 0-9 _ -"
        if channel.backoff_max < channel.backoff_base:
            yield f"channels.{name}.backoff_max", "must not be below backoff_base"
    yield from _chain("routes.default", config.routes.default, config)
    for n, rule in enumerate(config.routes.rules):
        if not rule.type and rule.priority == "any":
            yield f"routes.rules[{n}]", "needs type or priority: what fits any message is routes.default"
        yield from _chain(f"routes.rules[{n}].fallback", rule.fallback, config)


def _chain(key: str, names: tuple[str, ...], config: Config) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name not in config.channels:
            known = ", ".join(sorted(config.channels)) or "none"
            yield f"{key}[{i}]", f"no channel is called `{name}`; known: {known}"
        if name in seen:
            yield f"{key}[{i}]", f"`{name}` is in the chain twice"
        seen.add(name)


def _url(text: str) -> SplitResult | None:
    """An absolute http or https URL without credentials, or None."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        return None
    if not valid or "@" in url.netloc or not text.isprintable() or " " in text:
        return None
    return url


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
