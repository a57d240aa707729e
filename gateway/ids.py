"""Message ids: 63-bit, time-ordered, shown as 13 characters of Crockford base 32 (PROTOCOL 1).

    bit 62 ............ 21 | 20 .... 15 | 14 .......... 0
        milliseconds (42)  |  node (6)  |  counter (15)

Ids of one maker only grow, whatever the clock does: when it stands still or steps back the counter goes on, and a
full counter borrows the next millisecond.
"""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_THREE = tuple((a + b + c).encode() for a in _ALPHABET for b in _ALPHABET for c in _ALPHABET)
# the first ten characters by what they stand for, of those asked for last: messages come in runs of one millisecond
_heads: dict[int, bytes] = {}
_HEADS = 256
# Crockford reads o as 0 and i, l as 1, in either case
_VALUE = {c: i for i, c in enumerate(_ALPHABET)} | {c.lower(): i for i, c in enumerate(_ALPHABET)}
_VALUE |= {"o": 0, "O": 0, "i": 1, "I": 1, "l": 1, "L": 1}

COUNTER_BITS = 15
NODE_BITS = 6
TIME_SHIFT = COUNTER_BITS + NODE_BITS
MAX_ID = (1 << 63) - 1


def id_text(value: int) -> bytes:
    """The 13 characters of an id."""
    return (_heads.get(value >> 15) or _head(value >> 15)) + _THREE[value & 0x7FFF]


def encode_id(value: int) -> str:
    """The same as a str."""
    return id_text(value).decode()


def _head(value: int) -> bytes:
    if len(_heads) >= _HEADS:
        _heads.clear()
    head = _heads[value] = (
        _THREE[value >> 45][2:]
        + _THREE[value >> 30 & 0x7FFF]
        + _THREE[value >> 15 & 0x7FFF]
        + _THREE[value & 0x7FFF]
    )
    return head


def decode_id(text: str) -> int:
    """The id behind 13 characters. Raises ValueError for anything else."""
    if len(text) != 13:
        raise ValueError("a message id has 13 characters")
    value = 0
    for c in text:
        digit = _VALUE.get(c)
        if digit is None:
            raise ValueError("a message id is Crockford base 32")
        value = value << 5 | digit
    if value > MAX_ID:
        raise ValueError("a message id has 63 bits")
    return value


class IdMaker:
    """Hands out growing ids. `floor` is the highest id that the store has seen."""

    __slots__ = ("_last", "_node")

    def __init__(self, node: int = 0, floor: int = 0) -> None:
        if not 0 <= node < 1 << NODE_BITS:
            raise ValueError(f"node must be within 0..{(1 << NODE_BITS) - 1}")
        self._node = node << COUNTER_BITS
        self._last = floor

    def raise_floor(self, floor: int) -> None:
        """Never hand out anything at or below `floor` from now on."""
        self._last = max(self._last, floor)

    def next(self, now: int) -> int:
        """The next id at `now` (Unix ms)."""
        fresh = now << TIME_SHIFT | self._node
        last = self._last
        if fresh <= last:
            fresh = last + 1
            if (fresh >> COUNTER_BITS) & 0x3F != self._node >> COUNTER_BITS:
                fresh = ((last >> TIME_SHIFT) + 1) << TIME_SHIFT | self._node
        self._last = fresh
        return fresh

    def run(self, now: int, count: int) -> int:
        """The first of `count` ids in a row, at most half a counter (16384)."""
        first = self.next(now)
        if (first + count - 1) >> COUNTER_BITS != first >> COUNTER_BITS:
            first = ((first >> TIME_SHIFT) + 1) << TIME_SHIFT | self._node
        self._last = first + count - 1
        return first
