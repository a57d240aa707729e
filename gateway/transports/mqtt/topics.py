"""What a topic means, to the endpoint and to the link to a broker; gateway/topics.py says how topics are named.

Topics are bytes, as they stand in a packet; topic filters are text. What a topic of an uplink says is an address for a
plain one, None for a framed one, or a Refusal.
"""

from typing import Final, NamedTuple

from gateway.model import Sub, valid_client_id
from gateway.topics import PREFIX, TopicNames, part_of
from gateway.transports.mqtt.codec import Reason


class Refusal(NamedTuple):
    """Why not: the reason code of MQTT 5, and its reason string."""

    code: Reason
    why: str


_UNKNOWN: Final = Refusal(Reason.TOPIC_NAME_INVALID, "not a topic to publish to")
_NO_ADDRESS: Final = Refusal(Reason.TOPIC_NAME_INVALID, "a topic ends with one address")
_FOREIGN: Final = Refusal(Reason.NOT_AUTHORIZED, "the topic is another client's")
_WRONG_PART: Final = Refusal(
    Reason.TOPIC_NAME_INVALID, "the part of a topic is crc32(client id) mod 64 in two digits"
)
_ILL_FORMED: Final = Refusal(Reason.TOPIC_FILTER_INVALID, "not a topic filter")
_SHARED: Final = Refusal(Reason.SHARED_NOT_SUPPORTED, "no shared subscriptions")
_WILD: Final = Refusal(Reason.WILDCARDS_NOT_SUPPORTED, "no wildcards: subscribe to your own topic")
_NOT_YOURS: Final = Refusal(Reason.NOT_AUTHORIZED, "a client subscribes to its own topics only")


# addresses that are remembered by their topics, none longer than a client id
_MOST_KNOWN: Final = 16_384


class Topics(TopicNames):
    """The topics below one prefix. `known`: addresses by their topics, those that are every client's."""

    __slots__ = ("known",)

    def __init__(self, prefix: str = PREFIX) -> None:
        super().__init__(prefix)
        self.known: dict[bytes, str] = {}

    def remember(self, topic: bytes, address: str) -> None:
        if valid_client_id(address):
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            self.known[topic] = address

    def of(self, client: str) -> "OwnTopics":
        """What a connection of this client may use."""
        return OwnTopics(self, client)

    def uplink(self, topic: bytes) -> tuple[str, str | None] | Refusal:
        """Behind a broker: whose uplink this is, and the address or None. The broker lets each client publish to its
        own topics only, so it is believed.
        """
        if not topic.startswith(self._up):
            return _UNKNOWN
        part, _, rest = topic[len(self._up) :].decode().partition("/")
        client, slash, tail = rest.partition("/")
        if not valid_client_id(client):
            return _UNKNOWN
        if part != part_of(client):
            return _WRONG_PART
        if not slash:
            return client, None
        verb, _, address = tail.partition("/")
        if verb != "to":
            return _UNKNOWN
        if not address or "/" in address:
            return _NO_ADDRESS
        return client, address


class OwnTopics:
    """The topics of one client, for one connection at the endpoint."""

    __slots__ = ("_down", "_known", "_to", "_up", "_up_to", "inbox", "topics")

    def __init__(self, topics: Topics, client: str) -> None:
        self.topics = topics
        self.inbox = topics.inbox(client)
        self._down = topics.frames_down(client)
        self._up = topics.frames_up(client)
        self._up_to = self._up + b"/to/"
        self._to = topics.to("")
        self._known = topics.known

    def uplink(self, topic: bytes) -> str | Refusal | None:
        """Where a PUBLISH of the client goes: an address, None for a frame, or a Refusal."""
        known = self._known.get(topic)
        if known is not None:
            return known
        if topic.startswith(self._to):
            address = topic[len(self._to) :]
            if b"/" not in address:
                self.topics.remember(topic, address.decode())
        elif topic.startswith(self._up_to):
            address = topic[len(self._up_to) :]
        elif topic == self._up:
            return None
        else:
            found = self.topics.uplink(topic)
            return found if isinstance(found, Refusal) else _FOREIGN
        if not address or b"/" in address:
            return _NO_ADDRESS
        return address.decode()

    def subscription(self, topic_filter: str) -> Sub | Refusal:
        """What the client subscribes to: PLAIN for its inbox, FRAMED for its frames, or a Refusal."""
        topic = topic_filter.encode()
        if topic == self.inbox:
            return Sub.PLAIN
        if topic == self._down:
            return Sub.FRAMED
        if not topic:
            return _ILL_FORMED
        if topic_filter.startswith("$share/"):
            return _SHARED
        return _wildcards(topic_filter) or _NOT_YOURS


def _wildcards(topic_filter: str) -> Refusal | None:
    """Where there are any: whether they stand as whole levels, `#` as the last one (MQTT 5, 4.7.1)."""
    if "#" not in topic_filter and "+" not in topic_filter:
        return None
    *levels, last = topic_filter.split("/")
    for level in (*levels, "" if last == "#" else last):
        if "#" in level or ("+" in level and level != "+"):
            return _ILL_FORMED
    return _WILD
