"""`serve`: the gateway itself, and on standard output where it listens and what to try."""

import argparse
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.bootstrap import FILE
from gateway.cli.exits import Failure
from gateway.cli.output import Output
from gateway.cli.where import Where
from gateway.config import PREFIX
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.app import Ready

# whoever is to use the data folder has to know it; what else is in the environment may be secret
_SHOWN = f"{PREFIX}DATA_DIR"
_OF_COMMANDS = (f"{PREFIX}AUTH__", f"{PREFIX}HTTP__TLS_CERT", f"{PREFIX}WEBSOCKET__TLS_CERT")


def serve(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from gateway.app import run

    where = Where(options)
    out = Output(json=options.json)

    def ready(now: "Ready") -> None:
        # that nobody reads this is no reason to stop
        with suppress(OSError):
            announce(now, where.config_path, out)

    return run(where.config_path, os.environ, ready)


def announce(now: "Ready", config_path: Path | None, out: Output) -> None:
    """Where it listens, and the three commands."""
    folder = now.bootstrap.folder
    if out.json:
        out.line(
            {
                "websocket": now.websocket_url,
                "mqtt": now.mqtt_url,
                "api": now.api_url,
                "data_dir": str(folder),
                "pid": os.getpid(),
            }
            | ({"callbacks": now.callbacks_url} if now.callbacks_url else {})
        )
        return
    made = f", made now with its secrets ({FILE})" if now.bootstrap.first else ""
    listen, send, status = commands(now, config_path)
    lines = [
        f"bot-gateway {__version__}",
        f"  WebSocket  {now.websocket_url}",
        f"  MQTT       {now.mqtt_url or 'off'}",
        f"  HTTP API   {now.api_url}",
        *([f"  callbacks  {now.callbacks_url}"] if now.callbacks_url else []),
        f"  data       {folder}{made}",
        "",
        "Try it in other terminals, in this folder:",
        f"  {listen}",
        f"  {send}",
        f"  {status}",
    ]
    needed = sorted(name for name in os.environ if name.startswith(_OF_COMMANDS))
    if needed:
        lines.append(f"They need these variables too: {' '.join(needed)}")
    out.plain("\n".join([*lines, ""]))


def commands(now: "Ready", config_path: Path | None) -> tuple[str, str, str]:
    """What listens as alice, what sends to her, what asks what became of it: each to be pasted as it stands.

    Options only where the commands would not find the gateway by themselves.
    """
    start = f"{_SHOWN}={shlex.quote(os.environ[_SHOWN])} " if _SHOWN in os.environ else ""
    start += program()
    where = Where(argparse.Namespace(config=config_path), {})
    config = f" --config {shlex.quote(str(config_path))}" if config_path is not None else ""
    api = config + _unless_found(where, "api", now.api_url)
    url = config + _unless_found(where, "websocket", now.websocket_url)
    return (
        f"{start} listen alice{url}",
        f'{start} send alice \'{{"text": "hello"}}\'{api}',
        f"{start} status last{api}",
    )


def _unless_found(where: Where, name: str, url: str) -> str:
    """The option for an address that the file alone does not tell."""
    with suppress(ConfigError, Failure):
        found = where.api() if name == "api" else where.websocket()
        if found.url == url:
            return ""
    option = "--api" if name == "api" else "--url"
    return f" {option} {shlex.quote(url)}"


def program() -> str:
    """This program as it was called, to be typed again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gateway"
    return shlex.quote(sys.argv[0])
