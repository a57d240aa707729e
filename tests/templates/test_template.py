import pytest

from gateway.errors import Invalid
from gateway.templates import Missing, Rendered, Variant, compile_template

ALL = Variant(text="all {{n}}")
VARIANTS = [
    ALL,
    Variant(locale="de", text="alle {{n}}"),
    Variant(locale="de-AT", text="olle {{n}}"),
    Variant(channel="slack", text="*slack* {{n}}"),
    Variant(channel="sms", locale="de", text="kurz {{n}}"),
    Variant(channel="mail", text="t {{n}}", title="T {{n}}", html="<b>{{n}}</b>"),
]


@pytest.mark.parametrize(
    ("channels", "locale", "text"),
    [
        ([], None, "all <"),
        ([], "fr", "all <"),
        ([], "de", "alle <"),
        ([], "de-CH", "alle <"),
        ([], "de-AT", "olle <"),
        ([], "de-AT-x", "olle <"),
        (["slack"], None, "*slack* <"),
        # the channel counts before the locale
        (["slack"], "de", "*slack* <"),
        (["sms"], "de-AT", "kurz <"),
        (["sms"], "fr", "all <"),
        (["twilio-eu", "sms"], "de", "kurz <"),
    ],
)
def test_the_variant_that_is_taken(channels: list[str | None], locale: str | None, text: str) -> None:
    assert compile_template(VARIANTS).render({"n": "<"}, channels, locale, "plain") == Rendered(text)


def test_each_text_is_escaped_for_its_place() -> None:
    rendered = compile_template(VARIANTS).render({"n": "<&"}, ["mail"], None, "slack")
    assert rendered == Rendered("t &lt;&amp;", "T <&", "<b>&lt;&amp;</b>")


def test_a_value_that_any_variant_needs_is_needed() -> None:
    template = compile_template([ALL, Variant(channel="mail", text="x", html="{{link}}")])
    assert template.paths == {"n", "link"}
    template.check({"n": 1, "link": "l"})
    with pytest.raises(Missing, match="link: is missing"):
        template.check({"n": 1})


@pytest.mark.parametrize(
    ("variants", "field"),
    [
        ([], "$.variants"),
        ([Variant(locale="de", text="x")], "$.variants"),
        ([Variant(channel="sms", text="x")], "$.variants"),
        ([ALL, ALL], "$.variants[1]"),
        ([Variant(text="{{")], "$.variants[0].text"),
        ([ALL, Variant(channel="m", text="", title="{{1}}")], "$.variants[1].title"),
        ([Variant(text="", html="{{")], "$.variants[0].html"),
    ],
)
def test_what_is_no_template_is_refused(variants: list[Variant], field: str) -> None:
    with pytest.raises(Invalid) as wrong:
        compile_template(variants)
    assert (wrong.value.code, wrong.value.field) == ("template_invalid", field)
