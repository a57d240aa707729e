"""The configuration for people: what is in force with its secrets masked, and the reference page."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from gateway.config.channels import KINDS, Channel
from gateway.config.listeners import Broker
from gateway.config.schema import ApiKey, Category, Config, Issuer, RouteRule
from gateway.config.table import Table, hidden, hide_of, meaning

_HEAD = """# Configuration

One TOML file: `bot-gateway serve --config gateway.toml`. Every key has a default, so that no file is needed either.
An unknown key, a wrong type or a value out of bounds is an error that names the key; nothing starts.

The environment overrides the file: `BOTGW_` and the key in capitals, `__` for one table down. A value is read as a
TOML number, boolean, string or array where it is one, else as text:

```sh
BOTGW_WEBSOCKET__LISTEN=0.0.0.0:8080
BOTGW_SESSION__ACK_WAIT=5
BOTGW_ROUTES__DEFAULT='["hook"]'
```

A secret can stand in a file of its own: where a key holds one, `file:/run/secrets/name` is what that file holds.

`bot-gateway check` prints what is in force, secrets masked. Durations are seconds, sizes bytes.
"""

_TYPES = {str: "text", int: "integer", float: "number", bool: "boolean"}


def masked(config: Table) -> dict[str, Any]:
    """The configuration as TOML-like dictionaries, with secrets masked."""
    shown: dict[str, Any] = {}
    kind = config.__struct_config__.tag
    if kind is not None:
        shown["kind"] = kind
    for field in fields(config):
        shown[field.name] = _shown(hidden(getattr(config, field.name), hide_of(field.type)))
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, Table):
        return masked(value)
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items()}
    return value


def reference_markdown() -> str:
    """docs/configuration.md, table by table."""
    parts = [_HEAD, *_section("Top level", Config)]
    for field in fields(Config):
        kind = get_args(field.type)[0]
        if get_origin(kind) is not dict and isinstance(kind, type) and issubclass(kind, Table):
            parts += _section(f"`[{field.name}]`", kind)
        if field.name == "routes":
            parts += _section("`[categories.<name>]`", Category)
        if field.name == "mqtt":
            parts += _section("`[mqtt.broker]`", Broker)
        if field.name == "routes":
            parts += _section("`[[routes.rules]]`", RouteRule)
        if field.name == "auth":
            parts += _section("`[[auth.api_keys]]`", ApiKey)
            parts += _section("`[[auth.issuers]]`", Issuer)
    parts += _section(
        "`[channels.<name>]`, whatever its kind",
        Channel,
        "What every channel has. A kind may have other defaults.",
    )
    common = {field.name: field.default for field in fields(Channel)}
    for kind in KINDS:
        own = [f for f in fields(kind) if common.get(f.name, f) != f.default]
        parts += _section(f'`[channels.<name>]` with `kind = "{kind.__struct_config__.tag}"`', kind, rows=own)
    return "\n".join(parts)


def _section(
    title: str, kind: type[Table], text: str = "", rows: Sequence[FieldInfo] | None = None
) -> list[str]:
    shown = [_row(field) for field in (fields(kind) if rows is None else rows) if not _holds_tables(field)]
    head = ["| key | type | unit | default | bounds | meaning |", "|---|---|---|---|---|---|"]
    return [f"## {title}", "", text or kind.__doc__ or "", "", *head, *shown, ""]


def _holds_tables(field: FieldInfo) -> bool:
    """Whether this field has a section of its own."""
    kind = get_args(field.type)[0]
    inner = [kind, *get_args(kind)]
    return any(isinstance(k, type) and get_origin(k) is None and issubclass(k, Table) for k in inner)


def _row(field: FieldInfo) -> str:
    kind, meta = get_args(field.type)[0], meaning(field.type)
    unit = (meta.extra or {})["unit"]
    cells = (f"`{field.name}`", _type(kind), unit, _default(field), _bounds(field), meta.description)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _type(kind: Any) -> str:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if get_origin(kind) is tuple:
        if inner[-1] is Ellipsis:
            return "list of " + ("text" if get_origin(inner[0]) is not Literal else "names")
        return " and ".join(_type(k) for k in inner)
    if inner:
        return " or ".join(_type(k) for k in inner)
    return _TYPES[kind]


def _default(field: FieldInfo) -> str:
    if field.default is NODEFAULT:
        return "required"
    return f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    """A default as one would write it in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _bounds(field: FieldInfo) -> str:
    meta = meaning(field.type)
    low, high = meta.ge, meta.le
    if low is None:
        return ""
    return f"{low:.12g} to {high:.12g}" if high is not None else f"from {low:.12g}"
