"""File and environment become a Config. The first thing wrong is a ConfigError that names the key, never a secret."""

import contextlib
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from gateway.config.channels import KINDS, Channel
from gateway.config.checks import check
from gateway.config.schema import Config
from gateway.config.table import Table, hide_of
from gateway.errors import ConfigError

PREFIX = "BOTGW_"
FILE = "file:"
T = TypeVar("T", bound=Table)


class EnvValue(NamedTuple):
    """A value from the environment: as TOML where it parses, and as it stands for keys that take text."""

    parsed: Any
    raw: str
    name: str


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration in `path` (None: all defaults), overridden by the `BOTGW_…` variables of `env`.

    Raises ConfigError; `field` is the key, as in `session.window`.
    """
    tree = _read(path) if path is not None else {}
    _overlay(tree, env)
    config = _table(Config, tree, "")
    check(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _overlay(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    """Put `BOTGW_TABLE__KEY` over `table.key`."""
    for name in sorted(env):
        if not name.startswith(PREFIX):
            continue
        *tables, key = name.removeprefix(PREFIX).lower().split("__")
        at = tree
        for table in tables:
            inner = at.setdefault(table, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: `{table}` is not a table", field=".".join([*tables, key]))
            at = inner
        at[key] = EnvValue(_scalar(env[name]), env[name], name)


def _scalar(raw: str) -> Any:
    """A TOML number, boolean, string or array; anything else is text."""
    try:
        parsed = tomllib.loads(f"v = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    value = parsed["v"]
    return value if len(parsed) == 1 and isinstance(value, bool | int | float | str | list) else raw


def _table(kind: type[T], value: Any, at: str) -> T:
    """A table of the schema from what was read at the key `at`."""
    if not isinstance(value, dict):
        raise _wrong(at, "must be a table", value)
    known = {field.name: field for field in fields(kind)}
    given = dict(value)
    if issubclass(kind, Channel):
        given.pop("kind")
    for key, item in given.items():
        if key not in known:
            raise _unknown(key, item, known, at)
    values = {}
    for name, field in known.items():
        path = f"{at}.{name}" if at else name
        if name in given:
            values[name] = _value(field.type, given[name], path)
        elif field.required:
            raise ConfigError(f"{path}: is missing", field=path)
    return kind(**values)


def _value(annotated: Any, value: Any, at: str) -> Any:
    """One field: a table, a list or dictionary of tables, or a plain value."""
    kind = get_args(annotated)[0]
    if _is_table(kind):
        return _table(kind, value, at)
    inner = get_args(kind)
    if get_origin(kind) is tuple and _is_table(inner[0]):
        items = _plain(value)
        if not isinstance(items, list):
            raise _wrong(at, "must be an array of tables", value)
        return tuple(_table(inner[0], item, f"{at}[{i}]") for i, item in enumerate(items))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise _wrong(at, "must be a table of tables", value)
        one = _channel if inner[1] is Channel else partial(_table, inner[1])
        return {name: one(item, f"{at}.{name}") for name, item in value.items()}
    return _leaf(annotated, value, at)


def _channel(value: Any, at: str) -> Channel:
    """A channel, of the kind that it says."""
    if not isinstance(value, dict):
        raise _wrong(at, "must be a table", value)
    named = _plain(value.get("kind"))
    for kind in KINDS:
        if kind.__struct_config__.tag == named:
            return _table(kind, value, at)
    what = "is missing" if named is None else "is unknown"
    known = ", ".join(str(kind.__struct_config__.tag) for kind in KINDS)
    raise ConfigError(f"{at}.kind: {what}; known: {known}", field=f"{at}.kind")


def _leaf(annotated: Any, value: Any, at: str) -> Any:
    if hide_of(annotated) == "all":
        value = _from_file(value, at)
    try:
        leaf = msgspec.convert(_plain(value), annotated)
    except msgspec.ValidationError as error:
        if isinstance(value, EnvValue):
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert(value.raw, annotated)
        why, _, inside = str(error).partition(" - at `$")
        raise _wrong(at + inside.rstrip("`"), why[0].lower() + why[1:], value) from None
    if isinstance(leaf, float) and not math.isfinite(leaf):
        raise _wrong(at, "must be a finite number", value)
    return leaf


def _from_file(value: Any, at: str) -> Any:
    """A secret that is `file:PATH` is what that file holds, without the line end."""
    path = str(_plain(value))
    if not path.startswith(FILE):
        return value
    try:
        return Path(path.removeprefix(FILE)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8"
        raise _wrong(at, f"its file cannot be read: {why}", value) from None


def _plain(value: Any) -> Any:
    return value.parsed if isinstance(value, EnvValue) else value


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Table)


def _wrong(at: str, why: str, value: Any) -> ConfigError:
    """A ConfigError that names the key, and the variable where the value came from one."""
    source = f" ({value.name})" if isinstance(value, EnvValue) else ""
    return ConfigError(f"{at}: {why}{source}", field=at)


def _unknown(key: str, value: Any, known: Iterable[str], at: str) -> ConfigError:
    """An unknown key, with the nearest known one of its table, else where such a key lives, else what there is."""
    path = f"{at}.{key}" if at else key
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean `{f'{at}.{near[0]}' if at else near[0]}`?"
    else:
        elsewhere = [f"{t.name}.{key}" for t in fields(Config) if key in _keys_of(t)]
        hint = f"did you mean `{elsewhere[0]}`?" if elsewhere else f"known here: {', '.join(known)}"
    return _wrong(path, f"unknown key; {hint}", value)


def _keys_of(field: FieldInfo) -> set[str]:
    kind = get_args(field.type)[0]
    return {inner.name for inner in fields(kind)} if _is_table(kind) else set()
