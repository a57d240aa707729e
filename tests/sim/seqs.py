"""What a client knows of the seqs of one epoch, whichever way they came."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.link import Link


class Seqs:
    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.top = 0  # the highest seq seen
        self.low = 0  # every seq up to here is done
        self.what: dict[int, tuple[str, int]] = {}
        self.done: set[int] = set()
        # done, or not, and on which link: a nack or reject which may have been lost, what a plain device is not shown
        self.unsure: dict[int, Link] = {}
        self.holes: set[int] = set()  # nothing came under them where a plain device should have seen it

    def finish(self, seq: int) -> None:
        self.done.add(seq)
        self.unsure.pop(seq, None)
        while self.low + 1 in self.done:
            self.low += 1

    def nacked(self, seq: int, link: "Link") -> None:
        self.finish(seq)
        self.unsure[seq] = link

    def hole(self, seq: int, link: "Link") -> None:
        """What it stands for is nothing for a plain device: it may come again to one that takes frames."""
        self.holes.add(seq)
        self.unsure[seq] = link

    def doubted(self, link: "Link") -> None:
        """This link was, or is, a plain one: what is not done may have been settled there without a word."""
        for seq in range(self.low + 1, self.top + 1):
            if seq not in self.done:
                self.unsure.setdefault(seq, link)

    def reconnected(self) -> None:
        """A nack of an earlier connection may not have arrived: what it named is not done until that is known."""
        for seq in self.unsure:
            self.done.discard(seq)
            self.low = min(self.low, seq - 1)

    def arrived(self, seq: int, link: "Link", here: set[int], *, plain: bool) -> None:
        """On a new connection what is unsettled comes first, in order: what did not come is settled."""
        for other, where in list(self.unsure.items()):
            if (
                where is not link
                and other < seq
                and other not in here
                and not (plain and other in self.holes)
            ):
                self.finish(other)
