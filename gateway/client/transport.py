"""The wire under a session: a link that carries whole frames. WebSocket is here, MQTT in a file of its own.

A redirect is not followed: the token is for the address that the program named.
"""

import asyncio
import ipaddress
import ssl as tls
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway import __version__
from gateway.client.frames import Codec

OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
# larger than any window of any payload that a gateway is likely to be configured for
MAX_FRAME = 64 * 1024 * 1024
SCHEMES = ("ws", "wss", "mqtt", "mqtts")
SECURE = ("wss", "mqtts")


class LinkClosed(Exception):
    """The link is gone, or was refused. `code`: the close code, or what means the same over MQTT; 1006 for none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class LinkRefused(Exception):
    """The handshake was answered, but not with a link. `status` is the HTTP status, or a reason code of MQTT that no
    retry can change; `retry_after` in seconds.
    """

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {detail}")
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class Link(Protocol):
    @property
    def heard(self) -> float:
        """When the last byte came that proves the gateway's life, by the loop's clock."""

    @property
    def nonce(self) -> str:
        """What every frame must carry as `c` (PROTOCOL 4); "" for a link that is one stream and needs none."""

    async def recv(self) -> bytes:
        """The next frame. Raises LinkClosed."""

    async def send(self, frame: bytes) -> None:
        """Write one frame after those before, waiting while the peer does not read. Raises LinkClosed."""

    async def close(self, code: int, reason: str) -> None:
        """Close properly; takes at most CLOSE_TIMEOUT."""

    def abort(self) -> None:
        """Drop the link; `recv` then raises LinkClosed."""


Opener = Callable[[str], Awaitable[Link]]
"""Opens a link, with the token. Raises LinkRefused, LinkClosed where the refusal means what a close code means, or
OSError (TimeoutError included) where nothing answered."""


class Device(Struct, frozen=True):
    """What MQTT must know before a connection. `client`: the client id, "" = the token's `sub`; `token`: the fixed one,
    None where a callable gives them; `prefix` of the topics, "" = the usual one.
    """

    client: str
    token: str | None
    prefix: str


class _Connection(ClientConnection):
    """Remembers when bytes came: pings of the gateway prove its life, and the library answers them unseen."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketLink:
    nonce = ""

    def __init__(self, connection: _Connection, *, text: bool) -> None:
        self._connection = connection
        self._text = text

    @property
    def heard(self) -> float:
        return self._connection.heard

    async def recv(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as e:
            raise _closed(e) from None

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame, text=self._text)
        except ConnectionClosed as e:
            raise _closed(e) from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def abort(self) -> None:
        self._connection.transport.abort()


def _closed(e: ConnectionClosed) -> LinkClosed:
    # `rcvd` is what the gateway said; without a close frame of its own there is nothing to obey
    return LinkClosed(e.rcvd.code, e.rcvd.reason) if e.rcvd is not None else LinkClosed(1006, "")


def opener(url: str, codec: Codec, context: tls.SSLContext | None, device: Device) -> Opener:
    """What opens links to `url`. Raises ValueError for a URL that no transport here serves, or with these options."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"unknown scheme {parts.scheme!r} in the URL: this client speaks {', '.join(SCHEMES)}"
        )
    if not parts.hostname:
        raise ValueError("the URL names no host")
    if context is not None and parts.scheme not in SECURE:
        raise ValueError(f"ssl needs a URL with {' or '.join(SECURE)}")
    if parts.scheme in {"ws", "wss"}:
        if device.client or device.prefix:
            raise ValueError("client and prefix are for mqtt: over WebSocket the token says who it is")
        if device.token is not None and not device.token:
            raise ValueError("a token is needed")
        return _websocket(url, parts, codec, context)
    if not codec.text:
        raise ValueError("over MQTT the encoding is json")
    from gateway.client import mqtt  # who uses WebSocket does without aiomqtt

    return mqtt.opener(parts, context, device)


def _websocket(url: str, parts: SplitResult, codec: Codec, context: tls.SSLContext | None) -> Opener:
    try:
        parse_uri(url)
    except InvalidURI:
        raise ValueError("not a WebSocket URL") from None
    secure, near = parts.scheme == "wss", _loopback(parts.hostname or "")

    async def open_websocket(_: str) -> Link:
        dial = _Connect(
            url,
            subprotocols=[Subprotocol(codec.subprotocol)],
            compression=None,
            user_agent_header=f"bot-gateway-client/{__version__}",
            # a proxy of the environment never leads to this machine
            proxy=None if near else True,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=None,
            max_size=MAX_FRAME,
            create_connection=_Connection,
            ssl=context if context is not None or not secure else True,
        )
        try:
            connection = await dial
        except InvalidStatus as e:
            response = e.response
            raise LinkRefused(
                response.status_code,
                response.reason_phrase,
                _retry_after(response.headers.get("Retry-After")),
            ) from None
        except InvalidMessage as e:
            raise ConnectionError(f"the handshake broke off: {e}") from e
        except WebSocketException as e:
            raise LinkRefused(0, f"no WebSocket of this gateway: {e}") from None
        assert isinstance(connection, _Connection)
        if connection.subprotocol != codec.subprotocol:
            connection.transport.abort()
            raise LinkRefused(0, f"the server does not speak {codec.subprotocol}")
        connection.heard = asyncio.get_running_loop().time()
        return WebSocketLink(connection, text=codec.text)

    return open_websocket


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(value: str | None) -> float | None:
    # RFC 9110 10.2.3 also allows a date; a gateway sends seconds
    return float(value) if value is not None and value.isascii() and value.isdigit() else None
