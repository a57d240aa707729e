"""What the store knows when it opens."""

import sqlite3

import msgspec
import structlog

from gateway.commit import Gap, Recovered
from gateway.model import Item, Missed, SessionRow
from gateway.records import ClientRecord, ClientRow
from gateway.stores.people import People
from gateway.stores.rows import BARE, CHAIN, Reader, chain_row, gap_item
from gateway.stores.writer import Writer

log = structlog.get_logger("gateway.store")

_decode_record = msgspec.json.Decoder(ClientRecord).decode


def recover(conn: sqlite3.Connection, writer: Writer, reader: Reader) -> Recovered:
    """Read sessions, windows and what is due. One transaction: what belongs to no epoch any more is unbound in it."""
    people = People(conn)
    conn.execute("BEGIN IMMEDIATE")
    counters = writer.counters
    windows, strays = _windows(conn, writer, reader)
    if strays:
        log.error("messages bound to an epoch that is over wait again", count=len(strays))
        writer.unbind(strays)
        counters.finish()
    waiting: dict[str, int] = {}
    for hold in (1, 3):
        for client, count in conn.execute(
            f"SELECT client,count(*) FROM messages WHERE hold={hold} GROUP BY client"  # noqa: S608
        ):
            waiting[client] = waiting.get(client, 0) + count
    known = Recovered(
        sessions=_sessions(conn, counters.next),
        clients=[
            ClientRow(client, _decode_record(record), not_before, banned_until)
            for client, record, not_before, banned_until in conn.execute(
                "SELECT client,record,not_before,banned_until FROM clients ORDER BY client"
            )
        ],
        templates=people.templates(),
        suppressions=people.count(),
        windows=windows,
        waiting=waiting,
        open_chains=[
            chain_row(row)
            for row in conn.execute(f"SELECT {CHAIN} FROM chains WHERE phase=1 ORDER BY id")  # noqa: S608
        ],
        channels=dict(
            conn.execute(
                "SELECT channel,min(due) FROM chains WHERE phase=0 GROUP BY channel ORDER BY channel"
            )
        ),
        next_rest=conn.execute("SELECT min(due) FROM chains WHERE phase=3").fetchone()[0] or 0,
        highest_id=counters.highest,
        next_due=conn.execute("SELECT min(due) FROM messages WHERE due>0").fetchone()[0] or 0,
        rows=counters.rows,
        trace_root=conn.execute("SELECT value FROM meta WHERE key='trace_root'").fetchone()[0],
    )
    conn.execute("COMMIT")
    return known


def _sessions(conn: sqlite3.Connection, following: dict[str, int]) -> list[SessionRow]:
    return [
        SessionRow(
            client, epoch, eno, following[client], presented, issued, away_since, created, seen,
            Missed(expired, superseded, dead), sub, keep,
        )
        for (
            client, epoch, eno, presented, issued, away_since, created, seen, expired, superseded, dead, sub, keep,
        ) in conn.execute(
            """
            SELECT client,epoch,eno,token_presented,token_issued,away_since,created,seen,expired,superseded,dead,
              sub,keep
            FROM sessions ORDER BY client
            """
        )
    ]  # fmt: skip


def _windows(
    conn: sqlite3.Connection, writer: Writer, reader: Reader
) -> tuple[dict[str, list[Item]], list[int]]:
    """The windows of current epochs by client, and the ids of what is bound to none of them."""
    epochs = writer.counters.eno
    windows: dict[str, list[Item]] = {}
    strays: list[int] = []
    for row in conn.execute(f"SELECT {BARE} FROM messages WHERE hold IN (2,4)"):  # noqa: S608
        item, _ = reader.item(row)
        if epochs.get(item.client) != item.eno:
            strays.append(item.id)
            continue
        if item.hold == 2:
            item.marks = max(item.marks, 1)
        windows.setdefault(item.client, []).append(item)
    for client, eno, seq, id, why, via in conn.execute("SELECT client,eno,seq,mid,why,via FROM gaps"):
        if epochs.get(client) == eno:
            windows.setdefault(client, []).append(gap_item(Gap(client, eno, seq, id, why, via)))
    for items in windows.values():
        items.sort(key=lambda item: item.seq)
    return windows, strays
