import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from aiohttp import web

from gateway.config.channels import Salesforce as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Grant, Granting, Send, Unsendable
from gateway.providers.salesforce import CODES, WAIT, Salesforce
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
SECRET = "8A4BE698BCA2&=secret"
URL = "https://example.my.salesforce.com"
Make = Callable[..., Item]
# the example of the Platform Events Developer Guide
PUBLISHED = {
    "id": "e01xx0000000001AAA",
    "success": True,
    "errors": [
        {"statusCode": "OPERATION_ENQUEUED", "message": "232fd30e-0a71-42bd-a97b-be0e329b2ded", "fields": []}
    ],
}


def settings(**named: Any) -> Settings:
    wanted = {"url": URL, "client_id": "3MVG9", "client_secret": SECRET, "event": "Low_Ink__e"}
    return Settings(**wanted | named)


def crm(**named: Any) -> Salesforce:
    return Salesforce("crm", settings(**named))


def sent(item: Item) -> Send:
    return Send(
        item=item, id=encode_id(item.id), attempt=1, trace="", address="", wall=NOW, ttl=60.0, token="00D!AR8"
    )


def said(status: int, body: Any, **headers: str) -> Answer:
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, msgspec.json.encode(body))


def test_the_event(message: Make) -> None:
    item = message(b'"disk full"', type="alarm")
    request = crm().request(sent(item))
    assert (request.method, request.url) == ("POST", URL + "/services/data/v62.0/sobjects/Low_Ink__e/")
    assert request.headers == {"authorization": "Bearer 00D!AR8", "content-type": "application/json"}
    assert msgspec.json.decode(request.body) == {
        "Message_Id__c": encode_id(item.id),
        "Client__c": "alice",
        "Text__c": "disk full",
    }


def test_fields_have_the_names_that_they_are_given(message: Make) -> None:
    item = message(
        b'{"text": "x", "title": "t", "salesforce": {"Severity__c": 3, "Kind__c": "own"}}', type="alarm"
    )
    made = crm(
        id_field="", client_field="Who__c", type_field="Kind__c", title_field="Title__c", text_field="T__c"
    )
    assert msgspec.json.decode(made.request(sent(item)).body) == {
        "Who__c": "alice",
        "Kind__c": "own",
        "Title__c": "t",
        "T__c": "x",
        "Severity__c": 3,
    }


@pytest.mark.parametrize("body", [{}, {"text": "x" * 1024 * 1024}])
def test_what_cannot_be_an_event_is_the_messages_fault(message: Make, body: dict[str, str]) -> None:
    with pytest.raises(Unsendable) as wrong:
        crm().request(sent(message(msgspec.json.encode(body))))
    assert wrong.value.blame == "message"


def test_the_request_for_a_token() -> None:
    request = crm().grant_request(NOW)
    assert isinstance(crm(), Granting)
    assert (request.method, request.url) == ("POST", URL + "/services/oauth2/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode()) == [
        ("grant_type", "client_credentials"),
        ("client_id", "3MVG9"),
        ("client_secret", SECRET),
    ]


def test_the_token() -> None:
    assert crm().grant(said(200, {"access_token": "00D!AR8", "instance_url": URL}), NOW) == Grant(
        "00D!AR8", NOW + 3600
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "blame"),
    [
        (400, {"error": "invalid_client_id", "error_description": "x"}, "refused", "credential"),
        (400, {"error": "invalid_client"}, "refused", "credential"),
        (400, {"error": "invalid_grant"}, "refused", "credential"),
        (400, {"error": "unsupported_grant_type"}, "refused", "credential"),
        (400, {"error": f"about {SECRET}"}, "refused", "credential"),
        (400, {"error": "rate_limit_exceeded"}, "retry", ""),
        (503, {"error": "temporarily_unavailable"}, "retry", ""),
        (502, "<html>", "retry", ""),
        (200, {"access_token": "a\nb"}, "ambiguous", ""),
        (200, {}, "ambiguous", ""),
    ],
)
def test_no_token(status: int, body: Any, kind: str, blame: str) -> None:
    outcome = crm().grant(said(status, body), NOW)
    assert isinstance(outcome, Outcome)
    assert (outcome.kind, outcome.blame) == (kind, blame)
    assert SECRET not in repr(outcome)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("form", ["list", "result"])
def test_every_code(code: str, form: str) -> None:
    answer = (
        said(400, [{"errorCode": code, "message": "so it is", "fields": []}])
        if form == "list"
        else said(
            201, {"id": None, "success": False, "errors": [{"statusCode": code, "message": "so it is"}]}
        )
    )
    outcome = crm().outcome(answer, NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[code]
    assert (outcome.code, outcome.retry_after) == (code, WAIT.get(code, 0.0))
    assert outcome.reason.endswith(": so it is")


def test_the_page_shows_the_table() -> None:
    assert table_of("salesforce") == CODES


@pytest.mark.parametrize(
    ("body", "id"),
    [
        (PUBLISHED, "232fd30e-0a71-42bd-a97b-be0e329b2ded"),
        ({"id": "e00xx000000000B", "success": True, "errors": []}, "e00xx000000000B"),
    ],
)
def test_published(body: Any, id: str) -> None:
    outcome = crm().outcome(said(201, body), NOW)
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", id, False)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(201, {"success": False, "errors": []}), "ambiguous"),
        (said(201, []), "ambiguous"),
        (said(401, [{"errorCode": 7}]), "refused"),
        (said(500, ["x"]), "retry"),
        (Answer(503, {}, b"<html>"), "retry"),
    ],
)
def test_other_answers(answer: Answer, kind: str) -> None:
    assert crm().outcome(answer, NOW).kind == kind


def test_its_wait_is_heeded() -> None:
    answer = said(403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "x"}], retry_after="7")
    assert crm().outcome(answer, NOW).retry_after == 7.0


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"url": "http://example.com"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        crm(**named)
    assert wrong.value.field == f"channels.crm.{field}"


def test_the_secret_is_shown_nowhere() -> None:
    assert SECRET not in repr(settings())


async def test_a_message_goes_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    """The first token is refused on its second use: another one is asked for."""
    tokens: list[str] = []
    seen: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/services/oauth2/token":
            tokens.append(f"token-{len(tokens)}")
            return web.json_response({"access_token": tokens[-1]})
        seen.append((request.path, request.headers["authorization"]))
        if len(seen) == 2:
            return web.json_response([{"errorCode": "INVALID_SESSION_ID", "message": "expired"}], status=401)
        return web.json_response(PUBLISHED, status=201)

    url = (await serve(handler)).removesuffix("/hook")
    dispatcher = await dispatch({"crm": settings(url=url, allow_private=True)})
    kinds: list[str] = []
    for _ in range(3):
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        dispatcher.send("crm", message(b'"x"'), 1, "", outcome.set_result)
        kinds.append((await outcome).kind)
    assert kinds == ["accepted", "retry", "accepted"]
    assert [bearer for _, bearer in seen] == ["Bearer token-0", "Bearer token-0", "Bearer token-1"]
    assert {path for path, _ in seen} == {"/services/data/v62.0/sobjects/Low_Ink__e/"}
