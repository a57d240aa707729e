"""Which chain a message has that names none: the first rule that fits, else the default."""

from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from gateway.config import Config, RouteRule, Routes
from gateway.model import Publish
from gateway.records import ClientRecord
from tests.hub.rig import KEY, Rig
from tests.hub.steps import Way, config, hook

RULES = (
    RouteRule(type="alert", priority="critical", fallback=("sms", "hook")),
    RouteRule(type="alert", fallback=("sms",)),
    RouteRule(priority="low", fallback=()),
    RouteRule(type="never", fallback=("mail",)),
    RouteRule(type="never", fallback=("sms",)),
)


def routed(default: tuple[str, ...] = ("hook",)) -> Config:
    base = config()
    return replace(
        base, channels={**base.channels, "mail": hook()}, routes=Routes(default=default, rules=RULES)
    )


@pytest.mark.parametrize(
    ("fields", "chain", "source"),
    [
        ({}, ["hook"], "route"),
        ({"type": "note"}, ["hook"], "route"),
        ({"type": "alert"}, ["sms"], "routes.rules[1]"),
        ({"type": "alert", "priority": "critical"}, ["sms", "hook"], "routes.rules[0]"),
        ({"priority": "critical"}, ["hook"], "route"),
        ({"type": "alert", "priority": "low"}, ["sms"], "routes.rules[1]"),
        ({"priority": "low"}, [], "none"),
        ({"type": "never"}, ["mail"], "routes.rules[3]"),
        ({"type": "alert", "fallback": ["hook"]}, ["hook"], "message"),
        ({"type": "alert", "fallback": []}, [], "none"),
    ],
)
def test_the_first_that_fits(fields: dict[str, Any], chain: list[str], source: str) -> None:
    rig = Rig(routed())
    told = rig.run(rig.hub.explain(KEY, Publish(to="alice", body=Raw(b"1"), **fields)))
    assert (told["fallback"], told["fallback_from"]) == (chain, source)
    way = Way(rig, **fields)
    row = way.view.chain_row
    assert (row.channels if row is not None else []) == chain


def test_what_a_client_prefers_comes_first() -> None:
    rig = Rig(routed())
    rig.run(rig.hub.put_client("alice", ClientRecord(fallback=["mail"])))
    told = rig.run(rig.hub.explain(KEY, Publish(to="alice", body=Raw(b"1"), type="alert")))
    assert (told["fallback"], told["fallback_from"]) == (["mail"], "client")


def test_rules_alone() -> None:
    """Without a default there are chains all the same, also of messages that have nothing but a body."""
    rules = (RouteRule(priority="normal", fallback=("sms",)),)
    rig = Rig(replace(config(), routes=Routes(rules=rules)))

    class Sink:
        def stored_run(self, refs: list[Any], items: list[Any]) -> None:
            self.ids = [item.id for item in items]

        def stored(self, ref: Any, id: int, dup: bool, status: int) -> None:
            raise AssertionError

        def refused(self, ref: Any, error: Exception) -> None:
            raise error

    rig.conn("alice").drop()
    sink = Sink()
    assert rig.hub.publish_bare(KEY, [("alice", b"1", 0, None)], sink) == 1
    rig.pass_(0.05)
    assert [(channel, id) for channel, id, _ in rig.sent.attempts] == [("sms", sink.ids[0])]
