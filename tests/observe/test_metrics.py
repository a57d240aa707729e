"""What is counted, what is shown, and which lines an operator gets."""

import json

import pytest

from gateway.commit import Commit
from gateway.config import Log
from gateway.ids import encode_id
from gateway.model import Extra, Item, Status
from gateway.observe import log
from gateway.observe.metrics import LATENCY_MS, Buckets, ChannelFigures, Watch, exposition

ROOT = "0123456789abcdef"
TRACE = "00-11112222333344445555666677778888-aaaabbbbccccdddd-01"


def item(x: Extra | None = None) -> Item:
    return Item(1 << 40, "alice", "api:backend", 2, 0, 1, b'"a secret body"', x)


def lines(capsys: pytest.CaptureFixture[str], x: Extra | None, status: Status) -> list[dict[str, str]]:
    log.setup(Log(format="json"))
    watch = Watch()
    watch.trace_root = ROOT
    watch.status(item(x), status, 5, "hook", "HTTP 400")
    assert watch.statuses == {(int(status), "hook"): 1}
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_dead_message_is_told_with_its_ids(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, None, Status.DEAD)
    assert line["message"] == encode_id(1 << 40)
    assert line["trace"] == f"{ROOT}{1 << 40:016x}"
    assert (line["event"], line["client"], line["via"], line["why"]) == ("dead", "alice", "hook", "HTTP 400")
    assert "secret" not in str(line)


def test_its_publishers_trace_goes_before_ours(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, Extra(trace=TRACE), Status.HANDED_OVER)
    assert line["trace"] == TRACE.split("-")[1]


def test_what_simply_arrives_is_counted_and_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, None, Status.DELIVERED) == []


def test_buckets_are_cumulative_and_in_base_units() -> None:
    buckets = Buckets((1, 10))
    for value in (0, 1, 2, 10, 11):
        buckets.add(value)
    samples = {s.labels.get("le", ""): s.value for s in buckets.family("x", "x", 0.001).samples if s.labels}
    assert samples == {"0.001": 2, "0.01": 4, "+Inf": 5}


def test_the_page() -> None:
    watch = Watch()
    watch.acked([3])
    watch.committed(Commit(), 0.002)
    watch.attempt("hook", "delivered")
    watch.waiting = {"hook": 9, "gone": 1}
    took = Buckets(LATENCY_MS)
    took.add(30)
    hub = {"accepted": 7.0, "sessions_live": 2.0, "due_lateness_ms": 1500.0}
    text = exposition(
        watch,
        lambda: hub,
        lambda: "",
        {"store": lambda: {"rows": 5, "by": {"a": 1}}},
        lambda: {"hook": ChannelFigures(took, 2, 4, 1_790_000_000.5)},
    )().decode()
    for line in (
        "botgw_ready 1.0",
        "botgw_messages_accepted_total 7.0",
        'botgw_sessions{state="live"} 2.0',
        "botgw_due_lateness_seconds 1.5",
        'botgw_attempts_total{channel="hook",outcome="delivered"} 1.0',
        'botgw_ack_seconds_bucket{le="0.005"} 1.0',
        "botgw_store_rows 5.0",
        'botgw_attempt_seconds_bucket{channel="hook",le="0.05"} 1.0',
        'botgw_attempt_seconds_sum{channel="hook"} 0.03',
        'botgw_channel_breaker{channel="hook"} 2.0',
        'botgw_channel_in_flight{channel="hook"} 4.0',
        'botgw_channel_waiting{channel="hook"} 9.0',
        'botgw_channel_paused_until_seconds{channel="hook"} 1.7900000005e+09',
        'botgw_store_by{of="a"} 1.0',
    ):
        assert line in text.splitlines()
