"""MQTT 5 under a session: frames over the topics of PROTOCOL 4, by aiomqtt. Imported for mqtt:// URLs only.

    {prefix}/d/{client}           frames of the gateway, subscribed at QoS 0
    {prefix}/u/{part}/{client}    frames of the client, published at QoS 1, one after the other

A network connection has one nonce. It is in the will, so that the gateway can tell a late one from the present
connection: `bye` with an old nonce says nothing. Every connection starts clean: what a broker kept for an older one is
worth nothing, since the gateway sends again what was not acked.

A PUBACK is the server's custody and no more. At most IN_FLIGHT frames wait for theirs. Until the gateway has answered,
frames expire at a broker when the session has given them up: a gateway that comes back after an hour finds the hellos
of the last seconds, and not an hour of them.

aiomqtt is a new object for each connection. It opens the socket in a thread, which nothing can stop: what the thread
opens for nobody is closed when it is open.
"""

import asyncio
import re
import secrets
import socket
import ssl as tls
import time
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote

import aiomqtt
from msgspec import Struct
from paho.mqtt.client import MQTT_ERR_SUCCESS, ConnectFlags, DisconnectFlags
from paho.mqtt.client import Client as Paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.client.greeting import WELCOME_TIMEOUT
from gateway.client.reasons import LOST, at_connect, at_disconnect, at_publish, at_subscribe
from gateway.client.tokens import expiry, subject
from gateway.client.transport import (
    CLOSE_TIMEOUT,
    MAX_FRAME,
    OPEN_TIMEOUT,
    Device,
    Link,
    LinkClosed,
    LinkRefused,
    Opener,
)
from gateway.errors import Close
from gateway.model import valid_client_id
from gateway.topics import PREFIX, TopicNames

PORTS = {"mqtt": 1883, "mqtts": 8883}
# seconds; the gateway or the broker may want another one
KEEP_ALIVE = 30
# frames without PUBACK; fewer where the server's Receive Maximum says so
IN_FLIGHT = 8
# frames that have come and are not read yet; one more is lost, and comes again
MAX_QUEUED = 1000
# a will that waits longer at a broker, seconds, tells nothing that the gateway does not know
WILL_LIFE = 60
# by this many seconds the server's clock may be ahead at a token's `exp`
SKEW = 5.0
_prefix = re.compile(r"[^+#/\0]+(?:/[^+#/\0]+)*").fullmatch


class Server(Struct, frozen=True):
    """Where to connect. `username` None: the client id and the token are the credentials."""

    host: str
    port: int
    tls: tls.SSLContext | None
    username: str | None
    password: str | None


class _Connection(aiomqtt.Client):
    """aiomqtt's client, and what it does not tell: why the server refused or left, and which frames it has taken."""

    def __init__(self, server: Server, client: str, token: str, will: aiomqtt.Will) -> None:
        named = server.username is not None
        super().__init__(
            server.host,
            server.port,
            identifier=client,
            username=server.username if named else client,
            password=server.password if named else token,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=KEEP_ALIVE,
            timeout=OPEN_TIMEOUT,
            max_queued_incoming_messages=MAX_QUEUED,
            properties=_properties(PacketTypes.CONNECT, MaximumPacketSize=MAX_FRAME),
            will=will,
            tls_context=server.tls,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        )
        self._client.connect_timeout = OPEN_TIMEOUT
        self._token = None if named else token
        self._made = self._dropped = False
        self._room = IN_FLIGHT
        self._flying: set[int] = set()
        self._landed = asyncio.Event()
        self.refusal: LinkClosed | LinkRefused | None = None  # of CONNECT
        self.end: LinkClosed | None = None

    def _client_connect(self) -> None:
        super()._client_connect()
        # after all that it has asked of the loop
        self._loop.call_soon_threadsafe(self._socket_made)

    def _socket_made(self) -> None:
        self._made = True
        if self._dropped:
            self._client._sock_close()

    def drop(self) -> None:
        """Close the socket without a word, once it is open."""
        self._dropped = True
        if self._made:
            self._client._sock_close()
        self._ended(LinkClosed(LOST, ""))
        if not self._disconnected.done():
            self._disconnected.set_result(None)

    def _ended(self, end: LinkClosed) -> None:
        self.end = self.end or end
        self._landed.set()

    async def subscribe_to(self, topic: str) -> None:
        """Raises MqttError, LinkClosed or LinkRefused."""
        options = SubscribeOptions(qos=0, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        (code,) = await self.subscribe(topic, options=options)
        assert isinstance(code, ReasonCode)
        if code.is_failure:
            raise at_subscribe(code.value, f"the subscription to {topic}: {code.getName()}")

    async def put(self, topic: str, frame: bytes, life: int | None) -> None:
        """Publish after all that was put before, once there is room. Raises LinkClosed."""
        while self.end is None and len(self._flying) >= self._room:
            self._landed.clear()
            await self._landed.wait()
        if self.end is not None:
            raise self.ending()
        wishes = None if life is None else _properties(PacketTypes.PUBLISH, MessageExpiryInterval=life)
        info = self._client.publish(topic, frame, 1, properties=wishes)
        if info.rc != MQTT_ERR_SUCCESS:
            raise self.ending()
        self._flying.add(info.mid)

    async def landed(self) -> None:
        """Until the server has taken every frame, or is gone."""
        while self.end is None and self._flying:
            self._landed.clear()
            await self._landed.wait()

    def ending(self) -> LinkClosed:
        end = self.end or LinkClosed(LOST, "")
        return LinkClosed(end.code, end.reason)

    # -- callbacks of paho -----------------------------------------------------------------------------------------

    def _on_connect(
        self,
        client: Paho,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if reason_code.is_failure:
            exp = None if self._token is None else expiry(self._token)
            expired = exp is not None and exp <= time.time() + SKEW
            self.refusal = at_connect(reason_code.value, _why(reason_code, properties), expired=expired)
        self._room = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: Paho,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            why = _why(reason_code, properties)
            self._ended(at_disconnect(reason_code.value, why, token=self._token is not None))
        self._ended(LinkClosed(LOST, ""))
        gone = aiomqtt.MqttError("the server hung up")
        # nobody would tell those who wait
        waiting: list[asyncio.Future[Any]] = [self._connected, *self._pending_subscribes.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if self._disconnected.done():
            self._disconnected.exception()  # looked at: `end` says more

    def _on_publish(
        self, client: Paho, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._flying.discard(mid)
        self._landed.set()
        if reason_code.is_failure:
            self._ended(at_publish(reason_code.value, f"a frame: {_why(reason_code, properties)}"))
            self._loop.call_soon(self.drop)  # not while paho is at work


def _properties(packet: int, **values: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _why(code: ReasonCode, properties: Properties | None) -> str:
    return getattr(properties, "ReasonString", "") or code.getName()


class MqttLink:
    heard = 0.0  # the bytes may be a broker's: only frames prove that the gateway lives

    def __init__(self, connection: _Connection, up: str, nonce: str) -> None:
        self.nonce = nonce
        self._connection = connection
        self._messages = connection.messages
        self._up = up
        self._answered = False

    async def recv(self) -> bytes:
        try:
            message = await anext(self._messages)
        except aiomqtt.MqttError:
            raise self._connection.ending() from None
        self._answered = True
        return bytes(message.payload)

    async def send(self, frame: bytes) -> None:
        await self._connection.put(self._up, frame, None if self._answered else int(WELCOME_TIMEOUT))

    async def close(self, code: int, reason: str) -> None:
        """DISCONNECT, once the server has taken what was sent. Another code than 1000 leaves the word to the will."""
        connection = self._connection
        if code == Close.NORMAL:
            with suppress(TimeoutError, aiomqtt.MqttError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await connection.landed()
                    connection.end = connection.end or LinkClosed(code, reason)
                    await connection.__aexit__(None, None, None)
        connection.drop()

    def abort(self) -> None:
        self._connection.drop()


def opener(parts: SplitResult, context: tls.SSLContext | None, device: Device) -> Opener:
    """What opens links to the server that the URL names. Raises ValueError."""
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("an MQTT URL ends with the port: topics are made of prefix and client")
    prefix = device.prefix or PREFIX
    if _prefix(prefix) is None:
        raise ValueError("prefix must be levels of a topic, without wildcards")
    if context is None and parts.scheme == "mqtts":
        context = tls.create_default_context()
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    server = Server(parts.hostname or "", parts.port or PORTS[parts.scheme], context, user, password)
    fixed = device.client or subject(device.token or "") or user or ""
    if user is None:
        if device.token is not None and not device.token:
            raise ValueError("a token is needed, or the user of a broker in the URL")
        if device.token is not None and not fixed:
            raise ValueError("who is the client? The token has no sub: name it with client")
    elif device.token is None:
        raise ValueError("with the user of a broker in the URL no token is asked for: give none")
    if fixed and not valid_client_id(fixed):
        raise ValueError("client must be a client id: letters, digits and ._@- , at most 64")

    async def open_mqtt(token: str) -> Link:
        client = fixed or subject(token) or ""
        if not valid_client_id(client):
            raise LinkRefused(0, "the token has no sub that is a client id")
        return await _open(server, prefix, client, token)

    return open_mqtt


async def _open(server: Server, prefix: str, client: str, token: str) -> Link:
    topics, nonce = TopicNames(prefix).framed(client), secrets.token_urlsafe(9)
    properties = _properties(PacketTypes.WILLMESSAGE, MessageExpiryInterval=WILL_LIFE)
    will = aiomqtt.Will(
        topics.publish, b'{"t":"bye","c":"%b"}' % nonce.encode(), qos=1, properties=properties
    )
    connection = _Connection(server, client, token, will)
    try:
        await connection.__aenter__()
        await connection.subscribe_to(topics.subscribe)
    except aiomqtt.MqttError as e:
        connection.drop()
        lost = connection.end is None or connection.end.code == LOST
        raise connection.refusal or (ConnectionError(str(e)) if lost else connection.ending()) from None
    except BaseException:
        connection.drop()
        raise
    return MqttLink(connection, topics.publish, nonce)
