"""Errors as problem documents (RFC 9457), and the errors of msgspec as ours.

`type` is left out (about:blank), so `title` is the phrase of the status. `code` is what programs branch on.
"""

import math
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from gateway.api.schemas import Problem, Refusal
from gateway.errors import GatewayError, Invalid
from gateway.wire import blame

MEDIA = "application/problem+json"

_encode = msgspec.json.Encoder().encode
# a client that was told nothing of when to come back waits this long, in seconds
_PATIENCE = {429: 1, 503: 1}


def response(error: GatewayError, request_id: str) -> web.Response:
    """The answer to a request that failed."""
    return web.Response(status=error.http, body=document(error, request_id), headers=headers(error))


def headers(error: GatewayError) -> dict[str, str]:
    """What that answer has beside what every answer has."""
    headers = {"Content-Type": MEDIA}
    wait = _PATIENCE.get(error.http) if error.retry_after is None else max(1, math.ceil(error.retry_after))
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if error.http == 401:
        invalid = "" if error.code == "unauthorized" else ' error="invalid_token"'
        headers["WWW-Authenticate"] = f"Bearer{invalid}"
    return headers


def document(error: GatewayError, request_id: str) -> bytes:
    """The body of that answer."""
    problem = Problem(
        title=HTTPStatus(error.http).phrase,
        status=error.http,
        code=error.code,
        detail=error.detail,
        request_id=request_id,
        field=error.field if error.field is not None else UNSET,
        retry_after=round(error.retry_after, 3) if error.retry_after is not None else UNSET,
    )
    return _encode(problem)


def refusal(error: GatewayError) -> bytes:
    """The error as one element of a list of results: schemas.Refusal, encoded."""
    return _encode(
        Refusal(
            code=error.code,
            status=error.http,
            detail=error.detail,
            field=error.field if error.field is not None else UNSET,
            retry_after=round(error.retry_after, 3) if error.retry_after is not None else UNSET,
        )
    )


def undecodable(error: Exception, prefix: str = "$") -> GatewayError:
    """Why a body could not be decoded; `prefix` is where the decoded part stands in it.

    A value of the wrong kind is 422 and names its field, what is no JSON at all is 400.
    """
    if isinstance(error, msgspec.ValidationError):
        why, path = blame(str(error))
        return Invalid(why, field=prefix + path[1:])
    if isinstance(error, RecursionError):
        return Invalid("nested too deeply", code="too_deep", field=prefix)
    if isinstance(error, UnicodeDecodeError):
        return malformed("the body is not valid UTF-8", prefix)
    return malformed(str(error), prefix)


def malformed(why: str, field: str | None = None) -> GatewayError:
    return Invalid(why, code="malformed", field=field, http=400)


def decode(decoder: msgspec.json.Decoder[Any], raw: bytes | msgspec.Raw, prefix: str = "$") -> Any:
    """Decode a body or a part of one. Raises Invalid."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise undecodable(error, prefix) from None
