"""The names of MQTT topics (PROTOCOL 4), below the configured prefix, `gw/v1` here:

    gw/v1/m/{client}                          plain, to the client
    gw/v1/d/{client}                          framed, to the client
    gw/v1/u/{part}/{client}/to/{address}      plain, from the client
    gw/v1/u/{part}/{client}                   framed, from the client
    gw/v1/to/{address}                        plain, from the client, on the gateway's own endpoint only

A client is told its topics, and so its part, with its credentials.
"""

from typing import Final
from zlib import crc32

from msgspec import Struct

PREFIX: Final = "gw/v1"
PARTS: Final = 64


def part_of(client: str) -> str:
    """The share of the uplink topics that the client belongs to: two digits below 64."""
    return f"{crc32(client.encode()) % PARTS:02}"


class MqttTopics(Struct, frozen=True):
    """What a device subscribes to, and what it publishes to; `{address}` in it stands for an address."""

    subscribe: str
    publish: str


class TopicNames:
    """The topics below one prefix, as bytes: as they stand in a packet."""

    __slots__ = ("_down", "_inbox", "_to", "_up")

    def __init__(self, prefix: str = PREFIX) -> None:
        self._inbox = f"{prefix}/m/".encode()
        self._down = f"{prefix}/d/".encode()
        self._up = f"{prefix}/u/".encode()
        self._to = f"{prefix}/to/".encode()

    def inbox(self, client: str) -> bytes:
        """Where a plain client gets its messages."""
        return self._inbox + client.encode()

    def frames_down(self, client: str) -> bytes:
        """Where a framed client gets its frames."""
        return self._down + client.encode()

    def frames_up(self, client: str) -> bytes:
        """Where a framed client sends its frames."""
        return b"%b%b/%b" % (self._up, part_of(client).encode(), client.encode())

    def to(self, address: str) -> bytes:
        """Where a plain client publishes to `address`, on the endpoint."""
        return self._to + address.encode()

    def own_to(self, client: str, address: str) -> bytes:
        """Where the plain `client` publishes to `address`, on the endpoint and through a broker."""
        return b"%b/to/%b" % (self.frames_up(client), address.encode())

    def plain(self, client: str) -> MqttTopics:
        """What a plain device is told, good on the endpoint and through a broker."""
        return MqttTopics(self.inbox(client).decode(), self.own_to(client, "{address}").decode())

    def framed(self, client: str) -> MqttTopics:
        """What a framed device is told."""
        return MqttTopics(self.frames_down(client).decode(), self.frames_up(client).decode())
