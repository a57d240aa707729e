"""Who is connected, as the broker tells it: for plain clients, of whom the gateway sees nothing else.

mosquitto   `$SYS/broker/log/N`: its log, written for people. Only whole lines that are known count, for a client id
            may hold words of other lines. A refused connect is logged with the id that it claimed, so no such line
            counts.
emqx        `$SYS/brokers/+/clients/+/connected` and `disconnected`. A connection that was taken over is no client that
            went; its end may be told after the beginning of the new one.

At QoS 0: what happens while the link is away is not known. To queue it at the broker could displace what clients send.
"""

import re
from typing import Any, Final, Protocol

import msgspec

from gateway.model import CLIENT_ID, valid_client_id

# what of the topics of each source to subscribe to
FILTERS: Final[dict[str, list[str]]] = {
    "none": [],
    "mosquitto": ["$SYS/broker/log/N"],
    "emqx": ["$SYS/brokers/+/clients/+/connected", "$SYS/brokers/+/clients/+/disconnected"],
}

_STAMP: Final = r"(?:[0-9TZ:+./ -]{1,40}: )?"
_connected: Final = re.compile(
    rf"{_STAMP}New client connected from \S+ as ({CLIENT_ID}) \(.*\)\.", re.DOTALL
).fullmatch
# 2.0; of the errors of sockets those that mean that the peer is gone
_gone_2_0: Final = re.compile(
    rf"{_STAMP}Client ({CLIENT_ID}) (?:disconnected|closed its connection|has exceeded timeout, disconnecting"
    r"|disconnected due to (?:malformed packet|protocol error|oversize packet|oversize payload|out of memory"
    r"|QoS too high or retain not supported)|been disconnected by administrative action"
    r"|disconnected: (?:Connection reset by peer|Connection timed out|Broken pipe|No route to host))\."
).fullmatch
# from 2.1
_gone_2_1: Final = re.compile(
    rf"{_STAMP}Client ({CLIENT_ID}) \[[0-9A-Fa-f.:]+\] disconnected(?:: ([^\[\]]+?))?\.?"
).fullmatch
# what 2.1 says of a connection that was never accepted, or whose client is here by another
_NOT_GONE: Final = frozenset((
    "bad authentication method", "bad username or password", "client banned", "client identifier not valid",
    "connection rate exceeded", "non-matching http origin", "not authorised", "quota exceeded", "server busy",
    "server unavailable", "session taken over",
))  # fmt: skip
_MOVED: Final = frozenset(("takenover", "takeovered", "discarded"))


class _Event(msgspec.Struct):
    """Of EMQX."""

    clientid: str = ""
    reason: Any = None


_read_event: Final = msgspec.json.Decoder(_Event).decode


class Seer(Protocol):
    """The hub, as far as it wants to know."""

    presence_known: bool

    def seen(self, client: str, online: bool) -> None: ...


class Presence:
    """What the source tells of clients, but for those in `own`, which are the gateway's links."""

    __slots__ = ("_own", "_read", "_seer", "filters", "told", "unknown")

    def __init__(self, source: str, own: frozenset[str], seer: Seer) -> None:
        self._own = own
        self._seer = seer
        self._read = _read_emqx if source == "emqx" else _read_mosquitto
        self.filters = FILTERS[source]
        # figures
        self.told = 0
        self.unknown = 0  # messages of the source that tell nothing of a client

    def begin(self) -> None:
        """A new session at the broker: what was known of connections is void. A broker that has lost the older one was
        gone itself, and all connections with it.
        """
        self._seer.presence_known = False
        self._seer.presence_known = True

    def end(self) -> None:
        """Nothing is told any more."""
        self._seer.presence_known = False

    def take(self, topic: bytes, payload: bytes) -> None:
        """A message of the source."""
        found = self._read(topic, payload)
        if found is None:
            self.unknown += 1
            return
        client, here = found
        if client not in self._own and valid_client_id(client):
            self.told += 1
            self._seer.seen(client, here)


def _read_mosquitto(topic: bytes, payload: bytes) -> tuple[str, bool] | None:
    line = payload.decode(errors="replace")
    if (found := _connected(line)) is not None:
        return found[1], True
    if (found := _gone_2_0(line)) is not None:
        return found[1], False
    if (found := _gone_2_1(line)) is not None and found[2] not in _NOT_GONE:
        return found[1], False
    return None


def _read_emqx(topic: bytes, payload: bytes) -> tuple[str, bool] | None:
    try:
        event = _read_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if topic.endswith(b"/connected"):
        return event.clientid, True
    if not topic.endswith(b"/disconnected") or event.reason in _MOVED:
        return None
    return event.clientid, False
