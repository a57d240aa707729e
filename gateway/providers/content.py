"""What people read of a message: text, title and HTML out of its body, and what is for one provider alone. Pure."""

from typing import Any

import msgspec
from msgspec import Struct

from gateway.model import Item
from gateway.providers.provider import Unsendable


class Content(Struct, frozen=True):
    """`native`: the object under the kind's name in the body: fields of its request, as the sender wants them."""

    text: str
    title: str = ""
    html: str = ""
    native: dict[str, Any] = {}


def content_of(item: Item, kind: str, *, needs_text: bool = True) -> Content:
    """The readable content of a message, for a channel of this kind.

    A body that is a string is the text. Of an object it is `text`, with `title` and `html` beside it, and the object
    under the name of the kind (`{"text": …, "slack": {"blocks": […]}}`) goes into the provider's request. Raises
    Unsendable where there is no text, no native object either, or one of them has the wrong type.
    """
    if item.body is None:
        raise ValueError("the message has no body")
    body = msgspec.json.decode(item.body)
    if isinstance(body, str):
        return _whole(Content(body), needs_text)
    if not isinstance(body, dict):
        return _whole(Content(""), needs_text)
    for name in ("text", "title", "html"):
        if not isinstance(body.get(name, ""), str):
            raise Unsendable(f"`{name}` of the body is not text")
    native = body.get(kind, {})
    if not isinstance(native, dict):
        raise Unsendable(f"`{kind}` of the body is not an object")
    content = Content(body.get("text", ""), body.get("title", ""), body.get("html", ""), native)
    return content if native else _whole(content, needs_text)


def _whole(content: Content, needs_text: bool) -> Content:
    if needs_text and not content.text:
        raise Unsendable("the body is neither text nor an object with `text`")
    return content
