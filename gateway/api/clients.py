"""Clients: who they are, whether they are here, and what an administrator may do about them."""

import base64

import msgspec
from aiohttp import web
from msgspec import Struct

from gateway.api import views
from gateway.api.base import Api, Call, reply
from gateway.api.schemas import (
    ClientBody,
    ClientPage,
    ClientsQuery,
    DisconnectBody,
    DisconnectOut,
    TokenBody,
    TokenOut,
    WebsocketSettings,
)
from gateway.errors import Invalid, NotFound
from gateway.records import ClientRecord


class _Expiry(Struct):
    exp: int


_payload = msgspec.json.Decoder(_Expiry)


async def listing(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/clients`: by id."""
    query: ClientsQuery = call.query
    names = api.hub.clients(query.after or "", query.limit)
    page = ClientPage([views.client(api.hub, name) for name in names])
    if len(names) == query.limit:
        page.after = names[-1]
    return reply(page)


async def get(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/clients/{client}`."""
    try:
        return reply(views.client(api.hub, call.params["client"]))
    except KeyError:
        raise NotFound("this client was never seen and has no record") from None


async def put(api: Api, call: Call) -> web.StreamResponse:
    """`PUT /v1/clients/{client}`: the record, whole."""
    body: ClientBody = await call.body(api)
    name: str = call.params["client"]
    await api.hub.put_client(
        name, msgspec.convert(msgspec.to_builtins(body), ClientRecord), call.caller.publisher
    )
    return reply(views.client(api.hub, name))


async def delete(api: Api, call: Call) -> web.StreamResponse:
    """`DELETE /v1/clients/{client}`: forgets everything about it."""
    await api.hub.forget(call.params["client"], call.caller.publisher)
    return web.Response(status=204)


async def mint(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/clients/{client}/token`."""
    body: TokenBody = await call.body(api)
    name: str = call.params["client"]
    try:
        token = api.authenticator.mint(name, body.ttl, msgspec.to_builtins(body.claims))
    except Invalid as error:
        # it speaks of claims as its own arguments
        if error.field is not None and error.field != "$.ttl":
            error.field = f"$.claims{error.field[1:]}"
        raise
    await api.hub.audit(call.caller.publisher, "client.token", {"client": name, "expires": _expires(token)})
    out = TokenOut(
        token=token,
        expires=_expires(token),
        client=name,
        websocket=WebsocketSettings(),
        mqtt=views.mqtt(api.config.mqtt, name),
    )
    response = reply(out)
    response.headers["Cache-Control"] = "no-store"
    return response


def _expires(token: str) -> int:
    """The end of a token of ours, as Unix ms."""
    part = token.split(".")[1]
    return _payload.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))).exp * 1000


async def disconnect(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/clients/{client}/disconnect`."""
    body: DisconnectBody = await call.body(api)
    return reply(
        DisconnectOut(await api.hub.disconnect(call.params["client"], body.ban, call.caller.publisher))
    )
