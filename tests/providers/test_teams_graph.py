import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels import TeamsGraph as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import (
    MAX_REASON,
    MAX_RETRY_AFTER,
    Answer,
    Grant,
    Granting,
    Request,
    Send,
    Unsendable,
)
from gateway.providers.teams_graph import CODES, WAIT, TeamsGraph
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
CHAT = "19:2da4c29f6d7041eca70b638b43d45437@thread.v2"
TEAM = "fbe2bf47-16c8-47cf-b4a5-4b9b187c508b"
CHANNEL = f"{TEAM}/19:4a95f7d8db4c4e7fae857bcebe0623e6@thread.tacv2"
APP = "11111111-1111-1111-1111-111111111111"
Make = Callable[..., Item]


def settings(**named: Any) -> Settings:
    wanted = {
        "tenant": "contoso.example",
        "client_id": APP,
        "client_secret": "s3cr3t&",
        "refresh_token": "0.r3fr3sh",
    }
    return Settings(**wanted | named)


def graph(**named: Any) -> TeamsGraph:
    return TeamsGraph("work", settings(**named))


def requested(item: Item, address: str = CHAT, **named: Any) -> Request:
    send = Send(
        item=item,
        id=encode_id(item.id),
        attempt=1,
        trace="",
        address=address,
        wall=NOW,
        ttl=60.0,
        token="t0ken",
    )
    return graph(**named).request(send)


def error(status: int, code: str, message: str = "words", **headers: str) -> Answer:
    body = {"error": {"code": code, "message": message, "innerError": {"request-id": "65ea2672"}}}
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(body).encode())


# -- the token --------------------------------------------------------------------------------------------------------


def test_the_request_of_a_token() -> None:
    provider = graph()
    assert isinstance(provider, Granting)
    request = provider.grant_request(NOW)
    assert request.method == "POST"
    assert request.url == "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.body == (
        b"client_id=11111111-1111-1111-1111-111111111111&grant_type=refresh_token&refresh_token=0.r3fr3sh"
        b"&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&client_secret=s3cr3t%26"
    )


def test_a_public_client_in_another_cloud() -> None:
    named = {"url": "https://graph.microsoft.us/v1.0", "login_url": "https://login.microsoftonline.us/"}
    request = graph(client_secret="", **named).grant_request(NOW)
    assert request.url == "https://login.microsoftonline.us/contoso.example/oauth2/v2.0/token"
    form = dict(parse_qsl(request.body.decode()))
    assert "client_secret" not in form
    assert form["scope"] == "https://graph.microsoft.us/.default"


def test_a_token() -> None:
    body = b'{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0","refresh_token":"0.next"}'
    assert graph().grant(Answer(200, {}, body), NOW) == Grant("eyJ0", NOW + 3599)


@pytest.mark.parametrize(
    ("status", "code", "kind", "blame"),
    [
        (400, "invalid_grant", "refused", "credential"),
        (401, "invalid_client", "refused", "credential"),
        (400, "unauthorized_client", "refused", "credential"),
        (400, "invalid_request", "refused", "credential"),
        (400, "invalid_scope", "refused", "credential"),
        (400, "interaction_required", "refused", "credential"),
        (400, "consent_required", "refused", "credential"),
        (400, "temporarily_unavailable", "retry", ""),
        (400, "", "refused", "credential"),
        (404, "", "refused", "credential"),
        (429, "", "retry", ""),
        (500, "server_error", "retry", ""),
        (504, "", "retry", ""),
        (200, "", "retry", ""),
    ],
)
def test_no_token(status: int, code: str, kind: str, blame: str) -> None:
    said = {"error": code, "error_description": "AADSTS70043: 0.r3fr3sh … Trace ID: 5f0e"} if code else {}
    outcome = graph().grant(Answer(status, {"retry-after": "7"}, json.dumps(said).encode()), NOW)
    again = kind == "retry"
    assert outcome == Outcome(
        kind,
        f"no access token: HTTP {status}" + (f": {code}" if code else ""),
        blame=blame,
        retry_after=7.0 if again else 0.0,
        status=status,
        code=code,
        pause="account" if again else "",
    )


@pytest.mark.parametrize("lasts", [0, -1, "3599", None])
def test_a_token_without_a_time_is_none(lasts: Any) -> None:
    body = json.dumps({"access_token": "eyJ0", "expires_in": lasts}).encode()
    assert isinstance(graph().grant(Answer(200, {}, body), NOW), Outcome)


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_in_a_chat(message: Make) -> None:
    request = requested(message(b'{"text":"<b>hello</b>","title":"News"}'))
    assert request.method == "POST"
    assert request.url == (
        "https://graph.microsoft.com/v1.0/chats/19%3A2da4c29f6d7041eca70b638b43d45437%40thread.v2/messages"
    )
    assert request.headers["authorization"] == "Bearer t0ken"
    assert request.headers["content-type"] == "application/json"
    assert request.body == b'{"body":{"contentType":"text","content":"News\\n\\n<b>hello</b>"}}'


def test_a_message_in_a_channel(message: Make) -> None:
    assert requested(message(b'"x"'), CHANNEL).url == (
        f"https://graph.microsoft.com/v1.0/teams/{TEAM}"
        "/channels/19%3A4a95f7d8db4c4e7fae857bcebe0623e6%40thread.tacv2/messages"
    )


def test_what_is_for_teams_alone(message: Make) -> None:
    native = {"importance": "high", "body": {"contentType": "html", "content": "<b>x</b>"}}
    body = json.dumps({"text": "x", "teams_graph": native}).encode()
    assert msgspec.json.decode(requested(message(body)).body) == native


@pytest.mark.parametrize(
    "address",
    ["", "19:x", "me", f"{TEAM}/x", f"x/{CHAT}", CHAT + "\n", f"../{CHAT}", "alice@contoso.example"],
)
def test_what_is_no_chat_blames_the_recipient(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        requested(message(b'"x"'), address)
    assert wrong.value.blame == "recipient"


def test_created_is_accepted_and_no_more() -> None:
    outcome = graph().outcome(Answer(201, {}, b'{"id":"1616991463150","replyToId":null}'), NOW)
    assert outcome == Outcome("accepted", "HTTP 201", provider_id="1616991463150", status=201)


@pytest.mark.parametrize(("status", "body"), [(201, b""), (201, b"{}"), (200, b'{"id":"1"}')])
def test_what_cannot_be_read_is_ambiguous(status: int, body: bytes) -> None:
    assert graph().outcome(Answer(status, {}, body), NOW) == Outcome(
        "ambiguous", f"HTTP {status}", status=status
    )


@pytest.mark.parametrize("row", CODES)
def test_every_code(row: str) -> None:
    kind, blame, pause, learnt = table_of("teams_graph")[row]
    status, words = (int(row[5:]), "words 65ea2672") if row.startswith("HTTP ") else (403, f"{row} 65ea2672")
    outcome = graph().outcome(error(status, "SomeCode", words), NOW)
    assert outcome == Outcome(
        kind,
        f"HTTP {status}: {'SomeCode' if row.startswith('HTTP ') else row}",
        blame=blame,
        retry_after=WAIT if pause else 0.0,
        status=status,
        code="SomeCode",
        pause=pause,
        learnt=learnt,
    )


def test_the_page_has_the_table() -> None:
    assert table_of("teams_graph") == CODES


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("wait", "seconds"), [("10", 10.0), ("", WAIT), ("999999", MAX_RETRY_AFTER)])
def test_the_wait(status: int, wait: str, seconds: float) -> None:
    outcome = graph().outcome(error(status, "TooManyRequests", retry_after=wait), NOW)
    assert (outcome.kind, outcome.pause, outcome.retry_after) == ("retry", "account", seconds)


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (500, "ambiguous", ""),
        (404, "refused", "account"),
        (302, "refused", "account"),
        (401, "refused", "credential"),
    ],
)
def test_what_a_server_in_between_says_is_not_repeated(status: int, kind: str, blame: str) -> None:
    outcome = graph().outcome(Answer(status, {"content-type": "text/html"}, b"Bearer t0ken"), NOW)
    assert (outcome.kind, outcome.blame, outcome.reason) == (kind, blame, f"HTTP {status}")


@given(st.integers(100, 999), st.binary(max_size=300), st.text(max_size=300), st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, body: bytes, words: str, wait: str) -> None:
    for answer in (Answer(status, {"retry-after": wait}, body), error(status, "A", words, retry_after=wait)):
        for outcome in (graph().outcome(answer, NOW), graph().grant(answer, NOW)):
            assert isinstance(outcome, Outcome)
            assert len(outcome.reason) <= MAX_REASON
            assert outcome.reason.isprintable()
            assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"refresh_token": ""}, "refresh_token"),
        ({"url": "http://graph.example/v1.0"}, "url"),
        ({"login_url": "http://login.example"}, "login_url"),
    ],
)
def test_settings_that_cannot_work_are_named(named: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        graph(**named)
    assert wrong.value.field == f"channels.work.{field}"


def test_secrets_are_not_shown() -> None:
    assert "s3cr3t" not in repr(settings())
    assert "r3fr3sh" not in repr(settings())


async def test_one_delivery(
    serve: Callable[..., Awaitable[str]],
    dispatch: Callable[..., Awaitable[Dispatcher]],
    message: Make,
) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith("/token"):
            return web.json_response({"access_token": "eyJ0", "expires_in": 3599})
        seen.append((request.raw_path, await request.json()))
        return web.json_response({"id": "1616991463150"}, status=201)

    base = (await serve(handler)).removesuffix("/hook")
    named = settings(url=f"{base}/v1.0", login_url=base, allow_private=True)
    dispatcher = await dispatch({"hook": named})
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("hook", message(b'"hi"'), 1, CHAT, done.set_result)
    assert await done == Outcome("accepted", "HTTP 201", provider_id="1616991463150", status=201)
    ((path, body),) = seen
    assert body == {"body": {"contentType": "text", "content": "hi"}}
    assert path.lower().replace("%3a", ":").replace("%40", "@") == f"/v1.0/chats/{CHAT}/messages"
