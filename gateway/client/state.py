"""What a client remembers between connections, and the file that carries it over a restart of the program.

The file is replaced whole: written beside, fsynced, renamed, the directory fsynced. It holds the resume token, so only
its owner can read it. It is written before the frames that rely on it leave.
"""

import os
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.client.errors import StateFailed
from gateway.client.inbox import Refusal


class Snapshot(Struct, omit_defaults=True):
    """`ack`: every seq up to it is settled, `done`: more that are, `ids`: acked message ids, oldest first.

    `refused`: nacks and rejects that may not have reached the gateway's disk.
    """

    client: str
    epoch: str
    resume: str
    ack: int
    done: list[int] = []
    refused: list[Refusal] = []
    ids: list[str] = []
    v: int = 1


class StateFile:
    """One file, one client. Both methods block; `save` may be called from any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._written = 0

    def load(self) -> Snapshot | None:
        """What was saved, None where there is no file. Raises StateFailed for a file that cannot be used."""
        try:
            data = self._path.read_bytes()
            snapshot = msgspec.json.decode(data, type=Snapshot)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StateFailed(f"cannot read {self._path}: {e.strerror}") from e
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise StateFailed(f"{self._path} is no state file of a client: {e}") from None
        if snapshot.v != 1:
            raise StateFailed(f"{self._path} is of version {snapshot.v}; this client knows 1")
        return snapshot

    def save(self, snapshot: Snapshot, serial: int) -> None:
        """Put `snapshot` on disk, unless one with a higher serial is there. Raises StateFailed."""
        with self._lock:
            if serial <= self._written:
                return
            try:
                self._replace(msgspec.json.encode(snapshot))
            except OSError as e:
                raise StateFailed(f"cannot write {self._path}: {e.strerror}") from e
            self._written = serial

    def _replace(self, data: bytes) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
