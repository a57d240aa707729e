import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from aiohttp import web

from gateway.config.channels import HubSpot as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.hubspot import CODES, WAIT, HubSpot
from gateway.providers.provider import Answer, Grant, Granting, Send, Unsendable
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
SECRET, REFRESH = "app-secret&=", "refresh-na1-secret"
Make = Callable[..., Item]


def settings(**named: Any) -> Settings:
    wanted = {"client_id": "app", "client_secret": SECRET, "refresh_token": REFRESH, "template": "1001298"}
    return Settings(**wanted | named)


def timeline(**named: Any) -> HubSpot:
    return HubSpot("timeline", settings(**named))


def sent(item: Item, address: str = "alice@example.com") -> Send:
    return Send(
        item=item,
        id=encode_id(item.id),
        attempt=1,
        trace="",
        address=address,
        wall=NOW,
        ttl=60.0,
        token="CJSP",
    )


def said(status: int, body: Any, **headers: str) -> Answer:
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, msgspec.json.encode(body))


def test_the_event(message: Make) -> None:
    item = message(b'{"text": "disk full", "title": "db-1"}')
    request = timeline().request(sent(item))
    assert (request.method, request.url) == ("POST", "https://api.hubapi.com/integrators/timeline/v3/events")
    assert request.headers == {"authorization": "Bearer CJSP", "content-type": "application/json"}
    assert msgspec.json.decode(request.body) == {
        "eventTemplateId": "1001298",
        "id": encode_id(item.id),
        "email": "alice@example.com",
        "timestamp": "2026-09-21T14:13:20.123Z",
        "tokens": {"text": "disk full"},
    }


def test_tokens_have_the_names_that_they_are_given(message: Make) -> None:
    item = message(b'{"text": "x", "title": "t", "hubspot": {"tokens": {"age": 3}, "extraData": {"a": 1}}}')
    made = msgspec.json.decode(timeline(title_as="head", text_as="body").request(sent(item)).body)
    assert (made["tokens"], made["extraData"]) == ({"head": "t", "body": "x", "age": 3}, {"a": 1})


@pytest.mark.parametrize(
    "address", ["", "alice", "a@b@c", "a b@example.com", "<a@example.com>", "a@example.com\n"]
)
def test_what_is_no_address_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        timeline().request(sent(message(b'"x"'), address))
    assert wrong.value.blame == "recipient"


@pytest.mark.parametrize(
    "body",
    [{}, {"text": "x", "hubspot": {"tokens": []}}, {"text": "x", "hubspot": {"email": "bob@example.com"}}],
)
def test_what_cannot_be_an_event_is_the_messages_fault(message: Make, body: dict[str, Any]) -> None:
    with pytest.raises(Unsendable) as wrong:
        timeline().request(sent(message(msgspec.json.encode(body))))
    assert wrong.value.blame == "message"


def test_the_request_for_a_token() -> None:
    request = timeline().grant_request(NOW)
    assert isinstance(timeline(), Granting)
    assert (request.method, request.url) == ("POST", "https://api.hubapi.com/oauth/v3/token")
    assert parse_qsl(request.body.decode()) == [
        ("grant_type", "refresh_token"),
        ("client_id", "app"),
        ("client_secret", SECRET),
        ("refresh_token", REFRESH),
    ]


@pytest.mark.parametrize(
    ("body", "life"), [({"expires_in": 600}, 600), ({}, 1800), ({"expires_in": "x"}, 1800)]
)
def test_the_token(body: dict[str, Any], life: int) -> None:
    assert timeline().grant(said(200, {"access_token": "CJSP"} | body), NOW) == Grant("CJSP", NOW + life)


@pytest.mark.parametrize(
    ("status", "body", "kind", "blame"),
    [
        (
            400,
            {"status": "BAD_REFRESH_TOKEN", "message": f"invalid refresh token {REFRESH}"},
            "refused",
            "credential",
        ),
        (400, {"message": f"client_secret {SECRET}"}, "refused", "credential"),
        (404, {}, "refused", "credential"),
        (429, {}, "retry", ""),
        (502, {}, "retry", ""),
        (200, {}, "ambiguous", ""),
    ],
)
def test_no_token(status: int, body: Any, kind: str, blame: str) -> None:
    outcome = timeline().grant(said(status, body), NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.blame) == (kind, blame)
    assert not any(secret in repr(outcome) for secret in (SECRET, REFRESH))


@pytest.mark.parametrize("code", CODES)
def test_every_code(code: str) -> None:
    status, _, policy = code.partition(" ")
    body = {"message": "so it is", "category": "C", "correlationId": "x"} | (
        {"policyName": policy} if policy else {}
    )
    outcome = timeline().outcome(said(int(status), body), NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[code]
    assert outcome.retry_after == WAIT.get(code, 0.0)
    if outcome.kind != "accepted":
        assert (outcome.reason, outcome.code) == (f"HTTP {status}: so it is", "C")


def test_the_page_shows_the_table() -> None:
    assert table_of("hubspot") == CODES


def test_on_the_timeline() -> None:
    outcome = timeline().outcome(said(201, {"id": "3864A1P7P0048"}), NOW)
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", "3864A1P7P0048", False)


@pytest.mark.parametrize("code", [429, 477])
def test_its_wait_is_heeded(code: int) -> None:
    assert timeline().outcome(said(code, {}, retry_after="7"), NOW).retry_after == 7.0


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"refresh_token": ""}, "refresh_token"),
        ({"url": "http://api.example.com"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        timeline(**named)
    assert wrong.value.field == f"channels.timeline.{field}"


def test_secrets_are_shown_nowhere() -> None:
    assert not any(secret in repr(settings()) for secret in (SECRET, REFRESH))


async def test_a_message_goes_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("authorization", "")))
        if request.path == "/oauth/v3/token":
            return web.json_response({"access_token": "CJSP", "expires_in": 1800})
        return web.json_response({"id": (await request.json())["id"]}, status=201)

    url = (await serve(handler)).removesuffix("/hook")
    dispatcher = await dispatch({"timeline": settings(url=url, allow_private=True)})
    for _ in range(2):
        item = message(b'"x"')
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        dispatcher.send("timeline", item, 1, "alice@example.com", outcome.set_result)
        assert ((await outcome).kind, (await outcome).provider_id) == ("accepted", encode_id(item.id))
    event = ("/integrators/timeline/v3/events", "Bearer CJSP")
    assert seen == [("/oauth/v3/token", ""), event, event]
