"""PUBACKs to the broker, in the order in which the publishes came (MQTT 5, 4.6)."""

import asyncio
from collections import deque
from collections.abc import Callable


class Receipt:
    """One PUBLISH at QoS 1 until its PUBACK."""

    __slots__ = ("done", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.done = False


class Receipts:
    """Those of one link. `ack` writes a PUBACK."""

    __slots__ = ("_ack", "_idle", "_open", "_order", "acked")

    def __init__(self, ack: Callable[[int], None]) -> None:
        self._ack = ack
        self._order: deque[Receipt] = deque()
        self._open = 0  # PUBLISHes of which something is with the hub, of earlier connections too
        self._idle = asyncio.Event()
        self._idle.set()
        self.acked = 0

    def __len__(self) -> int:
        """Those of this connection without their PUBACK."""
        return len(self._order)

    def take(self, pid: int) -> Receipt:
        """A PUBLISH was taken from the broker."""
        receipt = Receipt(pid)
        self._order.append(receipt)
        return receipt

    def finish(self, receipt: Receipt) -> None:
        """It may be acknowledged, in its turn; not any more if its connection is gone."""
        receipt.done = True
        order = self._order
        while order and order[0].done:
            self.acked += 1
            self._ack(order.popleft().pid)

    def drop(self) -> None:
        """The connection is gone: the broker sends again what has no PUBACK."""
        self._order.clear()

    def opened(self) -> None:
        """Something of one more is with the hub."""
        self._open += 1
        self._idle.clear()

    def closed(self) -> None:
        """It has its answer."""
        self._open -= 1
        if not self._open:
            self._idle.set()

    async def answered(self) -> None:
        """Until nothing is with the hub any more."""
        await self._idle.wait()
