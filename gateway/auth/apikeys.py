"""API keys of backends, `id.secret`: only the SHA-256 of a secret is kept.

A plain hash is enough because a secret is long and random, not a password (at least 16 characters are required, and
generated ones have 256 bits). A secret holds no dot: a key has one dot, a JWT two, so neither is taken for the other.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

from gateway.auth.principal import RIGHTS, Principal
from gateway.config import SCOPES, ApiKey
from gateway.errors import ConfigError, Unauthorized

MAX_KEY_CHARS: Final = 512
# what can stand in a header as one word, without the dot
_secret = re.compile(r"[!-\-/-~]+").fullmatch
_NOBODY = (bytes(32), None)


def hash_secret(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class ApiKeys:
    """The keys of the configuration. Raises ConfigError for a secret that could never be presented."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys: dict[str, tuple[bytes, Principal | None]] = {}
        for i, key in enumerate(keys):
            if key.secret and not _secret(key.secret):
                field = f"auth.api_keys[{i}].secret"
                raise ConfigError(f"{field}: must be printable ASCII without spaces and dots", field=field)
            digest = bytes.fromhex(key.secret_sha256) if key.secret_sha256 else hash_secret(key.secret)
            self._keys[key.id] = (digest, _principal(key))

    def verify(self, credential: str) -> Principal:
        """The principal of `id.secret`. Raises Unauthorized (`key_invalid`), the same for an unknown id."""
        if len(credential) > MAX_KEY_CHARS:
            raise _invalid()
        key_id, _, secret = credential.partition(".")
        digest, principal = self._keys.get(key_id, _NOBODY)
        # the same work for an id that nobody has: hash and compare first, look at the outcome last
        equal = hmac.compare_digest(digest, hashlib.sha256(secret.encode(errors="replace")).digest())
        if not equal or principal is None:
            raise _invalid()
        return principal


def _principal(key: ApiKey) -> Principal:
    scopes = frozenset(SCOPES) if "admin" in key.scopes else frozenset(key.scopes)
    return Principal(
        kind="key",
        name=key.id,
        scopes=scopes,
        may=RIGHTS if "publish" in scopes else frozenset(),
        token_id=key.id,
    )


def _invalid() -> Unauthorized:
    return Unauthorized("the API key is not valid", code="key_invalid")
