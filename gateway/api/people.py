"""Suppressions, one by one or as CSV, and the audit log."""

import asyncio
import csv
import io
from collections.abc import Iterable

import msgspec
from aiohttp import web

from gateway.api.base import CSV, JSON, Api, Call, decoder, media_type, read, reply, unsupported
from gateway.api.problems import decode
from gateway.api.schemas import Deleted
from gateway.api.schemas_people import (
    AuditOut,
    AuditPage,
    AuditQuery,
    SuppressionBody,
    SuppressionOut,
    SuppressionPage,
    SuppressionQuery,
    SuppressionsQuery,
    Written,
)
from gateway.contacts import is_email, normal
from gateway.errors import GatewayError, Invalid
from gateway.records import Suppression

# rows of one commit
TOGETHER = 1000
MAX_ROWS = 10_000
SLICE = 100
FORMULA = frozenset("=@\t\r")
COLUMNS = ("address", "channel", "category", "why")
_one_or_many = decoder(SuppressionBody | list[SuppressionBody])


async def listing(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/suppressions`: in order of their address; as CSV, all of them."""
    query: SuppressionsQuery = call.query
    store = api.hub.store
    if query.format == "csv":
        return await _export(api, call)
    if query.address is not None:
        found = await store.suppressions_of(_meant(query.address))
        return reply(SuppressionPage([_out(row) for row in found]))
    after = _cursor(query.after or "")
    rows = await store.suppressions(after, query.limit)
    page = SuppressionPage([_out(row) for row in rows])
    if len(rows) == query.limit:
        page.after = "|".join(reversed(rows[-1].key))
    return reply(page)


async def put(api: Api, call: Call) -> web.StreamResponse:
    """`PUT /v1/suppressions`: one, an array, or CSV with a line of names."""
    media = media_type(call.request)
    if media == CSV:
        bodies = _from_csv(await read(api, call.request))
    elif media == JSON:
        found = decode(_one_or_many, await read(api, call.request))
        bodies = found if isinstance(found, list) else [found]
    else:
        raise unsupported(JSON, CSV)
    if len(bodies) > MAX_ROWS:
        raise GatewayError(f"at most {MAX_ROWS} rows at once", code="batch_too_large", field="$", http=413)
    rows: list[Suppression] = []
    for i, body in enumerate(bodies):
        rows.append(_row(api, body, f"$[{i}]" if len(bodies) > 1 else "$"))
        if i % SLICE == 0:
            # others have their turn: a telephone number takes a while to read
            await asyncio.sleep(0)
    for at in range(0, len(rows), TOGETHER):
        await api.hub.suppressions.put(rows[at : at + TOGETHER], call.caller.publisher)
    return reply(Written(len(rows)))


async def delete(api: Api, call: Call) -> web.StreamResponse:
    """`DELETE /v1/suppressions`: those of an address, of a channel, of a category."""
    query: SuppressionQuery = call.query
    count = await api.hub.suppressions.drop(
        _meant(query.address), query.channel or "", query.category or "", call.caller.publisher
    )
    return reply(Deleted(count))


async def audit(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/audit`: newest first."""
    query: AuditQuery = call.query
    entries = await api.hub.store.audit(query.before, query.limit)
    page = AuditPage([AuditOut(e.id, e.at, e.who, e.act, e.data) for e in entries])
    if len(entries) == query.limit:
        page.before = entries[-1].id
    return reply(page)


async def _export(api: Api, call: Call) -> web.StreamResponse:
    response = call.stream(CSV)
    response.headers["Content-Disposition"] = 'attachment; filename="suppressions.csv"'
    await response.prepare(call.request)
    await response.write(_lines([(*COLUMNS, "at", "by")]))
    after = ("", "", "")
    while rows := await api.hub.store.suppressions(after, TOGETHER):
        await response.write(_lines((r.address, r.channel, r.category, r.why, str(r.at), r.by) for r in rows))
        after = rows[-1].key
    await response.write_eof()
    return response


def _lines(rows: Iterable[tuple[str, ...]]) -> bytes:
    out = io.StringIO()
    # a spreadsheet takes what begins so for a formula
    safe = (["'" + v if v[:1] in FORMULA else v for v in row] for row in rows)
    csv.writer(out).writerows(safe)
    return out.getvalue().encode()


def _unquoted(text: str) -> str:
    """Without the mark that keeps a spreadsheet from taking it for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


def _from_csv(raw: bytes) -> list[SuppressionBody]:
    """Raises Invalid, which names the line."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid("not valid UTF-8", field="$") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    bodies: list[SuppressionBody] = []
    try:
        names = set(reader.fieldnames or ())
        if "address" not in names or not names <= {*COLUMNS, "at", "by"}:
            raise Invalid(f"the first line names columns: {', '.join(COLUMNS)}", field="$[0]")
        for line in reader:
            if None in line or None in line.values():
                raise Invalid("as many fields as the first line has", field=f"$[{reader.line_num - 1}]")
            given = {name: _unquoted(value) for name, value in line.items() if name in COLUMNS and value}
            try:
                bodies.append(msgspec.convert(given, SuppressionBody))
            except msgspec.ValidationError as error:
                why, _, inside = str(error).partition(" - at `$")
                raise Invalid(why, field=f"$[{reader.line_num - 1}]{inside.rstrip('`')}") from None
    except csv.Error as error:
        raise Invalid(f"not CSV: {error}", field=f"$[{reader.line_num}]") from None
    return bodies


def _row(api: Api, body: SuppressionBody, at: str) -> Suppression:
    """In the form in which records have their addresses."""
    channels = api.config.channels
    if body.channel != "*" and body.channel not in channels:
        raise Invalid(f"no channel {body.channel}", code="channel_unknown", field=f"{at}.channel")
    kind = channels[body.channel].CONTACT if body.channel != "*" else _kind(body.address)
    address = normal(kind, body.address, f"{at}.address")
    return Suppression(address=address, channel=body.channel, category=body.category, why=body.why)


def _kind(address: str) -> str:
    """Of an address for any channel."""
    return "phone" if address.startswith("+") else "email" if is_email(address) else ""


def _meant(text: str) -> str:
    """The address that a query means, in its kept form; a `+` that was not encoded has become a space."""
    text = f"+{text[1:]}" if text[:1] == " " else text
    try:
        return normal(_kind(text), text, "address")
    except Invalid:
        return text


def _cursor(text: str) -> tuple[str, str, str]:
    """`category|channel|address`: an address may hold anything."""
    category, _, rest = text.partition("|")
    channel, _, address = rest.partition("|")
    return address, channel, category


def _out(row: Suppression) -> SuppressionOut:
    return SuppressionOut(
        address=row.address, channel=row.channel, category=row.category, why=row.why, at=row.at, by=row.by
    )
