"""The shapes of what concerns people: suppressions, the audit log, templates."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.schemas import Limit
from gateway.records import LOCALE
from gateway.templates import TEMPLATE_NAME, Rendered, Variant

TemplateName = Annotated[
    str, Meta(pattern=rf"^{TEMPLATE_NAME}\Z", description="a template's name, at most 64 characters")
]
SuppressedIn = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9_-]{0,31})\Z")]
SuppressedWhy = Literal["opted_out", "complaint", "bounced", "gone", "blocked", "manual"]
# it stands in a URL, too
Address = Annotated[str, Meta(min_length=1, max_length=1024)]


class SuppressionsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = 100
    address: Annotated[Address, Meta(description="those of this one")] | None = None
    after: Annotated[str, Meta(max_length=1200, description="`after` of the page before")] | None = None
    format: Literal["json", "csv"] = "json"


class SuppressionQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    address: Address
    channel: Annotated[SuppressedIn, Meta(description="of this channel only")] | None = None
    category: Annotated[SuppressedIn, Meta(description="of this category only")] | None = None


class SuppressionBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """An address to which nothing goes."""

    address: Address
    channel: Annotated[SuppressedIn, Meta(description="through this channel; `*`: any")] = "*"
    category: Annotated[SuppressedIn, Meta(description="in this category; `*`: any")] = "*"
    why: SuppressedWhy = "manual"


class SuppressionOut(Struct, kw_only=True):
    """An address to which nothing goes. `by`: the API key, or the channel whose provider said so."""

    address: str
    channel: str
    category: str
    why: str
    at: int
    by: str


class SuppressionPage(Struct, omit_defaults=True):
    suppressions: list[SuppressionOut]
    after: Annotated[str, Meta(description="for the next page; absent on the last")] | UnsetType = UNSET


class Written(Struct):
    """How many were written."""

    written: int


class AuditQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Limit = 100
    before: Annotated[int, Meta(ge=1, le=1 << 53, description="`before` of the page before")] = 1 << 53


class AuditOut(Struct):
    """An administrative act."""

    id: int
    at: int
    who: str
    act: str
    data: dict[str, Any]


class AuditPage(Struct, omit_defaults=True):
    entries: list[AuditOut]
    before: Annotated[int, Meta(description="for the next page; absent on the last")] | UnsetType = UNSET


class TemplateQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    version: Annotated[int, Meta(ge=1, description="this one; absent: the newest")] | UnsetType = UNSET


class TemplateBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """A new version of a template. One variant is for every channel and locale."""

    variants: Annotated[list[Variant], Meta(min_length=1, max_length=200)]
    expected: (
        Annotated[
            int, Meta(ge=0, description="write only if the newest version is this one; 0: there is none")
        ]
        | None
    ) = None


class TemplateOut(Struct, omit_defaults=True, kw_only=True):
    """A version of a template."""

    name: TemplateName
    version: int
    versions: Annotated[list[int], Meta(description="those that are kept")]
    variants: list[Variant]
    values: Annotated[list[str], Meta(description="paths of the values that a message must have")]
    at: int
    by: str = ""


class TemplatePage(Struct):
    templates: list[TemplateOut]


class RenderBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Values as a message would bring them."""

    values: Annotated[dict[str, Any], Meta(max_length=256)] = {}
    locale: Annotated[str, Meta(pattern=LOCALE, max_length=35)] | None = None
    version: Annotated[int, Meta(ge=1)] | None = None


class ChannelText(Struct, omit_defaults=True, kw_only=True):
    """What a message says on a channel, and how many SMS its text would take."""

    text: str
    title: str = ""
    html: str = ""
    sms_segments: int
    sms_encoding: Literal["gsm7", "ucs2"]


class RenderOut(Struct, kw_only=True):
    """`live`: what a client that is here gets."""

    name: TemplateName
    version: int
    live: Rendered
    channels: dict[str, ChannelText]
