"""`clients`: who is here, and who is expected."""

from tests.cli.support import ApiDouble, Runner

ALICE = {
    "client": "alice",
    "status": "online",
    "queued": 3,
    "record": {"fallback": ["hook"]},
    "last_proof": 1_700_000_000_000,
    "via": "ws",
    "session": {"epoch": "k3", "next": 18, "in_flight": 2, "window": 64},
    "not_before": 1_700_000_000,
}
BOB = {"client": "bob", "status": "offline", "queued": 0, "record": {}, "away_since": 1_700_000_000_000}


async def test_list(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/clients"] = (200, {"clients": [ALICE, BOB]})
    head, alice, bob = (await cli("clients", "list")).out.splitlines()
    assert head.split()[:3] == ["client", "status", "via"]
    assert alice.split()[:5] == ["alice", "online", "ws", "3", "2"]
    assert bob.split() == ["bob", "offline", "0", "0"]
    assert (await cli("clients", "list", "--json")).json == [ALICE, BOB]


async def test_list_says_that_there_are_more(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/clients"] = (200, {"clients": [ALICE, BOB], "after": "bob"})
    result = await cli("clients", "list", "--limit", "1")
    assert len(result.out.splitlines()) == 2
    assert result.err == "there are more: --limit\n"


async def test_show(cli: Runner, api: ApiDouble) -> None:
    api.answers["GET /v1/clients/alice"] = (200, ALICE)
    out = (await cli("clients", "show", "alice")).out
    assert out.startswith("alice  online\n")
    assert "session epoch k3, next seq 18, 2 in flight" in out
    assert 'record {"fallback":["hook"]}' in out
    api.problem("GET /v1/clients/bob", 404, "not_found")
    assert (await cli("clients", "show", "bob")).code == 3


async def test_disconnect(cli: Runner, api: ApiDouble) -> None:
    call = "POST /v1/clients/alice/disconnect"
    api.answers[call] = (200, {"disconnected": True})
    assert (await cli("clients", "disconnect", "alice")).out == "alice: disconnected\n"
    api.answers[call] = (200, {"disconnected": False})
    result = await cli("clients", "disconnect", "alice", "--ban", "1h")
    assert result.out == "alice: was not connected, banned for 3600 s\n"
    assert [asked.body for asked in api.asked] == [{}, {"ban": 3600.0}]
