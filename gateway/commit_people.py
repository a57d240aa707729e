"""What one commit carries about people: templates, suppressions, and the audit log of who changed what."""

from collections.abc import Callable

from gateway.records import AuditEntry, Suppression
from gateway.templates import TemplateRow


class PutTemplate:
    """Write a version of a template; of its name only the newest `keep` stay."""

    __slots__ = ("keep", "row", "then")

    def __init__(
        self, row: TemplateRow, keep: int, then: Callable[["PutTemplate"], None] | None = None
    ) -> None:
        self.row = row
        self.keep = keep
        self.then = then


class PutSuppressions:
    """Write them; of those that are there already, `why`, `at` and `by` change."""

    __slots__ = ("rows", "then")

    def __init__(
        self, rows: list[Suppression], then: Callable[["PutSuppressions"], None] | None = None
    ) -> None:
        self.rows = rows
        self.then = then


class DropSuppressions:
    """Delete those of an address; of this channel and category where they are not empty."""

    __slots__ = ("address", "category", "channel", "count", "then")

    def __init__(
        self,
        address: str,
        channel: str = "",
        category: str = "",
        then: Callable[["DropSuppressions"], None] | None = None,
    ) -> None:
        self.address = address
        self.channel = channel
        self.category = category
        self.then = then
        self.count = 0  # result


class Audit:
    """A line of the audit log, durable with the act that it tells of."""

    __slots__ = ("entry", "then")

    def __init__(self, entry: AuditEntry, then: Callable[["Audit"], None] | None = None) -> None:
        self.entry = entry
        self.then = then
