"""Where the JWT comes from: a string, or an async callable that gives a fresh one."""

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

TokenCall = Callable[[], Awaitable[str]]
CALL_TIMEOUT = 30.0
# renewed when a tenth of its life is left, at most a minute before its end
SHARE = 0.1
MARGIN = 60.0


class TokenFailed(Exception):
    """The callable gave no token."""


class _Expiry(Struct):
    exp: float | None = None


class _Subject(Struct):
    sub: str | None = None


_Claim = TypeVar("_Claim", _Expiry, _Subject)


def _read(token: str, claim: type[_Claim]) -> _Claim:
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=claim)
    except (ValueError, IndexError, msgspec.DecodeError):
        return claim()


def expiry(token: str) -> float | None:
    """`exp` of a JWT in Unix seconds (RFC 7519), None where it cannot be read. Nothing is verified."""
    return _read(token, _Expiry).exp


def subject(token: str) -> str | None:
    """`sub` of a JWT, the client id; None where it cannot be read. Nothing is verified."""
    return _read(token, _Subject).sub


class Tokens:
    """One client's tokens: the last one is kept until it is renewed."""

    __slots__ = ("_call", "_last")

    def __init__(self, source: str | TokenCall) -> None:
        self._call = None if isinstance(source, str) else source
        self._last = source if isinstance(source, str) else ""

    @property
    def renewable(self) -> bool:
        return self._call is not None

    async def get(self, now: float) -> str:
        """The token; a fresh one where it has expired at `now` (Unix seconds). Raises TokenFailed."""
        exp = expiry(self._last)
        if self._call is not None and (not self._last or (exp is not None and exp <= now)):
            return await self.renew()
        return self._last

    async def renew(self) -> str:
        """A fresh one. Raises TokenFailed."""
        assert self._call is not None
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                token: object = await self._call()
        except Exception as e:
            raise TokenFailed(f"the token callable failed: {type(e).__name__}") from e
        if not isinstance(token, str) or not token:
            raise TokenFailed("the token callable gave no token")
        self._last = token
        return token

    def renew_at(self, now: float) -> float | None:
        """Unix seconds at which to renew the token in use, None for never. `now`: real time, Unix seconds."""
        if self._call is None:
            return None
        exp = expiry(self._last)
        if exp is None or exp <= now:
            return None
        return exp - min(MARGIN, (exp - now) * SHARE)
