"""Rights: scopes, and which addresses a client may publish to."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.principal import AddressPatterns, Principal


@pytest.mark.parametrize(
    ("patterns", "address", "covered"),
    [
        (("alice",), "alice", True),
        (("alice",), "alic", False),
        (("alice",), "Alice", False),
        (("alice", "bob"), "bob", True),
        ((), "alice", False),
        (("*",), "alice", True),
        (("*",), "pool:support", True),
        (("pool:*",), "pool:support", True),
        (("pool:*",), "pool", False),
        (("team-*",), "team-", True),
        (("team-*",), "pool:team-a", False),
        (("*-bot",), "a-bot", True),
        (("*-bot",), "a-bots", False),
        (("a*b*c",), "abc", True),
        (("a*b*c",), "a-b-b-c", True),
        (("a*b*c",), "acb", False),
        (("ab*ba",), "aba", False),
        (("a*a*a",), "aa", False),
        (("**",), "x", True),
        (("a.c",), "abc", False),
        (("[a]",), "a", False),
    ],
)
def test_patterns(patterns: tuple[str, ...], address: str, covered: bool) -> None:
    assert AddressPatterns(patterns).match(address) is covered


@given(st.text("ab:*", min_size=1, max_size=8), st.text("ab:", max_size=12))
def test_patterns_mean_what_a_regular_expression_would(pattern: str, address: str) -> None:
    expected = re.fullmatch(fnmatch.translate(pattern), address) is not None
    assert AddressPatterns((pattern,)).match(address) is expected


def test_a_client_without_patterns_may_address_everyone_and_has_no_scope() -> None:
    alice = Principal(kind="client", name="alice")
    assert alice.publisher == "alice"
    assert alice.may_publish_to("bob")
    assert alice.may_publish_to("group:ops")
    assert not any(alice.can(scope) for scope in ("publish", "read", "admin"))


def test_a_client_with_patterns_is_held_to_them() -> None:
    alice = Principal(kind="client", name="alice", pub=("bob", "team-*"))
    assert alice.may_publish_to("team-1")
    assert not alice.may_publish_to("carol")
    assert not Principal(kind="client", name="alice", pub=()).may_publish_to("bob")


def test_publishers_are_unique_across_kinds() -> None:
    key = Principal(kind="key", name="backend", scopes=frozenset({"read"}))
    assert key.publisher == "api:backend"
    assert key.publisher != Principal(kind="client", name="backend").publisher
    assert key.can("read")
    assert not key.can("publish")
    assert not key.may_publish_to("alice")


def test_a_principal_does_not_change() -> None:
    alice = Principal(kind="client", name="alice")
    with pytest.raises(AttributeError):
        alice.name = "bob"  # type: ignore[misc]
