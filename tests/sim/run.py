"""Run as many seeds as one wishes: `python -m tests.sim.run --seeds 1000 --start 0 --profile links --bug NAME`.

A seed that fails prints what was broken and the end of its trace. The exit status is 1 if one did, with a planted bug
too. `--digest` prints a hash of each whole trace.
"""

import argparse
import sys
import time
import traceback

from tests.sim.bugs import PLANTED, planted
from tests.sim.ledger import Violation
from tests.sim.profiles import PROFILES
from tests.sim.world import Broken, run


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seeds", type=int, default=100, help="how many")
    options.add_argument("--start", type=int, default=0, help="the first")
    options.add_argument("--profile", choices=sorted(PROFILES), action="append", help="which; all by default")
    options.add_argument("--bug", choices=sorted(PLANTED), default="", help="plant this one")
    options.add_argument("--tail", type=int, default=60, help="lines of the trace that are shown")
    options.add_argument("--keep-on", action="store_true", help="do not stop at the first failure")
    options.add_argument("--brief", action="store_true", help="one line a failure")
    options.add_argument("--digest", action="store_true", help="print a hash of each trace")
    return options.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _show(broken: Broken, tail: int) -> None:
    _say(f"FAILED {broken}")
    if not tail:
        return
    cause = broken.__cause__
    if cause is not None and not isinstance(cause, Violation):
        traceback.print_exception(cause)
    _say(broken.world.tail(tail))


def main() -> int:
    args = _options()
    failures = turns = 0
    began = time.monotonic()
    for seed in range(args.start, args.start + args.seeds):
        for name in args.profile or PROFILES:
            try:
                with planted(args.bug):
                    world = run(PROFILES[name], seed)
            except Broken as broken:
                failures += 1
                _show(broken, 0 if args.brief else args.tail)
                if not args.keep_on:
                    return 1
            else:
                turns += world.timeline.turns
                if args.digest:
                    _say(f"{name} {seed} {world.digest()}")
    took = time.monotonic() - began
    sys.stderr.write(f"{args.seeds} seeds, {failures} failures, {turns} turns, {took:.1f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
