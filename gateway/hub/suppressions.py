"""Suppressions: addresses to which nothing goes, by an administrator's word or because a provider said so.

What a provider tells of an address (it is gone, its owner has opted out) holds for the channel that was told, until
the record has another address or an administrator takes it back.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from gateway.commit_people import DropSuppressions, PutSuppressions
from gateway.hub.core import Core
from gateway.records import ClientRow, Suppression


class Learnt(Protocol):
    """What an outcome, or a receipt, says of an address (ports.Outcome)."""

    @property
    def learnt(self) -> str: ...

    @property
    def address(self) -> str: ...


class Suppressions:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.count = 0  # rows, or a few more; where there is none, nobody need be asked

    async def put(self, rows: Sequence[Suppression], by: str) -> None:
        """Write them, durably. Raises Unavailable."""
        core = self.core
        future = core.future()
        now = core.now()

        def done(op: PutSuppressions) -> None:
            self.count += len(op.rows)
            if not future.done():
                future.set_result(None)

        core.commit.ops.append(PutSuppressions([replace(row, at=now, by=by) for row in rows], done))
        core.audit(by, "suppressions.put", {"count": len(rows)})
        await future

    async def drop(self, address: str, channel: str, category: str, by: str) -> int:
        """Take back those of an address, of a channel and a category where they are not empty; how many there were.
        Raises Unavailable.
        """
        core = self.core
        future = core.future()

        def done(op: DropSuppressions) -> None:
            self.count = max(self.count - op.count, 0)
            if not future.done():
                future.set_result(op.count)

        core.commit.ops.append(DropSuppressions(address, channel, category, done))
        core.audit(by, "suppressions.delete", {"channel": channel or "*", "category": category or "*"})
        count: int = await future
        return count

    def learn(
        self,
        client: str,
        channel: str,
        told: Learnt,
        then: Callable[[PutSuppressions], None] | None = None,
    ) -> None:
        """A provider has told something of an address, which is the client's where it does not name it: that it is
        `gone`, has `opted_out`, or has `moved`. `then`: of a suppression, once it is durable.
        """
        core = self.core
        held = core.address_of(client, channel)
        if told.learnt == "moved":
            self._move(client, channel, held, told.address)
            return
        address = told.address or held
        if not address:
            return
        row = Suppression(address=address, channel=channel, why=told.learnt, at=core.now(), by=channel)
        # from now on: a commit that fails reads the count anew
        self.count += 1
        core.commit.ops.append(PutSuppressions([row], then))
        core.audit(channel, "suppressions.learnt", {"client": client, "why": told.learnt})

    def _move(self, client: str, channel: str, old: str, new: str) -> None:
        """The provider has a new address for the old one: the record gets it."""
        core = self.core
        row = core.record_of(client)
        contacts = row.record.contacts
        if client in core.forgetting or not contacts or old not in contacts.values() or not new:
            return
        contacts = {name: new if text == old else text for name, text in contacts.items()}
        core.put_record(
            ClientRow(client, replace(row.record, contacts=contacts), row.not_before, row.banned_until)
        )
        core.audit(channel, "contact.moved", {"client": client})


def concerning(rows: Sequence[Suppression], channel: str, category: str) -> Suppression | None:
    """The suppression, of those of an address, that forbids a channel in a category."""
    for row in rows:
        if row.channel in {"*", channel} and row.category in {"*", category}:
            return row
    return None
