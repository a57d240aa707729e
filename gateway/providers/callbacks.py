"""Callbacks as providers read them: the channel's own provider checks the signature and gives the receipts."""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from gateway.errors import Forbidden, GatewayError, NotFound
from gateway.observe.log import get_logger
from gateway.ports import Reply
from gateway.providers.fetched import Fetched
from gateway.providers.provider import Call, Forged, Needs, Provider, Reporting, line

_log = get_logger("callbacks")

PATH = "/v1/callbacks/"
# URLs that one call may need
MAX_NEEDS = 2


def url_of(public_url: str, channel: str) -> str:
    """Where a channel's provider is to call; "" where callbacks are not configured."""
    return f"{public_url}{PATH}{channel}" if public_url else ""


class Callbacks:
    """`provider_of` a channel: the dispatcher's own. `wall`: real time, Unix s. `note`: told of each call that is not
    taken, (channel, why). `fetched`: what providers need to check a signature.
    """

    def __init__(
        self,
        public_url: str,
        provider_of: Callable[[str], Provider | None],
        wall: Callable[[], float],
        note: Callable[[str, str], None],
        fetched: Fetched,
    ) -> None:
        self._public_url = public_url
        self._provider_of = provider_of
        self._wall = wall
        self._note = note
        self._fetched = fetched

    def check(self, channel: str) -> None:
        """Raises NotFound for a channel that takes none."""
        self._reporting(channel)

    def _reporting(self, channel: str) -> Reporting:
        provider: object = self._provider_of(channel)
        if not isinstance(provider, Reporting):
            raise NotFound("no channel of this name takes callbacks", code="no_callbacks")
        return provider

    async def read(
        self,
        channel: str,
        method: str,
        target: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Reply:
        """`target`: path and query as they came; names of headers are in lower case. Raises NotFound; Forbidden for a
        signature that is wrong; GatewayError 400 for what is signed and cannot be read; Unavailable where what proves
        the signature cannot be had.
        """
        provider = self._reporting(channel)
        call = Call(method, self._public_url + target, query, headers, body)
        try:
            for _ in range(MAX_NEEDS):
                try:
                    return provider.callback(call, self._wall())
                except Needs as needs:
                    answer = await self._fetched.get(channel, needs)
                    call = replace(call, fetched={**call.fetched, needs.url: answer})
            return provider.callback(call, self._wall())
        except Forged as error:
            self._note(channel, "forged")
            _log.warning("a callback that is not the provider's", channel=channel, why=line(str(error)))
            raise Forbidden("the signature is wrong, missing or too old", code="callback_forged") from None
        except ValueError as error:
            self._note(channel, "unreadable")
            raise GatewayError(line(str(error)), code="callback_unreadable", http=400) from None
