"""The listener for providers: what it takes, what it refuses, and when it answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from gateway.api import callbacks as module
from gateway.api.callbacks import CallbackServer
from gateway.config import Callbacks as Settings
from gateway.config import Webhook, load
from gateway.errors import CommitUnknown, ConfigError, Unavailable
from gateway.ports import Receipt
from gateway.ports import Reply as Answered
from gateway.providers.callbacks import Callbacks, url_of
from gateway.providers.dispatcher import Dispatcher
from gateway.providers.fetched import AT_ONCE, Fetched
from gateway.providers.http import NoAnswer
from gateway.providers.provider import Answer, Call, Forged, Needs
from tests.api.support import Reply
from tests.hub.test_rules import SECRET
from tests.providers.reporter import Reporter, sign

CERTIFICATE = "https://sns.example/cert.pem"
PUBLIC = "https://callbacks.example.org/gw"


class Hub:
    """Takes receipts; answers when `go` is set."""

    def __init__(self) -> None:
        self.ready = ""
        self.taken: list[tuple[str, list[Receipt]]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.came = asyncio.Event()
        self.fails: Exception | None = None

    async def receipts(self, channel: str, receipts: list[Receipt]) -> None:
        self.taken.append((channel, receipts))
        self.came.set()
        await self.go.wait()
        if self.fails is not None:
            raise self.fails


class Needing:
    """Needs a certificate before it can read."""

    def callback(self, call: Call, wall: float) -> Answered:
        if CERTIFICATE not in call.fetched:
            raise Needs(CERTIFICATE, 60.0)
        if call.fetched[CERTIFICATE].body != b"good":
            raise Forged("another certificate")
        return Answered(body=b"thanks")


class Outside:
    """The world, at the listener."""

    def __init__(self, settings: Settings) -> None:
        self.hub = Hub()
        hook = Webhook(url="https://hook.example/x", secret=SECRET)
        providers: dict[str, Any] = {
            "sms": Reporter("sms", hook, url_of(PUBLIC, "sms")),
            "hook": object(),
            "mail": Needing(),
        }
        self.notes: list[tuple[str, str]] = []
        self.clock = 1.0
        self.asked: list[str] = []
        self.there: dict[str, Answer] = {}
        reader = Callbacks(
            PUBLIC, providers.get, lambda: 1.0, lambda channel, why: self.notes.append((channel, why)),
            Fetched(self.fetch, lambda: self.clock),
        )  # fmt: skip
        self.server = CallbackServer(self.hub, reader, settings)
        self.session = aiohttp.ClientSession()

    async def fetch(self, channel: str, url: str) -> Answer:
        self.asked.append(f"{channel} {url}")
        if url not in self.there:
            raise NoAnswer(sent=True)
        return self.there[url]

    async def call(
        self,
        receipts: Any = None,
        *,
        path: str = "/v1/callbacks/sms",
        method: str = "POST",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        url: str = "",
    ) -> Reply:
        """A call that is signed as it should be, unless `headers` say otherwise."""
        data = body if body is not None else msgspec.json.encode(receipts or [])
        signed = {"X-Signature": sign(url or PUBLIC + path, data)} if headers is None else headers
        target = URL(f"http://127.0.0.1:{self.server.port}{path}", encoded=True)
        async with self.session.request(
            method, target, data=data if method == "POST" else None, headers=signed
        ) as response:
            return Reply(response, await response.read())


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    world = Outside(Settings(listen="127.0.0.1:0", public_url=PUBLIC, max_body_bytes=4096))
    await world.server.start()
    yield world
    await world.session.close()
    await world.server.stop()


DELIVERED = [{"ref": "0000000000001.1", "status": "delivered", "code": "d"}]


async def test_what_is_signed_is_taken(outside: Outside) -> None:
    reply = await outside.call(DELIVERED)
    assert (reply.status, reply.raw) == (200, b"ok")
    assert outside.hub.taken == [("sms", [Receipt(ref="0000000000001.1", status="delivered", code="d")])]


async def test_the_url_is_the_one_given_out_with_the_query_as_it_came(outside: Outside) -> None:
    path = "/v1/callbacks/sms?a=%20b&c=%C3%BC&a=+"
    assert (await outside.call(DELIVERED, path=path)).status == 200
    assert (await outside.call(DELIVERED, path=path, url=PUBLIC + "/v1/callbacks/sms")).status == 403


async def test_what_is_forged_is_refused_and_counted(
    outside: Outside, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = await outside.call(DELIVERED, headers={"X-Signature": "0"})
    assert reply.problem == (403, "callback_forged", None)
    assert (await outside.call(DELIVERED, headers={})).problem == (403, "callback_forged", None)
    assert outside.hub.taken == []
    assert outside.notes == [("sms", "forged")] * 2
    assert "0000000000001" not in "".join(capfd.readouterr())


async def test_of_two_signatures_neither_counts(outside: Outside) -> None:
    body = msgspec.json.encode(DELIVERED)
    good = sign(PUBLIC + "/v1/callbacks/sms", body)
    for pair in ((good, "0"), ("0", good)):
        headers = [("X-Signature", one) for one in pair]
        target = f"http://127.0.0.1:{outside.server.port}/v1/callbacks/sms"
        async with outside.session.post(target, data=body, headers=headers) as response:
            assert response.status == 403


async def test_what_is_signed_and_cannot_be_read(outside: Outside) -> None:
    assert (await outside.call(body=b"{")).problem == (400, "callback_unreadable", None)
    assert outside.notes == [("sms", "unreadable")]


async def test_a_bug_of_a_provider(outside: Outside) -> None:
    assert (await outside.call(body=b"[bug")).problem == (500, "internal", None)


async def test_a_challenge(outside: Outside) -> None:
    reply = await outside.call(path="/v1/callbacks/sms?challenge=abc", method="GET", headers={})
    assert (reply.status, reply.raw) == (200, b"abc")
    assert outside.hub.taken == []


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/v1/callbacks/hook", "POST", (404, "no_callbacks", None)),
        ("/v1/callbacks/none", "POST", (404, "no_callbacks", None)),
        ("/v1/callbacks/sms/", "POST", (404, "no_such_path", None)),
        ("/v1/callbacks/%73ms", "POST", (404, "no_such_path", None)),
        ("/v1/messages", "POST", (404, "no_such_path", None)),
        ("/healthz", "GET", (404, "no_such_path", None)),
        ("/metrics", "GET", (404, "no_such_path", None)),
        ("/v1/callbacks/sms", "PUT", (405, "method_not_allowed", None)),
        ("/v1/callbacks/sms", "DELETE", (405, "method_not_allowed", None)),
    ],
)
async def test_nothing_else_is_there(
    outside: Outside, path: str, method: str, expected: tuple[int, str, None]
) -> None:
    assert (await outside.call(DELIVERED, path=path, method=method)).problem == expected
    assert outside.hub.taken == []


async def test_a_body_over_the_limit(outside: Outside) -> None:
    assert (await outside.call(body=b"x" * 4097)).problem == (413, "body_too_large", None)


async def test_while_the_gateway_cannot_store(outside: Outside) -> None:
    outside.hub.ready = "draining"
    reply = await outside.call(DELIVERED)
    assert reply.problem == (503, "not_ready", None)
    assert reply.headers["Retry-After"] == "1"
    assert outside.hub.taken == []
    outside.hub.ready = ""
    outside.hub.fails = CommitUnknown("lost", retry_after=1.0)
    assert (await outside.call(DELIVERED)).problem == (503, "commit_unknown", None)
    outside.hub.fails = Unavailable("lost")
    assert (await outside.call(DELIVERED)).problem == (503, "unavailable", None)


async def test_it_is_answered_once_its_receipts_are_on_disk(outside: Outside) -> None:
    outside.hub.go.clear()
    call = asyncio.ensure_future(outside.call(DELIVERED))
    await outside.hub.came.wait()
    done, _ = await asyncio.wait((call,), timeout=0.05)
    assert not done
    outside.hub.go.set()
    assert (await call).status == 200


async def test_it_does_not_wait_forever(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.01)
    outside.hub.go.clear()
    assert (await outside.call(DELIVERED)).problem == (503, "not_ready", None)


async def test_connections_over_the_limit() -> None:
    world = Outside(Settings(listen="127.0.0.1:0", public_url=PUBLIC, max_connections=1))
    await world.server.start()
    _, held = await asyncio.open_connection("127.0.0.1", world.server.port)
    held.write(b"POST /v1/callbacks/sms HTTP/1.1\r\n")
    await held.drain()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.server.port)
    assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
    for each in (held, writer):
        each.close()
    await world.session.close()
    await world.server.stop()


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "public_url", "field"),
    [
        ("127.0.0.1:0", "https://x.example", ""),
        ("127.0.0.1:0", "https://x.example/gw", ""),
        ("127.0.0.1:0", "http://127.0.0.1:8082", ""),
        ("", "", ""),
        ("127.0.0.1:0", "", "callbacks.public_url"),
        ("", "https://x.example", "callbacks.listen"),
        ("nowhere", "https://x.example", "callbacks.listen"),
        ("127.0.0.1:0", "http://x.example", "callbacks.public_url"),
        ("127.0.0.1:0", "https://x.example/", "callbacks.public_url"),
        ("127.0.0.1:0", "https://x.example?a", "callbacks.public_url"),
        ("127.0.0.1:0", "https://user@x.example", "callbacks.public_url"),
    ],
)
def test_both_or_none(listen: str, public_url: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'[callbacks]\nlisten = "{listen}"\npublic_url = "{public_url}"\n')
    if not field:
        assert load(file, {}).callbacks.public_url == public_url
        return
    with pytest.raises(ConfigError) as error:
        load(file, {})
    assert error.value.field == field


@pytest.mark.parametrize(
    ("satisfied_by", "reports", "public_url", "ok"),
    [
        ("accepted", False, "", True),
        ("delivered", False, "", True),  # the answer of a webhook proves it
        ("read", False, "", False),
        ("read", False, PUBLIC, False),
        ("read", True, "", False),
        ("read", True, PUBLIC, True),
    ],
)
def test_a_step_that_nothing_could_satisfy_is_refused(
    satisfied_by: Any, reports: bool, public_url: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reports:
        made = SimpleNamespace(PROVIDER=Reporter)
        monkeypatch.setattr("gateway.providers.registry.import_module", lambda _: made)
    settings = {"sms": Webhook(url="https://x.example/", secret=SECRET, satisfied_by=satisfied_by)}
    if ok:
        made_provider = Dispatcher(settings, public_url).provider("sms")
        if reports:
            assert isinstance(made_provider, Reporter)
            assert made_provider.callback_url == f"{PUBLIC}/v1/callbacks/sms"
        return
    with pytest.raises(ConfigError) as error:
        Dispatcher(settings, public_url)
    assert error.value.field == "channels.sms.satisfied_by"


# -- what a provider needs to check a signature ------------------------------------------------------------------------


async def test_what_proves_a_signature_is_fetched_once_and_kept_for_a_while(outside: Outside) -> None:
    outside.there[CERTIFICATE] = Answer(200, {}, b"good")
    for _ in range(2):
        reply = await outside.call(path="/v1/callbacks/mail", headers={})
        assert (reply.status, reply.raw) == (200, b"thanks")
    assert outside.asked == [f"mail {CERTIFICATE}"]
    outside.clock += 60.0
    assert (await outside.call(path="/v1/callbacks/mail", headers={})).status == 200
    assert len(outside.asked) == 2


async def test_what_cannot_be_fetched_is_asked_for_again_by_the_next_call(outside: Outside) -> None:
    reply = await outside.call(path="/v1/callbacks/mail", headers={})
    assert reply.problem == (503, "callback_unverified", None)
    outside.there[CERTIFICATE] = Answer(404, {}, b"")
    assert (await outside.call(path="/v1/callbacks/mail", headers={})).problem[:2] == (403, "callback_forged")
    # what was no certificate is not kept
    outside.there[CERTIFICATE] = Answer(200, {}, b"good")
    assert (await outside.call(path="/v1/callbacks/mail", headers={})).status == 200


async def test_a_flood_of_strangers_fetches_a_few_at_once(outside: Outside) -> None:
    going, started = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(channel: str, url: str) -> Answer:
        started.release()
        await going.wait()
        return Answer(200, {}, b"good")

    outside.server._reader._fetched._fetch = slow  # type: ignore[attr-defined]
    calls = [asyncio.create_task(outside.call(path="/v1/callbacks/mail", headers={})) for _ in range(AT_ONCE)]
    for _ in calls:
        await started.acquire()
    assert (await outside.call(path="/v1/callbacks/mail", headers={})).problem[:2] == (
        503,
        "callback_unverified",
    )
    going.set()
    assert [(await call).status for call in calls] == [200] * AT_ONCE


async def test_the_dispatcher_fetches_https_only_and_no_private_address() -> None:
    hook = Webhook(url="https://hook.example/x", secret=SECRET)
    dispatcher = Dispatcher({"hook": hook})
    await dispatcher.start("0" * 16)
    try:
        for url in ("http://sns.example/cert.pem", "https://127.0.0.1/cert.pem", "https://[::1]/cert.pem"):
            with pytest.raises(NoAnswer) as none:
                await dispatcher.fetch("hook", url)
            assert not none.value.sent
        with pytest.raises(NoAnswer):
            await dispatcher.fetch("nobody", "https://sns.example/cert.pem")
    finally:
        await dispatcher.close()
