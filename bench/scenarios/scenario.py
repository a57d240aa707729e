"""What a scenario is: something that users do to a gateway, with the figures that matter to them and what they must be.

A scenario is driven over legs (a server and a protocol), each run with a server of its own. The harness repeats runs
and takes the legs in turn, so that what else the machine does meets all.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from bench.ledger import Ledger
from bench.legs import Leg
from bench.pipeline import Pipeline, Progress
from bench.server import Server

# pause of a client that could not connect, in seconds
RETRY = 0.1
# What "flat" is: the largest of the figures over the smallest. A quarter is what the medians of one and the same case
# differ by on a shared machine; over three or four powers of ten what grows by any power of the size, or by a tenth for
# each power of ten, is beyond it.
FLAT = 1.25


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a run; each is an option of the command line, `--<scenario>.<name>`."""


# field -> the values that it takes in turn; what is not named has its default
Sweep = dict[str, tuple[Any, ...]]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A figure to reach.

    leg, where  of which runs: those of the leg with these parameters
    bound       what the median must not be above (`least`: below)
    of          a leg: the bound is a share of what that one needed in the same case
    along       a parameter: the bound is for the largest figure as a multiple of the smallest, over the leg's cases
                that differ in this one alone
    disk        the bound is at least so many times the 99th percentile of the disk's fdatasync, in ms
    """

    leg: str
    figure: str
    bound: float
    where: dict[str, Any] = {}
    of: str = ""
    along: str = ""
    least: bool = False
    disk: float = 0.0


class Run:
    """One run as its scenario sees it.

    progress  `progress(done, total)`, for who watches
    serve     `serve(window, env)`: the leg's server, to be used with `async with`
    """

    def __init__(
        self, leg: Leg, progress: Progress, serve: Callable[[int, dict[str, str] | None], Server]
    ) -> None:
        self.leg = leg
        self.progress = progress
        self.serve = serve


class Scenario:
    """Subclasses are described by what they set, and do `run`.

    legs      what it can drive, besides peers whose name is not there
    sweeps    of the whole comparison (`full`), of `quick`, of `smoke`
    runs      how often each case is run, where nothing else is asked for
    timeout   of one run, in seconds
    columns   figures for the table, each with its heading; the first one's spread is shown
    notes     what the reader of its figures has to know, for the report
    remote    whether it can drive a deployment by its URL
    """

    name: ClassVar[str]
    about: ClassVar[str]
    Parameters: ClassVar[type[Parameters]]
    legs: ClassVar[tuple[str, ...]]
    sweeps: ClassVar[dict[str, Sweep]]
    columns: ClassVar[dict[str, str]]
    targets: ClassVar[tuple[Target, ...]] = ()
    runs: ClassVar[int] = 1
    timeout: ClassVar[float] = 300.0
    notes: ClassVar[str] = ""
    remote: ClassVar[bool] = False

    async def run(self, parameters: Any, run: Run) -> dict[str, Any]:
        """The figures of one run, and `ledger`, its verdict. Raises OSError, RuntimeError, TimeoutError."""
        raise NotImplementedError


async def come_back(load: Pipeline, client: int) -> float:
    """Connect the client again, as often as it takes; when it was back (loop time)."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await load.join(client)
        except (OSError, TimeoutError):
            await asyncio.sleep(RETRY)
        else:
            return loop.time()


def verdict(ledger: Ledger) -> dict[str, Any]:
    """The part of a result that decides."""
    return {"ledger": ledger.figures()}
