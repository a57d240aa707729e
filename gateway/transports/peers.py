"""Where a connection comes from, as far as that can be believed."""

import ipaddress
from collections.abc import Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNKNOWN = "local"


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of proxies whose word is taken. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def peer_address(peername: Any) -> str:
    """The address of a socket's other end as text; a Unix socket has none."""
    return str(peername[0]) if isinstance(peername, tuple) and peername else UNKNOWN


def client_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """The client's address behind trusted proxies.

    `forwarded`: the X-Forwarded-For lines. Each proxy appends whom it was called by, so they are read from the right,
    and the first that is no trusted proxy is the client: what stands left of it, the client can have written itself.
    """
    if not proxies or not _within(peer, proxies):
        return peer
    nearest = peer
    for text in reversed([hop.strip() for line in forwarded for hop in line.split(",")]):
        address = _address(text)
        if address is None:
            break
        nearest = address
        if not _within(address, proxies):
            break
    return nearest


def _within(address: str, proxies: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in proxies)


def _address(text: str) -> str | None:
    """The address in `1.2.3.4`, `1.2.3.4:567`, `::1` or `[::1]:567`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
