"""What the packet ids of one link last stood for: a PUBLISH with DUP may be one that was accepted before.

Of a publish that was committed by this process memory knows. At most as many can be without a PUBACK as the link's
receive maximum, so the latest of that number are kept, also from one connection to the next. Of what an earlier process
committed, or a failed commit may have, the store knows: a broker sends again first, so as long as every publish since
then came with DUP, that is asked. A client belongs to one link, so its rows hold packet ids of this link only.
"""

from gateway.transports.hub import HubSessions


class Use:
    """One publish that was committed: a hash of it, and the ids that its messages got, by their place in it.

    `buried`: it became a dead letter.
    """

    __slots__ = ("buried", "ids", "mark")

    def __init__(self, mark: int, ids: dict[str, int], *, buried: bool = False) -> None:
        self.mark = mark
        self.ids = ids
        self.buried = buried


class Repeats:
    __slots__ = ("_found", "_hub", "_last", "_uses", "unsure")

    def __init__(self, hub: HubSessions, last: int) -> None:
        self._hub = hub
        self._last = last
        self._uses: dict[int, Use] = {}
        # client -> packet id -> (id, hash of the body)
        self._found: dict[str, dict[int, tuple[int, int]]] = {}
        self.unsure = True  # the store may know more than memory

    def begins(self, pid: int, *, dup: bool) -> None:
        """The packet id stands for another publish now, which is not committed yet."""
        self._uses.pop(pid, None)
        if self.unsure and not dup:
            # all that was sent again came before it
            self.unsure = False
            self._found.clear()

    def used(self, pid: int, use: Use) -> None:
        """A publish was committed."""
        self._uses.pop(pid, None)
        self._uses[pid] = use
        if len(self._uses) > self._last:
            del self._uses[next(iter(self._uses))]

    def doubt(self) -> None:
        """A commit failed, and may yet have reached the disk."""
        self.unsure = True
        self._found.clear()

    def known(self, pid: int, mark: int) -> Use | None:
        """The committed publish that this one repeats, as far as memory knows."""
        use = self._uses.get(pid)
        return use if use is not None and use.mark == mark else None

    def must_ask(self, pid: int, client: str) -> bool:
        """Whether only the store can tell what this packet id of the client stood for."""
        return self.unsure and pid not in self._uses and client not in self._found

    def stored(self, pid: int, client: str, body: bytes) -> int:
        """The id of the message that this publish repeats, as far as the store was asked; 0: none."""
        if pid in self._uses:
            return 0
        id, found = self._found.get(client, {}).get(pid, (0, 0))
        return id if id and found == hash(body) else 0

    async def ask(self, clients: list[str]) -> None:
        """Look for what these clients published. Raises GatewayError where the store cannot tell now."""
        rows = await self._hub.uplinks(clients, self._last)
        for client in clients:
            self._found[client] = {pid: (id, hash(body)) for pid, (id, body) in rows.get(client, {}).items()}
