"""POST /v1/messages with one message or an array, and POST /v1/explain."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.api import base
from gateway.errors import CommitUnknown, DiskFull, GatewayError, Limited
from gateway.ids import decode_id
from tests.api.double import HubDouble
from tests.api.support import READER, SENDER, Caller, Raw, chunked, request

HELLO = {"to": "alice", "body": {"n": 1}}
KEY = "Idempotency-Key"
AsKey = Callable[[str | None], Caller]
AsClient = Callable[..., Caller]


async def test_a_message_is_answered_once_it_is_durable(api: Caller, hub: HubDouble) -> None:
    hub.held = True
    answer = asyncio.ensure_future(api("POST", "/v1/messages", HELLO))
    await hub.until(1)
    assert not answer.done()
    hub.release()
    reply = await answer
    assert reply.status == 202
    (id,) = hub.store.views
    assert reply.headers["Content-Type"] == "application/json"
    assert decode_id(reply.json.pop("id")) == id
    assert reply.json == {"id": reply.json["id"], "status": "queued", "dup": False}
    principal, pub = hub.published[0]
    assert (principal.publisher, pub.to, bytes(pub.body or b"")) == ("api:backend", "alice", b'{"n": 1}')


async def test_idempotency_key_is_the_key_of_a_single_message(api: Caller, hub: HubDouble) -> None:
    first = await api("POST", "/v1/messages", HELLO, headers={KEY: "k 1"})
    again = await api("POST", "/v1/messages", {**HELLO, "key": "k 1"}, headers={KEY: "k 1"})
    other = await api("POST", "/v1/messages", {**HELLO, "body": 2}, headers={KEY: "k 1"})
    assert again.status == 202
    assert again.json == {**first.json, "dup": True}
    assert other.problem == (409, "key_conflict", "$.key")
    assert [pub.key for _, pub in hub.published] == ["k 1", "k 1", "k 1"]


@pytest.mark.parametrize(
    ("body", "key", "problem"),
    [
        ({**HELLO, "key": "a"}, "b", (400, "key_mismatch", KEY)),
        ([HELLO], "b", (400, "key_on_batch", KEY)),
        (HELLO, "", (422, "invalid", KEY)),
        (HELLO, "x" * 129, (422, "invalid", KEY)),
        (HELLO, "schlüssel", (422, "invalid", KEY)),
        (HELLO, "a\tb", (422, "invalid", KEY)),
    ],
)
async def test_keys_that_cannot_be(
    api: Caller, hub: HubDouble, body: Any, key: str, problem: tuple[int, str, str]
) -> None:
    reply = await api("POST", "/v1/messages", body, headers={KEY: key})
    assert reply.problem == problem
    assert not hub.published


async def test_two_keys_are_none(raw: Callable[[], Any]) -> None:
    connection: Raw = await raw()
    headers = (
        "Content-Type: application/json\r\nContent-Length: 21\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n"
    )
    await connection.send(request("POST", "/v1/messages", headers, b'{"to":"al","body":12}'))
    status, _, answer = await connection.response()
    assert status == 400
    assert b'"Idempotency-Key"' in answer


async def test_a_key_on_a_stream_of_lines_is_refused(api: Caller) -> None:
    headers = {KEY: "k", "Content-Type": "application/x-ndjson"}
    reply = await api("POST", "/v1/messages", b'{"to":"a","body":1}\n', headers=headers)
    assert reply.problem == (400, "key_on_batch", KEY)


async def test_a_key_of_bytes_that_are_no_text_is_refused(raw: Callable[[], Any]) -> None:
    connection: Raw = await raw()
    body = b'{"to":"alice","body":1}'
    head = request(
        "POST", "/v1/messages", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX: y\r\n"
    )
    await connection.send(head.replace(b"X: y", b"Idempotency-Key: \xff\xfe") + body)
    status, _, answer = await connection.response()
    assert status == 422
    assert b'"Idempotency-Key"' in answer


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (CommitUnknown("unknown", retry_after=1.0), 503, "1"),
        (DiskFull("full", retry_after=5.0), 507, "5"),
        (Limited("full", code="queue_full", retry_after=0.2), 429, "1"),
        (Limited("much"), 429, "1"),
        (DiskFull("full"), 507, None),
    ],
)
async def test_a_commit_that_fails_is_told(
    api: Caller, hub: HubDouble, error: GatewayError, status: int, wait: str | None
) -> None:
    hub.script = [error]
    reply = await api("POST", "/v1/messages", HELLO)
    assert reply.problem == (status, error.code, None)
    assert reply.headers.get("Retry-After") == wait
    assert reply.json.get("retry_after") == error.retry_after


async def test_an_array_has_a_result_each_in_its_order(api: Caller, hub: HubDouble) -> None:
    hub.held = True
    answer = asyncio.ensure_future(api("POST", "/v1/messages", [{**HELLO, "key": str(i)} for i in range(3)]))
    await hub.until(3)
    hub.release(2, 0)
    reply = await answer
    assert reply.status == 202
    keys = {id: pub.key for id, (_, pub) in zip(hub.store.views, hub.published, strict=True)}
    assert [keys[decode_id(result["id"])] for result in reply.json] == ["0", "1", "2"]
    assert {result["status"] for result in reply.json} == {"queued"}


async def test_a_bad_element_stops_no_other(api: Caller, hub: HubDouble) -> None:
    hub.script = [None, Limited("full", code="queue_full", retry_after=1.5)]
    body = [
        HELLO,
        {"to": "alice", "body": 1, "ttl": "x"},
        {"to": "a b", "body": 1},
        7,
        HELLO,
        {**HELLO, "fallback": ["sms"]},
    ]
    reply = await api("POST", "/v1/messages", body)
    assert reply.status == 202
    first, *bad = reply.json
    assert set(first) == {"id", "status", "dup"}
    assert [(r["code"], r["status"], r.get("field")) for r in bad] == [
        ("invalid", 422, "$[1].ttl"),
        ("address_invalid", 422, "$[2].to"),
        ("invalid", 422, "$[3]"),
        ("queue_full", 429, None),
        ("channel_unknown", 422, "$[5].fallback[0]"),
    ]
    assert bad[3]["retry_after"] == 1.5
    assert len(hub.published) == 2


async def test_a_long_array_is_published_whole(api: Caller, hub: HubDouble) -> None:
    reply = await api("POST", "/v1/messages", [{"to": "alice", "body": i} for i in range(600)])
    assert reply.status == 202
    assert [decode_id(r["id"]) for r in reply.json] == sorted(hub.store.views)
    assert [bytes(pub.body or b"") for _, pub in hub.published] == [b"%d" % i for i in range(600)]


async def test_an_array_over_the_limit_is_refused_whole(api: Caller, hub: HubDouble) -> None:
    reply = await api("POST", "/v1/messages", [{"to": "a", "body": 1}] * 601)
    assert reply.problem == (413, "batch_too_large", None)
    assert not hub.published


async def test_an_empty_array_has_no_results(api: Caller) -> None:
    reply = await api("POST", "/v1/messages", b" \n[ ]")
    assert (reply.status, reply.json) == (202, [])


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/json", 202),
        ("application/json; charset=utf-8", 202),
        ("APPLICATION/JSON;charset=UTF-8", 202),
        ('application/json; charset="utf-8"', 202),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/merge-patch+json", 415),
        ("nonsense", 415),
    ],
)
async def test_media_types(api: Caller, media: str, status: int) -> None:
    reply = await api("POST", "/v1/messages", b'{"to":"alice","body":1}', headers={"Content-Type": media})
    assert reply.status == status
    if status == 415:
        assert reply.problem == (415, "unsupported_media_type", "Content-Type")


async def test_a_body_without_a_media_type_is_refused(raw: Callable[[], Any]) -> None:
    connection: Raw = await raw()
    await connection.send(request("POST", "/v1/messages", "Content-Length: 2\r\n", b"{}"))
    status, _, answer = await connection.response()
    assert status == 415
    assert b"application/x-ndjson" in answer


async def test_a_coded_body_is_refused(api: Caller) -> None:
    reply = await api("POST", "/v1/messages", b"x", headers={"Content-Encoding": "gzip"})
    assert reply.problem == (415, "unsupported_encoding", "Content-Encoding")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused(
    raw: Callable[[], Any], hub: HubDouble, declared: bool
) -> None:
    connection: Raw = await raw()
    big = b'{"to":"alice","body":"' + b"x" * 65536 + b'"}'
    if declared:
        # not a byte of it is waited for
        head = request(
            "POST", "/v1/messages", "Content-Type: application/json\r\nContent-Length: 9999999\r\n"
        )
        await connection.send(head)
    else:
        head = request(
            "POST", "/v1/messages", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        )
        await connection.send(head + chunked(big) + chunked(big))
    status, _, answer = await connection.response()
    assert status == 413
    assert b"body_too_large" in answer
    assert not hub.published


async def test_a_body_that_does_not_come_is_not_waited_for(
    raw: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "BODY_TIMEOUT", 0.01)
    connection: Raw = await raw()
    await connection.send(
        request("POST", "/v1/messages", "Content-Type: application/json\r\nContent-Length: 9\r\n", b"{")
    )
    status, _, answer = await connection.response()
    assert status == 408
    assert b"body_timeout" in answer


async def test_a_broken_transfer_coding_is_malformed(raw: Callable[[], Any]) -> None:
    connection: Raw = await raw()
    head = request("POST", "/v1/messages", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n")
    await connection.send(head + b"2\r\n{}\r\n")
    await connection.send(b"zz\r\n")
    status, _, answer = await connection.response()
    assert status == 400
    assert b'"malformed"' in answer


async def test_continue_is_said_only_to_who_is_admitted(raw: Callable[[], Any]) -> None:
    headers = "Content-Type: application/json\r\nContent-Length: 23\r\nExpect: 100-continue\r\n"
    connection: Raw = await raw()
    await connection.send(request("POST", "/v1/messages", headers))
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(b'{"to":"alice","body":1}')
    assert (await connection.response())[0] == 202
    stranger: Raw = await raw()
    await stranger.send(request("POST", "/v1/messages", headers, credential=None))
    assert (await stranger.response())[0] == 401
    odd: Raw = await raw()
    await odd.send(request("POST", "/v1/messages", headers.replace("100-continue", "200-ok")))
    status, _, answer = await odd.response()
    assert status == 417
    assert b"expectation_failed" in answer


async def test_a_publisher_that_leaves_disturbs_nobody(
    raw: Callable[[], Any], hub: HubDouble, api: Caller
) -> None:
    hub.held = True
    connection: Raw = await raw()
    body = b'{"to":"alice","body":1}'
    head = request(
        "POST", "/v1/messages", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    await connection.send(head + body)
    await hub.until(1)
    connection.writer.transport.abort()
    hub.release()
    assert (await api("POST", "/v1/messages", HELLO)).status == 202
    assert len(hub.store.views) == 2


async def test_who_may_publish(as_key: AsKey, as_client: AsClient, hub: HubDouble) -> None:
    assert (await as_key(SENDER)("POST", "/v1/messages", HELLO)).status == 202
    assert (await as_key(READER)("POST", "/v1/messages", HELLO)).problem == (403, "scope_missing", None)
    assert (await as_client("bob")("POST", "/v1/messages", HELLO)).status == 202
    bob = as_client("bob", pub=["team-*"])
    assert (await bob("POST", "/v1/messages", HELLO)).problem == (403, "address_forbidden", "$.to")
    assert [principal.publisher for principal, _ in hub.published] == ["api:sender", "bob"]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "unauthorized"),
        ("Basic YTpi", "unauthorized"),
        ("Bearer", "unauthorized"),
        ("Bearer backend.wrong", "key_invalid"),
        ("Bearer nobody.a-secret-of-the-backend", "key_invalid"),
        ("Bearer a.b.c", "token_invalid"),
        ("Bearer " + "x." * 9000, "unauthorized"),
    ],
)
async def test_credentials_that_prove_nothing(as_key: AsKey, header: str | None, code: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    if header is not None and len(header) > 4096:
        headers = {"Authorization": header[:4000]}
    reply = await as_key(None)("POST", "/v1/messages", HELLO, headers=headers)
    assert reply.problem == (401, code, None)
    assert reply.headers["WWW-Authenticate"] == (
        "Bearer" if code == "unauthorized" else 'Bearer error="invalid_token"'
    )


async def test_two_credentials_are_none(raw: Callable[[], Any]) -> None:
    connection: Raw = await raw()
    await connection.send(request("GET", "/v1/messages", "Authorization: Bearer reader.x\r\n"))
    status, _, answer = await connection.response()
    assert status == 400
    assert b'"Authorization"' in answer


async def test_a_banned_client_is_refused(as_client: AsClient, hub: HubDouble) -> None:
    hub.bans["bob"] = 60
    assert (await as_client("bob")("POST", "/v1/messages", HELLO)).problem == (403, "banned", None)


async def test_nothing_is_taken_while_draining(api: Caller, hub: HubDouble) -> None:
    hub.ready = "draining"
    reply = await api("POST", "/v1/messages", HELLO)
    assert reply.problem == (503, "draining", None)
    assert reply.headers["Retry-After"] == "1"


async def test_explain_stores_nothing(api: Caller, as_client: AsClient, hub: HubDouble) -> None:
    reply = await api("POST", "/v1/explain", HELLO)
    assert reply.status == 200
    assert reply.json["path"] == "queue"
    assert not hub.store.views
    bob = as_client("bob", pub=["carol"])
    assert (await bob("POST", "/v1/explain", HELLO)).problem == (403, "address_forbidden", "$.to")
    assert (await api("POST", "/v1/explain", [HELLO])).problem == (422, "invalid", "$")
    empty = await api("POST", "/v1/explain", b"")
    assert empty.problem == (400, "malformed", "$")
