"""How many SMS a text takes: 160 characters of GSM 03.38 or 70 UTF-16 units alone, 153 or 67 in each of several.

Source: 3GPP TS 23.038 6.2.1 (alphabet, extension table) and TS 23.040 9.2.3.24.1 (six octets of header in each part).
"""

from typing import Literal

from msgspec import Struct

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("\f^{}\\[~]|€")  # an escape goes before each


class Segments(Struct, frozen=True):
    """`units`: septets (gsm7) or UTF-16 units (ucs2) of the whole text."""

    encoding: Literal["gsm7", "ucs2"]
    units: int
    count: int


def segments(text: str) -> Segments:
    """What an SMS of this text is. A character is never cut in two, so a part may not be full."""
    if all(c in _BASIC or c in _EXTENDED for c in text):
        sizes = [2 if c in _EXTENDED else 1 for c in text]
        return Segments("gsm7", sum(sizes), _count(sizes, 160, 153))
    sizes = [2 if ord(c) > 0xFFFF else 1 for c in text]
    return Segments("ucs2", sum(sizes), _count(sizes, 70, 67))


def _count(sizes: list[int], alone: int, part: int) -> int:
    if sum(sizes) <= alone:
        return 1
    count, room = 1, part
    for size in sizes:
        if size > room:
            count, room = count + 1, part
        room -= size
    return count
