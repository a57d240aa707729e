"""`token`, judged by somebody else's library."""

import time

import jwt
import pytest

from gateway.config import Config
from tests.cli.support import Runner


async def test_only_the_token_is_printed(cli: Runner, started: Config) -> None:
    before = int(time.time())
    result = await cli("token", "alice")
    assert (result.code, result.err) == (0, "")
    claims = jwt.decode(result.out.removesuffix("\n"), started.auth.jwt_secret, algorithms=["HS256"])
    assert claims["sub"] == "alice"
    assert before + 3600 <= claims["exp"] <= time.time() + 3602
    assert "pub" not in claims


async def test_claims(cli: Runner, started: Config) -> None:
    result = await cli(
        "token", "bot-7", "--ttl", "2h", "--pub", "team-*", "boss", "--may", "critical", "--may", "fallback"
    )
    claims = jwt.decode(result.out.strip(), started.auth.jwt_secret, algorithms=["HS256"])
    assert claims["pub"] == ["team-*", "boss"]
    assert claims["may"] == ["critical", "fallback"]
    assert claims["exp"] - claims["iat"] in {7200, 7201}


async def test_the_audience_of_the_configuration(
    cli: Runner, started: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOTGW_AUTH__AUDIENCE", "gateway-a")
    result = await cli("token", "alice", "--json")
    (told,) = result.json
    assert told["client"] == "alice"
    assert jwt.decode(told["token"], started.auth.jwt_secret, algorithms=["HS256"], audience="gateway-a")


async def test_too_long_a_claim_names_its_option(cli: Runner, started: Config) -> None:
    result = await cli("token", "alice", "--pub", "x" * 200)
    assert result.code == 2
    assert result.error.startswith("bot-gateway: --pub: ")


async def test_without_a_secret(cli: Runner) -> None:
    result = await cli("token", "alice")
    assert result.code == 2
    assert "data/secrets.toml" in result.error
