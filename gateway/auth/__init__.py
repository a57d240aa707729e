"""Who is speaking, whether that is proven, and how much it may do at once.

    principal.py   Principal: a client or an API key, and its rights
    tokens.py      JSON Web Tokens: verified, remembered, minted
    keys.py        what a signature is checked with
    jwks.py        where keys come from, and how they stay fresh
    apikeys.py     API keys, `id.secret`
    limits.py      token buckets

`Authenticator` is built from the configuration and is all that the transports and the API need.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.auth.apikeys import ApiKeys, hash_secret
from gateway.auth.jwks import MAX_DOCUMENT, FixedKeys, JwksFile, JwksSource, JwksUrl, KeySource
from gateway.auth.keys import Key, pem_key, secret_key
from gateway.auth.limits import RateLimiter, peer_key
from gateway.auth.principal import AddressPatterns, Principal
from gateway.auth.tokens import MAX_TOKEN, Tokens
from gateway.clock import Clock
from gateway.config import Auth, Issuer
from gateway.errors import ConfigError, Unauthorized

__all__ = [
    "AddressPatterns",
    "Authenticator",
    "Principal",
    "RateLimiter",
    "hash_secret",
    "peer_key",
]

MAX_HEADER: Final = MAX_TOKEN + 64


class Authenticator:
    """Checks credentials. Between `start` and `close` it keeps the keys of other issuers fresh.

    `auth` is a checked configuration with its `jwt_secret` filled in. `not_before(client)` is the Unix second before
    which tokens of the client must not have been issued, 0 for none. Raises ConfigError for keys that cannot be used;
    a URL that does not answer is not among the reasons.
    """

    __slots__ = ("_api_keys", "_refreshed", "_tasks", "_tokens", "_wall")

    def __init__(self, auth: Auth, clock: Clock, not_before: Callable[[str], int]) -> None:
        self._wall = clock.wall
        self._api_keys = ApiKeys(auth.api_keys)
        sources = {issuer.name: _source(i, issuer) for i, issuer in enumerate(auth.issuers)}
        self._refreshed = [source for source in sources.values() if isinstance(source, JwksSource)]
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self._tokens = Tokens(
                auth.jwt_secret, sources, not_before, audience=auth.audience, leeway=auth.leeway
            )
        except ValueError as error:
            raise _config("auth.jwt_secret", error) from None

    def start(self) -> None:
        """Begin to refresh keys; does not wait for them. Needs a running loop."""
        for source in self._refreshed:
            task = asyncio.get_running_loop().create_task(source.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what `start` began, and any look for a key that is under way: who waits for one gets Unavailable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._refreshed:
            await source.close()

    def try_token(self, token: str) -> Principal | None:
        """The client of a JWT, at once. None: its key is not here, ask `authenticate_token`. Raises Unauthorized."""
        return self._tokens.try_verify(token, self._wall())

    async def authenticate_token(self, token: str) -> Principal:
        """The client of a JWT. Raises Unauthorized, or Unavailable (`keys_unavailable`: close 4000, not 4300)."""
        return await self._tokens.verify(token, self._wall())

    def try_bearer(self, header: str | None) -> Principal | None:
        """The principal of an `Authorization` header (RFC 6750 2.1), at once: an API key has one dot, a JWT two.

        None: its key is not here, ask `authenticate_bearer`. Raises Unauthorized: `unauthorized` without a usable
        header, else as the credential's kind.
        """
        credential = _credential(header)
        if credential.count(".") == 1:
            return self._api_keys.verify(credential)
        return self.try_token(credential)

    async def authenticate_bearer(self, header: str | None) -> Principal:
        """As `try_bearer`, looking for an unknown key; Unavailable if that cannot be done."""
        principal = self.try_bearer(header)
        return principal if principal is not None else await self.authenticate_token(_credential(header))

    def mint(self, client: str, ttl: float, claims: Mapping[str, Any]) -> str:
        """A token for a client, good for `ttl` s from now; claims: `pub`, `pools`, `may`, `jti`. Raises Invalid."""
        return self._tokens.mint(client, ttl, claims, self._wall())


def _credential(header: str | None) -> str:
    """What stands behind `Bearer`: one or two dots. Raises Unauthorized."""
    if header is None:
        raise Unauthorized("send Authorization: Bearer with an API key or a token")
    scheme, _, credential = header[: MAX_HEADER + 1].partition(" ")
    credential = credential.strip(" ")
    if len(header) > MAX_HEADER or scheme.lower() != "bearer" or credential.count(".") not in (1, 2):
        raise Unauthorized("Authorization is not Bearer with an API key or a token")
    return credential


def _source(index: int, issuer: Issuer) -> KeySource:
    """Where the keys of an issuer are. Raises ConfigError, naming the key of the configuration."""
    at = f"auth.issuers[{index}]"
    algorithms: frozenset[str] = frozenset(issuer.algorithms)
    if issuer.jwks_url:
        return JwksUrl(issuer.name, algorithms, issuer.jwks_url, refresh=issuer.refresh)
    if issuer.jwks_file:
        path = Path(issuer.jwks_file)
        return JwksFile(issuer.name, algorithms, path, refresh=issuer.refresh, field=f"{at}.jwks_file")
    which = "secret" if issuer.secret else "public_key" if issuer.public_key else "public_key_file"
    try:
        return FixedKeys((_fixed_key(issuer, algorithms),))
    except (OSError, ValueError) as error:
        raise _config(f"{at}.{which}", error) from None


def _fixed_key(issuer: Issuer, algorithms: frozenset[str]) -> Key:
    if issuer.secret:
        return secret_key(issuer.secret)
    if issuer.public_key:
        return pem_key(issuer.public_key.encode(), algorithms)
    with Path(issuer.public_key_file).open("rb") as file:
        return pem_key(file.read(MAX_DOCUMENT), algorithms)


def _config(field: str, error: OSError | ValueError) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"{field}: {why}", field=field)
