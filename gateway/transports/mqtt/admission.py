"""From a socket to a connection: one CONNECT (MQTT 5, 3.1), answered by a CONNACK.

Everything that can refuse stands here, in this order: the time and the form of the CONNECT, the rate of its address,
its client id, its credentials, bans, whether the gateway takes anybody, its will, the number of connections. MQTT 5 is
told the reason code, 3.1.1 the return code of the same meaning, or nothing where it has none.

When the CONNECT is accepted this object is done: the transport and the reader go to a Connection.
"""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway.auth import Principal, peer_key
from gateway.errors import GatewayError, Limited, Unavailable
from gateway.model import Publish as Message
from gateway.model import valid_client_id
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Connect, Malformed, P, Packet, Props, Reader, Reason
from gateway.transports.mqtt.codes import fitted, in_connack
from gateway.transports.mqtt.connection import Connection, Terms
from gateway.transports.mqtt.life import CLOSE_WAIT, SILENCE
from gateway.transports.mqtt.plain import read_publish, reason_of
from gateway.transports.mqtt.topics import Refusal
from gateway.transports.mqtt.wills import NOTHING_RETAINED, Will
from gateway.transports.peers import peer_address
from gateway.transports.slices import DOORS
from gateway.transports.sockets import end_stream

if TYPE_CHECKING:
    from gateway.transports.mqtt.server import MqttServer

# bytes of a CONNECT: anybody can send one. A will (64 KiB at the most), a token, and what else may be in it
MAX_CONNECT: Final = 128 * 1024
_MAX_SIZE: Final = 1 << 28  # of any packet

# states
_READING, _WAITING, _CHECKING, _LINGERING, _DONE = range(5)


class Refused(Exception):
    """This CONNECT is not accepted."""

    def __init__(self, code: Reason, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Admission(asyncio.Protocol):
    """One socket until its CONNECT is answered. `peer`: its address, where a proxy or a handshake has told it."""

    __slots__ = ("deadline", "peer", "reader", "rest", "server", "slot", "state", "transport")

    def __init__(self, server: "MqttServer", peer: str = "") -> None:
        self.server = server
        self.peer = peer
        self.slot = 0
        self.state = _READING
        self.deadline = 0
        self.reader = Reader(server=True, max_packet=server.max_packet, max_connect=MAX_CONNECT)
        self.rest: list[Packet] = []  # what came behind the CONNECT
        self.transport: asyncio.Transport

    # -- the socket ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        server = self.server
        if not server.admit(self):
            self.state = _DONE
            server.count_connack("full")
            self.transport.abort()
            return
        if not self.peer:
            self.peer = peer_address(transport.get_extra_info("peername"))
        self._until(server.connect_ms)

    def data_received(self, data: bytes) -> None:
        self.server.bytes_in += len(data)
        if self.state >= _LINGERING:
            return
        packets = self.reader.feed(data)
        self.server.packets_in += len(packets)
        if self.state != _READING:
            # a device may be ahead of the answer, but not by much
            self.rest += packets
            self.transport.pause_reading()
            return
        if packets:
            self.rest = packets[1:]
            self.state = _WAITING
            connect = cast(Connect, packets[0])
            self.server.slices.run(DOORS, lambda: self._take_turn(connect))
        elif self.reader.error is not None:
            self._unreadable(self.reader.error)

    def _take_turn(self, connect: Connect) -> None:
        """Its CONNECT is looked at now, unless it has gone."""
        if self.state != _WAITING or self.transport.is_closing():
            return
        self.state = _READING
        if self.rest:
            self.transport.resume_reading()
        self._read(connect)

    def eof_received(self) -> None:
        """Nobody waits for an answer any more; the transport closes itself."""
        if self.state < _LINGERING:
            self.server.count_connack("lost")
        self.state = _DONE

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = _DONE
        self.server.forget(self)

    def look(self, now: int) -> int:
        if now < self.deadline:
            return self.deadline
        if self.state == _CHECKING:
            self._refuse(self.reader.version, Reason.SERVER_UNAVAILABLE, "the token could not be checked")
            return self.deadline
        if self.state == _WAITING:
            # the time is ours, not the device's
            self.deadline = now + self.server.connect_ms
            return self.deadline
        if self.state == _READING:
            # [MQTT-3.1.0]: without a CONNECT there is nothing to answer
            self.server.count_connack("timeout")
        self.abort()
        return 0

    def stop(self) -> None:
        """The server stops."""
        self.abort()

    def abort(self) -> None:
        self.transport.abort()

    def _until(self, ms: int) -> None:
        self.deadline = self.server.now() + ms
        self.server.wheel.put(self, self.deadline)

    # -- the CONNECT -----------------------------------------------------------------------------------------------

    def _unreadable(self, error: Malformed) -> None:
        """A first packet that is no CONNECT of a version that is spoken here."""
        version = self.reader.version
        if version == 5 or error.code is Reason.UNSUPPORTED_VERSION:
            self._refuse(version, error.code, error.detail)
        else:
            self.server.count_connack("malformed")
            self._linger(b"")

    def _read(self, connect: Connect) -> None:
        try:
            self._check(connect)
        except Refused as refused:
            self._refuse(connect.version, refused.code, refused.why, connect.props)

    def _check(self, connect: Connect) -> None:
        """Raises Refused."""
        server = self.server
        wait = server.rate.take(peer_key(self.peer), 1, server.now())
        if wait:
            raise Refused(Reason.CONNECTION_RATE_EXCEEDED, "too many connects from this address")
        if not connect.client_id:
            raise Refused(Reason.CLIENT_ID_INVALID, "a client id is needed")
        if not valid_client_id(connect.client_id):
            raise Refused(Reason.CLIENT_ID_INVALID, "not a client id: letters, digits and ._@- , at most 64")
        if connect.props and P.AUTH_METHOD in connect.props:
            raise Refused(Reason.BAD_AUTHENTICATION_METHOD, "there is only user name and password")
        if connect.username != connect.client_id:
            raise Refused(Reason.BAD_CREDENTIALS, "the user name is the client id")
        try:
            token = (connect.password or b"").decode("ascii")
        except UnicodeDecodeError:
            raise Refused(Reason.BAD_CREDENTIALS, "the password is a token") from None
        try:
            principal = server.authenticator.try_token(token)
        except GatewayError as error:
            raise _credentials(error) from None
        if principal is not None:
            self._open(connect, principal)
            return
        self.state = _CHECKING
        self.transport.pause_reading()
        server.spawn(self._check_slowly(connect, token))

    async def _check_slowly(self, connect: Connect, token: str) -> None:
        """The token's key has to be fetched first."""
        try:
            try:
                principal = await self.server.authenticator.authenticate_token(token)
            except GatewayError as error:
                raise _credentials(error) from None
            if self.state == _CHECKING:
                self.transport.resume_reading()
                self._open(connect, principal)
        except Refused as refused:
            if self.state == _CHECKING:
                self._refuse(connect.version, refused.code, refused.why, connect.props)

    def _open(self, connect: Connect, principal: Principal) -> None:
        """The last checks, then the change to a Connection. Raises Refused."""
        server, transport = self.server, self.transport
        if principal.name != connect.client_id:
            raise Refused(Reason.NOT_AUTHORIZED, "the token is another client's")
        if server.hub.banned(principal.name, server.now()):
            raise Refused(Reason.BANNED, "this client is banned for a while")
        if server.hub.ready:
            raise Refused(in_connack(server.away()), f"not ready: {server.hub.ready}")
        will = self._will(connect, principal)
        conn = Connection(server, transport, self.reader, principal, self.peer, terms(server, connect))
        try:
            server.hub.accept(conn, server.max_connections)
        except Limited as error:
            raise Refused(Reason.QUOTA_EXCEEDED, error.detail) from None
        self.state = _DONE
        server.replace(self, conn)
        transport.set_protocol(conn)
        transport.set_write_buffer_limits(high=1, low=0)
        conn.begin(will, self.rest)

    def _will(self, connect: Connect, principal: Principal) -> Will | None:
        """Raises Refused."""
        if connect.will is None:
            return None
        try:
            message = self._read_will(connect.version, connect.will, principal.name)
        except Refused as refused:
            if connect.version == 4:
                # it has no return code for any of them
                raise Refused(Reason.NOT_AUTHORIZED, refused.why) from None
            raise
        return Will(self.server.wills, principal, message, connect.will) if message is not None else None

    def _read_will(self, version: int, will: codec.Will, client: str) -> Message | None:
        """None: a frame, as a framed client leaves it for a broker. Here its end is seen. Raises Refused."""
        server = self.server
        if will.qos == 2:
            raise Refused(Reason.QOS_NOT_SUPPORTED, "a will has QoS 0 or 1")
        if will.retain and version == 5:
            raise Refused(Reason.RETAIN_NOT_SUPPORTED, NOTHING_RETAINED)
        if len(will.payload) > server.max_payload:
            raise Refused(Reason.QUOTA_EXCEEDED, f"a will has at most {server.max_payload} bytes")
        own = server.topics.of(client)
        where = own.uplink(will.topic)
        if where is None:
            return None
        if isinstance(where, Refusal):
            raise Refused(where.code, f"the topic of the will: {where.why}")
        try:
            return read_publish(will, where, own.inbox)
        except GatewayError as error:
            raise Refused(reason_of(error), f"will, {error.field}: {error.detail}") from None

    # -- the answer ------------------------------------------------------------------------------------------------

    def _refuse(self, version: int, code: Reason, why: str, asked: Props | None = None) -> None:
        asked = asked or {}
        self.server.count_connack(code)
        props: Props = {}
        if code is Reason.USE_ANOTHER_SERVER:
            props[P.SERVER_REFERENCE] = self.server.reference
        if self.state == _CHECKING:
            self.transport.resume_reading()
        self._linger(
            fitted(
                lambda told: codec.connack(version, False, code, told),
                props,
                why if asked.get(P.REQUEST_PROBLEM, 1) else "",
                asked.get(P.MAXIMUM_PACKET_SIZE, _MAX_SIZE),
            )
        )

    def _linger(self, answer: bytes) -> None:
        """Answer and close, in the order that lets the device read the answer."""
        self.state = _LINGERING
        self.rest = []
        if answer:
            self.server.bytes_out += len(answer)
            self.server.packets_out += 1
            self.transport.write(answer)
        self._until(CLOSE_WAIT)
        if answer:
            end_stream(self.transport)
        else:
            self.transport.close()


def _credentials(error: GatewayError) -> Refused:
    if isinstance(error, Unavailable):
        return Refused(Reason.SERVER_UNAVAILABLE, error.detail)
    return Refused(Reason.BAD_CREDENTIALS, error.detail)


def terms(server: "MqttServer", connect: Connect) -> Terms:
    """What is agreed: a device with MQTT 5 is told where it does not get what it asks for."""
    keep_alive = connect.keep_alive
    if connect.version == 4:
        keep = 0 if connect.clean else server.expiry_ms
        return Terms(connect.clean, keep, _silence(keep_alive), 65535, _MAX_SIZE, False, {})
    asked = connect.props or {}
    told: Props = dict(server.capabilities)
    expiry = asked.get(P.SESSION_EXPIRY, 0)
    keep = server.keep(expiry)
    if keep // 1000 != expiry:
        told[P.SESSION_EXPIRY] = keep // 1000
    if not 0 < keep_alive <= server.max_keep_alive:
        told[P.SERVER_KEEP_ALIVE] = keep_alive = server.max_keep_alive
    if asked.get(P.REQUEST_RESPONSE):
        told[P.RESPONSE_INFO] = server.topics.inbox(connect.client_id).decode()
    return Terms(
        connect.clean,
        keep,
        _silence(keep_alive),
        asked.get(P.RECEIVE_MAXIMUM, 65535),
        asked.get(P.MAXIMUM_PACKET_SIZE, _MAX_SIZE),
        bool(asked.get(P.REQUEST_PROBLEM, 1)),
        told,
    )


def _silence(keep_alive: int) -> int:
    return int(keep_alive * SILENCE * 1000)
