"""`channels`: how they are, and one attempt."""

import pytest

from tests.cli.support import ApiDouble, Runner

SMS = {
    "name": "sms", "kind": "twilio", "breaker": "open", "in_flight": 2, "waiting": 30, "paused_until": None,
    "last_hour": {"accepted": 7, "retry": 0, "refused": 1},
}  # fmt: skip


async def test_list(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/channels"] = (200, {"channels": [SMS]})
    head, sms = (await cli("channels", "list")).out.splitlines()
    assert head.split()[:3] == ["channel", "kind", "breaker"]
    assert sms.split() == ["sms", "twilio", "open", "2", "30", "7", "accepted,", "1", "refused"]
    assert (await cli("channels", "list", "--json")).json == [{"channels": [SMS]}]
    api.answers["GET /v1/channels"] = (200, {"channels": []})
    assert (await cli("channels", "list")).err == "no channels are configured\n"


@pytest.mark.parametrize(
    ("outcome", "code"), [("accepted", 0), ("delivered", 0), ("refused", 1), ("ambiguous", 1)]
)
async def test_one_attempt_ends_with_what_became_of_it(
    cli: Runner, api: ApiDouble, outcome: str, code: int
) -> None:
    api.answers["POST /v1/channels/sms/test"] = (200, {"outcome": outcome, "reason": "queued", "ms": 12})
    result = await cli("channels", "test", "sms", "--address", "+15550100", "--body", "hello")
    assert (result.code, result.out) == (code, f"sms: {outcome} after 12 ms: queued\n")
    assert api.asked[-1].body == {"address": "+15550100", "body": "hello"}


async def test_who_is_to_blame_is_said(cli: Runner, api: ApiDouble) -> None:
    told = {"outcome": "refused", "reason": "20003", "ms": 1, "blame": "credential"}
    api.answers["POST /v1/channels/sms/test"] = (200, told)
    result = await cli("channels", "test", "sms")
    assert result.out == "sms: refused after 1 ms: 20003, blames the credential\n"
    assert api.asked[-1].body == {}
