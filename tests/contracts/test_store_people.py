"""Suppressions and the audit log."""

from typing import Any

import pytest

from gateway.commit_people import Audit, DropSuppressions, PutSuppressions
from gateway.reads import ReadSuppressed
from gateway.records import AuditEntry, Suppression
from tests.contracts.storekit import Kit

PHONE, MAIL = "+4915112345678", "ada@example.org"
ALL = Suppression(address=MAIL, why="bounced", at=5, by="mail")
SMS = Suppression(address=PHONE, channel="sms", why="opted_out", at=7, by="sms")
NEWS = Suppression(address=PHONE, channel="sms", category="news", at=9)
EVERY = [SMS, NEWS, ALL]


def nothing(_: Any) -> None:
    """Nobody is told."""


async def listed(kit: Kit) -> list[Suppression]:
    return await kit.store.suppressions(("", "", ""), 100)


async def test_they_come_back_in_order(kit: Kit) -> None:
    kit.do(PutSuppressions([ALL, NEWS]), PutSuppressions([SMS]))
    assert await listed(kit) == EVERY
    assert kit.crash().suppressions == 3
    assert await listed(kit) == EVERY
    assert await kit.store.suppressions(("", "", ""), 2) == EVERY[:2]
    assert await kit.store.suppressions(NEWS.key, 100) == [ALL]
    assert await kit.store.suppressions_of(PHONE) == [SMS, NEWS]


async def test_of_two_for_the_same_the_later_counts(kit: Kit) -> None:
    later = Suppression(address=PHONE, channel="sms", why="complaint", at=8)
    kit.do(PutSuppressions([SMS, ALL, later]))
    assert await kit.store.suppressions_of(PHONE) == [later]
    kit.do(PutSuppressions([SMS]))
    assert await kit.store.suppressions_of(PHONE) == [SMS]
    assert kit.reopen().suppressions == 2


def test_a_read_behind_a_commit_sees_it(kit: Kit) -> None:
    read = kit.read(ReadSuppressed([PHONE, "nobody"], nothing))
    assert read.found == {}
    kit.do(PutSuppressions(EVERY))
    assert kit.read(ReadSuppressed([PHONE, "nobody"], nothing)).found == {PHONE: [SMS, NEWS]}
    assert kit.read(ReadSuppressed([], nothing)).found == {}


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ((PHONE, "mail"), EVERY),
        ((PHONE, "sms", "news"), [SMS, ALL]),
        ((PHONE, "", "news"), [SMS, ALL]),
        ((PHONE, "sms"), [ALL]),
        ((PHONE,), [ALL]),
        (("nobody",), EVERY),
        ((MAIL, "*", "*"), [SMS, NEWS]),
    ],
)
async def test_they_are_taken_back_by_address_channel_category(
    kit: Kit, named: tuple[str, ...], left: list[Suppression]
) -> None:
    kit.do(PutSuppressions(EVERY))
    drop = DropSuppressions(*named)
    kit.do(drop)
    assert await listed(kit) == left
    assert drop.count == 3 - len(left)


async def test_the_log_is_read_from_its_end(kit: Kit) -> None:
    assert await kit.store.audit(1 << 60, 10) == []
    entries = [AuditEntry(100 + n, "api:ops", "client.put", {"client": f"c{n}"}) for n in range(3)]
    kit.do(Audit(entries[0]), Audit(entries[1]))
    kit.do(Audit(entries[2]))
    found = await kit.store.audit(1 << 60, 10)
    assert [(e.id, e.at, e.data["client"]) for e in found] == [(3, 102, "c2"), (2, 101, "c1"), (1, 100, "c0")]
    kit.crash()
    assert await kit.store.audit(3, 1) == found[1:2]
