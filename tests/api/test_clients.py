"""Clients: listing, record, tokens, disconnecting."""

import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
import pytest
from msgspec.structs import replace

from gateway.auth import Authenticator
from gateway.config import Config, Mqtt
from gateway.records import ClientRecord, ClientRow
from tests.api.double import HubDouble
from tests.api.support import ADMIN, READER, SENDER, Caller, serving

AsKey = Callable[[str | None], Caller]
AsClient = Callable[..., Caller]


async def test_a_client(api: Caller, hub: HubDouble) -> None:
    hub.online["alice"] = {
        "epoch": "k3", "next": 18, "in_flight": 2, "queued": 5, "window": 64, "last_proof": 123, "away_since": None
    }  # fmt: skip
    hub.rows["alice"] = ClientRow("alice", ClientRecord(late="deliver"), not_before=7, banned_until=8)
    reply = await api("GET", "/v1/clients/alice")
    assert reply.json == {
        "client": "alice",
        "status": "online",
        "via": "ws",
        "queued": 5,
        "last_proof": 123,
        "session": {"epoch": "k3", "next": 18, "in_flight": 2, "window": 64},
        "record": {"late": "deliver"},
        "not_before": 7,
        "banned_until": 8,
    }


async def test_a_client_that_never_came(api: Caller, hub: HubDouble) -> None:
    hub.rows["bob"] = ClientRow("bob")
    expected = {"client": "bob", "status": "unknown", "queued": 0, "record": {}}
    assert (await api("GET", "/v1/clients/bob")).json == expected
    assert (await api("GET", "/v1/clients/carol")).problem == (404, "not_found", None)


async def test_pages_of_clients(api: Caller, hub: HubDouble) -> None:
    for name in ("carol", "alice", "bob"):
        hub.rows[name] = ClientRow(name)
    first = (await api("GET", "/v1/clients?limit=2")).json
    assert [c["client"] for c in first["clients"]] == ["alice", "bob"]
    assert first["after"] == "bob"
    last = (await api("GET", "/v1/clients?limit=2&after=bob")).json
    assert [c["client"] for c in last["clients"]] == ["carol"]
    assert "after" not in last
    assert (await api("GET", "/v1/clients?after=a/b")).problem == (422, "invalid", "after")


async def test_the_record_is_written_whole(api: Caller, hub: HubDouble) -> None:
    record = {
        "offline_deadline": 0.5,
        "fallback": ["hook"],
        "late": "deliver",
        "contacts": {"sms": "+49"},
        "preferences": {"a": [1]},
    }
    reply = await api("PUT", "/v1/clients/alice", record)
    assert reply.status == 200
    assert reply.json["record"] == record
    assert type(hub.rows["alice"].record) is ClientRecord
    assert (await api("PUT", "/v1/clients/alice", {})).json["record"] == {}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"offline_deadline": -1}, (422, "invalid", "$.offline_deadline")),
        ({"fallback": ["sms"]}, (422, "channel_unknown", "$.fallback[0]")),
        ({"fallback": ["A"]}, (422, "invalid", "$.fallback[0]")),
        ({"late": "never"}, (422, "invalid", "$.late")),
        ({"contact": {}}, (422, "invalid", "$.contact")),
        ({"contacts": {"sms": 1}}, (422, "invalid", "$.contacts[...]")),
        ([], (422, "invalid", "$")),
        (b"", (400, "malformed", "$")),
    ],
)
async def test_records_that_cannot_be(api: Caller, body: Any, problem: tuple[int, str, str]) -> None:
    assert (await api("PUT", "/v1/clients/alice", body)).problem == problem


async def test_forgetting(api: Caller, hub: HubDouble) -> None:
    hub.rows["alice"] = ClientRow("alice")
    reply = await api("DELETE", "/v1/clients/alice")
    assert (reply.status, reply.raw) == (204, b"")
    assert not hub.rows
    assert (await api("DELETE", "/v1/clients/alice")).status == 204


async def test_a_token_is_minted(api: Caller, as_key: AsKey) -> None:
    body = {"ttl": 60, "claims": {"pub": ["bob"], "may": ["fallback"]}}
    reply = await api("POST", "/v1/clients/alice/token", body)
    assert reply.status == 200
    assert reply.headers["Cache-Control"] == "no-store"
    claims = jwt.decode(reply.json["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["pub"], claims["may"]) == ("alice", ["bob"], ["fallback"])
    assert reply.json["expires"] == claims["exp"] * 1000
    assert (reply.json["client"], reply.json["websocket"]) == ("alice", {"path": "/ws"})
    alice = as_key(reply.json["token"])
    assert (await alice("POST", "/v1/messages", {"to": "bob", "body": 1})).status == 202


async def test_a_token_comes_with_the_settings_for_mqtt(api: Caller) -> None:
    """On the default prefix; `part` is crc32 of the client id modulo 64."""
    assert zlib.crc32(b"alice") % 64 == 7
    assert (await api("POST", "/v1/clients/alice/token")).json["mqtt"] == {
        "path": "/mqtt",
        "client_id": "alice",
        "username": "alice",
        "part": "07",
        "plain": {"subscribe": "gw/v1/m/alice", "publish": "gw/v1/u/07/alice/to/{address}"},
        "framed": {"subscribe": "gw/v1/d/alice", "publish": "gw/v1/u/07/alice"},
    }


@pytest.mark.parametrize(
    ("mqtt", "topic"), [(Mqtt(prefix="a/b"), "a/b/m/alice"), (Mqtt(listen=""), None)], ids=["prefix", "off"]
)
async def test_the_settings_follow_the_configuration(
    hub: HubDouble, authenticator: Authenticator, config: Config, mqtt: Mqtt, topic: str | None
) -> None:
    async with (
        serving(hub, authenticator, replace(config, mqtt=mqtt)) as server,
        aiohttp.ClientSession() as session,
    ):
        api = Caller(session, f"http://127.0.0.1:{server.port}", ADMIN)
        told = (await api("POST", "/v1/clients/alice/token")).json["mqtt"]
    assert (told and told["plain"]["subscribe"]) == topic


async def test_a_token_by_default_is_good_for_an_hour(api: Caller) -> None:
    claims = jwt.decode(
        (await api("POST", "/v1/clients/alice/token")).json["token"], options={"verify_signature": False}
    )
    assert 3600 <= claims["exp"] - claims["iat"] <= 3601


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ttl": 0}, "$.ttl"),
        ({"ttl": "1h"}, "$.ttl"),
        ({"claims": {"sub": "bob"}}, "$.claims.sub"),
        ({"claims": {"pub": "bob"}}, "$.claims.pub"),
        ({"claims": {"pools": ["a b"]}}, "$.claims.pools"),
        ({"claim": {}}, "$.claim"),
    ],
)
async def test_tokens_that_cannot_be(api: Caller, body: Any, field: str) -> None:
    assert (await api("POST", "/v1/clients/alice/token", body)).problem == (422, "invalid", field)


async def test_an_optional_body_is_json_or_nothing(api: Caller) -> None:
    path = "/v1/clients/alice/disconnect"
    assert (await api("POST", path)).status == 200
    assert (await api("POST", path, b"")).status == 200
    assert (await api("POST", path, b"{}", headers={"Content-Type": "text/plain"})).problem[:2] == (
        415,
        "unsupported_media_type",
    )
    assert (await api("POST", path, b" ")).problem == (400, "malformed", "$")


async def test_disconnect_and_ban(api: Caller, hub: HubDouble) -> None:
    hub.online["alice"] = {}
    path = "/v1/clients/alice/disconnect"
    assert (await api("POST", path, {"ban": 60})).json == {"disconnected": True}
    assert hub.bans == {"alice": 60}
    assert (await api("POST", path)).json == {"disconnected": False}
    assert (await api("POST", path, {"ban": 0})).problem == (422, "invalid", "$.ban")


@pytest.mark.parametrize("name", ["a+b", "a%23b", "a%2Fb", "%24x", "a%00", "x" * 65, "pool:a", "%ff", ".a"])
async def test_what_is_no_client_id(api: Caller, name: str) -> None:
    status, code, field = (await api("PUT", f"/v1/clients/{name}", {})).problem
    assert (status, field) == (422, "client")
    assert code in {"client_invalid", "invalid"}


async def test_who_may_manage_clients(as_key: AsKey, as_client: AsClient, hub: HubDouble) -> None:
    hub.rows["alice"] = ClientRow("alice")
    calls = [
        ("PUT", "/v1/clients/alice"),
        ("DELETE", "/v1/clients/alice"),
        ("POST", "/v1/clients/alice/token"),
        ("POST", "/v1/clients/alice/disconnect"),
    ]
    for method, path in calls:
        for key in (READER, SENDER):
            assert (await as_key(key)(method, path)).problem == (403, "scope_missing", None)
    for method, path in [*calls, ("GET", "/v1/clients"), ("GET", "/v1/clients/alice")]:
        assert (await as_client("alice")(method, path)).problem == (403, "forbidden", None)
    assert (await as_key(READER)("GET", "/v1/clients/alice")).status == 200
    assert (await as_key(SENDER)("GET", "/v1/clients")).problem == (403, "scope_missing", None)
