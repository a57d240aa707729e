"""What the command line alone can get wrong: exit 2, and one line that names it."""

import pytest

from gateway import __version__
from gateway.cli.parser import duration
from tests.cli.support import ID, Runner


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("2.5", 2.5), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("7d", 604_800), ("365d", 31_536_000)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["send", "alice", "x", "--ttl", "soon"], "--ttl"),
        (["send", "alice", "x", "--ttl", "nan"], "--ttl"),
        (["send", "alice", "x", "--ttl", "366d"], "--ttl"),
        (["send", "alice", "x", "--ttl=-1"], "--ttl"),
        (["send", "alice", "x", "--priority", "urgent"], "--priority"),
        (["send", "alice", "x", "--meta", "novalue"], "--meta"),
        (["send", "alice", "x", "--key", ""], "--key"),
        (["send", "alice", "x", "--type", "t" * 65], "--type"),
        (["send", "alice", "x", "--deliver-at", "tomorrow"], "--deliver-at"),
        (["send", "alice", "x", "--wait-for", "end", "--timeout", "0"], "--timeout"),
        (["send", "alice"], "BODY"),
        (["listen", "a/b"], "CLIENT"),
        (["listen", "alice", "--once", "0"], "--once"),
        (["listen", "alice", "--on", "1"], "--on"),
        (["token", "al ice"], "CLIENT"),
        (["token", "alice", "--may", "everything"], "--may"),
        (["status", "nothing"], "ID"),
        (["status", "Z" * 13], "ID"),
        (["dead-letters"], "COMMAND"),
        (["dead-letters", "list", "--limit", "many"], "--limit"),
        (["dead-letters", "replay"], "ID"),
        (["dead-letters", "replay", ID, "--all"], "ID"),
        (["dead-letters", "delete"], "ID"),
        (["clients", "disconnect", "alice", "--ban", "0"], "--ban"),
        (["fly"], "COMMAND"),
        ([], "COMMAND"),
    ],
)
async def test_usage_is_one_line_that_names_it(cli: Runner, argv: list[str], named: str) -> None:
    result = await cli(*argv)
    assert result.code == 2
    assert named in result.error


async def test_version_and_help(cli: Runner) -> None:
    version = await cli("--version")
    assert (version.code, version.out) == (0, f"bot-gateway {__version__}\n")
    text = await cli("--help")
    assert text.code == 0
    for command in ("serve", "check", "token", "send", "listen", "status", "dead-letters", "clients"):
        assert command in text.out
