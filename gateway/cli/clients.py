"""`clients`: who is here, and who is expected."""

import argparse

from msgspec import Raw

from gateway.cli.api import Api, run
from gateway.cli.exits import Exit
from gateway.cli.output import Output
from gateway.cli.shapes import ClientView
from gateway.cli.where import Where


def listing(options: argparse.Namespace) -> int:
    """Clients by id."""
    return run(_listing(options))


def show(options: argparse.Namespace) -> int:
    """One client."""
    return run(_show(options))


def disconnect(options: argparse.Namespace) -> int:
    """Close its connection; with --ban keep it away for a while."""
    return run(_disconnect(options))


async def _listing(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "read") as api:
        rows: list[Raw] = [row async for page in api.pages("/v1/clients", {}, options.limit) for row in page]
        views = [api.read(row, ClientView) for row in rows[: options.limit]]
    if out.json:
        for row in rows[: options.limit]:
            out.line(row)
    elif views:
        from gateway.cli.render import client_table

        out.show(client_table(views))
    if not rows:
        out.note("no clients")
    if len(rows) > options.limit:
        out.note("there are more: --limit")
    return Exit.OK


async def _show(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "read") as api:
        raw, client = await api.get(f"/v1/clients/{options.client}", ClientView)
    if out.json:
        out.line(raw)
    else:
        from gateway.cli.render import client_tree

        out.show(client_tree(client), wrap=False)
    return Exit.OK


async def _disconnect(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    body = {} if options.ban is None else {"ban": options.ban}
    async with Api(Where(options), "admin") as api:
        raw = await api.call("POST", f"/v1/clients/{options.client}/disconnect", body=body)
        was_here = api.read(raw, dict[str, bool]).get("disconnected", False)
    if out.json:
        out.line(raw)
    else:
        banned = f", banned for {options.ban:g} s" if options.ban is not None else ""
        out.plain(f"{options.client}: {'disconnected' if was_here else 'was not connected'}{banned}")
    return Exit.OK
