"""Templates: written as new versions, read, and shown as they would be sent."""

from typing import Any

from aiohttp import web

from gateway.api.base import Api, Call, reply
from gateway.api.schemas_people import (
    ChannelText,
    RenderBody,
    RenderOut,
    TemplateBody,
    TemplateOut,
    TemplatePage,
    TemplateQuery,
)
from gateway.errors import Invalid
from gateway.templates import Missing, Rendered, TemplateRow, segments


async def listing(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/templates`: names and newest versions."""
    texts = api.hub.texts
    return reply(TemplatePage([_out(api, texts.row(name)) for name in texts.names()]))


async def get(api: Api, call: Call) -> web.StreamResponse:
    """`GET /v1/templates/{template}`."""
    query: TemplateQuery = call.query
    return reply(_out(api, api.hub.texts.row(call.params["template"], query.version or None)))


async def put(api: Api, call: Call) -> web.StreamResponse:
    """`PUT /v1/templates/{template}`: a new version."""
    body: TemplateBody = await call.body(api)
    row = await api.hub.put_template(
        call.params["template"], body.variants, call.caller.publisher, body.expected
    )
    return reply(_out(api, row))


async def delete(api: Api, call: Call) -> web.StreamResponse:
    """`DELETE /v1/templates/{template}`: no new message can name it."""
    await api.hub.put_template(call.params["template"], [], call.caller.publisher, None)
    return web.Response(status=204)


async def render(api: Api, call: Call) -> web.StreamResponse:
    """`POST /v1/templates/{template}/render`: what it says on each channel."""
    body: RenderBody = await call.body(api)
    texts = api.hub.texts
    row = texts.row(call.params["template"], body.version)
    try:
        live = texts.everywhere(row, body.values, body.locale)
        channels = {
            name: _channel(texts.on_channel(row, body.values, name, body.locale))
            for name in api.config.channels
        }
    except Missing as missing:
        raise Invalid(
            f"`{missing.path}` {missing.why}", code="template_values", field=f"$.values.{missing.path}"
        ) from None
    return reply(RenderOut(name=row.name, version=row.version, live=live, channels=channels))


def _channel(rendered: Rendered) -> ChannelText:
    sms = segments(rendered.text)
    return ChannelText(
        text=rendered.text,
        title=rendered.title,
        html=rendered.html,
        sms_segments=sms.count,
        sms_encoding=sms.encoding,
    )


def _out(api: Api, row: TemplateRow) -> TemplateOut:
    needs: list[Any] = sorted(api.hub.texts.paths(row))
    return TemplateOut(
        name=row.name,
        version=row.version,
        versions=api.hub.texts.versions(row.name),
        variants=row.variants,
        values=needs,
        at=row.at,
        by=row.by,
    )
