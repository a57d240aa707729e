"""What an administrator says about a client, and what the gateway keeps of it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.model import MAX_CHAIN, MAX_TTL, ChannelName

LOCALE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z"
CONSENT = r"^(\*|[a-z][a-z0-9_-]{0,31})/(\*|[a-z][a-z0-9_-]{0,31})\Z"


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]


class QuietHours(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """From one local time to another; past midnight where the second is the earlier one. Never a whole day."""

    start: Annotated[Clock, Meta(description="local time at which they begin, HH:MM")] = msgspec.field(
        name="from"
    )
    end: Annotated[Clock, Meta(description="local time at which they end, HH:MM")] = msgspec.field(name="to")
    days: (
        Annotated[
            list[Day],
            Meta(description="days on which they begin; absent: every day", min_length=1, max_length=7),
        ]
        | None
    ) = None


class ClientRecord(Struct, omit_defaults=True, kw_only=True):
    """What an administrator says about a client (`PUT /v1/clients/{id}`)."""

    offline_deadline: (
        Annotated[float, Meta(ge=0, le=MAX_TTL, description="seconds; overrides the configuration")] | None
    ) = None
    fallback: (
        Annotated[
            list[ChannelName], Meta(max_length=MAX_CHAIN, description="its chain where a message names none")
        ]
        | None
    ) = None
    late: Annotated[
        Literal["drop", "deliver"],
        Meta(description="deliver: what a chain took comes late all the same, with `via`"),
    ] = "drop"
    broker_plain: Annotated[
        bool,
        Meta(description="subscribes `m/{client}` at the broker: what waits for it is published there, once"),
    ] = False
    broker_ack_is_delivery: Annotated[
        bool, Meta(description="the broker's PUBACK of such a message counts as delivered")
    ] = False
    broker_fallback: Annotated[
        Literal["always", "never"],
        Meta(
            description="whether the chain of such a message runs where nothing tells if the device is there"
        ),
    ] = "never"
    contacts: (
        Annotated[
            dict[str, str],
            Meta(
                description="addresses: by kind (`phone`, `email`, `telegram`, …), or by the name of a channel",
                max_length=32,
            ),
        ]
        | None
    ) = None
    locale: (
        Annotated[str, Meta(pattern=LOCALE, max_length=35, description="BCP 47, as in `de-AT`")] | None
    ) = None
    timezone: Annotated[str, Meta(max_length=64, description="IANA, as in `Europe/Berlin`")] | None = None
    prefer: (
        Annotated[
            list[ChannelName],
            Meta(
                max_length=MAX_CHAIN,
                description="channels of a chain that come before its others, in this order",
            ),
        ]
        | None
    ) = None
    consent: (
        Annotated[
            dict[Annotated[str, Meta(pattern=CONSENT, max_length=66)], bool],
            Meta(
                max_length=64,
                description="`channel/category` → yes or no; either may be `*`, the most particular word counts",
            ),
        ]
        | None
    ) = None
    quiet: (
        Annotated[QuietHours, Meta(description="local times in which its channels wait; needs `timezone`")]
        | None
    ) = None
    preferences: (
        Annotated[dict[str, Any], Meta(description="the application's own", max_length=32)] | None
    ) = None


class ClientRow(Struct):
    """A client record with what the gateway adds. `not_before`: Unix s; tokens issued before it are refused."""

    client: str
    record: ClientRecord = msgspec.field(default_factory=ClientRecord)
    not_before: int = 0
    banned_until: int = 0


class Suppression(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address to which nothing goes through a channel (`*`: any) in a category (`*`: any)."""

    address: str
    channel: str = "*"
    category: str = "*"
    why: str = "manual"
    at: int = 0  # Unix ms
    by: str = ""  # who said so: an API key, or the channel whose provider told it

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one of."""
        return self.address, self.channel, self.category


class AuditEntry(Struct, frozen=True):
    """An administrative act. Never changed, never deleted but by age. `data` holds no secret and no body."""

    at: int
    who: str
    act: str
    data: dict[str, Any]
    id: int = 0  # the store's
