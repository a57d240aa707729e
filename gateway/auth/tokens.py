"""JSON Web Tokens of clients: checked, remembered for a while, minted (RFC 7519, RFC 8725).

The way of a token, each step only after the one before:

    size, shape       at most 8 KiB, three parts of base64url
    iss -> keys       as the configuration maps them; no `iss`: the gateway's own secret. Nothing in a token is ever
                      followed: `jku`, `x5u`, `jwk` are not read, `kid` selects among that issuer's keys alone
    signature         by the algorithm of the key; `crit` is refused, because nothing critical is understood
    claims            only now is anything said about what is wrong
    exp, not-before   with every use, also of a remembered token

`exp` is exact: a connection ends at it, so no leeway may let one begin after it. `leeway` is for `nbf` and `iat`, where
another machine's clock may be ahead. Time is handed in, as wall seconds.
"""

import base64
import binascii
import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType, ValidationError
from msgspec.json import Decoder

from gateway.auth.jwks import FixedKeys, JwksSource, KeySource
from gateway.auth.keys import Key, secret_key
from gateway.auth.principal import RIGHTS, Principal, Right
from gateway.errors import Invalid, Unauthorized
from gateway.model import valid_client_id

MAX_TOKEN: Final = 8192
CACHE_SIZE: Final = 16_384
MAX_PATTERNS: Final = 256
MAX_POOLS: Final = 64
MAX_RIGHTS: Final = 16
# seconds to the end of the year 9999: what dates, timers and JSON readers can hold
MAX_TIME: Final = 253_402_300_799

_shape = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_place = re.compile(r" - at `\$\.(\w+)|field `(\w+)`").search
_STANDARD: Final = str.maketrans("-_", "+/")
_OWN_HEADER: Final = b'{"alg":"HS256","typ":"JWT"}'

Time = Annotated[int, Meta(ge=0, le=MAX_TIME)] | Annotated[float, Meta(ge=0, le=MAX_TIME)]
Pattern = Annotated[str, Meta(min_length=1, max_length=128)]


class _Granted(Struct, kw_only=True, omit_defaults=True):
    """The claims that say what a client may do. `pub` None: publish to any address."""

    pub: Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)] | None = None
    pools: Annotated[list[str], Meta(max_length=MAX_POOLS)] = []
    may: Annotated[list[str], Meta(max_length=MAX_RIGHTS)] = []
    jti: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Grants(_Granted, forbid_unknown_fields=True):
    """What a minted token may say beside who and how long."""

    may: Annotated[list[Right], Meta(max_length=MAX_RIGHTS)] = []  # type: ignore[assignment]


class _Header(Struct):
    alg: str
    kid: str | None = None
    crit: Raw | UnsetType = UNSET


class _Origin(Struct):
    """All that is read of the claims before the signature is proven."""

    iss: str | None = None


class _Claims(_Granted, kw_only=True):
    """Unknown rights in `may` are passed over: the issuer may serve others, too."""

    sub: str
    exp: Time
    iat: Time | None = None
    nbf: Time | None = None
    aud: str | list[str] | None = None


_header = Decoder(_Header)
_origin = Decoder(_Origin)
_claims = Decoder(_Claims)


class _Parts(NamedTuple):
    """A token taken apart; nothing in it is proven."""

    header: _Header
    iss: str | None
    payload: bytes
    signed: bytes
    signature: bytes


class _Known(NamedTuple):
    """A token whose signature and claims were right while its issuer's keys were of this generation."""

    principal: Principal
    source: KeySource
    generation: int


class Tokens:
    """Verifies and mints.

    `secret` is the gateway's own, `issuers` maps `iss` to keys, `audience` "" means unchecked, `leeway` is seconds.
    `not_before(client)` is the Unix second before which a client's tokens must not have been issued, 0 for none; to
    revoke all that were issued until now, it becomes the next full second. Raises ValueError for a weak secret.
    """

    __slots__ = ("_audience", "_cache", "_cache_size", "_leeway", "_not_before", "_own", "_sources")

    def __init__(
        self,
        secret: str,
        issuers: Mapping[str, KeySource],
        not_before: Callable[[str], int],
        *,
        audience: str = "",
        leeway: float = 0.0,
        cache_size: int = CACHE_SIZE,
    ) -> None:
        self._own = secret_key(secret)
        self._sources: dict[str | None, KeySource] = {None: FixedKeys((self._own,))}
        self._sources.update(issuers)
        self._not_before = not_before
        self._audience = audience
        self._leeway = leeway
        self._cache: OrderedDict[bytes, _Known] = OrderedDict()
        self._cache_size = cache_size

    def try_verify(self, token: str, now: float) -> Principal | None:
        """The principal of a token, without I/O. None: only `verify` can tell, its key has to be looked for.

        Raises Unauthorized: `token_invalid`, `token_expired`, `token_early`, `token_revoked`.
        """
        found = self._check(token, now)
        return found if isinstance(found, Principal) else None

    async def verify(self, token: str, now: float) -> Principal:
        """As `try_verify`, looking for an unknown key; Unavailable (`keys_unavailable`) if that cannot be done."""
        found = self._check(token, now)
        if isinstance(found, JwksSource):
            await found.look_again()
            found = self._check(token, now)
        if isinstance(found, JwksSource):
            raise _invalid()
        return found

    def mint(self, client: str, ttl: float, claims: Mapping[str, Any], now: float) -> str:
        """A token for a client, good for `ttl` seconds, with the claims of `Grants`. Raises Invalid, naming it."""
        if not valid_client_id(client):
            raise Invalid("not a client id", field="$.client")
        if not 0 < ttl <= MAX_TIME - now - 1:
            raise Invalid("must be above 0, and the token must end before the year 10000", field="$.ttl")
        try:
            grants = msgspec.convert(claims, Grants)
        except ValidationError as error:
            field, why = _blame(error)
            raise Invalid(why, field=f"$.{field}") from None
        if not all(map(valid_client_id, grants.pools)):
            raise Invalid("holds what is not the name of a pool", field="$.pools")
        # a token minted in the very second of a revocation, after it, must not fall under it
        iat = max(int(now), min(self._not_before(client), int(now) + 1))
        payload: dict[str, Any] = {"sub": client, "iat": iat, "exp": math.ceil(now + ttl)}
        if self._audience:
            payload["aud"] = self._audience
        body = msgspec.json.encode(payload | msgspec.to_builtins(grants))
        signed = _b64(_OWN_HEADER) + b"." + _b64(body)
        token = (signed + b"." + _b64(self._own.sign(signed))).decode("ascii")
        if len(token) > MAX_TOKEN:
            raise Invalid(f"the token would be over {MAX_TOKEN} bytes", field="$.pub")
        return token

    def _check(self, token: str, now: float) -> Principal | JwksSource:
        """The principal, or the source that has to look for the key."""
        if len(token) > MAX_TOKEN or _shape(token) is None:
            raise _invalid()
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._cache.pop(digest, None)
        if known is None or known.generation != known.source.generation:
            parts = _take_apart(token)
            source = self._sources.get(parts.iss)
            if source is None:
                raise _invalid()
            if not _signed_by(source.keys, parts):
                if isinstance(source, FixedKeys) or parts.header.alg not in source.algorithms:
                    raise _invalid()
                return source
            principal = self._principal(parts.payload, digest, now)
            known = _Known(principal, source, source.generation)
        self._stands(known.principal, now)
        self._remember(digest, known)
        return known.principal

    def _remember(self, digest: bytes, known: _Known) -> None:
        """Put it at the young end; the oldest goes. What was refused is not here: it was popped."""
        if len(self._cache) >= self._cache_size:
            self._cache.popitem(last=False)
        self._cache[digest] = known

    def _stands(self, principal: Principal, now: float) -> None:
        """What can change while a token is remembered."""
        if principal.exp is None or principal.exp <= now:
            raise Unauthorized("the token has expired", code="token_expired", field="exp")
        not_before = self._not_before(principal.name)
        if not_before > 0 and (principal.iat is None or principal.iat < not_before):
            raise Unauthorized("the token was revoked; get a new one", code="token_revoked", field="iat")

    def _principal(self, payload: bytes, digest: bytes, now: float) -> Principal:
        """What the claims say, once they are known to be the issuer's."""
        try:
            claims = _claims.decode(payload)
        except (DecodeError, UnicodeDecodeError) as error:
            raise _bad_claim(*_blame(error)) from None
        if not valid_client_id(claims.sub):
            raise _bad_claim("sub", "not a client id")
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self._audience and self._audience not in audience:
            raise _bad_claim("aud", "does not name this gateway")
        for name, moment in (("nbf", claims.nbf), ("iat", claims.iat)):
            if moment is not None and moment > now + self._leeway:
                raise Unauthorized(f"the token is not valid yet ({name})", code="token_early", field=name)
        if not all(map(valid_client_id, claims.pools)):
            raise _bad_claim("pools", "holds what is not the name of a pool")
        return Principal(
            kind="client",
            name=claims.sub,
            pub=None if claims.pub is None else tuple(claims.pub),
            pools=frozenset(claims.pools),
            may=RIGHTS.intersection(claims.may),
            exp=int(claims.exp),
            iat=None if claims.iat is None else int(claims.iat),
            token_id=claims.jti or digest[:8].hex(),
        )


def _take_apart(token: str) -> _Parts:
    """Raises Unauthorized for anything that is no JWT, or is none for us."""
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    try:
        claims = _unb64(payload)
        parts = _Parts(
            _header.decode(_unb64(header)),
            _origin.decode(claims).iss,
            claims,
            signed.encode("ascii"),
            _unb64(signature),
        )
    except (DecodeError, ValueError, RecursionError):
        raise _invalid() from None
    if parts.header.crit is not UNSET:
        raise _invalid()
    return parts


def _signed_by(keys: tuple[Key, ...], parts: _Parts) -> bool:
    """Whether one of the keys that fit made the signature.

    Raises Unauthorized where the very key that the token names did not: there is nothing to look for.
    """
    alg, kid = parts.header.alg, parts.header.kid
    named = False
    for key in keys:
        if key.alg != alg or (kid is not None and key.kid is not None and key.kid != kid):
            continue
        if key.verify(parts.signed, parts.signature):
            return True
        named = named or (kid is not None and key.kid == kid)
    if named:
        raise _invalid()
    return False


def _blame(error: Exception) -> tuple[str, str]:
    """The claim that is wrong, and why. msgspec names types and places, never values."""
    why, _, _ = str(error).partition(" - at ")
    name = _place(str(error))
    return (name[1] or name[2], why) if name else ("", "not valid JSON")


def _bad_claim(name: str, why: str) -> Unauthorized:
    return Unauthorized(f"the token's claim `{name}`: {why}", code="token_invalid", field=name or None)


def _invalid() -> Unauthorized:
    """One answer for all that is wrong before a signature is proven: it helps nobody guess."""
    return Unauthorized("the token is not valid", code="token_invalid")


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unb64(text: str) -> bytes:
    """base64url without padding, in its one canonical spelling. Raises binascii.Error."""
    padded = text.translate(_STANDARD) + "=" * (-len(text) % 4)
    data = binascii.a2b_base64(padded, strict_mode=True)
    if _b64(data) != text.encode("ascii"):
        raise binascii.Error("not canonical")
    return data
