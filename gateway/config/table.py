"""What every table of the configuration is: frozen, strict, documented field by field, silent about secrets."""

import re
from typing import Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import fields

MASK = "•••"
DAY = 86400.0
KIB = 1024
MIB = 1024 * KIB

# of a URL, what may be a secret: its query, or the password before its host
Hidden = Literal["", "all", "query", "password"]

_password = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")


def about(text: str, unit: str = "", *, hide: Hidden = "", **bounds: Any) -> Meta:
    """What a key means. `hide`: `all` for a secret, `query` or `password` for a URL that may hold one there."""
    return Meta(description=text, extra={"unit": unit, "hide": hide}, **bounds)


def hidden(value: Any, hide: Hidden) -> Any:
    """`value` as it may be shown."""
    if not hide or not value:
        return value
    if isinstance(value, tuple):
        return tuple(hidden(v, hide) for v in value)
    if hide == "password":
        return _password.sub(rf"\1:{MASK}", value)
    if hide == "query":
        address, mark, _ = value.partition("?")
        return address + mark + MASK if mark else value
    return MASK


def hide_of(kind: Any) -> Hidden:
    """How much of a field is hidden, given its annotated type."""
    hide: Hidden = (meaning(kind).extra or {})["hide"]
    return hide


def meaning(kind: Any) -> Meta:
    """What `about` says of a field, given its annotated type."""
    meta: Meta = kind.__metadata__[0]
    return meta


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration. Its repr, and what rich shows of it, hide secrets."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(f.name, hidden(getattr(self, f.name), hide_of(f.type))) for f in fields(self)]
