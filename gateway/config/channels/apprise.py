"""Settings of the kind `apprise`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about


class Apprise(Channel, frozen=True, kw_only=True, tag="apprise"):
    """A service that the library Apprise knows. Each attempt holds a thread."""

    service: Annotated[
        str,
        about(
            "Apprise's URL of the service; `{address}` in its path or query is the client's address",
            hide="all",
        ),
    ]
    concurrency: Annotated[
        int, about("attempts open at once, each in a thread of its own", "attempts", ge=1, le=64)
    ] = 4
