"""What the store's tests share: both stores behind one handle, short ways to write commits, and a dump of everything
a store holds, the same for both.
"""

import queue
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.commit import Commit, Gap, KeyClaim, Op, PutSession, Recovered
from gateway.errors import StoreFailed
from gateway.model import ChainRow, Extra, Hold, Item, Missed, SessionRow
from gateway.reads import Read
from gateway.records import ClientRecord, ClientRow
from gateway.stores import MemoryStore, SqliteStore
from gateway.stores.memory_tables import Tables
from gateway.stores.pace import Pace

NONE, WAITING, BOUND, LATER, CLAIMED = (int(h) for h in Hold)
FAR = 10_000_000


class Kit:
    """A store and its hub's thread, which is the test's."""

    name = ""

    def __init__(self) -> None:
        self.known: Recovered
        self.ids = 0

    # what each kind of store says for itself
    store: Any

    def open(self) -> Recovered:
        raise NotImplementedError

    def crash(self) -> Recovered:
        """The process is killed, and another one opens what it left."""
        raise NotImplementedError

    def dump(self) -> dict[str, Any]:
        raise NotImplementedError

    def close(self) -> None:
        self.store.close()

    def reopen(self) -> Recovered:
        """An orderly end and a new start."""
        raise NotImplementedError

    def submit(self, commit: Commit) -> Exception | None:
        """Carry out a commit and wait for it; what it failed with."""
        raise NotImplementedError

    # short ways
    def do(
        self,
        *ops: Op,
        at: int = 100,
        appends: list[Item] | None = None,
        keys: dict[int, KeyClaim] | None = None,
        binds: list[tuple[str, int, list[Item]]] | None = None,
        settles: list[tuple[int, int, int, str]] | None = None,
        reads: list[Read] | None = None,
    ) -> Commit:
        """A commit that succeeds."""
        commit = Commit()
        commit.at = at
        for item in appends or []:
            commit.appends.append(item)
            commit.sinks.append(None)
            commit.refs.append(None)
        commit.keys = keys or {}
        commit.binds = binds or []
        commit.settles = [(status, at, via, [id]) for id, status, at, via in settles or []]
        commit.ops = list(ops)
        commit.reads = reads or []
        error = self.submit(commit)
        assert error is None, error
        return commit

    def read(self, read: Any) -> Any:
        self.do(reads=[read])
        return read

    def item(
        self,
        client: str = "alice",
        hold: int = WAITING,
        *,
        id: int = 0,
        eno: int = 0,
        sender: str = "backend",
        lane: int = 2,
        at: int = 100,
        expire: int = FAR,
        due: int = 0,
        body: bytes | None = b'{"n":1}',
        chain: int = 0,
        x: Extra | None = None,
        kind: int = 0,
        pid: int = 0,
    ) -> Item:
        self.ids = max(self.ids + 1, id)
        item = Item(id or self.ids, client, sender, lane, at, expire, body, x, kind, chain)
        item.hold, item.eno, item.due, item.pid = hold, eno, due, pid
        return item

    def add(self, client: str = "alice", hold: int = WAITING, **columns: Any) -> Item:
        """A message in a commit of its own."""
        item = self.item(client, hold, **columns)
        self.do(appends=[item])
        return item

    def session(self, client: str = "alice", eno: int = 1, **columns: Any) -> SessionRow:
        row = SessionRow(client, f"{client}-{eno}", eno, **columns)
        self.do(PutSession(row))
        return row

    def row(self, id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.dump()["messages"][id]
        return found


class MemoryKit(Kit):
    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.store: MemoryStore = MemoryStore(auto=True)
        self.known = self.store.open()

    def open(self) -> Recovered:
        self.known = self.store.open()
        return self.known

    def crash(self) -> Recovered:
        self.store.crash()
        return self.open()

    def reopen(self) -> Recovered:
        self.store.close()
        return self.open()

    def submit(self, commit: Commit) -> Exception | None:
        errors: list[Exception | None] = []
        self.store.submit(commit, lambda _, error: errors.append(error))
        (error,) = errors
        return error

    def dump(self) -> dict[str, Any]:
        return dump_memory(self.store._tables)


class AnyPace(Pace):
    """A disk that is never too slow."""

    def took(self, seconds: float, now: float) -> None:
        """However long."""


class SqliteKit(Kit):
    """`here`: the caller of `submit` makes the small commits himself."""

    name = "sqlite"

    def __init__(self, folder: Path, *, here: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self.here = here
        self._life = 0
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.store: SqliteStore = self._made()
        self.known = self.store.open()

    def _made(self) -> SqliteStore:
        store = SqliteStore(self.data_dir, self.calls.put, self.calls.put if self.here else None)
        store._pace = AnyPace()
        return store

    @property
    def data_dir(self) -> Path:
        return self.folder / f"life-{self._life}"

    def open(self) -> Recovered:
        self.known = self.store.open()
        return self.known

    def crash(self) -> Recovered:
        """A copy of the files, as they are while the store has them open, is what a kill leaves."""
        before = self.data_dir
        self._life += 1
        self.data_dir.mkdir()
        for name in ("gateway.db", "gateway.db-wal"):
            shutil.copyfile(before / name, self.data_dir / name)
        self.store.close()
        self.store = self._made()
        return self.open()

    def reopen(self) -> Recovered:
        self.store.close()
        self.store = self._made()
        return self.open()

    def submit(self, commit: Commit) -> Exception | None:
        errors: list[Exception | None] = []
        self.store.submit(commit, lambda _, error: errors.append(error))
        while not errors:
            self.calls.get(timeout=60)()
        (error,) = errors
        return error

    def dump(self) -> dict[str, Any]:
        writer = self.store._writer
        assert writer is not None
        return dump_sqlite(self.data_dir / "gateway.db", writer.counters.next)

    def sql(self, statement: str, *params: Any) -> list[Any]:
        """Look into, or damage, the file behind the store's back."""
        conn = sqlite3.connect(self.data_dir / "gateway.db", isolation_level=None)
        try:
            return conn.execute(statement, params).fetchall()
        finally:
            conn.close()


def failed(error: Exception | None) -> StoreFailed:
    assert isinstance(error, StoreFailed)
    return error


# -- dumps -------------------------------------------------------------------------------------------------------------


def dump_memory(tables: Tables) -> dict[str, Any]:
    messages = {id: msgspec.structs.asdict(row) for id, row in tables.messages.items()}
    return {
        "messages": messages,
        "sessions": {
            client: (msgspec.structs.replace(known.row), known.told)
            for client, known in tables.sessions.items()
        },
        "clients": dict(tables.clients),
        "gaps": dict(tables.gaps),
        "chains": dict(tables.chains),
        "events": {
            id: [(e.at, e.kind, e.data) for e in events] for id, events in tables.events.items() if events
        },
        "keys": {who: (key.id, key.digest, key.at) for who, key in tables.keys.items()},
    }


def dump_sqlite(path: Path, following: dict[str, int]) -> dict[str, Any]:
    conn = sqlite3.connect(path)
    conn.row_factory = sqlite3.Row
    try:

        def table(name: str) -> list[dict[str, Any]]:
            return [dict(row) for row in conn.execute(f"SELECT * FROM {name}")]  # noqa: S608

        messages = {}
        for row in table("messages"):
            del row["crc"]
            extra = row.pop("extra")
            row["x"] = msgspec.json.decode(extra, type=Extra) if extra is not None else None
            messages[row["id"]] = row
        sessions = {}
        for row in table("sessions"):
            missed = Missed(row.pop("expired"), row.pop("superseded"), row.pop("dead"))
            told = Missed(row.pop("told_expired"), row.pop("told_superseded"), row.pop("told_dead"))
            row["next"] = following[row["client"]]
            sessions[row["client"]] = (SessionRow(**row, missed=missed), told)
        chains = {}
        for row in table("chains"):
            channel = row.pop("channel")
            row["channels"] = msgspec.json.decode(row["channels"])
            row["burnt"] = bool(row["burnt"])
            chains[row["id"]] = ChainRow(**row)
            assert chains[row["id"]].channel == channel
        events: dict[int, list[Any]] = {}
        for row in conn.execute("SELECT mid,at,kind,data FROM events ORDER BY rowid"):
            data = msgspec.json.decode(row["data"]) if row["data"] is not None else None
            events.setdefault(row["mid"], []).append((row["at"], row["kind"], data))
        return {
            "messages": messages,
            "sessions": sessions,
            "clients": {
                row["client"]: ClientRow(
                    row["client"],
                    msgspec.json.decode(row["record"], type=ClientRecord),
                    row["not_before"],
                    row["banned_until"],
                )
                for row in table("clients")
            },
            "gaps": {
                (row["client"], row["seq"]): Gap(
                    row["client"], row["eno"], row["seq"], row["mid"], row["why"], row["via"]
                )
                for row in table("gaps")
            },
            "chains": chains,
            "events": events,
            "keys": {
                (row["publisher"], row["key"]): (row["id"], row["digest"], row["at"])
                for row in table("dedup")
            },
        }
    finally:
        conn.close()


SLOTS = (
    "id", "client", "sender", "lane", "at", "expire", "body", "x", "kind", "chain", "hold", "status", "due", "eno",
    "seq", "marks", "tries", "crashes", "written", "why", "via", "pid",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A value that can be compared: Items by their fields."""
    if isinstance(value, Item):
        return {name: getattr(value, name) for name in SLOTS}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


def recovered(known: Recovered) -> dict[str, Any]:
    """Without what is made with the database."""
    told: dict[str, Any] = plain(known)
    del told["trace_root"]
    return told
