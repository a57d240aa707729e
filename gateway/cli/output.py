"""What commands print: tables and trees for people, JSON lines for programs, notes on stderr.

Bodies, names and reasons come from elsewhere: on a terminal they must not be able to do anything but be read.
"""

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# control characters, and those that turn the direction of text: a terminal obeys them
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# a pipe has no width of its own; nothing is cut for it
PIPE_WIDTH = 1000


def clean(text: str) -> str:
    """`text` with what a terminal would obey made visible."""
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def shown(value: Any) -> str:
    """A JSON value on one line."""
    return clean(msgspec.json.encode(value).decode())


def moment(ms: int) -> str:
    """Unix ms as local date and time."""
    return f"{_local(ms):%Y-%m-%d %H:%M:%S}.{ms % 1000:03}"


def clock(ms: int) -> str:
    """Unix ms as local time of day."""
    return f"{_local(ms):%H:%M:%S}"


def _local(ms: int) -> datetime:
    # the year 9999 is as far as dates go
    return datetime.fromtimestamp(min(max(ms, 0), 253_402_214_400_000) / 1000, tz=UTC).astimezone()


def span(ms: int) -> str:
    """A length of time, as exactly as one wants it."""
    seconds = abs(ms) / 1000
    sign = "-" if ms < 0 else ""
    if seconds < 60:
        return f"{sign}{seconds:.3f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{sign}{minutes} min {int(seconds) % 60} s"
    if minutes < 60 * 48:
        return f"{sign}{minutes // 60} h {minutes % 60} min"
    return f"{sign}{minutes // (24 * 60)} d {minutes // 60 % 24} h"


class Output:
    """Standard output for one command. `json`: one value a line, and no notes."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._console: Console | None = None

    def line(self, value: Any) -> None:
        """One JSON value; `msgspec.Raw` is printed as it is."""
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()

    def plain(self, text: str) -> None:
        """A line as it is: a credential, an id, a document."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(self, what: "RenderableType", *, wrap: bool = True) -> None:
        """Something of rich. Without `wrap` long lines are the terminal's business, so that they can be copied."""
        self.console.print(what, soft_wrap=not wrap)

    def note(self, text: str) -> None:
        """What a person may want to know beside the result."""
        if not self.json:
            print(clean(text), file=sys.stderr, flush=True)

    @property
    def console(self) -> "Console":
        if self._console is None:
            from rich.console import Console as RichConsole

            class Quiet(RichConsole):
                def on_broken_pipe(self) -> None:
                    raise BrokenPipeError

            self._console = Quiet(
                file=sys.stdout,
                highlight=False,
                markup=False,
                emoji=False,
                width=None if sys.stdout.isatty() else PIPE_WIDTH,
            )
        return self._console
