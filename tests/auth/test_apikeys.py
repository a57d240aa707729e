"""API keys: hashed at rest, one answer for every wrong one."""

import gc
import hashlib
import hmac

import pytest

from gateway.auth.apikeys import ApiKeys, hash_secret
from gateway.config import ApiKey
from gateway.errors import ConfigError, Unauthorized

SECRET = "a-long-and-random-secret"
OTHER = "another-long-random-secret"


def keys() -> ApiKeys:
    return ApiKeys(
        [
            ApiKey(id="backend", secret=SECRET, scopes=("publish",)),
            ApiKey(id="reader", secret_sha256=hash_secret(OTHER).hex().upper(), scopes=("read",)),
            ApiKey(id="root", secret=OTHER, scopes=("admin",)),
        ]
    )


def test_a_key_is_known_by_its_secret_or_by_the_hash_of_it() -> None:
    backend = keys().verify(f"backend.{SECRET}")
    assert (backend.kind, backend.name, backend.publisher) == ("key", "backend", "api:backend")
    assert backend.can("publish")
    assert not backend.can("read")
    assert keys().verify(f"reader.{OTHER}").scopes == {"read"}


def test_publishing_keys_may_address_everyone_and_name_channels() -> None:
    backend, reader = keys().verify(f"backend.{SECRET}"), keys().verify(f"reader.{OTHER}")
    assert backend.may_publish_to("group:ops")
    assert backend.may == {"fallback", "critical"}
    assert not reader.may_publish_to("alice")
    assert reader.may == frozenset()


def test_admin_implies_the_others() -> None:
    root = keys().verify(f"root.{OTHER}")
    assert all(root.can(scope) for scope in ("publish", "read", "admin"))
    assert root.may_publish_to("alice")


WRONG = [
    f"backend.{OTHER}",
    f"nobody.{SECRET}",
    f"backend.{SECRET}x",
    f"backend.{SECRET[:-1]}",
    f"Backend.{SECRET}",
    f".{SECRET}",
    "backend.",
    "backend",
    ".",
    "",
    "backend.ünïcode\udcff",
    "backend." + "x" * 100_000,
]


@pytest.mark.parametrize("credential", WRONG, ids=range(len(WRONG)))
def test_every_wrong_credential_gets_the_same_answer(credential: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        keys().verify(credential)
    error = caught.value
    assert (error.code, error.detail, error.field) == ("key_invalid", "the API key is not valid", None)


def test_unknown_ids_are_hashed_and_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    checked = keys()
    monkeypatch.setattr(hmac, "compare_digest", spy)
    for key_id in ("backend", "nobody"):
        with pytest.raises(Unauthorized):
            checked.verify(f"{key_id}.wrong")
    assert [b for _, b in compared] == [hashlib.sha256(b"wrong").digest()] * 2


def test_no_hash_of_zeros_opens_the_door_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a secret that hashed to what unknown ids are compared with would be refused."""
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: True)
    with pytest.raises(Unauthorized):
        keys().verify("nobody.anything")


def test_the_plain_secret_is_not_kept() -> None:
    held: list[object] = [keys()]
    seen: set[int] = set()
    while held:
        thing = held.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert SECRET not in repr(thing)
        held.extend(gc.get_referents(thing))


@pytest.mark.parametrize(
    "secret", ["with.a.dot.in.the.middle", "with a space inside it", "ümlaut-ümlaut-ümlaut"]
)
def test_secrets_that_could_not_be_presented_are_refused(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKeys(
            [ApiKey(id="a", secret=SECRET, scopes=("read",)), ApiKey(id="b", secret=secret, scopes=("read",))]
        )
    assert caught.value.field == "auth.api_keys[1].secret"
    assert secret not in caught.value.detail
