"""`dead-letters`: what could not be delivered, why, and another try."""

import argparse

import msgspec
from msgspec import Raw

from gateway.cli.api import Api, run
from gateway.cli.exits import Exit, Failure
from gateway.cli.output import Output
from gateway.cli.shapes import Message, Replay, Replays
from gateway.cli.where import Where

_PATH = "/v1/dead-letters"
# replays of one call; more are asked for until none is left
TOGETHER = 100


def listing(options: argparse.Namespace) -> int:
    """Newest first."""
    return run(_listing(options))


def show(options: argparse.Namespace) -> int:
    """One, as `status` shows it."""
    return run(_show(options))


def replay(options: argparse.Namespace) -> int:
    """Some by id, or all that fit."""
    _one_of(options)
    return run(_replay(options))


def delete(options: argparse.Namespace) -> int:
    """Some by id, or all."""
    _one_of(options)
    return run(_delete(options))


def _one_of(options: argparse.Namespace) -> None:
    if bool(options.ids) == options.all:
        raise Failure(Exit.USAGE, "name dead letters, or --all", field="ID")


async def _listing(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    query = {"to": options.to, "why": options.why, "replayed": "true" if options.replayed else None}
    left = options.limit
    shown: list[Message] = []
    more = False
    async with Api(Where(options), "read") as api:
        async for page in api.pages(_PATH, query, options.limit):
            more = len(page) > left
            for row in page[:left]:
                if out.json:
                    out.line(row)
                else:
                    shown.append(_without_body(api.read(row, Message)))
            left -= min(left, len(page))
    if shown:
        from gateway.cli.render import message_table

        out.show(message_table(shown))
    if left == options.limit:
        out.note("no dead letters")
    if more:
        out.note("there are more: --limit")
    return Exit.OK


def _without_body(message: Message) -> Message:
    """The table shows none: let it go."""
    message.body = msgspec.UNSET
    message.timeline = []
    return message


async def _show(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "read") as api:
        raw, message = await api.get(f"/v1/messages/{options.id}", Message)
    if message.status != "dead":
        raise Failure(Exit.NOT_FOUND, f"{options.id} is no dead letter but {message.status}", field="ID")
    if out.json:
        out.line(raw)
    else:
        from gateway.cli.render import message_tree

        out.show(message_tree(message), wrap=False)
    return Exit.OK


async def _replay(options: argparse.Namespace) -> int:
    """Exit 0 only where every one was replayed."""
    out = Output(json=options.json)
    body = {"channel": options.channel} if options.channel is not None else {}
    async with Api(Where(options), "admin") as api:
        if options.all:
            return await _replay_all(api, out, options, body)
        for id in options.ids:
            raw = await api.call("POST", f"{_PATH}/{id}/replay", body=body)
            _told(out, raw, api.read(raw, Replay))
    return Exit.OK


async def _replay_all(api: Api, out: Output, options: argparse.Namespace, body: dict[str, str]) -> int:
    """Round by round: what was replayed fits no more. Ends with the first round that could not replay all it found."""
    wanted = {"to": options.to, "why": options.why}
    ask = body | {name: value for name, value in wanted.items() if value is not None} | {"limit": TOGETHER}
    done = 0
    while True:
        replays = api.read(await api.call("POST", f"{_PATH}/replay", body=ask), Replays)
        refused = [raw for raw in replays.results if not _told(out, raw, api.read(raw, Replay))]
        done += len(replays.results) - len(refused)
        if refused or not replays.more:
            break
    if not done and not refused:
        out.note("no dead letters")
    return Exit.FAILED if refused else Exit.OK


def _told(out: Output, raw: Raw, one: Replay) -> bool:
    """Tell one result. Whether it was replayed."""
    if out.json:
        out.line(raw)
    elif one.code:
        out.note(f"{one.replay_of}: {one.detail} ({one.code})")
    else:
        out.plain(f"{one.replay_of} replayed as {one.id}")
    return not one.code


async def _delete(options: argparse.Namespace) -> int:
    out = Output(json=options.json)
    async with Api(Where(options), "admin") as api:
        if options.all:
            count = api.read(await api.call("DELETE", _PATH), dict[str, int]).get("deleted", 0)
        else:
            for id in options.ids:
                await api.call("DELETE", f"{_PATH}/{id}")
            count = len(options.ids)
    if out.json:
        out.line({"deleted": count})
    else:
        out.plain(f"deleted: {count}")
    return Exit.OK
