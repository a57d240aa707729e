"""`channels`: how the fallback channels are, and one attempt to see that one works."""

import argparse

from gateway.cli.api import Api, run
from gateway.cli.exits import Exit
from gateway.cli.output import Output
from gateway.cli.send import body as body_of
from gateway.cli.shapes import ChannelList, ChannelTested
from gateway.cli.where import Where

GOOD = ("accepted", "delivered")


def listing(options: argparse.Namespace) -> int:
    """Channels, as `GET /v1/channels` tells them."""
    return run(_listing(options))


def test(options: argparse.Namespace) -> int:
    """One attempt; 0 where the provider has taken it."""
    return run(_test(options))


async def _listing(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "read") as api:
        raw, found = await api.get("/v1/channels", ChannelList)
    if out.json:
        out.line(raw)
    elif found.channels:
        from gateway.cli.render import channel_table

        out.show(channel_table(found.channels))
    else:
        out.note("no channels are configured")
    return Exit.OK


async def _test(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    body: dict[str, object] = {"address": options.address} if options.address else {}
    if options.body is not None:
        body["body"] = body_of(options.body, text=options.text)
    async with Api(Where(options), "admin") as api:
        raw = await api.call("POST", f"/v1/channels/{options.channel}/test", body=body)
        told = api.read(raw, ChannelTested)
    if out.json:
        out.line(raw)
    else:
        blame = f", blames the {told.blame}" if told.blame else ""
        out.plain(f"{options.channel}: {told.outcome} after {told.ms} ms: {told.reason}{blame}")
    return Exit.OK if told.outcome in GOOD else Exit.FAILED
