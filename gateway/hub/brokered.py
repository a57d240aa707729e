"""The plain clients behind a broker: who they are, whether they are there, when they count as gone (PROTOCOL 4).

A client is the broker's while its record says `broker_plain`, a broker is there, and the client has no session of its
own that is live or being welcomed. What a session of its own has bound stays that session's, and so does the offline
clock for it. The clock for the rest depends on what tells where the client is:

    presence known        one for the client, from when the broker lost it, or from the start where it was not seen
    else `always`         one for each message, from its acceptance, as for a client that was never here
    else `never`          none
"""

from typing import Any

from gateway.engine.queue import LANE_COUNT
from gateway.engine.session import Session
from gateway.engine.states import State
from gateway.hub.chain import Handover
from gateway.hub.core import Core
from gateway.model import Hold, Item
from gateway.ports import Custodian

VIA = "mqtt"


class Place:
    """One client whose record says `broker_plain`."""

    __slots__ = ("absent", "after", "away_since", "client", "lanes", "reading")

    def __init__(self, client: str) -> None:
        self.client = client
        self.away_since = 0  # when the broker lost it; 0: the offline clock does not run
        self.absent = False  # the offline deadline has passed
        # custody's
        self.lanes = 0  # a bit for each lane in which the store may have something to publish
        self.after = [0] * LANE_COUNT  # the last id taken of each lane: all up to it were looked at
        self.reading = False


class Brokered:
    def __init__(self, core: Core, handover: Handover) -> None:
        self.core = core
        self.handover = handover
        self.custodian: Custodian | None = None
        self.places: dict[str, Place] = {}
        self._presence_known = False
        self._online: dict[str, int] = {}  # whom the broker has seen, and when

    # -- who they are ------------------------------------------------------------------------------------------------

    def rules(self, client: str) -> bool:
        """Whether what waits for this client is the broker's."""
        if self.custodian is None or client not in self.places:
            return False
        session = self.core.sessions.get(client)
        return session is None or session.state not in {State.LIVE, State.JOINING}

    def record(self, client: str) -> Place | None:
        """A client's record was read, written or deleted: its place, where it has one now."""
        row = self.core.clients.get(client)
        if row is None or not row.record.broker_plain:
            self.places.pop(client, None)
            return None
        place = self.places.get(client)
        if place is None:
            place = self.places[client] = Place(client)
            if self._presence_known and client not in self._online:
                self._away(place)
        else:
            self._wind(place)
        return place

    # -- whether they are there --------------------------------------------------------------------------------------

    @property
    def presence_known(self) -> bool:
        """Whether something tells who is there."""
        return self._presence_known

    @presence_known.setter
    def presence_known(self, known: bool) -> None:
        if known == self._presence_known:
            return
        self._presence_known = known
        if not known:
            self._online.clear()
        for place in self.places.values():
            place.away_since, place.absent = 0, False
            if known and place.client not in self._online:
                self._away(place)

    def seen(self, client: str, online: bool) -> None:
        """The broker has seen a client come or go. Who is there is kept of others too: a record may yet make one of
        them the broker's.
        """
        place = self.places.get(client)
        if online:
            if (
                place is not None
                or client in self._online
                or len(self._online) < self.core.config.clients.max
            ):
                self._online[client] = self.core.now()
            if place is not None:
                place.away_since, place.absent = 0, False
        elif self._online.pop(client, None) is not None and place is not None and self._presence_known:
            self._away(place)

    def left(self, place: Place, session: Session, live: bool) -> None:
        """A session of its own is gone; `live`: it had been welcomed."""
        if live and self._presence_known and place.client not in self._online:
            self._away(place)
        elif place.absent:
            # what came while it was being welcomed has not been handed over
            self.handover.offline(session)

    # -- when they count as gone -------------------------------------------------------------------------------------

    def _away(self, place: Place) -> None:
        """The offline clock starts."""
        place.away_since, place.absent = self.core.now(), False
        self._wind(place)

    def _wind(self, place: Place) -> None:
        if place.away_since and not place.absent:
            self.core.deadlines.set(place, self._passes(place))
            self.core.wake()

    def _passes(self, place: Place) -> int:
        return place.away_since + self.core.offline_ms(place.client)

    def due(self, place: Place, now: int) -> None:
        """Its offline deadline has come, or an earlier one that moved."""
        if not place.away_since or place.absent:
            return
        if self._passes(place) <= now:
            place.absent = True
            session = self.core.sessions.get(place.client)
            if session is not None:
                self.handover.offline(session)
        else:
            self._wind(place)

    def passed(self, session: Session, item: Item) -> bool:
        """Whether the offline deadline that counts for this has passed."""
        if item.hold == Hold.BOUND or not self.rules(item.client):
            return session.handed
        if self._presence_known:
            return self.places[item.client].absent
        if self.counts_from(item.client, session) < 0:
            return False
        due = self.look(item, session)
        return due < item.expire and due <= self.core.now()

    def look(self, item: Item, session: Session | None) -> int:
        """When the store must show this row, which waits. What was accepted while its own session was there has no time
        to be looked at yet, but for its end.
        """
        if item.due and item.due < item.expire:
            return item.due
        return self.core.next_look(item, session, self.core.now())

    def counts_from(self, client: str, session: Session | None) -> int:
        """From when on, at the earliest, each message that waits for this client counts an offline deadline of its own;
        -1: it has none.
        """
        if not self.rules(client):
            return 0 if session is None or session.state == State.NEW else -1
        if self._presence_known or self.core.clients[client].record.broker_fallback == "never":
            return -1
        return session.row.away_since if session is not None and session.row is not None else 0

    def starts(self, client: str, start: int) -> int:
        """When a message accepted at `start` would be handed over for its client's absence; 0: it would not."""
        core, place = self.core, self.places[client]
        if not self._presence_known:
            always = core.clients[client].record.broker_fallback == "always"
            return start + core.offline_ms(client) if always else 0
        if not place.away_since:
            return 0
        return start if place.absent else max(start, self._passes(place))

    # -- telling -----------------------------------------------------------------------------------------------------

    def presence(self, client: str) -> dict[str, Any]:
        """What the broker knows of a client of its own, in the fields of `GET /v1/clients/{id}`."""
        if not self.rules(client):
            return {}
        if not self._presence_known:
            return {"status": "unknown"}
        seen, place = self._online.get(client), self.places[client]
        if seen is not None:
            fields = {
                "status": "online",
                "via": VIA,
                "last_proof": seen,
                "away_since": None,
                "offline_at": None,
            }
            return fields | {"handed_over": False}
        return {
            "status": "offline",
            "away_since": place.away_since,
            "offline_at": self._passes(place),
            "handed_over": place.absent,
        }
