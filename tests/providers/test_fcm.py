import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.channels.fcm import Fcm as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import LANES, Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.fcm import CODES, Fcm
from gateway.providers.provider import (
    MAX_REASON,
    MAX_RETRY_AFTER,
    Answer,
    Grant,
    Granting,
    Reporting,
    Send,
    Unsendable,
)
from tests.providers.pages import table_of

NOW = 1_790_000_000.5
DEVICE = "fcm-Token_1:APA91b"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
Make = Callable[..., Item]


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def account(**named: Any) -> str:
    """As Google gives it out."""
    said = {
        "type": "service_account",
        "project_id": "shop-1",
        "private_key_id": "kid-1",
        "private_key": pem(KEY),
        "client_email": "gw@shop-1.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return json.dumps({name: value for name, value in (said | named).items() if value is not None})


ACCOUNT = account()


@cache
def push(**named: Any) -> Fcm:
    """Reading a key takes long: what has the same settings is the same."""
    return Fcm("push", Settings(**{"service_account": ACCOUNT} | named))


def sent(item: Item, address: str = DEVICE, ttl: float = 60.9) -> Send:
    return Send(
        item=item,
        id=encode_id(item.id),
        attempt=2,
        trace="",
        address=address,
        wall=NOW,
        ttl=ttl,
        token="at-1",
    )


def answer(status: int, said: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json"} | named, msgspec.json.encode(said))


def test_a_request(message: Make) -> None:
    item = message('{"text": "grüß dich", "title": "Shop"}'.encode(), type="greeting")
    request = push().request(sent(item))
    assert request.url == "https://fcm.googleapis.com/v1/projects/shop-1/messages:send"
    assert request.method == "POST"
    assert request.headers == {"content-type": "application/json", "authorization": "Bearer at-1"}
    assert msgspec.json.decode(request.body) == {
        "message": {
            "token": DEVICE,
            "notification": {"title": "Shop", "body": "grüß dich"},
            "data": {"id": encode_id(item.id), "type": "greeting"},
            "android": {"notification": {"tag": encode_id(item.id)}, "ttl": "60s"},
            "apns": {"headers": {"apns-collapse-id": encode_id(item.id), "apns-expiration": "1790000060"}},
            "webpush": {"headers": {"TTL": "60"}},
        }
    }


def pushed(send: Send) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(push().request(send).body)["message"]
    return found


def test_a_body_without_text_goes_as_data(message: Make) -> None:
    item = message(b'{"n": 1.0}')
    found = pushed(sent(item))
    assert "notification" not in found
    assert found["data"] == {"id": encode_id(item.id), "body": '{"n": 1.0}'}
    assert found["apns"] == {
        "headers": {"apns-priority": "5", "apns-expiration": "1790000060"},
        "payload": {"aps": {"content-available": 1}},
    }
    assert found["android"] == {"ttl": "60s"}


@pytest.mark.parametrize("lane", LANES)
def test_what_is_urgent_wakes_the_device(message: Make, lane: str) -> None:
    item = message(b'"hi"')
    item.lane = LANES[lane]
    priority = pushed(sent(item))["android"].get("priority")
    assert priority == ("HIGH" if lane in {"critical", "high"} else None)


@pytest.mark.parametrize(("ttl", "seconds"), [(0.5, 0), (1.0, 1), (59.9, 59), (31_536_000.0, 2_419_200)])
def test_what_is_left_is_told_to_every_push_service(message: Make, ttl: float, seconds: int) -> None:
    found = pushed(sent(message(b'"hi"'), ttl=ttl))
    assert found["android"]["ttl"] == f"{seconds}s"
    assert found["apns"]["headers"]["apns-expiration"] == str(1_790_000_000 + seconds)
    assert found["webpush"]["headers"]["TTL"] == str(seconds)


def test_what_the_sender_writes_for_fcm(message: Make) -> None:
    said = {
        "text": "hi",
        "fcm": {
            "notification": {"image": "https://a.example/b.png"},
            "data": {"order": "7"},
            "android": {"collapse_key": "c", "ttl": "9999s", "notification": {"tag": "mine"}},
            "apns": {"headers": {"apns-priority": "10", "apns-expiration": "0"}},
        },
    }
    item = message(msgspec.json.encode(said))
    found = pushed(sent(item))
    assert found["notification"] == {"body": "hi", "image": "https://a.example/b.png"}
    assert found["data"] == {"id": encode_id(item.id), "order": "7"}
    assert found["android"] == {"collapse_key": "c", "ttl": "60s", "notification": {"tag": "mine"}}
    assert found["apns"]["headers"] == {
        "apns-collapse-id": encode_id(item.id),
        "apns-priority": "10",
        "apns-expiration": "1790000060",
    }


@pytest.mark.parametrize(
    ("fcm", "reason"),
    [
        ({"token": "x"}, "fcm.token"),
        ({"topic": "all"}, "fcm.topic"),
        ({"condition": "x"}, "fcm.condition"),
        ({"data": {"n": 1}}, "not text"),
        ({"data": []}, "fcm.data"),
        ({"notification": "x"}, "notification"),
        ({"data": {"k": "x" * 4096}}, "4,096"),
    ],
)
@pytest.mark.parametrize("text", [{}, {"text": "hi"}])
def test_what_cannot_be_sent_is_the_messages_fault(
    message: Make, fcm: Any, reason: str, text: dict[str, str]
) -> None:
    with pytest.raises(Unsendable, match=reason) as caught:
        push().request(sent(message(msgspec.json.encode(text | {"fcm": fcm}))))
    assert caught.value.blame == "message"


def test_the_largest_payload(message: Make) -> None:
    spent = len("id") + 13 + len("body")
    assert pushed(sent(message(msgspec.json.encode("x" * (4096 - spent)))))
    with pytest.raises(Unsendable, match="4,096"):
        push().request(sent(message(msgspec.json.encode("x" * (4097 - spent)))))


@pytest.mark.parametrize("address", ["", "a b", "tök", "a\n", "x" * 4097])
def test_an_address_that_is_no_token_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as caught:
        push().request(sent(message(b'"hi"'), address))
    assert caught.value.blame == "recipient"


def test_accepted_is_not_delivered_and_no_receipt_is_waited_for() -> None:
    found = push().outcome(answer(200, {"name": "projects/shop-1/messages/0:15"}), NOW)
    assert found == Outcome("accepted", "HTTP 200", provider_id="projects/shop-1/messages/0:15", status=200)
    assert not isinstance(push(), Reporting)


@pytest.mark.parametrize("said", [None, {}, {"name": ""}, {"name": 1}])
def test_a_200_that_is_not_understood_is_ambiguous(said: Any) -> None:
    assert push().outcome(answer(200, said), NOW).kind == "ambiguous"


FCM = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD = "type.googleapis.com/google.rpc.BadRequest"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
HTTP = {
    "INVALID_ARGUMENT": 400,
    "UNREGISTERED": 404,
    "SENDER_ID_MISMATCH": 403,
    "QUOTA_EXCEEDED": 429,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
    "THIRD_PARTY_AUTH_ERROR": 401,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "DEADLINE_EXCEEDED": 504,
    "UNSPECIFIED_ERROR": 500,
}
NO_TOKEN = "The registration token is not a valid FCM registration token"


def refusal(status: str, *details: Any, message: str = "…") -> dict[str, Any]:
    return {
        "error": {"code": HTTP.get(status, 400), "message": message, "status": status, "details": details}
    }


@pytest.mark.parametrize("row", CODES)
@pytest.mark.parametrize("wait", ["", "90"])
def test_every_code(row: str, wait: str) -> None:
    kind, blame, pause, learnt, meaning = CODES[row]
    code, _, what = row.partition(":")
    if code in {
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "NOT_FOUND",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
    }:
        said = refusal(code)
    else:
        quota = {"@type": QUOTA, "violations": [{"subject": "device:x", "description": "rate"}]}
        said = refusal(
            {"UNREGISTERED": "NOT_FOUND", "QUOTA_EXCEEDED": "RESOURCE_EXHAUSTED"}.get(code, code),
            {"@type": FCM, "errorCode": code},
            *([quota] if what == "device" else []),
            message=NO_TOKEN if what == "token" else "…",
        )
    found = push().outcome(answer(HTTP[code], said, retry_after=wait), NOW)
    assert (found.kind, found.blame, found.pause, found.learnt) == (kind, blame, pause, learnt)
    assert (found.code, found.reason, found.status) == (code, f"{code}: {meaning}", HTTP[code])
    least = 0.0 if kind != "retry" else 90.0 if wait else 0.0 if code == "UNAVAILABLE" else 60.0
    assert found.retry_after == least
    assert (blame != "") == (kind == "refused")


@pytest.mark.parametrize(
    ("said", "blame", "learnt"),
    [
        # the two examples of firebase.google.com/docs/cloud-messaging/error-codes
        (
            refusal(
                "INVALID_ARGUMENT",
                {"@type": BAD, "fieldViolations": [{"field": "message.data[0].value"}]},
                message="Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
            ),
            "message",
            "",
        ),
        (
            refusal("INVALID_ARGUMENT", {"@type": FCM, "errorCode": "INVALID_ARGUMENT"}, message=NO_TOKEN),
            "recipient",
            "gone",
        ),
        (
            refusal("INVALID_ARGUMENT", {"@type": FCM, "errorCode": "INVALID_ARGUMENT"}, message="too big"),
            "message",
            "",
        ),
        (
            refusal(
                "INVALID_ARGUMENT",
                {"@type": BAD, "fieldViolations": [{"field": "message.token"}]},
                {"@type": FCM, "errorCode": "INVALID_ARGUMENT"},
            ),
            "recipient",
            "gone",
        ),
        (
            refusal(
                "INVALID_ARGUMENT",
                {
                    "@type": BAD,
                    "fieldViolations": [{"field": "message.token"}, {"field": "message.android.ttl"}],
                },
                {"@type": FCM, "errorCode": "INVALID_ARGUMENT"},
                message=NO_TOKEN,
            ),
            "message",
            "",
        ),
        (refusal("INVALID_ARGUMENT"), "message", ""),
        (refusal("NOT_FOUND"), "account", ""),
        (refusal("NOT_FOUND", {"@type": FCM, "errorCode": "UNREGISTERED"}), "recipient", "gone"),
        (refusal("PERMISSION_DENIED", {"@type": FCM, "errorCode": "SENDER_ID_MISMATCH"}), "recipient", ""),
    ],
)
def test_a_token_is_gone_only_where_google_says_so(said: Any, blame: str, learnt: str) -> None:
    found = push().outcome(answer(said["error"]["code"], said), NOW)
    assert (found.kind, found.blame, found.learnt) == ("refused", blame, learnt)


@pytest.mark.parametrize(
    ("status", "kind", "blame"),
    [
        (301, "refused", "message"),
        (400, "refused", "message"),
        (401, "refused", "credential"),
        (403, "refused", "credential"),
        (404, "refused", "account"),
        (410, "refused", "account"),
        (429, "retry", ""),
        (500, "ambiguous", ""),
        (502, "ambiguous", ""),
        (503, "retry", ""),
    ],
)
@pytest.mark.parametrize(
    "said",
    [
        None,
        {"error": "x"},
        {"error": {"status": 1, "details": 0}},
        {"error": {"status": "NEW", "message": "why"}},
    ],
)
def test_answers_without_a_known_code(status: int, kind: str, blame: str, said: Any) -> None:
    found = push().outcome(answer(status, said), NOW)
    assert (found.kind, found.blame, found.learnt) == (kind, blame, "")
    assert (found.code == "NEW") == (found.reason == "NEW: why") == ("NEW" in str(said))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "status", "message", "details", "@type", "errorCode", "fieldViolations", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.integers(100, 999), ODD, st.text(max_size=20))
def test_no_answer_is_too_strange(status: int, said: Any, wait: str) -> None:
    found = push().outcome(answer(status, said, retry_after=wait), NOW)
    assert found.reason.isprintable()
    assert len(found.reason) <= MAX_REASON
    assert (found.blame != "") == (found.kind == "refused")
    assert 0 <= found.retry_after <= MAX_RETRY_AFTER


def test_the_page_shows_the_same_table() -> None:
    assert table_of("fcm") == {code: row[:4] for code, row in CODES.items()}


def claims(body: bytes, audience: str = "https://oauth2.googleapis.com/token") -> dict[str, Any]:
    (assertion,) = parse_qs(body.decode())["assertion"]
    found: dict[str, Any] = jwt.decode(
        assertion, KEY.public_key(), ["RS256"], audience=audience, options={"verify_exp": False}
    )
    assert jwt.get_unverified_header(assertion)["kid"] == "kid-1"
    return found


def test_an_access_token_is_asked_for_with_a_signed_jwt() -> None:
    provider = push()
    assert isinstance(provider, Granting)
    request = provider.grant_request(NOW)
    assert request.url == "https://oauth2.googleapis.com/token"
    assert request.headers == {"content-type": "application/x-www-form-urlencoded"}
    assert parse_qs(request.body.decode())["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert claims(request.body) == {
        "iss": "gw@shop-1.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_790_000_000,
        "exp": 1_790_003_600,
    }


def test_the_jwt_is_for_google_wherever_it_is_sent() -> None:
    request = push(token_url="https://proxy.example/token").grant_request(NOW)
    assert request.url == "https://proxy.example/token"
    assert claims(request.body)["aud"] == "https://oauth2.googleapis.com/token"


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (200, {"access_token": "at-1", "expires_in": 3599, "token_type": "Bearer"}, NOW + 3539),
        (200, {"access_token": "at-1", "expires_in": 5}, NOW),
        (200, {"access_token": "", "expires_in": 5}, ("retry", "", "account", "")),
        (200, {"access_token": "at-1"}, ("retry", "", "account", "")),
        (200, None, ("retry", "", "account", "")),
        (400, {"error": "invalid_grant"}, ("refused", "credential", "", "invalid_grant")),
        (400, {"error": "x" * 50}, ("refused", "credential", "", "")),
        (401, {"error": "invalid_client"}, ("refused", "credential", "", "invalid_client")),
        (403, None, ("refused", "credential", "", "")),
        (408, None, ("retry", "", "account", "")),
        (429, None, ("retry", "", "account", "")),
        (500, {"error": "internal_failure"}, ("retry", "", "account", "internal_failure")),
        (503, None, ("retry", "", "account", "")),
    ],
)
def test_grants(status: int, said: Any, expected: Any) -> None:
    found = push().grant(answer(status, said, retry_after="7"), NOW)
    if isinstance(expected, float):
        assert found == Grant("at-1", expected)
    else:
        assert isinstance(found, Outcome)
        assert (found.kind, found.blame, found.pause, found.code) == expected
        assert found.reason.startswith("no access token: ")
        assert found.retry_after == (7.0 if status in {408, 429, 500, 503} else 0.0)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"service_account": ""}, "service_account"),
        ({"service_account": "[]"}, "service_account"),
        ({"service_account": "{"}, "service_account"),
        ({"service_account": account(private_key=None)}, "service_account"),
        ({"service_account": account(private_key="s3cret")}, "service_account"),
        (
            {"service_account": account(private_key=pem(ec.generate_private_key(ec.SECP256R1())))},
            "service_account",
        ),
        ({"service_account": account(client_email=None)}, "service_account"),
        ({"service_account": account(project_id=None)}, "project_id"),
        ({"service_account": account(token_uri="http://oauth2.googleapis.com")}, "token_url"),
        ({"token_url": "ftp://x"}, "token_url"),
        ({"url": "http://fcm.googleapis.com"}, "url"),
    ],
)
def test_settings_that_cannot_work_are_named_and_hold_no_secret(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        push(**named)
    assert wrong.value.field == f"channels.push.{field}"
    assert "PRIVATE" not in str(wrong.value)
    assert "s3cret" not in str(wrong.value)
    assert wrong.value.__cause__ is None


def test_the_project_may_be_another(message: Make) -> None:
    request = push(project_id="shop-2").request(sent(message(b'"hi"')))
    assert request.url.endswith("/v1/projects/shop-2/messages:send")


def test_secrets_are_not_shown() -> None:
    assert "PRIVATE" not in repr(Settings(service_account=ACCOUNT))


async def test_a_delivery_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Callable[..., Awaitable[Dispatcher]], message: Make
) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/token":
            claims(await request.read())
            return web.json_response({"access_token": "at-1", "expires_in": 3599})
        assert request.path == "/v1/projects/shop-1/messages:send"
        seen.append(await request.json())
        return web.json_response({"name": "projects/shop-1/messages/1"})

    url = (await serve(handler)).removesuffix("/hook")
    settings = Settings(
        service_account=ACCOUNT, url=url, token_url=f"{url}/token", allow_private=True, timeout=20.0
    )
    dispatcher = await dispatch({"push": settings})
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("push", message(b'"hi"'), 1, DEVICE, ended.set_result)
    outcome = await ended
    assert (outcome.kind, outcome.provider_id) == ("accepted", "projects/shop-1/messages/1")
    (said,) = seen
    assert (said["message"]["token"], said["message"]["notification"]) == (DEVICE, {"body": "hi"})
