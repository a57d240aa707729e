"""A row of `messages` as bytes and as an `Item`: columns, checksum, reading back.

SQLite lets go of the interpreter's lock at every step and takes it back after it, which may cost the switch interval
while the loop is busy. So a SELECT on the hot path yields one row: a JSON list of rows, decoded in one go. What may
hold any byte (body, extra) travels in it as hex digits.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from zlib import crc32

import msgspec
import structlog

from gateway.commit import Event, Gap
from gateway.model import ChainRow, Extra, Hold, Item, Kind

_T = TypeVar("_T")

log = structlog.get_logger("gateway.store")

_BARE = "id,client,sender,lane,kind,hold,status,chain,eno,seq,at,due,expire,marks,tries,crashes,via,why,crc,hex(extra)"
# outer expressions over a subquery that selects the columns of `WHOLE_ROW` or `BARE_ROW`
BARE = _BARE
WHOLE = f"{_BARE},hex(body)"
BARE_ROW = _BARE.replace("hex(extra)", "extra")
WHOLE_ROW = f"{BARE_ROW},body"
WIDTH = WHOLE.count(",") + 1

CHAIN = "id,client,channels,why,due,phase,step,attempt,total,burnt,lane,since"

# rows of one INSERT; each size is a statement that SQLite keeps prepared
CHUNKS = (64, 16, 4, 1)

# a corrupt row is logged and counted once, as long as no more than this many are
CORRUPT_KNOWN = 10_000

encode_json = msgspec.json.Encoder().encode
_decode_rows = msgspec.json.Decoder(list[list[Any]]).decode
_decode_extra = msgspec.json.Decoder(Extra).decode
decode_channels = msgspec.json.Decoder(list[str]).decode
decode_data = msgspec.json.Decoder(dict[str, Any]).decode

_WAITING, _BOUND, _LATER = int(Hold.WAITING), int(Hold.BOUND), int(Hold.LATER)


def fetch(
    conn: sqlite3.Connection, columns: str, source: str, params: Sequence[Any] | dict[str, Any] = ()
) -> list[list[Any]]:
    """The rows of `source`, an SQL query, as lists of the expressions `columns` over it. No BLOB may be among them."""
    try:
        found = conn.execute(_as_json(columns, source), params).fetchall()[0][0]
    except sqlite3.DataError:
        # together they are longer than the longest value that SQLite makes
        return [list(row) for row in conn.execute(f"SELECT {columns} FROM ({source})", params)]  # noqa: S608
    try:
        return _decode_rows(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # text that is no UTF-8: the checksum of its row tells
        return _decode_rows(bytes(found).decode("utf-8", "replace"))


@lru_cache(512)
def _as_json(columns: str, source: str) -> str:
    return f"SELECT CAST(json_group_array(json_array({columns})) AS BLOB) FROM ({source})"  # noqa: S608


def bulk(conn: sqlite3.Connection, head: str, rows: Sequence[Sequence[Any]], tail: str = "") -> None:
    """Run `head (?,…),… tail` over all rows, in as few statements as the kept sizes allow."""
    for some in chunks(rows):
        conn.execute(*with_values(head, some, tail))


def chunks(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The rows in pieces of the kept sizes."""
    done, left = 0, len(rows)
    for size in CHUNKS:
        while left >= size:
            yield rows[done : done + size]
            done += size
            left -= size


def with_values(head: str, rows: Sequence[Sequence[Any]], tail: str) -> tuple[str, list[Any]]:
    """`head (?,…),… tail` for these rows, and its parameters."""
    values: list[Any] = []
    for row in rows:
        values += row
    return _statement(head, len(rows), len(rows[0]), tail), values


@lru_cache(1024)
def _statement(head: str, rows: int, width: int, tail: str) -> str:
    one = f"({','.join('?' * width)})"
    return f"{head}{','.join([one] * rows)}{tail}"


def ids_json(ids: Iterable[int]) -> str:
    """A list of ids as one parameter: `id IN (SELECT value FROM json_each(?))`."""
    return f"[{','.join(map(str, ids))}]"


def checksum(
    id: int,
    client: str,
    sender: str,
    lane: int,
    kind: int,
    at: int,
    expire: int,
    extra: bytes | None,
    body: bytes | None,
) -> int:
    """CRC-32 of what never changes in a row, but for `pid`, which no delivery reads."""
    extra = extra or b""
    head = f"{id}|{client}|{sender}|{lane}|{kind}|{at}|{expire}|{len(extra)}|".encode()
    return crc32(body or b"", crc32(extra, crc32(head)))


class Reader:
    """Turns rows into Items and tells the corrupt ones. `corrupt` counts them."""

    __slots__ = ("_known", "corrupt")

    def __init__(self) -> None:
        self._known: set[int] = set()
        self.corrupt = 0

    def found_corrupt(self, id: int) -> None:
        if id in self._known:
            return
        if len(self._known) < CORRUPT_KNOWN:
            self._known.add(id)
        self.corrupt += 1
        log.error("a stored message does not match its checksum", id=id)

    def item(self, row: Sequence[Any]) -> tuple[Item, bool]:
        """The Item of a row of `BARE` or `WHOLE`, and whether it can be trusted. Where not, it has no body.

        Only a whole row can be checked against its checksum. The seq of what waits is that of a settled delivery: not
        told. A forgotten message has no checksum.
        """
        extra = bytes.fromhex(row[19]) if row[19] else None
        body = bytes.fromhex(row[20]) if len(row) == WIDTH and row[20] else None
        x: Extra | None = None
        good = True
        if extra is not None:
            try:
                x = _decode_extra(extra)
            except (msgspec.DecodeError, UnicodeDecodeError):
                good = False
        if (
            len(row) == WIDTH
            and row[1]
            and row[18] != checksum(row[0], row[1], row[2], row[3], row[4], row[10], row[12], extra, body)
        ):
            good = False
        if not good:
            self.found_corrupt(row[0])
            body = None
        item = Item(row[0], row[1], row[2], row[3], row[10], row[12], body, x, row[4], row[7])
        item.hold = hold = row[5]
        item.status = row[6]
        if hold not in {_WAITING, _LATER}:
            item.eno = row[8]
            item.seq = row[9]
        item.due = row[11]
        item.marks = row[13]
        item.tries = row[14]
        item.crashes = row[15]
        item.via = row[16]
        item.why = row[17]
        return item, good


def gap_item(gap: Gap) -> Item:
    """A gap as it stands in a window."""
    item = Item(gap.id, gap.client, "", 0, 0, 0, None, kind=int(Kind.GAP))
    item.hold = _BOUND
    item.eno, item.seq = gap.eno, gap.seq
    item.why, item.via = gap.why, gap.via
    return item


def timelines(conn: sqlite3.Connection, ids: Iterable[int]) -> dict[int, list[Event]]:
    """The timelines of these messages, each in the order of their times."""
    found: dict[int, list[Event]] = {}
    for id, at, kind, data in conn.execute(
        "SELECT mid,at,kind,data FROM events WHERE mid IN (SELECT value FROM json_each(?)) ORDER BY mid,at,rowid",
        (ids_json(ids),),
    ):
        found.setdefault(id, []).append(Event(id, at, kind, decode_data(data) if data is not None else None))
    return found


def chain_values(row: ChainRow) -> tuple[Any, ...]:
    """A chain row for `INSERT INTO chains(CHAIN, channel)`."""
    return (
        row.id, row.client, encode_json(row.channels).decode(), row.why, row.due, row.phase, row.step, row.attempt,
        row.total, int(row.burnt), row.lane, row.since, row.channel,
    )  # fmt: skip


def chain_row(row: Sequence[Any]) -> ChainRow:
    """The chain row of a row of `CHAIN`."""
    id, client, channels, why, due, phase, step, attempt, total, burnt, lane, since = row
    names = decode_channels(channels)
    return ChainRow(id, client, names, why, due, phase, step, attempt, total, bool(burnt), lane, since)
