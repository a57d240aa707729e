"""What callbacks need from elsewhere (provider.Needs): fetched by the channel itself, a few at once, and kept."""

from collections.abc import Awaitable, Callable

from gateway.errors import Unavailable
from gateway.providers.http import NoAnswer
from gateway.providers.provider import Answer, Needs

# nobody has proven yet who calls: so many are fetched at once, the others are told to call again
AT_ONCE = 4
# answers that are kept; the oldest goes
KEPT = 32

# a channel and a URL; raises NoAnswer
Fetch = Callable[[str, str], Awaitable[Answer]]


class Fetched:
    """`wall`: real time, Unix s."""

    def __init__(self, fetch: Fetch, wall: Callable[[], float]) -> None:
        self._fetch = fetch
        self._wall = wall
        self._kept: dict[tuple[str, str], tuple[Answer, float]] = {}
        self._open = 0

    async def get(self, channel: str, needs: Needs) -> Answer:
        """What is at the URL, whatever its status. Raises Unavailable where nothing is, or too much is asked for."""
        key = channel, needs.url
        kept = self._kept.get(key)
        if kept is not None and self._wall() < kept[1]:
            return kept[0]
        if self._open >= AT_ONCE:
            raise Unavailable("too much is being fetched", code="callback_unverified", retry_after=1.0)
        self._open += 1
        try:
            answer = await self._fetch(channel, needs.url)
        except NoAnswer:
            raise Unavailable(
                "what proves the signature cannot be fetched", code="callback_unverified", retry_after=5.0
            ) from None
        finally:
            self._open -= 1
        if answer.status == 200 and needs.keep:
            self._kept.pop(key, None)
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = answer, self._wall() + needs.keep
        return answer
