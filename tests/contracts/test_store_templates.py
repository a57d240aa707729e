"""Templates: every version as it was written, the newest few of each name."""

from gateway.commit_people import PutTemplate
from gateway.templates import TemplateRow, Variant
from tests.contracts.storekit import Kit


def row(name: str, version: int, *variants: Variant) -> TemplateRow:
    return TemplateRow(name, version, list(variants), 100 + version, "api:ops")


FULL = Variant(channel="mail", locale="de-AT", text="Grüße, {{name}} ☃", title="T", html="<b>{{name}}</b>")


def test_they_come_back_whole_and_in_order(kit: Kit) -> None:
    rows = [row("a", 1, Variant(text="x"), FULL), row("a", 2), row("b", 1, FULL)]
    kit.do(PutTemplate(rows[2], 9), PutTemplate(rows[0], 9))
    kit.do(PutTemplate(rows[1], 9))
    assert kit.reopen().templates == rows
    assert kit.crash().templates == rows


def test_of_a_name_only_the_newest_stay(kit: Kit) -> None:
    kit.do(PutTemplate(row("b", 1, FULL), 2))
    for version in range(1, 5):
        kit.do(PutTemplate(row("a", version, FULL), 2))
    assert [(t.name, t.version) for t in kit.reopen().templates] == [("a", 3), ("a", 4), ("b", 1)]
