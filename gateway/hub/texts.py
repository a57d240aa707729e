"""Templates: kept by name and version, filled in at publish, and once more for each channel that is tried.

A version never changes. A message names one (`otp`, the newest; `otp@3`) and keeps it: its values and the version are
in its body, so what a channel sends is of the text that it was accepted with.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from gateway.commit_people import PutTemplate
from gateway.config import Channel
from gateway.errors import Conflict, Invalid, Limited, NotFound
from gateway.hub.core import Core
from gateway.model import Item, Publish
from gateway.templates import Missing, Rendered, Template, TemplateRow, Variant, compile_template

# versions of a name that are kept; a message whose version is gone keeps the text of its acceptance
VERSIONS = 50
MAX_TEMPLATES = 1000
MAX_NAMES = 100_000  # with those that have ended: their versions go on


class Body(Struct, frozen=True, omit_defaults=True):
    """The body of a message that was made from a template."""

    text: str
    title: str = ""
    html: str = ""
    template: str = ""  # name@version
    values: dict[str, Any] = {}


_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(Body).decode
_decode_values = msgspec.json.Decoder(dict[str, Any]).decode


class Texts:
    def __init__(self, core: Core) -> None:
        self.core = core
        self._rows: dict[str, dict[int, TemplateRow]] = {}
        self._compiled: dict[tuple[str, int], Template] = {}
        self._writing: set[str] = set()  # names of which a version is being committed

    def load(self, rows: list[TemplateRow]) -> None:
        """What the store knows."""
        self._rows.clear()
        self._compiled.clear()
        self._writing.clear()
        for row in rows:
            self._rows.setdefault(row.name, {})[row.version] = row

    # -- for administrators ------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Of templates that there are, in order."""
        return sorted(name for name, rows in self._rows.items() if rows[max(rows)].variants)

    def row(self, name: str, version: int | None = None) -> TemplateRow:
        """A version, or the newest. Raises NotFound."""
        rows = self._rows.get(name, {})
        row = rows.get(max(rows, default=0) if version is None else version)
        if row is None or not row.variants:
            raise NotFound("no such template")
        return row

    def versions(self, name: str) -> list[int]:
        """Those that are kept, oldest first."""
        return sorted(version for version, row in self._rows.get(name, {}).items() if row.variants)

    def put(
        self,
        name: str,
        variants: list[Variant],
        by: str,
        expected: int | None,
        then: Callable[[TemplateRow], None],
    ) -> None:
        """Commit a new version; without variants, the name's end. `expected`: the newest must be this one. `then` is
        told when it is durable. Raises Invalid, Conflict, Limited, NotFound.
        """
        rows = self._rows.get(name, {})
        newest = max(rows, default=0)
        if variants:
            compile_template(variants)
            many = len(self._rows) >= MAX_NAMES or len(self.names()) >= MAX_TEMPLATES
            if name not in self.names() and many:
                raise Limited("as many templates as are allowed", code="too_many_templates", retry_after=60.0)
        else:
            self.row(name)
        if expected is not None and expected != newest:
            raise Conflict(f"the newest version is {newest}", code="version_conflict")
        if name in self._writing:
            raise Conflict("a version of it is being written", code="version_conflict")
        row = TemplateRow(name, newest + 1, variants, self.core.now(), by)

        def stored(op: PutTemplate) -> None:
            kept = self._rows.setdefault(name, {})
            kept[row.version] = row
            self._writing.discard(name)
            for old in [version for version in kept if version <= row.version - VERSIONS]:
                del kept[old]
                self._compiled.pop((name, old), None)
            then(row)

        self._writing.add(name)
        self.core.commit.ops.append(PutTemplate(row, VERSIONS, stored))
        self.core.wake()

    # -- for messages ------------------------------------------------------------------------------------------------

    def body(self, pub: Publish, field: str) -> tuple[bytes, str]:
        """The body of a message that names a template: the variant for every channel in its client's locale, and the
        values; and the version, as name@version. Raises Invalid: no such template; values that are no object, or lack
        what any of its variants needs.
        """
        row = self._named(pub.template or "")
        if row is None:
            raise Invalid("no such template", code="template_unknown", field=f"{field}.template")
        values: dict[str, Any] = {}
        if pub.body is not msgspec.UNSET:
            try:
                values = _decode_values(pub.body)
            except msgspec.DecodeError:
                raise Invalid(
                    "with a template, the body is an object of its values",
                    code="template_values",
                    field=f"{field}.body",
                ) from None
        template = self._template(row)
        try:
            template.check(values)
            rendered = template.render(values, (), self._locale(pub.to), "plain")
        except Missing as missing:
            raise Invalid(
                f"the template's `{missing.path}` {missing.why}",
                code="template_values",
                field=f"{field}.body.{missing.path}",
            ) from None
        version = f"{row.name}@{row.version}"
        return _encode(Body(rendered.text, rendered.title, rendered.html, version, values)), version

    def _named(self, text: str) -> TemplateRow | None:
        """The version that `name` or `name@version` means."""
        name, at, number = text.partition("@")
        rows = self._rows.get(name, {})
        newest = max(rows, default=0)
        versions = {str(version): version for version in rows}
        row = rows.get(versions.get(number, 0) if at else newest)
        return row if row is not None and row.variants and rows[newest].variants else None

    def for_channel(self, item: Item, channel: str) -> None:
        """Give a message the body that it has on this channel."""
        if item.x is None or item.x.template is None or item.body is None:
            return
        name, _, number = item.x.template.partition("@")
        row = self._rows.get(name, {}).get(int(number))
        if row is None:
            return
        body = _decode_body(item.body)
        rendered = self.on_channel(row, body.values, channel, self._locale(item.client))
        item.body = _encode(Body(rendered.text, rendered.title, rendered.html, body.template, body.values))

    def on_channel(
        self, row: TemplateRow, values: dict[str, Any], channel: str, locale: str | None
    ) -> Rendered:
        """What a version says on a channel. Raises Missing."""
        settings: Channel = self.core.config.channels[channel]
        names = (channel, str(settings.__struct_config__.tag))
        return self._template(row).render(values, names, locale, settings.markup)

    def everywhere(self, row: TemplateRow, values: dict[str, Any], locale: str | None) -> Rendered:
        """What a version says to a client that is here. Raises Missing."""
        return self._template(row).render(values, (), locale, "plain")

    def paths(self, row: TemplateRow) -> set[str]:
        """The values that a version needs."""
        return self._template(row).paths

    def _template(self, row: TemplateRow) -> Template:
        key = row.name, row.version
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = compile_template(row.variants)
        return found

    def _locale(self, client: str) -> str | None:
        row = self.core.clients.get(client)
        return row.record.locale if row is not None else None
