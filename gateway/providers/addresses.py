"""Which addresses are public: where a fallback channel may connect without being told that it may go elsewhere.

The tables follow the IANA special-purpose registries (RFC 6890) and err on the side of refusing. They do not lean on
`ipaddress.is_global`, which differs between patch releases of Python and knows nothing of addresses inside addresses.
"""

import ipaddress

_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(n)
    for n in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches this very machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared with a carrier's NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, abandoned
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# everything else is loopback, link-local, unique local, multicast, or holds an IPv4 address: mapped (::ffff:0:0/96),
# compatible (::/96), translated (64:ff9b::/96, 64:ff9b:1::/48)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(n)
    for n in (
        "2001::/23",  # protocol assignments: Teredo (an IPv4 address inside), ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)
# an ISATAP interface identifier (RFC 5214 6.1), its universal/local bit left out: an IPv4 address follows
_ISATAP = 0x00005EFE
_UNIVERSAL = 0x02000000


def is_public(text: str) -> bool:
    """Whether `text` is the address of a host on the public Internet. What is no address is not."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST:
        return False
    if int(address) >> 32 & 0xFFFFFFFF & ~_UNIVERSAL == _ISATAP:
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


def is_literal(host: str) -> bool:
    """Whether the host of a URL is an address: no resolver is asked for it, so none can refuse it.

    Forms such as `2130706433` and `127.1`, which sockets take for addresses, are literals too (and never public).
    """
    return ":" in host or host.replace(".", "").isdigit()


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine, by name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
