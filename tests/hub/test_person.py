"""What a client's record allows, with literal times."""

from datetime import datetime
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import msgspec
import pytest

from gateway.config import Category, Channel, Config, Webhook
from gateway.errors import Invalid
from gateway.hub.person import OPEN, Gate, Person, checked
from gateway.model import Extra, Item
from gateway.records import ClientRecord, ClientRow, Suppression
from tests.hub.rig import Rig


class Sms(Channel, frozen=True, kw_only=True, tag="sms"):
    CONTACT: ClassVar[str] = "phone"


CONFIG = Config(
    channels={"sms": Sms(), "hook": Webhook(url="https://hook.example", secret="whsec_" + "QUJD" * 8)},
    categories={
        "security": Category(types=("otp", "login.*"), always=True),
        "marketing": Category(types=("promo.*",), opt_in=True),
    },
)


def gate_of(
    fields: dict[str, Any] | None, kind: str | None, channel: str, now: int, *suppressed: Suppression
) -> Gate:
    core = SimpleNamespace(config=CONFIG, clients={}, address_of=lambda client, channel: "+4915112345678")
    if fields is not None:
        core.clients["ada"] = ClientRow("ada", record(**fields))
    return Person(cast("Any", core)).gate(message(kind), channel, now, {"+4915112345678": suppressed})


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


NIGHT = at("2026-11-22T23:00:00+01:00")
MORNING = at("2026-11-23T07:00:00+01:00")
NOON = at("2026-11-22T12:00:00+01:00")


def message(kind: str | None) -> Item:
    return Item(1, "ada", "bot", 2, 0, 1, b"1", Extra(type=kind) if kind else None)


def record(**fields: Any) -> ClientRecord:
    return msgspec.convert(fields, ClientRecord)


QUIET = {"quiet": {"from": "22:00", "to": "07:00"}, "timezone": "Europe/Berlin"}
HELD = Gate(until=MORNING, why="quiet hours (Europe/Berlin)")


@pytest.mark.parametrize(
    ("fields", "kind", "channel", "now", "gate"),
    [
        ({}, None, "sms", NIGHT, OPEN),
        ({}, "promo.x", "sms", NOON, Gate(open=False, why="no consent to marketing")),
        ({"consent": {"*/marketing": True}}, "promo.x", "sms", NOON, OPEN),
        ({"consent": {"sms/*": False}}, "otp", "sms", NOON, Gate(open=False, why="sms/*: no")),
        ({"consent": {"sms/general": False}}, None, "sms", NOON, Gate(open=False, why="sms/general: no")),
        ({"consent": {"sms/general": False}}, "otp", "sms", NOON, OPEN),
        (QUIET, None, "sms", NOON, OPEN),
        (QUIET, None, "sms", NIGHT, HELD),
        (QUIET, "order", "sms", NIGHT, HELD),
        (QUIET, "login.new", "sms", NIGHT, OPEN),
        (QUIET | {"consent": {"*/*": False}}, None, "sms", NIGHT, Gate(open=False, why="*/*: no")),
        # no person is behind a channel without an address
        (QUIET | {"consent": {"*/*": False}}, "promo.x", "hook", NIGHT, OPEN),
    ],
)
def test_the_gate(fields: dict[str, Any], kind: str | None, channel: str, now: int, gate: Gate) -> None:
    assert gate_of(fields, kind, channel, now) == gate


def test_of_a_client_without_a_record_nothing_was_said() -> None:
    assert gate_of(None, "order", "sms", NIGHT) == OPEN
    assert not gate_of(None, "promo.x", "sms", NIGHT).open


@pytest.mark.parametrize(
    ("suppression", "kind", "channel", "why"),
    [
        ({"why": "opted_out"}, None, "sms", "suppressed: opted_out"),
        ({"channel": "sms", "why": "gone"}, "otp", "sms", "suppressed: gone"),
        ({"channel": "mail"}, None, "sms", ""),
        ({"category": "marketing"}, "promo.x", "sms", "suppressed: manual"),
        ({"category": "marketing"}, "otp", "sms", ""),
        ({}, None, "hook", ""),
    ],
)
def test_a_suppressed_address(suppression: dict[str, str], kind: str | None, channel: str, why: str) -> None:
    row = Suppression(address="+4915112345678", **suppression)
    gate = gate_of({"consent": {"*/*": True}}, kind, channel, NOON, row)
    assert (gate.open, gate.why) == (not why, why)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"fallback": ["sms", "fax"]}, "channel_unknown", "$.fallback[1]"),
        ({"prefer": ["fax"]}, "channel_unknown", "$.prefer[0]"),
        ({"consent": {"smss/marketing": False}}, "channel_unknown", "$.consent.smss/marketing"),
        ({"consent": {"sms/marketting": False}}, "category_unknown", "$.consent.sms/marketting"),
        ({"timezone": "Europe/Nowhere"}, "timezone_unknown", "$.timezone"),
        ({"quiet": {"from": "22:00", "to": "07:00"}}, "timezone_unknown", "$.timezone"),
        (QUIET | {"quiet": {"from": "07:00", "to": "07:00"}}, "invalid", "$.quiet.to"),
        ({"contacts": {"phone": "0151 1234"}}, "address_invalid", "$.contacts.phone"),
        ({"contacts": {"sms": "0151 1234"}}, "address_invalid", "$.contacts.sms"),
        ({"contacts": {"email": "ada"}}, "address_invalid", "$.contacts.email"),
    ],
)
def test_a_record_that_cannot_be_is_refused(fields: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(Invalid) as wrong:
        checked(record(**fields), CONFIG)
    assert (wrong.value.code, wrong.value.field) == (code, field)


def test_addresses_are_kept_in_one_form() -> None:
    kept = checked(
        record(contacts={"sms": "+49 1511 2345678", "email": "Ada@Example.org", "telegram": "42"}),
        CONFIG,
    )
    assert kept.contacts == {"sms": "+4915112345678", "email": "Ada@example.org", "telegram": "42"}


def test_what_a_client_prefers_comes_first() -> None:
    channels = dict.fromkeys("abc", CONFIG.channels["hook"])
    rig = Rig(Config(channels=channels))
    rig.run(rig.hub.put_client("ada", record(prefer=["c", "b"])))
    item = message(None)
    item.x = Extra(fallback=["a", "b", "c"])
    assert rig.hub.core.chain_of(item) == ["c", "b", "a"]
    item.x = Extra(fallback=["a", "b"])
    assert rig.hub.core.chain_of(item) == ["b", "a"]
