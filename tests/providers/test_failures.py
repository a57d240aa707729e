"""Whose fault it is that there is no answer."""

import aiohttp
import pytest

from gateway.ports import Outcome
from gateway.providers.failures import failed, way_is_good
from gateway.providers.resolver import AddressRefused


@pytest.mark.parametrize("error", [AddressRefused(), aiohttp.InvalidURL("x")])
def test_an_unusable_address_is_the_fault_of_whoever_gave_it(error: Exception) -> None:
    assert (failed(error, sent=False).kind, failed(error, sent=False).blame) == ("refused", "account")
    theirs = failed(error, sent=False, theirs=True)
    assert (theirs.kind, theirs.blame) == ("refused", "recipient")


@pytest.mark.parametrize(("sent", "kind"), [(False, "retry"), (True, "ambiguous")])
def test_a_failure_on_the_way_to_an_address_of_the_recipients_is_the_recipients(
    sent: bool, kind: str
) -> None:
    assert failed(TimeoutError(), sent=sent).blame == ""
    theirs = failed(TimeoutError(), sent=sent, theirs=True)
    assert (theirs.kind, theirs.blame) == (kind, "recipient")


@pytest.mark.parametrize("status", [0, 429, 503])
def test_what_fails_at_an_address_of_the_recipients_neither_opens_the_breaker_nor_closes_it(
    status: int,
) -> None:
    """With the rule taken out, 503 and 0 count as failures of the account, 429 as a success."""
    assert way_is_good(Outcome("retry", "x", "recipient", status=status)) is None
