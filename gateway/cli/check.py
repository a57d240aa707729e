"""`check`: what is in force, as TOML with secrets masked; and whether a gateway would start with it."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from gateway.cli.exits import Exit
from gateway.cli.output import Output
from gateway.cli.where import Where
from gateway.config import Config, masked, reference_markdown
from gateway.config.checks import MIN_HMAC_BYTES


def check(options: argparse.Namespace) -> int:
    """Raises ConfigError for what would keep the gateway from starting: values, keys, certificates."""
    out = Output(json=options.json)
    if options.reference:
        out.plain(reference_markdown().rstrip("\n"))
        return Exit.OK
    config = Where(options).config
    _would_start(config)
    tree = masked(config)
    if out.json:
        out.line(tree)
    else:
        out.plain("\n".join(toml(tree)).strip())
    return Exit.OK


def _would_start(config: Config) -> None:
    """Read what the configuration points to. Raises ConfigError."""
    from msgspec.structs import replace

    from gateway.api.server import tls
    from gateway.auth import Authenticator
    from gateway.clock import SystemClock
    from gateway.providers.dispatcher import Dispatcher
    from gateway.transports.tls import tls_context

    # before the first start there is none
    auth = replace(config.auth, jwt_secret=config.auth.jwt_secret or "-" * MIN_HMAC_BYTES)
    Authenticator(auth, SystemClock(), lambda _client: 0)
    Dispatcher(config.channels, config.callbacks.public_url)
    tls(config.http)
    if config.callbacks.listen:
        tls(config.callbacks, "callbacks")
    if config.websocket.tls_cert:
        tls_context(config.websocket.tls_cert, config.websocket.tls_key, "websocket", "http/1.1")
    if config.mqtt.listen and config.mqtt.tls_cert:
        tls_context(config.mqtt.tls_cert, config.mqtt.tls_key, "mqtt", "mqtt")


def toml(table: dict[str, Any], at: str = "") -> Iterator[str]:
    """The lines of a table, its own keys before the tables in it."""
    inner = {name: value for name, value in table.items() if _is_tables(value)}
    for name, value in table.items():
        if name not in inner:
            yield f"{name} = {_value(value)}"
    for name, value in inner.items():
        path = f"{at}.{name}" if at else name
        for one in value if isinstance(value, list) else [value]:
            # a table that holds nothing but tables needs no line of its own
            if isinstance(value, list) or not one or not all(map(_is_tables, one.values())):
                yield ""
                yield f"[[{path}]]" if isinstance(value, list) else f"[{path}]"
            yield from toml(one, path)


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    # a JSON string is a TOML string, but for DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
