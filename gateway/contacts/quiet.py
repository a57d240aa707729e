"""Quiet hours: local times of a day, in which nothing goes to a person but what is exempt.

A day on which the clock is changed has hours that come twice or not at all. Quiet hours are then never shorter than
they say: of two, the start is the earlier and the end the later; what falls into a gap begins with it, or ends
after it.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.records import DAYS, QuietHours


@lru_cache(1024)
def zone(name: str) -> ZoneInfo | None:
    """The time zone of this name (IANA, as in Europe/Berlin), or None where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def quiet_until(quiet: QuietHours, where: ZoneInfo, now: int) -> int:
    """When the quiet hours end that hold at `now`, in Unix ms; 0 where none do.

    A window that begins before midnight belongs to the day on which it began.
    """
    start, end = _time(quiet.start), _time(quiet.end)
    today = datetime.fromtimestamp(now / 1000, where).date()
    # the clock can be put forward or back across midnight: tomorrow's may have begun
    for day in (today - timedelta(1), today, today + timedelta(1)):
        if quiet.days is not None and DAYS[day.weekday()] not in quiet.days:
            continue
        begins = _instant(day, start, where, fold=0)
        ends = _instant(day if end > start else day + timedelta(1), end, where, fold=1)
        if begins <= now < ends:
            return ends
    return 0


def _time(text: str) -> time:
    return time(int(text[:2]), int(text[3:]))


def _instant(day: date, at: time, where: ZoneInfo, fold: int) -> int:
    """Unix ms of a local time: of two the one that `fold` names. What falls into a gap begins with it (fold 0), or ends
    as long after it as the clock says.
    """
    local = datetime.combine(day, at, where)
    first, second = (local.replace(fold=f).astimezone(UTC) for f in (0, 1))
    if first > second:
        return _ms(first if fold else _change(second, first, where))
    return _ms(second if fold else first)


def _change(low: datetime, high: datetime, where: ZoneInfo) -> datetime:
    """When the clock is changed between these two, to the second."""
    before = low.astimezone(where).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        if middle.astimezone(where).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
