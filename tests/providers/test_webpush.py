import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import http_ece
import jwt
import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from py_vapid import Vapid02

from gateway.config.channels import WebPush as Settings
from gateway.errors import ConfigError
from gateway.ids import encode_id
from gateway.model import LANES, Item
from gateway.ports import Outcome
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.provider import Answer, Request, Send, Unsendable
from gateway.providers.webpush import CODES, MAX_PLAIN, WebPush
from tests.providers.pages import table_of

NOW = 1_790_000_005.75
SECRET = bytes(range(16))
BROWSER = ec.derive_private_key(7, ec.SECP256R1())
VAPID = ec.derive_private_key(11, ec.SECP256R1())
ENDPOINT = "https://fcm.googleapis.com/fcm/send/c:APA91b"
Make = Callable[..., Item]
Dispatch = Callable[..., Awaitable[Dispatcher]]


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


KEY = text((11).to_bytes(32, "big"))


def pem(key: ec.EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def settings(**named: Any) -> Settings:
    return Settings(**{"private_key": KEY, "subject": "mailto:ops@example.com"} | named)


def push(**named: Any) -> WebPush:
    return WebPush("push", settings(**named))


def subscription(endpoint: str = ENDPOINT, **named: Any) -> str:
    """As a browser's `JSON.stringify(subscription)` gives it, but for what is named."""
    keys = {"p256dh": text(point(BROWSER)), "auth": text(SECRET)} | named.pop("keys", {})
    return msgspec.json.encode({"endpoint": endpoint, "expirationTime": None, "keys": keys} | named).decode()


def sent(item: Item, address: str = "", wall: float = NOW, ttl: float = 60.5) -> Send:
    address = address or subscription()
    return Send(item=item, id=encode_id(item.id), attempt=1, trace="", address=address, wall=wall, ttl=ttl)


def opened(body: bytes) -> Any:
    """What the service worker gets."""
    plain = http_ece.decrypt(body, private_key=BROWSER, auth_secret=SECRET, version="aes128gcm")
    return msgspec.json.decode(plain)


def request(item: Item, address: str = "", **named: Any) -> Request:
    return push(**named).request(sent(item, address))


def test_the_oracle_opens_the_example_of_rfc_8291() -> None:
    """Section 5. It has no part in making it."""
    key = ec.derive_private_key(
        int.from_bytes(raw("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), "big"), ec.SECP256R1()
    )
    body = raw(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBr"
        "u3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    secret = raw("BTBZMqHH6r4Tts7J_aSIgg")
    plain = http_ece.decrypt(body, private_key=key, auth_secret=secret, version="aes128gcm")
    assert plain == b"When I grow up, I want to be a watermelon"


def test_the_browser_can_open_it_and_nobody_else(message: Make) -> None:
    item = message('{"text": "naïve ☃", "title": "t", "webpush": {"url": "/x"}}'.encode(), type="greeting")
    body = request(item).body
    assert opened(body) == {
        "id": encode_id(item.id),
        "type": "greeting",
        "title": "t",
        "text": "naïve ☃",
        "url": "/x",
    }
    assert b"na" + "ïve".encode() not in body
    changed = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(http_ece.ECEException):
        opened(changed)


def test_the_headers(message: Make) -> None:
    made = request(message(b'"x"'))
    assert (made.method, made.url, made.theirs) == ("POST", ENDPOINT, True)
    assert {name: made.headers[name] for name in made.headers if name != "authorization"} == {
        "content-type": "application/octet-stream",
        "content-encoding": "aes128gcm",
        "ttl": "60",
        "urgency": "normal",
    }


@pytest.mark.parametrize(
    ("endpoint", "audience"),
    [
        (ENDPOINT, "https://fcm.googleapis.com"),
        ("https://Push.Example:443/a?b=c", "https://push.example"),
        ("https://push.example:8443/a", "https://push.example:8443"),
    ],
)
def test_the_token_is_for_this_push_service(message: Make, endpoint: str, audience: str) -> None:
    header = request(message(b'"x"'), subscription(endpoint)).headers["authorization"]
    scheme, _, parts = header.partition(" ")
    named = dict(part.strip().split("=", 1) for part in parts.split(","))
    assert (scheme, raw(named["k"])) == ("vapid", point(VAPID))
    claims = jwt.decode(
        named["t"], VAPID.public_key(), ["ES256"], audience=audience, options={"verify_exp": False}
    )
    assert claims == {"aud": audience, "sub": "mailto:ops@example.com", "exp": int(NOW) + 43_200}
    assert Vapid02.verify(header)
    changed = named["t"][:-2] + ("A" if named["t"][-2] != "A" else "B") + named["t"][-1]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(changed, VAPID.public_key(), ["ES256"], audience=audience, options={"verify_exp": False})


@pytest.mark.parametrize("key", [KEY, pem(VAPID), pem(VAPID, PrivateFormat.TraditionalOpenSSL), KEY + "\n"])
def test_forms_of_the_key(message: Make, key: str) -> None:
    header = request(message(b'"x"'), private_key=key).headers["authorization"]
    assert header.rpartition("k=")[2] == text(point(VAPID))


@pytest.mark.parametrize(
    ("priority", "urgency"), [("critical", "high"), ("high", "high"), ("normal", "normal"), ("low", "low")]
)
def test_urgency_follows_the_priority(message: Make, priority: str, urgency: str) -> None:
    item = message(b'"x"')
    item.lane = LANES[priority]
    assert request(item).headers["urgency"] == urgency


@pytest.mark.parametrize(("ttl", "shown"), [(1.0, "1"), (3600.9, "3600"), (31_536_000.0, "2419200")])
def test_the_push_service_keeps_it_as_long_as_it_is_worth_something(
    message: Make, ttl: float, shown: str
) -> None:
    assert push().request(sent(message(b'"x"'), ttl=ttl)).headers["ttl"] == shown


def test_the_topic_is_of_the_collapse_and_the_sender(message: Make) -> None:
    topics = [
        request(message(b'"x"', collapse=c)).headers["topic"] for c in ("score", "score", "wörter & more")
    ]
    other = message(b'"x"', collapse="score")
    other.sender = "bot-8"
    assert topics[0] == topics[1]
    assert len({*topics, request(other).headers["topic"]}) == 3
    assert all(len(topic) == 32 and topic.isalnum() and topic.isascii() for topic in topics)


def test_the_longest_message(message: Make) -> None:
    empty = len(msgspec.json.encode({"id": "0" * 13, "text": ""}))
    fits = request(message(msgspec.json.encode("x" * (MAX_PLAIN - empty))))
    assert len(fits.body) == 4096
    assert len(opened(fits.body)["text"]) == MAX_PLAIN - empty
    with pytest.raises(Unsendable) as wrong:
        request(message(msgspec.json.encode("x" * (MAX_PLAIN - empty + 1))))
    assert wrong.value.blame == "message"


@pytest.mark.parametrize("auth", [text(SECRET), text(SECRET) + "=="])
def test_keys_may_be_padded(message: Make, auth: str) -> None:
    assert opened(request(message(b'"x"'), subscription(keys={"auth": auth})).body)["text"] == "x"


@pytest.mark.parametrize(
    "address",
    [
        "alice",
        "{}",
        "[]",
        "\ud800",
        '{"endpoint": "https://push.example/"}',
        subscription("push.example"),
        subscription("http://push.example/a"),
        subscription("https://user:pw@push.example/a"),
        subscription("https://push.example/a\nb"),
        subscription("https://push.example:0/a"),
        subscription("https://[2606:4700::1]/a"),
        subscription("file:///etc/passwd"),
        subscription(keys={"auth": ""}),
        subscription(keys={"auth": text(bytes(15))}),
        subscription(keys={"auth": "é"}),
        subscription(keys={"p256dh": ""}),
        subscription(keys={"p256dh": text(b"\x04" + bytes(64))}),
        subscription(keys={"p256dh": text(point(BROWSER)[:64])}),
        subscription(keys={"p256dh": text(b"\x02" + point(BROWSER)[1:33])}),
        subscription(keys={"p256dh": 7}),
        subscription(expirationTime=NOW * 1000 - 1),
    ],
)
def test_what_is_no_subscription_is_the_recipients_fault(message: Make, address: str) -> None:
    with pytest.raises(Unsendable) as wrong:
        request(message(b'"x"'), address)
    assert wrong.value.blame == "recipient"


def test_push_services_can_be_named(message: Make) -> None:
    item, hosts = message(b'"x"'), ("fcm.googleapis.com", "*.push.apple.com")
    for endpoint in (ENDPOINT, "https://web.push.apple.com/a", "https://WEB.push.apple.com/a"):
        assert request(item, subscription(endpoint), hosts=hosts).url == endpoint
    for endpoint in ("https://push.apple.com.example/", "https://apush.apple.com/", "https://example.com/"):
        with pytest.raises(Unsendable):
            request(item, subscription(endpoint), hosts=hosts)


@pytest.mark.parametrize("status", CODES)
def test_every_code(status: str) -> None:
    outcome = push().outcome(Answer(int(status), {}, b""), NOW)
    assert (outcome.kind, outcome.blame, outcome.pause, outcome.learnt) == CODES[status]
    assert outcome.retry_after == (60.0 if outcome.pause else 0.0)


def test_the_page_shows_the_table() -> None:
    assert table_of("webpush") == CODES


@pytest.mark.parametrize("status", [304, 402, 418, 425, 504, 600])
def test_nothing_that_is_met_there_is_the_accounts(status: int) -> None:
    """An endpoint is chosen by whoever subscribed: it must not be able to stop the channel for the others."""
    for code in (*map(int, CODES), status):
        outcome = push().outcome(Answer(code, {"retry-after": "86400"}, b""), NOW)
        assert outcome.blame in {"", "message", "recipient"}
        assert outcome.pause in {"", "recipient"}


@pytest.mark.parametrize("status", [429, 503, 500])
def test_the_wait_is_heeded(status: int) -> None:
    assert push().outcome(Answer(status, {"retry-after": "7"}, b""), NOW).retry_after == 7.0


@pytest.mark.parametrize(
    ("headers", "id"),
    [
        (
            {"location": "https://fcm.googleapis.com/0:1510011451922224%7a0e7efbaab8b7cc"},
            "0:1510011451922224%7a0e7efbaab8b7cc",
        ),
        ({"apns-id": "B3D0-1"}, "B3D0-1"),
        ({"location": "/m/" + "x" * 500}, "x" * 128),
        ({}, ""),
    ],
)
def test_taken_is_not_delivered(headers: dict[str, str], id: str) -> None:
    outcome = push().outcome(Answer(201, headers, b""), NOW)
    assert (outcome.kind, outcome.provider_id, outcome.receipt) == ("accepted", id, False)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"private_key": "AAAA"}, "private_key"),
        ({"private_key": "not a key é"}, "private_key"),
        ({"private_key": text(bytes(32))}, "private_key"),
        ({"private_key": pem(ec.derive_private_key(7, ec.SECP384R1()))}, "private_key"),
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}, "private_key"),
        ({"hosts": ("https://fcm.googleapis.com",)}, "hosts"),
        ({"hosts": ("*",)}, "hosts"),
        ({"hosts": (), "proxies": ("http://proxy.example:3128",)}, "hosts"),
    ],
)
def test_settings_that_cannot_work_are_named_and_keys_not_quoted(named: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        push(**named)
    assert wrong.value.field == f"channels.push.{field}"
    assert str(named[field]) not in str(wrong.value)


def test_the_key_is_shown_nowhere() -> None:
    assert KEY not in repr(settings())


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebpush", None)
    with pytest.raises(ConfigError, match=r"pip install 'bot-gateway\[webpush\]'"):
        push()


async def attempted(dispatcher: Dispatcher, item: Item, address: str) -> Outcome:
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    dispatcher.send("push", item, 1, address, outcome.set_result)
    return await outcome


async def test_a_message_goes_through_the_dispatcher(
    serve: Callable[..., Awaitable[str]], dispatch: Dispatch, message: Make
) -> None:
    seen: list[tuple[str, str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["content-encoding"], opened(await request.read())))
        return web.Response(status=201, headers={"location": "/m/17"})

    url = await serve(handler)
    item = message(b'"hello"')
    dispatcher = await dispatch({"push": settings(allow_private=True)})
    outcome = await attempted(dispatcher, item, subscription(url))
    assert (outcome.kind, outcome.provider_id) == ("accepted", "17")
    assert seen == [("/hook", "aes128gcm", {"id": encode_id(item.id), "text": "hello"})]


@pytest.mark.parametrize("host", ["127.0.0.1", "push.example", "localhost", "2130706433", "127.1"])
async def test_an_endpoint_that_leads_inside_is_the_recipients_fault_and_reaches_nothing(
    serve: Callable[..., Awaitable[str]], dispatch: Dispatch, message: Make, host: str
) -> None:
    """The listener is there, and names resolve to it. Fails with the carrier's checks taken out: http reaches it."""
    reached: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(status=201)

    port = (await serve(handler)).removesuffix("/hook").rpartition(":")[2]

    async def inside(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    for scheme in ("https", "http") if host == "127.0.0.1" else ("https",):
        dispatcher = await dispatch({"push": settings()}, lookup=inside)
        outcome = await attempted(dispatcher, message(b'"x"'), subscription(f"{scheme}://{host}:{port}/hook"))
        assert (outcome.kind, outcome.reason, outcome.blame) == ("refused", "address not public", "recipient")
    assert not reached


async def test_a_push_service_that_is_away_is_away_for_this_recipient(
    dispatch: Dispatch, message: Make
) -> None:
    async def nowhere(name: str, port: int) -> list[str]:
        raise OSError

    dispatcher = await dispatch({"push": settings()}, lookup=nowhere)
    outcome = await attempted(dispatcher, message(b'"x"'), subscription())
    assert (outcome.kind, outcome.blame) == ("retry", "recipient")
