"""A stream of bytes cut into frames (RFC 6455 5.2).

Nearly all of what a client sends are whole, unfragmented messages whose frames lie whole in what was read: these are
cut out in place, for a quarter of what the protocol core of `websockets` takes for a frame. Everything else goes to
the core: a frame that is not all there, pieces, pings, closes, compressed messages, and all that is wrong. So what
breaks the protocol, and how it is answered, is the core's to say.
"""

from typing import Any, Final

from websockets.frames import Frame
from websockets.protocol import OPEN, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # a machine without the C extension
    from websockets.utils import apply_mask

_HEADER: Final = 6  # of the shortest masked frame
_MASKED: Final = 0x80
_MEDIUM: Final = 126  # the length is in the next two bytes


class FrameReader:
    """One direction of one connection: a message that was cut out in place comes as its bytes, all else as a Frame.

    `first_byte` is that of a whole message in the connection's encoding; the other kind goes to the core.
    """

    __slots__ = ("_behind", "_core", "_first", "_most")

    def __init__(self, core: Protocol, first_byte: int) -> None:
        self._core = core
        self._first = first_byte
        # What the core was fed beyond the frames that it gave back, in bytes: while there is any it stands within a
        # frame. A length that is not in its shortest form counts too little: then it is never 0 again, and right.
        self._behind = 0
        most = core.max_message_size
        # nothing is in place where extensions change a payload
        self._most = -1 if core.extensions else 0xFFFF if most is None else min(most, 0xFFFF)

    def feed(self, data: bytes) -> list[bytes | Frame]:
        """The frames that end within `data`, in order. Raises nothing: look at the core after it."""
        out: list[bytes | Frame] = []
        core = self._core
        if not self._behind and core.current_size is None and core.state is OPEN:
            first, most, size = self._first, self._most, len(data)
            at = 0
            while size - at >= _HEADER and data[at] == first:
                length = data[at + 1] - _MASKED
                start = at + _HEADER
                if length >= _MEDIUM:
                    length = data[at + 2] << 8 | data[at + 3] if length == _MEDIUM and size > start else -1
                    start += 2
                    if length < _MEDIUM:
                        break
                end = start + length
                if not 0 <= length <= most or end > size:
                    break
                out.append(apply_mask(data[start:end], data[start - 4 : start]))
                at = end
            if at == size:
                return out
            if at:
                data = data[at:]
        core.receive_data(data)
        # behind a handshake there are no other events
        frames: list[Any] = core.events_received()
        self._behind += len(data) - sum(map(_size, frames))
        return out + frames


def _size(frame: Frame) -> int:
    """Bytes of a masked frame without extensions, its length in the shortest form."""
    length = len(frame.data)
    return length + (_HEADER if length < _MEDIUM else _HEADER + 2 if length <= 0xFFFF else _HEADER + 8)
