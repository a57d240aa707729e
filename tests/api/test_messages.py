"""Reading about messages, and cancelling them."""

from collections.abc import Callable

import pytest
from msgspec import Raw

from gateway.commit import Event, MessageView
from gateway.errors import StoreFailed
from gateway.ids import encode_id
from gateway.model import ChainRow, Hold, Publish, Status
from tests.api.double import HubDouble
from tests.api.support import READER, SENDER, Caller

AsKey = Callable[[str | None], Caller]
AsClient = Callable[..., Caller]
UNKNOWN = "0000000000001"


def keep(hub: HubDouble, to: str = "alice", sender: str = "api:backend", **row: object) -> MessageView:
    return hub.keep(Publish(to=to, body=Raw(b'{"n":1}')), sender, **row)


def id_of(view: MessageView) -> str:
    return encode_id(view.item.id)


async def test_a_message_with_its_timeline(api: Caller, hub: HubDouble) -> None:
    view = hub.keep(
        Publish(
            to="alice", body=Raw(b'{"n":1.0}'), type="greeting", priority="high", ttl=60,
            fallback=["hook"], meta={"a": "b"}, reply_to="bob", correlation="AQI=",
        ),
        "bob",
        status=Status.PROVIDER_DELIVERED, hold=Hold.NONE, via="hook", marks=2, tries=1,
    )  # fmt: skip
    assert view.item.x is not None
    view.item.x.possible_dup = "38G3ZQ9CR0000"
    at = view.item.at
    view.sent_at, view.ended_at = at + 5, at + 30
    view.events = [
        Event(view.item.id, at + 20, "attempt", {"channel": "hook", "n": 1}),
        Event(view.item.id, at + 10, "handed_over", {"why": "offline", "channels": ["hook"]}),
        Event(view.item.id, at + 40, "acked", {"via": "ws"}),
    ]
    reply = await api("GET", f"/v1/messages/{id_of(view)}")
    assert reply.status == 200
    assert reply.json == {
        "id": id_of(view),
        "to": "alice",
        "from": "bob",
        "at": at,
        "status": "provider_delivered",
        "status_at": at + 30,
        "priority": "high",
        "expires_at": at + 60_000,
        "trace": f"00-{hub.trace_root}{view.item.id:016x}-{view.item.id:016x}-01",
        "body": {"n": 1.0},
        "type": "greeting",
        "meta": {"a": "b"},
        "fallback": ["hook"],
        "reply_to": "bob",
        "correlation": "AQI=",
        "possible_dup": "38G3ZQ9CR0000",
        "via": "hook",
        "redelivered": 2,
        "unacked": 1,
        "timeline": [
            {"at": at, "event": "queued"},
            {"at": at + 5, "event": "sent"},
            {"at": at + 10, "event": "handed_over", "why": "offline", "data": {"channels": ["hook"]}},
            {"at": at + 20, "event": "attempt", "data": {"channel": "hook", "n": 1}},
            {"at": at + 30, "event": "provider_delivered", "via": "hook"},
            {"at": at + 40, "event": "acked", "via": "ws"},
        ],
    }
    # as it was sent, to the byte
    assert b'"body":{"n":1.0}' in reply.raw


async def test_a_message_in_its_chain(api: Caller, hub: HubDouble) -> None:
    view = keep(hub, status=Status.HANDED_OVER, hold=Hold.CLAIMED)
    view.chain_row = ChainRow(
        id=view.item.id,
        client="alice",
        channels=["hook", "sms"],
        why="offline",
        due=77,
        attempt=1,
        total=3,
        burnt=True,
    )
    reply = await api("GET", f"/v1/messages/{id_of(view)}")
    assert reply.json["chain"] == {
        "channels": ["hook", "sms"],
        "channel": "hook",
        "state": "waiting",
        "why": "offline",
        "attempts": 3,
        "next_attempt_at": 77,
        "ambiguous": True,
    }


async def test_a_message_that_waits_for_its_time(api: Caller, hub: HubDouble) -> None:
    view = keep(hub, hold=Hold.LATER, due=9_000)
    assert (await api("GET", f"/v1/messages/{id_of(view)}")).json["not_before"] == 9_000


async def test_a_forgotten_message_has_no_body(api: Caller, hub: HubDouble) -> None:
    view = keep(hub, sender="", body=None, status=Status.CANCELLED)
    reply = await api("GET", f"/v1/messages/{id_of(view)}")
    assert "body" not in reply.json
    assert "from" not in reply.json


async def test_an_end_is_told_once(api: Caller, hub: HubDouble) -> None:
    view = keep(hub)
    await hub.cancel(view.item.id)
    reply = await api("GET", f"/v1/messages/{id_of(view)}")
    assert [step["event"] for step in reply.json["timeline"]] == ["queued", "cancelled"]


@pytest.mark.parametrize(
    "id", ["short", "00000000000U0", "8000000000000", "%2F%00%ff", "zzzzzzzzzzzzz", "+%23$%00_______"]
)
async def test_what_is_no_id(api: Caller, id: str) -> None:
    status, code, field = (await api("GET", f"/v1/messages/{id}")).problem
    assert (status, field) == (422, "id")
    assert code in {"id_invalid", "invalid"}


async def test_ids_are_read_as_people_write_them(api: Caller, hub: HubDouble) -> None:
    view = keep(hub)
    written = id_of(view).lower().replace("0", "o").replace("1", "l")
    assert (await api("GET", f"/v1/messages/{written}")).json["id"] == id_of(view)


async def test_unknown_messages_and_reports_are_not_found(api: Caller, hub: HubDouble) -> None:
    report = hub.report(Publish(to="bob", body=Raw(b"{}")), "alice")
    for id in (UNKNOWN, id_of(report)):
        assert (await api("GET", f"/v1/messages/{id}")).problem == (404, "not_found", None)
    assert (await api("GET", "/v1/messages")).json == {"messages": []}


async def test_pages_are_newest_first(api: Caller, hub: HubDouble) -> None:
    ids = [id_of(keep(hub)) for _ in range(5)]
    seen: list[str] = []
    path = "/v1/messages?limit=2"
    while True:
        page = (await api("GET", path)).json
        seen += [message["id"] for message in page["messages"]]
        if "cursor" not in page:
            break
        path = f"/v1/messages?limit=2&cursor={page['cursor']}"
    assert seen == ids[::-1]


async def test_filters(api: Caller, hub: HubDouble) -> None:
    for to, status in [
        ("alice", Status.QUEUED),
        ("alice", Status.DEAD),
        ("bob", Status.QUEUED),
        ("null", Status.SENT),
    ]:
        keep(hub, to, status=status)

    async def found(query: str) -> list[tuple[str, str]]:
        page = (await api("GET", f"/v1/messages?{query}")).json
        return [(m["to"], m["status"]) for m in page["messages"]]

    assert await found("to=alice") == [("alice", "dead"), ("alice", "queued")]
    assert await found("to=null") == [("null", "sent")]
    assert await found("status=queued,sent") == [("null", "sent"), ("bob", "queued"), ("alice", "queued")]
    assert await found("to=bob&status=dead") == []
    page = (await api("GET", "/v1/messages?limit=1")).json
    assert "body" not in page["messages"][0]
    assert "timeline" not in page["messages"][0]


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("limit=0", "invalid", "limit"),
        ("limit=501", "invalid", "limit"),
        ("limit=x", "invalid", "limit"),
        ("limit=", "invalid", "limit"),
        ("limit=1&limit=2", "invalid", "limit"),
        ("cursor=x", "invalid", "cursor"),
        ("cursor=zzzzzzzzzzzzz", "invalid", "cursor"),
        ("status=gone", "invalid", "status"),
        ("status=queued,", "invalid", "status"),
        ("to=a%2Fb", "invalid", "to"),
        ("to=%ff", "invalid", "to"),
        ("to=", "invalid", "to"),
        ("form=alice", "unknown_parameter", "form"),
        ("to=alice&x%0ay=1", "unknown_parameter", "x\ny"),
    ],
)
async def test_queries_that_cannot_be(api: Caller, query: str, code: str, field: str) -> None:
    assert (await api("GET", f"/v1/messages?{query}")).problem == (422, code, field)


async def test_calls_without_a_query_refuse_one(api: Caller) -> None:
    assert (await api("GET", f"/v1/messages/{UNKNOWN}?a=1")).problem == (422, "unknown_parameter", "a")
    assert (await api("GET", "/healthz?x")).problem == (422, "unknown_parameter", "x")


async def test_a_client_sees_its_own_messages(as_client: AsClient, as_key: AsKey, hub: HubDouble) -> None:
    sent = keep(hub, "alice", "bob")
    got = keep(hub, "bob", "api:backend")
    itself = keep(hub, "bob", "bob")
    foreign = keep(hub, "alice", "api:backend")
    # a key of the same name is somebody else
    namesake = keep(hub, "alice", "api:bob")
    bob = as_client("bob")

    async def ids(query: str = "") -> list[str]:
        return [m["id"] for m in (await bob("GET", f"/v1/messages{query}")).json["messages"]]

    assert await ids() == [id_of(itself), id_of(got), id_of(sent)]
    assert await ids("?limit=2") == [id_of(itself), id_of(got)]
    assert await ids(f"?cursor={id_of(got)}") == [id_of(sent)]
    assert await ids("?to=bob") == [id_of(itself), id_of(got)]
    assert await ids("?to=alice") == [id_of(sent)]
    for view in (sent, got, itself):
        assert (await bob("GET", f"/v1/messages/{id_of(view)}")).status == 200
    for view in (foreign, namesake):
        assert (await bob("GET", f"/v1/messages/{id_of(view)}")).problem == (404, "not_found", None)
    assert (await as_key(READER)("GET", f"/v1/messages/{id_of(foreign)}")).status == 200
    assert (await as_key(SENDER)("GET", "/v1/messages")).problem == (403, "scope_missing", None)


async def test_cancel(api: Caller, hub: HubDouble) -> None:
    view = keep(hub)
    path = f"/v1/messages/{id_of(view)}/cancel"
    reply = await api("POST", path)
    assert (reply.status, reply.json) == (200, {"id": id_of(view), "status": "cancelled"})
    assert (await api("POST", path)).problem == (409, "too_late", None)
    assert (await api("POST", f"/v1/messages/{UNKNOWN}/cancel")).problem == (404, "not_found", None)


async def test_who_may_cancel(as_client: AsClient, as_key: AsKey, hub: HubDouble) -> None:
    from_bob = keep(hub, "alice", "bob")
    from_sender = keep(hub, "alice", "api:sender")
    alice, bob, carol, sender = as_client("alice"), as_client("bob"), as_client("carol"), as_key(SENDER)

    async def cancel(caller: Caller, view: MessageView) -> tuple[int, str, str | None] | int:
        reply = await caller("POST", f"/v1/messages/{id_of(view)}/cancel")
        return reply.status if reply.status == 200 else reply.problem

    assert await cancel(alice, from_bob) == (403, "forbidden", None)
    assert await cancel(carol, from_bob) == (404, "not_found", None)
    assert await cancel(sender, from_bob) == (403, "forbidden", None)
    assert await cancel(as_key(READER), from_bob) == (403, "scope_missing", None)
    assert await cancel(bob, from_bob) == 200
    assert await cancel(sender, from_sender) == 200
    assert (await sender("POST", f"/v1/messages/{UNKNOWN}/cancel")).problem == (404, "not_found", None)


@pytest.mark.parametrize(
    ("full", "problem"), [(False, (503, "unavailable", None)), (True, (507, "disk_full", None))]
)
async def test_a_store_that_is_away(
    api: Caller, hub: HubDouble, full: bool, problem: tuple[int, str, str | None]
) -> None:
    hub.store.broken = StoreFailed("secret path", definite=True, disk_full=full)
    reply = await api("GET", "/v1/messages")
    assert reply.problem == problem
    assert b"secret" not in reply.raw
