import pytest

from gateway.contacts import normal
from gateway.errors import Invalid


@pytest.mark.parametrize(
    ("kind", "text", "kept"),
    [
        ("phone", "+4915112345678", "+4915112345678"),
        ("phone", "+49 (0) 1511 234-5678", "+4915112345678"),
        ("phone", "+1 650.253.0000", "+16502530000"),
        ("email", "Ada.L+x@Example.ORG", "Ada.L+x@example.org"),
        ("email", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("telegram", "-1001234567890", "-1001234567890"),
        ("fcm", "c" * 200, "c" * 200),
    ],
)
def test_what_is_kept(kind: str, text: str, kept: str) -> None:
    assert normal(kind, text, "$.contacts.x") == kept


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("phone", "015112345678"),
        ("phone", "+49"),
        ("phone", "+4912"),
        ("phone", "+999123456789"),
        ("phone", "+1 650 253 0000 ext. 5"),
        ("phone", "+1650CALLNOW"),
        ("phone", ""),
        ("email", "ada"),
        ("email", "ada@localhost"),
        ("email", "a b@example.org"),
        ("email", "a@example.org, b@example.org"),
        ("email", "Ada <a@example.org>"),
        ("email", "a@example.org\r\nBcc: b@example.org"),
        ("email", f"{'a' * 65}@example.org"),
        ("email", f"a@{'b.' * 130}org"),
        ("email", "ü@example.org"),
        ("email", "a@-example.org"),
        ("telegram", ""),
        ("telegram", "1\n2"),
        ("telegram", "1" * 4097),
    ],
)
def test_what_is_refused_names_the_field_and_not_the_address(kind: str, text: str) -> None:
    with pytest.raises(Invalid) as wrong:
        normal(kind, text, "$.contacts.x")
    assert (wrong.value.code, wrong.value.field) == ("address_invalid", "$.contacts.x")
    if len(text) > 5:
        assert text not in wrong.value.detail
