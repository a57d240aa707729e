"""`python -m tests.bench.planted BUG …`: the bench, with a bug planted into what its clients see.

loss        one message never reaches the ledger
duplicate   one comes twice, without a mark
order       two come in the wrong order
"""

import sys
from collections.abc import Callable

from bench import pipeline
from bench.__main__ import main
from bench.pipeline import Mark, Pipeline

received = Pipeline.received
SPOILT = 30


def plant(kind: str) -> Callable[[Pipeline, int, list[Mark], int], None]:
    """What takes the place of `received`: once, several messages are not told as they came."""
    planted = False

    def spoilt(load: Pipeline, client: int, marks: list[Mark], redelivered: int) -> None:
        nonlocal planted
        own = [mark for mark in marks if mark.p == marks[0].p]
        if not planted and load.ledger.seen >= SPOILT and len(own) > 1:
            planted = True
            others = [mark for mark in marks if mark.p != marks[0].p]
            told = {"loss": own[1:], "duplicate": [own[0], *own], "order": own[::-1]}[kind]
            marks = told + others
        received(load, client, marks, redelivered)

    return spoilt


if __name__ == "__main__":
    Pipeline.received = plant(sys.argv[1])  # type: ignore[method-assign,assignment]
    # nothing else will come
    pipeline.STALLED = 0.5
    sys.exit(main(sys.argv[2:]))
