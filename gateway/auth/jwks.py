"""Where an issuer's keys come from, and how they stay fresh.

    FixedKeys   a secret or a PEM: what the configuration says, for good
    JwksFile    a JSON Web Key Set in a file; read at start, when it must be right
    JwksUrl     one behind a URL; start does not wait for it, and what was fetched once is kept when a fetch fails

Verification looks at `keys`, a tuple in memory, and does no I/O. A file or URL is asked again every `refresh` s in the
background, and by `look_again` when a token names a key that is not there. Random key names must not turn the gateway
into a hammer, so tokens cause at most one such look in `gap` s (30 for a URL, 1 for a file), shared by all who wait.
A look runs in a task of the source's own: a client that hangs up does not cancel it for the others.

Until a look that was made for it has succeeded, nobody knows whether an unknown key is wrong or new. So `look_again`
raises Unavailable (the client tries later) in the gap and when the look fails; a refusal needs a look that succeeded.
"""

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from gateway.auth.keys import Key, jwks_keys
from gateway.errors import ConfigError, Unavailable

MAX_DOCUMENT: Final = 256 * 1024
FETCH_TIMEOUT: Final = 5.0
URL_GAP: Final = 30.0
FILE_GAP: Final = 1.0
JITTER: Final = 0.1

_log = structlog.get_logger("gateway.auth")


class FixedKeys:
    """Keys that never change."""

    __slots__ = ("keys",)
    generation: Final = 0

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys


class JwksSource:
    """Keys that are read anew: what JwksFile and JwksUrl share. They say how in `_read`.

    `generation` goes up whenever `keys` changes. `refresh` and `gap` are seconds. `reads` and `failures` count
    the looks made and those that failed.
    """

    __slots__ = (
        "_asked_at",
        "_digest",
        "_gap",
        "_issuer",
        "_look",
        "_monotonic",
        "_refresh",
        "algorithms",
        "failures",
        "generation",
        "keys",
        "reads",
    )

    def __init__(
        self,
        issuer: str,
        algorithms: frozenset[str],
        *,
        refresh: float,
        gap: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.algorithms = algorithms
        self.keys: tuple[Key, ...] = ()
        self.generation = 0
        self.reads = 0
        self.failures = 0
        self._issuer = issuer
        self._refresh = refresh
        self._gap = gap
        self._monotonic = monotonic
        self._asked_at = -math.inf
        self._digest = b""
        self._look: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Keep the keys fresh until cancelled: now, then every `refresh` s; after a failure, `gap` s if sooner."""
        while True:
            fresh = await self._look_once()
            pause = self._refresh if fresh else min(self._refresh, self._gap)
            await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - spreads load only

    async def look_again(self) -> None:
        """Look for a key that is not there. Raises Unavailable (`keys_unavailable`) where that is not possible now."""
        if self._look is None:
            wait = self._asked_at + self._gap - self._monotonic()
            if wait > 0:
                raise _unavailable(wait)
            self._asked_at = self._monotonic()
        if not await self._look_once():
            raise _unavailable(self._gap)

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait((self._look,))

    async def _look_once(self) -> bool:
        """Whether the look that is under way, or a new one, succeeds."""
        if self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._try_read())
            self._look.add_done_callback(self._looked)
        look = self._look
        # `wait` neither cancels the look with its caller nor the caller with the look
        await asyncio.wait((look,))
        return not look.cancelled() and look.result()

    def _looked(self, _look: asyncio.Task[bool]) -> None:
        self._look = None

    async def _try_read(self) -> bool:
        self.reads += 1
        try:
            self._take(await self._read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.failures += 1
            # the message of the error may quote a URL, and a URL may hold a password
            _log.warning(
                "keys of an issuer could not be read", issuer=self._issuer, error=type(error).__name__
            )
            return False
        return True

    def _take(self, document: bytes) -> None:
        """Use these keys from now on. The issuer's word is final: an empty set leaves none. Raises ValueError."""
        digest = hashlib.sha256(document).digest()
        if digest != self._digest:
            self.keys = jwks_keys(document, self.algorithms)
            self._digest = digest
            self.generation += 1

    async def _read(self) -> bytes:
        """The document. Raises ClientError, OSError or ValueError."""
        raise NotImplementedError


class JwksFile(JwksSource):
    """A JSON Web Key Set in a file. Raises ConfigError where it cannot be used at the start."""

    __slots__ = ("_path",)

    def __init__(
        self,
        issuer: str,
        algorithms: frozenset[str],
        path: Path,
        *,
        refresh: float,
        field: str = "jwks_file",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(issuer, algorithms, refresh=refresh, gap=FILE_GAP, monotonic=monotonic)
        self._path = path
        try:
            self._take(self._read_file())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{field}: {why}", field=field) from None
        if not self.keys:
            raise ConfigError(f"{field}: holds no key for {', '.join(sorted(algorithms))}", field=field)

    async def _read(self) -> bytes:
        return await asyncio.to_thread(self._read_file)

    def _read_file(self) -> bytes:
        with self._path.open("rb") as file:
            document = file.read(MAX_DOCUMENT + 1)
        if len(document) > MAX_DOCUMENT:
            raise ValueError(f"over {MAX_DOCUMENT} bytes")
        return document


class JwksUrl(JwksSource):
    """A JSON Web Key Set behind a URL of the configuration: https, or http on this machine (config/checks.py).

    No redirects, no cookies, no compression, no proxy from the environment; FETCH_TIMEOUT s and MAX_DOCUMENT bytes for
    the whole of it. What HTTP says on caching is not looked at: `refresh` is the operator's choice.
    """

    __slots__ = ("_url",)

    def __init__(
        self,
        issuer: str,
        algorithms: frozenset[str],
        url: str,
        *,
        refresh: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(issuer, algorithms, refresh=refresh, gap=URL_GAP, monotonic=monotonic)
        self._url = url

    async def _read(self) -> bytes:
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(FETCH_TIMEOUT),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session,
            session.get(self._url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            document = bytearray()
            async for part in response.content.iter_any():
                document += part
                if len(document) > MAX_DOCUMENT:
                    raise ValueError(f"over {MAX_DOCUMENT} bytes")
        return bytes(document)


KeySource = FixedKeys | JwksSource


def _unavailable(wait: float) -> Unavailable:
    return Unavailable(
        "the keys that this token needs cannot be looked up now",
        code="keys_unavailable",
        retry_after=math.ceil(wait),
    )
