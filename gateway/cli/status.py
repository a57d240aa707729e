"""`status`: what became of a message."""

import argparse

from gateway.cli.api import Api, run
from gateway.cli.exits import Exit, Failure
from gateway.cli.output import Output
from gateway.cli.shapes import Accepted, Message, Page
from gateway.cli.where import Where


def status(options: argparse.Namespace) -> int:
    """The message as a tree of its steps."""
    return run(_status(options))


async def _status(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "read") as api:
        found = options.id if options.id != "last" else await _newest(api)
        raw, message = await api.get(f"/v1/messages/{found}", Message)
    if out.json:
        out.line(raw)
    else:
        from gateway.cli.render import message_tree

        out.show(message_tree(message), wrap=False)
    return Exit.OK


async def _newest(api: Api) -> str:
    _, page = await api.get("/v1/messages", Page, {"limit": 1})
    if not page.messages:
        raise Failure(Exit.NOT_FOUND, "there is no message yet")
    return api.read(page.messages[0], Accepted).id
