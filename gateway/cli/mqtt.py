"""`mqtt`: credentials of devices at a Mosquitto broker."""

import argparse
import ipaddress
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway.cli.api import run
from gateway.cli.exits import Exit, Failure
from gateway.cli.output import Output, clean
from gateway.cli.where import PREFIX, Where

if TYPE_CHECKING:
    from rich.tree import Tree

    from gateway.cli.dynsec import Accounts
    from gateway.topics import TopicNames

# what mosquitto/start makes in the data folder
FOLDER = "mosquitto"
DEFAULT = "mqtts://localhost:8883"
ADMIN = "admin"
PORTS = {"mqtt": 1883, "mqtts": 8883}
MAX_PASSWORD = 65535


def provision(options: argparse.Namespace) -> int:
    """Make the account of a device and print all that the device needs."""
    return run(_provision(options))


def revoke(options: argparse.Namespace) -> int:
    """Delete the account of a device and cut its connection."""
    return run(_revoke(options))


async def _provision(options: argparse.Namespace) -> int:
    from gateway.topics import TopicNames

    out = Output(json=options.json)
    broker = Broker(options)
    topics = TopicNames(options.prefix or broker.config.mqtt.prefix)
    async with broker.accounts() as accounts:
        password, new = await accounts.provision(options.client, topics, rotate=options.rotate)
    told = settings(options.client, password, broker, topics)
    if out.json:
        out.line(told)
    else:
        out.show(_tree(told, new=new), wrap=False)
    if broker.local:
        out.note("a device elsewhere needs the broker's outer address: --broker")
    return Exit.OK


async def _revoke(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    broker = Broker(options)
    async with broker.accounts() as accounts:
        await accounts.revoke(options.client)
    if out.json:
        out.line({"client": options.client, "revoked": True})
    else:
        out.plain(f"{options.client}: revoked")
    return Exit.OK


def settings(client: str, password: str, broker: "Broker", topics: "TopicNames") -> dict[str, Any]:
    """What a device needs. `ca_file`: None where it trusts the usual authorities."""
    from msgspec import to_builtins

    from gateway.topics import part_of

    return {
        "url": broker.url,
        "host": broker.host,
        "port": broker.port,
        "tls": broker.scheme == "mqtts",
        "ca_file": broker.ca_file or None,
        "client_id": client,
        "username": client,
        "password": password,
        "part": part_of(client),
        "plain": to_builtins(topics.plain(client)),
        "framed": to_builtins(topics.framed(client)),
    }


def _tree(told: dict[str, Any], *, new: bool) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    client = told["client_id"]
    tree = Tree(
        Text.assemble((client, "bold"), "  ", ("new" if new else "rotated", "green")), guide_style="dim"
    )
    trusted = f", trusting {told['ca_file']}" if told["ca_file"] else ""
    facts = [("broker", told["url"] + trusted)]
    facts += [(name.replace("_", " "), told[name]) for name in ("client_id", "username", "password", "part")]
    for kind in ("plain", "framed"):
        facts += [(f"{kind} {way}", told[kind][way]) for way in ("subscribe", "publish")]
    for name, value in facts:
        tree.add(Text.assemble((f"{name} ", "dim"), clean(value)))
    return tree


class Broker:
    """Where the broker is, and what opens it: an option, else its variable, else the configuration, else what
    mosquitto/start made here.

    As `Where` has it, a secret that is found on this machine goes to a loopback address only.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.config = Where(options).config
        self._folder = Path(self.config.data_dir) / FOLDER
        configured = self.config.mqtt.broker
        given = self._given("broker")
        if not given and configured.url:
            self.scheme, self.host, self.port = _split(configured.url, "mqtt.broker.url")
        else:
            self.scheme, self.host, self.port = _split(given or self._default(), "--broker", bare=True)
        self.local = _loopback(self.host)
        if self.scheme == "mqtt" and not self.local:
            raise Failure(
                Exit.USAGE, "mqtt:// shows the passwords to the network; use mqtts://", field="--broker"
            )
        self.ca_file = (
            self._given("ca_file") or ("" if given else configured.ca_file) or self._found("ca.crt")
        )
        self.user = self._given("admin_user") or ADMIN
        self.password = self._password()

    def accounts(self) -> "Accounts":
        """The accounts there, to be entered."""
        try:
            from gateway.cli.dynsec import Accounts
        except ModuleNotFoundError as error:
            raise Failure(
                Exit.FAILED, f"this command needs {error.name}: pip install 'bot-gateway[mqtt]'"
            ) from None
        return Accounts(self.host, self.port, self.tls, self.user, self.password)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Whom to trust; None for a connection without TLS."""
        if self.scheme == "mqtt":
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ValueError) as error:
            why = "not a certificate in PEM" if isinstance(error, ssl.SSLError) else _reason(error)
            raise Failure(Exit.USAGE, f"{self.ca_file}: {why}", field="--ca-file") from None

    def _given(self, name: str) -> str:
        """An option, else its variable, else ""."""
        option: str | None = getattr(self._options, name)
        return option if option is not None else os.environ.get(PREFIX + name.upper(), "")

    def _default(self) -> str:
        if not self._folder.exists():
            why = f"name the broker: there is no {self._folder}; was mosquitto/start run in this folder?"
            raise Failure(Exit.USAGE, why, field="--broker")
        return DEFAULT

    def _found(self, name: str) -> str:
        """A file of the broker of this machine, "" where there is none."""
        path = self._folder / name
        return str(path) if self.local and path.exists() else ""

    def _password(self) -> str:
        named: str | None = self._options.admin_password_file
        password = os.environ.get(f"{PREFIX}ADMIN_PASSWORD", "")
        if password and named is None:
            return password
        path = self._given("admin_password_file") or self._found("admin.password")
        if not path:
            raise Failure(
                Exit.USAGE, f"name it, or set {PREFIX}ADMIN_PASSWORD", field="--admin-password-file"
            )
        try:
            password = Path(path).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, ValueError) as error:
            raise Failure(Exit.USAGE, f"{path}: {_reason(error)}", field="--admin-password-file") from None
        if not 0 < len(password.encode()) <= MAX_PASSWORD:
            raise Failure(Exit.USAGE, f"{path}: holds no password", field="--admin-password-file")
        return password


def _split(text: str, field: str, *, bare: bool = False) -> tuple[str, str, int]:
    """Scheme, host and port of a URL. `bare`: it may hold nothing else."""
    try:
        url = urlsplit(text)
        scheme, host, port = url.scheme, url.hostname or "", url.port
        valid = scheme in PORTS and host and port != 0 and text.isprintable() and " " not in text
        more = "@" in url.netloc or url.path not in {"", "/"} or url.query or url.fragment
    except ValueError:
        scheme, host, port, valid, more = "", "", None, False, ""
    if not valid or (bare and more):
        raise Failure(Exit.USAGE, "must be mqtts://host:port or mqtt://host:port", field=field)
    return scheme, host, port or PORTS[scheme]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    """Without what the file holds."""
    return (error.strerror if isinstance(error, OSError) else None) or "cannot be read as text"
