import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import Teams as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import MAX_REASON, MAX_RETRY_AFTER, Answer, Request, Send, Unsendable
from gateway.providers.teams import CODES, MAX_BODY, WAIT, Teams
from tests.providers.pages import table_of

URL = "https://prod-00.westus.logic.azure.com/workflows/1/triggers/manual/paths/invoke?sp=%2Frun&sig=s3cr3t"
NOW = 1_790_000_005.75
Make = Callable[..., Item]


def flow(url: str = URL) -> Teams:
    return Teams("ops", Settings(url=url))


def requested(item: Item) -> Request:
    send = Send(item=item, id=encode_id(item.id), attempt=2, trace="", address="", wall=NOW, ttl=60.0)
    return flow().request(send)


def error(status: int, code: str = "", **headers: str) -> Answer:
    body = {"error": {"code": code, "message": f"about {URL}"}} if code else {}
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(body).encode())


def test_the_request(message: Make) -> None:
    item = message(b'{"text":"hello","title":"News"}')
    request = requested(item)
    assert (request.method, request.url) == ("POST", URL)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-ms-client-tracking-id"] == f"{encode_id(item.id)}.2"
    assert request.body == (
        b'{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive",'
        b'"contentUrl":null,"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json",'
        b'"type":"AdaptiveCard","version":"1.2","body":['
        b'{"type":"TextBlock","text":"News","wrap":true,"weight":"Bolder","size":"Medium"},'
        b'{"type":"TextBlock","text":"hello","wrap":true}]}}]}'
    )


def test_a_card_of_the_senders(message: Make) -> None:
    native = {"version": "1.5", "body": [{"type": "Image", "url": "https://e.example/i.png"}], "actions": []}
    body = {"text": "for other channels", "teams": native}
    card = msgspec.json.decode(requested(message(json.dumps(body).encode())).body)["attachments"][0][
        "content"
    ]
    assert (
        card
        == {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
        }
        | native
    )


def test_a_card_that_could_not_be_posted_is_not_sent(message: Make) -> None:
    fits = MAX_BODY - len(requested(message(b'"x"')).body) + 1
    assert len(requested(message(json.dumps("x" * fits).encode())).body) == MAX_BODY
    with pytest.raises(Unsendable) as wrong:
        requested(message(json.dumps("x" * (fits + 1)).encode()))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize("status", [200, 202])
def test_a_run_that_began_is_accepted_and_no_more(status: int) -> None:
    outcome = flow().outcome(Answer(status, {"x-ms-workflow-run-id": "0858CU47"}, b""), NOW)
    assert outcome == Outcome("accepted", f"HTTP {status}", provider_id="0858CU47", status=status)


def test_the_answer_need_not_name_the_run() -> None:
    assert flow().outcome(Answer(202, {}, b""), NOW) == Outcome("accepted", "HTTP 202", status=202)


@pytest.mark.parametrize("row", CODES)
def test_every_code(row: str) -> None:
    kind, blame, pause, learnt = table_of("teams")[row]
    status, code = (int(row[5:]), "") if row.startswith("HTTP ") else (400, row)
    outcome = flow().outcome(error(status, code), NOW)
    assert outcome == Outcome(
        kind,
        f"HTTP {status}: {code}" if code else f"HTTP {status}",
        blame=blame,
        retry_after=WAIT if pause else 0.0,
        status=status,
        code=code,
        pause=pause,
        learnt=learnt,
    )


def test_the_page_has_the_table() -> None:
    assert table_of("teams") == CODES


@pytest.mark.parametrize(("wait", "seconds"), [("7", 7.0), ("", WAIT), ("999999", MAX_RETRY_AFTER)])
def test_the_wait(wait: str, seconds: float) -> None:
    outcome = flow().outcome(error(429, "SomethingNew", retry_after=wait), NOW)
    assert outcome == Outcome("retry", "HTTP 429", retry_after=seconds, status=429, pause="account")


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (200, "ambiguous", ""),
        (201, "ambiguous", ""),
        (302, "refused", "account"),
        (400, "refused", "message"),
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (504, "ambiguous", ""),
    ],
)
def test_other_answers_are_not_repeated(status: int, kind: str, blame: str) -> None:
    for answer in (
        error(status, "SomethingNew"),
        Answer(status, {"content-type": "text/html"}, URL.encode()),
    ):
        outcome = flow().outcome(answer, NOW)
        assert (outcome.kind, outcome.blame, outcome.reason) == (kind, blame, f"HTTP {status}")


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=40), st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, body: bytes, code: str, wait: str) -> None:
    headers = {"retry-after": wait, "x-ms-workflow-run-id": code}
    for answer in (Answer(status, headers, body), error(status, code, retry_after=wait)):
        outcome = flow().outcome(answer, NOW)
        assert len(outcome.reason) <= MAX_REASON
        assert outcome.reason.isprintable()
        assert outcome.provider_id.isprintable()
        assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    "url", ["http://flow.example/s3cr3t", "ftp://x/s3cr3t", "https://a@flow.example/s3cr3t"]
)
def test_a_url_that_cannot_work_is_named_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        flow(url)
    assert wrong.value.field == "channels.ops.url"
    assert "s3cr3t" not in str(wrong.value)


def test_the_url_is_not_shown() -> None:
    assert "s3cr3t" not in repr(Settings(url=URL))


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    attempt: Callable[..., Awaitable[Outcome]],
    message: Make,
) -> None:
    seen: list[tuple[dict[str, str], Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((dict(request.query), await request.json()))
        return web.Response(status=202, headers={"x-ms-workflow-run-id": "0858CU47"})

    url = await serve(handler) + "?sp=%2Frun&sig=s3cr3t"
    dispatcher = await dispatch({"hook": Settings(url=url, allow_private=True)})
    outcome = await attempt(dispatcher, message(b'"hi"'))
    assert outcome == Outcome("accepted", "HTTP 202", provider_id="0858CU47", status=202)
    ((query, body),) = seen
    assert query == {"sp": "/run", "sig": "s3cr3t"}
    assert body["attachments"][0]["content"]["body"][0]["text"] == "hi"
