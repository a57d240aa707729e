"""Literal local times, days and nights on which the clock is changed among them."""

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.contacts import quiet_until, zone
from gateway.records import QuietHours

NIGHT = ("22:00", "07:00")


def at(text: str, offset: str = "") -> int:
    """Unix ms of an RFC 3339 time."""
    return round(datetime.fromisoformat(text + offset).timestamp() * 1000)


def until(hours: tuple[str, str], where: str, now: str, days: list[str] | None = None) -> int:
    quiet = msgspec.convert({"from": hours[0], "to": hours[1], "days": days}, QuietHours)
    return quiet_until(quiet, ZoneInfo(where), at(now))


@pytest.mark.parametrize(
    ("hours", "where", "now", "ends"),
    [
        # through midnight
        (NIGHT, "Europe/Berlin", "2026-11-22T21:59:59+01:00", ""),
        (NIGHT, "Europe/Berlin", "2026-11-22T22:00:00+01:00", "2026-11-23T07:00:00+01:00"),
        (NIGHT, "Europe/Berlin", "2026-11-23T00:00:00+01:00", "2026-11-23T07:00:00+01:00"),
        (NIGHT, "Europe/Berlin", "2026-11-23T06:59:59+01:00", "2026-11-23T07:00:00+01:00"),
        (NIGHT, "Europe/Berlin", "2026-11-23T07:00:00+01:00", ""),
        # the same instant elsewhere
        (NIGHT, "America/New_York", "2026-11-23T03:30:00+00:00", "2026-11-23T07:00:00-05:00"),
        (NIGHT, "Asia/Kolkata", "2026-11-23T03:30:00+00:00", ""),
        (NIGHT, "Asia/Kathmandu", "2026-11-22T16:15:00+00:00", "2026-11-23T01:15:00+00:00"),
        # by day
        (("12:00", "14:00"), "UTC", "2026-11-22T12:00:00+00:00", "2026-11-22T14:00:00+00:00"),
        (("12:00", "14:00"), "UTC", "2026-11-22T11:59:59+00:00", ""),
        (("00:00", "23:59"), "UTC", "2026-11-22T00:00:00+00:00", "2026-11-22T23:59:00+00:00"),
        # Berlin, 2026-03-29: 02:00 becomes 03:00. The night is an hour shorter
        (NIGHT, "Europe/Berlin", "2026-03-28T23:00:00+01:00", "2026-03-29T07:00:00+02:00"),
        # an end that does not exist is as long after 02:00 as it says
        (("22:00", "02:30"), "Europe/Berlin", "2026-03-29T01:59:00+01:00", "2026-03-29T03:30:00+02:00"),
        # a start that does not exist is where the clock is put forward
        (("02:30", "06:00"), "Europe/Berlin", "2026-03-29T01:59:58+01:00", ""),
        (("02:30", "06:00"), "Europe/Berlin", "2026-03-29T03:00:01+02:00", "2026-03-29T06:00:00+02:00"),
        (("02:15", "03:10"), "Europe/Berlin", "2026-03-29T03:05:00+02:00", "2026-03-29T03:10:00+02:00"),
        # Berlin, 2026-10-25: 03:00 becomes 02:00. 02:30 comes twice: the start is the first, the end the second
        (("02:30", "06:00"), "Europe/Berlin", "2026-10-25T02:30:00+02:00", "2026-10-25T06:00:00+01:00"),
        (("22:00", "02:30"), "Europe/Berlin", "2026-10-25T02:45:00+02:00", "2026-10-25T02:30:00+01:00"),
        (("22:00", "02:30"), "Europe/Berlin", "2026-10-25T02:29:59+01:00", "2026-10-25T02:30:00+01:00"),
        (("22:00", "02:30"), "Europe/Berlin", "2026-10-25T02:30:00+01:00", ""),
        # New York, 2026-11-01, and Lord Howe's half hour on 2026-04-05
        (NIGHT, "America/New_York", "2026-11-01T01:30:00-05:00", "2026-11-01T07:00:00-05:00"),
        (("22:00", "01:45"), "Australia/Lord_Howe", "2026-04-05T01:50:00+11:00", "2026-04-05T01:45:00+10:30"),
    ],
)
def test_until_when(hours: tuple[str, str], where: str, now: str, ends: str) -> None:
    assert until(hours, where, now) == (at(ends) if ends else 0)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-11-20T23:00:00+00:00", "2026-11-21T07:00:00+00:00"),  # a Friday evening
        ("2026-11-21T06:00:00+00:00", "2026-11-21T07:00:00+00:00"),  # its night goes on
        ("2026-11-21T23:00:00+00:00", ""),  # Saturday has none
        ("2026-11-22T06:00:00+00:00", ""),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(now: str, ends: str) -> None:
    assert until(NIGHT, "UTC", now, ["mon", "fri"]) == (at(ends) if ends else 0)


@pytest.mark.parametrize(
    "text", ['{"from":"24:00","to":"07:00"}', '{"from":"7:00","to":"08:00"}', '{"from":"07:00"}']
)
def test_what_is_no_clock_time_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=QuietHours)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../../etc/passwd", "x" * 300, "\x00"])
def test_an_unknown_zone_is_none(name: str) -> None:
    assert zone(name) is None


def test_a_known_zone() -> None:
    assert zone("Europe/Berlin") is not None
