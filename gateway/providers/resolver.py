"""Names into addresses for one channel: resolved once, every address checked, and the checked ones connected to.

Between the check and the connection nothing is looked up again, so a name that changes its mind (DNS rebinding) gains
nothing by it.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable

from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.providers.addresses import is_public

# host and port -> its addresses as text; raises OSError
Lookup = Callable[[str, int], Awaitable[list[str]]]


class AddressRefused(Exception):
    """A channel leads to an address that is not public and was not allowed."""


class CheckedResolver(AbstractResolver):
    """A resolver whose answer holds public addresses only, or none at all.

    Its connector asks one question at a time and keeps the answer for a few seconds.
    """

    def __init__(self, lookup: Lookup, allow_private: bool) -> None:
        self._lookup = lookup
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError where the name has no address, AddressRefused where one of its addresses is not public."""
        found = await self._lookup(host, port)
        if not found:
            raise OSError("the name has no address")
        if not self._allow_private and not all(map(is_public, found)):
            raise AddressRefused
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def system_lookup(host: str, port: int) -> list[str]:
    """The addresses that the machine's resolver knows for `host`, in its order. Raises OSError.

    In a thread of its own, not in the loop's pool: a name server that does not answer must not keep the lookups of
    another channel waiting, nor the end of the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str], error: OSError | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def work() -> None:
        found: list[str] = []
        error: OSError | None = None
        try:
            found = _addresses(host, port)
        except OSError as e:
            error = e
        except UnicodeError:
            error = socket.gaierror(socket.EAI_NONAME, "not a name")
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, name=f"lookup of {host}", daemon=True).start()
    return await answer


def _addresses(host: str, port: int) -> list[str]:
    found: dict[str, None] = {}
    for _, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        scope = where[3] if len(where) == 4 else 0
        found[f"{where[0]}%{scope}" if scope else str(where[0])] = None
    return list(found)
