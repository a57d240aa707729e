"""How an older file becomes a newer one."""

import hashlib
import sqlite3

import pytest

from gateway.commit import Change, Event, Gap, KeyClaim, PutClient
from gateway.errors import ConfigError
from gateway.model import ChainRow, Extra
from gateway.reads import ReadItems
from gateway.records import ClientRecord, ClientRow
from gateway.stores import SqliteStore, schema
from tests.contracts.storekit import BOUND, NONE, SqliteKit, recovered


def nothing(_: object) -> None:
    """Nobody is told."""


def test_what_made_versions_1_and_2_stays() -> None:
    """Files made by them are out there: whatever is to change is a step of its own."""
    made = hashlib.sha256("\n".join(schema.VERSION_1).encode()).hexdigest()
    assert made == "f4322fef6507f7da4d8d5c67f7f4872e396c0c2daf3fd3d05571d8b014f2d804"
    made = hashlib.sha256("\n".join(schema.VERSION_2).encode()).hexdigest()
    assert made == "3953e6eae4e97fba4236e640c666436675c65a9a9073105772bd97b562c5bc03"


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_opens_with_all_it_has(sqlite: SqliteKit, version: int) -> None:
    sqlite.session("alice", 3, token_issued=b"\0t", away_since=5)
    items = [sqlite.add("alice", BOUND, eno=3, lane=1) for _ in range(4)]
    waiting = sqlite.item(x=Extra(type="t"), body=b'"%s"' % (b"x" * 9000), due=700)
    sqlite.do(appends=[waiting], keys={0: KeyClaim("backend", "k", b"1", 100, 0)})
    # how long it has been at its step is not known better than by when it is due
    row = ChainRow(items[1].id, "alice", ["hook"], "offline", 1, lane=1, since=1)
    sqlite.do(
        PutClient(ClientRow("alice", ClientRecord(late="deliver"), 5, 6)),
        Change(items[0].id, (BOUND,), {"hold": NONE}, gap=Gap("alice", 3, 1, items[0].id, "dead")),
        Change(items[1].id, (BOUND,), {"hold": 4}, claim=row, event=Event(items[1].id, 1, "x")),
        settles=[(items[2].id, 4, 120, "ws")],
    )
    known, held = recovered(sqlite.reopen()), sqlite.dump()
    assert all(held.values())
    root = sqlite.known.trace_root
    back_to(sqlite, version)
    assert recovered(sqlite.reopen()) == known
    assert sqlite.known.trace_root == root
    assert sqlite.dump() == held
    assert sqlite.sql("PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    assert [(r.sub, r.keep) for r in sqlite.known.sessions] == [(0, -1)]
    assert {r[0] for r in sqlite.sql("SELECT name FROM sqlite_master WHERE name LIKE 'chains_%'")} == {
        "chains_due", "chains_rest", "chains_client"
    }  # fmt: skip
    assert sqlite.read(ReadItems([waiting.id], nothing)).items[0].body == waiting.body
    sqlite.session("alice", 3, sub=1, keep=9)
    assert sqlite.add("alice", BOUND, eno=3, pid=8).seq == 5
    (session,) = sqlite.crash().sessions
    assert (session.sub, session.keep, session.next) == (1, 9, 6)
    assert [r["pid"] for r in sqlite.dump()["messages"].values()] == [0] * 5 + [8]


def back_to(sqlite: SqliteKit, version: int) -> None:
    """The next opening finds the same rows in a file that an older version made."""
    sqlite.store.close()
    newer = sqlite.data_dir / "gateway.db"
    sqlite._life += 1
    sqlite.data_dir.mkdir()
    conn = sqlite3.connect(sqlite.data_dir / "gateway.db", isolation_level=None)
    try:
        schema.migrate(conn, schema.MIGRATIONS[:version])
        conn.execute("DELETE FROM meta")
        conn.execute("ATTACH ? AS newer", (str(newer),))
        for (name,) in conn.execute("SELECT name FROM main.sqlite_master WHERE type='table'").fetchall():
            columns = ",".join(row[1] for row in conn.execute(f"PRAGMA main.table_info({name})"))
            conn.execute(f"INSERT INTO main.{name}({columns}) SELECT {columns} FROM newer.{name}")  # noqa: S608
        assert conn.execute("PRAGMA user_version").fetchone() == (version,)
    finally:
        conn.close()


def test_an_older_file_becomes_a_newer_one(sqlite: SqliteKit) -> None:
    item = sqlite.add()
    sqlite.store.close()

    def add_a_column(conn: sqlite3.Connection) -> None:
        conn.execute("ALTER TABLE messages ADD COLUMN shade TEXT NOT NULL DEFAULT 'green'")

    newer = (*schema.MIGRATIONS, add_a_column)
    store = SqliteStore(sqlite.data_dir, sqlite.calls.put, migrations=newer)
    assert store.open().rows == 1
    store.close()
    assert sqlite.sql("SELECT id,shade FROM messages") == [(item.id, "green")]
    assert sqlite.sql("PRAGMA user_version") == [(len(newer),)]
    with pytest.raises(ConfigError, match="use a newer gateway"):
        sqlite.reopen()
    sqlite.sql(f"PRAGMA user_version={len(schema.MIGRATIONS)}")
    sqlite.sql("ALTER TABLE messages DROP COLUMN shade")
    assert sqlite.reopen().rows == 1


def test_a_step_that_fails_leaves_nothing(sqlite: SqliteKit) -> None:
    sqlite.store.close()

    def fails(conn: sqlite3.Connection) -> None:
        conn.execute("DROP TABLE messages")
        conn.execute("no SQL at all")

    store = SqliteStore(sqlite.data_dir, sqlite.calls.put, migrations=(*schema.MIGRATIONS, fails))
    with pytest.raises(Exception, match="syntax error"):
        store.open()
    store.close()
    assert sqlite.reopen().rows == 0
