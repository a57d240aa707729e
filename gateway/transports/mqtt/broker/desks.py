"""The framed clients of one link: a desk for each that is here (framed.py), as long as it is.

A client is here from its `hello` on until its peer ends. What a frame publishes is counted between the desk and the
hub, so that the broker keeps the frame until each of its messages has an answer.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from gateway.auth import Principal
from gateway.commit import Sink
from gateway.config import Config
from gateway.errors import Close, GatewayError, Invalid, Limited
from gateway.model import Publish, Sub
from gateway.transports.conversation import LIVE
from gateway.transports.hub import HubSessions
from gateway.transports.mqtt.broker.outbound import Outbound
from gateway.transports.mqtt.framed import FramedDesk
from gateway.transports.mqtt.framing import Framing, err_frame, payload_room
from gateway.transports.mqtt.peer import FramedPeer
from gateway.transports.mqtt.topics import Topics
from gateway.transports.wheel import Wheel

# bytes of the longest packet of MQTT: until the broker has said what it takes
MAX_PACKET: Final = 268_435_455
# seconds after which a client that found no room may try again
NO_ROOM_WAIT: Final = 60.0


class Room:
    """How many framed clients there may be, on all links together."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0


class Batch:
    """A commit.Sink: what one frame publishes. `ids` are those that its messages got, by their place in the frame;
    `earlier` those that they got before, perhaps. `answered` is called once, when the frame was read and each has its
    answer.
    """

    __slots__ = ("_answered", "_open", "_sink", "earlier", "ids")

    def __init__(self, answered: Callable[["Batch"], None]) -> None:
        self.earlier: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self._answered = answered
        self._open = 1  # messages without an answer, and the frame while it is read
        self._sink: Sink | None = None

    def asked(self, sink: Sink) -> None:
        """One more message is with the hub."""
        self._sink = sink
        self._open += 1

    def close(self) -> None:
        """The frame was read."""
        self._open -= 1
        if not self._open:
            self._answered(self)

    def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
        """A message is durable; `ref`: its place in the frame, and the client's own ref."""
        place, theirs = ref
        assert self._sink is not None
        self._sink.stored(theirs, id, dup, status)
        self.ids[place] = id
        self.close()

    def refused(self, ref: Any, error: GatewayError) -> None:
        """A message was refused after all."""
        assert self._sink is not None
        self._sink.refused(ref[1], error)
        self.close()


class _Counting:
    """The hub, as framed peers see it. `batch`: of the frame that is being read."""

    def __init__(self, hub: HubSessions) -> None:
        self._hub = hub
        self.batch: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def publish(
        self,
        principal: Principal,
        pub: Publish,
        sink: Sink,
        ref: Any,
        *,
        field: str = "$",
        msgpack: bool = False,
    ) -> None:
        """As HubSessions.publish."""
        batch = self.batch
        assert batch is not None, "only frames publish"
        first = batch.earlier.get(field, 0)
        self._hub.publish(principal, pub, batch, (field, ref), field=field, possible_dup=first)
        batch.asked(sink)


class _Head(msgspec.Struct):
    t: Any = None
    c: Any = None


_read_head: Final = msgspec.json.Decoder(_Head).decode
_NOTHING: Final = _Head()
_OVERTAKES: Final = Invalid("publishes before this one were turned away", code="hello_first", http=400)


class _Desk(FramedDesk):
    """One client behind the broker.

    After a kill of the gateway the broker sends again what has no PUBACK: perhaps a hello that had its welcome, and
    what the client published behind it. What of that comes before the new welcome is turned away. So must the rest be,
    or it would overtake: the client says hello anew, and publishes all of it again in order.
    """

    __slots__ = ("_old_hello", "_turned_away")
    link: "Desks"

    def __init__(self, framing: Framing, link: "Desks", principal: Principal, max_frame: int) -> None:
        super().__init__(framing, link, principal, address="broker", max_frame=max_frame)
        self._old_hello = False  # the latest hello came again; nothing was published behind it yet
        self._turned_away = False  # something that was published behind it

    def take(self, data: bytes, *, again: bool) -> None:
        """The payload of a PUBLISH of the client; `again`: with DUP."""
        if (again or self._old_hello) and self._overtakes(_head(data), again):
            self.framing.frames_in += 1
            assert self.peer is not None
            self._say(_OVERTAKES, self.peer.c)
        else:
            self.receive(data)

    def _overtakes(self, head: _Head, again: bool) -> bool:
        """Whether it is a publish, and one before it was turned away."""
        peer = self.peer
        if head.t == "hello":
            self._old_hello, self._turned_away = again, False
        elif self._old_hello and head.t == "pub" and peer is not None and head.c == peer.c:
            if peer.phase == LIVE:
                self._old_hello = self._turned_away
            else:
                self._turned_away = True
            return peer.phase == LIVE and self._turned_away
        return False

    def ended(self, peer: FramedPeer, code: int) -> None:
        """While the link was away nobody could hear the client: its silence is not to be blamed on a message."""
        peer.clean = peer.clean or (code == Close.HEARTBEAT and self.link.away)
        super().ended(peer, code)


def _head(payload: bytes) -> _Head:
    """Of a frame; of nothing that can be read it is empty."""
    try:
        return _read_head(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _NOTHING


class Desks:
    """A framing.Link."""

    def __init__(
        self, hub: HubSessions, config: Config, wheel: Wheel, topics: Topics, outbound: Outbound, room: Room
    ) -> None:
        self._counting = _Counting(hub)
        # the subscription is the broker's: the session's row holds none
        self.framing = Framing(
            cast(HubSessions, self._counting), config, wheel, door="broker", sub=int(Sub.NONE)
        )
        self._topics = topics
        self._outbound = outbound
        self._room = room
        self._desks: dict[str, _Desk] = {}
        self._max_packet = MAX_PACKET
        self._congested = True
        self.away = True

    def __len__(self) -> int:
        return len(self._desks)

    # -- what the link tells ---------------------------------------------------------------------------------------

    def up(self, max_packet: int) -> None:
        """The broker has accepted the link; it takes packets of so many bytes."""
        self.away = False
        self._max_packet = max_packet
        for desk in self._desks.values():
            desk.max_frame = self._frame_room(desk.client)
        # what they said meanwhile is on its way; what they were told last may be lost
        self.framing.awake_since = self.framing.now()
        for desk in self._desks.values():
            if desk.peer is not None and desk.peer.phase == LIVE:
                self.framing.hub.write_again(desk.peer)

    def down(self) -> None:
        self.away = True

    def congest(self, congested: bool) -> None:
        """Messages must wait, or may go on."""
        self._congested = congested
        if congested:
            for desk in self._desks.values():
                desk.pause()
            return
        for client, desk in list(self._desks.items()):
            if self._congested:
                # by what the first ones had to say: the others are the first ones next time
                return
            if self._desks.get(client) is desk:
                self._desks[client] = self._desks.pop(client)
                desk.resume()

    def stop(self) -> None:
        """The gateway goes away."""
        for desk in list(self._desks.values()):
            desk.end(Close.DRAIN, "the gateway stops")

    def receive(self, principal: Principal, payload: bytes, batch: Batch, *, again: bool) -> None:
        """A frame of this client; `again`: the broker has sent it before."""
        client = principal.name
        desk = self._desks.get(client)
        if desk is None:
            if self._room.taken >= self._room.limit and self._turn_away(client, payload):
                return
            desk = _Desk(self.framing, self, principal, self._frame_room(client))
            desk.writable = not self._congested
        self._counting.batch = batch
        try:
            desk.take(payload, again=again)
        finally:
            self._counting.batch = None
            self._keep(desk)

    def _keep(self, desk: _Desk) -> None:
        """It is known as long as its client is here."""
        if desk.peer is not None and desk.client not in self._desks:
            self._desks[desk.client] = desk
            self._room.taken += 1

    def _turn_away(self, client: str, payload: bytes) -> bool:
        """There is no room for one more. Whether the frame was a hello, which was told so."""
        head = _head(payload)
        if head.t != "hello":
            return False
        c = head.c if isinstance(head.c, str) and len(head.c) <= 64 else None
        error = Limited(
            f"{self._room.limit} framed clients are here", code="too_many_clients", retry_after=NO_ROOM_WAIT
        )
        self.framing.count_close(Close.DRAIN)
        self._publish(client, err_frame(error, c, Close.DRAIN))
        return True

    # -- a framing.Link --------------------------------------------------------------------------------------------

    def send(self, desk: FramedDesk, payload: bytes) -> None:
        """Publish a frame to the client. What the broker does not take in time is bounded there."""
        self._publish(desk.client, payload)

    def throttle(self, desk: FramedDesk, stop: bool) -> None:
        """One client of many cannot be left unread; the link's receive maximum bounds them all."""

    def ended(self, desk: FramedDesk, code: int) -> None:
        """The client is not here any more."""
        if self._desks.pop(desk.client, None) is not None:
            self._room.taken -= 1

    def _publish(self, client: str, payload: bytes) -> None:
        self._outbound.publish(self._topics.frames_down(client), payload)

    def _frame_room(self, client: str) -> int:
        return payload_room(self._max_packet, self._topics.frames_down(client))
