"""Key sets: read from files and over HTTP, rotated, unreachable, hostile."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.auth import jwks
from gateway.auth.jwks import FILE_GAP, MAX_DOCUMENT, URL_GAP, JwksFile, JwksSource, JwksUrl
from gateway.auth.keys import MAX_KEYS, jwks_keys, pem_key
from gateway.auth.principal import Principal
from gateway.auth.tokens import Tokens
from gateway.errors import ConfigError, Unauthorized, Unavailable

NOW = 1_800_000_000.0
ALL = frozenset({"RS256", "ES256", "EdDSA"})


class Stopwatch:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": "idp", "sub": "alice", "exp": NOW + 60} | more


def tokens_of(forge: Any, source: JwksSource) -> Tokens:
    return Tokens(forge.secret, {"idp": source}, lambda client: 0)


def url_source(server: Any, watch: Stopwatch, **more: Any) -> JwksUrl:
    return JwksUrl("idp", ALL, more.pop("url", server.url), refresh=300, monotonic=watch, **more)


@asynccontextmanager
async def closing(source: JwksSource) -> AsyncIterator[JwksSource]:
    try:
        yield source
    finally:
        await source.close()


async def code_of(tokens: Tokens, token: str) -> str:
    with pytest.raises((Unauthorized, Unavailable)) as caught:
        await tokens.verify(token, NOW)
    return caught.value.code


# ---- documents


def test_a_set_holds_keys_of_each_kind(signers: Any) -> None:
    document = json.dumps({"keys": [s.jwk(alg, use="sig") for alg, s in signers.good.items()]}).encode()
    assert {(key.kid, key.alg) for key in jwks_keys(document, ALL)} == {(alg, alg) for alg in ALL}
    assert [key.alg for key in jwks_keys(document, frozenset({"ES256"}))] == ["ES256"]


def test_unusable_keys_are_left_out_and_harm_no_other(signers: Any) -> None:
    good = signers.good["ES256"]
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505 - refused
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    bad: list[Any] = [
        5,
        None,
        {},
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        {"kty": "RSA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
        RSAAlgorithm.to_jwk(short, as_dict=True),
        ECAlgorithm.to_jwk(p384, as_dict=True),
        good.jwk("enc", use="enc"),
        good.jwk("sign", key_ops=["sign"]),
        good.jwk("es384", alg="ES384"),
        good.jwk("hs", alg="HS256"),
        signers.good["RS256"].jwk("ps", alg="PS256"),
        good.jwk("list") | {"kid": ["list"]},
    ]
    document = json.dumps({"keys": [*bad, good.jwk("good", alg="ES256", key_ops=["verify"])]}).encode()
    assert [key.kid for key in jwks_keys(document, ALL | {"HS256"})] == ["good"]


def test_private_members_are_not_taken_in(signers: Any) -> None:
    private = ECAlgorithm.to_jwk(signers.good["ES256"].private, as_dict=True)
    (key,) = jwks_keys(json.dumps({"keys": [private | {"key_ops": ["verify"]}]}).encode(), ALL)
    assert isinstance(key.material, ec.EllipticCurvePublicKey)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys":{}}',
        b'{"keys":null}',
        b"\xff",
        b'{"keys":[]} x',
        b'{"keys":' + b"[" * 99999,
    ],
)
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON Web Key Set"):
        jwks_keys(document, ALL)


def test_a_set_has_a_bounded_number_of_keys(signers: Any) -> None:
    keys = [signers.good["EdDSA"].jwk(str(i)) for i in range(MAX_KEYS + 1)]
    assert len(jwks_keys(json.dumps({"keys": keys[1:]}).encode(), ALL)) == MAX_KEYS
    with pytest.raises(ValueError, match="over"):
        jwks_keys(json.dumps({"keys": keys}).encode(), ALL)


def test_a_pem_must_be_a_public_key_of_a_named_algorithm(signers: Any) -> None:
    assert pem_key(signers.good["RS256"].pem, ALL).alg == "RS256"
    with pytest.raises(ValueError, match="does not name"):
        pem_key(signers.good["RS256"].pem, frozenset({"ES256"}))
    for nonsense in (b"", b"no pem", signers.good["RS256"].pem[:100]):
        with pytest.raises(ValueError, match="not a public key"):
            pem_key(nonsense, ALL)


# ---- kid


async def test_kid_selects_among_the_keys_of_its_issuer(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    first, second = signers.good["ES256"], signers.evil["ES256"]
    key_server.keys = [first.jwk("one"), second.jwk("two")]
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        assert (await tokens.verify(first.token(claims(), kid="one"), NOW)).name == "alice"
        assert (await tokens.verify(second.token(claims(), kid="two"), NOW)).name == "alice"
        # without a name every key that fits is tried
        assert (await tokens.verify(second.token(claims()), NOW)).name == "alice"
        # a name that is there settles it: nothing is looked for
        watch.at += URL_GAP
        assert await code_of(tokens, first.token(claims(), kid="two")) == "token_invalid"
        assert key_server.asked == 1


# ---- URL


async def test_a_hit_is_synchronous_and_a_miss_says_so(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    key_server.keys = [signers.good["EdDSA"].jwk("k")]
    async with closing(url_source(key_server, watch)) as source:
        tokens, token = tokens_of(forge, source), signers.good["EdDSA"].token(claims(), kid="k")
        assert tokens.try_verify(token, NOW) is None
        alice = await tokens.verify(token, NOW)
        assert tokens.try_verify(token, NOW) is alice
        assert key_server.asked == 1


async def test_rotation_is_found_by_the_unknown_kid(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    old, new = signers.good["RS256"], signers.evil["RS256"]
    key_server.keys = [old.jwk("old")]
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        before = old.token(claims(), kid="old")
        await tokens.verify(before, NOW)
        key_server.keys = [new.jwk("new")]
        watch.at += URL_GAP
        assert isinstance(await tokens.verify(new.token(claims(), kid="new"), NOW), Principal)
        # the old key is gone, and with it what was remembered of it
        watch.at += URL_GAP
        assert await code_of(tokens, before) == "token_invalid"
        assert source.generation == 2


async def test_unknown_kids_cause_one_fetch_in_30_s_and_nobody_is_turned_away_unheard(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    key_server.keys = [signers.good["ES256"].jwk("k")]
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        assert await code_of(tokens, signers.evil["ES256"].token(claims(), kid="x")) == "token_invalid"
        for i in range(50):
            watch.at += 0.5
            token = signers.evil["ES256"].token(claims(), kid=f"x{i}")
            with pytest.raises(Unavailable) as caught:
                await tokens.verify(token, NOW)
            assert caught.value.code == "keys_unavailable"
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= URL_GAP
        assert key_server.asked == 1
        # meanwhile the keys that are there go on
        assert isinstance(await tokens.verify(signers.good["ES256"].token(claims(), kid="k"), NOW), Principal)
        watch.at += URL_GAP
        assert await code_of(tokens, signers.evil["ES256"].token(claims(), kid="y")) == "token_invalid"
        assert key_server.asked == 2


async def test_an_algorithm_that_the_issuer_does_not_have_causes_no_fetch(
    forge: Any, key_server: Any, watch: Stopwatch
) -> None:
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        for alg in ("none", "HS256", "RS512"):
            assert await code_of(tokens, forge.own(claims(), alg=alg, kid="x")) == "token_invalid"
        assert key_server.asked == 0


async def test_all_who_wait_share_one_fetch_and_none_can_cancel_it(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    key_server.keys = [signers.good["EdDSA"].jwk("k")]
    key_server.hold = asyncio.Event()
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        made = [signers.good["EdDSA"].token(claims(sub=f"c{i}"), kid="k") for i in range(20)]
        waiting = [asyncio.ensure_future(tokens.verify(token, NOW)) for token in made]
        await key_server.until_asked(1)
        # the one whose token began the fetch hangs up
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        key_server.hold.set()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert [p.name for p in done[1:] if isinstance(p, Principal)] == [f"c{i}" for i in range(1, 20)]
        assert key_server.asked == 1


async def test_nothing_in_a_token_is_fetched(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    """The attacker's own server must not hear of it, the issuer's at most once."""
    evil = signers.evil["RS256"]
    key_server.keys = [signers.good["RS256"].jwk("k")]
    trap = f"http://127.0.0.1:{key_server.port}/trap"
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        for header in (
            {"jku": trap},
            {"x5u": trap},
            {"jku": trap, "kid": "k"},
            {"kid": trap},
            {"jwk": evil.jwk("k")},
        ):
            code = await code_of(tokens, evil.token(claims(), **header))
            assert code in ("token_invalid", "keys_unavailable")
        for iss in (trap, key_server.url):
            assert await code_of(tokens, evil.token(claims(iss=iss), jku=trap)) == "token_invalid"
        assert key_server.elsewhere == 0
        assert key_server.asked == 1


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """A URL at a port that is taken and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/jwks"


async def test_keys_that_never_came_are_unavailable_not_unauthorised(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch, nobody_listens: str
) -> None:
    async with closing(url_source(key_server, watch, url=nobody_listens)) as source:
        tokens, token = tokens_of(forge, source), signers.good["ES256"].token(claims(), kid="k")
        assert await code_of(tokens, token) == "keys_unavailable"
        assert await code_of(tokens, token) == "keys_unavailable"
        assert (source.reads, source.failures) == (1, 1)
        watch.at += URL_GAP
        assert await code_of(tokens, token) == "keys_unavailable"
        assert source.reads == 2


EMPTY = b'{"keys":[]}'
# each but the first two would be a key set without keys, were the answer believed
ANSWERS: list[Any] = [
    b"no json",
    b"{}",
    b'{"keys":[' + b" " * MAX_DOCUMENT + b"]}",
    {"body": EMPTY, "status": 500},
    {"body": EMPTY, "status": 201},
    {"body": EMPTY, "status": 302, "headers": {"Location": "/elsewhere"}},
    {"body": EMPTY, "status": 301, "headers": {"Location": "/elsewhere"}},
    {"body": EMPTY, "status": 307, "headers": {"Location": "/elsewhere"}},
    {"body": gzip.compress(EMPTY), "headers": {"Content-Encoding": "gzip"}},
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
async def test_a_failed_fetch_keeps_the_keys_and_follows_nothing(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch, answer: Any
) -> None:
    key_server.keys = [signers.good["ES256"].jwk("k")]
    async with closing(url_source(key_server, watch)) as source:
        tokens = tokens_of(forge, source)
        await tokens.verify(signers.good["ES256"].token(claims(), kid="k"), NOW)
        key_server.answer = web.Response(**answer) if isinstance(answer, dict) else answer
        watch.at += URL_GAP
        assert await code_of(tokens, signers.evil["ES256"].token(claims(), kid="x")) == "keys_unavailable"
        assert (source.failures, key_server.elsewhere) == (1, 0)
        fresh = signers.good["ES256"].token(claims(sub="bob"), kid="k")
        assert (await tokens.verify(fresh, NOW)).name == "bob"


async def test_a_server_that_does_not_answer_is_given_up(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT", 0.05)
    key_server.hold = asyncio.Event()
    async with closing(url_source(key_server, watch)) as source:
        token = signers.good["ES256"].token(claims(), kid="k")
        assert await code_of(tokens_of(forge, source), token) == "keys_unavailable"
        assert source.failures == 1


async def test_an_issuer_may_withdraw_all_its_keys(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    key_server.keys = [signers.good["ES256"].jwk("k")]
    async with closing(url_source(key_server, watch)) as source:
        tokens, token = tokens_of(forge, source), signers.good["ES256"].token(claims(), kid="k")
        await tokens.verify(token, NOW)
        key_server.keys = []
        watch.at += URL_GAP
        await source.look_again()
        watch.at += URL_GAP
        assert await code_of(tokens, token) == "token_invalid"


async def test_closing_ends_a_fetch_and_answers_who_waits(
    forge: Any, signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    key_server.hold = asyncio.Event()
    source = url_source(key_server, watch)
    token = signers.good["ES256"].token(claims(), kid="k")
    waiting = asyncio.ensure_future(tokens_of(forge, source).verify(token, NOW))
    await key_server.until_asked(1)
    await source.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_the_background_refresh_goes_on_through_outages(
    signers: Any, key_server: Any, watch: Stopwatch
) -> None:
    source = JwksUrl("idp", ALL, key_server.url, refresh=0.001, monotonic=watch)
    key_server.keys = [signers.good["ES256"].jwk("one")]
    running = asyncio.ensure_future(source.run())
    try:
        # the third request is made only after the first answer was dealt with
        await key_server.until_asked(3)
        assert [key.kid for key in source.keys] == ["one"]
        assert source.generation == 1
        key_server.answer = b"broken"
        await key_server.until_asked(key_server.asked + 3)
        assert source.failures >= 1
        assert [key.kid for key in source.keys] == ["one"]
        key_server.keys, key_server.answer = [signers.good["ES256"].jwk("two")], None
        await key_server.until_asked(key_server.asked + 3)
        assert [key.kid for key in source.keys] == ["two"]
    finally:
        running.cancel()
        await asyncio.wait([running])
        await source.close()


# ---- file


def write(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": keys}))


async def test_a_file_is_read_again_for_an_unknown_kid(
    forge: Any, signers: Any, tmp_path: Path, watch: Stopwatch
) -> None:
    path = tmp_path / "keys.json"
    write(path, signers.good["ES256"].jwk("one"))
    async with closing(JwksFile("idp", ALL, path, refresh=300, monotonic=watch)) as source:
        tokens = tokens_of(forge, source)
        before = signers.good["ES256"].token(claims(), kid="one")
        assert tokens.try_verify(before, NOW) is not None
        after = signers.evil["ES256"].token(claims(), kid="two")
        write(path, signers.evil["ES256"].jwk("two"))
        assert isinstance(await tokens.verify(after, NOW), Principal)
        # what was remembered of the key that is gone does not count any more
        watch.at += FILE_GAP
        assert await code_of(tokens, before) == "token_invalid"
        reads = source.reads
        assert await code_of(tokens, before) == "keys_unavailable"
        assert source.reads == reads


async def test_a_file_that_breaks_later_keeps_the_keys(
    forge: Any, signers: Any, tmp_path: Path, watch: Stopwatch
) -> None:
    path = tmp_path / "keys.json"
    write(path, signers.good["ES256"].jwk("one"))
    async with closing(JwksFile("idp", ALL, path, refresh=300, monotonic=watch)) as source:
        tokens = tokens_of(forge, source)
        unknown = signers.evil["ES256"].token(claims(), kid="two")
        path.write_text('{"keys":[')
        assert await code_of(tokens, unknown) == "keys_unavailable"
        watch.at += FILE_GAP
        # the same broken content again is no better
        assert await code_of(tokens, unknown) == "keys_unavailable"
        path.unlink()
        watch.at += FILE_GAP
        assert await code_of(tokens, unknown) == "keys_unavailable"
        assert tokens.try_verify(signers.good["ES256"].token(claims(), kid="one"), NOW) is not None


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys":[]}', b" " * (MAX_DOCUMENT + 1)])
def test_a_file_must_be_right_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        JwksFile("idp", ALL, path, refresh=300, field="auth.issuers[0].jwks_file")
    assert caught.value.field == "auth.issuers[0].jwks_file"
    assert caught.value.detail.startswith("auth.issuers[0].jwks_file: ")
