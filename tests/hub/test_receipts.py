"""What providers report: early, late, twice, in any order, of attempts that nobody knew the end of."""

import asyncio

import pytest

from gateway.commit import Commit
from gateway.errors import StoreFailed, Unavailable
from gateway.hub import receipts as module
from gateway.ids import encode_id
from gateway.model import Hold, Kind, Phase, Status
from gateway.ports import Outcome, Receipt
from gateway.records import ClientRecord
from tests.hub.rig import Rig
from tests.hub.steps import ACCEPTED, AMBIGUOUS, DELIVERED, HOUR, REFUSED, REPORTS, RETRY, Way, config
from tests.hub.test_chain import away

TAKEN, ARRIVED = Status.PROVIDER_ACCEPTED, Status.PROVIDER_DELIVERED
READ, DEAD = Status.PROVIDER_READ, Status.DEAD


def of(way: Way, status: str, n: int = 1, **fields: object) -> Receipt:
    return Receipt(ref=f"{encode_id(way.id)}.{n}", status=status, **fields)  # type: ignore[arg-type]


def come(rig: Rig, channel: str, *receipts: Receipt) -> None:
    """One call of a provider; it is answered."""
    rig.run(rig.hub.receipts(channel, list(receipts)))
    rig.pass_(0.02)


def report(way: Way, status: str, n: int = 1, channel: str = "hook", **fields: object) -> None:
    come(way.rig, channel, of(way, status, n, **fields))


def told(way: Way) -> list[int]:
    return [status for status, _ in way.told]


# -- in order ----------------------------------------------------------------------------------------------------------


def test_delivered_and_read_are_told_each_once() -> None:
    rig = Rig(config())
    publisher = rig.conn("bob")
    way = Way(
        rig, sender=publisher.principal, notify=["provider_accepted", "provider_delivered", "provider_read"]
    )
    way.ends(REPORTS)
    for status in ("accepted", "delivered", "delivered", "read", "delivered"):
        report(way, status, at=1_800_000_000_000, code="d")
    assert way.stands == (READ, "hook", True, None)
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED, READ]
    assert way.lines("receipt") == 3
    assert way.line("receipt") == {
        "channel": "hook", "n": 1, "status": "read", "code": "d", "at": 1_800_000_000_000
    }  # fmt: skip
    assert len({id for _, id, _ in publisher.items}) == 3
    assert rig.watch.receipts == [
        ("hook", "accepted"), ("hook", "delivered"), ("hook", "repeated"), ("hook", "read"), ("hook", "repeated"),
    ]  # fmt: skip
    rig.pass_(60)
    assert way.tried == ["hook"]


def test_several_of_a_message_in_one_call() -> None:
    rig = Rig(config())
    way, other = Way(rig), Way(rig)
    way.ends(REPORTS)
    other.ends(REPORTS)
    come(
        rig, "hook", of(way, "accepted"), of(other, "failed", reason="spam"), of(way, "delivered"),
        of(way, "accepted"), of(way, "read"), of(way, "", code="clicked", learnt="opted_out"),
    )  # fmt: skip
    assert way.stands == (READ, "hook", True, None)
    assert way.lines("receipt") == 4
    assert way.line("receipt") == {
        "channel": "hook", "n": 1, "status": "", "code": "clicked", "learnt": "opted_out"
    }  # fmt: skip
    assert other.tried == ["hook", "sms"]
    assert rig.watch.addresses == [("hook", "opted_out")]


def test_a_failure_leads_to_the_next_step_and_on_the_last_to_the_dead() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    report(way, "failed", reason="unknown handset", code="30005")
    assert way.tried == ["hook", "sms"]
    assert way.stands == (TAKEN, "", False, (Phase.OPEN, "sms"))
    way.ends(REPORTS)
    assert way.stands == (TAKEN, "sms", False, (Phase.RECEIPT, "sms"))
    report(way, "failed", 2, "sms", reason="unknown handset", code="30005")
    assert way.stands == (DEAD, "sms", True, None)
    assert way.view.item.why == "unknown handset"
    assert told(way) == [Status.HANDED_OVER, TAKEN, DEAD]
    # the first end wins
    report(way, "delivered", 2, "sms")
    assert way.stands == (DEAD, "sms", True, None)
    assert way.lines("receipt") == 3


def test_a_failure_after_the_messages_time_starts_nothing() -> None:
    rig = Rig(config())
    way = Way(rig, ttl=60)
    way.ends(REPORTS)
    rig.pass_(61)
    report(way, "failed", reason="carrier")
    assert way.stands == (DEAD, "hook", True, None)
    assert way.view.item.why == "carrier"


def test_delivered_satisfies_a_step_that_asks_for_it() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(29)
    report(way, "delivered")
    rig.pass_(60)
    assert way.tried == ["hook"]
    assert way.stands == (ARRIVED, "hook", True, None)


def test_where_read_is_asked_for_delivered_is_told_and_the_chain_goes_on() -> None:
    rig = Rig(config(hook_={"satisfied_by": "read"}))
    way = Way(rig)
    way.ends(REPORTS)
    report(way, "delivered")
    assert way.stands == (ARRIVED, "hook", True, (Phase.RECEIPT, "hook"))
    rig.pass_(31)
    assert way.tried == ["hook", "sms"]
    way.ends(REFUSED)
    assert way.stands == (ARRIVED, "hook", True, None)
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED]
    report(way, "read")
    assert way.stands == (READ, "hook", True, None)


@pytest.mark.parametrize("end", [DELIVERED, REPORTS, RETRY])
def test_a_read_stops_a_chain_that_went_on_after_delivered(end: Outcome) -> None:
    rig = Rig(config(hook_={"satisfied_by": "read"}))
    way = Way(rig)
    way.ends(REPORTS)
    report(way, "delivered")
    rig.pass_(31)
    report(way, "read")
    assert way.stands == (READ, "hook", True, None)
    way.ends(end)
    rig.pass_(31)
    assert way.stands == (READ, "hook", True, None)
    assert way.tried == ["hook", "sms"]
    assert way.line("attempt_ended")["outcome"] == end.kind


# -- early -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "outcome", "stands"),
    [
        (["delivered"], REPORTS, (ARRIVED, "hook", True, None)),
        (["delivered"], AMBIGUOUS, (ARRIVED, "hook", True, None)),
        (["accepted"], AMBIGUOUS, (TAKEN, "hook", False, (Phase.RECEIPT, "hook"))),
        (["accepted", "delivered", "read"], ACCEPTED, (READ, "hook", True, None)),
        (["failed"], REPORTS, (Status.HANDED_OVER, "", False, (Phase.OPEN, "sms"))),
        (["failed", "accepted"], AMBIGUOUS, (Status.HANDED_OVER, "", False, (Phase.OPEN, "sms"))),
    ],
)
def test_before_the_attempt_was_answered(
    statuses: list[str], outcome: Outcome, stands: tuple[int, str, bool, tuple[int, str] | None]
) -> None:
    rig = Rig(config())
    way = Way(rig)
    for status in statuses:
        report(way, status)
    assert way.stands == (Status.HANDED_OVER, "", False, (Phase.OPEN, "hook"))
    assert way.lines("receipt") == len(statuses)
    way.ends(outcome)
    assert way.stands == stands


def test_in_the_same_moment_as_the_answer() -> None:
    """The outcome is on its way to the disk when the story of its message is read."""
    rig = Rig(config())
    way = Way(rig)
    done = rig.sent.attempts[-1][2]

    def meanwhile() -> None:
        done(REPORTS)

    rig.run(rig.hub.receipts("hook", [of(way, "delivered")]), meanwhile)
    rig.pass_(0.02)
    assert way.stands == (ARRIVED, "hook", True, None)
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED]


def test_before_the_gateway_stopped() -> None:
    """The attempt is found open; what its provider said of it is in the timeline."""
    rig = Rig(config())
    way = Way(rig)
    report(way, "delivered")
    failures = iter((StoreFailed("fdatasync", definite=True),))
    rig.store.fail = lambda commit: next(failures, None) if commit else None
    rig.publish("carol")
    rig.pass_(2)
    assert rig.hub.failures == 1
    assert way.stands == (ARRIVED, "hook", True, None)
    assert way.tried == ["hook"]


# -- late --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["waits", "open", "rests"])
def test_of_an_earlier_step_stops_what_is_left(phase: str) -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(31)
    if phase == "waits":
        way.ends(RETRY)
    elif phase == "rests":
        way.ends(REPORTS)
    report(way, "delivered")
    assert way.stands == (ARRIVED, "hook", True, None)
    if phase == "open":
        way.ends(DELIVERED)
    rig.pass_(31)
    assert way.tried == ["hook", "sms"]
    assert way.stands == (ARRIVED, "hook", True, None)
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED]


def test_a_failure_of_an_earlier_step_takes_its_word_back() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(31)
    report(way, "failed")
    assert way.stands == (TAKEN, "", False, (Phase.OPEN, "sms"))
    way.ends(REFUSED)
    assert way.stands == (DEAD, "sms", True, None)


def test_another_channels_word_stands_all_the_same() -> None:
    rig = Rig(config(hook_={"satisfied_by": "delivered"}, sms={"satisfied_by": "delivered"}))
    way = Way(rig)
    way.ends(REPORTS)
    rig.pass_(31)
    way.ends(REPORTS)
    report(way, "failed", 2, "sms")
    assert way.stands == (TAKEN, "hook", True, None)


def test_of_what_has_ended_as_accepted() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(ACCEPTED)
    assert way.stands == (TAKEN, "hook", True, None)
    report(way, "failed")
    assert way.stands == (TAKEN, "hook", True, None)
    report(way, "delivered")
    assert way.stands == (ARRIVED, "hook", True, None)
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED]
    report(way, "accepted")
    assert way.stands == (ARRIVED, "hook", True, None)


def test_of_what_its_client_gets_late() -> None:
    rig = Rig(config())
    rig.run(rig.hub.put_client("alice", ClientRecord(late="deliver")))
    way = Way(rig)
    way.ends(ACCEPTED)
    assert way.view.item.hold == Hold.WAITING
    report(way, "delivered")
    assert way.view.item.hold == Hold.WAITING
    conn = rig.conn("alice")
    report(way, "read")
    conn.ack(1)
    rig.pass_(0.02)
    assert way.stands == (READ, "hook", True, None)


def test_of_what_its_client_has_acked() -> None:
    rig = Rig(config())
    way = away(rig)
    assert way.conn is not None
    way.conn.again(ack=1)
    way.ends(REPORTS)
    report(way, "delivered")
    assert way.stands == (Status.DELIVERED, "ws", True, None)
    assert way.lines("receipt") == 1


def test_of_what_its_client_got_back() -> None:
    rig = Rig(config())
    way = away(rig)
    assert way.conn is not None
    conn = way.conn.again()
    way.ends(RETRY)
    assert way.stands[3] == (Phase.PARKED, "hook")
    report(way, "delivered")
    assert way.stands[0] in (Status.QUEUED, Status.SENT)
    assert way.lines("receipt") == 1
    assert conn.kinds[-1] == Kind.MESSAGE


# -- ambiguous ---------------------------------------------------------------------------------------------------------


def test_a_receipt_settles_what_nobody_knew() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(AMBIGUOUS)
    assert way.stands[3] == (Phase.WAIT, "hook")
    report(way, "accepted")
    assert way.stands == (TAKEN, "hook", False, (Phase.RECEIPT, "hook"))
    rig.pass_(60)
    assert way.tried == ["hook"]
    report(way, "delivered")
    assert told(way) == [Status.HANDED_OVER, TAKEN, ARRIVED]


def test_a_failure_settles_it_too() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(AMBIGUOUS)
    report(way, "failed")
    assert way.tried == ["hook", "sms"]
    # the later word stands, whatever order they come in
    report(way, "accepted")
    assert way.stands == (Status.HANDED_OVER, "", False, (Phase.OPEN, "sms"))


# -- what is not ours, what is too much, what fails --------------------------------------------------------------------


def test_what_names_no_attempt_of_this_channel_changes_nothing() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    before = way.view.events
    come(
        rig, "hook", of(way, "delivered", 2), Receipt(ref="x", status="delivered"),
        Receipt(ref=f"{encode_id(way.id + 1)}.1", status="delivered"), Receipt(ref="!.1", status="failed"),
    )  # fmt: skip
    come(rig, "sms", of(way, "delivered"))
    assert way.view.events == before
    assert way.stands[0] == TAKEN
    assert [what for _, what in rig.watch.receipts] == ["unknown"] * 5


def test_what_is_about_an_address_alone() -> None:
    rig = Rig(config())
    come(rig, "hook", Receipt(learnt="opted_out", address="+15550100"))
    assert rig.watch.addresses == [("hook", "opted_out")]


def test_outcomes_tell_of_addresses_too() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(Outcome("refused", "gone", blame="recipient", learnt="gone", code="404"))
    assert rig.watch.addresses == [("hook", "gone")]
    lines = [event.data for event in way.view.events if event.kind == "attempt_ended"]
    assert lines[0] is not None
    assert (lines[0]["learnt"], lines[0]["code"]) == ("gone", "404")


def test_a_timeline_takes_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINES", 3)
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    come(rig, "hook", *(of(way, "", code=str(n)) for n in range(5)))
    assert way.lines("receipt") == 3
    assert [what for _, what in rig.watch.receipts] == ["other"] * 3 + ["dropped"] * 2


def test_more_than_a_round_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 2)
    rig = Rig(config())
    ways = [Way(rig) for _ in range(5)]
    for way in ways:
        way.ends(REPORTS)
    come(rig, "hook", *(of(way, status) for status in ("accepted", "delivered") for way in ways))
    assert [way.stands[0] for way in ways] == [ARRIVED] * 5


def test_a_call_is_answered_when_its_receipts_are_on_disk() -> None:
    """Seen to fail where it is answered when they are handed to the store."""
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    rig.auto = False

    async def main() -> None:
        call = asyncio.ensure_future(rig.hub.receipts("hook", [of(way, "delivered")]))
        for _ in range(5):
            rig.turns.run(1)
            await asyncio.sleep(0)
        assert rig.store.step()  # the read
        rig.turns.settle()
        await asyncio.sleep(0)
        assert not call.done()
        assert rig.store.pending
        assert rig.store.step()
        await asyncio.sleep(0)
        assert call.done()

    asyncio.run(main())
    rig.auto = True
    assert way.stands[0] == ARRIVED


@pytest.mark.parametrize("before", [0, 1])
def test_a_commit_that_fails_is_told(before: int) -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    count = 0

    def fail(commit: Commit) -> StoreFailed | None:
        nonlocal count
        count += bool(commit)
        return StoreFailed("fdatasync", definite=True) if count == before + 1 and commit else None

    rig.store.fail = fail
    with pytest.raises(Unavailable):
        come(rig, "hook", of(way, "delivered"))
    with pytest.raises(Unavailable):
        come(rig, "hook", of(way, "delivered"))
    rig.store.fail = lambda commit: None
    rig.pass_(1)
    assert way.stands[0] == TAKEN
    report(way, "delivered")
    assert way.stands == (ARRIVED, "hook", True, None)


def test_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    monkeypatch.setattr(module, "SLICE", 1)
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)

    async def both() -> list[object]:
        first = asyncio.ensure_future(
            rig.hub.receipts("hook", [of(way, s) for s in ("accepted", "delivered")])
        )
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as told:
            await rig.hub.receipts("hook", [of(way, "read")])
        while not first.done():
            rig.turns.run(1)
            await asyncio.sleep(0)
        return [told.value.code]

    assert asyncio.run(both()) == ["receipts_waiting"]
    assert way.stands[0] == ARRIVED


def test_a_seq_that_is_unsettled_becomes_a_gap_when_it_arrives() -> None:
    rig = Rig(config())
    way = away(rig)
    way.ends(REPORTS)
    assert way.view.item.hold == Hold.CLAIMED
    report(way, "delivered")
    assert way.stands == (ARRIVED, "hook", True, None)
    assert way.conn is not None
    back = way.conn.again()
    rig.pass_(0.02)
    assert back.kinds == [Kind.GAP]


def test_a_failure_after_two_days_and_more() -> None:
    rig = Rig(config())
    way = Way(rig)
    way.ends(REPORTS)
    rig.turns.time += 72 * HOUR - 1000
    report(way, "failed")
    assert way.stands == (DEAD, "hook", True, None)
