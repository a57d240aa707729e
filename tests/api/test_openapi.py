"""The description says what the server does: the same calls, the same shapes."""

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest

from gateway.api.openapi import describe
from gateway.api.routes import ROUTES
from gateway.config import Config
from tests.api.support import Caller


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(describe(ROUTES, Config()))


async def test_it_is_served_to_anybody(as_key: Callable[[str | None], Caller]) -> None:
    reply = await as_key(None)("GET", "/openapi.json")
    assert reply.status == 200
    assert reply.json["openapi"].startswith("3.1.")


def test_every_call_is_described_once(document: Any) -> None:
    described = {(m.upper(), path) for path, calls in document["paths"].items() for m in calls}
    assert described == {(r.method, r.path) for r in ROUTES}
    ids = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(set(ids)) == len(ids)


def test_every_reference_has_its_target(document: Any) -> None:
    text = json.dumps(document)
    used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert used <= set(document["components"]["schemas"])


def test_every_schema_is_one(document: Any) -> None:
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid({**draft, **schema}), name
        # a pattern of Python's alone
        assert r"\Z" not in json.dumps(schema)


def test_every_path_hole_is_a_parameter(document: Any) -> None:
    for path, calls in document["paths"].items():
        for call in calls.values():
            named = {p["name"] for p in call["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


def test_what_needs_a_credential_says_so(document: Any) -> None:
    for route in ROUTES:
        call = document["paths"][route.path][route.method.lower()]
        assert bool(call["security"]) == bool(route.scope)
        assert ("401" in call["responses"]) == bool(route.scope)


def test_refusals_are_problems(document: Any) -> None:
    for calls in document["paths"].values():
        for call in calls.values():
            for status, response in call["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]


def validator(document: Any, name: str) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"to": "alice", "body": None}, True),
        ({"to": "alice", "body": {"a": [1]}, "ttl": 5, "fallback": ["hook"], "meta": {"a": "b"}}, True),
        ({"to": "alice"}, False),
        ({"to": "a b", "body": 1}, False),
        ({"to": "alice\n", "body": 1}, False),
        ({"to": "alice", "body": 1, "fallback": ["Hook"]}, False),
        ({"to": "alice", "body": 1, "ttl": 0}, False),
        ({"to": "alice", "body": 1, "x": 1}, False),
        ({"to": "alice", "body": {"n": 1}, "template": "t@2"}, True),
        ({"to": "alice", "template": "t"}, True),
        ({"body": 1, "template": "t"}, False),
    ],
)
def test_a_message_is_described_as_it_is_checked(document: Any, value: Any, good: bool) -> None:
    assert validator(document, "Publish").is_valid(value) == good
