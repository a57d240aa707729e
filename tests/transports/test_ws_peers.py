"""Whose address it is: X-Forwarded-For counts only as far as proxies that are trusted wrote it."""

import pytest

from gateway.transports.peers import UNKNOWN, client_address, networks, peer_address

PROXIES = networks(("10.0.0.0/8", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),  # no proxy: it wrote that itself
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["203.0.113.7, 198.51.100.9"], "198.51.100.9"),  # the left one is the client's word
        ("10.0.0.1", ["203.0.113.7", "198.51.100.9, 10.0.0.2"], "198.51.100.9"),  # two lines, two proxies
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all of them proxies
        ("10.0.0.1", ["198.51.100.9:4711"], "198.51.100.9"),
        ("10.0.0.1", ["[2001:db9::1]:4711"], "2001:db9::1"),
        ("2001:db8::5", ["2001:db9::1"], "2001:db9::1"),
        ("::ffff:10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["198.51.100.9, rubbish"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.9, unknown, 10.0.0.2"], "10.0.0.2"),
        (UNKNOWN, ["198.51.100.9"], UNKNOWN),
    ],
)
def test_client_address(peer: str, forwarded: list[str], client: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address("10.0.0.1", ["198.51.100.9"], ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peername", "address"),
    [(("192.0.2.1", 5), "192.0.2.1"), (("::1", 5, 0, 0), "::1"), ("", UNKNOWN), (None, UNKNOWN)],
)
def test_peer_address(peername: object, address: str) -> None:
    assert peer_address(peername) == address
