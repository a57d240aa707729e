"""Verification of JWTs: what is accepted, and every known way to be talked into accepting more."""

import json
from collections.abc import Callable
from typing import Any, cast

import jwt
import pytest

from gateway.auth.jwks import FixedKeys, KeySource
from gateway.auth.keys import Key, pem_key, secret_key
from gateway.auth.tokens import MAX_TOKEN, Tokens
from gateway.errors import Invalid, Unauthorized

NOW = 1_800_000_000.0
OTHER_SECRET = "the secret of another issuer, quite long"
ALL = frozenset({"RS256", "ES256", "EdDSA"})


class NotBefore:
    """Not-before times of clients, changeable by the test."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def __call__(self, client: str) -> int:
        return self.at.get(client, 0)


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": int(NOW) + 60} | more


def refused(tokens: Tokens, token: str, now: float = NOW) -> tuple[str, str | None]:
    with pytest.raises(Unauthorized) as caught:
        tokens.try_verify(token, now)
    assert token not in caught.value.detail
    return caught.value.code, caught.value.field


@pytest.fixture
def not_before() -> NotBefore:
    return NotBefore()


@pytest.fixture
def make(forge: Any, signers: Any, not_before: NotBefore) -> Callable[..., Tokens]:
    """Tokens with one issuer of each kind."""

    def build(**more: Any) -> Tokens:
        issuers: dict[str, KeySource] = {
            alg: FixedKeys((pem_key(signers.good[alg].pem, frozenset({alg})),)) for alg in sorted(ALL)
        }
        issuers["shared"] = FixedKeys((secret_key(OTHER_SECRET),))
        return Tokens(forge.secret, issuers, not_before, **more)

    return build


# ---- what is accepted


def test_the_gateways_own_token_without_iss(make: Callable[..., Tokens], forge: Any) -> None:
    token = forge.own(
        claims(iat=NOW - 1, pub=["bob", "team-*"], pools=["support"], may=["critical", "fly"], jti="t1")
    )
    alice = make().try_verify(token, NOW)
    assert alice is not None
    assert (alice.kind, alice.name, alice.publisher) == ("client", "alice", "alice")
    assert (alice.exp, alice.iat, alice.token_id) == (int(NOW) + 60, int(NOW) - 1, "t1")
    assert (alice.pub, sorted(alice.pools), sorted(alice.may)) == (
        ("bob", "team-*"),
        ["support"],
        ["critical"],
    )
    assert alice.scopes == frozenset()


@pytest.mark.parametrize("alg", sorted(ALL))
def test_every_asymmetric_kind(make: Callable[..., Tokens], signers: Any, alg: str) -> None:
    token = signers.good[alg].token(claims(iss=alg))
    alice = make().try_verify(token, NOW)
    assert alice is not None
    assert alice.name == "alice"
    assert alice.pub is None
    assert alice.token_id


def test_a_secret_shared_with_an_issuer(make: Callable[..., Tokens]) -> None:
    token = jwt.encode(claims(iss="shared"), OTHER_SECRET, algorithm="HS256")
    assert make().try_verify(token, NOW) is not None


def test_a_kid_of_an_issuer_with_one_unnamed_key_is_only_a_remark(
    make: Callable[..., Tokens], signers: Any
) -> None:
    assert make().try_verify(signers.good["ES256"].token(claims(iss="ES256"), kid="x"), NOW) is not None


# ---- confusion and forgery: one answer for all of it


def test_hs256_with_the_public_pem_as_secret(make: Callable[..., Tokens], forge: Any, signers: Any) -> None:
    for alg, signer in signers.good.items():
        payload = json.dumps(claims(iss=alg)).encode()
        for pem in (signer.pem, signer.pem.strip(), signer.pem.replace(b"\n", b"")):
            for header in (b'{"alg":"HS256"}', b'{"alg":"%b"}' % alg.encode()):
                assert refused(make(), forge.raw(header, payload, pem)) == ("token_invalid", None)


def test_a_public_key_is_refused_as_a_secret(signers: Any) -> None:
    with pytest.raises(ValueError, match="not a secret"):
        secret_key(signers.good["RS256"].pem.decode())


def test_an_asymmetric_token_for_an_issuer_with_a_secret(make: Callable[..., Tokens], signers: Any) -> None:
    for alg in ALL:
        assert refused(make(), signers.good[alg].token(claims(iss="shared")))[0] == "token_invalid"
        assert refused(make(), signers.good[alg].token(claims()))[0] == "token_invalid"


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256", "hs256", "HS512", "RS256", "PS256"]
)
def test_no_signature(make: Callable[..., Tokens], forge: Any, alg: str) -> None:
    for iss in ({}, {"iss": "RS256"}, {"iss": "shared"}):
        for token in forge.unsigned(claims(**iss), alg):
            assert refused(make(), token) == ("token_invalid", None)


def test_a_header_that_lies_about_the_algorithm(
    make: Callable[..., Tokens], signers: Any, forge: Any
) -> None:
    """Though the signature is right for the key."""
    for alg in ("none", "HS512", "ES256", ""):
        payload = json.dumps(claims()).encode()
        header = json.dumps({"alg": alg}).encode()
        assert refused(make(), forge.raw(header, payload, forge.secret.encode())) == ("token_invalid", None)


def test_the_key_of_one_issuer_proves_nothing_for_another(make: Callable[..., Tokens], signers: Any) -> None:
    tokens = make()
    assert refused(tokens, signers.good["ES256"].token(claims(iss="RS256")))[0] == "token_invalid"
    assert refused(tokens, jwt.encode(claims(), OTHER_SECRET, algorithm="HS256"))[0] == "token_invalid"
    own = jwt.encode(claims(iss="shared"), "the gateway's own secret, 32 bytes or more", algorithm="HS256")
    assert refused(tokens, own)[0] == "token_invalid"


def test_an_untrusted_key_of_the_right_kind(make: Callable[..., Tokens], signers: Any) -> None:
    for alg in ALL:
        assert refused(make(), signers.evil[alg].token(claims(iss=alg)))[0] == "token_invalid"


@pytest.mark.parametrize("iss", ["unknown", "", "RS256 ", "rs256", 5, ["RS256"], {"a": 1}])
def test_an_unknown_issuer(make: Callable[..., Tokens], forge: Any, iss: Any) -> None:
    assert refused(make(), forge.own(claims(iss=iss))) == ("token_invalid", None)


def test_a_key_within_the_token_is_not_looked_at(make: Callable[..., Tokens], signers: Any) -> None:
    for alg in ALL:
        evil = signers.evil[alg]
        token = evil.token(claims(iss=alg), jwk=evil.jwk("k"), kid="k")
        assert refused(make(), token)[0] == "token_invalid"


def test_critical_extensions_are_refused(make: Callable[..., Tokens], forge: Any) -> None:
    for crit in (["b64"], ["exp"], [], "b64", None):
        assert refused(make(), forge.own(claims(), crit=crit, b64=True)) == ("token_invalid", None)


def test_a_changed_claim_or_signature(make: Callable[..., Tokens], forge: Any) -> None:
    tokens, token = make(), forge.own(claims())
    assert tokens.try_verify(token, NOW) is not None
    header, payload, signature = token.split(".")
    _, other, _ = forge.own(claims(sub="bob")).split(".")
    swapped = "B" if signature[0] != "B" else "C"
    for forged in (f"{header}.{other}.{signature}", f"{header}.{payload}.{swapped}{signature[1:]}"):
        assert refused(tokens, forged) == ("token_invalid", None)


def test_a_second_spelling_of_the_same_signature(make: Callable[..., Tokens], forge: Any) -> None:
    """32 bytes are 43 characters, the last of which has two bits to spare."""
    tokens, token = make(), forge.own(claims())
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    assert refused(tokens, twin) == ("token_invalid", None)
    assert refused(tokens, token + "=") == ("token_invalid", None)


MALFORMED = [
    "",
    ".",
    "..",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    "é.é.é",
    "\udcff.a.b",
    " . . ",
    "e30.e30.AAAA",
    "e30.e30.A",
    "a" * (MAX_TOKEN + 1),
]


@pytest.mark.parametrize("token", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_token(make: Callable[..., Tokens], token: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        make().try_verify(token, NOW)
    assert (caught.value.code, caught.value.field) == ("token_invalid", None)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b"[]", b"{}"),
        (b'"HS256"', b"{}"),
        (b'{"alg":"HS256"', b"{}"),
        (b'{"alg":5}', b"{}"),
        (b'{"alg":["HS256"]}', b"{}"),
        (b'{"alg":null}', b"{}"),
        (b'{"kid":"a"}', b"{}"),
        (b'{"alg":"HS256","kid":5}', b"{}"),
        (b'{"alg":"HS256","a":"\xff"}', b"[]"),
        (b'{"alg":"HS256"}', b"[]"),
        (b'{"alg":"HS256"}', b"null"),
        (b'{"alg":"HS256"}', b"\xff\xfe"),
        (b'{"alg":"HS256"}', b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"),
        (b'{"alg":"HS256","a":' + b"[" * 3000 + b"]" * 3000 + b"}", b"{}"),
    ],
)
def test_what_is_no_jwt_even_if_it_is_signed(
    make: Callable[..., Tokens], forge: Any, header: bytes, payload: bytes
) -> None:
    assert refused(make(), forge.raw(header, payload, forge.secret.encode())) == ("token_invalid", None)


def test_a_token_may_have_8_kib_and_not_a_byte_more(make: Callable[..., Tokens], forge: Any) -> None:
    pad = 0
    while len(forge.own(claims(x="x" * (pad + 1)))) <= MAX_TOKEN:
        pad += 1
        if len(forge.own(claims(x="x" * (pad + 200)))) <= MAX_TOKEN:
            pad += 199
    assert make().try_verify(forge.own(claims(x="x" * pad)), NOW) is not None
    assert refused(make(), forge.own(claims(x="x" * (pad + 1)))) == ("token_invalid", None)


# ---- claims


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "a/b"}, "sub"),
        ({"sub": "pool:a"}, "sub"),
        ({"sub": "a\n"}, "sub"),
        ({"sub": "a\u0000"}, "sub"),
        ({"sub": "+"}, "sub"),
        ({"sub": "a" * 65}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": "1900000000"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"exp": 10**30}, "exp"),
        ({"iat": "x"}, "iat"),
        ({"nbf": []}, "nbf"),
        ({"pub": "bob"}, "pub"),
        ({"pub": [5]}, "pub"),
        ({"pub": [""]}, "pub"),
        ({"pub": ["x" * 129]}, "pub"),
        ({"pub": ["a"] * 257}, "pub"),
        ({"pools": "support"}, "pools"),
        ({"pools": ["a/b"]}, "pools"),
        ({"pools": ["a"] * 65}, "pools"),
        ({"may": "critical"}, "may"),
        ({"may": ["x"] * 17}, "may"),
        ({"jti": 5}, "jti"),
        ({"jti": "x" * 129}, "jti"),
        ({"aud": 5}, "aud"),
    ],
)
def test_a_wrong_claim_is_named(
    make: Callable[..., Tokens], forge: Any, wrong: dict[str, Any], field: str
) -> None:
    assert refused(make(), forge.own(claims(**wrong))) == ("token_invalid", field)


@pytest.mark.parametrize("missing", ["sub", "exp"])
def test_a_missing_claim_is_named(make: Callable[..., Tokens], forge: Any, missing: str) -> None:
    kept = {name: value for name, value in claims().items() if name != missing}
    assert refused(make(), forge.own(kept)) == ("token_invalid", missing)


def test_broken_utf8_in_a_claim(make: Callable[..., Tokens], forge: Any) -> None:
    payload = b'{"exp":1900000000,"sub":"\xff"}'
    code, _ = refused(make(), forge.raw(b'{"alg":"HS256"}', payload, forge.secret.encode()))
    assert code == "token_invalid"


def test_claims_are_judged_only_after_the_signature(make: Callable[..., Tokens], forge: Any) -> None:
    forged = forge.raw(b'{"alg":"HS256"}', b'{"sub":"a/b","exp":1}', b"a wrong secret" * 3)
    assert refused(make(), forged) == ("token_invalid", None)


# ---- time


def test_exp_is_exact(make: Callable[..., Tokens], forge: Any) -> None:
    tokens = make(leeway=30)
    token = forge.own(claims(exp=NOW + 10))
    assert tokens.try_verify(token, NOW + 9.9) is not None
    # remembered or not, it ends at the same moment
    for one in (tokens, make(leeway=30)):
        assert refused(one, token, NOW + 10) == ("token_expired", "exp")


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_nbf_and_iat_have_a_leeway(make: Callable[..., Tokens], forge: Any, name: str) -> None:
    token = forge.own(claims(**{name: NOW + 5}))
    assert refused(make(leeway=4.5), token) == ("token_early", name)
    assert make(leeway=5).try_verify(token, NOW) is not None
    assert make().try_verify(token, NOW + 5) is not None


def test_audience(make: Callable[..., Tokens], forge: Any) -> None:
    tokens = make(audience="chat")
    for aud in ("chat", ["other", "chat"]):
        assert tokens.try_verify(forge.own(claims(aud=aud)), NOW) is not None
    wrong: dict[str, Any]
    for wrong in ({}, {"aud": None}, {"aud": "cha"}, {"aud": "chat2"}, {"aud": []}, {"aud": ["other"]}):
        assert refused(tokens, forge.own(claims(**wrong))) == ("token_invalid", "aud")
    assert make().try_verify(forge.own(claims(aud="whatever")), NOW) is not None


# ---- not-before, and what is remembered


def test_not_before_refuses_older_tokens(
    make: Callable[..., Tokens], forge: Any, not_before: NotBefore
) -> None:
    tokens = make()
    not_before.at["alice"] = int(NOW)
    assert refused(tokens, forge.own(claims(iat=NOW - 1))) == ("token_revoked", "iat")
    assert refused(tokens, forge.own(claims(iat=NOW - 0.5))) == ("token_revoked", "iat")
    assert refused(tokens, forge.own(claims())) == ("token_revoked", "iat")
    assert tokens.try_verify(forge.own(claims(iat=NOW)), NOW) is not None
    assert tokens.try_verify(forge.own(claims(sub="bob")), NOW) is not None


def test_a_remembered_token_is_revoked_as_well(
    make: Callable[..., Tokens], forge: Any, not_before: NotBefore
) -> None:
    tokens, token = make(), forge.own(claims(iat=NOW - 10))
    assert tokens.try_verify(token, NOW) is not None
    assert tokens.try_verify(token, NOW) is not None
    not_before.at["alice"] = int(NOW)
    assert refused(tokens, token) == ("token_revoked", "iat")
    del not_before.at["alice"]
    assert tokens.try_verify(token, NOW) is not None


class CountingKey:
    """A key that counts its work."""

    def __init__(self, key: Key) -> None:
        self.key, self.alg, self.kid, self.calls = key, key.alg, key.kid, 0

    def verify(self, signed: bytes, signature: bytes) -> bool:
        self.calls += 1
        return self.key.verify(signed, signature)


@pytest.fixture
def counted(signers: Any, forge: Any, not_before: NotBefore) -> tuple[Tokens, CountingKey]:
    key = CountingKey(pem_key(signers.good["ES256"].pem, ALL))
    source = FixedKeys((cast(Key, key),))
    return Tokens(forge.secret, {"ES256": source}, not_before, cache_size=3), key


def test_a_reconnect_costs_no_signature(counted: tuple[Tokens, CountingKey], signers: Any) -> None:
    tokens, key = counted
    token = signers.good["ES256"].token(claims(iss="ES256"))
    first = tokens.try_verify(token, NOW)
    assert all(tokens.try_verify(token, NOW + i) is first for i in range(50))
    assert key.calls == 1


def test_what_is_remembered_is_bounded_and_the_least_used_goes(
    counted: tuple[Tokens, CountingKey], signers: Any
) -> None:
    tokens, key = counted
    made = [signers.good["ES256"].token(claims(iss="ES256", sub=f"c{i}")) for i in range(4)]
    for token in (made[0], made[1], made[2], made[0], made[3]):
        tokens.try_verify(token, NOW)
    assert key.calls == 4
    assert len(tokens._cache) == 3
    tokens.try_verify(made[0], NOW)
    assert key.calls == 4
    tokens.try_verify(made[1], NOW)
    assert key.calls == 5


def test_refused_tokens_are_not_remembered(counted: tuple[Tokens, CountingKey], signers: Any) -> None:
    tokens, _ = counted
    refused(tokens, signers.good["ES256"].token(claims(iss="ES256", exp=NOW - 1)))
    refused(tokens, signers.evil["ES256"].token(claims(iss="ES256")))
    assert len(tokens._cache) == 0


# ---- minting


def test_a_minted_token_is_accepted_and_is_a_plain_jwt(make: Callable[..., Tokens], forge: Any) -> None:
    tokens = make(audience="chat")
    grants = {"pub": ["bob"], "pools": ["support"], "may": ["fallback"], "jti": "j"}
    token = tokens.mint("alice", 60, grants, NOW + 0.5)
    alice = tokens.try_verify(token, NOW + 0.5)
    assert alice is not None
    assert (alice.name, alice.exp, alice.iat) == ("alice", int(NOW) + 61, int(NOW))
    assert (alice.pub, sorted(alice.pools), sorted(alice.may)) == (("bob",), ["support"], ["fallback"])
    assert alice.token_id == "j"
    decoded = jwt.decode(
        token,
        forge.secret,
        algorithms=["HS256"],
        options={"verify_signature": True, "verify_exp": False, "verify_iat": False, "verify_aud": False},
    )
    assert decoded == {"sub": "alice", "iat": int(NOW), "exp": int(NOW) + 61, "aud": "chat"} | grants


def test_a_minted_token_says_only_what_was_granted(make: Callable[..., Tokens]) -> None:
    alice = make().try_verify(make().mint("alice", 60, {}, NOW), NOW)
    assert alice is not None
    assert (alice.pub, alice.pools, alice.may) == (None, frozenset(), frozenset())
    bob = make().try_verify(make().mint("bob", 60, {"pub": []}, NOW), NOW)
    assert bob is not None
    assert not bob.may_publish_to("alice")


def test_a_token_minted_in_the_second_of_a_revocation_outlives_it(
    make: Callable[..., Tokens], not_before: NotBefore
) -> None:
    tokens = make(leeway=1)
    before = tokens.mint("alice", 60, {}, NOW + 0.2)
    not_before.at["alice"] = int(NOW + 0.3) + 1
    after = tokens.mint("alice", 60, {}, NOW + 0.4)
    assert refused(tokens, before, NOW + 0.5) == ("token_revoked", "iat")
    assert tokens.try_verify(after, NOW + 0.5) is not None
    # a ban that lasts is not minted around
    not_before.at["alice"] = int(NOW) + 3600
    assert refused(tokens, tokens.mint("alice", 60, {}, NOW), NOW)[0] == "token_revoked"


@pytest.mark.parametrize(
    ("client", "ttl", "grants", "field"),
    [
        ("a/b", 60, {}, "$.client"),
        ("alice", 0, {}, "$.ttl"),
        ("alice", -5, {}, "$.ttl"),
        ("alice", float("nan"), {}, "$.ttl"),
        ("alice", float("inf"), {}, "$.ttl"),
        ("alice", 1e12, {}, "$.ttl"),
        ("alice", 60, {"sub": "bob"}, "$.sub"),
        ("alice", 60, {"exp": 1}, "$.exp"),
        ("alice", 60, {"iss": "x"}, "$.iss"),
        ("alice", 60, {"pub": "bob"}, "$.pub"),
        ("alice", 60, {"pub": [""]}, "$.pub"),
        ("alice", 60, {"pub": ["x" * 100] * 200}, "$.pub"),
        ("alice", 60, {"pools": ["a b"]}, "$.pools"),
        ("alice", 60, {"may": ["critcal"]}, "$.may"),
    ],
)
def test_minting_refuses_what_would_not_be_accepted(
    make: Callable[..., Tokens], client: str, ttl: float, grants: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as caught:
        make().mint(client, ttl, grants, NOW)
    assert caught.value.field == field


def test_weak_secrets_are_refused(not_before: NotBefore) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tokens("x" * 31, {}, not_before)
