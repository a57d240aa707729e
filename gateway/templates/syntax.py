"""`Hello {{name}}, your code is {{login.code}}`: placeholders are paths into the values, and there is nothing else.

No loops, no conditions, no expressions: what a text says is decided by who calls. A value is put in as it is, escaped
for where the text goes; so no value can become markup, nor a placeholder. `\\{{` is two braces.
"""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from gateway.errors import Invalid

Markup = Literal["plain", "html", "slack", "markdown", "telegram"]

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_part = re.compile(rf"\\\{{\{{|\{{\{{\s*({_NAME}(?:\.{_NAME}){{0,7}})\s*\}}\}}|\{{\{{")
_telegram = re.compile(r"[_*\[\]()~`>#+\-=|{}.!\\]")
_markdown = re.compile(r"([\\`*_{}\[\]()#+\-.!|>~])")


class Missing(Exception):
    """A placeholder has no value, or one that is no text, number or truth value."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


def _slack(text: str) -> str:
    """Slack's three control characters (docs.slack.dev, "Formatting message text", "Escaping text")."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


ESCAPES: dict[Markup, Callable[[str], str]] = {
    "plain": str,
    "html": html.escape,
    "slack": _slack,
    # MarkdownV2 (core.telegram.org/bots/api#markdownv2-style)
    "telegram": lambda text: _telegram.sub(r"\\\g<0>", text),
    "markdown": lambda text: _markdown.sub(r"\\\1", text),
}


class Source:
    """A text with its placeholders, read once. Raises Invalid, naming `field`, where braces are no placeholder."""

    __slots__ = ("_parts", "paths")

    def __init__(self, text: str, field: str) -> None:
        self._parts: list[str | tuple[str, ...]] = []
        end = 0
        for match in _part.finditer(text):
            self._parts.append(text[end : match.start()])
            end = match.end()
            if match[0] == "\\{{":
                self._parts.append("{{")
            elif match[1] is None:
                near = text[match.start() : match.start() + 20]
                raise Invalid(f"`{near}` is no placeholder", code="template_invalid", field=field)
            else:
                self._parts.append(tuple(match[1].split(".")))
        self._parts.append(text[end:])
        self.paths = {".".join(part) for part in self._parts if isinstance(part, tuple)}

    def fill(self, values: Mapping[str, Any], markup: Markup) -> str:
        """The text with its values. Raises Missing."""
        escape = ESCAPES[markup]
        return "".join(
            part if isinstance(part, str) else escape(_value(values, part)) for part in self._parts
        )


def _value(values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = values
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            raise Missing(".".join(path), "is missing")
        value = value[name]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    raise Missing(".".join(path), "is no text, number or truth value")
