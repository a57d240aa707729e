"""`/openapi.json` (OpenAPI 3.1), made from the table of routes and the Structs of bodies, queries and answers.

Nothing is described here that is not also what the dispatcher or a decoder goes by; `_sharpen` alone adds what the
Struct of a message leaves to the hub.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from gateway import __version__
from gateway.api.base import Answer, Route
from gateway.api.problems import MEDIA
from gateway.api.schemas import ClientId, MessageId, Problem
from gateway.api.schemas_people import TemplateName
from gateway.config import Config
from gateway.model import CLIENT_ID, ChannelName

_REF = "#/components/schemas/{name}"
_PATH_PARAMS = {"id": MessageId, "client": ClientId, "channel": ChannelName, "template": TemplateName}

Schema = dict[str, Any]


def describe(routes: Iterable[Route], config: Config) -> bytes:
    """The document."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    components = schemas.components()
    _sharpen(components["Publish"], config)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "bot-gateway",
            "version": __version__,
            "description": "Durable messages for bots and devices. Times are Unix milliseconds, durations seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an API key as `id.secret`, or a client's JWT where a call says so",
                }
            },
        },
    }
    return msgspec.json.encode(_portable(document))


class _Schemas:
    """Collects types and gives their schemas; Structs become components."""

    def __init__(self) -> None:
        self._structs: dict[str, type] = {}

    def of(self, shape: Any) -> Schema:
        """The schema of a type; a tuple is one of several."""
        if isinstance(shape, tuple):
            return {"anyOf": [self.of(one) for one in shape]}
        if get_origin(shape) in {Union, UnionType}:
            return {"anyOf": [self.of(one) for one in get_args(shape)]}
        if get_origin(shape) is list:
            return {"type": "array", "items": self.of(get_args(shape)[0])}
        if isinstance(shape, type) and issubclass(shape, Struct):
            self._structs[shape.__name__] = shape
            return {"$ref": _REF.format(name=shape.__name__)}
        schema: Schema = msgspec.json.schema(shape, ref_template=_REF)
        return schema

    def properties(self, shape: type[Struct]) -> Iterable[tuple[str, Schema]]:
        """The fields of a flat Struct, with their schemas."""
        (_,), components = msgspec.json.schema_components([shape], ref_template=_REF)
        properties: Schema = components[shape.__name__]["properties"]
        return properties.items()

    def components(self) -> Schema:
        _, components = msgspec.json.schema_components(self._structs.values(), ref_template=_REF)
        return dict(components)


def _operation(route: Route, schemas: _Schemas) -> Schema:
    module = route.handler.__module__.rpartition(".")[2]
    who = f"Scope `{route.scope}`" if route.scope else "No credential"
    clients = "; a client's JWT for its own messages" if route.clients else ""
    out: Schema = {
        "operationId": f"{module}_{route.handler.__name__}",
        "tags": [module],
        "summary": route.summary,
        "description": f"{who}{clients}.",
        "security": [{"bearer": []}] if route.scope else [],
        "parameters": list(_parameters(route, schemas)),
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        content = {media: {"schema": schemas.of(shape)} for media, shape in route.body.items()}
        out["requestBody"] = {"required": not route.body_optional, "content": content}
    return out


def _parameters(route: Route, schemas: _Schemas) -> Iterable[Schema]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": schemas.of(_PATH_PARAMS[name])}
    if route.query is not None:
        for name, schema in schemas.properties(route.query):
            yield {"name": name, "in": "query", "required": False, "schema": _given(schema)}
    for header in route.headers:
        yield {
            "name": header.name,
            "in": "header",
            "required": False,
            "description": header.text,
            "schema": schemas.of(header.shape),
        }


def _given(schema: Schema) -> Schema:
    """A parameter is left out, never null."""
    if "anyOf" not in schema:
        return schema
    (given,) = (one for one in schema["anyOf"] if one.get("type") != "null")
    return dict(given)


def _responses(route: Route, schemas: _Schemas) -> Schema:
    out: Schema = {}
    for answer in route.answers:
        response = _response(answer, schemas)
        # one status may come in two media types
        known = out.setdefault(str(answer.status), response)
        if known is not response:
            known["description"] += f"; {answer.text}"
            known["content"] |= response["content"]
    for status in sorted(_problems(route)):
        out[str(status)] = _response(Answer(status, HTTPStatus(status).phrase, Problem, MEDIA), schemas)
    return out


def _problems(route: Route) -> set[int]:
    """The statuses of refusals: those of the table, and what follows from the route."""
    statuses = {400, 405, 422, 500, *route.problems}
    if route.scope:
        # 503: the keys that a token needs are away
        statuses |= {401, 403, 503}
    if route.body is not None:
        statuses |= {408, 413, 415, 417}
    return statuses


def _response(answer: Answer, schemas: _Schemas) -> Schema:
    headers: Schema = {
        "X-Request-Id": {"schema": {"type": "string"}, "description": "names the request in the log"}
    }
    if answer.status in {429, 503}:
        headers["Retry-After"] = {"schema": {"type": "string"}, "description": "seconds"}
    if answer.status == 405:
        headers["Allow"] = {"schema": {"type": "string"}}
    out: Schema = {"description": answer.text, "headers": headers}
    if answer.shape is not None:
        out["content"] = {answer.media: {"schema": schemas.of(answer.shape)}}
    return out


def _sharpen(publish: Schema, config: Config) -> None:
    """What the hub demands of a message beyond its Struct."""
    publish["required"] = ["to"]
    publish["anyOf"] = [{"required": ["body"]}, {"required": ["template"]}]
    publish["properties"]["to"]["pattern"] = f"^{CLIENT_ID}$"
    publish["description"] = f"A message. At most {config.limits.max_payload} bytes, nested at most 64 deep."


def _portable(value: Any) -> Any:
    """The same with patterns as ECMA 262 reads them, which has no `\\Z`."""
    if isinstance(value, dict):
        return {
            k: v.replace(r"\Z", "$") if k == "pattern" and isinstance(v, str) else _portable(v)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_portable(one) for one in value]
    return value
