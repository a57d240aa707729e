"""The store on virtual time: a memory store whose commits take a while, fail by the seed, and are partly lost in a
crash; and a look at what is committed, for the ledger.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.commit import Commit, Event, MessageView, Recovered
from gateway.errors import StoreFailed
from gateway.model import Chain, ChainRow, Hold, Kind
from gateway.stores.memory import MemoryStore
from gateway.stores.memory_tables import Row

if TYPE_CHECKING:
    from tests.sim.world import World


class Disk:
    """ports.Store. Outlives the gateway."""

    name = "memory"

    def __init__(self, world: "World") -> None:
        self.world = world
        self.commits = 0
        self.inner = MemoryStore(
            fail=self._fail, durable=lambda _: world.rng.random() < 0.5, trace_root="a1" * 8
        )

    def _fail(self, commit: Commit) -> StoreFailed | None:
        world = self.world
        chance = world.profile.fail if commit else world.profile.fail * 10
        if world.healed or world.rng.random() >= chance:
            return None
        definite = world.rng.random() < 0.5
        world.trace("disk", "fails", definite)
        return StoreFailed("injected", definite=definite, disk_full=definite and world.rng.random() < 0.5)

    # -- Store -----------------------------------------------------------------------------------------------------

    def open(self) -> Recovered:
        return self.inner.open()

    def submit(self, commit: Commit, done: Callable[[Commit, Exception | None], None]) -> None:
        world, gateway = self.world, self.world.gateway
        assert gateway is not None

        def finished(commit: Commit, error: Exception | None) -> None:
            self.commits += 1
            world.trace("disk", "commit", [len(commit.appends), len(commit.ops), error is None])
            done(commit, error)

        self.inner.submit(commit, finished)
        gateway.time.after(world.rng.randint(*world.profile.commit), self._step)

    def _step(self) -> None:
        self.inner.step()

    def close(self) -> None:
        self.inner.close()

    async def message(self, id: int) -> MessageView | None:
        return await self.inner.message(id)

    async def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> list[MessageView]:
        return await self.inner.messages(to, sender, statuses, before, limit)

    async def dead_letters(
        self, to: str | None, why: str | None, before: int, limit: int, replayed: bool
    ) -> list[MessageView]:
        return await self.inner.dead_letters(to, why, before, limit, replayed)

    async def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        return await self.inner.find_key(publisher, key)

    async def uplinks(
        self, clients: list[str], since: int, last: int
    ) -> dict[str, dict[int, tuple[int, bytes]]]:
        return await self.inner.uplinks(clients, since, last)

    def figures(self) -> dict[str, float]:
        return self.inner.figures()

    def crash(self) -> None:
        """The machine's process is gone; what was under way may have reached the disk."""
        self.inner.crash(lambda _: self.world.rng.random() < 0.4)

    # -- what is committed -----------------------------------------------------------------------------------------

    def peek(self, id: int) -> Row | None:
        row: Row | None = self.inner._tables.messages.get(id)
        return row

    def chain(self, id: int) -> ChainRow | None:
        return self.inner._tables.chains.get(id)

    def has_gap(self, client: str, eno: int, seq: int) -> bool:
        gap = self.inner._tables.gaps.get((client, seq))
        return gap is not None and gap.eno == eno

    def known_since(self, client: str) -> int:
        """When the client was first welcomed, Unix ms."""
        known = self.inner._tables.sessions.get(client)
        return known.row.created if known is not None else 0

    def rows(self) -> list[Row]:
        return [row for _, row in sorted(self.inner._tables.messages.items())]

    def live(self) -> list[Row]:
        """What is in a session, or has a time at which it is looked at."""
        return list(self.inner._tables.messages.of_live())

    def pending(self, plain: set[str]) -> str:
        """What is not settled yet, "" for nothing. Status reports wait for as long as their client is `plain`."""
        tables = self.inner._tables
        for row in tables.messages.values():
            if row.kind == Kind.STATUS and row.hold == Hold.WAITING and row.client in plain:
                continue
            if row.hold != Hold.NONE or (row.kind == Kind.MESSAGE and row.status < 4 and not row.ended_at):
                return f"{row}"
        for gap in tables.gaps.values():
            return f"{gap}"
        for chain in tables.chains.values():
            return f"{chain}"
        return ""

    def events(self, id: int) -> tuple[Event, ...]:
        """A message's timeline."""
        return self.inner._tables.events.get(id, ())

    def kinds(self, id: int) -> set[str]:
        """The kinds of the lines in a message's timeline."""
        return {event.kind for event in self.inner._tables.events.get(id, ())}

    def epochs(self, client: str) -> int:
        """How many the client has had."""
        return self.inner._tables.eno(client) or 0

    def next_due(self) -> Row | None:
        """The first row that the gateway must look at. (Of what is bound, for its own deadline only.)"""
        rows = [
            row
            for row in self.inner._tables.messages.of_live()
            if row.due
            and (
                row.hold in {Hold.WAITING, Hold.LATER}
                or (row.due == row.deadline and row.chain == Chain.READY)
            )
        ]
        return min(rows, key=lambda row: row.due, default=None)

    def recovered(self) -> Recovered:
        """What a start would find."""
        return self.inner._recover()
