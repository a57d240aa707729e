from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gateway.config.channels import PagerDuty as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import LANES, Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.pagerduty import CODES, MAX_SUMMARY, PagerDuty
from gateway.providers.provider import Answer, Send, Unsendable
from tests.providers.pages import table_of

KEY = "e93facc04764012d7bfb002500d5d1a6"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def oncall(**named: Any) -> PagerDuty:
    return PagerDuty("oncall", Settings(**{"routing_key": KEY} | named))


def sent(item: Item, wall: float = NOW, attempt: int = 1) -> Send:
    return Send(item=item, id=encode_id(item.id), attempt=attempt, trace="", address="", wall=wall, ttl=60.0)


def event(item: Item) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(oncall().request(sent(item)).body)
    return decoded


def test_the_event(message: Make) -> None:
    item = message(b'"disk full"', type="alarm")
    request = oncall().request(sent(item))
    assert (request.method, request.url) == ("POST", "https://events.pagerduty.com/v2/enqueue")
    assert request.headers == {"content-type": "application/json"}
    assert msgspec.json.decode(request.body) == {
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": encode_id(item.id),
        "payload": {
            "summary": "disk full",
            "source": "bot-7",
            "severity": "warning",
            "timestamp": "2026-09-21T14:13:20.123Z",
            "class": "alarm",
            "custom_details": {"client": "alice", "message": encode_id(item.id)},
        },
    }


def test_a_later_attempt_is_the_same_event(message: Make) -> None:
    item = message(b'"disk full"')
    assert oncall().request(sent(item)) == oncall().request(sent(item, NOW + 60, attempt=2))


@pytest.mark.parametrize(
    ("priority", "severity"),
    [("critical", "critical"), ("high", "error"), ("normal", "warning"), ("low", "info")],
)
def test_severity_follows_the_priority(message: Make, priority: str, severity: str) -> None:
    item = message(b'"x"')
    item.lane = LANES[priority]
    assert event(item)["payload"]["severity"] == severity


def test_what_the_sender_wrote_wins(message: Make) -> None:
    body = {
        "title": "disk",
        "text": "full",
        "pagerduty": {
            "payload": {"severity": "info", "component": "db"},
            "links": [{"href": "https://example.com/"}],
            "dedup_key": "disk-7",
        },
    }
    made = event(message(msgspec.json.encode(body)))
    assert made["dedup_key"] == "disk-7"
    assert made["links"] == [{"href": "https://example.com/"}]
    payload = made["payload"]
    assert (payload["summary"], payload["severity"], payload["component"]) == ("disk", "info", "db")
    assert payload["custom_details"]["text"] == "full"


def test_a_long_text_is_cut_in_the_summary_only(message: Make) -> None:
    text = "ü" * (MAX_SUMMARY + 1)
    payload = event(message(msgspec.json.encode(text)))["payload"]
    assert payload["summary"] == text[:-1]
    assert payload["custom_details"]["text"] == text


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_an_alert_can_be_acknowledged_and_resolved(message: Make, action: str) -> None:
    body = {"text": "fine again", "pagerduty": {"event_action": action, "dedup_key": "disk-7"}}
    made = event(message(msgspec.json.encode(body)))
    assert made == {"routing_key": KEY, "event_action": action, "dedup_key": "disk-7"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "neither text"),
        ({"text": ""}, "neither text"),
        ({"pagerduty": {"links": []}}, "summary"),
        ({"text": "x", "pagerduty": {"payload": {"summary": "x" * 1025}}}, "summary"),
        ({"text": "x", "pagerduty": {"payload": {"severity": "bad"}}}, "severity"),
        ({"text": "x", "pagerduty": {"payload": {"severity": ["info"]}}}, "severity"),
        ({"text": "x", "pagerduty": {"payload": []}}, "payload"),
        ({"text": "x", "pagerduty": {"routing_key": "k"}}, "routing_key"),
        ({"text": "x", "pagerduty": {"event_action": "explode"}}, "event_action"),
        ({"text": "x", "pagerduty": {"event_action": "resolve"}}, "dedup_key"),
        ({"text": "x", "pagerduty": {"dedup_key": ""}}, "dedup_key"),
        ({"text": "x", "pagerduty": {"dedup_key": "x" * 256}}, "dedup_key"),
        ({"text": "x" * 512 * 1024}, "512 KiB"),
    ],
)
def test_what_cannot_be_an_event_is_the_messages_fault(
    message: Make, body: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unsendable, match=reason) as wrong:
        event(message(msgspec.json.encode(body)))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (202, {"status": "success", "message": "Event processed", "dedup_key": "k"}, "202"),
        (400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["x"]}, "400"),
        (400, {"status": "Unrecognized object", "message": "Event object format is unrecognized"}, "400"),
        (400, {}, "400"),
        (
            400,
            {"errors": ["Length of 'routing_key' is incorrect (should be 32 characters)"]},
            "400 routing key",
        ),
        (400, {"message": "Invalid routing key"}, "400 routing key"),
        (429, {}, "429"),
    ],
)
def test_what_its_answers_mean(status: int, body: dict[str, Any], code: str) -> None:
    outcome = oncall().outcome(Answer(status, {}, msgspec.json.encode(body)), NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[code]
    assert outcome.status == status
    assert outcome.reason.startswith(f"HTTP {status}")


def test_the_page_shows_the_table() -> None:
    assert table_of("pagerduty") == CODES


@pytest.mark.parametrize(
    ("status", "kind"), [(200, "ambiguous"), (403, "refused"), (500, "retry"), (502, "retry"), (503, "retry")]
)
def test_other_answers(status: int, kind: str) -> None:
    assert oncall().outcome(Answer(status, {}, b""), NOW).kind == kind


def test_the_alert_is_named_and_not_promised_to_arrive() -> None:
    outcome = oncall().outcome(Answer(202, {}, b'{"status":"success","dedup_key":"k"}'), NOW)
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", "k", False)


@pytest.mark.parametrize(("headers", "wait"), [({}, 120.0), ({"retry-after": "7"}, 7.0)])
def test_too_many_events_pause_the_account(headers: dict[str, str], wait: float) -> None:
    outcome = oncall().outcome(Answer(429, headers, b""), NOW)
    assert (outcome.retry_after, outcome.pause) == (wait, "account")


def test_the_key_is_shown_nowhere() -> None:
    body = msgspec.json.encode({"message": f"Invalid routing key {KEY}", "errors": [KEY, 7]})
    assert KEY not in repr(oncall().outcome(Answer(400, {}, body), NOW))
    assert KEY not in repr(Settings(routing_key=KEY))


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"routing_key": "e+23rschqsESqk9Q6_-g"}, "routing_key"),
        ({"routing_key": KEY + "\n"}, "routing_key"),
        ({"url": "http://events.example/"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_not_quoted(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        oncall(**named)
    assert wrong.value.field == f"channels.oncall.{field}"
    assert named[field] not in str(wrong.value)


async def test_an_event_goes_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Make,
) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["content-type"], await request.read()))
        return web.json_response({"status": "success", "dedup_key": "k"}, status=202)

    url = (await serve(handler)).removesuffix("/hook")
    item = message(b'"disk full"')
    dispatcher = await dispatch({"hook": Settings(routing_key=KEY, url=url, allow_private=True)})
    outcome = await attempt(dispatcher, item)
    assert (outcome.kind, outcome.provider_id) == ("accepted", "k")
    assert seen == [("/v2/enqueue", "application/json", oncall().request(sent(item)).body)]
