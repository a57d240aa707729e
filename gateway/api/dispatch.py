"""The one way in: finds the route, checks the credential and the query, and makes every error a problem document.

Nothing of a request is read before it is admitted: a body only after the credential, `100 Continue` with it.
"""

import re
import secrets
from collections.abc import Iterable
from itertools import count
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.base import SERVER, Api, Call, Route
from gateway.auth import Principal
from gateway.errors import DiskFull, Forbidden, GatewayError, Invalid, NotFound, StoreFailed, Unavailable
from gateway.ids import decode_id
from gateway.model import valid_client_id
from gateway.observe.log import get_logger
from gateway.templates import valid_template_name
from gateway.wire import blame

_log = get_logger("api")
_request_id = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_hole = re.compile(r"\{(\w+)\}")

Methods = dict[str, Route]


class Dispatcher:
    """Called with each request; returns its answer. Raises ConnectionError alone: there is nobody to answer."""

    __slots__ = ("_api", "_fixed", "_number", "_patterns", "_prefix")

    def __init__(self, api: Api, routes: Iterable[Route]) -> None:
        self._api = api
        self._fixed: dict[str, Methods] = {}
        patterns: dict[str, Methods] = {}
        for route in routes:
            table = patterns if "{" in route.path else self._fixed
            table.setdefault(route.path, {})[route.method] = route
        self._patterns = [
            (re.compile(_hole.sub(r"(?P<\1>[^/]+)", path)).fullmatch, m) for path, m in patterns.items()
        ]
        self._prefix = secrets.token_hex(4)
        self._number = count(1)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = self.request_id(request.headers.get("X-Request-Id"))
        response: web.StreamResponse
        try:
            response = await self._answer(request, request_id)
        except Exception as error:
            transport = request.transport
            if isinstance(error, ConnectionError) and (transport is None or transport.is_closing()):
                raise
            response = self._problem(request, request_id, fault(error, request_id, request.method))
        if not response.prepared:
            response.headers["Server"] = SERVER
            response.headers["X-Request-Id"] = request_id
        return response

    def request_id(self, given: str | None) -> str:
        """The id that a request brought, or one of ours."""
        if given is not None and _request_id(given):
            return given
        return f"{self._prefix}-{next(self._number):x}"

    async def _answer(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        methods, params = self._find(request.rel_url.raw_path)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            return self._no_method(request, request_id, methods)
        call = Call(request, request_id, route, params)
        if route.scope:
            # one Authorization header, or none that counts: which of two was checked must not be a matter of order
            call.principal = await self._principal(request, route)
        if params:
            _check_params(params)
        if request.query_string or route.query is not None:
            call.query = _query(request, route.query)
        return await route.handler(self._api, call)

    def _find(self, path: str) -> tuple[Methods, dict[str, Any]]:
        """The calls at a path, by method, and what stands in its holes. Raises NotFound."""
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, {}
        for match, methods in self._patterns:
            found = match(path)
            if found is not None:
                return methods, found.groupdict()
        raise NotFound("there is nothing at this path", code="no_such_path")

    def _no_method(self, request: web.BaseRequest, request_id: str, methods: Methods) -> web.Response:
        """OPTIONS, or a method that this path does not have."""
        allowed = set(methods) | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        allow = ", ".join(sorted(allowed))
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": allow})
        error = GatewayError(f"this path knows {allow}", code="method_not_allowed", http=405)
        response = problems.response(error, request_id)
        response.headers["Allow"] = allow
        return response

    async def _principal(self, request: web.BaseRequest, route: Route) -> Principal:
        """Who calls, if that may call the route. Raises Unauthorized, Forbidden, Unavailable."""
        headers = request.headers
        credential = headers.get("Authorization")
        if credential is not None and len(headers.getall("Authorization")) > 1:
            raise problems.malformed("send one Authorization header", "Authorization")
        principal = await self._api.authenticator.authenticate_bearer(credential)
        admit(self._api, principal, route)
        return principal

    def _problem(self, request: web.BaseRequest, request_id: str, error: GatewayError) -> web.Response:
        if request.writer.output_size > 0:
            # an answer has begun; all that is left is to break it off
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("broken off")
        return problems.response(error, request_id)


def admit(api: Api, principal: Principal, route: Route) -> None:
    """Raises Forbidden unless the principal may call the route."""
    if principal.kind == "client":
        if api.hub.banned(principal.name, api.hub.scheduler.now()):
            raise Forbidden("this client is banned", code="banned")
        if not route.clients:
            raise Forbidden("a client's token is good for its own messages only")
    elif not principal.can(route.scope):
        raise Forbidden(f"this key lacks the scope `{route.scope}`", code="scope_missing")


def fault(error: Exception, request_id: str, method: str) -> GatewayError:
    """What is answered where this was raised; called while it is handled."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, StoreFailed):
        kind = DiskFull if error.disk_full else Unavailable
        return kind("the store cannot be read now")
    # the last resort: logged, and answered without a word of it
    _log.exception("request failed", request=request_id, method=method)
    return GatewayError("an internal error; the log has it under the request id")


def _check_params(params: dict[str, Any]) -> None:
    """Decode what stands in the path, in place. Raises Invalid."""
    for name, raw in params.items():
        try:
            text = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            raise Invalid("not valid UTF-8", field=name) from None
        if name == "client" and not valid_client_id(text):
            raise Invalid("not a client id", code="client_invalid", field=name)
        if name == "template" and not valid_template_name(text):
            raise Invalid("not a template's name", code="template_invalid", field=name)
        params[name] = _message_id(text) if name == "id" else text


def _message_id(text: str) -> int:
    try:
        return decode_id(text)
    except ValueError as error:
        raise Invalid(str(error), code="id_invalid", field="id") from None


def _query(request: web.BaseRequest, shape: type[msgspec.Struct] | None) -> Any:
    """The query as the route's Struct; None where the route takes none. Raises Invalid."""
    given = request.rel_url.query
    values: dict[str, str] = {}
    for name, value in given.items():
        if shape is None or name not in shape.__struct_fields__:
            raise Invalid("this call has no such parameter", code="unknown_parameter", field=name)
        if name in values:
            raise Invalid("is given twice", field=name)
        values[name] = value
    if shape is None:
        return None
    try:
        return msgspec.convert(values, shape, strict=False)
    except msgspec.ValidationError as error:
        why, path = blame(str(error))
        raise Invalid(why, field=path.removeprefix("$.")) from None
