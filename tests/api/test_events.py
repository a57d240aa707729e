"""GET /v1/events: server-sent events over raw connections."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw as RawJson

from gateway.api import events
from gateway.auth import Authenticator
from gateway.config import Config
from gateway.ids import encode_id
from gateway.model import Publish
from tests.api.double import HubDouble
from tests.api.support import ADMIN, SENDER, Caller, Raw, request, serving

Connect = Callable[[], Any]


def say(hub: HubDouble, to: str = "alice", sender: str = "api:backend") -> str:
    return encode_id(hub.keep(Publish(to=to, body=RawJson(b"1")), sender).item.id)


async def opened(raw: Connect, path: str = "/v1/events", headers: str = "", credential: str = ADMIN) -> Raw:
    connection: Raw = await raw()
    await connection.send(request("GET", path, headers, credential=credential))
    status, answer = await connection.head()
    assert status == 200
    assert answer["content-type"] == "text/event-stream"
    assert answer["cache-control"] == "no-store"
    assert await connection.chunk() == b":\n\n"
    return connection


def parse(block: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in block.decode().strip().split("\n"))


async def test_events_come_as_they_happen(raw: Connect, hub: HubDouble) -> None:
    reader = await opened(raw)
    id = say(hub)
    event = parse(await reader.chunk())
    assert event["event"] == "status"
    data = json.loads(event["data"])
    assert (data["id"], data["to"], data["from"], data["status"]) == (id, "alice", "api:backend", "queued")


async def test_reading_on_after_the_last_event(raw: Connect, hub: HubDouble) -> None:
    first = await opened(raw)
    ids = [say(hub) for _ in range(3)]
    seen = [parse(await first.chunk()) for _ in range(3)]
    second = await opened(raw, headers=f"Last-Event-ID: {seen[0]['id']}\r\n")
    again = [parse(await second.chunk()) for _ in range(2)]
    assert again == seen[1:]
    assert [json.loads(e["data"])["id"] for e in again] == ids[1:]


async def test_what_cannot_be_read_on_begins_with_reset(raw: Connect, hub: HubDouble) -> None:
    for _ in range(10):
        say(hub)
    reader = await opened(raw, headers="Last-Event-ID: 17\r\n")
    assert parse(await reader.chunk())["event"] == "reset"
    id = say(hub)
    assert json.loads(parse(await reader.chunk())["data"])["id"] == id


async def test_a_reader_that_falls_behind_is_ended_with_reset(raw: Connect, hub: HubDouble) -> None:
    reader = await opened(raw)
    say(hub)
    await reader.chunk()
    # more than the ring holds, before the reader's turn comes
    for _ in range(20):
        say(hub)
    assert parse(await reader.chunk())["event"] == "reset"
    assert await reader.chunk() == b""


async def test_filter_by_client(raw: Connect, hub: HubDouble) -> None:
    reader = await opened(raw, "/v1/events?to=bob")
    say(hub, "alice")
    id = say(hub, "bob")
    assert json.loads(parse(await reader.chunk())["data"])["id"] == id


async def test_a_client_reads_of_its_own_messages(
    raw: Connect, hub: HubDouble, token: Callable[..., str]
) -> None:
    reader = await opened(raw, credential=token("bob"))
    say(hub, "alice")
    say(hub, "alice", "api:bob")
    ids = [say(hub, "bob"), say(hub, "alice", "bob")]
    assert [json.loads(parse(await reader.chunk())["data"])["id"] for _ in ids] == ids


async def test_a_stream_ends_with_its_token(
    raw: Connect, hub: HubDouble, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)
    reader = await opened(raw, credential=token("bob", ttl=3600))
    assert await reader.chunk() == b":\n\n"
    hub.scheduler.ahead = 4000
    assert set((await reader.rest()).split(b"\n\n")) <= {b":", b""}
    banned = await opened(raw, credential=token("carol", ttl=9000))
    hub.bans["carol"] = 1
    assert set((await banned.rest()).split(b"\n\n")) <= {b":", b""}


async def test_readers_are_bounded(raw: Connect, api: Caller, hub: HubDouble) -> None:
    first = await opened(raw)
    await opened(raw)
    reply = await api("GET", "/v1/events")
    assert reply.problem == (503, "too_many_readers", None)
    assert reply.headers["Retry-After"] == "5"
    first.writer.transport.abort()
    # who has left is noticed at the next event
    while len(hub.events) == 2:
        say(hub)
        await asyncio.sleep(0.001)  # the leaving reader tells nobody
    await opened(raw)


async def test_a_silent_stream_shows_that_it_lives(raw: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)
    reader = await opened(raw)
    assert [await reader.chunk() for _ in range(2)] == [b":\n\n"] * 2


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19, "²"])
async def test_last_event_ids_that_cannot_be(api: Caller, last: str) -> None:
    reply = await api("GET", "/v1/events", headers={"Last-Event-ID": last})
    assert reply.problem == (422, "invalid", "Last-Event-ID")


async def test_an_empty_last_event_id_is_none(raw: Connect, hub: HubDouble) -> None:
    reader = await opened(raw, headers="Last-Event-ID: \r\n")
    say(hub)
    assert parse(await reader.chunk())["event"] == "status"


async def test_who_may_read(as_key: Callable[[str | None], Caller]) -> None:
    assert (await as_key(SENDER)("GET", "/v1/events")).problem == (403, "scope_missing", None)
    assert (await as_key(None)("GET", "/v1/events")).problem == (401, "unauthorized", None)


async def test_stop_ends_the_stream(hub: HubDouble, authenticator: Authenticator, config: Config) -> None:
    async with serving(hub, authenticator, config) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        connection = Raw(reader, writer)
        await connection.send(request("GET", "/v1/events"))
        await connection.head()
        assert await connection.chunk() == b":\n\n"
    assert await connection.chunk() == b""
    assert not len(hub.events)
    writer.close()
