"""The access token of a channel: asked for once, kept until shortly before its end, shared by all attempts.

A request for a token is no attempt at a message: nothing of one has gone out, whatever becomes of it.
"""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from gateway.ports import Outcome
from gateway.providers.failures import failed
from gateway.providers.http import HttpCarrier, NoAnswer
from gateway.providers.provider import Grant, Granting

# a token is not used any more so many seconds before its end, or in the last tenth of a short life
MARGIN = 60.0


class Held(Struct, frozen=True):
    """A token for one attempt. `kept`: it was there before this attempt asked."""

    token: str
    kept: bool


class Tokens:
    def __init__(self, provider: Granting, http: HttpCarrier, wall: Callable[[], float]) -> None:
        self._provider = provider
        self._http = http
        self._wall = wall
        self._token = ""
        self._end = 0.0  # Unix s at which it is not used any more
        self._asking: asyncio.Task[Outcome | None] | None = None
        self._doubted = False  # a fresh one was refused: the next refusal is no matter of its age

    async def get(self) -> Held | Outcome:
        """A token; or why there is none, as the outcome of the attempt. Raises what a bug in the provider raises."""
        if self._token and self._wall() < self._end:
            return Held(self._token, kept=True)
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # one attempt that is broken off must not break off the others' request
        refused = await asyncio.shield(self._asking)
        return refused or Held(self._token, kept=False)

    def judge(self, held: Held, outcome: Outcome) -> Outcome:
        """What the outcome of an attempt says of its token. A refused one is dropped; one that was kept may simply have
        ended before its time, so the attempt may be made again, with a fresh one. A fresh one that is refused too
        stands for the credential.
        """
        if outcome.kind != "refused" or outcome.blame != "credential":
            self._doubted = False
            return outcome
        if held.token == self._token:
            self._token = ""
        if not held.kept or self._doubted:
            self._doubted = True
            return outcome
        return Outcome("retry", outcome.reason, status=outcome.status, code=outcome.code)

    async def close(self) -> None:
        """Break off the request for a token."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Outcome | None:
        try:
            answer = await self._http.exchange(self._provider.grant_request(self._wall()))
        except NoAnswer as error:
            outcome = failed(error.__cause__ or error, sent=error.sent)
            return outcome if outcome.kind == "refused" else _none(outcome)
        wall = self._wall()
        grant = self._provider.grant(answer, wall)
        if not isinstance(grant, Grant):
            return grant if grant.kind in {"retry", "refused"} else _none(grant)
        self._token = grant.token
        self._end = grant.until - min(MARGIN, (grant.until - wall) / 10)
        return None

    def _asked(self, task: "asyncio.Task[Outcome | None]") -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen, also where no attempt waits for it any more


def _none(outcome: Outcome) -> Outcome:
    return Outcome("retry", f"no access token: {outcome.reason}"[:200], status=outcome.status)
