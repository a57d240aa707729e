"""Settings of the kind `webhook`."""

from typing import Annotated, ClassVar, Literal

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Webhook(Channel, frozen=True, kw_only=True, tag="webhook"):
    """A Standard Webhooks receiver."""

    PROVES: ClassVar[Literal["accepted", "delivered"]] = "delivered"

    url: Annotated[str, about("where to POST; http or https", hide="query", max_length=2048)]
    secret: Annotated[
        str | tuple[str, ...],
        about("`whsec_` and base64 of 24 to 64 bytes; a list while it is rotated, each signs", hide="all"),
    ]
