"""One network connection to the broker: aiomqtt opens and keeps it, its bytes are paho's.

What comes is handed on after paho has done with it: paho holds locks while it calls back, and closing the socket from
there would wait for itself. What goes out at QoS 0, and PUBACKs, is written as bytes of our own codec, many packets at
once: paho's publish makes several objects a packet, and one write each.

aiomqtt opens the socket in a thread, which nothing can stop: what it opens for nobody is closed when it is open.
"""

import asyncio
import logging
import socket
import ssl
import time
from typing import Any, Final, Protocol, cast

import aiomqtt
from paho.mqtt.client import MQTT_ERR_SUCCESS, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.client import PUBLISH as PACKET
from paho.mqtt.client import Client as Paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.config import Config
from gateway.config.checks import BrokerAddress
from gateway.transports.mqtt.codec import P, Props, Publish
from gateway.transports.mqtt.codes import label

# seconds to open the socket, then to be accepted, then to subscribe
OPEN_TIMEOUT: Final = 5.0
# seconds in which the broker can take what was written and a DISCONNECT
CLOSE_TIMEOUT: Final = 2.0
# between two looks at the keep alive, in seconds
MISC_PERIOD: Final = 1.0
# packets in one turn of the loop
READS: Final = 64
# topic and properties may be longer on the way here than they were from the device: topic aliases, subscription ids
PACKET_SLACK: Final = 65_536
MAX_PACKET: Final = 268_435_455

# what paho says of a lost connection, `ended` says too
_quiet: Final = logging.getLogger("gateway.broker.paho")
_quiet.setLevel(logging.CRITICAL)

# property of paho -> ours
_NAMES: Final = {
    "PayloadFormatIndicator": P.PAYLOAD_FORMAT,
    "MessageExpiryInterval": P.MESSAGE_EXPIRY,
    "ContentType": P.CONTENT_TYPE,
    "ResponseTopic": P.RESPONSE_TOPIC,
    "CorrelationData": P.CORRELATION,
    "UserProperty": P.USER,
}


class Lost(Exception):
    """There is no connection; `why` is for people, without secrets."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Listener(Protocol):
    """Who is told what a connection does."""

    def received(self, packet: Publish) -> None: ...

    def taken(self, pid: int, ok: bool) -> None:
        """The PUBACK of a publish; `ok`: the broker has it."""

    def drained(self) -> None:
        """All that was written is with the socket."""


class _Packed:
    """Properties that are bytes already, with their length before them."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def pack(self) -> bytes:
        return self._block


class Connection(aiomqtt.Client):
    """`ended` gets a reason when it is lost or closed; `session_present`, `receive_maximum`, `max_packet` are those of
    the CONNACK.
    """

    def __init__(
        self,
        config: Config,
        address: BrokerAddress,
        tls: ssl.SSLContext | None,
        client_id: str,
        listener: Listener,
    ) -> None:
        broker = config.mqtt.broker
        super().__init__(
            address.host,
            address.port,
            identifier=client_id,
            username=address.username,
            password=address.password,
            logger=_quiet,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            keepalive=broker.keep_alive,
            timeout=OPEN_TIMEOUT,
            properties=_properties(
                SessionExpiryInterval=broker.session_expiry,
                ReceiveMaximum=broker.receive_maximum,
                MaximumPacketSize=min(config.mqtt.max_packet_bytes + PACKET_SLACK, MAX_PACKET),
            ),
            tls_context=tls,
            socket_options=_socket_options(broker.keep_alive),
        )
        self._client.connect_timeout = OPEN_TIMEOUT
        self._client.manual_ack_set(True)
        self._client.max_inflight_messages_set(0)  # who publishes keeps to `receive_maximum`
        self._listener = listener
        self._came: list[Publish] = []
        self._answers: list[tuple[int, bool]] = []
        self._made = self._dropped = False
        self._deaf = False
        self._waits_to_write = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = ""
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.session_present = False
        self.receive_maximum = 65_535
        self.max_packet = MAX_PACKET

    # -- the beginning ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Until the broker has accepted it. Raises Lost; then nothing of it is left."""
        try:
            await self.__aenter__()
        except (aiomqtt.MqttError, ValueError) as error:
            self.drop("could not connect")
            raise Lost(self._refusal or str(error) or "no answer") from None
        except BaseException:
            self.drop("given up")
            raise

    async def subscribe_to(self, filters: list[str], qos: int) -> list[int]:
        """The reason codes. Raises Lost."""
        options = SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        try:
            codes = await self.subscribe([(name, options) for name in filters])
        except aiomqtt.MqttError as error:
            raise Lost(str(error)) from None
        return [code.value if isinstance(code, ReasonCode) else code for code in codes]

    def _client_connect(self) -> None:
        super()._client_connect()
        # after all that it has asked of the loop
        self._loop.call_soon_threadsafe(self._socket_made)

    def _socket_made(self) -> None:
        self._made = True
        if self._dropped:
            self._client._sock_close()

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def writing(self) -> bool:
        """Whether something is not with the socket yet."""
        return self._client.want_write()

    def write(self, packets: bytes) -> None:
        """Whole packets that get no answer: PUBLISH at QoS 0, PUBACK. The caller looks at `writing` first."""
        # said to be of QoS 1: paho does not follow up what it did not send itself, and makes nothing of a QoS 0 one
        self._client._packet_queue(PACKET, packets, 0, 1)

    def publish_1(self, topic: str, payload: bytes, block: bytes) -> int:
        """PUBLISH at QoS 1; `block` are its properties. The packet id, 0: it could not be sent."""
        info = self._client.publish(topic, payload, 1, properties=cast(Properties, _Packed(block)))
        return info.mid if info.rc == MQTT_ERR_SUCCESS else 0

    def _on_socket_register_write(self, client: Paho, userdata: Any, sock: Any) -> None:
        # also called by the thread that connects
        self._loop.call_soon_threadsafe(self._write_ready)

    def _on_socket_unregister_write(self, client: Paho, userdata: Any, sock: Any) -> None:
        if self._waits_to_write:
            self._waits_to_write = False
            self._loop.remove_writer(sock.fileno())

    def _write_ready(self) -> None:
        client = self._client
        sock = client.socket()
        if sock is None:
            return
        try:
            client.loop_write()
        except Exception as error:  # noqa: BLE001 - of the socket or TLS; what was written is lost with them
            self._broken(error)
            return
        if not client.want_write():
            self._listener.drained()
        elif not self._waits_to_write and client.socket() is not None:
            self._waits_to_write = True
            self._loop.add_writer(sock.fileno(), self._write_ready)

    # -- reading ---------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read nothing more until `resume`."""
        sock = self._client.socket()
        if not self._deaf and sock is not None:
            self._loop.remove_reader(sock.fileno())
        self._deaf = True

    def resume(self) -> None:
        sock = self._client.socket()
        if self._deaf and sock is not None:
            self._loop.add_reader(sock.fileno(), self._read_ready)
            # TLS may hold what the socket does not show
            self._loop.call_soon(self._read_ready)
        self._deaf = False

    def _on_socket_open(self, client: Paho, userdata: Any, sock: Any) -> None:
        # called by the thread that connects
        self._loop.call_soon_threadsafe(self._listen, sock)

    def _listen(self, sock: Any) -> None:
        if sock.fileno() < 0 or self._dropped:
            return
        if not self._deaf:
            self._loop.add_reader(sock.fileno(), self._read_ready)
        self._misc()

    def _read_ready(self) -> None:
        client = self._client
        for _ in range(READS):
            sock = client.socket()
            if self._deaf or sock is None:
                return
            try:
                # one packet, or as many as publishes of ours are unanswered
                client.loop_read()
            except Exception as error:  # noqa: BLE001 - of the socket, TLS or a packet that cannot be read
                self._broken(error)
                return
            if not self._hand_on() and not _has_more(sock):
                return
        # others have their turn; TLS may hold what the socket does not show
        self._loop.call_soon(self._read_ready)

    def _hand_on(self) -> bool:
        """Whether there was anything."""
        came, self._came = self._came, []
        for packet in came:
            self._listener.received(packet)
        answers, self._answers = self._answers, []
        for pid, ok in answers:
            self._listener.taken(pid, ok)
        return bool(came or answers)

    def _misc(self) -> None:
        """The keep alive. While nothing is read here, silence is not the broker's; it still hears of us."""
        client = self._client
        if self._deaf:
            client._ping_t = 0.0
            client._last_bytes_received = time.monotonic()
        if client.loop_misc() == MQTT_ERR_SUCCESS:
            self._timer = self._loop.call_later(MISC_PERIOD, self._misc)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """DISCONNECT, once the broker has taken what was written; its session stays."""
        if not self.ended.done() and self._client.disconnect() == MQTT_ERR_SUCCESS:
            await asyncio.wait((self.ended,), timeout=CLOSE_TIMEOUT)
        self.drop("closed")

    def drop(self, why: str) -> None:
        """Close the socket without a word. Not to be called by the listener while it is told something."""
        self._dropped = True
        if self._made:
            self._client._sock_close()
        self._end(why)

    def _broken(self, error: Exception) -> None:
        self.drop(str(error) or type(error).__name__)

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.ended.done():
            self.ended.set_result(why)
        # nobody would tell those who wait
        waiting: list[asyncio.Future[Any]] = [self._connected, *self._pending_subscribes.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(aiomqtt.MqttError(why))
                future.exception()

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
            self._refusal = f"refused: {_told(reason_code, properties)}"
        self.session_present = flags.session_present
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.max_packet = getattr(properties, "MaximumPacketSize", self.max_packet)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: Paho,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        told = flags.is_disconnect_packet_from_server
        self._end(f"sent away: {_told(reason_code, properties)}" if told else "connection lost")

    def _on_message(self, client: Paho, userdata: Any, message: MQTTMessage) -> None:
        self._came.append(
            Publish(
                message._topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.dup,
                message.mid,
                _props(message.properties),
            )
        )

    def _on_publish(
        self, client: Paho, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        # 0x10 is a success of MQTT 5, too: nobody has subscribed, and the broker keeps nothing (3.4.2.1)
        self._answers.append((mid, reason_code.value == 0))

    def _on_socket_close(self, client: Paho, userdata: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())


def _has_more(sock: Any) -> bool:
    """Whether TLS holds bytes that the socket does not show any more."""
    return isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending() > 0


def _props(properties: Properties | None) -> Props | None:
    """What a PUBLISH of the broker says beside its payload; None where there is nothing of it."""
    if properties is None:
        return None
    told = vars(properties)
    return {ours: told[theirs] for theirs, ours in _NAMES.items() if theirs in told} or None


def _properties(**values: int) -> Properties:
    """Those of CONNECT."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _told(code: ReasonCode, properties: Properties | None) -> str:
    """A reason code, and what the broker says to it."""
    why = getattr(properties, "ReasonString", "") or code.getName()
    return f"{label(code.value)} {why[:200]}"


def _socket_options(keep_alive: int) -> tuple[tuple[int, int, int], ...]:
    """Small packets leave at once; of a broker that is gone the kernel knows as soon as the keep alive would."""
    return (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep_alive),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, keep_alive // 8)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500 * keep_alive),
    )
