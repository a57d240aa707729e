"""The facade: from the configuration to principals, for headers and for tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import Authenticator
from gateway.config import ApiKey, Auth, Issuer
from gateway.errors import ConfigError, Unauthorized, Unavailable

NOW = 1_800_000_000.0
SECRET = "the gateway's own secret, 32 bytes or more"
API_SECRET = "a-long-and-random-secret"


class FixedClock:
    def now(self) -> int:
        return int(NOW * 1000)

    def wall(self) -> float:
        return NOW


def build(*issuers: Issuer, **more: Any) -> Authenticator:
    key = ApiKey(id="backend", secret=API_SECRET, scopes=("publish",))
    auth = Auth(**{"jwt_secret": SECRET, "api_keys": (key,), "issuers": issuers} | more)
    return Authenticator(auth, FixedClock(), lambda client: 0)


async def test_a_header_holds_a_key_or_a_token() -> None:
    authenticator = build()
    key = await authenticator.authenticate_bearer(f"Bearer backend.{API_SECRET}")
    assert (key.kind, key.name) == ("key", "backend")
    token = authenticator.mint("alice", 60, {"pub": ["bob"]})
    for scheme in ("Bearer", "bearer", "BEARER"):
        alice = await authenticator.authenticate_bearer(f"{scheme} {token}")
        assert (alice.kind, alice.name, alice.pub) == ("client", "alice", ("bob",))
    assert authenticator.try_token(token) is await authenticator.authenticate_token(token)


HEADERS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer a.b.c.d",
    "Basic YTpi.x",
    "Bearer\tbackend.x",
    "Bearer a.b" + "c" * 9000,
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
async def test_what_is_no_bearer_credential(header: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        await build().authenticate_bearer(header)
    assert caught.value.code == "unauthorized"


async def test_neither_kind_is_taken_for_the_other() -> None:
    authenticator = build()
    with pytest.raises(Unauthorized) as caught:
        await authenticator.authenticate_token(f"backend.{API_SECRET}")
    assert caught.value.code == "token_invalid"
    with pytest.raises(Unauthorized) as caught:
        await authenticator.authenticate_bearer("Bearer backend.wrong")
    assert caught.value.code == "key_invalid"
    with pytest.raises(Unauthorized) as caught:
        await authenticator.authenticate_bearer(f"Bearer backend.{API_SECRET}.x")
    assert caught.value.code == "token_invalid"


async def test_every_source_of_keys(forge: Any, signers: Any, key_server: Any, tmp_path: Path) -> None:
    rsa, es, ed = (signers.good[alg] for alg in ("RS256", "ES256", "EdDSA"))
    (tmp_path / "rsa.pem").write_bytes(rsa.pem)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [ed.jwk("k")]}))
    key_server.keys = [es.jwk("k")]
    authenticator = build(
        Issuer(name="pem", algorithms=("ES256",), public_key=es.pem.decode()),
        Issuer(name="pem file", algorithms=("RS256",), public_key_file=str(tmp_path / "rsa.pem")),
        Issuer(name="jwks file", algorithms=("EdDSA",), jwks_file=str(tmp_path / "keys.json")),
        Issuer(name="jwks url", algorithms=("ES256", "RS256"), jwks_url=key_server.url),
        Issuer(name="secret", algorithms=("HS256",), secret=SECRET),
    )
    authenticator.start()
    try:
        for name, signer in (("pem", es), ("pem file", rsa), ("jwks file", ed), ("jwks url", es)):
            token = signer.token({"iss": name, "sub": "alice", "exp": NOW + 60}, kid="k")
            assert (await authenticator.authenticate_token(token)).name == "alice"
        token = forge.own({"iss": "secret", "sub": "alice", "exp": NOW + 60})
        assert (await authenticator.authenticate_token(token)).name == "alice"
    finally:
        await authenticator.close()
    assert not authenticator._tasks


async def test_a_start_does_not_wait_for_a_url_and_an_end_does_not_hang(
    key_server: Any, signers: Any
) -> None:
    key_server.answer = b"out of order"
    authenticator = build(Issuer(name="idp", algorithms=("ES256",), jwks_url=key_server.url))
    authenticator.start()
    try:
        assert (await authenticator.authenticate_bearer(f"Bearer backend.{API_SECRET}")).name == "backend"
        token = signers.good["ES256"].token({"iss": "idp", "sub": "alice", "exp": NOW + 60}, kid="k")
        assert authenticator.try_token(token) is None
        with pytest.raises(Unavailable) as caught:
            await authenticator.authenticate_bearer(f"Bearer {token}")
        assert (caught.value.code, caught.value.http) == ("keys_unavailable", 503)
        await key_server.until_asked(1)
    finally:
        await authenticator.close()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"jwt_secret": ""}, "auth.jwt_secret"),
        ({"jwt_secret": "short"}, "auth.jwt_secret"),
        ({"issuers": (Issuer(name="a", algorithms=("HS256",), secret="short"),)}, "auth.issuers[0].secret"),
        (
            {"issuers": (Issuer(name="a", algorithms=("RS256",), public_key="no key"),)},
            "auth.issuers[0].public_key",
        ),
        (
            {"issuers": (Issuer(name="a", algorithms=("RS256",), public_key_file="/nowhere/a.pem"),)},
            "auth.issuers[0].public_key_file",
        ),
        (
            {"issuers": (Issuer(name="a", algorithms=("RS256",), jwks_file="/nowhere/a.json"),)},
            "auth.issuers[0].jwks_file",
        ),
    ],
)
def test_keys_that_cannot_be_used_are_named_at_the_start(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**wrong)
    assert caught.value.field == field
    assert caught.value.detail.startswith(f"{field}: ")


def test_a_public_key_as_a_shared_secret_is_refused(signers: Any) -> None:
    pem = signers.good["RS256"].pem.decode()
    with pytest.raises(ConfigError) as caught:
        build(Issuer(name="a", algorithms=("HS256",), secret=pem))
    assert caught.value.field == "auth.issuers[0].secret"
    assert pem not in caught.value.detail
