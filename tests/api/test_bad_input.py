"""A corpus of bad input over every call: the right error each time, and nobody else is touched."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from msgspec import Raw

from gateway.api.base import Route
from gateway.api.routes import ROUTES
from gateway.ids import encode_id
from gateway.model import Publish
from tests.api.double import HubDouble
from tests.api.support import Caller

NAMES = [
    "a+b", "a#b", "a/b", "$share", "a\0b", "pool:a", "group:a", " a", "a ", "", ".", "..", "-a", "x" * 65, "ä",
    "\U0001f600", "a\nb", "a%b", "*", "null ",
]  # fmt: skip

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "space": b" \r\n",
    "a word": b"hello",
    "cut off": b'{"to":"alice"',
    "two values": b"{}{}",
    "null": b"null",
    "a number": b"7",
    "a text": b'"x"',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"to":"a"}'.encode("utf-16"),
    "broken UTF-8 in a name": b'{"\xff\xfe":1}',
    "broken UTF-8 in a value": b'{"to":"\xc3\x28","channel":"\xc3\x28","late":"\xc3\x28"}',
    "lone surrogate": b'{"to":"\\ud800","channel":"\\ud800","late":"\\ud800"}',
    "NUL": b'{"\x00":1}',
    "NaN": b'{"ttl":NaN,"ban":NaN,"offline_deadline":NaN,"limit":NaN,"to":"a","body":1}',
    "deep objects": b'{"body":' * 3000 + b"1" + b"}" * 3000,
    "deep arrays": b'{"to":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "unknown field": b'{"nobody_knows_this":1}',
    "huge number": b'{"ttl":1e400,"ban":1e400,"offline_deadline":1e400,"limit":1e400,"to":"a","body":1}',
    "many digits": b'{"ttl":' + b"9" * 5000 + b',"to":"a","body":1}',
    "single quotes": b"{'to':'a'}",
    "comment": b"{/**/}",
    "trailing comma": b'{"to":"a",}',
    "over the limit": b'{"to":"' + b"x" * 100_000 + b'"}',
}

# (body, field) that a message must not be
MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({}, "to"),
    ({"to": None}, "to"),
    ({"to": 7}, "to"),
    ({"to": ["alice"]}, "to"),
    *[({"to": name}, "to") for name in NAMES],
    ({"body": ...}, "body"),
    ({"body": "x" * 1025}, "body"),
    ({"type": 1}, "type"),
    ({"type": "x" * 65}, "type"),
    ({"priority": "urgent"}, "priority"),
    ({"priority": 1}, "priority"),
    ({"ttl": 0}, "ttl"),
    ({"ttl": -1}, "ttl"),
    ({"ttl": "60"}, "ttl"),
    ({"ttl": 31_536_001}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"ttl": None}, "ttl"),
    ({"deadline": 0}, "deadline"),
    ({"deliver_at": 1.5}, "deliver_at"),
    ({"deliver_at": -1}, "deliver_at"),
    ({"deliver_at": 1 << 60}, "deliver_at"),
    ({"fallback": "hook"}, "fallback"),
    ({"fallback": ["Hook"]}, "fallback[0]"),
    ({"fallback": ["hook\n"]}, "fallback[0]"),
    ({"fallback": ["unknown"]}, "fallback[0]"),
    ({"fallback": ["hook"] * 9}, "fallback"),
    ({"key": ""}, "key"),
    ({"key": "x" * 129}, "key"),
    ({"collapse": ""}, "collapse"),
    ({"notify": ["gone"]}, "notify[0]"),
    ({"notify": "delivered"}, "notify"),
    ({"meta": {"a": 1}}, "meta[...]"),
    ({"meta": []}, "meta"),
    ({"trace": "00-0-0-00"}, "trace"),
    ({"trace": "00-" + "0" * 32 + "-" + "1" * 16 + "-01"}, "trace"),
    ({"template": "t"}, "template"),
    ({"Body": 1}, "Body"),
]  # fmt: skip


def message(change: dict[str, Any]) -> dict[str, Any]:
    whole = {"to": "alice", "body": 1, **change} if change else {"body": 1}
    return {name: value for name, value in whole.items() if value is not ...}


def path_of(route: Route, id: str = "0000000000001", client: str = "alice") -> str:
    return route.path.format(id=id, client=client, channel="hook", template="hi")


TAKING = [r for r in ROUTES if r.body is not None]
BY_ID = [r for r in ROUTES if "{id}" in r.path]
BY_CLIENT = [r for r in ROUTES if "{client}" in r.path]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.fixture(autouse=True)
async def _unharmed(api: Caller, hub: HubDouble) -> Any:
    """Whatever was sent, nothing of it is kept, and others are served."""
    yield
    assert not hub.rows
    before = set(hub.store.views)
    assert (await api("POST", "/v1/messages", {"to": "alice", "body": 1})).status == 202
    assert len(hub.store.views) == len(before) + 1


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("route", TAKING, ids=name_of)
async def test_bodies(api: Caller, hub: HubDouble, route: Route, name: str) -> None:
    body = BODIES[name]
    if name == "nothing" and route.body_optional:
        return
    reply = await api(route.method, path_of(route), body)
    status, code, field = reply.problem
    expected = {"over the limit": {413}}.get(name, {400, 422})
    assert status in expected
    assert code in {"malformed", "invalid", "too_deep", "body_too_large", "body_missing"}
    if status == 422:
        assert field is not None
        assert field.startswith("$")
    assert len(reply.raw) < 2000
    assert not hub.published


@pytest.mark.parametrize(("change", "field"), MESSAGES)
@pytest.mark.parametrize("way", ["single", "array", "line", "explain"])
async def test_messages(api: Caller, hub: HubDouble, change: dict[str, Any], field: str, way: str) -> None:
    body = json.dumps(message(change)).encode()
    if way == "explain":
        found = (await api("POST", "/v1/explain", body)).problem
    elif way == "single":
        found = (await api("POST", "/v1/messages", body)).problem
    elif way == "array":
        # beside one that is right
        reply = await api("POST", "/v1/messages", b'[{"to":"alice","body":1},' + body + b"]")
        good, bad = reply.json
        assert good["status"] == "queued"
        found = (bad["status"], bad["code"], bad["field"])
        field = f"$[1].{field}"
    else:
        headers = {"Content-Type": "application/x-ndjson"}
        reply = await api(
            "POST", "/v1/messages", b'{"to":"alice","body":1}\n' + body + b"\n", headers=headers
        )
        answers = {a["line"]: a for a in map(json.loads, reply.raw.splitlines())}
        assert "id" in answers[1]
        bad = answers[2]
        found = (bad["status"], bad["code"], bad["field"])
    status, _, where = found
    assert status == (413 if change.get("body") not in {None, ...} else 422)
    assert where == (field if field.startswith("$") else f"$.{field}")


@pytest.mark.parametrize("body", [b'"\xff"', b'"\\ud800"', b"1e999999", b"[" * 66 + b"]" * 66, b"nul", b"01"])
async def test_bodies_of_messages(api: Caller, body: bytes) -> None:
    status, code, field = (await api("POST", "/v1/messages", b'{"to":"alice","body":' + body + b"}")).problem
    assert (status, code) in {(422, "body_invalid"), (422, "too_deep"), (400, "malformed")}
    assert field in {"$.body", "$"}


@pytest.mark.parametrize("name", [n for n in NAMES if n and n not in {".", ".."}])
@pytest.mark.parametrize("route", BY_CLIENT, ids=name_of)
async def test_client_ids(api: Caller, route: Route, name: str) -> None:
    reply = await api(route.method, path_of(route, client=quote(name, safe="")), {} if route.body else None)
    assert reply.problem == (422, "client_invalid", "client")


@pytest.mark.parametrize(
    "id", ["x", "0" * 12, "0" * 14, "U" * 13, "8" + "0" * 12, "%00" * 13, "%F0%9F%98%80", "%C3%28", "+" * 13]
)
@pytest.mark.parametrize("route", BY_ID, ids=name_of)
async def test_message_ids(api: Caller, route: Route, id: str) -> None:
    status, code, field = (await api(route.method, path_of(route, id=id), {} if route.body else None)).problem
    assert (status, field) == (422, "id")
    assert code in {"id_invalid", "invalid"}


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_every_call_refuses_an_unknown_parameter(api: Caller, route: Route) -> None:
    reply = await api(route.method, path_of(route) + "?nobody_knows_this=1", {} if route.body else None)
    assert reply.problem == (422, "unknown_parameter", "nobody_knows_this")


@pytest.mark.parametrize("route", [r for r in ROUTES if r.scope], ids=name_of)
async def test_every_call_wants_a_credential(
    as_key: Callable[[str | None], Caller], hub: HubDouble, route: Route
) -> None:
    stranger = as_key(None)
    assert (await stranger(route.method, path_of(route), {})).problem == (401, "unauthorized", None)
    kept = hub.keep(Publish(to="alice", body=Raw(b"1")), "bob")
    reply = await stranger(route.method, path_of(route, id=encode_id(kept.item.id)))
    assert reply.problem == (401, "unauthorized", None)
