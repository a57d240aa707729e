"""What is written and read about people beside their records: templates, suppressions; and the audit log."""

import sqlite3
from typing import Any

import msgspec

from gateway.commit_people import Audit, DropSuppressions, PutSuppressions, PutTemplate
from gateway.reads import ReadSuppressed
from gateway.records import AuditEntry, Suppression
from gateway.stores.rows import bulk, encode_json, fetch
from gateway.templates import TemplateRow, Variant

# lines of the audit log that are kept, and after how many the oldest are looked for
AUDIT_ROWS, AUDIT_LOOK = 1_000_000, 1000
_COLUMNS = "address,channel,category,why,at,by"
_PUT = f"INSERT OR REPLACE INTO suppressions({_COLUMNS}) VALUES "  # noqa: S608
_OF = f"SELECT {_COLUMNS} FROM suppressions WHERE address IN (SELECT value FROM json_each(?))"  # noqa: S608
_BEHIND = f"""
SELECT {_COLUMNS} FROM suppressions WHERE (address,channel,category)>(?,?,?) ORDER BY address,channel,category LIMIT ?
"""  # noqa: S608
_AUDIT = "SELECT id,at,who,act,data FROM audit WHERE id<? ORDER BY id DESC LIMIT ?"

_decode_variants = msgspec.json.Decoder(list[Variant]).decode
_decode_data = msgspec.json.Decoder(dict[str, Any]).decode


class People:
    __slots__ = ("_conn",)

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def put_template(self, op: PutTemplate) -> None:
        row = op.row
        self._conn.execute(
            "INSERT INTO templates(name,version,variants,at,by) VALUES (?,?,?,?,?)",
            (row.name, row.version, encode_json(row.variants), row.at, row.by),
        )
        self._conn.execute(
            "DELETE FROM templates WHERE name=? AND version<=?", (row.name, row.version - op.keep)
        )

    def put_suppressions(self, op: PutSuppressions) -> None:
        bulk(self._conn, _PUT, [(*row.key, row.why, row.at, row.by) for row in op.rows])

    def drop_suppressions(self, op: DropSuppressions) -> None:
        op.count = self._conn.execute(
            "DELETE FROM suppressions WHERE address=?1 AND ?2 IN ('',channel) AND ?3 IN ('',category)",
            (op.address, op.channel, op.category),
        ).rowcount

    def audit(self, op: Audit) -> None:
        entry = op.entry
        last = self._conn.execute(
            "INSERT INTO audit(at,who,act,data) VALUES (?,?,?,?)",
            (entry.at, entry.who, entry.act, encode_json(entry.data)),
        ).lastrowid
        if last is not None and last % AUDIT_LOOK == 0:
            self._conn.execute("DELETE FROM audit WHERE id<=?", (last - AUDIT_ROWS,))

    def suppressed(self, read: ReadSuppressed) -> None:
        rows = fetch(self._conn, _COLUMNS, _OF, (encode_json(read.addresses).decode(),))
        for row in map(_suppression, sorted(rows)):
            read.found.setdefault(row.address, []).append(row)

    def templates(self) -> list[TemplateRow]:
        """All of them, by name and version."""
        return [
            TemplateRow(name, version, _decode_variants(variants), at, by)
            for name, version, variants, at, by in self._conn.execute(
                "SELECT name,version,variants,at,by FROM templates ORDER BY name,version"
            )
        ]

    def count(self) -> int:
        """Rows of suppressions."""
        found: int = self._conn.execute("SELECT count(*) FROM suppressions").fetchone()[0]
        return found


def suppressions(conn: sqlite3.Connection, after: tuple[str, str, str], limit: int) -> list[Suppression]:
    """In order, behind `after`."""
    return [_suppression(row) for row in conn.execute(_BEHIND, (*after, limit)).fetchall()]


def suppressions_of(conn: sqlite3.Connection, address: str) -> list[Suppression]:
    """Those of an address, in order."""
    return sorted(
        map(_suppression, conn.execute(_OF, (encode_json([address]).decode(),))), key=lambda row: row.key
    )


def audit_log(conn: sqlite3.Connection, before: int, limit: int) -> list[AuditEntry]:
    """Newest first, ids below `before`."""
    return [
        AuditEntry(at, who, act, _decode_data(data), id)
        for id, at, who, act, data in conn.execute(_AUDIT, (before, limit)).fetchall()
    ]


def _suppression(row: Any) -> Suppression:
    address, channel, category, why, at, by = row
    return Suppression(address=address, channel=channel, category=category, why=why, at=at, by=by)
