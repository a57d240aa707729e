"""Whose fault it is that there is no answer."""

import aiohttp
import pytest

from gateway.providers.failures import failed
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
