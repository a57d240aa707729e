from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Invalid
from gateway.templates import Missing, Source
from gateway.templates.syntax import Markup

VALUES: dict[str, Any] = {
    "name": "Ada",
    "n": 3,
    "x": 1.5,
    "yes": True,
    "none": None,
    "list": [1],
    "order": {"id": "A-1", "deep": {"er": "!"}},
    "evil": "{{name}} <b>&\"' *_[x](y)_*",
    "_u": "",
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("", ""),
        ("Hello {{name}}!", "Hello Ada!"),
        ("{{ name }}{{\tn }}", "Ada3"),
        ("{{x}} {{yes}}", "1.5 true"),
        ("{{order.id}} {{order.deep.er}}", "A-1 !"),
        ("{{_u}}|", "|"),
        ("{ name } }} {", "{ name } }} {"),
        (r"\{{name}}", "{{name}}"),
        (r"\{{{{name}}}}", "{{Ada}}"),
        # what a value holds is never read as a template
        ("{{evil}}", VALUES["evil"]),
    ],
)
def test_filled_in(text: str, filled: str) -> None:
    assert Source(text, "$").fill(VALUES, "plain") == filled


@pytest.mark.parametrize(
    ("markup", "filled"),
    [
        ("plain", "<i>{{name}} <b>&\"' *_[x](y)_*</i>"),
        ("html", "<i>{{name}} &lt;b&gt;&amp;&quot;&#x27; *_[x](y)_*</i>"),
        ("slack", "<i>{{name}} &lt;b&gt;&amp;\"' *_[x](y)_*</i>"),
        ("markdown", r"<i>\{\{name\}\} <b\>&" + "\"' " + r"\*\_\[x\]\(y\)\_\*</i>"),
    ],
)
def test_values_are_escaped_and_the_text_is_not(markup: Markup, filled: str) -> None:
    assert Source("<i>{{evil}}</i>", "$").fill(VALUES, markup) == filled


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{{gone}}", "gone"),
        ("{{order.gone}}", "order.gone"),
        ("{{name.first}}", "name.first"),
        ("{{none}}", "none"),
        ("{{list}}", "list"),
        ("{{order}}", "order"),
    ],
)
def test_a_value_that_is_not_there_is_named(text: str, path: str) -> None:
    with pytest.raises(Missing) as missing:
        Source(text, "$").fill(VALUES, "plain")
    assert missing.value.path == path


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "{{}}",
        "{{1}}",
        "{{a b}}",
        "{{a.}}",
        "{{.a}}",
        "{{a()}}",
        "{{#if a}}",
        "{{a|upper}}",
        "{{a",
        "{{a}",
        "{{__class__.x}} {{",
    ],
)
def test_braces_that_are_no_placeholder_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as wrong:
        Source(text, "$.variants[0].text")
    assert (wrong.value.code, wrong.value.field) == ("template_invalid", "$.variants[0].text")


def test_no_attribute_is_ever_looked_up() -> None:
    with pytest.raises(Missing):
        Source("{{name.__class__}}", "$").fill(VALUES, "plain")


@given(st.text(st.characters(exclude_characters="{\\")), st.text())
def test_text_without_braces_is_itself_and_a_value_goes_in_whole(text: str, value: str) -> None:
    assert Source(text + "{{v}}" + text, "$").fill({"v": value}, "plain") == text + value + text
