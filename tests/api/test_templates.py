"""Templates over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.double import HubDouble
from tests.api.support import ADMIN, READER, SENDER, Caller

AsKey = Callable[[str | None], Caller]
VARIANTS: list[dict[str, Any]] = [
    {"text": "Hi {{name}}", "title": "Hi"},
    {"locale": "de", "text": "Hallo {{name}} ☃", "html": "<b>{{name}}</b>"},
]


async def test_a_template_is_written_in_versions(api: Caller, hub: HubDouble) -> None:
    reply = await api("PUT", "/v1/templates/hi", {"variants": VARIANTS})
    assert reply.status == 200
    assert reply.json | {"at": 0} == {
        "name": "hi",
        "version": 1,
        "versions": [1],
        "variants": VARIANTS,
        "values": ["name"],
        "at": 0,
        "by": "api:backend",
    }
    again = await api("PUT", "/v1/templates/hi", {"variants": VARIANTS[:1], "expected": 1})
    assert (again.json["version"], again.json["versions"]) == (2, [1, 2])
    assert (await api("GET", "/v1/templates/hi")).json == again.json
    assert (await api("GET", "/v1/templates/hi?version=1")).json["variants"] == VARIANTS
    assert [t["name"] for t in (await api("GET", "/v1/templates")).json["templates"]] == ["hi"]


async def test_what_it_says_is_shown_for_each_channel(api: Caller) -> None:
    await api("PUT", "/v1/templates/hi", {"variants": VARIANTS})
    reply = await api("POST", "/v1/templates/hi/render", {"values": {"name": "<Ada>"}, "locale": "de-AT"})
    text = "Hallo <Ada> ☃"
    html = "<b>&lt;Ada&gt;</b>"
    assert reply.json == {
        "name": "hi",
        "version": 1,
        "live": {"text": text, "html": html},
        # no channel is configured here; tests/hub has some
        "channels": {},
    }


async def test_an_ended_one_is_not_found(api: Caller) -> None:
    await api("PUT", "/v1/templates/hi", {"variants": VARIANTS})
    assert (await api("DELETE", "/v1/templates/hi")).status == 204
    assert (await api("DELETE", "/v1/templates/hi")).problem == (404, "not_found", None)
    assert (await api("GET", "/v1/templates/hi")).problem == (404, "not_found", None)
    assert (await api("POST", "/v1/templates/hi/render", {})).problem == (404, "not_found", None)
    assert (await api("GET", "/v1/templates")).json == {"templates": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("PUT", "Hi", {"variants": VARIANTS}, (422, "template_invalid", "template")),
        ("PUT", "hi", {"variants": []}, (422, "invalid", "$.variants")),
        ("PUT", "hi", {"variants": VARIANTS[1:]}, (422, "template_invalid", "$.variants")),
        ("PUT", "hi", {"variants": [{"text": "{{"}]}, (422, "template_invalid", "$.variants[0].text")),
        ("PUT", "hi", {"variants": [{"text": "", "x": 1}]}, (422, "invalid", "$.variants[0].x")),
        ("PUT", "hi", {"variants": VARIANTS, "expected": 1}, (409, "version_conflict", None)),
        ("POST", "known/render", {"values": {}}, (422, "template_values", "$.values.name")),
        ("POST", "known/render", {"values": {"name": []}}, (422, "template_values", "$.values.name")),
        ("POST", "known/render", {"version": 2, "values": {}}, (404, "not_found", None)),
    ],
)
async def test_what_is_refused(
    api: Caller, method: str, path: str, body: dict[str, Any], problem: tuple[int, str, str | None]
) -> None:
    await api("PUT", "/v1/templates/known", {"variants": VARIANTS})
    assert (await api(method, f"/v1/templates/{path}", body)).problem == problem


async def test_who_may(as_key: AsKey) -> None:
    body = {"variants": VARIANTS}
    assert (await as_key(ADMIN)("PUT", "/v1/templates/hi", body)).status == 200
    for key in (SENDER, READER):
        assert (await as_key(key)("PUT", "/v1/templates/hi", body)).problem == (403, "scope_missing", None)
        assert (await as_key(key)("DELETE", "/v1/templates/hi")).problem == (403, "scope_missing", None)
    assert (await as_key(READER)("GET", "/v1/templates/hi")).status == 200


async def test_a_message_can_name_one(api: Caller, hub: HubDouble) -> None:
    await api("PUT", "/v1/templates/hi", {"variants": VARIANTS})
    reply = await api("POST", "/v1/messages", {"to": "ada", "template": "hi", "body": {"name": "Ada"}})
    assert reply.status == 202
    missing = await api("POST", "/v1/messages", {"to": "ada", "template": "hi"})
    assert missing.problem == (422, "template_values", "$.body.name")
    unknown = await api("POST", "/v1/messages", {"to": "ada", "template": "ho"})
    assert unknown.problem == (422, "template_unknown", "$.template")
