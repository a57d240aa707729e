"""Exit codes that scripts can use; docs/cli.md lists them."""

from enum import IntEnum


class Exit(IntEnum):
    """From 128 on as shells have it: 128 and the number of the signal."""

    OK = 0
    FAILED = 1  # refused, or it ended otherwise than was waited for
    USAGE = 2  # the command line, the configuration, a file
    NOT_FOUND = 3
    UNREACHABLE = 4  # nobody answers there, or somebody else
    TIMED_OUT = 5
    LATER = 6  # not now: 429, 503, 507
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class Failure(Exception):
    """A command ends with this code and this line on stderr.

    `field`: what is wrong, an option or a field of the message. `code`: the API's stable code. `uncertain`: the
    request may have been carried out.
    """

    def __init__(
        self, exit_code: Exit, detail: str, *, field: str = "", code: str = "", uncertain: bool = False
    ) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.detail = detail
        self.field = field
        self.code = code
        self.uncertain = uncertain

    def __str__(self) -> str:
        where = f"{self.field.removeprefix('$.')}: " if self.field else ""
        return f"{where}{self.detail}" + (f" ({self.code})" if self.code else "")
