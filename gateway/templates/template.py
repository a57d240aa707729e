"""A template: variants of a text for channels and locales, and what a message becomes on each.

Of the variants the one for the channel counts before one for all, then the one for the locale (`de-AT`, else `de`)
before one without.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from gateway.errors import Invalid
from gateway.records import LOCALE
from gateway.templates.syntax import Markup, Source

TEMPLATE_NAME = r"[a-z][a-z0-9._-]{0,63}"
MAX_TEXT = 16_384  # characters of one text of a variant

Text = Annotated[str, Meta(max_length=MAX_TEXT, description="with placeholders: `{{name}}`, `{{order.id}}`")]


def valid_template_name(text: str) -> bool:
    """Whether a template may be called so."""
    return re.fullmatch(TEMPLATE_NAME, text) is not None


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A text for one channel or kind of channel, and one locale. Absent: for all of them."""

    channel: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")] | None = None
    locale: Annotated[str, Meta(pattern=LOCALE, max_length=35)] | None = None
    text: Text
    title: Text = ""
    html: Text = ""


class Rendered(Struct, frozen=True, omit_defaults=True):
    """What a message says on a channel."""

    text: str
    title: str = ""
    html: str = ""


class _Compiled(Struct, frozen=True):
    variant: Variant
    text: Source
    title: Source
    html: Source


class Template:
    """The variants of one version, ready to be filled."""

    __slots__ = ("_variants", "paths")

    def __init__(self, variants: Sequence[_Compiled]) -> None:
        self._variants = {(c.variant.channel, c.variant.locale): c for c in variants}
        self.paths = {path for c in variants for part in (c.text, c.title, c.html) for path in part.paths}

    def render(
        self, values: Mapping[str, Any], channels: Sequence[str | None], locale: str | None, markup: Markup
    ) -> Rendered:
        """The variant of the first of `channels` (a channel's name, its kind, None for all) that has one, filled in.

        Raises Missing.
        """
        chosen = self._choose([*channels, None], locale)
        return Rendered(
            chosen.text.fill(values, markup),
            # a provider escapes a title, but for the one that puts it into Markdown as it is
            chosen.title.fill(values, markup if markup == "markdown" else "plain"),
            chosen.html.fill(values, "html"),
        )

    def check(self, values: Mapping[str, Any]) -> None:
        """Whether every variant can be filled: then none fails when its turn comes. Raises Missing."""
        for compiled in self._variants.values():
            for source in (compiled.text, compiled.title, compiled.html):
                source.fill(values, "plain")

    def _choose(self, channels: Sequence[str | None], locale: str | None) -> _Compiled:
        for channel in channels:
            for wanted in _locales(locale):
                found = self._variants.get((channel, wanted))
                if found is not None:
                    return found
        raise AssertionError("a template has a variant for everything")


def compile_template(variants: Sequence[Variant], field: str = "$.variants") -> Template:
    """Raises Invalid: braces that are no placeholder, two variants for the same, none for what no other is for."""
    seen: dict[tuple[str | None, str | None], int] = {}
    compiled = []
    for i, variant in enumerate(variants):
        at = f"{field}[{i}]"
        if seen.setdefault((variant.channel, variant.locale), i) != i:
            raise Invalid("a second variant for this channel and locale", code="template_invalid", field=at)
        compiled.append(
            _Compiled(
                variant,
                Source(variant.text, f"{at}.text"),
                Source(variant.title, f"{at}.title"),
                Source(variant.html, f"{at}.html"),
            )
        )
    if (None, None) not in seen:
        raise Invalid(
            "one variant must be for every channel and locale: neither `channel` nor `locale`",
            code="template_invalid",
            field=field,
        )
    return Template(compiled)


def _locales(locale: str | None) -> list[str | None]:
    """`de-AT-x` → de-AT-x, de-AT, de, None (RFC 4647 3.4, lookup)."""
    out: list[str | None] = []
    while locale:
        out.append(locale)
        locale = locale.rpartition("-")[0]
    return [*out, None]


class TemplateRow(Struct, omit_defaults=True):
    """One version of a template, as the store has it. Without variants: from here on there is none of the name."""

    name: str
    version: int
    variants: list[Variant]
    at: int  # Unix ms
    by: str = ""  # who wrote it
