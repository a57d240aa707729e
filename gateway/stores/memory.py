"""A store in dictionaries, for tests and the simulation. The same contract as SQLite's, and nothing left to chance: no
threads, no clock, no order that depends on a hash.

Committed and volatile state are told apart. What was submitted waits until `step` carries it out, unless `auto`;
`crash` drops what waits. A commit may be made to fail, with or without having reached the disk all the same. Values
are replaced, never changed, so a commit that turns out to be impossible half-way is undone.
"""

from collections import Counter, deque
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from gateway.commit import Commit, MessageView, Recovered
from gateway.errors import StoreFailed
from gateway.model import Hold, Item, Kind, Phase, Status
from gateway.records import AuditEntry, Suppression
from gateway.stores.memory_commit import Carrier, as_recovered
from gateway.stores.memory_tables import Row, Tables, copy_chain, gap_of, item_of, run_reads

log = structlog.get_logger("gateway.store")

Done = Callable[[Commit, Exception | None], None]

_BOUND, _CLAIMED = int(Hold.BOUND), int(Hold.CLAIMED)


def _call(call: Callable[[], None]) -> None:
    call()


class MemoryStore:
    """`post` runs `done` calls on the hub's thread; by default they are called within `step`.

    `auto`: `submit` carries out what it is given. `fail` is asked before each commit: an answer fails it. Of one that
    fails without being definite, `durable` says whether it reached the disk all the same (default: it did not).
    """

    name = "memory"

    def __init__(
        self,
        *,
        auto: bool = False,
        post: Callable[[Callable[[], None]], None] = _call,
        fail: Callable[[Commit], StoreFailed | None] = lambda _: None,
        durable: Callable[[Commit], bool] = lambda _: False,
        trace_root: str = "0" * 16,
    ) -> None:
        self._auto = auto
        self._post = post
        self.fail = fail
        self.durable = durable
        self._trace_root = trace_root
        self._tables = Tables()
        self._carrier = Carrier(self._tables)
        self._queue: deque[tuple[Commit, Done]] = deque()
        self._stepping = False
        self._failure: StoreFailed | None = StoreFailed("the store is not open", definite=True)
        self._commits = 0
        self._failures = 0

    # -- Store -----------------------------------------------------------------------------------------------------

    def open(self) -> Recovered:
        """See ports.Store. A test makes it fail by `fail`, asked with an empty commit (the probe)."""
        error = self.fail(Commit())
        if error is not None:
            raise error
        self._carrier = Carrier(self._tables)
        self._failure = None
        return self._recover()

    def submit(self, commit: Commit, done: Done) -> None:
        self._queue.append((commit, done))
        if self._auto and not self._stepping:
            self._stepping = True
            try:
                while self.step():
                    pass
            finally:
                self._stepping = False

    def close(self) -> None:
        while self.step():
            pass
        self._failure = StoreFailed("the store is not open", definite=True)

    def figures(self) -> dict[str, float]:
        return {
            "rows": len(self._tables.messages),
            "bytes": 0,
            "wal_bytes": 0,
            "commits": self._commits,
            "commits_here": 0,
            "commit_seconds": 0.0,
            "failures": self._failures,
            "checkpoints": 0,
            "checkpoint_seconds": 0.0,
            "corrupt": 0,
        }

    # -- what a test decides ---------------------------------------------------------------------------------------

    @property
    def pending(self) -> list[Commit]:
        """What was submitted and not carried out, in order."""
        return [commit for commit, _ in self._queue]

    def step(self) -> bool:
        """Carry out the oldest commit that waits; False where none does."""
        if not self._queue:
            return False
        commit, done = self._queue.popleft()
        error = self._failure
        if error is None:
            error = self.fail(commit)
            if error is None:
                error = self._carry_out(commit)
            elif not error.definite and self.durable(commit):
                self._carry_out(commit)
            if error is None:
                self._tell(commit)
            else:
                self._failures += 1
                self._failure = StoreFailed(str(error), definite=True, disk_full=error.disk_full)
        self._post(lambda: done(commit, error))
        return True

    def crash(self, reached: Callable[[Commit], bool] = lambda _: False) -> None:
        """The process is gone, and nobody is told anything more. Of what waits, each commit for which `reached` says
        so had reached the disk, up to the first for which it does not. The store must be opened anew.
        """
        while self._queue and self._failure is None and reached(self._queue[0][0]):
            self._carry_out(self._queue.popleft()[0])
        self._queue.clear()
        self._failure = StoreFailed("the store is not open", definite=True)

    def _carry_out(self, commit: Commit) -> StoreFailed | None:
        try:
            self._carrier.carry_out(commit)
        except Exception as error:  # noqa: BLE001 - an impossible commit fails like any other
            self._tables.undo()
            return StoreFailed(f"{type(error).__name__}: {error}", definite=True)
        self._tables.settled()
        return None

    def _tell(self, commit: Commit) -> None:
        """It stands: write results into Items, then read."""
        for item, hold, eno, seq, status in self._carrier.placed:
            item.hold, item.eno, item.seq, item.status = hold, eno, seq, status
        run_reads(self._tables, commit.reads)
        self._commits += 1

    # -- recovery --------------------------------------------------------------------------------------------------

    def _recover(self) -> Recovered:
        tables = self._tables
        windows: dict[str, list[Item]] = {}
        strays: list[int] = []
        waiting: dict[str, int] = {}
        for row in tables.messages.of_live():
            if row.hold in {_BOUND, _CLAIMED}:
                if tables.eno(row.client) != row.eno:
                    strays.append(row.id)
                    continue
                item = item_of(row, body=False)
                item.marks = max(row.marks, 1) if row.hold == _BOUND else row.marks
                windows.setdefault(row.client, []).append(item)
        if strays:
            log.error("messages bound to an epoch that is over wait again", count=len(strays))
            self._carrier.unbind_rows(strays)
            tables.settled()
        for row in tables.messages.of_live():
            if row.hold in {Hold.WAITING, Hold.LATER}:
                waiting[row.client] = waiting.get(row.client, 0) + 1
        for gap in tables.gaps.values():
            if tables.eno(gap.client) == gap.eno:
                windows.setdefault(gap.client, []).append(gap_of(gap))
        channels: dict[str, int] = {}
        for chain in tables.chains.values():
            if chain.phase == Phase.WAIT:
                channels[chain.channel] = min(chain.due, channels.get(chain.channel, chain.due))
        return Recovered(
            sessions=[as_recovered(known) for _, known in sorted(tables.sessions.items())],
            clients=[replace(row) for _, row in sorted(tables.clients.items())],
            templates=[row for _, row in sorted(tables.templates.items())],
            suppressions=len(tables.suppressions),
            windows={client: sorted(items, key=lambda i: i.seq) for client, items in windows.items()},
            waiting=waiting,
            open_chains=[copy_chain(c) for _, c in sorted(tables.chains.items()) if c.phase == Phase.OPEN],
            channels=channels,
            next_rest=min((c.due for c in tables.chains.values() if c.phase == Phase.RECEIPT), default=0),
            highest_id=tables.highest,
            next_due=min((row.due for row in tables.messages.of_live() if row.due > 0), default=0),
            rows=len(tables.messages),
            trace_root=self._trace_root,
        )

    # -- queries ---------------------------------------------------------------------------------------------------

    def _committed(self) -> Tables:
        if self._failure is not None:
            raise self._failure
        return self._tables

    def _view(self, row: Row, *, body: bool, events: bool) -> MessageView:
        timeline = sorted(self._tables.events.get(row.id, ()), key=lambda e: e.at) if events else []
        return MessageView(item_of(row, body=body), row.sent_at, row.ended_at, row.replayed, timeline)

    async def message(self, id: int) -> MessageView | None:
        tables = self._committed()
        row = tables.messages.get(id)
        if row is None:
            return None
        view = self._view(row, body=True, events=True)
        chain = tables.chains.get(id)
        view.chain_row = copy_chain(chain) if chain is not None else None
        return view

    async def messages(
        self, to: str | None, sender: str | None, statuses: tuple[int, ...] | None, before: int, limit: int
    ) -> list[MessageView]:
        rows = [
            row
            for row in self._below(before)
            if to in {None, row.client}
            and sender in {None, row.sender}
            and (statuses is None or row.status in statuses)
        ]
        return [self._view(row, body=False, events=False) for row in rows[:limit]]

    async def dead_letters(
        self, to: str | None, why: str | None, before: int, limit: int, replayed: bool
    ) -> list[MessageView]:
        rows = [
            row
            for row in self._below(before)
            if row.status == Status.DEAD
            and to in {None, row.client}
            and why in {None, row.why}
            and (replayed or not row.replayed)
        ]
        return [self._view(row, body=True, events=True) for row in rows[:limit]]

    def _below(self, before: int) -> list[Row]:
        """Messages with an id below `before`, newest first."""
        found = sorted(self._committed().messages.items(), reverse=True)
        return [row for id, row in found if id < before and row.kind == Kind.MESSAGE and row.client]

    async def suppressions(self, after: tuple[str, str, str], limit: int) -> list[Suppression]:
        found = sorted(self._committed().suppressions.items())
        return [row for key, row in found if key > after][:limit]

    async def suppressions_of(self, address: str) -> list[Suppression]:
        return [row for key, row in sorted(self._committed().suppressions.items()) if key[0] == address]

    async def audit(self, before: int, limit: int) -> list[AuditEntry]:
        found = sorted(self._committed().audit.items(), reverse=True)
        return [entry for id, entry in found if id < before][:limit]

    async def find_key(self, publisher: str, key: str) -> tuple[int, bytes] | None:
        found = self._committed().keys.get((publisher, key))
        return (found.id, found.digest) if found is not None else None

    async def waiting(self) -> dict[str, int]:
        """See ports.Store."""
        rows = self._committed().chains.values()
        return dict(sorted(Counter(row.channel for row in rows if row.phase == Phase.WAIT).items()))

    async def uplinks(
        self, clients: list[str], since: int, last: int
    ) -> dict[str, dict[int, tuple[int, bytes]]]:
        """See ports.Store. Clients without any are left out."""
        publishers = set(clients)
        latest: dict[tuple[str, int], Row] = {}
        for _, row in sorted(self._committed().messages.items()):
            if row.pid and row.kind == Kind.MESSAGE and row.at >= since and row.sender in publishers:
                latest[row.sender, row.pid] = row
        found: dict[str, dict[int, tuple[int, bytes]]] = {}
        count: dict[str, int] = {}
        for (client, pid), row in sorted(latest.items(), key=lambda pair: pair[1].id, reverse=True):
            count[client] = count.get(client, 0) + 1
            if count[client] <= last and row.body is not None:
                found.setdefault(client, {})[pid] = row.id, row.body
        return found
