"""Settings of the kind `discord`."""

from typing import Annotated

from gateway.config.channels.base import Channel
from gateway.config.table import about
from gateway.templates.syntax import Markup


class Discord(Channel, frozen=True, kw_only=True, tag="discord"):
    """A webhook of Discord."""

    url: Annotated[
        str,
        about("the webhook's URL, as Discord shows it: who has it can post", hide="all", max_length=2048),
    ]
    thread: Annotated[
        str,
        about("id of the thread to post in; empty: the webhook's channel", pattern=r"^([0-9]{1,20})?\Z"),
    ] = ""
    # the next one has to know what the last answer has left (X-RateLimit-Remaining)
    concurrency: Annotated[int, about("attempts open at once", "attempts", ge=1, le=1000)] = 1

    @property
    def markup(self) -> Markup:
        """See Channel."""
        return "markdown"
