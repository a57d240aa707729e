"""Reads a request that lies whole in what was read, and is as nearly all are, in place.

It knows a part of HTTP/1.1 (RFC 9112) only: names and values of plain ASCII, each name once, a length or no body. What
is read here means the same to aiohttp's parser, which a test holds it to; everything else is that parser's to judge.
"""

import re
from typing import Final

# `name: value`, with nothing at either end of the value
_field = re.compile(rb"([A-Za-z0-9-]+): ([!-~](?:[ -~]*[!-~])?)").fullmatch
_target = re.compile(rb"((?:GET|HEAD|POST|PUT|DELETE|OPTIONS) /[!-~]*) HTTP/1\.1").fullmatch
_length = re.compile(rb"[1-9][0-9]{0,8}").fullmatch
# what changes how a request, or the connection behind it, is to be read
_ODD: Final = frozenset(
    (b"connection", b"content-encoding", b"expect", b"proxy-connection", b"sec-websocket-key1", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
# lines that were read are remembered, so many, each of at most so many bytes: connections repeat theirs
_KNOWN: Final = 1024
_LONGEST: Final = 256


class Request:
    """The head of a request. `end`: where its body begins, `size`: the bytes of that."""

    __slots__ = ("end", "fields", "size", "target")

    def __init__(self, target: bytes, fields: dict[bytes, bytes], end: int, size: int) -> None:
        self.target = target  # method and path, as they were sent
        self.fields = fields  # names in lower case
        self.end = end
        self.size = size


class Heads:
    """Reads heads of at most `limit` bytes, of at most `most` fields."""

    __slots__ = ("_known", "_limit", "_most")

    def __init__(self, limit: int, most: int) -> None:
        self._limit = limit
        self._most = most
        self._known: dict[bytes, tuple[bytes, bytes]] = {}

    def read(self, data: bytes) -> Request | None:
        """The request that begins with `data`; its body may go on, or end before. None: it is none for here."""
        end = data.find(b"\r\n\r\n")
        if not 0 < end <= self._limit:
            return None
        first, *lines = data[:end].split(b"\r\n")
        target = _target(first)
        if target is None or len(lines) > self._most:
            return None
        known = self._known
        fields: dict[bytes, bytes] = {}
        for line in lines:
            field = known.get(line) or self._read(line)
            if field is None:
                return None
            name, value = field
            fields[name] = value
        # a name that came twice, or none of a host
        if len(fields) != len(lines) or b"host" not in fields:
            return None
        length = fields.get(b"content-length", b"")
        if length and _length(length) is None:
            return None
        return Request(target[1], fields, end + 4, int(length or 0))

    def _read(self, line: bytes) -> tuple[bytes, bytes] | None:
        found = _field(line)
        if found is None:
            return None
        name, value = found[1].lower(), found[2]
        if name in _ODD and not (name == b"connection" and value.lower() == b"keep-alive"):
            return None
        # credentials are not kept
        if name not in (b"authorization", b"cookie", b"proxy-authorization") and len(line) <= _LONGEST:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[line] = name, value
        return name, value
