"""`send`: what leaves, what is printed, what is waited for."""

import asyncio
from typing import Any

import pytest

from gateway.cli.exits import Exit
from gateway.cli.send import outcome
from gateway.cli.shapes import Message, Step
from tests.cli.support import ID, KEY, ApiDouble, Runner, message

PUBLISH = "POST /v1/messages"
LOOK = f"GET /v1/messages/{ID}"
ACCEPTED = (202, {"id": ID, "status": "queued", "dup": False})


async def test_the_id_alone_is_on_stdout(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    result = await cli("send", "alice", '{"text": "hello"}')
    assert (result.code, result.out) == (0, f"{ID}\n")
    assert result.err == f"queued; what becomes of it: .venv/bin/bot-gateway status {ID}\n"
    (asked,) = api.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == {"to": "alice", "body": {"text": "hello"}}


async def test_the_next_command_finds_the_same_gateway(
    cli: Runner, api: ApiDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers[PUBLISH] = (202, {"id": ID, "status": "delivered", "dup": True})
    monkeypatch.delenv("BOT_GATEWAY_API")
    result = await cli("send", "alice", "hi", "--api", api.url, "--api-key", KEY)
    assert result.err.endswith(f"status {ID} --api {api.url}\n")
    assert result.err.startswith("known already, delivered; ")
    assert KEY not in result.err


async def test_json(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    result = await cli("send", "alice", "hi", "--json")
    assert (result.json, result.err) == ([{"id": ID, "status": "queued", "dup": False}], "")


@pytest.mark.parametrize(
    ("argv", "stdin", "body"),
    [
        (["hello"], b"", "hello"),
        (["42"], b"", 42),
        (["null"], b"", None),
        (["42", "--text"], b"", "42"),
        (['{"a": 1', "--text"], b"", '{"a": 1'),
        (["-"], b'[1, "\xc3\xa4"]\n', [1, "ä"]),
        (["-"], b"two\nlines\n", "two\nlines"),
        (["-"], b"", ""),
        (["ü ☃"], b"", "ü ☃"),
        (["-5"], b"", -5),
    ],
)
async def test_bodies(cli: Runner, api: ApiDouble, argv: list[str], stdin: bytes, body: Any) -> None:
    api.answers[PUBLISH] = ACCEPTED
    assert (await cli("send", "alice", *argv, stdin=stdin)).code == 0
    assert api.asked[0].body["body"] == body


async def test_numbers_travel_as_they_are_written(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    await cli("send", "alice", "123456789012345678901234567890")
    assert api.asked[0].body["body"] == 123456789012345678901234567890


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [(['{"a": 1'], b""), (["[1,]"], b""), (['"open'], b""), (["-"], b"\xff\xfe"), (["-"], b'{"a"')],
)
async def test_what_is_no_body_is_not_sent(
    cli: Runner, api: ApiDouble, argv: list[str], stdin: bytes
) -> None:
    result = await cli("send", "alice", *argv, stdin=stdin)
    assert result.code == 2
    assert result.error.startswith("bot-gateway: BODY: ")
    assert not api.asked


async def test_standard_input_is_bounded(
    cli: Runner, api: ApiDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.send.MAX_BODY", 10)
    assert (await cli("send", "alice", "-", stdin=b"x" * 11)).code == 2


async def test_every_option_becomes_a_field(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    argv = ["--priority", "high", "--ttl", "10m", "--deadline", "5", "--deliver-at", "1700000000000"]
    argv += ["--type", "greeting", "--key", "k1", "--collapse", "c1", "--fallback", "hook, sms"]
    argv += ["--meta", "a=1", "--meta", "b=x=y"]
    await cli("send", "alice", "hi", *argv)
    assert api.asked[0].body == {
        "to": "alice",
        "body": "hi",
        "priority": "high",
        "ttl": 600.0,
        "deadline": 5.0,
        "deliver_at": 1700000000000,
        "type": "greeting",
        "key": "k1",
        "collapse": "c1",
        "fallback": ["hook", "sms"],
        "meta": {"a": "1", "b": "x=y"},
    }


async def test_no_fallback(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    await cli("send", "alice", "hi", "--fallback", "")
    assert api.asked[0].body["fallback"] == []


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "malformed", 1),
        (401, "unauthorized", 1),
        (403, "address_forbidden", 1),
        (404, "not_found", 3),
        (409, "key_conflict", 1),
        (413, "too_large", 1),
        (422, "address_invalid", 1),
        (429, "queue_full", 6),
        (500, "internal", 1),
        (503, "draining", 6),
        (507, "disk_full", 6),
    ],
)
async def test_refusals(cli: Runner, api: ApiDouble, status: int, code: str, exit_code: int) -> None:
    api.problem(PUBLISH, status, code, "why it is so", field="$.to", retry_after=1.5)
    result = await cli("send", "alice", "hi")
    assert result.code == exit_code
    assert result.error == f"bot-gateway: to: why it is so; come back in 1.5 s ({code})"


async def test_an_unknown_commit_says_how_to_repeat(cli: Runner, api: ApiDouble) -> None:
    api.problem(PUBLISH, 503, "commit_unknown")
    assert "--key" in (await cli("send", "alice", "hi")).error


async def test_nobody_there(cli: Runner, api: ApiDouble, unused_tcp_port: int) -> None:
    result = await cli("send", "alice", "hi", "--api", f"http://127.0.0.1:{unused_tcp_port}")
    assert result.code == 4
    assert f"http://127.0.0.1:{unused_tcp_port}" in result.error


@pytest.mark.parametrize("answer", [(404, b"Not Found"), (200, b"<html>"), (202, {"other": 1}), (502, b"")])
async def test_somebody_else_there(cli: Runner, api: ApiDouble, answer: tuple[int, Any]) -> None:
    api.answers[PUBLISH] = answer
    result = await cli("send", "alice", "hi")
    assert result.code == 4
    assert "is not this gateway's API" in result.error


async def test_a_connection_that_breaks_off_leaves_it_open(cli: Runner) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await cli("send", "alice", "hi", "--api", f"http://127.0.0.1:{port}", "--api-key", KEY)
    assert result.code == 4
    assert "may have been accepted" in result.error


async def test_no_answer_in_time(cli: Runner, api: ApiDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr("gateway.cli.api.TIMEOUT", 0.05)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await cli("send", "alice", "hi", "--api", f"http://127.0.0.1:{port}")
    assert result.code == 5
    assert "may have been accepted" in result.error


async def test_an_answer_is_bounded(cli: Runner, api: ApiDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.api.MAX_ANSWER", 100)
    api.answers[PUBLISH] = (202, {"id": ID, "status": "queued", "dup": False, "more": "x" * 200})
    assert "over 100 bytes" in (await cli("send", "alice", "hi")).error


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_wait_for_delivered(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    queued = message(status="queued", via="", timeline=[])
    away = (503, {"code": "not_ready", "status": 503, "detail": "starting"})
    api.answers[LOOK] = [(200, queued), away, (200, message())]
    result = await cli("send", "alice", "hi", "--wait-for", "delivered")
    assert (result.code, result.out) == (0, f"{ID}\n")
    assert result.err.splitlines()[1] == "delivered via ws after 0.250 s"
    assert api.calls == [PUBLISH, LOOK, LOOK, LOOK]


async def test_wait_as_json(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    api.answers[LOOK] = (200, message())
    result = await cli("send", "alice", "hi", "--wait-for", "delivered", "--json")
    assert [line["status"] for line in result.json] == ["queued", "delivered"]


async def test_wait_for_what_cannot_come(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    api.answers[LOOK] = (200, message(status="dead", via="", why="unacked"))
    result = await cli("send", "alice", "hi", "--wait-for", "read")
    assert result.code == 1
    assert result.err.splitlines()[1] == f"bot-gateway: {ID}: not read: dead, unacked"


async def test_wait_too_long(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    api.answers[LOOK] = (200, message(status="sent", via="", timeline=[]))
    result = await cli("send", "alice", "hi", "--wait-for", "delivered", "--timeout", "0.05")
    assert result.code == 5
    assert "not delivered within 0.05 s: sent" in result.err


async def test_wait_ends_where_the_message_is_gone(cli: Runner, api: ApiDouble) -> None:
    api.answers[PUBLISH] = ACCEPTED
    api.problem(LOOK, 404, "not_found")
    assert (await cli("send", "alice", "hi", "--wait-for", "end")).code == 3


@pytest.mark.parametrize(
    ("wanted", "status", "steps", "expected"),
    [
        ("sent", "queued", [], None),
        ("sent", "sent", [], Exit.OK),
        ("sent", "queued", ["sent"], Exit.OK),
        ("sent", "delivered", [], Exit.OK),
        ("sent", "expired", [], Exit.FAILED),
        ("delivered", "handed_over", [], None),
        ("delivered", "read", [], Exit.OK),
        ("delivered", "provider_delivered", [], Exit.FAILED),
        ("read", "delivered", [], None),
        ("read", "read", [], Exit.OK),
        ("handed_over", "provider_delivered", ["handed_over"], Exit.OK),
        ("handed_over", "delivered", [], Exit.FAILED),
        ("provider_delivered", "handed_over", [], None),
        ("provider_delivered", "provider_read", [], Exit.OK),
        ("provider_delivered", "dead", [], Exit.FAILED),
        ("provider_accepted", "provider_accepted", [], Exit.OK),
        ("provider_accepted", "provider_read", [], Exit.OK),
        ("provider_accepted", "dead", [], Exit.FAILED),
        ("provider_delivered", "provider_accepted", [], None),
        ("end", "provider_accepted", [], Exit.FAILED),
        ("end", "sent", [], None),
        ("end", "provider_delivered", [], Exit.OK),
        ("end", "cancelled", [], Exit.FAILED),
        ("end", "dead", [], Exit.FAILED),
    ],
)
def test_outcomes(wanted: str, status: str, steps: list[str], expected: Exit | None) -> None:
    timeline = [Step(at=0, event=event) for event in steps]
    seen = Message(id=ID, to="alice", at=0, status=status, status_at=0, timeline=timeline)
    assert outcome(seen, wanted) == expected
