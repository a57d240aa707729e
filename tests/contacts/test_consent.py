import pytest

from gateway.contacts import allowed, category_of

CATEGORIES = {"security": ("otp", "login.*"), "marketing": ("promo-*", "news"), "second": ("otp", "*-late")}


@pytest.mark.parametrize(
    ("kind", "category"),
    [
        ("otp", "security"),
        ("login.new-device", "security"),
        ("login", "general"),
        ("promo-spring", "marketing"),
        ("Promo-spring", "general"),
        ("news", "marketing"),
        ("promo-late", "marketing"),
        ("parcel-late", "second"),
        ("", "general"),
        (None, "general"),
    ],
)
def test_a_type_has_the_first_category_that_names_it(kind: str | None, category: str) -> None:
    assert category_of(kind, CATEGORIES) == category


@pytest.mark.parametrize(
    ("said", "opt_in", "answer"),
    [
        ({}, False, (True, "")),
        ({}, True, (False, "no consent to news")),
        ({"sms/news": True}, True, (True, "sms/news: yes")),
        ({"sms/news": False}, False, (False, "sms/news: no")),
        ({"mail/news": False}, False, (True, "")),
        ({"mail/news": True}, True, (False, "no consent to news")),
        ({"sms/*": False}, False, (False, "sms/*: no")),
        ({"sms/*": False, "sms/news": True}, False, (True, "sms/news: yes")),
        ({"sms/*": True, "sms/news": False}, True, (False, "sms/news: no")),
        ({"*/news": True}, True, (True, "*/news: yes")),
        ({"*/news": True, "sms/*": False}, True, (False, "sms/*: no")),
        ({"*/news": False, "sms/*": True}, False, (False, "*/news: no")),
        ({"*/*": False}, False, (False, "*/*: no")),
        ({"*/*": False, "*/news": True}, False, (True, "*/news: yes")),
        ({"*/*": True}, True, (True, "*/*: yes")),
    ],
)
def test_the_most_particular_word_counts_and_a_no_before_a_yes(
    said: dict[str, bool], opt_in: bool, answer: tuple[bool, str]
) -> None:
    assert allowed(said, "sms", "news", opt_in=opt_in) == answer
