"""A connection as what carries the frames of a framed device: the link between its socket and its desk (framed.py)."""

from collections.abc import Callable

from gateway.auth import Principal
from gateway.errors import Close, GatewayError
from gateway.transports.mqtt import codec
from gateway.transports.mqtt.codec import Reason
from gateway.transports.mqtt.codes import CLOSE_OF, CLOSES
from gateway.transports.mqtt.framed import FramedDesk
from gateway.transports.mqtt.framing import closing_error, err_frame, payload_room
from gateway.transports.mqtt.uplink import Uplink
from gateway.transports.mqtt.writer import LIVE


class Carrier(Uplink):
    """A Link (see framing.py)."""

    __slots__ = ()

    def frame_up(self) -> None:
        """It is a framed device from now on: what its frames say is for the desk."""
        topic = self.server.topics.frames_down(self.principal.name)
        self.desk = FramedDesk(
            self.server.framing,
            self,
            self.principal,
            address=self.peer,
            max_frame=payload_room(self.max_packet, topic),
            authenticate=self._authenticate,
        )
        self.desk.writable = self.writable

    def send(self, desk: FramedDesk, payload: bytes) -> None:
        """See Link. Written at once: whether the peer takes it decides whether the desk lays out more."""
        if self.phase != LIVE:
            return
        packet = codec.publish(self.version, self.server.topics.frames_down(desk.client), payload)
        pieces, self.heads = self.heads or [], None
        pieces.append(packet)
        self.server.packets_out += len(pieces)
        # messages are not laid out for a peer that does not read: then it is an answer
        self.write(pieces, len(packet) if self.paused else 0)
        if self.piled > self.server.pile_limit:
            self.too_slow()

    def throttle(self, desk: FramedDesk, stop: bool) -> None:
        """See Link."""
        self.unread = stop
        self.pace()

    def ended(self, desk: FramedDesk, code: int) -> None:
        """See Link. The device may say hello again, unless it is the device that is not wanted here."""
        if code == Close.DRAIN:
            said = self.server.away() if self.server.hub.ready else Reason.ADMINISTRATIVE_ACTION
        elif code in {Close.BANNED, Close.NOT_AUTHORISED}:
            said = CLOSES[code]
        else:
            return
        self.server.loop.call_soon(lambda: self.end(said, "", clean=True))

    def farewell(self, code: Reason, why: str) -> None:
        """A framed device is told in its frames, too: 3.1.1 has no other way."""
        desk = self.desk
        close = CLOSE_OF.get(code)
        if close is not None and desk is not None and desk.peer is not None:
            desk.send(err_frame(closing_error(close, why), desk.peer.c, close))

    def _authenticate(self, token: str, done: Callable[[Principal | GatewayError], None]) -> None:
        """Prove a token that came in a frame."""
        try:
            principal = self.server.authenticator.try_token(token)
        except GatewayError as error:
            done(error)
            return
        if principal is not None:
            self._proven(principal, done)
        else:
            self.server.spawn(self._authenticate_slowly(token, done))

    async def _authenticate_slowly(
        self, token: str, done: Callable[[Principal | GatewayError], None]
    ) -> None:
        try:
            principal = await self.server.authenticator.authenticate_token(token)
        except GatewayError as error:
            done(error)
            return
        self._proven(principal, done)

    def _proven(self, principal: Principal, done: Callable[[Principal | GatewayError], None]) -> None:
        done(principal)
        if self.desk is not None and self.desk.principal is principal:
            self.principal = principal
            # it may expire before the next look
            self.server.wheel.put(self, self.server.now())

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.desk is not None:
            self.desk.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.desk is not None and not self.paused:
            self.desk.resume()

    def let_go(self) -> None:
        super().let_go()
        desk, self.desk = self.desk, None
        if desk is not None:
            desk.lost(clean=self.clean)
