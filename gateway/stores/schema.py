"""The database file: its lock, its connections, its tables and how an older file becomes a newer one."""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.errors import ConfigError

FILE = "gateway.db"
PAGE = 4096
# waiting for another program's lock on the file (somebody looks at it with the sqlite3 shell)
BUSY_S = 2.0
CACHE_KIB = 65_536
READER_CACHE_KIB = 8_192
# what the WAL file keeps of its size when it starts over
WAL_KEPT = 64 << 20
# upserts 3.24, UPDATE … FROM 3.33
OLDEST_SQLITE = (3, 34, 0)

MESSAGES = """
CREATE TABLE messages(
  id INTEGER PRIMARY KEY,
  client TEXT NOT NULL,
  sender TEXT NOT NULL,
  lane INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  hold INTEGER NOT NULL,
  status INTEGER NOT NULL,
  chain INTEGER NOT NULL,
  eno INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  at INTEGER NOT NULL,
  due INTEGER NOT NULL,
  expire INTEGER NOT NULL,
  deadline INTEGER NOT NULL,
  marks INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  sent_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL DEFAULT 0,
  via TEXT NOT NULL DEFAULT '',
  why TEXT NOT NULL DEFAULT '',
  collapse TEXT,
  replayed INTEGER NOT NULL DEFAULT 0,
  extra BLOB,
  crc INTEGER NOT NULL,
  body BLOB
)
"""

# Every index is partial: a message that is delivered at once is in `bound` alone, and in none once it is acked.
# An index ends with the row's id, so `waiting` is in order of acceptance, and `bound`, which has no other key than
# the two values of hold, grows and shrinks at its end. `hold` stands in `waiting` and `later` so that counting
# touches no row.
VERSION_1 = (
    MESSAGES,
    "CREATE INDEX waiting ON messages(client, lane, hold) WHERE hold=1",
    "CREATE INDEX later ON messages(client, hold) WHERE hold=3",
    "CREATE INDEX bound ON messages(hold) WHERE hold IN (2,4)",
    "CREATE INDEX due ON messages(due) WHERE due>0",
    "CREATE INDEX collapse ON messages(client, sender, collapse) WHERE collapse IS NOT NULL AND hold IN (1,3)",
    "CREATE INDEX dead ON messages(status) WHERE status=10",
    """
    CREATE TABLE sessions(
      client TEXT PRIMARY KEY,
      epoch TEXT NOT NULL,
      eno INTEGER NOT NULL,
      next INTEGER NOT NULL,
      token_presented BLOB,
      token_issued BLOB,
      away_since INTEGER NOT NULL,
      created INTEGER NOT NULL,
      seen INTEGER NOT NULL,
      expired INTEGER NOT NULL DEFAULT 0,
      superseded INTEGER NOT NULL DEFAULT 0,
      dead INTEGER NOT NULL DEFAULT 0,
      told_expired INTEGER NOT NULL DEFAULT 0,
      told_superseded INTEGER NOT NULL DEFAULT 0,
      told_dead INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE clients(
      client TEXT PRIMARY KEY, record BLOB NOT NULL, not_before INTEGER NOT NULL, banned_until INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE gaps(
      client TEXT, seq INTEGER, eno INTEGER NOT NULL, mid INTEGER NOT NULL, why TEXT NOT NULL, via TEXT NOT NULL,
      PRIMARY KEY(client, seq)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE chains(
      id INTEGER PRIMARY KEY,
      client TEXT NOT NULL,
      channel TEXT NOT NULL,
      due INTEGER NOT NULL,
      phase INTEGER NOT NULL,
      why TEXT NOT NULL,
      step INTEGER NOT NULL,
      attempt INTEGER NOT NULL,
      total INTEGER NOT NULL,
      burnt INTEGER NOT NULL,
      channels TEXT NOT NULL
    )
    """,
    "CREATE INDEX chains_due ON chains(channel, due) WHERE phase=0",
    "CREATE INDEX chains_client ON chains(client)",
    "CREATE TABLE events(mid INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, data BLOB)",
    "CREATE INDEX events_mid ON events(mid)",
    """
    CREATE TABLE dedup(
      publisher TEXT, key TEXT, id INTEGER NOT NULL, digest BLOB NOT NULL, at INTEGER NOT NULL,
      PRIMARY KEY(publisher, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX dedup_at ON dedup(at)",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
)
# A 0 behind `body` takes one byte, in the row's header: whether a row has a packet id is told without reading its body.
VERSION_2 = (
    "ALTER TABLE messages ADD COLUMN pid INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE sessions ADD COLUMN sub INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE sessions ADD COLUMN keep INTEGER NOT NULL DEFAULT -1",
)
# Chain rows from before receipts: how long they have been at their step is not known better than by when they are due.
VERSION_3 = (
    "ALTER TABLE chains ADD COLUMN lane INTEGER NOT NULL DEFAULT 2",
    "ALTER TABLE chains ADD COLUMN since INTEGER NOT NULL DEFAULT 0",
    "UPDATE chains SET since=due, lane=coalesce((SELECT lane FROM messages AS m WHERE m.id=chains.id),2)",
    "DROP INDEX chains_due",
    "CREATE INDEX chains_due ON chains(channel, lane, due) WHERE phase=0",
    "CREATE INDEX chains_rest ON chains(due) WHERE phase=3",
)

# Templates are kept by version: a message in flight names one. Suppressions are asked for by address, the audit log is
# read by id.
PEOPLE = (
    """
    CREATE TABLE templates(
      name TEXT, version INTEGER, variants BLOB NOT NULL, at INTEGER NOT NULL, by TEXT NOT NULL,
      PRIMARY KEY(name, version)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE suppressions(
      address TEXT, channel TEXT, category TEXT, why TEXT NOT NULL, at INTEGER NOT NULL, by TEXT NOT NULL,
      PRIMARY KEY(address, channel, category)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE audit(
      id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, who TEXT NOT NULL, act TEXT NOT NULL,
      data BLOB NOT NULL
    )
    """,
)

Migration = Callable[[sqlite3.Connection], None]


def _create(conn: sqlite3.Connection) -> None:
    for statement in VERSION_1:
        conn.execute(statement)
    # `floor` and `rows` are told in counters.py
    conn.execute("INSERT INTO meta VALUES ('floor',0),('rows',0),('trace_root',?)", (secrets.token_hex(8),))


def _mqtt(conn: sqlite3.Connection) -> None:
    for statement in VERSION_2:
        conn.execute(statement)


def _receipts(conn: sqlite3.Connection) -> None:
    for statement in VERSION_3:
        conn.execute(statement)


def _people(conn: sqlite3.Connection) -> None:
    for statement in PEOPLE:
        conn.execute(statement)


# the n-th, counted from 0, makes version n + 1 of version n; version 0 is an empty file, which goes through all
MIGRATIONS: tuple[Migration, ...] = (_create, _mqtt, _receipts, _people)


def migrate(conn: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to this version, each step in a transaction of its own.

    Raises ConfigError for a file of a newer version.
    """
    version: int = conn.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise ConfigError(
            f"the database has version {version}, this gateway knows {len(migrations)}: use a newer gateway",
            field="data_dir",
        )
    for number in range(version, len(migrations)):
        conn.execute("BEGIN IMMEDIATE")
        try:
            migrations[number](conn)
            conn.execute(f"PRAGMA user_version={number + 1}")
            conn.execute("COMMIT")
        except BaseException:
            conn.rollback()
            raise


def connect_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes. Every commit is synced; the WAL is checkpointed only when asked to be.

    No memory map: a failed read of one is a signal that ends the process, not an error.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: at least {needed} is needed")
    # bodies are nobody else's; the WAL takes the mode of the database
    path.touch(mode=0o600)
    conn = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=BUSY_S, cached_statements=256
    )
    try:
        for pragma in (
            f"page_size={PAGE}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "wal_autocheckpoint=0",
            f"journal_size_limit={WAL_KEPT}",
            f"cache_size=-{CACHE_KIB}",
            "mmap_size=0",
            "temp_store=MEMORY",
            "secure_delete=FAST",
            "trusted_schema=OFF",
        ):
            conn.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        conn.close()
        raise
    return conn


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that sees what is committed and can write nothing."""
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_S,
    )
    try:
        conn.execute("PRAGMA query_only=ON")
        conn.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
    except BaseException:
        conn.close()
        raise
    return conn


def lock(data_dir: Path) -> int:
    """Take the folder for this process, as long as the descriptor is open. The kernel lets go of it at any end.

    Raises ConfigError where another process has it, or where the folder cannot be used.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{data_dir} cannot be used: {error.strerror}", field="data_dir") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"another gateway is running on {data_dir}", field="data_dir") from error
    return fd
