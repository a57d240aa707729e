"""`main`: what the console script runs."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from gateway.cli.exits import Exit, Failure
from gateway.cli.output import clean
from gateway.cli.parser import parse
from gateway.errors import ConfigError, GatewayError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (see `Exit`). Errors are one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            # what this terminal cannot show must not end the command
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        options = parse(argv)
        code = int(options.run(options))
        sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.OK
    except BrokenPipeError:
        _drop_stdout()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except asyncio.CancelledError:
        return Exit.TERMINATED
    except Failure as failure:
        return _fail(failure)
    except GatewayError as error:
        # a ConfigError names its key itself
        field = "" if isinstance(error, ConfigError) else error.field or ""
        return _fail(Failure(Exit.USAGE, error.detail, field=field))
    return code


def _fail(failure: Failure) -> int:
    with suppress(OSError):
        sys.stdout.flush()
        print(f"bot-gateway: {clean(str(failure))}", file=sys.stderr)
    return failure.exit_code


def _drop_stdout() -> None:
    """Nobody reads any more: what is still buffered must not raise when the interpreter ends."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
