"""What is told of a channel's attempts."""

from gateway.ports import Outcome
from gateway.providers.history import FAILURES, KINDS, History

NOON = 1_790_000_040.0  # a minute begins


def counts(**named: int) -> dict[str, int]:
    return dict.fromkeys(KINDS, 0) | named


def test_the_last_hour_forgets_and_the_start_does_not() -> None:
    history = History()
    history.add(Outcome("delivered", ""), 5, NOON)
    history.add(Outcome("retry", "HTTP 503", status=503), 5, NOON + 59)
    history.add(Outcome("delivered", ""), 5, NOON + 1800)
    assert history.last_hour(NOON + 3599) == counts(delivered=2, retry=1)
    assert history.last_hour(NOON + 3600) == counts(delivered=1)
    assert history.last_hour(NOON + 9000) == counts()
    history.add(Outcome("delivered", ""), 5, NOON + 9000)
    assert history.last_hour(NOON + 9000) == counts(delivered=1)
    assert history.ended == counts(delivered=3, retry=1)


def test_the_last_failures_are_told_newest_first() -> None:
    history = History()
    for n in range(FAILURES + 2):
        history.add(Outcome("refused", f"no {n}", "recipient", code=str(n), status=400), 5, NOON + n)
        history.add(Outcome("accepted", "fine"), 5, NOON + n)
    found = history.failures()
    assert len(found) == FAILURES
    assert found[0] == {
        "at": round((NOON + 11) * 1000), "outcome": "refused", "reason": "no 11", "blame": "recipient", "code": "11",
        "status": 400,
    }  # fmt: skip
    assert found[-1]["reason"] == "no 2"


def test_how_long_attempts_took() -> None:
    history = History()
    for took in (3, 30, 30):
        history.add(Outcome("delivered", ""), took, NOON)
    assert dict(history.took_ms.cumulative(0.001))["0.005"] == 1
    assert dict(history.took_ms.cumulative(0.001))["+Inf"] == 3
