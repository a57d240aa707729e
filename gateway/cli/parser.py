"""The commands and their options. What one option alone can get wrong is said here, before anything is looked up."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from gateway import __version__
from gateway.cli.exits import Exit
from gateway.ids import decode_id
from gateway.model import MAX_KEY, MAX_TTL, MAX_TYPE, PRIORITIES, valid_client_id

WAIT_FOR = ("sent", "delivered", "read", "handed_over", "provider_accepted", "provider_delivered", "end")
RIGHTS = ("fallback", "critical")
TOKEN_TTL = 3600.0
WAIT = 30.0
# as mqtt.prefix
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,32}(/[A-Za-z0-9._-]{1,32}){0,3}")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_ABOUT = "Durable, resumable sessions for bots and devices."
_EPILOG = (
    "Where the gateway is: options, else BOT_GATEWAY_URL, BOT_GATEWAY_API, BOT_GATEWAY_API_KEY, BOT_GATEWAY_TOKEN, "
    "else the configuration and the data folder, as `serve` finds them. Exit codes: docs/cli.md."
)


class Parser(argparse.ArgumentParser):
    """One line for what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.USAGE, f"{self.prog}: {message}\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the command to run as `run`. Raises SystemExit where argparse has said what there is to say."""
    options = build().parse_args(argv)
    options.run = _command(options.command)
    return options


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function of a command, `module:function`, imported now."""
    module, _, function = name.partition(":")
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"gateway.cli.{module}"), function)
    return found


def build() -> argparse.ArgumentParser:
    """The grammar."""
    parser = Parser(prog="bot-gateway", description=_ABOUT, epilog=_EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bot-gateway {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _serve(commands)
    _check(commands)
    _token(commands)
    _send(commands)
    _listen(commands)
    _status(commands)
    _dead_letters(commands)
    _clients(commands)
    _channels(commands)
    _mqtt(commands)
    return parser


# argparse has no public name for it
Commands = argparse._SubParsersAction


def _add(commands: "Commands[Parser]", name: str, run: str, text: str) -> Parser:
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(command=run)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the TOML file that serve was given")
    parser.add_argument("--json", action="store_true", help="JSON on standard output, one value a line")
    return parser


def _api(parser: Parser) -> None:
    parser.add_argument("--api", metavar="URL", help="the HTTP API, such as http://127.0.0.1:8081")
    parser.add_argument("--api-key", metavar="KEY", help="id.secret; better in BOT_GATEWAY_API_KEY")


def _group(commands: "Commands[Parser]", name: str, text: str) -> "Commands[Parser]":
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _serve(commands: "Commands[Parser]") -> None:
    _add(commands, "serve", "serve:serve", "Run the gateway until SIGTERM or Ctrl-C.")


def _check(commands: "Commands[Parser]") -> None:
    text = "Check the configuration and print what is in force, secrets masked."
    parser = _add(commands, "check", "check:check", text)
    parser.add_argument("--reference", action="store_true", help="print the reference of all keys instead")


def _token(commands: "Commands[Parser]") -> None:
    parser = _add(
        commands, "token", "token:token", "Mint a token for a client with the gateway's own secret."
    )
    parser.add_argument("client", type=client_id, metavar="CLIENT")
    parser.add_argument("--ttl", type=above_zero, default=TOKEN_TTL, metavar="DURATION", help="default: 1h")
    parser.add_argument(
        "--pub", action="extend", nargs="+", metavar="PATTERN", help="where it may publish; default: anywhere"
    )
    parser.add_argument("--may", action="extend", nargs="+", choices=RIGHTS, help="further rights")


def _send(commands: "Commands[Parser]") -> None:
    parser = _add(commands, "send", "send:send", "Send a message; prints its id once it is durable.")
    _api(parser)
    parser.add_argument("to", metavar="TO", help="the client")
    parser.add_argument("body", metavar="BODY", help="JSON, or text that is none; -: standard input")
    parser.add_argument("--text", action="store_true", help="BODY is text, whatever it looks like")
    parser.add_argument("--priority", choices=PRIORITIES)
    parser.add_argument("--ttl", type=duration, metavar="DURATION", help="until it is worthless; default: 1d")
    parser.add_argument("--deadline", type=duration, metavar="DURATION", help="then its fallback starts")
    parser.add_argument(
        "--deliver-at", type=natural, metavar="MS", help="Unix ms before which nothing is sent"
    )
    parser.add_argument("--type", type=at_most(MAX_TYPE), help="the application's own name for it")
    parser.add_argument("--key", type=at_most(MAX_KEY), help="deduplication key: repeating is safe")
    parser.add_argument(
        "--collapse", type=at_most(MAX_KEY), metavar="KEY", help="replaces an unsent earlier one"
    )
    parser.add_argument("--fallback", type=names, metavar="CHANNEL,…", help="channels in order; '': none")
    parser.add_argument("--meta", action="append", type=pair, metavar="NAME=VALUE", help="handed through")
    parser.add_argument("--wait-for", choices=WAIT_FOR, help="wait until this has become of it")
    parser.add_argument(
        "--timeout", type=above_zero, default=WAIT, metavar="DURATION", help="of --wait-for; 30s"
    )


def _listen(commands: "Commands[Parser]") -> None:
    parser = _add(commands, "listen", "listen:listen", "Be a client: print its messages and ack them.")
    parser.add_argument("client", type=client_id, metavar="CLIENT")
    parser.add_argument("--url", help="the WebSocket, such as ws://127.0.0.1:8080/ws")
    parser.add_argument("--token", metavar="JWT", help="better in BOT_GATEWAY_TOKEN; default: minted here")
    parser.add_argument("--once", type=positive, metavar="N", help="end after N messages")
    parser.add_argument("--timeout", type=above_zero, metavar="DURATION", help="end after this long: exit 5")
    parser.add_argument(
        "--no-ack", dest="ack", action="store_false", help="only look; docs/cli.md says at what cost"
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="carries the session over to the next run")


def _status(commands: "Commands[Parser]") -> None:
    parser = _add(commands, "status", "status:status", "What became of a message, step by step.")
    _api(parser)
    parser.add_argument("id", type=id_or_last, metavar="ID", help="the message; last: the newest one")


def _dead_letters(commands: "Commands[Parser]") -> None:
    group = _group(commands, "dead-letters", "What could not be delivered.")
    listing = _add(group, "list", "letters:listing", "List dead letters, newest first.")
    _api(listing)
    _filter(listing)
    listing.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many; default: 50"
    )
    listing.add_argument("--replayed", action="store_true", help="those that were replayed, too")
    show = _add(group, "show", "letters:show", "Show a dead letter: body, attempts, reasons.")
    _api(show)
    show.add_argument("id", type=message_id, metavar="ID")
    replay = _add(group, "replay", "letters:replay", "Send dead letters again.")
    _api(replay)
    replay.add_argument("ids", type=message_id, nargs="*", metavar="ID")
    replay.add_argument("--all", action="store_true", help="all that fit --to and --why")
    _filter(replay)
    replay.add_argument("--channel", help="to this channel instead of the client")
    delete = _add(group, "delete", "letters:delete", "Delete dead letters.")
    _api(delete)
    delete.add_argument("ids", type=message_id, nargs="*", metavar="ID")
    delete.add_argument("--all", action="store_true", help="every one")


def _filter(parser: Parser) -> None:
    parser.add_argument("--to", type=client_id, metavar="CLIENT", help="only those to this client")
    parser.add_argument("--why", help="only those that ended for this reason, such as unacked")


def _clients(commands: "Commands[Parser]") -> None:
    group = _group(commands, "clients", "Who is here, and who is expected.")
    listing = _add(group, "list", "clients:listing", "List clients by id.")
    _api(listing)
    listing.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many; default: 50"
    )
    show = _add(group, "show", "clients:show", "Show a client.")
    _api(show)
    show.add_argument("client", type=client_id, metavar="CLIENT")
    disconnect = _add(group, "disconnect", "clients:disconnect", "Close a client's connection.")
    _api(disconnect)
    disconnect.add_argument("client", type=client_id, metavar="CLIENT")
    disconnect.add_argument("--ban", type=above_zero, metavar="DURATION", help="and keep it away for so long")


def _channels(commands: "Commands[Parser]") -> None:
    group = _group(commands, "channels", "The fallback channels.")
    _api(_add(group, "list", "channels:listing", "How they are: breakers, pauses, what waits."))
    test = _add(
        group, "test", "channels:test", "Make one attempt at a channel; 0: the provider has taken it."
    )
    _api(test)
    test.add_argument("channel", metavar="CHANNEL")
    test.add_argument("--address", metavar="ADDRESS", help="whom it goes to, where the channel needs one")
    test.add_argument("--body", metavar="BODY", help="JSON, or text that is none; default: a short text")
    test.add_argument("--text", action="store_true", help="BODY is text, whatever it looks like")


def _mqtt(commands: "Commands[Parser]") -> None:
    group = _group(commands, "mqtt", "Credentials of devices at a Mosquitto broker.")
    provision = _add(
        group, "provision", "mqtt:provision", "Make credentials for a device; prints its settings."
    )
    _broker(provision)
    provision.add_argument(
        "--rotate", action="store_true", help="replace those it has, and cut its connection"
    )
    provision.add_argument("--prefix", type=prefix, help="first levels of all topics; default: mqtt.prefix")
    revoke = _add(group, "revoke", "mqtt:revoke", "Delete a device's credentials and cut its connection.")
    _broker(revoke)


def _broker(parser: Parser) -> None:
    parser.add_argument("client", type=client_id, metavar="CLIENT")
    parser.add_argument("--broker", metavar="URL", help="such as mqtts://broker.example:8883")
    parser.add_argument(
        "--ca-file", metavar="FILE", help="PEM; whom to trust instead of the usual authorities"
    )
    parser.add_argument("--admin-user", metavar="NAME", help="default: admin")
    parser.add_argument("--admin-password-file", metavar="FILE", help="or BOT_GATEWAY_ADMIN_PASSWORD")


def duration(text: str) -> float:
    """Seconds, or a number with s, m, h or d behind it."""
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_TTL:
        raise argparse.ArgumentTypeError("must be seconds, or such as 30s, 5m, 12h, 7d; at most 365d")
    return seconds


def above_zero(text: str) -> float:
    seconds = duration(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return seconds


def natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError("must be a whole number")
    return int(text)


def positive(text: str) -> int:
    number = natural(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def at_most(length: int) -> Callable[[str], str]:
    def bounded(text: str) -> str:
        if not 0 < len(text) <= length:
            raise argparse.ArgumentTypeError(f"must have 1 to {length} characters")
        return text

    return bounded


def client_id(text: str) -> str:
    if not valid_client_id(text):
        raise argparse.ArgumentTypeError("not a client id: letters, digits and ._@- , at most 64")
    return text


def prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError("must be one to four levels of letters, digits and ._-")
    return text


def message_id(text: str) -> str:
    try:
        decode_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def id_or_last(text: str) -> str:
    return text if text == "last" else message_id(text)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    return name, value
