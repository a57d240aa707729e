"""The log: one line an event, for people on a terminal, JSON otherwise.

A line about a message carries `message` and `trace`. Nothing here shows a body or a secret: values under telling keys
are masked wherever they are nested, and what looks like a credential is cut from the finished line, tracebacks
included. Lines of libraries pass through the same pipe, from `warning` up: below it some of them print what they read.
"""

import logging
import re
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO, cast

import msgspec
import structlog
from msgspec import Struct
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from gateway.config import Log

MASK = "•••"
MAX_LIBRARY_LINE = 500  # characters of a library's line that are kept; it may quote what a peer sent

_TELLING = ("secret", "token", "authorization", "password", "body", "cookie", "api_key")
_CREDENTIAL = re.compile(
    r"whsec_[A-Za-z0-9+/=_-]+"  # Standard Webhooks
    r"|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JWT
    r"|(?i:bearer) [^\s\"',]+"
)
# sizes, counts and flags are no secrets, whatever their key (`body_bytes`)
_HARMLESS = (int, float, type(None))
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component=name`. May be made before `setup`; below the level a call does nothing."""
    return cast(FilteringBoundLogger, structlog.get_logger(component=name))


def setup(log: Log, stream: TextIO | None = None) -> None:
    """Write lines of `log.level` and above to `stream` (standard error), and those of libraries with them."""
    out = stream if stream is not None else sys.stderr
    console = log.format == "console" or (log.format == "auto" and out.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        _stamp,
        structlog.processors.format_exc_info,
        mask,
        _console(out.isatty()) if console else _json,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=lambda *_: _Out(out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Library)]:
        root.removeHandler(handler)
    root.addHandler(_Library())
    root.setLevel(max(logging.WARNING, _LEVELS[log.level]))


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The time in UTC, to the microsecond."""
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    event["timestamp"] = f"{_second(seconds)}.{micros:06d}Z"
    return event


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Most lines are not the first of their second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what stands under a telling key, and values that are whole objects of ours: they hold bodies and secrets."""
    for key, value in event.items():
        if type(value) is str:
            if _telling(key):
                event[key] = MASK
        elif not isinstance(value, _HARMLESS):
            event[key] = MASK if _telling(key) else _masked(value)
    return event


@lru_cache(maxsize=1024)
def _telling(key: str) -> bool:
    lower = key.lower()
    return any(word in lower for word in _TELLING)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: v if isinstance(v, _HARMLESS) else MASK if _telling(str(k)) else _masked(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(item) for item in value]
    if isinstance(value, Struct):
        return f"<{type(value).__name__}>"
    return value


def _console(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (UnicodeEncodeError, ValueError, TypeError):
        # text that is no UTF-8, keys that are no text: the line matters more than its types
        return msgspec.json.encode({_text(key): _text(value) for key, value in event.items()}).decode()


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


class _Out:
    """Where lines end, without what looks like a credential. A log that cannot be written stops nothing."""

    __slots__ = ("_flush", "_write")

    def __init__(self, stream: TextIO) -> None:
        self._write = stream.write
        self._flush = stream.flush

    def msg(self, line: str) -> None:
        try:
            # nearly no line has any: telling that takes less than the search
            if "whsec_" in line or "eyJ" in line or "bearer " in line.lower():
                line = _CREDENTIAL.sub(MASK, line)
            self._write(line + "\n")
            self._flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = exception = msg


class _Library(logging.Handler):
    """Takes the lines of libraries that use `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()[:MAX_LIBRARY_LINE]
        except (TypeError, ValueError):
            text = str(record.msg)[:MAX_LIBRARY_LINE]
        level = max(logging.DEBUG, min(logging.CRITICAL, record.levelno // 10 * 10))
        get_logger(record.name).log(level, text, exc_info=record.exc_info)
