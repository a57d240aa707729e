"""The person behind a client: what her record allows a channel to send, and when (`PUT /v1/clients/{id}`).

It holds for channels that reach people: those that need an address. A webhook or a pager is a machine's.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.config import Config
from gateway.contacts import allowed, category_of, normal, quiet_until, zone
from gateway.contacts.consent import GENERAL
from gateway.errors import Invalid
from gateway.hub.core import Core
from gateway.hub.suppressions import concerning
from gateway.model import Item
from gateway.records import ClientRecord, Suppression


class Gate(Struct, frozen=True):
    """Whether an attempt may be made. `until`: Unix ms before which it must wait; 0: at once. `why` names the word that
    decided, for the timeline.
    """

    open: bool = True
    until: int = 0
    why: str = ""


OPEN = Gate()


class Person:
    def __init__(self, core: Core) -> None:
        config = core.config
        self._core = core
        self._channels = config.channels
        self._categories = config.categories
        self._types = {name: category.types for name, category in config.categories.items()}

    def category(self, item: Item) -> str:
        """The category of a message."""
        return category_of(item.x.type if item.x is not None else None, self._types)

    def gate(
        self, item: Item, channel: str, now: int, suppressed: Mapping[str, Sequence[Suppression]]
    ) -> Gate:
        """Whether this message may go to its client through this channel now. `suppressed`: by address, where there is
        any.
        """
        settings = self._channels[channel]
        if not settings.CONTACT:
            return OPEN
        name = self.category(item)
        word = concerning(suppressed.get(self._core.address_of(item.client, channel), ()), channel, name)
        if word is not None:
            return Gate(open=False, why=f"suppressed: {word.why}")
        row = self._core.clients.get(item.client)
        record = row.record if row is not None else None
        category = self._categories.get(name)
        said = record.consent if record is not None and record.consent is not None else {}
        yes, why = allowed(said, channel, name, opt_in=category is not None and category.opt_in)
        if not yes:
            return Gate(open=False, why=why)
        if record is None or record.quiet is None or (category is not None and category.always):
            return OPEN
        where = zone(record.timezone or "UTC")
        until = quiet_until(record.quiet, where, now) if where is not None else 0
        return Gate(until=until, why=f"quiet hours ({record.timezone})") if until else OPEN


def checked(record: ClientRecord, config: Config) -> ClientRecord:
    """The record as it is kept: its addresses in their normal form. Raises Invalid, which names the field."""
    channels = config.channels
    for field, names in (("fallback", record.fallback), ("prefer", record.prefer)):
        for i, name in enumerate(names or ()):
            if name not in channels:
                raise Invalid(f"no channel {name}", code="channel_unknown", field=f"$.{field}[{i}]")
    for key in record.consent or ():
        channel, _, category = key.partition("/")
        if channel not in channels and channel != "*":
            raise Invalid(f"no channel {channel}", code="channel_unknown", field=f"$.consent.{key}")
        if category not in config.categories and category not in {"*", GENERAL}:
            raise Invalid(f"no category {category}", code="category_unknown", field=f"$.consent.{key}")
    if record.timezone is not None and zone(record.timezone) is None:
        raise Invalid("no time zone of this name", code="timezone_unknown", field="$.timezone")
    if record.quiet is not None:
        if record.timezone is None:
            raise Invalid("quiet hours need a time zone", code="timezone_unknown", field="$.timezone")
        if record.quiet.start == record.quiet.end:
            raise Invalid("quiet hours that have no end", code="invalid", field="$.quiet.to")
    if record.contacts is None:
        return record
    # a channel may have given the address of its kind another name
    named = {settings.contact: settings.CONTACT for settings in channels.values() if settings.contact}
    contacts: dict[str, str] = {}
    for name, text in record.contacts.items():
        kind = channels[name].CONTACT if name in channels else named.get(name, name)
        contacts[name] = normal(kind, text, f"$.contacts.{name}")
    return replace(record, contacts=contacts)
