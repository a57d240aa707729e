"""The queries of the store, for `await`: each a call of queries.py in the reader thread, long ones in slices."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gateway.commit import MessageView
from gateway.records import AuditEntry, Suppression
from gateway.stores.people import audit_log, suppressions, suppressions_of
from gateway.stores.queries import Page, Queries, Uplinks

_T = TypeVar("_T")


class Asked:
    async def _query(self, call: Callable[[Queries], _T]) -> _T:
        """Have it called in the reader thread. Raises StoreFailed."""
        raise NotImplementedError

    async def message(self, id: int) -> MessageView | None:
        return await self._query(lambda queries: queries.message(id))

    async def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> list[MessageView]:
        """Newest first, ids below `before`, without events and bodies; messages only. Others' queries come between
        the slices.
        """
        return await self._pages(
            lambda queries, below, left: queries.messages(to, sender, statuses, below, left), before, limit
        )

    async def dead_letters(
        self, to: str | None, why: str | None, before: int, limit: int, replayed: bool
    ) -> list[MessageView]:
        return await self._pages(
            lambda queries, below, left: queries.dead_letters(to, why, below, left, replayed), before, limit
        )

    async def _pages(
        self, slice_of: Callable[[Queries, int, int], Page], before: int, limit: int
    ) -> list[MessageView]:
        views: list[MessageView] = []
        while before and len(views) < limit:
            page = await self._query(partial(_slice, slice_of, before, limit - len(views)))
            views += page.views
            before = page.before
        return views

    async def suppressions(self, after: tuple[str, str, str], limit: int) -> list[Suppression]:
        return await self._query(lambda queries: suppressions(queries.conn, after, limit))

    async def suppressions_of(self, address: str) -> list[Suppression]:
        return await self._query(lambda queries: suppressions_of(queries.conn, address))

    async def audit(self, before: int, limit: int) -> list[AuditEntry]:
        return await self._query(lambda queries: audit_log(queries.conn, before, limit))

    async def waiting(self) -> dict[str, int]:
        """See ports.Store."""
        return await self._query(lambda queries: queries.waiting())

    async def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        return await self._query(lambda queries: queries.find_key(publisher, key))

    async def uplinks(
        self, clients: list[str], since: int, last: int
    ) -> dict[str, dict[int, tuple[int, bytes]]]:
        """See ports.Store. Clients without any are left out. Others' queries come between the slices."""
        asked = Uplinks(clients, since, last)
        while asked.before:
            await self._query(lambda queries: queries.uplinks(asked))
        return asked.found


def _slice(slice_of: Callable[[Queries, int, int], Page], before: int, left: int, queries: Queries) -> Page:
    return slice_of(queries, before, left)
