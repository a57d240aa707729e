"""Who is speaking, and what it may do.

A principal is made from a verified credential and never changes: a client from its JWT, a key from the configuration.
"""

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import force_setattr

Kind = Literal["client", "key"]
Right = Literal["fallback", "critical"]

RIGHTS: Final[frozenset[str]] = frozenset({"fallback", "critical"})
API_PREFIX: Final = "api:"


class AddressPatterns:
    """Address patterns, prepared: an exact address, or `*` for any run of characters, none included.

    `*` does not stop at the `:` of an address: `*` alone is every address, `pool:*` every pool, `team-*` only clients.
    Matching takes time linear in the pattern for each start of a piece, and never backtracks: a pattern from a token
    cannot be made expensive.
    """

    __slots__ = ("_exact", "_wild")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._exact = frozenset(p for p in patterns if "*" not in p)
        self._wild = tuple(tuple(p.split("*")) for p in patterns if "*" in p)

    def match(self, address: str) -> bool:
        """Whether any pattern covers the address."""
        return address in self._exact or any(_covers(pieces, address) for pieces in self._wild)


def _covers(pieces: tuple[str, ...], address: str) -> bool:
    """Whether the pieces between the stars come in this order, the first at the start, the last at the end."""
    first, *middle, last = pieces
    end = len(address) - len(last)
    at = len(first)
    if end < at or not address.startswith(first) or not address.endswith(last):
        return False
    for piece in middle:
        # the leftmost place leaves the most room for what follows
        found = address.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class Principal(Struct, frozen=True, kw_only=True, gc=False):
    """A verified client or API key.

    `publisher` is unique across kinds, because no client id holds a colon. `pub` None means every address. `exp` and
    `iat` are Unix seconds, as the token says. A client has no scopes: it acts on its own messages only, and callers
    tell that by `kind`.
    """

    kind: Kind
    name: str
    scopes: frozenset[str] = frozenset()
    pub: tuple[str, ...] | None = None
    pools: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    exp: int | None = None
    iat: int | None = None
    token_id: str = ""
    publisher: str = ""
    patterns: AddressPatterns | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "publisher", self.name if self.kind == "client" else API_PREFIX + self.name)
        force_setattr(self, "patterns", None if self.pub is None else AddressPatterns(self.pub))

    def can(self, scope: str) -> bool:
        """Whether this key has the scope `publish`, `read` or `admin`."""
        return scope in self.scopes

    def may_publish_to(self, address: str) -> bool:
        """Whether it may publish to the address: a client by its `pub`, a key by its scope."""
        if self.kind == "key":
            return "publish" in self.scopes
        return self.patterns is None or self.patterns.match(address)
