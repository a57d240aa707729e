"""The first start: the data folder, and the secrets that the configuration does not name.

    data_dir/                 0700
        secrets.toml          0600; replaced whole or not at all, read on every later start

What the configuration names is never stored and always wins.
"""

import fcntl
import os
import secrets
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.config import SCOPES, ApiKey, Config, check
from gateway.errors import ConfigError

FILE = "secrets.toml"
KEY_ID = "backend"


class Bootstrap(Struct, frozen=True, kw_only=True):
    """What a start found or made. `first`: secrets.toml was made just now. `made`: the names of what was added to it.

    `api_key` is the generated key as a client presents it, `id.secret`, "" where keys are configured: to be shown on
    a terminal on request, never logged.
    """

    folder: Path
    first: bool
    made: tuple[str, ...]
    api_key: str

    def __repr__(self) -> str:
        return f"Bootstrap(folder={self.folder!r}, first={self.first}, made={self.made})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("folder", self.folder), ("first", self.first), ("made", self.made)]


class _Secrets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of secrets.toml."""

    jwt_secret: str = ""
    backend_key: str = ""


def prepare(config: Config, *, create: bool = True) -> tuple[Config, Bootstrap]:
    """The configuration with what it leaves out: the token secret, and the key `backend` where no key is configured.

    With `create`, makes the folder and the secrets that are missing, durably; without, only reads what is there.
    Raises ConfigError where the folder cannot be used or secrets.toml is broken or open to others.
    """
    folder = Path(config.data_dir)
    wanted = [] if config.auth.jwt_secret else ["jwt_secret"]
    if not config.auth.api_keys:
        wanted.append("backend_key")
    try:
        if create:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):
                found, first, made = _complete(folder / FILE, wanted)
        else:
            found, first, made = _read(folder / FILE) or _Secrets(), False, ()
    except OSError as error:
        raise ConfigError(f"data_dir: {folder}: {error.strerror}", field="data_dir") from error
    auth = config.auth
    key = found.backend_key if "backend_key" in wanted else ""
    if "jwt_secret" in wanted:
        auth = replace(auth, jwt_secret=found.jwt_secret)
    if key:
        auth = replace(auth, api_keys=(ApiKey(id=KEY_ID, secret=key, scopes=SCOPES),))
    shown = f"{KEY_ID}.{key}" if key else ""
    filled = replace(config, auth=auth)
    check(filled)
    return filled, Bootstrap(folder=folder, first=first, made=made, api_key=shown)


def _complete(path: Path, wanted: list[str]) -> tuple[_Secrets, bool, tuple[str, ...]]:
    """What secrets.toml holds after the missing ones of `wanted` were added; whether it is new; what was added."""
    stored = _read(path)
    found = stored or _Secrets()
    made = tuple(name for name in wanted if not getattr(found, name))
    if made:
        found = replace(found, **{name: secrets.token_urlsafe(32) for name in made})
        _write(path, found)
    return found, bool(made) and stored is None, made


def _read(path: Path) -> _Secrets | None:
    """What is in the file, None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, encoding="utf-8") as file:
        if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
            raise ConfigError(f"{path}: is open to others; chmod 600 it", field="data_dir")
        try:
            return msgspec.convert(tomllib.loads(file.read()), _Secrets)
        except (ValueError, msgspec.ValidationError):
            # the reason may quote a secret
            raise ConfigError(f"{path}: is broken; restore it, or remove it to make new secrets") from None


def _write(path: Path, content: _Secrets) -> None:
    """Replace the file durably: a crash leaves the old one or the new one."""
    values = {name: value for name, value in msgspec.to_builtins(content).items() if value}
    lines = ["# made by bot-gateway; who has these can sign tokens and publish"]
    lines += [f'{name} = "{value}"' for name, value in values.items()]
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(fd)
    fresh.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two first starts at once agree on one set of secrets."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
