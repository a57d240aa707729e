"""Dead letters: reading, replaying, deleting."""

from collections.abc import Callable

from msgspec import Raw

from gateway.commit import Event, MessageView
from gateway.ids import encode_id
from gateway.model import Hold, Publish, Status
from tests.api.double import HubDouble
from tests.api.support import READER, Caller

AsKey = Callable[[str | None], Caller]
AsClient = Callable[..., Caller]


def dead(hub: HubDouble, to: str = "bob", why: str = "refused") -> MessageView:
    view = hub.keep(
        Publish(to=to, body=Raw(b'"x"')), "api:backend", status=Status.DEAD, hold=Hold.NONE, why=why
    )
    view.events = [
        Event(view.item.id, view.item.at, "attempt", {"channel": "hook", "n": 1}),
        Event(
            view.item.id,
            view.item.at,
            "attempt_ended",
            {"channel": "hook", "outcome": "refused", "reason": "400"},
        ),
    ]
    return view


def id_of(view: MessageView) -> str:
    return encode_id(view.item.id)


async def test_a_dead_letter_tells_all(api: Caller, hub: HubDouble) -> None:
    view = dead(hub)
    hub.keep(Publish(to="bob", body=Raw(b"1")), "api:backend")
    (letter,) = (await api("GET", "/v1/dead-letters")).json["dead_letters"]
    assert (letter["id"], letter["body"], letter["why"]) == (id_of(view), "x", "refused")
    assert [step["event"] for step in letter["timeline"]] == ["queued", "attempt", "attempt_ended", "dead"]
    assert letter["timeline"][2]["data"] == {"channel": "hook", "outcome": "refused", "reason": "400"}


async def test_pages_and_filters(api: Caller, hub: HubDouble) -> None:
    letters = [
        dead(hub, to, why) for to, why in [("bob", "refused"), ("bob", "unacked"), ("carol", "unacked")]
    ]
    letters[0].replayed = 5

    async def ids(query: str) -> list[str]:
        return [m["id"] for m in (await api("GET", f"/v1/dead-letters{query}")).json["dead_letters"]]

    assert await ids("") == [id_of(letters[2]), id_of(letters[1])]
    assert await ids("?replayed=true") == [id_of(v) for v in reversed(letters)]
    assert await ids("?to=bob&replayed=true&why=unacked") == [id_of(letters[1])]
    assert await ids("?why=unacked&limit=1") == [id_of(letters[2])]
    page = (await api("GET", "/v1/dead-letters?limit=1")).json
    assert await ids(f"?cursor={page['cursor']}") == [id_of(letters[1])]
    assert (await api("GET", "/v1/dead-letters?replayed=1")).problem == (422, "invalid", "replayed")


async def test_replay(api: Caller, hub: HubDouble) -> None:
    view = dead(hub)
    path = f"/v1/dead-letters/{id_of(view)}/replay"
    assert (await api("POST", path, {"channel": "sms"})).problem == (422, "channel_unknown", "$.channel")
    reply = await api("POST", path, {"channel": "hook"})
    assert reply.status == 202
    assert reply.json == {"id": encode_id(view.replayed), "replay_of": id_of(view)}
    assert (await api("POST", path)).problem == (409, "already_replayed", None)
    assert (await api("POST", "/v1/dead-letters/0000000000001/replay")).problem == (404, "not_found", None)
    fresh = (await api("GET", f"/v1/messages/{reply.json['id']}")).json
    assert fresh["replay_of"] == id_of(view)
    old = (await api("GET", f"/v1/messages/{id_of(view)}")).json
    assert old["replayed_as"] == reply.json["id"]


async def test_replaying_many_keeps_their_order(api: Caller, hub: HubDouble) -> None:
    letters = [dead(hub) for _ in range(70)]
    dead(hub, "carol")
    reply = await api("POST", "/v1/dead-letters/replay", {"to": "bob", "limit": 69})
    assert reply.status == 202
    assert reply.json["more"] is True
    assert [r["replay_of"] for r in reply.json["results"]] == [id_of(v) for v in letters[1:]]
    fresh = [r["id"] for r in reply.json["results"]]
    assert fresh == sorted(fresh)
    rest = (await api("POST", "/v1/dead-letters/replay", {"to": "bob"})).json
    assert [r["replay_of"] for r in rest["results"]] == [id_of(letters[0])]
    assert rest["more"] is False


async def test_one_that_cannot_be_replayed_stops_no_other(api: Caller, hub: HubDouble) -> None:
    first, second = dead(hub), dead(hub)
    hub.unreplayable = first.item.id
    reply = await api("POST", "/v1/dead-letters/replay")
    assert reply.json["results"] == [
        {
            "replay_of": id_of(first),
            "code": "already_replayed",
            "status": 409,
            "detail": "it was replayed already",
        },
        {"replay_of": id_of(second), "id": encode_id(second.replayed)},
    ]
    named = (await api("POST", "/v1/dead-letters/replay", {"channel": "sms"})).json["results"]
    assert [(r["code"], r["field"]) for r in named] == [("channel_unknown", "$.channel")]


async def test_deleting(api: Caller, hub: HubDouble) -> None:
    first, _ = dead(hub), dead(hub)
    alive = hub.keep(Publish(to="bob", body=Raw(b"1")), "api:backend")
    path = f"/v1/dead-letters/{id_of(first)}"
    assert (await api("DELETE", path)).status == 204
    assert (await api("DELETE", path)).problem == (404, "not_found", None)
    assert (await api("DELETE", f"/v1/dead-letters/{id_of(alive)}")).problem == (404, "not_found", None)
    assert (await api("DELETE", "/v1/dead-letters")).json == {"deleted": 1}
    assert list(hub.store.views.values()) == [alive]


async def test_who_may(as_key: AsKey, as_client: AsClient) -> None:
    calls = [
        ("DELETE", "/v1/dead-letters"),
        ("DELETE", "/v1/dead-letters/0000000000001"),
        ("POST", "/v1/dead-letters/replay"),
        ("POST", "/v1/dead-letters/0000000000001/replay"),
    ]
    for method, path in calls:
        assert (await as_key(READER)(method, path)).problem == (403, "scope_missing", None)
    for method, path in [*calls, ("GET", "/v1/dead-letters")]:
        assert (await as_client("bob")(method, path)).problem == (403, "forbidden", None)
    assert (await as_key(READER)("GET", "/v1/dead-letters")).status == 200
